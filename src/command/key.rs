//! `kith key`: API keys.

use super::{Failure, print};
use crate::auth::{ApiKey, Scope};
use crate::config::{Key, KeyCommand};

/// Creates an API key. The secret is on the first line, and nowhere else.
pub(super) fn run(args: Key) -> Result<(), Failure> {
    let KeyCommand::New(args) = args.command;
    let scopes: Vec<Scope> = args.scopes.iter().filter_map(|name| Scope::from_name(name)).collect();
    let key = ApiKey::random()?;
    let entry = key.entry(&args.name, &scopes).map_err(|error| format!("{:?}: {error}", args.name))?;
    print(&format!("{}\n\n# For the file of --principals:\n{entry}", key.expose()))
}
