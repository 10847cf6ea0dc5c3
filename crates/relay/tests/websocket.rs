//! Clients in WebSockets at a running relay, served by the crate's own door.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{GIVE_UP, UdpNode, World, client, get, key, known, options};
use futures_util::{SinkExt as _, StreamExt as _};
use mesh::relay::client::{ClientEvent, RelayClient};
use net::clock::Clock;
use relay::websocket::{MESSAGE_BYTES_MAX, PATH, WebSocketOptions};
use relay::{door, metrics, websocket};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;
use types::NodePublicKey;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A relay with WebSockets and metrics on one TCP port.
struct Served {
    world: World,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Served {
    fn new(relay: relay::RelayOptions, options: WebSocketOptions) -> Self {
        let world = World::new(relay);
        let stop = CancellationToken::new();
        let listener = world
            .runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("binds");
        let address = listener.local_addr().expect("bound");
        let router =
            websocket::router(world.relay.clone(), options).merge(metrics::router(world.relay.clone()));
        world
            .runtime
            .spawn(door::serve(listener, router, None, stop.clone()));
        Self { world, address, stop }
    }

    async fn connect(&self) -> Result<Socket, Error> {
        let url = format!("ws://{}{PATH}", self.address);
        let connected = timeout(GIVE_UP, tokio_tungstenite::connect_async(url)).await;
        connected.expect("in time").map(|(socket, _)| socket)
    }

    async fn node(&self, who: u8) -> WsNode {
        let socket = self.connect().await.expect("upgraded");
        let mut node = WsNode {
            client: client(&self.world.relay, who),
            socket,
            inbox: Vec::new(),
            events: Vec::new(),
        };
        node.until(|node| node.client.is_up()).await;
        node
    }
}

/// A client in a WebSocket.
struct WsNode {
    client: RelayClient,
    socket: Socket,
    inbox: Vec<(NodePublicKey, Vec<u8>)>,
    events: Vec<ClientEvent>,
}

impl WsNode {
    async fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let clock = Clock::new();
        let end = tokio::time::Instant::now() + GIVE_UP;
        loop {
            self.client.handle_timeout(clock.mono());
            while let Some(frame) = self.client.poll_transmit() {
                self.socket
                    .send(Message::Binary(frame.into()))
                    .await
                    .expect("sends");
            }
            while let Some(event) = self.client.poll_event() {
                self.events.push(event);
            }
            if is_so(self) {
                return;
            }
            let message = tokio::time::timeout_at(end, self.socket.next())
                .await
                .expect("waited in vain");
            if let Message::Binary(frame) = message.expect("open").expect("no error") {
                let mut frame = frame.to_vec();
                let delivered = self.client.handle_frame(&mut frame, known, clock.mono());
                if let Some(delivered) = delivered.expect("a frame") {
                    self.inbox.push((delivered.from, delivered.datagram.to_vec()));
                }
            }
        }
    }

    async fn send(&mut self, to: u8, datagram: &[u8]) {
        let header = self.client.header(&key(to).public()).expect("up");
        let frame = [header.as_bytes(), datagram].concat();
        self.socket
            .send(Message::Binary(frame.into()))
            .await
            .expect("sends");
    }
}

/// Reads until the relay closes; returns the code it gave.
async fn closed(socket: &mut Socket) -> Option<CloseCode> {
    let reading = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    timeout(GIVE_UP, reading).await.expect("the relay closes")
}

#[test]
fn a_client_in_a_websocket_reaches_one_over_udp_and_back() {
    let served = Served::new(options(), WebSocketOptions::default());
    let mut udp = served.world.node(1);
    let runtime = &served.world.runtime;
    let mut ws = runtime.block_on(served.node(2));
    runtime.block_on(ws.send(1, b"from a stream"));
    udp.until(|node| node.inbox == [(key(2).public(), b"from a stream".to_vec())]);
    udp.send(2, &[b"one", b"two", b"3"]);
    runtime.block_on(ws.until(|node| node.inbox.len() == 3));
    assert_eq!(ws.inbox[2], (key(1).public(), b"3".to_vec()));
    let status = served.world.status();
    assert_eq!((status.clients, status.streams), (2, 1));
    drop(ws);
    // The socket closed, so the client is gone without waiting for its silence.
    served
        .world
        .until(|status| (status.streams, status.clients) == (0, 1));
    udp.send(2, &[b"nobody"]);
    udp.until(|node| {
        node.events.contains(&ClientEvent::NotHere {
            peer: Some(key(2).public()),
        })
    });
}

#[test]
fn what_is_no_binary_message_of_the_right_size_closes() {
    let served = Served::new(options(), WebSocketOptions::default());
    served.world.runtime.block_on(async {
        let mut socket = served.connect().await.expect("upgraded");
        socket.send(Message::Text("hello".into())).await.expect("sends");
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Unsupported));
        let mut socket = served.connect().await.expect("upgraded");
        let long = vec![0x84; MESSAGE_BYTES_MAX + 1];
        let _ = socket.send(Message::Binary(long.into())).await;
        closed(&mut socket).await;
        // Rubbish of the right size is the protocol's to judge, and only counted.
        let mut socket = served.connect().await.expect("upgraded");
        let rubbish = vec![0x84; MESSAGE_BYTES_MAX];
        socket.send(Message::Binary(rubbish.into())).await.expect("sends");
        let answer = timeout(GIVE_UP, socket.next()).await.expect("in time");
        assert_eq!(answer.expect("open").expect("no error").into_data().len(), 4);
    });
    served.world.until(|status| status.streams == 0);
}

#[test]
fn a_websocket_without_a_client_and_a_silent_one_are_closed() {
    let mut relay = options();
    relay.unbound_max = Duration::from_millis(200);
    let served = Served::new(relay, WebSocketOptions::default());
    served.world.runtime.block_on(async {
        let mut idle = served.connect().await.expect("upgraded");
        assert_eq!(closed(&mut idle).await, Some(CloseCode::Again));
        // One with a client stays.
        let mut node = served.node(1).await;
        let mut second = served.connect().await.expect("upgraded");
        assert_eq!(closed(&mut second).await, Some(CloseCode::Again));
        node.client.check(Clock::new().mono());
        node.until(|node| {
            node.events
                .iter()
                .any(|event| matches!(event, ClientEvent::Confirmed { .. }))
        })
        .await;
    });
    assert_eq!(served.world.status().shell.streams_unbound, 2);

    let silence = WebSocketOptions {
        silence_max: Duration::from_millis(200),
        ..WebSocketOptions::default()
    };
    let served = Served::new(options(), silence);
    served.world.runtime.block_on(async {
        let mut silent = served.connect().await.expect("upgraded");
        assert_eq!(closed(&mut silent).await, Some(CloseCode::Away));
    });
}

#[test]
fn pings_keep_a_connection_whose_other_end_answers() {
    let brisk = WebSocketOptions {
        ping_interval: Duration::from_millis(20),
        silence_max: Duration::from_millis(500),
        ..WebSocketOptions::default()
    };
    let served = Served::new(options(), brisk);
    served.world.runtime.block_on(async {
        let mut socket = served.connect().await.expect("upgraded");
        // Forty pings are longer than the silence that is borne.
        for _ in 0..40 {
            let message = timeout(GIVE_UP, socket.next()).await.expect("in time");
            let message = message.expect("open").expect("no error");
            assert!(matches!(message, Message::Ping(_)), "{message:?}");
        }
    });
}

#[test]
fn a_stalled_websocket_loses_its_own_and_nobody_elses() {
    let served = Served::new(options(), WebSocketOptions::default());
    let (mut a, mut b) = (served.world.node(1), served.world.node(2));
    a.get_acquainted(&mut b);
    let mut stalled = served.world.runtime.block_on(served.node(3));
    let mut sent = 0;
    while served.world.status().shell.stream_full == 0 {
        assert!(sent < 1_000_000_000, "nothing stalls");
        for _ in 0..10 {
            a.send(3, &[&[0; 1400][..]; 40]);
            sent += 10 * 40 * 1400;
        }
        a.turn();
    }
    pass(&mut a, &mut b, 100);
    // It comes back: what is queued arrives, and then what is new.
    let runtime = &served.world.runtime;
    runtime.block_on(stalled.until(|node| !node.inbox.is_empty()));
    let begun = std::time::Instant::now();
    while !stalled.inbox.iter().any(|(_, datagram)| datagram == b"new") {
        assert!(begun.elapsed() < GIVE_UP, "nothing new comes through");
        a.send(3, &[b"new"]);
        let before = stalled.inbox.len();
        runtime.block_on(stalled.until(|node| node.inbox.len() > before));
    }
}

/// Sends so many datagrams to a peer, each after the one before has arrived.
fn pass(a: &mut UdpNode, b: &mut UdpNode, count: u32) {
    for number in 0..count {
        let text = number.to_be_bytes();
        a.send(b.who, &[&text]);
        b.until(|node| node.inbox.last().is_some_and(|(_, last)| *last == text));
    }
}

#[test]
fn one_address_has_so_many_websockets_and_no_more() {
    let few = WebSocketOptions {
        per_address_max: 2,
        ..WebSocketOptions::default()
    };
    let served = Served::new(options(), few);
    served.world.runtime.block_on(async {
        let first = served.connect().await.expect("upgraded");
        let _second = served.connect().await.expect("upgraded");
        let Err(Error::Http(answer)) = served.connect().await else {
            panic!("a third one was let in");
        };
        assert_eq!(answer.status(), 429);
        drop(first);
        let again = async {
            while served.connect().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(GIVE_UP, again).await.expect("the place is given back");
    });
    // The relay has a limit of its own.
    let mut relay = options();
    relay.streams_max = 1;
    let served = Served::new(relay, WebSocketOptions::default());
    served.world.runtime.block_on(async {
        let _first = served.node(1).await;
        let mut second = served.connect().await.expect("upgraded");
        assert_eq!(closed(&mut second).await, Some(CloseCode::Again));
    });
}

#[test]
fn a_drained_relay_tells_and_closes_its_websockets() {
    let served = Served::new(options(), WebSocketOptions::default());
    let runtime = &served.world.runtime;
    runtime.block_on(async {
        let mut node = served.node(1).await;
        assert!(get(served.address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let relay = served.world.relay.clone();
        let drained = tokio::spawn(async move { relay.drain(GIVE_UP).await });
        let left = GIVE_UP;
        node.until(|node| node.events.contains(&ClientEvent::Draining { left }))
            .await;
        let health = get(served.address, "/healthz").await;
        assert!(
            health.starts_with("HTTP/1.1 503") && health.ends_with("draining\n"),
            "{health}"
        );
        let mut late = served.connect().await.expect("upgraded");
        assert_eq!(closed(&mut late).await, Some(CloseCode::Again));
        drop(node);
        timeout(GIVE_UP, drained)
            .await
            .expect("in time")
            .expect("no panic");
        let health = get(served.address, "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    });
}

#[test]
fn metrics_are_amounts_and_nothing_else() {
    let mut relay = options();
    relay.stun_listen = Some(common::loopback());
    let served = Served::new(relay, WebSocketOptions::default());
    let (mut a, mut b) = (served.world.node(1), served.world.node(2));
    a.get_acquainted(&mut b);
    a.raw(&[0x99; 30], 30);
    let runtime = &served.world.runtime;
    let _ws = runtime.block_on(served.node(3));
    let text = runtime.block_on(get(served.address, "/metrics"));
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    for line in [
        "runmesh_relay_clients 3",
        "runmesh_relay_streams 1",
        "runmesh_relay_datagrams_forwarded_total 1",
        "runmesh_relay_bytes_forwarded_total 5",
        "runmesh_relay_stun_requests_total 0",
        "runmesh_relay_dropped_total{reason=\"bad_frame\"} 1",
        "runmesh_relay_dropped_total{reason=\"stream_full\"} 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in {text}");
    }
    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    for secret in [
        key(1).public().to_string(),
        key(0xee).public().to_string(),
        "127.0.0.1".to_owned(),
    ] {
        assert!(!body.contains(&secret));
    }
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(
            name.starts_with("runmesh_relay_") && value.parse::<f64>().is_ok(),
            "{line}"
        );
    }
}

#[test]
fn rubbish_on_the_tcp_port_ends_only_itself() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let served = Served::new(options(), WebSocketOptions::default());
    served.world.runtime.block_on(async {
        for rubbish in [
            &[0_u8; 200][..],
            b"\x16\x03\x01\x02\x00\x01",
            b"GET / HTTP/1.1\r\nX: ",
        ] {
            let mut stream = TcpStream::connect(served.address).await.expect("connects");
            stream.write_all(rubbish).await.expect("sends");
            stream.shutdown().await.expect("half closed");
            let mut answer = Vec::new();
            let read = timeout(GIVE_UP, stream.read_to_end(&mut answer)).await;
            let _ = read.expect("it is closed");
        }
        let plain = get(served.address, PATH).await;
        assert!(plain.starts_with("HTTP/1.1 4"), "{plain}");
        served.node(1).await;
    });
    served.stop.cancel();
}
