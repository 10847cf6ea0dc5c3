//! The packet filter in front of userspace stacks: what a peer may open, and what becomes of it when the rules change.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use common::{Node, PORT, guarded, linked, serve_echo, streams};
use mesh::filter::FilterDrop;
use net::ConnectError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use types::{AllowedIp, FilterRule, PacketFilter};

fn open_to(node: &Node, ports: &str) -> Option<Arc<PacketFilter>> {
    let rule = FilterRule {
        from: vec![AllowedIp::host(node.v4), AllowedIp::host(node.v6)],
        to: vec![ports.parse().expect("ports")],
    };
    Some(Arc::new(PacketFilter { rules: vec![rule] }))
}

fn closed() -> Option<Arc<PacketFilter>> {
    Some(Arc::default())
}

async fn denied(node: &Node) -> u64 {
    node.mesh.counters().await.filter.dropped(FilterDrop::Denied)
}

#[tokio::test]
async fn only_ports_that_a_rule_opens_can_be_reached_in_either_family() {
    let (a, b) = linked().await;
    serve_echo(&b).await;
    b.mesh.set_filter(open_to(&a, &format!("tcp:{PORT}"))).await;
    guarded(async {
        for remote in [b.v4_port(PORT), b.v6_port(PORT)] {
            a.mesh.connect(b.public(), remote).await.expect("connects");
        }
        assert_eq!(denied(&b).await, 0);
        let patience = Duration::from_secs(2);
        let other = b.v6_port(PORT + 1);
        let refused = a.mesh.connect_within(b.public(), other, patience).await;
        assert_eq!(
            refused.expect_err("closed"),
            ConnectError::TimedOut,
            "not even a refusal"
        );
        assert!(denied(&b).await > 0);
    })
    .await;
}

#[tokio::test]
async fn a_node_that_nobody_may_reach_still_reaches_others() {
    let (a, b) = linked().await;
    serve_echo(&b).await;
    a.mesh.set_filter(closed()).await;
    guarded(async {
        let mut stream = a.stream_to(&b).await;
        stream.write_all(b"hello").await.expect("writes");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.expect("reads");
        assert_eq!(&answer, b"hello");
        let patience = Duration::from_secs(2);
        let back = b.mesh.connect_within(a.public(), a.v4_port(PORT), patience).await;
        assert_eq!(back.expect_err("closed"), ConnectError::TimedOut);
    })
    .await;
}

#[tokio::test]
async fn a_change_of_the_rules_cuts_a_stream_at_both_ends_and_opens_another() {
    let (a, b, mut near, mut far) = streams().await;
    guarded(async {
        near.write_all(b"x").await.expect("writes");
        assert_eq!(far.read_u8().await.expect("reads"), b'x');
        b.mesh.set_filter(closed()).await;
        let cut = far.read_u8().await.expect_err("cut");
        assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
        let cut = near.read_u8().await.expect_err("cut");
        assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
        let patience = Duration::from_secs(2);
        let again = a.mesh.connect_within(b.public(), b.v6_port(PORT), patience).await;
        assert_eq!(again.expect_err("closed"), ConnectError::TimedOut);
    })
    .await;
    serve_echo(&b).await;
    b.mesh.set_filter(open_to(&a, "tcp:*")).await;
    guarded(async {
        let mut stream = a.stream_to(&b).await;
        stream.write_all(b"y").await.expect("writes");
        assert_eq!(stream.read_u8().await.expect("reads"), b'y');
    })
    .await;
}

#[tokio::test]
async fn streams_that_we_opened_go_on_when_the_rules_close() {
    let (a, b, mut near, mut far) = streams().await;
    a.mesh.set_filter(closed()).await;
    b.mesh.set_filter(open_to(&a, &format!("tcp:{PORT}"))).await;
    guarded(async {
        far.write_all(b"still").await.expect("writes");
        let mut read = [0; 5];
        near.read_exact(&mut read).await.expect("reads");
        assert_eq!(&read, b"still");
    })
    .await;
    drop((a, b));
}
