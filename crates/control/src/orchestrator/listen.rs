//! Takes sidecars' streams out of the mesh: who is at the other end is known by the peer key of the stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::mesh_net::MeshListener;
use tokio_util::sync::CancellationToken;
use types::{NodeId, NodePublicKey};

use super::session;
use crate::app::App;
use crate::limits::{Buckets, Quota};
use crate::store::{self, StoreError};

/// How often one peer may open a stream: a sidecar that fails backs off, so only a hostile one comes faster.
const STREAMS: Quota = Quota {
    burst: 20,
    every: Duration::from_secs(1),
};

/// The most streams of one device at a time: its session, the one that replaces it, and late ends.
const STREAMS_MAX: u32 = 4;

/// Accepts sessions until `stop`, on every org's platform address.
pub(crate) async fn run(app: Arc<App>, mut listener: MeshListener, stop: CancellationToken) {
    let quota = Buckets::new(STREAMS);
    let visits = Arc::new(Visits::default());
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            stream = listener.accept() => stream,
        };
        let Ok(stream) = stream else {
            return tracing::error!("the mesh has stopped; no device can be reached");
        };
        let peer = stream.peer();
        if quota.take(&peer.to_string(), app.clock.now().mono).is_err() {
            tracing::info!(%peer, "a device opens streams too often");
            continue;
        }
        let (app, visits) = (Arc::clone(&app), Arc::clone(&visits));
        let stop = stop.child_token();
        tokio::spawn(async move {
            match device(&app, &peer).await {
                Ok(Some(node)) => match visits.begin(node) {
                    Some(_visit) => session::run(app, node, stream, stop).await,
                    None => tracing::info!(%node, "a device holds too many streams"),
                },
                Ok(None) => tracing::info!(%peer, "a stream from no admitted device"),
                Err(error) => tracing::error!(%error, "a device was not looked up"),
            }
        });
    }
}

async fn device(app: &App, key: &NodePublicKey) -> Result<Option<NodeId>, StoreError> {
    let device = store::runs::device_by_key(&mut *app.store.read().await?, key).await?;
    Ok(device.filter(|device| !device.revoked).map(|device| device.id))
}

/// How many streams each device holds.
#[derive(Debug, Default)]
struct Visits {
    open: Mutex<BTreeMap<NodeId, u32>>,
}

/// One stream; counted until it is dropped.
struct Visit {
    visits: Arc<Visits>,
    node: NodeId,
}

impl Visits {
    fn begin(self: &Arc<Self>, node: NodeId) -> Option<Visit> {
        let mut open = self.lock();
        let count = open.entry(node).or_default();
        if *count >= STREAMS_MAX {
            return None;
        }
        *count += 1;
        Some(Visit {
            visits: Arc::clone(self),
            node,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut open = self.visits.lock();
        if let Some(count) = open.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_holds_few_streams_and_gets_them_back() {
        let visits = Arc::new(Visits::default());
        let (one, two) = (NodeId::from_random([1; 16]), NodeId::from_random([2; 16]));
        let mut held: Vec<_> = (0..STREAMS_MAX).map(|_| visits.begin(one)).collect();
        assert!(held.iter().all(Option::is_some) && visits.begin(one).is_none());
        assert!(visits.begin(two).is_some(), "others are not concerned");
        held.pop();
        assert!(visits.begin(one).is_some());
        drop(held);
        assert!(visits.lock().is_empty());
    }
}
