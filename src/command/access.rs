//! Reads the credentials that callers may have.

use super::Failure;
use crate::auth::{Authenticator, CredentialSettings, Jwt, KeySource};
use crate::config::{AccessArgs, Sources};
use crate::follow::NamedFile;
use crate::metrics::Metrics;
use crate::server::listener::Listener;
use crate::tls::system_authorities;

/// Starts to authenticate callers, if a setting says how.
pub(super) async fn start(args: &AccessArgs, sources: &Sources, metrics: &Metrics) -> Result<Authenticator, Failure> {
    let AccessArgs { jwt_keys: _, jwt_issuer: _, jwt_audience: _, principals, insecure_allow_anonymous: _ } = args;
    let principals = principals.clone().map(|path| NamedFile { setting: sources.name("principals"), path });
    let authenticator = Authenticator::start(CredentialSettings { jwt: jwt(args, sources)?, principals }, metrics)?;
    authenticator.ready().await?;
    Ok(authenticator)
}

/// Refuses to let in everybody from other machines, unless a setting says so. Says once what is not protected.
pub(super) fn check(
    authenticator: &Authenticator,
    args: &AccessArgs,
    listener: &Listener,
    has_tls: bool,
) -> Result<(), Failure> {
    let (is_anonymous, is_local, address) =
        (authenticator.is_anonymous(), listener.is_local(), listener.local_address()?);
    if is_anonymous && !is_local && !args.insecure_allow_anonymous {
        return Err(format!(
            "other machines can reach {address}, and nothing says who may call: set --principals or --jwt-keys, or listen \
             on 127.0.0.1, or let everybody do everything by --insecure-allow-anonymous"
        )
        .into());
    }
    if is_anonymous {
        tracing::warn!(address, "no authentication: everybody who reaches this address may do everything");
    } else if !is_local && !has_tls {
        tracing::warn!(
            address,
            "no TLS: credentials can be read on the network, unless a proxy in front of Kith has it"
        );
    }
    Ok(())
}

/// Returns which tokens are accepted.
///
/// clap cannot demand the settings together: it does not count those of a configuration file.
fn jwt(args: &AccessArgs, sources: &Sources) -> Result<Option<Jwt>, String> {
    let AccessArgs { jwt_keys, jwt_issuer, jwt_audience, principals: _, insecure_allow_anonymous: _ } = args;
    let needs_keys = |setting: &str| Err(format!("{}: needs --jwt-keys too", sources.name(setting)));
    match (jwt_keys, jwt_issuer, &jwt_audience[..]) {
        (None, None, []) => Ok(None),
        (None, Some(_), _) => needs_keys("jwt-issuer"),
        (None, None, _) => needs_keys("jwt-audience"),
        (Some(keys), Some(issuer), [_, ..]) => {
            let keys = source(keys, sources.name("jwt-keys"))?;
            Ok(Some(Jwt { keys, issuer: issuer.clone(), audiences: jwt_audience.clone() }))
        }
        (Some(keys), issuer, _) => {
            let missing = if issuer.is_none() { "--jwt-issuer" } else { "--jwt-audience" };
            Err(format!("{} {keys}: needs {missing} too", sources.name("jwt-keys")))
        }
    }
}

/// Returns where the keys are.
fn source(keys: &str, setting: String) -> Result<KeySource, String> {
    match keys.split_once("://") {
        Some(("https", _)) => Ok(KeySource::Url { setting, url: keys.to_owned(), authorities: system_authorities() }),
        Some(_) => Err(format!("{setting} {keys}: must be a file or an https:// URL")),
        None => Ok(KeySource::File(NamedFile { setting, path: keys.into() })),
    }
}
