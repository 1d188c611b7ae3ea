//! Connecting to PostgreSQL: the URL, and the encryption that `sslmode` selects.
//!
//! The modes are libpq's (PostgreSQL manual, chapter "SSL Support"), less `allow` and `verify-ca`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use rustls::ClientConfig;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{any_certificate, verified};

/// A PostgreSQL database and how to connect to it.
#[derive(Clone)]
pub(in crate::store) struct PostgresConfig {
    config: tokio_postgres::Config,
    tls: Option<Arc<ClientConfig>>,
}

/// Time without an acknowledgement after which a connection counts as lost, unless the URL sets another. A firewall may
/// drop a connection without notice, and the operating system's own limits are hours.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) type Cause = Box<dyn Error + Send + Sync>;

impl PostgresConfig {
    /// Parses a `postgres://` URL. `sslmode` is `disable`, `prefer` (the default), `require` or `verify-full`;
    /// `sslrootcert` names a file of certificates to trust instead of the system's.
    pub(in crate::store) fn parse(url: &str) -> Result<Self, Cause> {
        let (rest, mode, roots) = take_tls_parameters(url)?;
        let mut config: tokio_postgres::Config = rest.parse().map_err(|error| reason(error, url))?;
        config.application_name("kith");
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        if config.get_keepalives_idle() == tokio_postgres::Config::new().get_keepalives_idle() {
            config.keepalives_idle(SILENCE).keepalives_interval(SILENCE / 6).keepalives_retries(6);
        }
        let (ssl_mode, tls) = match mode.as_deref() {
            Some("disable") => (SslMode::Disable, None),
            None | Some("prefer") => (SslMode::Prefer, Some(any_certificate()?)),
            Some("require") => (SslMode::Require, Some(any_certificate()?)),
            Some("verify-full") => (SslMode::Require, Some(verified(roots.as_deref())?)),
            Some(other) => {
                return Err(format!("sslmode is {other:?}; it can be disable, prefer, require or verify-full").into());
            }
        };
        config.ssl_mode(ssl_mode);
        Ok(Self { config, tls: tls.map(Arc::new) })
    }

    /// Opens a connection for several users at the same time, each of whom can see whether it is closed.
    pub(in crate::store) async fn connect_shared(&self) -> Result<SharedConnection, Cause> {
        let Some(tls) = &self.tls else {
            let (client, connection) = self.config.connect(NoTls).await?;
            return share(client, connection).await;
        };
        let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
        let (client, connection) = self.config.connect(tls).await?;
        share(client, connection).await
    }

    pub(in crate::store) async fn connect(&self) -> Result<AsyncPgConnection, Cause> {
        let Some(tls) = &self.tls else {
            let (client, connection) = self.config.connect(NoTls).await?;
            return Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?);
        };
        let tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
        let (client, connection) = self.config.connect(tls).await?;
        Ok(AsyncPgConnection::try_from_client_and_connection(client, connection).await?)
    }
}

/// A connection with several users at the same time.
pub(in crate::store) struct SharedConnection {
    pub(in crate::store) conn: AsyncPgConnection,
    /// Sends and receives its messages. Ends with the connection.
    driver: JoinHandle<()>,
}

impl SharedConnection {
    /// Whether the database or the network closed it.
    pub(in crate::store) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

async fn share<S>(client: Client, connection: Connection<Socket, S>) -> Result<SharedConnection, Cause>
where
    S: TlsStream + Unpin + Send + 'static,
{
    // Its error is returned to each pending query.
    let driver = tokio::spawn(async move { _ = connection.await });
    Ok(SharedConnection { conn: AsyncPgConnection::try_from(client).await?, driver })
}

/// Takes `sslmode` and `sslrootcert` out of the URL: the driver knows neither `verify-full` nor root files.
fn take_tls_parameters(url: &str) -> Result<(String, Option<String>, Option<PathBuf>), Cause> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut roots, mut others) = (None, None, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value.to_owned()),
            Some(("sslrootcert", value)) => roots = Some(PathBuf::from(value)),
            Some(_) => others.push(parameter),
            // Not named in the error: it could be the rest of a password that contains a question mark.
            None => return Err("a parameter after the question mark has no value".into()),
        }
    }
    let rest = if others.is_empty() { base.to_owned() } else { format!("{base}?{}", others.join("&")) };
    Ok((rest, mode, roots))
}

/// Returns the reason why the driver refuses a URL, such as an unknown parameter. The driver's own message lacks it.
fn reason(error: tokio_postgres::Error, url: &str) -> Cause {
    // With an `@` after the question mark, both are probably part of a password, and so is the parameter's name.
    let has_question_mark_in_password = url.split_once('?').is_some_and(|(_, query)| query.contains('@'));
    let message = error.to_string();
    error.into_source().filter(|_| !has_question_mark_in_password).unwrap_or_else(|| message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_taken_out_of_the_url() {
        let (rest, mode, roots) =
            take_tls_parameters("postgres://h/d?sslmode=verify-full&host=/tmp&sslrootcert=/ca.pem").expect("valid");
        assert_eq!(rest, "postgres://h/d?host=/tmp");
        assert_eq!(mode.as_deref(), Some("verify-full"));
        assert_eq!(roots, Some(PathBuf::from("/ca.pem")));
    }

    #[test]
    fn an_unknown_mode_is_refused() {
        let error = PostgresConfig::parse("postgres://h/d?sslmode=verify-ca").err().expect("refused");
        assert!(error.to_string().contains("verify-ca"), "{error}");
    }

    #[test]
    fn an_error_names_the_parameter_but_no_part_of_a_password() {
        for (url, expected) in [
            ("postgres://h/d?colour=1", "unknown option `colour`"),
            ("postgres://h/d?connect_timeout=soon", "invalid value for option `connect_timeout`"),
            ("postgres://h:port/d", "invalid value for option `port`"),
            ("postgres://kith:hunter@2?canary=1@h/d", "invalid connection string"),
        ] {
            let error = PostgresConfig::parse(url).err().expect("refused");
            assert_eq!(error.to_string(), expected, "{url}");
        }
    }
}
