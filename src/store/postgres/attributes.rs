//! What a server must be like to be used: `target_session_attrs`.

use std::io;
use std::pin::Pin;

use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Connection, SimpleQueryMessage, Socket};

use super::config::Cause;
use super::url::SessionAttributes;

/// The error of a server that is not what the URL asks for. Another one may take its role at any time.
#[derive(Debug, thiserror::Error)]
#[error("the server {0}, which cannot be used")]
pub(super) struct WrongServer(&'static str);

impl WrongServer {
    /// The error of a standby where a primary is needed.
    pub(super) fn standby() -> Self {
        Self("is a standby")
    }
}

/// Returns the first value of an answer.
pub(super) fn value(answer: &[SimpleQueryMessage]) -> Option<&str> {
    let mut rows = answer.iter();
    rows.find_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None })
}

/// Checks a server over a new connection, which is not driven by a task yet.
pub(super) async fn check<S>(
    wanted: SessionAttributes,
    client: &Client,
    connection: Pin<&mut Connection<Socket, S>>,
) -> Result<(), Cause>
where
    S: TlsStream + Unpin,
{
    let (question, expected, otherwise) = match wanted {
        SessionAttributes::Any | SessionAttributes::PreferStandby => return Ok(()),
        SessionAttributes::ReadWrite => ("SHOW transaction_read_only", "off", "takes no writes"),
        SessionAttributes::ReadOnly => ("SHOW transaction_read_only", "on", "takes writes"),
        SessionAttributes::Primary => ("SELECT pg_is_in_recovery()", "f", "is a standby"),
        SessionAttributes::Standby => ("SELECT pg_is_in_recovery()", "t", "is a primary"),
    };
    let answer = tokio::select! {
        answer = client.simple_query(question) => answer?,
        ended = connection => {
            ended?;
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    if value(&answer) == Some(expected) { Ok(()) } else { Err(WrongServer(otherwise).into()) }
}
