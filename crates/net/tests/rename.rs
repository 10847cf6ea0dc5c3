//! A node that changes its key while its streams are in use.

mod common;

use common::{PORT, guarded, linked, pattern, serve_echo};
use net::{MeshStream, random};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::NodePrivateKey;

const PIECE: usize = 64 * 1024;

/// Sends bytes there and back.
async fn echo(stream: &mut MeshStream) {
    let sent = pattern(PIECE);
    let mut received = vec![0; PIECE];
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
    written.expect("writes");
    read.expect("reads");
    assert!(received == sent);
}

#[tokio::test]
async fn a_stream_lives_on_when_either_end_learns_of_the_new_key_first() {
    let (a, b) = linked().await;
    serve_echo(&b).await;
    guarded(async {
        let mut stream = a.stream_to(&b).await;
        echo(&mut stream).await;
        let mut key = a.public();
        for knows_first in [true, false] {
            let next = NodePrivateKey::from_random(random::bytes());
            let renamed = next.public();
            if knows_first {
                assert!(b.mesh.rename_peer(key, renamed).await);
                echo(&mut stream).await;
                a.mesh.set_keys(next, None).await;
            } else {
                a.mesh.set_keys(next, None).await;
                echo(&mut stream).await;
                assert!(b.mesh.rename_peer(key, renamed).await);
            }
            echo(&mut stream).await;
            assert!(b.mesh.peer_status(key).await.is_none(), "nobody has the old key");
            key = renamed;
            echo(&mut a.stream_to(&b).await).await;
        }
        // A session that is made anew is one of the new key.
        a.mesh.remove_peer(b.public()).await;
        a.mesh.upsert_peer(b.as_peer(), a.locals()).await;
        echo(&mut a.stream_to(&b).await).await;
        let counters = a.mesh.counters().await;
        assert_eq!(
            counters.tunnel.handshakes, 2,
            "one at the beginning, one after the removal"
        );
    })
    .await;
}

#[tokio::test]
async fn the_old_key_opens_nothing_at_a_peer_that_knows_the_new_one() {
    let (a, b) = linked().await;
    serve_echo(&b).await;
    guarded(async {
        echo(&mut a.stream_to(&b).await).await;
        let next = NodePrivateKey::from_random(random::bytes());
        assert!(b.mesh.rename_peer(a.public(), next.public()).await);
        a.mesh.remove_peer(b.public()).await;
        a.mesh.upsert_peer(b.as_peer(), a.locals()).await;
        let second = std::time::Duration::from_secs(1);
        let refused = a.mesh.connect_within(b.public(), b.v6_port(PORT), second).await;
        assert_eq!(refused.expect_err("no session"), net::ConnectError::TimedOut);
    })
    .await;
}
