//! Datagrams that somebody on the way sends again, whole or cut: dropped, counted by reason, and nothing moves for them.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::{Node, digest, guarded, pattern, serve_echo};
use mesh::MeshPeer;
use mesh::tunnel::DropReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::sync::Mutex;

async fn socket() -> Arc<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    Arc::new(socket.expect("a socket"))
}

/// Carries datagrams between one client and `server`. Whatever the client sends also comes to the server from another
/// port: without its last byte before it, and behind it once more, whole and as short as no message is.
async fn repeat(server: SocketAddr) -> SocketAddr {
    let (inner, outer, stranger) = (socket().await, socket().await, socket().await);
    let address = inner.local_addr().expect("bound");
    let client = Arc::new(Mutex::new(None));
    let (to_client, known) = (inner.clone(), client.clone());
    let from_server = outer.clone();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((len, from)) = inner.recv_from(&mut buffer).await {
            *client.lock().await = Some(from);
            let datagram = &buffer[..len];
            let _ = stranger.send_to(&datagram[..len - 1], server).await;
            let _ = outer.send_to(datagram, server).await;
            let _ = stranger.send_to(datagram, server).await;
            let _ = stranger.send_to(&datagram[..len.min(20)], server).await;
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((len, _)) = from_server.recv_from(&mut buffer).await {
            if let Some(client) = *known.lock().await {
                let _ = to_client.send_to(&buffer[..len], client).await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_or_cut_is_dropped_and_counted_and_a_stream_beside_it_is_whole() {
    let (a, b) = (Node::start(1), Node::start(2));
    let between = repeat(b.mesh.local_addr()).await;
    let there = MeshPeer {
        endpoints: vec![between],
        ..b.as_peer()
    };
    let here = MeshPeer {
        endpoints: Vec::new(),
        ..a.as_peer()
    };
    a.mesh.upsert_peer(there, a.locals()).await;
    b.mesh.upsert_peer(here, b.locals()).await;
    serve_echo(&b).await;
    let sent = pattern(256 * 1024);
    let received = guarded(async {
        let (mut reader, mut writer) = tokio::io::split(a.stream_to(&b).await);
        let sending = async {
            writer.write_all(&sent).await.expect("writes");
            writer.shutdown().await.expect("finishes");
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(sending, reader.read_to_end(&mut received));
        read.expect("reads");
        received
    })
    .await;
    assert_eq!(digest(&received), digest(&sent));

    let counters = b.mesh.counters().await.tunnel;
    assert_eq!(counters.handshakes, 1, "a copy of an initiation opens nothing");
    let dropped = |reasons: &[DropReason]| -> u64 { reasons.iter().map(|r| counters.dropped(*r)).sum() };
    let initiations = [DropReason::OldTimestamp, DropReason::InitiationFlood];
    assert!(dropped(&initiations) >= 1, "{counters:?}");
    assert!(dropped(&[DropReason::Replayed]) >= 100, "{counters:?}");
    assert!(dropped(&[DropReason::BadData]) >= 100, "{counters:?}");
    assert!(dropped(&[DropReason::BadLength]) >= 100, "{counters:?}");
}
