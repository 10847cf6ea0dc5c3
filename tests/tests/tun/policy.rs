//! What the policy grants and refuses to hosts in the mesh: ports, pings, forged packets, and what comes in pieces.

use super::*;

#[test]
fn what_the_policy_does_not_grant_and_what_is_forged_reaches_no_host() {
    if !can_run() {
        return;
    }
    let pair = Pair::both_in_tun_mode();
    let [ip4, ip6] = addresses(&pair.other);
    wait_for_routes(&pair.one, &pair.other);
    for address in [ip4, ip6] {
        for port in [9000, 9001] {
            echo(&pair.other, SocketAddr::new(address, port));
        }
        assert!(connect(&pair.one, SocketAddr::new(address, 9001), STEP_TIMEOUT).is_ok());
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("policy.json");
    let document = r#"{"grants": [{"src": ["*"], "dst": ["*"], "ports": ["tcp:9000"]}]}"#;
    std::fs::write(&file, document).expect("a document");
    pair.platform
        .api
        .call(&["policy", "set", &file.to_string_lossy()])
        .expect("in force");
    for address in [ip4, ip6] {
        until("the policy in force", || {
            connect(
                &pair.one,
                SocketAddr::new(address, 9001),
                Duration::from_millis(700),
            )
            .is_err()
        });
        assert!(connect(&pair.one, SocketAddr::new(address, 9000), STEP_TIMEOUT).is_ok());
        assert!(!succeeds(&ping(&pair.one, &["-w", "2", &address.to_string()])));
    }
    pieces_of_what_is_refused_are_refused(&pair);
    // A program of the host that takes another address for its own.
    pair.one
        .site
        .host
        .ip("addr add 10.9.9.9/32 dev lo\n")
        .expect("an address");
    assert_eq!(dropped(&pair.one, "host_spoofed"), 0);
    assert!(!succeeds(&ping(
        &pair.one,
        &["-w", "2", "-I", "10.9.9.9", &ip4.to_string()]
    )));
    assert!(dropped(&pair.one, "host_spoofed") > 0);
}

/// Neither host hears anything of a datagram that the policy refuses, however many pieces it comes in.
fn pieces_of_what_is_refused_are_refused(pair: &Pair) {
    for address in addresses(&pair.other) {
        let there = SocketAddr::new(address, 9003);
        let server = udp(&pair.other, there);
        let quiet = Duration::from_millis(700);
        server.set_read_timeout(Some(quiet)).expect("a short wait");
        let fragments = || heard(&pair.other, address);
        let before = (dropped(&pair.other, "filter_denied"), fragments());
        let own = addresses(&pair.one);
        let here = own.into_iter().find(|own| own.is_ipv4() == address.is_ipv4());
        let client = udp(&pair.one, SocketAddr::new(here.expect("of both families"), 0));
        client.send_to(&[7; 8192], there).expect("sent");
        assert!(server.recv_from(&mut [0; 9000]).is_err());
        until("it was counted", || {
            dropped(&pair.other, "filter_denied") > before.0
        });
        assert_eq!(fragments(), before.1, "a fragment came to the host");
        assert_eq!(dropped(&pair.other, "filter_fragment"), 0);
    }
}

/// How many fragments the kernel of a device's host was given.
fn heard(device: &Device, of: IpAddr) -> u64 {
    let (file, name) = match of {
        IpAddr::V4(_) => ("/proc/self/net/snmp", "ReasmReqds"),
        IpAddr::V6(_) => ("/proc/self/net/snmp6", "Ip6ReasmReqds"),
    };
    let said = host_runs(device, "cat", &[file]).stdout;
    let said = String::from_utf8(said).expect("text");
    if let Some(line) = said.lines().find(|line| line.starts_with(name)) {
        let value = line.split_whitespace().nth(1).expect("a value");
        return value.parse().expect("a number");
    }
    // Two lines that begin with the same word: names, then values.
    let mut lines = said.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let column = names.split_whitespace().position(|word| word == name);
    let value = values.split_whitespace().nth(column.expect("counted"));
    value.and_then(|value| value.parse().ok()).expect("a number")
}

/// Sends every datagram back that comes to a UDP port of a device's mesh address.
fn echo_datagrams(device: &Device, listen: SocketAddr) {
    let bound = device.site.host.within(|| UdpSocket::bind(listen));
    let socket = bound.expect("a thread").expect("bound to the mesh address");
    std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..len], from);
        }
    });
}

/// Tells whether a datagram to an address comes back from there.
fn answers(device: &Device, to: SocketAddr) -> bool {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let bound = device.site.host.within(|| UdpSocket::bind((any, 0)));
    let socket = bound.expect("a thread").expect("a socket");
    let timeout = Some(Duration::from_millis(500));
    socket.set_read_timeout(timeout).expect("a timeout");
    socket.send_to(b"is this let in?", to).expect("it is sent");
    let mut datagram = [0; 64];
    let answer = socket.recv_from(&mut datagram);
    answer.is_ok_and(|(len, from)| from == to && datagram[..len] == *b"is this let in?")
}

#[test]
fn one_udp_port_is_granted_and_pings_are_when_the_policy_says_so_in_both_families() {
    if !can_run() {
        return;
    }
    let pair = Pair::both_in_tun_mode();
    wait_for_routes(&pair.one, &pair.other);
    let there = addresses(&pair.other);
    for address in there {
        for port in [9000, 9001] {
            let to = SocketAddr::new(address, port);
            echo_datagrams(&pair.other, to);
            until("an answer under the default policy", || answers(&pair.one, to));
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("policy.json");
    let set = |ports: &str| {
        let document = format!(r#"{{"grants": [{{"src": ["*"], "dst": ["*"], "ports": [{ports}]}}]}}"#);
        std::fs::write(&file, document).expect("a document");
        let words = ["policy", "set", &*file.to_string_lossy()];
        pair.platform.api.call(&words).expect("in force");
    };
    let pings = |address: IpAddr| succeeds(&ping(&pair.one, &["-w", "2", &address.to_string()]));
    set(r#""udp:9000""#);
    for address in there {
        let refused = SocketAddr::new(address, 9001);
        until("the policy in force", || !answers(&pair.one, refused));
        assert!(answers(&pair.one, SocketAddr::new(address, 9000)), "{address}");
        let before = dropped(&pair.other, "filter_denied");
        assert!(!answers(&pair.one, refused) && !pings(address), "{address}");
        let counted = dropped(&pair.other, "filter_denied") - before;
        assert!(counted >= 2, "{counted} of a datagram and some pings");
    }
    set(r#""icmp""#);
    for address in there {
        until("pings are let in", || pings(address));
        assert!(!answers(&pair.one, SocketAddr::new(address, 9000)), "{address}");
    }
}
