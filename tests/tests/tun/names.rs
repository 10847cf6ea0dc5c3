//! Names at the mesh addresses of a host in TUN mode: asked for by the host itself, by a peer, and by neighbours.

use std::net::{IpAddr, SocketAddr};

use e2e::lab::device::Device;
use e2e::lab::{can_run, namespace::Namespace};
use e2e::processes::{STEP_TIMEOUT, in_search_path};
use e2e::skipped::skipped;
use serde_json::Value;

use super::{Pair, TUN, addresses, host_runs, until, wait_for_routes};

/// What `dig` says when it asks a mesh address from somewhere. By UDP a question or its answer may be lost.
fn dig(host: &Namespace, server: IpAddr, words: &str) -> String {
    let server = format!("@{server}");
    let words = [
        &[&*server, "+tries=3", "+time=5"],
        &words.split(' ').collect::<Vec<_>>()[..],
    ]
    .concat();
    let output = host.command("dig", &words).output().expect("dig");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

#[test]
fn a_hosts_own_mesh_address_answers_for_names_to_the_host_alone_and_peers_hear_what_they_may() {
    if !can_run() {
        return;
    }
    if !in_search_path("dig") {
        return skipped("the program `dig` is missing");
    }
    let mut pair = Pair::both_in_tun_mode();
    wait_for_routes(&pair.one, &pair.other);
    let (own, there) = (addresses(&pair.one), addresses(&pair.other));
    let at_53 = |addresses: [IpAddr; 2]| addresses.map(|ip| Value::from(SocketAddr::new(ip, 53).to_string()));
    wait_for_answers(&pair.one);
    let status = pair.one.status().expect("a status");
    let listed = status["namesMeshAddresses"].as_array().expect("a list");
    assert!(
        at_53(own).iter().all(|address| listed.contains(address)),
        "{status}"
    );
    let ask = |words: &str| own.map(|server| dig(&pair.one.site.host, server, words));
    for how in ["", "+tcp "] {
        let whole = ask(&format!("{how}+short other.home.mesh.internal"));
        assert_eq!(whole, [there[0].to_string(), there[0].to_string()]);
        let zone = ask(&format!("{how}platform.home.mesh.internal AAAA"));
        assert!(zone.iter().all(|said| said.contains("NOERROR")), "{zone:?}");
        // A peer asks through the mesh: it is told of the two that it knows anyway.
        for server in there {
            let peer = |words: &str| dig(&pair.one.site.host, server, &format!("{how}{words}"));
            assert_eq!(peer("+short one.home.mesh.internal"), own[0].to_string());
            assert!(peer("platform.home.mesh.internal").contains("REFUSED"));
        }
    }
    nobody_is_answered_by_another_network(&pair);
    a_port_that_another_program_has_is_said_and_waited_for(&mut pair);
}

fn wait_for_answers(device: &Device) {
    until("both addresses answer", || {
        let status = device.status().expect("a status");
        status["namesMeshAddresses"].as_array().map_or(0, Vec::len) == 2
    });
}

/// Whoever shares a network with the host can send to its mesh address by that network, as kernels go.
fn nobody_is_answered_by_another_network(pair: &Pair) {
    let neighbour = &pair.platform.api.place;
    let name = neighbour
        .last()
        .expect("a namespace")
        .to_string_lossy()
        .into_owned();
    let own = addresses(&pair.one)[0];
    let run = |program: &str, words: &[&str]| {
        let words = [&["netns", "exec", &name, program], words].concat();
        let output = std::process::Command::new("ip").args(words).output();
        String::from_utf8(output.expect("it runs").stdout).expect("UTF-8")
    };
    let listed = host_runs(&pair.one, "ip", &["-4", "-o", "addr", "show", "dev", "wan"]);
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    let outside = listed.split_whitespace().nth(3).expect("an address");
    let outside = outside.split('/').next().expect("an address");
    run("ip", &["route", "add", &own.to_string(), "via", outside]);
    let pinged = run("ping", &["-c", "1", "-W", "2", &own.to_string()]);
    assert!(
        pinged.contains(" 0% packet loss"),
        "the kernel takes it: {pinged}"
    );
    let server = format!("@{own}");
    for how in ["+notcp", "+tcp"] {
        let said = run(
            "dig",
            &[&server, "+tries=1", "+time=1", how, "one.home.mesh.internal"],
        );
        assert!(
            !said.contains("NOERROR") && !said.contains("status:"),
            "{how}: {said}"
        );
    }
}

fn a_port_that_another_program_has_is_said_and_waited_for(pair: &mut Pair) {
    pair.one.process().signal("TERM").expect("a signal");
    pair.one.process().wait_for_end(STEP_TIMEOUT).expect("it ends");
    let bound = pair.one.site.host.within(|| std::net::UdpSocket::bind("[::]:53"));
    let foreign = bound.expect("a thread").expect("a port");
    pair.one.start_again(TUN).expect("it starts");
    pair.one.wait_for("names_not_answered").expect("said");
    // It goes on all the same.
    pair.one.wait_for("ready").expect("ready");
    pair.one.ping("other").expect("an answer");
    drop(foreign);
    wait_for_answers(&pair.one);
    let said = dig(
        &pair.one.site.host,
        addresses(&pair.one)[0],
        "+short one.home.mesh.internal",
    );
    assert!(said.starts_with("100."), "{said}");
}
