//! `kith completion`: prints a script for a shell.

use clap::CommandFactory;

use super::{Failure, print};
use crate::config::{Cli, Completion};

pub(super) fn run(args: &Completion) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kith", &mut script);
    print(&String::from_utf8(script)?)
}
