//! The proxy: any program reaches any node, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use e2e::device::{Device, Setup};
use e2e::processes::{STEP_TIMEOUT, in_search_path, text};
use e2e::world::DEVICE;

use super::{DESK, OFFERED, Pair, connect, receive, server};

/// Answers one HTTP request with `hello`.
fn web() -> SocketAddr {
    server(|mut stream| {
        let mut request = [0; 4096];
        let len = stream.read(&mut request).expect("a request");
        assert!(request[..len].starts_with(b"GET /file HTTP/1.1\r\n"));
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).expect("answered");
    })
}

fn curl(words: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30"]);
    command.args(words).output().expect("curl starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn has_curl() -> bool {
    let has = in_search_path("curl");
    if !has {
        e2e::skipped::skipped("curl is not installed");
    }
    has
}

/// The mesh addresses of `laptop`, as they stand in URLs.
fn addresses(pair: &Pair) -> [String; 2] {
    let node = pair.world.api.call(&["node", DEVICE]).expect("a node");
    let ip6 = format!("[{}]", text(&node, "meshIp6"));
    [text(&node, "meshIp4").to_owned(), ip6]
}

#[test]
fn curl_reaches_a_node_by_either_protocol_by_name_and_address_and_nothing_else() {
    if !has_curl() {
        return;
    }
    let pair = Pair::start(&[]);
    let _exposed = pair.expose(web());
    let [ip4, ip6] = addresses(&pair);
    for host in [
        "laptop",
        "laptop.home.mesh.internal",
        "LAPTOP.home.mesh.internal.",
        &ip4,
        &ip6,
    ] {
        let url = format!("http://{host}:{OFFERED}/file");
        for words in [["--socks5-hostname", &pair.proxy], ["--proxytunnel", "--proxy"]] {
            let proxy = if words[1] == "--proxy" { &*pair.proxy } else { "" };
            let all: Vec<&str> = words
                .into_iter()
                .chain([proxy, &*url])
                .filter(|word| !word.is_empty())
                .collect();
            let output = curl(&all);
            assert_eq!(output.stdout, b"hello", "{all:?}: {}", said(&output));
        }
    }
    for (url, socks, status) in [
        ("http://example.com:80/", "(2)", "403"),
        ("http://127.0.0.1:80/", "(2)", "403"),
        ("http://desk:80/", "(2)", "403"),
        ("http://nobody:80/", "(4)", "404"),
        ("http://laptop:81/", "(5)", "502"),
    ] {
        let by_socks = curl(&["--socks5-hostname", &pair.proxy, url]);
        assert!(
            !by_socks.status.success() && said(&by_socks).contains(socks),
            "{url}: {}",
            said(&by_socks)
        );
        let by_http = curl(&["--proxytunnel", "--proxy", &pair.proxy, url]);
        assert!(
            !by_http.status.success() && said(&by_http).contains(status),
            "{url}: {}",
            said(&by_http)
        );
    }
    let plain = curl(&["--proxy", &pair.proxy, "--include", "http://laptop:8080/file"]);
    assert!(
        said(&plain).starts_with("HTTP/1.1 405 ") && said(&plain).contains("only CONNECT"),
        "{}",
        said(&plain)
    );
}

#[test]
fn a_proxy_with_a_password_wants_it_and_one_for_others_needs_one() {
    let pair = Pair::start(&[]);
    let state_dir = pair.world.dir().join(DESK);
    let Pair { world, desk, .. } = pair;
    drop(desk);
    let file = world.dir().join("password");
    std::fs::write(&file, "not-guessed\n").expect("written");
    let mut open = world.api.command(&["up", "--proxy", "0.0.0.0:0", "--state-dir"]);
    let output = open.arg(&state_dir).output().expect("started");
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("has no password") && told.contains("--proxy-password-file"),
        "{told}"
    );

    let setup = Setup::with_command(world.repository.path(), "cat");
    let words = [
        "--proxy",
        "0.0.0.0:0",
        "--proxy-password-file",
        &file.to_string_lossy(),
    ];
    let desk = Device::start_with(&world.api, &state_dir, &setup, &words).expect("it starts");
    let event = desk.wait_for("proxy", STEP_TIMEOUT).expect("a proxy");
    let address: SocketAddr = text(&event, "address").parse().expect("an address");
    let proxy = format!("127.0.0.1:{}", address.port());
    let pair = Pair { world, desk, proxy };
    pair.desk.wait_for("ready", STEP_TIMEOUT).expect("it is ready");
    let _exposed = pair.expose(web());
    if !has_curl() {
        return;
    }
    let url = format!("http://laptop:{OFFERED}/file");
    for scheme in ["socks5h", "http"] {
        let as_who = |pair_of: &str| {
            let proxy = format!("{scheme}://{pair_of}{}", pair.proxy);
            curl(&["--proxytunnel", "--proxy", &proxy, &url])
        };
        let output = as_who("runmesh:not-guessed@");
        assert_eq!(output.stdout, b"hello", "{scheme}: {}", said(&output));
        for wrong in ["", "runmesh:guessed@", "runmesh:@", "ada:not-guessed@"] {
            let output = as_who(wrong);
            assert!(
                !output.status.success() && output.stdout != b"hello",
                "{scheme} {wrong}: {}",
                said(&output)
            );
        }
    }
}

#[test]
fn a_client_of_the_proxy_that_says_too_much_or_too_little_or_comes_too_often_is_cut() {
    let pair = Pair::start(&[]);
    let proxy: SocketAddr = pair.proxy.parse().expect("an address");
    let _exposed = pair.expose(server(|mut stream| {
        // The first byte, and then silence until the other end is gone.
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() {
            let _ = stream.write_all(&byte);
        }
        std::thread::spawn(move || stream.read(&mut [0]).map(|_| ()));
    }));

    // Before any other client, so that there are as many as this says.
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..255).map(|_| connect(proxy)).collect();
    let mut last = connect(proxy);
    last.write_all(b"CONNECT laptop").expect("sent");
    let mut one_more = connect(proxy);
    assert!(one_more.read(&mut [0]).is_err(), "cut: there are 256 already");
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "the machine is too slow for this to say anything"
    );
    assert!(
        receive(&mut last).starts_with(b"HTTP/1.1 408 "),
        "the last of 256 was served"
    );
    assert!(begun.elapsed() >= Duration::from_secs(10));
    assert_eq!(slow[0].read(&mut [0]).expect("closed in good order"), 0);
    drop((slow, last, one_more));

    let mut long = connect(proxy);
    let head = format!(
        "CONNECT laptop:{OFFERED} HTTP/1.1\r\nA: {}\r\n\r\n",
        "x".repeat(9000)
    );
    long.write_all(head.as_bytes()).expect("sent");
    assert!(receive(&mut long).starts_with(b"HTTP/1.1 431 "));

    for unknown in [
        &b"\x04\x01\0\x50\x7f\0\0\x01\0"[..],
        b"\x16\x03\x01",
        b"get / HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = connect(proxy);
        stream.write_all(unknown).expect("sent");
        // Cut or closed, and never answered.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{unknown:?}");
    }

    // What comes in one piece with the request is the first of the data.
    let mut early = connect(proxy);
    let request = format!("CONNECT laptop:{OFFERED} HTTP/1.1\r\n\r\n!");
    early.write_all(request.as_bytes()).expect("sent");
    let mut answer = [0; 40];
    early.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 Connection established\r\n\r\n!");
    drop(early);
}
