//! What is longer than a path takes: real datagrams in a network namespace whose loopback has a small MTU.
//!
//! Needs root and `ip` of the Debian package `iproute2`. Where they are missing the test prints `SKIPPED` with the reason,
//! and fails instead when `RUNMESH_REQUIRE_LAB=1`.

use std::net::{Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use net::udp::{SendOutcome, UdpSocket};
use rustix::fd::AsFd as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A full packet of the tunnel as a data message.
const SEGMENT: usize = 1452;

/// A network namespace; dropping it takes it down.
struct Namespace(String);

impl Namespace {
    fn new(mtu: usize) -> Result<Self, String> {
        let namespace = Self(format!("runmesh-path-{}", std::process::id()));
        run(&["netns", "add", &namespace.0])?;
        let mtu = mtu.to_string();
        run(&["-n", &namespace.0, "link", "set", "lo", "mtu", &mtu, "up"])?;
        Ok(namespace)
    }

    /// Does `work` inside, on a thread of its own.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let place = std::fs::File::open(format!("/run/netns/{}", self.0)).expect("the namespace");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).expect("enters");
                work()
            });
            inside.join().expect("no panic inside")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(&["netns", "del", &self.0]);
    }
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

/// Sends batches to a socket of every family and counts what arrives whole.
fn arrivals(listen: SocketAddr, datagrams: usize) -> usize {
    let far = std::net::UdpSocket::bind(listen).expect("binds");
    far.set_read_timeout(Some(Duration::from_secs(1))).expect("sets");
    let mut near = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0).into()).expect("binds");
    let (bytes, mut offset) = (vec![7; SEGMENT * datagrams], 0);
    let outcome = near.send(far.local_addr().expect("bound"), &bytes, SEGMENT, &mut offset);
    assert_eq!((outcome, offset), (SendOutcome::Sent, bytes.len()));
    assert!(near.has_segmentation(), "other paths keep it");
    let mut buffer = [0; 2048];
    let lens = std::iter::from_fn(|| far.recv(&mut buffer).ok()).take(datagrams);
    lens.filter(|len| *len == SEGMENT).count()
}

#[test]
fn a_batch_of_datagrams_longer_than_the_path_takes_arrives_in_fragments() {
    let namespace = match Namespace::new(1300) {
        Ok(namespace) => namespace,
        Err(reason) => {
            let is_required = std::env::var_os("RUNMESH_REQUIRE_LAB").is_some_and(|value| value == "1");
            assert!(
                !is_required,
                "the namespace is required and cannot be made: {reason}"
            );
            return println!("SKIPPED: {reason}");
        }
    };
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let listen = listen.parse().expect("an address");
        assert_eq!(namespace.inside(|| arrivals(listen, 20)), 20, "{listen}");
    }
}
