//! What keeps one port in the background: opened as soon as it can be, tried again while it cannot, until it is dropped.

use std::sync::{Arc, Mutex, PoisonError};

use net::ListenError;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::port::Port;
use crate::backoff::Backoff;
use crate::reach::Reach;
use crate::reach::expose::Exposure;
use crate::reach::forward::{Failed, Forward, NotListening};

/// How many connections that led nowhere may wait to be noted; only the last one is kept.
const FAILURES_MAX: usize = 16;

/// A port that is open.
pub(crate) enum Opened {
    /// In the mesh.
    Exposed(Exposure),
    /// On this device.
    Forwarded(Forward),
}

/// Why a port cannot be opened now.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// The system does not let it listen.
    #[error(transparent)]
    Here(#[from] NotListening),
    /// The mesh does not.
    #[error(transparent)]
    InMesh(#[from] ListenError),
}

impl Opened {
    /// Opens a port; one that asks for any free port of this device gets one.
    pub(super) async fn open(port: &Port, reach: &Reach) -> Result<Self, NotOpened> {
        Ok(match port {
            Port::Exposed { port, offered } => {
                Self::Exposed(Exposure::open(reach.clone(), *port, *offered).await?)
            }
            Port::Forwarded { local, target } => {
                Self::Forwarded(Forward::open(reach.clone(), *local, target.clone()).await?)
            }
        })
    }

    /// Returns what was asked for, as it is now that it is open.
    pub(super) fn named(&self, asked: Port) -> Port {
        match (self, asked) {
            (Self::Forwarded(forward), Port::Forwarded { target, .. }) => Port::Forwarded {
                local: forward.address(),
                target,
            },
            (_, asked) => asked,
        }
    }

    /// Carries connections until the mesh stops; dropping this cuts them. What led nowhere is told, as long as there is room.
    pub(crate) async fn serve(self, failures: mpsc::Sender<Failed>) {
        match self {
            Self::Exposed(exposure) => exposure.serve(failures).await,
            Self::Forwarded(forward) => forward.serve(failures).await,
        }
    }
}

/// How a port that is kept gets on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Progress {
    /// Why it is not open, if it is not.
    pub(super) waits_because: Option<String>,
    /// The last connection that led nowhere.
    pub(super) last_failed: Option<Failed>,
}

/// Keeps a port open. Dropping it closes the port and cuts what it carries.
pub(super) struct Keeping {
    progress: Shown,
    task: AbortOnDropHandle<()>,
}

type Shown = Arc<Mutex<Progress>>;

impl Keeping {
    /// Keeps a port that was opened just now.
    pub(super) fn of(opened: Opened) -> Self {
        let progress = Shown::default();
        let task = tokio::spawn(serve(opened, progress.clone()));
        Self {
            progress,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Opens a port, now or as soon as it can be, and keeps it.
    pub(super) async fn start(port: Port, reach: Reach) -> Self {
        let error = match Opened::open(&port, &reach).await {
            Ok(opened) => return Self::of(opened),
            Err(error) => error,
        };
        // Once: it may go on for days, and `runmesh ports` says it as long.
        warn(&port, &error);
        let progress = Shown::default();
        change(&progress, |progress| progress.wait(&error));
        let task = tokio::spawn({
            let progress = progress.clone();
            async move {
                let opened = open_at_last(&port, &reach, &progress).await;
                serve(opened, progress).await;
            }
        });
        Self {
            progress,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Returns how it gets on.
    pub(super) fn progress(&self) -> Progress {
        let progress = self.progress.lock();
        progress.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the port, and returns when it is free again.
    pub(super) async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Progress {
    fn wait(&mut self, error: &NotOpened) {
        self.waits_because = Some(error.to_string());
    }
}

async fn open_at_last(port: &Port, reach: &Reach, progress: &Mutex<Progress>) -> Opened {
    let mut backoff = Backoff::new(u64::from_le_bytes(net::random::bytes()));
    loop {
        sleep(backoff.after_failure()).await;
        match Opened::open(port, reach).await {
            Ok(opened) => {
                change(progress, |progress| progress.waits_because = None);
                return opened;
            }
            Err(error) => change(progress, |progress| progress.wait(&error)),
        }
    }
}

/// Says by its number which port it is: addresses do not stand in the log.
fn warn(port: &Port, error: &NotOpened) {
    let cause = match error {
        NotOpened::Here(error) => error.source.to_string(),
        NotOpened::InMesh(error) => error.to_string(),
    };
    let port = match port {
        Port::Exposed { offered, .. } => *offered,
        Port::Forwarded { local, .. } => local.port(),
    };
    tracing::warn!(
        port,
        cause,
        "a port in the background cannot be opened; it is tried again"
    );
}

/// Carries connections until the mesh stops, and notes the last that led nowhere.
async fn serve(opened: Opened, progress: Shown) {
    let (failures, mut failed) = mpsc::channel::<Failed>(FAILURES_MAX);
    let noting = async {
        while let Some(last) = failed.recv().await {
            tracing::debug!(reason = last.reason, "a connection led nowhere");
            change(&progress, |progress| progress.last_failed = Some(last));
        }
    };
    tokio::join!(opened.serve(failures), noting);
}

fn change(progress: &Mutex<Progress>, change: impl FnOnce(&mut Progress)) {
    change(&mut progress.lock().unwrap_or_else(PoisonError::into_inner));
}
