//! Routers that lie, talk rubbish, say nothing or know only the older protocol, played by a socket in a namespace of its own.
//! A real one is asked in the lab.

use std::net::{Ipv4Addr, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mesh::port_mapping::Protocol;
use net::port_mapping::{OpenError, Opened, Router};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio_util::sync::CancellationToken;

const ROUTER: Router = Router {
    gateway: Ipv4Addr::new(192, 0, 2, 1),
    local: Ipv4Addr::new(192, 0, 2, 2),
};

const PORT: NonZeroU16 = NonZeroU16::new(5555).expect("not 0");

/// A network namespace; dropping it takes it down.
struct Namespace(String);

impl Namespace {
    fn new(number: usize) -> Option<Self> {
        let namespace = Self(format!("runmesh-router-{}-{number}", std::process::id()));
        let name = namespace.0.as_str();
        let made = run(&["netns", "add", name])
            && run(&["-n", name, "link", "set", "lo", "up"])
            && run(&["-n", name, "addr", "add", "192.0.2.1/32", "dev", "lo"])
            && run(&["-n", name, "addr", "add", "192.0.2.2/32", "dev", "lo"]);
        if !made {
            eprintln!("SKIPPED: no network namespace can be made here");
        }
        made.then_some(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&["netns", "del", &self.0]);
    }
}

fn run(words: &[&str]) -> bool {
    let output = Command::new("ip").args(words).output();
    output.is_ok_and(|output| output.status.success())
}

/// What a router says to a datagram, if it says anything.
type Answer = fn(&[u8]) -> Option<Vec<u8>>;

/// Asks a router that answers each datagram as `answer` says; `None` where no namespace can be made.
fn ask(
    number: usize,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Option<(Result<Opened, OpenError>, Duration)> {
    ask_until(number, CancellationToken::new(), answer)
}

/// The same, by somebody who wants no port any more once `stop` is cancelled.
fn ask_until(
    number: usize,
    stop: CancellationToken,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Option<(Result<Opened, OpenError>, Duration)> {
    let namespace = Namespace::new(number)?;
    let asking = std::thread::spawn(move || {
        let place = std::fs::File::open(format!("/run/netns/{}", namespace.0)).expect("the namespace");
        move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).expect("enters");
        let socket = UdpSocket::bind((ROUTER.gateway, 5351)).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if let Some(bytes) = answer(&buffer[..len]) {
                    let _ = socket.send_to(&bytes, from);
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let start = Instant::now();
        let opened = runtime.block_on(Opened::open(ROUTER, PORT, None, &stop));
        drop(runtime);
        drop(namespace);
        (opened, start.elapsed())
    });
    Some(asking.join().expect("no panic"))
}

/// A router that knows NAT-PMP only, whose outer address is this one.
fn nat_pmp(message: &[u8], outer: [u8; 4]) -> Option<Vec<u8>> {
    match message {
        [2, ..] => Some(vec![0, 0x80, 0, 1, 0, 0, 0, 9]),
        [0, 0] => Some([&[0, 0x80, 0, 0, 0, 0, 0, 9], outer.as_slice()].concat()),
        [0, 1, _, _, inner @ .., _, _, _, _] => {
            let port = &inner[..2];
            Some(
                [
                    &[0, 0x81, 0, 0, 0, 0, 0, 9],
                    port,
                    &[0x10, 0x01],
                    &[0, 0, 0x1c, 0x20],
                ]
                .concat(),
            )
        }
        _ => None,
    }
}

#[test]
fn a_router_that_knows_only_the_older_protocol_is_asked_by_it() {
    let Some((opened, _)) = ask(1, |message| nat_pmp(message, [203, 0, 113, 9])) else {
        return;
    };
    let grant = opened.expect("opened").grant();
    assert_eq!(grant.protocol, Protocol::NatPmp);
    assert_eq!(grant.address.to_string(), "203.0.113.9:4097");
    assert_eq!(grant.lifetime, Duration::from_secs(7200));
}

#[test]
fn a_port_of_which_the_router_says_nothing_is_taken_back_when_nobody_wants_it_any_more() {
    let inner = PORT.get().to_be_bytes();
    // By the older protocol, and by PCP: how a question begins, where its lifetime stands, and where its port.
    for (number, opcode, lifetime, port) in [(30, [0, 1], 8, 4), (31, [2, 1], 4, 40)] {
        let (stop, heard) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let (stopping, hearing) = (stop.clone(), Arc::clone(&heard));
        let asked = ask_until(number, stop, move |message| {
            if !message.starts_with(&opcode) {
                return nat_pmp(message, [203, 0, 113, 9]);
            }
            assert_eq!(message[port..port + 2], inner);
            let seconds = message[lifetime..lifetime + 4].try_into().expect("four bytes");
            hearing
                .lock()
                .expect("no panic")
                .push(u32::from_be_bytes(seconds));
            stopping.cancel();
            None
        });
        let Some((opened, time)) = asked else {
            return;
        };
        assert!(matches!(opened, Err(OpenError::Stopped)), "{opened:?}");
        assert!(time < Duration::from_millis(2500), "{time:?}");
        let heard = heard.lock().expect("no panic");
        assert!(heard[0] == 7200 && heard.last() == Some(&0), "{heard:?}");
    }
}

#[test]
fn rubbish_and_answers_to_other_questions_open_nothing_and_nobody_waits_long() {
    let answers: [Answer; 6] = [
        |_| None,
        |_| Some(vec![0xff; 1400]),
        |_| Some(Vec::new()),
        |message| Some(message.to_vec()),
        // Success for another port.
        |message| {
            let mut answer = nat_pmp(message, [203, 0, 113, 9])?;
            answer.get_mut(8..10)?.fill(7);
            Some(answer)
        },
        // PCP with a nonce of its own.
        |message| {
            let mut answer = message.to_vec();
            *answer.get_mut(1)? |= 0x80;
            answer.get_mut(24..36)?.fill(1);
            Some(answer)
        },
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let Some((opened, time)) = ask(10 + number, answer) else {
            return;
        };
        match opened {
            // The external address is not checked here, and a port of 0x0707 was never asked for.
            Ok(opened) => panic!("{number}: {opened:?}"),
            Err(OpenError::Refused(_) | OpenError::TooSlow) => {}
            Err(OpenError::Stopped) => panic!("{number}: nobody stopped it"),
        }
        assert!(time < Duration::from_secs(16), "{number}: {time:?}");
    }
}
