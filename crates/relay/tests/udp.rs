//! Clients over UDP at a running relay.

mod common;

use std::net::UdpSocket as StdUdpSocket;
use std::time::Duration;

use common::{GIVE_UP, UdpNode, World, expulsion, key, loopback, options};
use mesh::relay::client::ClientEvent;
use mesh::relay::server::{Quota, RelayDrop};
use mesh::stun::{self, Answer};
use net::clock::Clock;
use relay::{Relay, StartError};

#[test]
fn two_clients_exchange_datagrams() {
    let world = World::new(options());
    let (mut a, mut b) = (world.node(1), world.node(2));
    a.send(2, &[b"by key"]);
    b.until(|node| node.inbox == [(key(1).public(), b"by key".to_vec())]);
    b.send(1, &[b"one", b"two", b"3"]);
    a.until(|node| node.inbox.len() == 3);
    let texts: Vec<_> = a.inbox.iter().map(|(_, text)| text.as_slice()).collect();
    assert_eq!(texts, [b"one".as_slice(), b"two", b"3"]);
    let status = world.status();
    assert_eq!((status.clients, status.streams), (2, 0));
    assert_eq!(status.relay.datagrams_forwarded, 4);
    assert_eq!(status.relay.bytes_forwarded, 13);
    assert!(status.cpu > Duration::ZERO);
    let observed = |event: &ClientEvent| match event {
        ClientEvent::Up { observed, .. } => Some(*observed),
        _ => None,
    };
    assert_eq!(a.events.iter().find_map(observed), Some(a.socket.local_addr()));
}

#[test]
fn a_batch_leaves_as_a_batch() {
    let world = World::new(options());
    let (mut a, mut b) = (world.node(1), world.node(2));
    a.get_acquainted(&mut b);
    b.batches.clear();
    let datagrams: Vec<Vec<u8>> = (0..64).map(|fill| vec![fill; 900]).collect();
    let datagrams: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
    a.send(2, &datagrams);
    b.until(|node| node.inbox.len() == 64);
    let arrived: Vec<_> = b.inbox.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    assert_eq!(arrived, datagrams);
    // Where the system can do it, they have never been apart.
    if b.socket.has_segmentation() {
        assert_eq!(b.batches, [64]);
    }
}

#[test]
fn datagrams_sent_one_by_one_all_arrive_in_order() {
    let world = World::new(options());
    let (mut a, mut b) = (world.node(1), world.node(2));
    a.get_acquainted(&mut b);
    for number in 0_u32..200 {
        let datagram = [
            number.to_be_bytes().as_slice(),
            &vec![0; (number % 7) as usize * 100],
        ]
        .concat();
        a.send(2, &[&datagram]);
        if number % 20 == 19 {
            b.until(|node| node.inbox.len() > number as usize);
        }
    }
    let numbers: Vec<u32> = b
        .inbox
        .iter()
        .map(|(_, bytes)| u32::from_be_bytes(bytes[..4].try_into().expect("a number")))
        .collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_restarted_relay_is_found_again_with_the_next_datagram() {
    let mut world = World::new(options());
    let (mut a, mut b) = (world.node(1), world.node(2));
    a.get_acquainted(&mut b);
    let listen = world.relay.local_addr();
    world.runtime.block_on(world.relay.shutdown());
    assert!(world.runtime.block_on(world.relay.status()).is_err());
    let mut again = options();
    again.listen = listen;
    world.relay = Relay::start(again).expect("the port is free when shutdown returns");
    for node in [&mut a, &mut b] {
        node.events.clear();
        let other = 3 - node.who;
        node.send(other, &[b"lost"]);
        node.until(|node| {
            node.events
                .iter()
                .any(|event| matches!(event, ClientEvent::Up { .. }))
        });
    }
    a.send(2, &[b"again"]);
    b.until(|node| node.inbox.iter().any(|(_, text)| text == b"again"));
}

#[test]
fn a_draining_relay_tells_its_clients_takes_nobody_and_stops_when_they_have_gone() {
    let world = World::new(options());
    let (mut a, mut b) = (world.node(1), world.node(2));
    let relay = world.relay.clone();
    let draining = world.runtime.spawn(async move { relay.drain(GIVE_UP).await });
    let told = ClientEvent::Draining { left: GIVE_UP };
    for node in [&mut a, &mut b] {
        node.until(|node| node.events.contains(&told));
    }
    assert!(world.status().is_draining);
    let mut late = UdpNode::new(&world.relay, 3);
    late.turn();
    world.until_with(&mut late, |status| status.relay.dropped(RelayDrop::Draining) > 0);
    assert!(!late.client.is_up());
    a.send(2, &[b"still passes"]);
    b.until(|node| node.inbox.len() == 1);
    assert!(!draining.is_finished());
    for node in [&mut a, &mut b] {
        node.client.disconnect();
        node.turn();
    }
    let drained = async { tokio::time::timeout(GIVE_UP, draining).await };
    world
        .runtime
        .block_on(drained)
        .expect("in time")
        .expect("no panic");
    StdUdpSocket::bind(world.relay.local_addr()).expect("the port is free");
}

#[test]
fn a_draining_relay_does_not_wait_longer_than_it_said() {
    let world = World::new(options());
    let mut stays = world.node(1);
    let drained = async { tokio::time::timeout(GIVE_UP, world.relay.drain(Duration::from_millis(50))).await };
    world.runtime.block_on(drained).expect("in time");
    world.runtime.block_on(world.relay.stopped());
    stays.until(|node| {
        node.events
            .iter()
            .any(|event| matches!(event, ClientEvent::Draining { .. }))
    });
}

#[test]
fn an_expelled_node_is_out_and_others_are_not() {
    let world = World::new(options());
    let (mut a, mut b) = (world.node(1), world.node(2));
    a.get_acquainted(&mut b);
    let expel = |who| {
        let expelled = world.relay.expel(expulsion(who));
        world.runtime.block_on(expelled).expect("believed")
    };
    assert!(expel(2) && !expel(3));
    b.send(1, &[b"not any more"]);
    b.until(|node| node.events.contains(&ClientEvent::Down));
    world.until_with(&mut b, |status| status.relay.dropped(RelayDrop::Expelled) > 0);
    assert_eq!(world.status().clients, 1);
    assert!(a.inbox.is_empty());
    let mut c = world.node(4);
    a.get_acquainted(&mut c);
}

#[test]
fn a_relay_elsewhere_believes_whoever_brings_what_the_control_plane_has_signed() {
    let world = World::new(options());
    let (mut a, mut b) = (world.node(1), world.node(2));
    a.get_acquainted(&mut b);
    a.client.hand_over(expulsion(2), Clock::new().mono());
    world.until_with(&mut a, |status| status.clients == 1);
    assert_eq!(world.status().relay.expulsions, 1);
    b.send(1, &[b"not any more"]);
    b.until(|node| node.events.contains(&ClientEvent::Down));
    world.until_with(&mut b, |status| status.relay.dropped(RelayDrop::Expelled) > 0);
}

#[test]
fn a_flood_of_one_client_is_cut_to_its_quota_and_others_pass() {
    let mut options = options();
    options.quota = Quota {
        bytes_per_second: 1_000_000,
        burst_bytes: 100_000,
    };
    let world = World::new(options);
    let (mut a, mut b) = (world.node(1), world.node(2));
    let (mut flooder, mut drowned) = (world.node(3), world.node(4));
    a.get_acquainted(&mut b);
    flooder.get_acquainted(&mut drowned);
    let mut waits = Vec::new();
    for number in 0_u32..50 {
        for _ in 0..10 {
            flooder.send(4, &[&[0; 1400][..]; 40]);
        }
        let begun = std::time::Instant::now();
        // What the kernel has no room for in a flood is sent again, as whatever is inside would.
        let text = number.to_be_bytes();
        while b.inbox.last().is_none_or(|(_, last)| *last != text) {
            assert!(begun.elapsed() < GIVE_UP, "starved");
            a.send(2, &[&text]);
            b.works_until(
                |node| node.inbox.last().is_some_and(|(_, last)| *last == text),
                Duration::from_millis(20),
            );
        }
        waits.push(begun.elapsed());
    }
    waits.sort();
    assert!(waits[25] < Duration::from_millis(500), "median {:?}", waits[25]);
    let status = world.status();
    assert!(status.relay.dropped(RelayDrop::TooMuch) > 0);
    flooder.until(|node| node.events.contains(&ClientEvent::TooMuch));
    // Twenty-eight megabytes were sent; the burst and what the time allowed have passed.
    drowned.turn();
    let passed: usize = drowned.inbox.iter().map(|(_, datagram)| datagram.len()).sum();
    assert!(passed < 28_000_000 / 2, "{passed}");
}

#[test]
fn both_ports_answer_stun_and_survive_rubbish() {
    let mut options = options();
    options.stun_listen = Some(loopback());
    let world = World::new(options);
    let second = world.relay.stun_addr().expect("asked for");
    let socket = StdUdpSocket::bind(loopback()).expect("binds");
    socket.set_read_timeout(Some(GIVE_UP)).expect("a limit");
    let mut rubbish: Vec<Vec<u8>> = (0..=255_u8)
        .map(|first| vec![first; 1 + usize::from(first) * 5])
        .collect();
    rubbish.push(vec![0x84; 60_000]);
    for port in [world.relay.local_addr(), second] {
        for bytes in &rubbish {
            socket.send_to(bytes, port).expect("sends");
        }
        let transaction = [port.port() as u8; 12];
        socket.send_to(&stun::request(transaction), port).expect("sends");
        let mut buffer = [0; 2048];
        let observed = loop {
            let (len, from) = socket.recv_from(&mut buffer).expect("an answer in time");
            if let Some((id, observed)) = stun::parse_response(&buffer[..len]) {
                assert_eq!((id, from), (transaction, port));
                break observed;
            }
        };
        assert_eq!(observed, socket.local_addr().expect("bound"));
    }
    let status = world.status();
    assert_eq!(status.relay.stun_requests, 2);
    assert!(status.relay.dropped(RelayDrop::BadFrame) > 0);
    assert!(status.shell.not_stun > 0);
    // The relay is as well as before.
    let (mut a, mut b) = (world.node(1), world.node(2));
    a.get_acquainted(&mut b);
}

#[test]
fn the_second_port_answers_from_the_first_and_to_another_port_of_who_asks() {
    let mut options = options();
    options.stun_listen = Some(loopback());
    let world = World::new(options);
    let (first, second) = (
        world.relay.local_addr(),
        world.relay.stun_addr().expect("asked for"),
    );
    let [asking, other] = [(); 2].map(|()| StdUdpSocket::bind(loopback()).expect("binds"));
    for socket in [&asking, &other] {
        socket.set_read_timeout(Some(GIVE_UP)).expect("a limit");
    }
    let seen_at = asking.local_addr().expect("bound");
    let to_other = Answer::ToPort(other.local_addr().expect("bound").port());
    for (answer, at, from) in [
        (Answer::Plain, &asking, second),
        (Answer::OtherPort, &asking, first),
        (to_other, &other, second),
    ] {
        let request = stun::request_for([7; 12], answer);
        // The first port serves no such wish; what it does not answer must not come here.
        if answer != Answer::Plain {
            asking.send_to(&request, first).expect("sends");
        }
        asking.send_to(&request, second).expect("sends");
        let mut buffer = [0; 100];
        let (len, source) = at.recv_from(&mut buffer).expect("an answer in time");
        assert_eq!(
            (stun::parse_response(&buffer[..len]), source),
            (Some(([7; 12], seen_at)), from)
        );
    }
    let status = world.status();
    assert_eq!(status.relay.stun_requests, 3);
    assert_eq!(status.relay.dropped(RelayDrop::BadFrame), 2);
}

#[test]
fn a_relay_that_cannot_be_is_refused() {
    let world = World::new(options());
    let mut twice = options();
    twice.listen = world.relay.local_addr();
    assert!(matches!(Relay::start(twice), Err(StartError::Bind { .. })));
    let mut mean = options();
    mean.quota.burst_bytes = 1000;
    assert!(matches!(Relay::start(mean), Err(StartError::QuotaTooSmall)));
}

#[test]
fn the_last_handle_takes_the_relay_with_it() {
    let world = World::new(options());
    let address = world.relay.local_addr();
    let World { relay, runtime } = world;
    drop(relay);
    let begun = std::time::Instant::now();
    while StdUdpSocket::bind(address).is_err() {
        assert!(begun.elapsed() < GIVE_UP, "the port is still taken");
        std::thread::yield_now();
    }
    drop(runtime);
}
