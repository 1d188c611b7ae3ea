//! Opening connections to PostgreSQL, as the URL says.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel_async::AsyncPgConnection;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::attributes::check;
use super::kind;
use super::passfile::PasswordFile;
use super::primary::{Admitted, Primary};
use super::tls;
use super::url::{ChannelBinding, HostPort, PostgresUrl, SessionAttributes, SslMode};
use crate::causes::with_causes;
use crate::domain::epoch::Lineage;
use crate::store::StoreError;

/// A PostgreSQL database and how to connect to it.
#[derive(Clone)]
pub(in crate::store) struct PostgresConfig {
    url: PostgresUrl,
    /// The driver's settings for each host.
    hosts: Vec<tokio_postgres::Config>,
    tls: Option<Arc<ClientConfig>>,
    /// The host of the last connection. It is tried first, so that a host that is down delays only one connection.
    last: Arc<AtomicUsize>,
    /// What is known of the primary, for a store that writes. `None` if connections may lead to any server.
    primary: Option<Arc<Primary>>,
}

/// Time without an acknowledgement after which a connection counts as lost, unless the URL sets another. A firewall may
/// drop a connection without notice, and the operating system's own limits are hours.
const SILENCE: Duration = Duration::from_secs(30);
/// The time that one host has for a connection, unless the URL sets another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the host that was tried last has for itself before the next one is tried too. A host that is silent thus holds
/// up nobody, and one that answers within this time is preferred. (RFC 8305, "Connection Attempt Delay".)
const HEAD_START: Duration = Duration::from_millis(250);
/// The name of this program's connections in PostgreSQL, unless the URL sets another.
const APPLICATION_NAME: &str = "kith";

pub(super) type Cause = Box<dyn Error + Send + Sync>;

impl PostgresConfig {
    /// Parses a `postgres://` URL. The error contains no part of the user or the password.
    pub(in crate::store) fn parse(url: &str) -> Result<Self, Cause> {
        let url = PostgresUrl::parse(url)?;
        let hosts = url.hosts.iter().map(|host| driver_settings(&url, host)).collect();
        let roots = url.ssl_root_cert.as_deref().filter(|_| !url.trusts_system());
        let tls = match url.ssl_mode {
            SslMode::Disable => None,
            SslMode::Prefer | SslMode::Require => Some(tls::any_certificate()?),
            SslMode::VerifyCa => Some(tls::verified_chain(roots)?),
            SslMode::VerifyFull => Some(tls::verified(roots)?),
        };
        Ok(Self { url, hosts, tls: tls.map(Arc::new), last: Arc::default(), primary: None })
    }

    /// Lets connections lead to the primary only, of all timelines that were seen.
    pub(super) fn of_primary(mut self) -> Self {
        self.primary = Some(Arc::new(Primary::new(self.hosts.len())));
        self
    }

    /// What is known of the primary, if connections have to lead to it.
    pub(super) fn primary(&self) -> Option<&Primary> {
        self.primary.as_deref()
    }

    /// Returns an error while it is known that no primary can be reached.
    pub(super) async fn ready(&self) -> Result<(), StoreError> {
        match self.primary() {
            Some(primary) => primary.ready().await,
            None => Ok(()),
        }
    }

    /// The number of hosts.
    pub(super) fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Makes a host the first one that is tried.
    pub(super) fn prefer(&self, index: usize) {
        self.last.store(index, Ordering::Relaxed);
    }

    /// Whether it has a password.
    pub(in crate::store) fn has_password(&self) -> bool {
        self.url.password.is_some()
    }

    /// Sets the password for all hosts.
    pub(in crate::store) fn set_password(&mut self, password: &str) {
        self.hosts.iter_mut().for_each(|host| _ = host.password(password));
    }

    /// The file of passwords that the URL names.
    pub(in crate::store) fn password_file(&self) -> Option<&Path> {
        self.url.password_file.as_deref()
    }

    /// Sets the password of each host that has one in the file.
    pub(in crate::store) fn set_passwords(&mut self, file: &PasswordFile) {
        let user = self.url.user.clone().or_else(|| whoami::username().ok()).unwrap_or_default();
        let database = self.url.database.as_deref().unwrap_or(&user);
        for (driver, host) in self.hosts.iter_mut().zip(&self.url.hosts) {
            if let Some(password) = file.find(&host.name, host.port, database, &user) {
                driver.password(password);
            }
        }
    }

    /// Formats hosts and database, without secrets.
    pub(in crate::store) fn shown(&self) -> String {
        let hosts: Vec<_> = self.url.hosts.iter().map(ToString::to_string).collect();
        let database = self.url.database.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        format!("postgres://{}{database}", hosts.join(","))
    }

    /// Returns each host as a database of its own, with its name.
    pub(in crate::store) fn each_host(&self) -> Vec<(String, Self)> {
        let alone = |(host, driver): (&HostPort, &tokio_postgres::Config)| {
            let url = PostgresUrl { hosts: vec![host.clone()], ..self.url.clone() };
            let hosts = vec![driver.clone()];
            let alone = Self { url, hosts, tls: self.tls.clone(), last: Arc::default(), primary: None };
            (host.to_string(), alone)
        };
        self.url.hosts.iter().zip(&self.hosts).map(alone).collect()
    }

    /// Opens a connection.
    pub(in crate::store) async fn connect(&self) -> Result<AsyncPgConnection, Cause> {
        self.open().await
    }

    /// Opens a connection for several users at the same time, each of whom can see whether it is closed.
    pub(super) async fn connect_shared(&self) -> Result<SharedConnection, Cause> {
        self.open().await
    }

    /// Opens a connection to the primary, and reads its lineage. For a command, which follows no primary.
    pub(super) async fn connect_primary(&self) -> Result<SharedConnection, Cause> {
        self.clone().of_primary().open_any().await
    }

    /// Opens a connection of the driver itself. It ends when the client is dropped.
    pub(super) async fn connect_plain(&self) -> Result<Client, Cause> {
        self.open().await
    }

    /// Opens a connection to one host, whatever it is.
    pub(super) async fn look_at(&self, index: usize) -> Result<Client, Cause> {
        self.open_at(index, SessionAttributes::Any, None).await
    }

    /// Opens a connection to a host that is what the URL asks for.
    async fn open<O: Opened>(&self) -> Result<O, Cause> {
        let opened = self.open_any().await;
        if let (Some(primary), Err(cause)) = (self.primary(), &opened) {
            primary.failed(cause);
        }
        opened
    }

    async fn open_any<O: Opened>(&self) -> Result<O, Cause> {
        let passes = match self.url.session {
            SessionAttributes::PreferStandby => &[SessionAttributes::Standby, SessionAttributes::Any][..],
            session @ (SessionAttributes::Any
            | SessionAttributes::ReadWrite
            | SessionAttributes::ReadOnly
            | SessionAttributes::Primary
            | SessionAttributes::Standby) => &[session],
        };
        let mut failures = Vec::new();
        for session in passes {
            let mut left = self.order();
            let mut tried = FuturesUnordered::new();
            let attempt = |index| async move { (index, self.open_at(index, *session, self.primary()).await) };
            tried.extend(left.next().map(attempt));
            while !tried.is_empty() {
                let ended = tokio::select! {
                    ended = tried.next() => ended,
                    () = sleep(HEAD_START), if left.len() > 0 => None,
                };
                match ended {
                    Some((index, Ok(opened))) => {
                        self.prefer(index);
                        return Ok(opened);
                    }
                    Some((index, Err(cause))) => failures.push((self.url.hosts[index].to_string(), cause)),
                    None => {}
                }
                tried.extend(left.next().map(attempt));
            }
        }
        Err(match <[_; 1]>::try_from(failures) {
            Ok([(_, cause)]) => cause,
            Err(failures) => NoHost(failures).into(),
        })
    }

    /// The indices of the hosts, in the order in which they are tried.
    fn order(&self) -> impl ExactSizeIterator<Item = usize> + use<> {
        let last = self.last.load(Ordering::Relaxed);
        let others = (0..self.hosts.len()).filter(|index| *index != last);
        std::iter::once(last).chain(others).collect::<Vec<_>>().into_iter()
    }

    async fn open_at<O: Opened>(
        &self,
        index: usize,
        session: SessionAttributes,
        primary: Option<&Primary>,
    ) -> Result<O, Cause> {
        let host = &self.hosts[index];
        let opening = async {
            // PostgreSQL has no TLS on Unix sockets.
            match self.tls.as_ref().filter(|_| !self.url.hosts[index].is_socket()) {
                Some(tls) => {
                    let (client, connection) = host.connect(MakeRustlsConnect::new(ClientConfig::clone(tls))).await?;
                    admit(client, connection, session, primary).await
                }
                None => {
                    let (client, connection) = host.connect(NoTls).await?;
                    admit(client, connection, session, primary).await
                }
            }
        };
        match self.url.connect_timeout.unwrap_or(CONNECT_TIMEOUT) {
            Duration::ZERO => opening.await,
            limit => timeout(limit, opening).await.map_err(|_| NoAnswer(limit))?,
        }
    }
}

/// The driver's settings for one host.
fn driver_settings(url: &PostgresUrl, host: &HostPort) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(&host.name).port(host.port);
    if let Some(address) = host.address {
        config.hostaddr(address);
    }
    if let Some(user) = &url.user {
        config.user(user);
    }
    if let Some(password) = &url.password {
        config.password(password.expose());
    }
    if let Some(database) = &url.database {
        config.dbname(database);
    }
    if let Some(options) = &url.options {
        config.options(options);
    }
    config.application_name(url.application_name.as_deref().unwrap_or(APPLICATION_NAME));
    config.ssl_mode(match url.ssl_mode {
        _ if host.is_socket() => tokio_postgres::config::SslMode::Disable,
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
    });
    config.channel_binding(match url.channel_binding {
        ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
        ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
        ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
    });
    match url.tcp_user_timeout.unwrap_or(SILENCE) {
        Duration::ZERO => {}
        limit => _ = config.tcp_user_timeout(limit),
    }
    config.keepalives(url.keepalives.unwrap_or(true));
    config.keepalives_idle(url.keepalives_idle.unwrap_or(SILENCE));
    config.keepalives_interval(url.keepalives_interval.unwrap_or(SILENCE / 6));
    config.keepalives_retries(url.keepalives_count.unwrap_or(6));
    config
}

/// Makes a connection usable, if the server is what the URL asks for.
async fn admit<O: Opened, S>(
    client: Client,
    mut connection: Connection<Socket, S>,
    session: SessionAttributes,
    primary: Option<&Primary>,
) -> Result<O, Cause>
where
    S: TlsStream + Unpin + Send + 'static,
{
    check(session, &client, Pin::new(&mut connection)).await?;
    let Some(primary) = primary else { return O::of(client, connection, None).await };
    let kind = tokio::select! {
        kind = kind::ask(&client) => kind?,
        ended = &mut connection => {
            ended?;
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    };
    let admitted = primary.admit(kind)?;
    O::of(client, connection, Some(admitted)).await
}

/// Sends and receives the messages of a connection until it ends, or until its server is no longer the primary.
async fn drive<S>(connection: Connection<Socket, S>, left: Option<watch::Receiver<()>>)
where
    S: TlsStream + Unpin + Send + 'static,
{
    // Its error is returned to each pending query.
    match left {
        Some(mut left) => tokio::select! {
            _ = connection => {}
            Ok(()) = left.changed() => {}
        },
        None => _ = connection.await,
    }
}

/// A kind of open connection.
trait Opened: Sized {
    /// If it has to lead to the primary, it ends when another server is that.
    async fn of<S>(
        client: Client,
        connection: Connection<Socket, S>,
        admitted: Option<Admitted>,
    ) -> Result<Self, Cause>
    where
        S: TlsStream + Unpin + Send + 'static;
}

impl Opened for Client {
    async fn of<S>(client: Client, connection: Connection<Socket, S>, admitted: Option<Admitted>) -> Result<Self, Cause>
    where
        S: TlsStream + Unpin + Send + 'static,
    {
        tokio::spawn(drive(connection, admitted.map(|admitted| admitted.left)));
        Ok(client)
    }
}

/// A connection whose messages diesel sends and receives itself. It does not end by itself when another server is the
/// primary: its user watches for that.
impl Opened for AsyncPgConnection {
    async fn of<S>(client: Client, connection: Connection<Socket, S>, _: Option<Admitted>) -> Result<Self, Cause>
    where
        S: TlsStream + Unpin + Send + 'static,
    {
        Ok(Self::try_from_client_and_connection(client, connection).await?)
    }
}

/// A connection with several users at the same time.
pub(super) struct SharedConnection {
    pub(super) conn: AsyncPgConnection,
    /// The cluster and timeline that it leads to, if it has to lead to the primary and the role may read them.
    pub(super) lineage: Option<Lineage>,
    /// Sends and receives its messages. Ends with the connection.
    driver: JoinHandle<()>,
}

impl SharedConnection {
    /// Whether the database or the network closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Opened for SharedConnection {
    async fn of<S>(client: Client, connection: Connection<Socket, S>, admitted: Option<Admitted>) -> Result<Self, Cause>
    where
        S: TlsStream + Unpin + Send + 'static,
    {
        let (lineage, left) = admitted.map_or((None, None), |Admitted { lineage, left }| (lineage, Some(left)));
        let driver = tokio::spawn(drive(connection, left));
        Ok(Self { conn: AsyncPgConnection::try_from(client).await?, lineage, driver })
    }
}

/// The error of a host that did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(super) struct NoAnswer(pub(super) Duration);

/// The error of several hosts, none of which can be used.
#[derive(Debug)]
pub(super) struct NoHost(pub(super) Vec<(String, Cause)>);

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (host, cause)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(f, "{separator}{host}: {}", with_causes(&**cause))?;
        }
        Ok(())
    }
}

impl Error for NoHost {}
