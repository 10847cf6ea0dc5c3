//! Being told to stop: ctrl-C, or SIGTERM as service managers send it. Both mean the same.
//!
//! The first time asks for a clean stop, the second ends at once; what each command does about the first is its own matter.

use std::process;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output::talk;

/// The exit code of a process that was told twice: failed, as of everything that did not come to its end.
const AT_ONCE: i32 = 1;

/// Signals to stop, in the order of their coming. From the first one of these on, a signal ends the process no more by itself.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Starts to listen; must be called inside the runtime.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("listen for ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        })
    }

    /// Waits for the next one. Can be dropped at any await.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Returns a token that the first signal cancels; the second ends the process at once.
pub(crate) fn stop_token() -> Result<CancellationToken> {
    let mut interrupts = Interrupts::listen()?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        interrupts.next().await;
        stop.cancel();
        interrupts.next().await;
        talk("ended at once, without waiting for a clean stop");
        process::exit(AT_ONCE);
    });
    Ok(token)
}
