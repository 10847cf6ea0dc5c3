//! Takes HTTP connections: a bounded number, in all and per address, each of which must ask for something soon.
//!
//! It knows no route. It finds out who is asking: the other end of the connection, or whom a trusted proxy names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::EXPECT;
use axum::http::{HeaderMap, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;
use types::AllowedIp;

use crate::bare::Enveloped;
use crate::http::ClientIp;
use crate::serve::Tuning;
use crate::unread::Drained;

/// How many connections are held at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;

/// How many of them one address may hold: devices behind one NAT are many, a single client is not.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 1024;

/// How long a client may take to send the head of a request, and an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// After how much silence the kernel asks whether the other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long to wait when the process has no descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most entries of `X-Forwarded-For` that are looked at.
const HOPS_MAX: usize = 16;

/// Where connections come in.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    proxies: Arc<[AllowedIp]>,
    head_timeout: Duration,
    per_address_max: usize,
    inside: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// One connection's place; given back when it is dropped.
struct Place {
    door: Door,
    ip: IpAddr,
}

impl Door {
    /// A door that believes these proxies.
    pub(crate) fn new(proxies: &[AllowedIp], tuning: Tuning) -> Self {
        Self {
            proxies: proxies.into(),
            head_timeout: tuning.head_timeout.unwrap_or(HEAD_TIMEOUT),
            per_address_max: tuning
                .connections_per_address_max
                .unwrap_or(CONNECTIONS_PER_ADDRESS_MAX),
            inside: Arc::default(),
        }
    }

    /// Serves until `stop`, and then until every request under way is answered.
    pub(crate) async fn serve(self, listener: TcpListener, router: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
                () = tokio::time::sleep(ACCEPT_PAUSE), if connections.len() >= CONNECTIONS_MAX => continue,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Without a place the connection is closed at once: nothing is owed to a flood.
                    if let Some(place) = self.place(peer) {
                        let serving = connection(place, (stream, peer), router.clone(), stop.clone());
                        connections.spawn(serving);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    fn place(&self, peer: SocketAddr) -> Option<Place> {
        let ip = peer.ip().to_canonical();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let held = inside.entry(origin(ip)).or_default();
        if *held >= self.per_address_max && !self.trusts(ip) {
            tracing::debug!(%ip, "an address holds too many connections");
            return None;
        }
        *held += 1;
        Some(Place {
            door: self.clone(),
            ip,
        })
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.proxies.iter().any(|block| block.contains(ip))
    }

    /// Finds who asks. Each proxy appends whom it heard from, so that the list is believed from its end, up to the
    /// first address that is no proxy of ours.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientIp {
        let mut client = peer;
        let values = headers.get_all("x-forwarded-for").iter();
        // A line that is no text names no address and so ends the walk, as any rubbish does.
        let texts: Vec<&str> = values.map(|value| value.to_str().unwrap_or_default()).collect();
        let hops = texts.iter().rev().flat_map(|text| text.rsplit(','));
        for hop in hops.take(HOPS_MAX) {
            if !self.trusts(client) {
                break;
            }
            let Ok(ip) = hop.trim().parse::<IpAddr>() else {
                break;
            };
            client = ip.to_canonical();
        }
        ClientIp(client)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origin(self.ip);
        if let Some(held) = inside.get_mut(&origin) {
            *held -= 1;
            if *held == 0 {
                inside.remove(&origin);
            }
        }
    }
}

/// Returns what counts as one address: an IPv4 address, or the first of the /64 that an IPv6 host is given whole.
pub(crate) fn origin(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
    }
}

async fn connection(
    place: Place,
    (stream, peer): (TcpStream, SocketAddr),
    router: Router,
    stop: CancellationToken,
) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "a connection has no keepalive");
    }
    // Small answers and frames go out at once; a socket that refuses is only slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|mut request: Request<Incoming>| {
        let client = place.door.client(place.ip, request.headers());
        request.extensions_mut().insert(client);
        // For routes that other crates bring with them.
        let remote = ConnectInfo(SocketAddr::new(client.0, peer.port()));
        request.extensions_mut().insert(remote);
        // A client that asks first sends no body after a refusal: what follows is its next request.
        let asks_first = request.headers().contains_key(EXPECT);
        let request = request.map(|body| match asks_first {
            true => Body::new(body),
            false => Body::new(Drained::new(body)),
        });
        router.clone().call(request)
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(place.door.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    let serving = builder
        .serve_connection(TokioIo::new(Enveloped::new(stream)), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn door(proxies: &[&str]) -> Door {
        let blocks: Vec<AllowedIp> = proxies
            .iter()
            .map(|text| text.parse().expect("a block"))
            .collect();
        Door::new(&blocks, Tuning::default())
    }

    fn client(door: &Door, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).expect("a header");
            headers.append("x-forwarded-for", line);
        }
        door.client(peer.parse().expect("an address"), &headers)
            .0
            .to_string()
    }

    #[test]
    fn nobody_but_a_trusted_proxy_says_who_asks() {
        let plain = door(&[]);
        assert_eq!(client(&plain, "192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        let door = door(&["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(client(&door, "192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(client(&door, "10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(client(&door, "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client(&door, "fd00::1", &["2001:db8::7"]), "2001:db8::7");
    }

    #[test]
    fn what_a_client_wrote_itself_into_the_list_is_not_believed() {
        let door = door(&["10.0.0.0/8"]);
        assert_eq!(
            client(&door, "10.0.0.1", &["127.0.0.1, 203.0.113.9"]),
            "203.0.113.9"
        );
        assert_eq!(
            client(&door, "10.0.0.1", &["127.0.0.1", "203.0.113.9, 10.9.9.9"]),
            "203.0.113.9"
        );
        assert_eq!(client(&door, "10.0.0.1", &["198.51.100.1, rubbish"]), "10.0.0.1");
        assert_eq!(
            client(&door, "10.0.0.1", &["198.51.100.1", "\u{e9}, 203.0.113.9"]),
            "10.0.0.1"
        );
        assert_eq!(client(&door, "10.0.0.1", &["::ffff:203.0.113.9"]), "203.0.113.9");
        let long = vec!["10.0.0.2"; 1000].join(",");
        assert_eq!(
            client(&door, "10.0.0.1", &[&format!("203.0.113.9,{long}")]),
            "10.0.0.2"
        );
    }

    #[test]
    fn places_are_counted_per_address_and_given_back() {
        let mut door = door(&["10.0.0.0/8"]);
        door.per_address_max = 2;
        let peer = |text: &str| SocketAddr::new(text.parse().expect("an address"), 1);
        let held = [door.place(peer("2001:db8::1")), door.place(peer("2001:db8::2"))];
        assert!(held.iter().all(Option::is_some));
        assert!(door.place(peer("2001:db8::3")).is_none());
        assert!(door.place(peer("2001:db8:0:1::3")).is_some());
        assert!(
            (0..9)
                .map(|_| door.place(peer("10.0.0.1")))
                .collect::<Vec<_>>()
                .iter()
                .all(Option::is_some)
        );
        drop(held);
        assert!(door.place(peer("2001:db8::3")).is_some());
        assert!(door.inside.lock().expect("not poisoned").is_empty());
    }
}
