//! A proxy that hides which server is behind it, such as HAProxy without `on-marked-down shutdown-sessions`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// New connections lead to the server that was set last. Open ones stay where they are.
pub struct Switch {
    pub port: u16,
    server: Arc<AtomicU16>,
    _accepting: JoinSet<()>,
}

impl Switch {
    /// Starts with the server at this port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (own, server) = (listener.local_addr().expect("an address").port(), Arc::new(AtomicU16::new(port)));
        let mut accepting = JoinSet::new();
        let to = Arc::clone(&server);
        accepting.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.expect("a client");
                let to = to.load(Ordering::Relaxed);
                open.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                        _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { port: own, server, _accepting: accepting }
    }

    pub fn turn_to(&self, port: u16) {
        self.server.store(port, Ordering::Relaxed);
    }
}
