//! Pings inside the session, between whole meshes over 127.0.0.1.

mod common;

use std::time::Duration;

use common::{Node, guarded};
use mesh::MeshPeer;
use mesh::tunnel::Mobility;
use net::PingError;
use types::PathReason;

/// Knows a node as one of ours.
fn managed(node: &Node) -> MeshPeer {
    MeshPeer {
        mobility: Mobility::Managed,
        ..node.as_peer()
    }
}

#[tokio::test]
async fn an_idle_peer_is_woken_and_answers_and_who_is_away_or_unknown_does_not() {
    let (a, b, c) = (Node::start(1), Node::start(2), Node::start(3));
    a.mesh.upsert_peer(managed(&b), a.locals()).await;
    b.mesh.upsert_peer(managed(&a), b.locals()).await;
    guarded(async {
        for _ in 0..3 {
            let pong = a.mesh.ping(b.public(), Duration::from_secs(10)).await;
            let pong = pong.expect("an answer");
            assert_eq!(pong.endpoint.remote(), Some(b.mesh.local_addr()));
            assert!(pong.rtt > Duration::ZERO);
        }
        let pong = a.mesh.ping(b.public(), Duration::from_secs(10)).await;
        assert_eq!(pong.expect("an answer").reason, PathReason::EndpointAnswered);

        let unknown = a.mesh.ping(c.public(), Duration::from_secs(10)).await;
        assert_eq!(unknown, Err(PingError::PeerUnknown));
        a.mesh.upsert_peer(managed(&c), a.locals()).await;
        // It does not know us.
        let away = a.mesh.ping(c.public(), Duration::from_millis(300)).await;
        assert_eq!(away, Err(PingError::NoAnswer));
        a.mesh.shutdown().await;
        let stopped = a.mesh.ping(b.public(), Duration::from_secs(10)).await;
        assert_eq!(stopped, Err(PingError::Stopped));
    })
    .await;
}
