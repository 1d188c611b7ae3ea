//! TLS on the port: handshakes, and the certificate, which is read again when its files change.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{InconsistentKeys, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::task::persistent;
use crate::tls::{provider, read_authorities, read_certificates, read_key};

/// Interval between two checks whether the files have changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The files of a server with TLS, all in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate and those between it and its authority, in this order.
    pub certificate: NamedFile,
    /// The private key of the certificate.
    pub key: NamedFile,
    /// The authorities of clients. With them, a client without a certificate of theirs is refused.
    pub client_ca: Option<NamedFile>,
}

/// A file with the name of its setting, for errors.
#[derive(Clone, Debug)]
pub struct NamedFile {
    /// The setting, as it was given.
    pub setting: String,
    /// The path.
    pub path: PathBuf,
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.path.display())
    }
}

/// Accepts handshakes by the certificate in force.
///
/// A task reads the files again when they have changed. It ends with the last clone.
#[derive(Clone, Debug)]
pub struct Tls {
    certificate: Arc<Certificate>,
    _following: Arc<JoinSet<()>>,
}

/// The certificate in force, and where it is from.
struct Certificate {
    files: Files,
    /// Whether clients may speak HTTP/1.1.
    http1: bool,
    in_force: RwLock<Arc<ServerConfig>>,
    last_read: Mutex<LastRead>,
    /// Notified when the files are to be read again even if they have not changed.
    again: Notify,
}

/// When the files were last read.
struct LastRead {
    stamps: Stamps,
    /// Why they could not be used.
    failure: Option<String>,
}

/// What changes when a file is written or replaced. `None` for a file that is not there.
type Stamps = [Option<[i64; 6]>; 3];

impl Tls {
    /// Reads the files, and follows them from now on. `http1` says whether clients may speak HTTP/1.1.
    ///
    /// It needs the runtime, for the task.
    ///
    /// # Errors
    ///
    /// If the files cannot be used. The text names the setting and the file.
    pub fn start(files: Files, http1: bool) -> Result<Self, String> {
        // Before they are read: a change in between is noticed later.
        let last_read = Mutex::new(LastRead { stamps: stamps(&files), failure: None });
        let in_force = RwLock::new(Arc::new(load(&files, http1)?));
        let certificate = Arc::new(Certificate { files, http1, in_force, last_read, again: Notify::new() });
        let followed = Arc::clone(&certificate);
        let mut following = JoinSet::new();
        following.spawn(persistent("TLS files", move || Arc::clone(&followed).follow()));
        Ok(Self { certificate, _following: Arc::new(following) })
    }

    /// Reads the files again soon, even if they have not changed.
    pub fn read_again(&self) {
        self.certificate.again.notify_one();
    }

    /// Makes the handshake of a connection.
    ///
    /// # Errors
    ///
    /// If the connection is lost, or if one side refuses the other.
    pub(super) async fn accept<T>(&self, stream: T) -> io::Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let in_force = Arc::clone(&self.certificate.in_force.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(in_force).accept(stream).await
    }
}

/// Whether the server refused the client: for its certificate, for want of one, or for its protocols.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    use rustls::Error::{InvalidCertificate, NoApplicationProtocol, NoCertificatesPresented};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(InvalidCertificate(_) | NoApplicationProtocol | NoCertificatesPresented))
}

impl Certificate {
    /// Reads the files again whenever they have changed.
    async fn follow(self: Arc<Self>) {
        loop {
            let asked = timeout(CHECK_INTERVAL, self.again.notified()).await.is_ok();
            let checked = Arc::clone(&self);
            // A file system can be slow.
            if let Err(error) = spawn_blocking(move || checked.check(asked)).await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Reads the files again if they have changed, or if they could not be used before.
    fn check(&self, asked: bool) {
        let mut last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files);
        let changed = stamps != last.stamps;
        if !(asked || changed || last.failure.is_some()) {
            return;
        }
        last.stamps = stamps;
        match load(&self.files, self.http1) {
            Ok(config) => {
                *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                last.failure = None;
                tracing::info!("read the TLS files again; new connections use them");
            }
            // One that has not changed was already logged.
            Err(failure) if !asked && !changed && last.failure.as_ref() == Some(&failure) => {}
            Err(failure) => {
                tracing::warn!(%failure, "cannot use the changed TLS files; the previous ones remain in force");
                last.failure = Some(failure);
            }
        }
    }
}

/// Without the configuration, which has the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

fn stamps(files: &Files) -> Stamps {
    let Files { certificate, key, client_ca } = files;
    [Some(certificate), Some(key), client_ca.as_ref()].map(|file| {
        let file = fs::metadata(&file?.path).ok()?;
        let (inode, size) = (file.ino().cast_signed(), file.size().cast_signed());
        Some([inode, size, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
    })
}

/// Reads the files into a configuration.
fn load(files: &Files, http1: bool) -> Result<ServerConfig, String> {
    let Files { certificate, key, client_ca } = files;
    let of = |file: &NamedFile| {
        let file = file.to_string();
        move |error: String| format!("{file}: {error}")
    };
    let chain = read_certificates(&certificate.path).map_err(of(certificate))?;
    let private = read_key(&key.path).map_err(of(key))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let authorities = Arc::new(read_authorities(&file.path).map_err(of(file))?);
            let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("{file}: {error}"))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
            format!("{key}: is not the key of {certificate}")
        } else {
            format!("{certificate}: cannot be used with {key}: {error}")
        }
    })?;
    config.alpn_protocols = if http1 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"h2".to_vec()] };
    // Connections live long, so few would be resumed, and a resumed one does not verify the client's certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
