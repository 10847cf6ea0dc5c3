//! Keeping an idle node small: the runtime it needs, and giving memory back whenever it has come to rest.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::status::StatusBoard;

/// A node that changed nothing for so long is at rest.
const AT_REST: Duration = Duration::from_secs(3);

/// Makes the runtime of a daemon; nothing of the process may have started threads before.
///
/// A node is idle most of its life: two workers keep it small, one can block without stopping the other. The data path
/// and the journal have threads of their own.
pub fn runtime() -> io::Result<Runtime> {
    net::memory::be_frugal();
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Gives memory back each time the daemon has come to rest, for ever: what a start, a link or a run needed is not needed
/// until the next one.
pub(crate) async fn give_back_at_rest(board: StatusBoard) {
    let mut changes = board.follow();
    loop {
        while let Ok(changed) = timeout(AT_REST, changes.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        net::memory::give_back();
        if changes.changed().await.is_err() {
            return;
        }
    }
}
