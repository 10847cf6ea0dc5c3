//! Accepting TCP connections of programs on this device, each served by a task of its own, with a limit.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::CONNECTIONS_MAX;

/// How long to wait when the system gives no connection, as when it has no descriptors left.
const RETRY: Duration = Duration::from_millis(100);

/// Serves every connection, [`CONNECTIONS_MAX`] at once, for ever; one more is cut. Dropping this cuts them all.
pub(crate) async fn accept_each<F>(
    listener: &TcpListener,
    mut serve: impl FnMut(TcpStream, SocketAddr) -> F,
) -> !
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) if connections.len() < CONNECTIONS_MAX => {
                    // Small writes are somebody's keystrokes.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream, from));
                }
                Ok((stream, _)) => {
                    tracing::warn!(CONNECTIONS_MAX, "a connection was cut: there are as many as may be");
                    let _ = stream.set_zero_linger();
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    sleep(RETRY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
