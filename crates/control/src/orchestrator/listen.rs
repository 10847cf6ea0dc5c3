//! Takes sidecars' streams out of the mesh: who is at the other end is known by the peer key of the stream.

use std::sync::Arc;

use net::mesh_net::MeshListener;
use tokio_util::sync::CancellationToken;
use types::NodePublicKey;

use super::session;
use crate::app::App;
use crate::store::{self, StoreError};

/// Accepts sessions until `stop`, on every org's platform address.
pub(crate) async fn run(app: Arc<App>, mut listener: MeshListener, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            stream = listener.accept() => stream,
        };
        let Ok(stream) = stream else {
            return tracing::error!("the mesh has stopped; no device can be reached");
        };
        let app = Arc::clone(&app);
        let stop = stop.child_token();
        tokio::spawn(async move {
            match device(&app, &stream.peer()).await {
                Ok(Some(node)) => session::run(app, node, stream, stop).await,
                Ok(None) => tracing::info!(peer = %stream.peer(), "a stream from no admitted device"),
                Err(error) => tracing::error!(%error, "a device was not looked up"),
            }
        });
    }
}

async fn device(app: &App, key: &NodePublicKey) -> Result<Option<types::NodeId>, StoreError> {
    let device = store::runs::device_by_key(&mut *app.store.read().await?, key).await?;
    Ok(device.filter(|device| !device.revoked).map(|device| device.id))
}
