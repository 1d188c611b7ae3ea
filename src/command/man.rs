//! `kith man`: prints a manual page.

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Failure, print};
use crate::config::{self, Cli};

pub(super) fn run(args: &config::Man) -> Result<(), Failure> {
    let mut command = Cli::command();
    // Gives the subcommands their full names, such as kith-serve.
    command.build();
    let mut found = &command;
    for name in &args.subcommand {
        found = found.find_subcommand(name).ok_or_else(|| {
            let within = found.get_bin_name().unwrap_or_default();
            format!("{within} has no subcommand {name:?}; `{within} --help` prints all of them")
        })?;
    }
    let mut page = Vec::new();
    Man::new(found.clone()).source(concat!("kith ", env!("CARGO_PKG_VERSION"))).manual("Kith").render(&mut page)?;
    print(&String::from_utf8(page)?)
}
