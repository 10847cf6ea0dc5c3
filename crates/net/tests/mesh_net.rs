//! Whole meshes in one process: real UDP on 127.0.0.1, real sessions, real streams.

mod common;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use common::{Node, PORT, digest, guarded, link, linked, pattern, serve_echo, streams};
use net::mesh_net::NetCounters;
use net::{ConnectError, ListenError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_mebibytes_come_back_as_they_went_over_both_families() {
    let (a, b) = linked().await;
    serve_echo(&b).await;
    for remote in [b.v4_port(PORT), b.v6_port(PORT)] {
        guarded(async {
            let stream = a.mesh.connect(b.public(), remote).await.expect("connects");
            assert_eq!(stream.peer(), b.public());
            assert_eq!(stream.remote_addr(), remote);
            let sent = pattern(10 * MIB);
            let expected = digest(&sent);
            let (mut reader, mut writer) = tokio::io::split(stream);
            let write = tokio::spawn(async move {
                writer.write_all(&sent).await.expect("writes");
                writer.shutdown().await.expect("finishes");
            });
            let mut received = Vec::new();
            reader.read_to_end(&mut received).await.expect("reads");
            write.await.expect("writer");
            assert_eq!(received.len(), 10 * MIB);
            assert_eq!(digest(&received), expected);
        })
        .await;
    }
}

#[tokio::test]
async fn a_half_closed_stream_still_carries_the_answer() {
    let (a, _b, mut stream, mut far) = streams().await;
    let server = tokio::spawn(async move {
        let mut request = Vec::new();
        far.read_to_end(&mut request).await.expect("reads");
        far.write_all(&request).await.expect("writes");
        far.write_all(b", indeed").await.expect("writes");
        far.peer()
    });
    guarded(async {
        stream.write_all(b"it is").await.expect("writes");
        stream.shutdown().await.expect("shuts");
        assert_eq!(
            stream.write_all(b"more").await.expect_err("shut").kind(),
            ErrorKind::BrokenPipe
        );
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("reads");
        assert_eq!(answer, "it is, indeed");
        assert_eq!(server.await.expect("server"), a.public());
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_with_an_error_at_the_other_end_and_makes_room() {
    let (_a, _b, mut stream, mut far) = streams().await;
    guarded(async {
        stream.write_all(b"some").await.expect("writes");
        let mut some = [0; 4];
        far.read_exact(&mut some).await.expect("reads");
        stream.reset();
        let error = far.read(&mut some).await.expect_err("no end, but an error");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    })
    .await;
    // Also while one end is stuck with more than the other takes.
    let (_a, _b, mut stream, mut far) = streams().await;
    guarded(async {
        let stuck =
            tokio::time::timeout(Duration::from_millis(300), stream.write_all(&pattern(10 * MIB))).await;
        assert!(stuck.is_err(), "nobody reads");
        stream.reset();
        let mut rest = Vec::new();
        let error = far
            .read_to_end(&mut rest)
            .await
            .expect_err("no end, but an error");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(rest.len() < MIB, "what waited at the far end, and no more");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_run_side_by_side() {
    let (a, b) = linked().await;
    serve_echo(&b).await;
    guarded(async {
        let tasks: Vec<_> = (0..200_usize)
            .map(|index| {
                let (mesh, key, remote) = (a.mesh.clone(), b.public(), b.v6_port(PORT));
                tokio::spawn(async move {
                    let mut stream = mesh.connect(key, remote).await.expect("connects");
                    let sent = pattern(10_000 + index);
                    stream.write_all(&sent).await.expect("writes");
                    stream.shutdown().await.expect("finishes");
                    let mut received = Vec::new();
                    stream.read_to_end(&mut received).await.expect("reads");
                    assert!(received == sent, "stream {index}");
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("stream");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_nodes_talk_to_one_platform_at_the_same_time() {
    let platform = Node::start(1);
    serve_echo(&platform).await;
    guarded(async {
        let mut talks = Vec::new();
        for number in 2..32 {
            let node = Node::start(number);
            link(&node, &platform).await;
            let (key, remote) = (platform.public(), platform.v6_port(PORT));
            talks.push(tokio::spawn(async move {
                let mut stream = node.mesh.connect(key, remote).await.expect("connects");
                let sent = pattern(100_000 + usize::from(number));
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                let mut received = vec![0; sent.len()];
                let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
                wrote.expect("writes");
                read.expect("reads");
                assert!(received == sent, "node {number}");
            }));
        }
        for talk in talks {
            talk.await.expect("node");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_started_anew_is_reached_by_the_first_attempt() {
    let a = Node::start(1);
    let key = types::NodePrivateKey::from_random(net::random::bytes());
    let first = Node::start_as(3, key.clone(), "127.0.0.1:0".parse().expect("address"));
    link(&a, &first).await;
    serve_echo(&a).await;
    guarded(async {
        // The other end begins, since a's own initiations must be five seconds apart.
        let stream = first.mesh.connect(a.public(), a.v6_port(PORT)).await;
        drop(stream.expect("connects"));
        let bound = first.mesh.local_addr();
        first.mesh.shutdown().await;
        let second = Node::start_as(3, key, bound);
        second.mesh.upsert_peer(a.as_peer(), second.locals()).await;
        serve_echo(&second).await;
        assert!(
            a.mesh
                .peer_status(second.public())
                .await
                .expect("a peer")
                .0
                .has_session
        );
        let begun = Instant::now();
        let stream = a.mesh.connect(second.public(), second.v6_port(PORT)).await;
        drop(stream.expect("connects"));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(a.mesh.counters().await.tunnel.handshakes, 2);
    })
    .await;
}

#[tokio::test]
async fn removing_a_peer_cuts_its_streams_before_it_returns() {
    let (a, b, mut stream, mut far) = streams().await;
    let server = tokio::spawn(async move {
        loop {
            if let Err(error) = far.write_all(&[1; 4096]).await {
                return error.kind();
            }
        }
    });
    guarded(async {
        stream.read_exact(&mut vec![0; 100_000]).await.expect("flows");
        assert!(a.mesh.remove_peer(b.public()).await);
        let error = stream.read(&mut [0; 16]).await.expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = stream.write_all(b"x").await.expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(server.await.expect("server"), ErrorKind::ConnectionReset);
        let refused = a.mesh.connect(b.public(), b.v6_port(PORT)).await;
        assert_eq!(refused.expect_err("gone"), ConnectError::PeerUnknown);
        assert!(!a.mesh.remove_peer(b.public()).await);
        assert!(a.mesh.peer_status(b.public()).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_wrong_key_never_connects() {
    let (a, b, other) = (Node::start(1), Node::start(2), Node::start(3));
    serve_echo(&b).await;
    // The endpoint is b's, the key is another node's.
    let mut config = b.as_peer();
    config.public_key = other.public();
    a.mesh.upsert_peer(config, a.locals()).await;
    b.mesh.upsert_peer(a.as_peer(), b.locals()).await;
    let within = Duration::from_millis(1500);
    let result = a
        .mesh
        .connect_within(other.public(), b.v6_port(PORT), within)
        .await;
    assert_eq!(result.expect_err("no session"), ConnectError::TimedOut);
    assert_eq!(b.mesh.counters().await.net.packets_taken, 0);
}

#[tokio::test]
async fn an_unknown_port_is_refused_at_once_and_bad_addresses_are_named() {
    let (a, b) = linked().await;
    let begun = Instant::now();
    let refused = a.mesh.connect(b.public(), b.v4_port(81)).await;
    assert_eq!(refused.expect_err("nobody there"), ConnectError::Refused);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "an answer, not a timeout"
    );
    let elsewhere = a.mesh.connect(b.public(), a.v6_port(PORT)).await;
    assert_eq!(elsewhere.expect_err("not b's"), ConnectError::NotThePeers);

    a.mesh.upsert_peer(b.as_peer(), vec![a.v6]).await;
    let no_v4 = a.mesh.connect(b.public(), b.v4_port(PORT)).await;
    assert_eq!(no_v4.expect_err("no IPv4 of ours"), ConnectError::NoLocalAddress);
}

#[tokio::test]
async fn connects_that_were_given_up_make_room_for_others() {
    let (a, b) = (Node::start_limited(1, 4), Node::start(2));
    a.mesh.upsert_peer(b.as_peer(), a.locals()).await;
    // Without an address of its own b drops every SYN.
    b.mesh.upsert_peer(a.as_peer(), Vec::new()).await;
    let connect = || a.mesh.connect(b.public(), b.v6_port(PORT));
    guarded(async {
        for _ in 0..20 {
            let given_up = tokio::time::timeout(Duration::from_millis(5), connect()).await;
            assert!(given_up.is_err(), "nothing answers yet");
        }
        b.mesh.upsert_peer(a.as_peer(), b.locals()).await;
        serve_echo(&b).await;
        let stream = connect().await.expect("connects");
        assert_eq!(stream.peer(), b.public());
    })
    .await;
}

#[tokio::test]
async fn a_port_has_one_listener_and_is_free_when_that_is_dropped() {
    let node = Node::start(1);
    let first = node.mesh.listen(PORT).await.expect("listens");
    assert_eq!(
        node.mesh.listen(PORT).await.expect_err("taken"),
        ListenError::InUse(PORT)
    );
    drop(first);
    assert!(node.mesh.listen(PORT).await.is_ok());
    assert_eq!(
        node.mesh.listen(0).await.expect_err("no port"),
        ListenError::BadPort
    );
}

#[tokio::test]
async fn a_peer_reaches_only_the_addresses_meant_for_it_and_cannot_speak_as_another() {
    let (a, b, platform) = (Node::start(1), Node::start(2), Node::start(9));
    serve_echo(&platform).await;
    // The platform has an address of its own towards each: a must not reach the one for b.
    let (for_a, for_b) = (platform.v6, common::v6(10));
    platform.mesh.upsert_peer(a.as_peer(), vec![for_a]).await;
    platform.mesh.upsert_peer(b.as_peer(), vec![for_b]).await;
    let mut config = platform.as_peer();
    config.allowed_ips.push(types::AllowedIp::host(for_b));
    a.mesh.upsert_peer(config.clone(), a.locals()).await;
    guarded(async {
        let connect = a.mesh.connect(platform.public(), (for_a, PORT).into());
        drop(connect.await.expect("its own address answers"));
        let within = Duration::from_millis(1200);
        let crossed = a
            .mesh
            .connect_within(platform.public(), (for_b, PORT).into(), within)
            .await;
        assert_eq!(crossed.expect_err("b's address"), ConnectError::TimedOut);
        assert!(platform.mesh.counters().await.net.packets_misdirected > 0);

        let before = platform.mesh.counters().await;
        a.mesh.upsert_peer(config, vec![b.v6]).await;
        let spoofed = a
            .mesh
            .connect_within(platform.public(), (for_a, PORT).into(), within)
            .await;
        assert_eq!(spoofed.expect_err("as b"), ConnectError::TimedOut);
        let after = platform.mesh.counters().await;
        let spoofs = |counters: &net::mesh_net::MeshCounters| {
            counters.tunnel.dropped(mesh::tunnel::DropReason::SpoofedSource)
        };
        assert!(spoofs(&after) > spoofs(&before));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_lives_on_when_its_peer_comes_from_a_new_address() {
    let (a, b) = (Node::start(1), Node::start(2));
    let nat = common::Nat::start(b.mesh.local_addr()).await;
    let mut through_nat = b.as_peer();
    through_nat.endpoints = vec![nat.inside()];
    a.mesh.upsert_peer(through_nat, a.locals()).await;
    let mut unknown_yet = a.as_peer();
    unknown_yet.endpoints.clear();
    b.mesh.upsert_peer(unknown_yet, b.locals()).await;
    serve_echo(&b).await;
    guarded(async {
        let mut stream = a.stream_to(&b).await;
        let mut events = b.mesh.subscribe();
        let mut buffer = [0; 5];
        for round in 0..3 {
            stream.write_all(b"hello").await.expect("writes");
            stream.read_exact(&mut buffer).await.expect("reads");
            assert_eq!(&buffer, b"hello", "round {round}");
            nat.rebind().await;
        }
        let moved = common::next_move(&mut events, a.public()).await;
        assert!(moved.ip().is_loopback());
        // Repeating what the control plane said neither undoes the roaming nor touches the stream.
        b.mesh.upsert_peer(a.as_peer(), b.locals()).await;
        stream.write_all(b"again").await.expect("writes");
        stream.read_exact(&mut buffer).await.expect("reads");
        assert_eq!(&buffer, b"again");
    })
    .await;
}

#[tokio::test]
async fn a_stalled_reader_holds_up_the_writer_in_bounded_memory() {
    let (_a, _b, mut writer, mut reader) = streams().await;
    guarded(async {
        let chunk = vec![5; 64 * 1024];
        let mut written = 0;
        // That nothing more is taken can only be seen by waiting for it.
        while let Ok(taken) = tokio::time::timeout(Duration::from_millis(400), writer.write(&chunk)).await {
            written += taken.expect("writes");
            assert!(written <= 2 * MIB, "{written} bytes taken with nobody reading");
        }
        drop(writer);
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.expect("reads");
        assert_eq!(received.len(), written);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_rubbish_disturbs_nobody() {
    let (a, b) = linked().await;
    serve_echo(&b).await;
    let target = b.mesh.local_addr();
    let flood = std::thread::spawn(move || common::flood(target, 20_000));
    guarded(async {
        let mut stream = a.stream_to(&b).await;
        let sent = pattern(MIB);
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let mut received = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
        wrote.expect("writes");
        read.expect("reads");
        assert!(received == sent);
        let counters = b.mesh.counters().await;
        assert_eq!((counters.net.stacks_broken, counters.net.batches_broken), (0, 0));
        assert!(counters.tunnel.dropped_total() > 0, "the rubbish was counted");
    })
    .await;
    flood.join().expect("flood");
}

#[tokio::test]
async fn a_shutdown_delivers_what_was_written_and_frees_the_port() {
    let (a, b, mut stream, mut far) = streams().await;
    guarded(async {
        stream.write_all(&vec![3; 200_000]).await.expect("writes");
        let bound = a.mesh.local_addr();
        a.mesh.shutdown().await;
        std::net::UdpSocket::bind(bound).expect("the port is free");
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.expect("ends in order");
        assert_eq!(received.len(), 200_000);
        let error = stream.read(&mut [0; 1]).await.expect_err("stopped");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let late = a.mesh.connect(b.public(), b.v6_port(PORT)).await;
        assert_eq!(late.expect_err("stopped"), ConnectError::Stopped);
        assert_eq!(a.mesh.counters().await.net, NetCounters::default());
    })
    .await;
}

#[tokio::test]
async fn dropping_the_last_handle_cuts_the_streams_at_both_ends() {
    let (a, _b, mut stream, mut far) = streams().await;
    guarded(async {
        drop(a);
        let error = stream.read(&mut [0; 1]).await.expect_err("stopped");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let error = far.read(&mut [0; 1]).await.expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    })
    .await;
}
