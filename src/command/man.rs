//! `kith man`: prints a manual page.

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Failure, print};
use crate::config::{self, Cli};

pub(super) fn run(args: &config::Man) -> Result<(), Failure> {
    let mut command = Cli::command();
    // Gives the subcommands their full names, such as kith-serve.
    command.build();
    let command = match &args.subcommand {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            found.ok_or_else(|| format!("kith has no subcommand {name:?}; `kith --help` prints all of them"))?
        }
    };
    let mut page = Vec::new();
    Man::new(command).source(concat!("kith ", env!("CARGO_PKG_VERSION"))).manual("Kith").render(&mut page)?;
    print(&String::from_utf8(page)?)
}
