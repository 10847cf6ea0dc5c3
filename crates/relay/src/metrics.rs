//! What a relay tells of itself: `GET /metrics` in Prometheus' text format, and `GET /healthz`.
//!
//! Amounts only: no key, name, realm or address is in them. Still they belong on a listener that is not open to everybody.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use mesh::relay::server::RelayDrop;

use crate::{Relay, RelayStatus};

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The routes `/metrics` and `/healthz`. The second says 503 while the relay drains, and when it has stopped.
pub fn router(relay: Relay) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(relay)
}

async fn metrics(State(relay): State<Relay>) -> Response {
    match relay.status().await {
        Ok(status) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text(&status)).into_response(),
        Err(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response(),
    }
}

async fn health(State(relay): State<Relay>) -> Response {
    match relay.status().await {
        Ok(status) if status.is_draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        Ok(_) => "ok\n".into_response(),
        Err(stopped) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stopped}\n")).into_response(),
    }
}

/// Writes a relay's numbers as Prometheus reads them.
#[must_use]
pub fn text(status: &RelayStatus) -> String {
    let mut text = String::new();
    let gauges = [
        ("clients", "Clients that are there now.", status.clients),
        ("streams", "WebSockets that are open now.", status.streams),
        (
            "draining",
            "1 while the relay takes nobody new and will stop.",
            usize::from(status.is_draining),
        ),
    ];
    for (name, help, value) in gauges {
        head(&mut text, name, help, "gauge");
        let _ = writeln!(text, "runmesh_relay_{name} {value}");
    }
    for (name, help, value) in counters(status) {
        head(&mut text, name, help, "counter");
        let _ = writeln!(text, "runmesh_relay_{name} {value}");
    }
    head(
        &mut text,
        "cpu_seconds_total",
        "Processor time of the relay's thread.",
        "counter",
    );
    let _ = writeln!(
        text,
        "runmesh_relay_cpu_seconds_total {}",
        status.cpu.as_secs_f64()
    );
    drops(&mut text, status);
    text
}

fn counters(status: &RelayStatus) -> [(&'static str, &'static str, u64); 8] {
    let (relay, shell) = (&status.relay, &status.shell);
    [
        (
            "datagrams_forwarded_total",
            "Datagrams passed on.",
            relay.datagrams_forwarded,
        ),
        (
            "bytes_forwarded_total",
            "Bytes in datagrams passed on, frame headers not counted.",
            relay.bytes_forwarded,
        ),
        (
            "datagrams_received_total",
            "UDP datagrams received.",
            shell.datagrams_received,
        ),
        ("bytes_received_total", "Bytes in those.", shell.bytes_received),
        (
            "stun_requests_total",
            "STUN requests answered.",
            relay.stun_requests,
        ),
        (
            "expulsions_total",
            "Nodes that were shut out, whether they were there or not.",
            relay.expulsions,
        ),
        (
            "streams_unbound_total",
            "WebSockets closed because no client was bound to them.",
            shell.streams_unbound,
        ),
        (
            "receives_refused_total",
            "Receives that the system refused.",
            shell.receives_refused,
        ),
    ]
}

fn drops(text: &mut String, status: &RelayStatus) {
    head(
        text,
        "dropped_total",
        "Frames that were not passed on, by reason.",
        "counter",
    );
    let shell = &status.shell;
    let of_the_shell = [
        ("send_blocked", shell.sends_blocked),
        ("send_refused", shell.sends_refused),
        ("stream_full", shell.stream_full),
        ("not_stun", shell.not_stun),
    ];
    let of_the_protocol = RelayDrop::ALL.map(|(reason, name)| (name, status.relay.dropped(reason)));
    for (name, count) in of_the_protocol.into_iter().chain(of_the_shell) {
        let _ = writeln!(text, "runmesh_relay_dropped_total{{reason=\"{name}\"}} {count}");
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(
        text,
        "# HELP runmesh_relay_{name} {help}\n# TYPE runmesh_relay_{name} {kind}"
    );
}
