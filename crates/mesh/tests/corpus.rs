//! Replays the fuzzers' committed corpora through the fuzz targets' own code, on a stable compiler.

use std::path::Path;

// The code of the targets, which is not below this package, needs it.
use serde_json as _;

#[expect(
    unreachable_pub,
    reason = "the file is also a library of its own, for the fuzzers"
)]
#[path = "../../../fuzz/src/lib.rs"]
mod targets;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("a readable file"));
        replayed += 1;
    }
    assert!(replayed >= 9, "{target}: only {replayed} files");
}

#[test]
fn every_wireguard_datagram_of_the_corpus_is_handled() {
    replay("wireguard_datagram", targets::wireguard_datagram);
}

#[test]
fn every_control_stream_input_of_the_corpus_is_handled() {
    replay("control_stream", targets::control_stream);
}

#[test]
fn every_frame_input_of_the_corpus_is_handled() {
    replay("frame", targets::frame);
}

#[test]
fn every_probe_input_of_the_corpus_is_handled() {
    replay("probe", targets::probe);
}

#[test]
fn every_stun_input_of_the_corpus_is_handled() {
    replay("stun", targets::stun);
}

#[test]
fn every_router_word_of_the_corpus_is_handled() {
    replay("router_word", targets::router_word);
}

#[test]
fn every_relay_input_of_the_corpus_is_handled() {
    replay("relay", targets::relay);
}

#[test]
fn every_socks5_input_of_the_corpus_is_handled() {
    replay("socks5", targets::socks5);
}

#[test]
fn every_http_connect_input_of_the_corpus_is_handled() {
    replay("http_connect", targets::http_connect);
}

#[test]
fn every_packet_of_the_corpus_is_filtered() {
    replay("filter", targets::filter);
}

#[test]
fn every_netmap_of_the_corpus_is_checked() {
    replay("netmap", targets::netmap);
}

#[test]
fn every_netmap_delta_of_the_corpus_is_applied_or_refused() {
    replay("netmap_delta", targets::netmap_delta);
}

#[test]
fn every_policy_of_the_corpus_is_read() {
    replay("policy", targets::policy);
}

#[test]
fn every_dns_message_of_the_corpus_is_answered() {
    replay("dns", targets::dns);
}
