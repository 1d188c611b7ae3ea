//! Settings of who may call.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// Settings of who may call. Without any, everybody may do everything.
#[derive(Clone, Debug, Args)]
pub struct AccessArgs {
    /// Keys that verify the tokens of callers: a JSON Web Key Set, in a file or at an https URL; a file is read again when
    /// it changes and at SIGHUP, a URL every 5 minutes and for a token with an unknown key
    #[arg(long, help_heading = "Access", env = "KITH_JWT_KEYS", value_name = "PATH or URL", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_keys: Option<String>,
    /// Issuer that tokens must have (iss)
    #[arg(long, help_heading = "Access", env = "KITH_JWT_ISSUER", value_name = "ISSUER", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_issuer: Option<String>,
    /// Audience that tokens must have (aud); of several, separated by commas, one
    #[arg(long, help_heading = "Access", env = "KITH_JWT_AUDIENCE", value_name = "AUDIENCES", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub jwt_audience: Vec<String>,
    /// File with services, their API keys and the names in their certificates, in TOML; it is read again when it changes,
    /// and at SIGHUP
    #[arg(long, help_heading = "Access", env = "KITH_PRINCIPALS", value_name = "PATH")]
    pub principals: Option<PathBuf>,
    /// Let everybody who reaches the server do everything, although other machines can; without it, such an address needs
    /// --jwt-keys or --principals
    #[arg(long, help_heading = "Access", env = "KITH_INSECURE_ALLOW_ANONYMOUS", value_name = "BOOL", default_value_t = false, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub insecure_allow_anonymous: bool,
}
