//! systemd-resolved, which knows of servers by link: the org's names get a link of their own, which leads nowhere.
//!
//! A server in `resolved.conf` would be asked for *every* name, whatever domains stand beside it, and take the place of those in
//! `/etc/resolv.conf`; a link with routing domains is asked for these alone. What is told of a link goes with it, so a crash
//! leaves one link behind that the next start removes. For a server to count, its link must be up and have an address:
//! [`net::networks::DUMMY`], which stands for nothing.
//!
//! In TUN mode the node has a link, which has addresses and ends with the process: that one carries the names, and a crash
//! leaves nothing behind.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use net::networks::DUMMY;
use net::tun::TunName;
use rustix::process::geteuid;
use tokio::process::Command;
use tokio::time::timeout;
use types::NodeId;

use super::SystemError;

/// How long one command may take: D-Bus may have to start what it talks to.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the names of our links begin with; 8 digits of the node's id follow.
const PREFIX: &str = "rmdns";

/// How much of what a command says is kept, in bytes.
const REASON_LEN_MAX: usize = 300;

type Words = Vec<String>;

pub(super) async fn check() -> Result<(), SystemError> {
    if !geteuid().is_root() {
        return Err(SystemError::NotRoot);
    }
    for command in [words(&["resolvectl", "status"]), words(&["ip", "-V"])] {
        run(&command)
            .await
            .map_err(|error| SystemError::NoResolver(error.to_string()))?;
    }
    Ok(())
}

pub(super) async fn tell(
    node: NodeId,
    device: Option<&TunName>,
    server: SocketAddr,
    domains: &[String],
) -> Result<(), SystemError> {
    take_back(node, device).await?;
    let told = match device {
        Some(device) => run_all(&lead(device.as_str(), server, domains)).await,
        None => tell_by_own_link(&link(node), server, domains).await,
    };
    if told.is_err() {
        // Half of it is worse than nothing: the names would lead nowhere.
        take_back(node, device).await?;
    }
    told
}

pub(super) async fn take_back(node: NodeId, device: Option<&TunName>) -> Result<(), SystemError> {
    let link = link(node);
    if is_there(&link) {
        run(&words(&["ip", "link", "delete", &link])).await?;
    }
    match device.map(TunName::as_str) {
        Some(device) if is_there(device) => run(&words(&["resolvectl", "revert", device])).await,
        _ => Ok(()),
    }
}

fn is_there(link: &str) -> bool {
    Path::new("/sys/class/net").join(link).exists()
}

async fn tell_by_own_link(link: &str, server: SocketAddr, domains: &[String]) -> Result<(), SystemError> {
    let [dummy, pair] = additions(link);
    // A kernel may lack the one kind or the other.
    if run(&dummy).await.is_err() {
        run(&pair).await?;
        run(&words(&["ip", "link", "set", &far_end(link), "up"])).await?;
    }
    run_all(&make_count(link)).await?;
    run_all(&lead(link, server, domains)).await
}

async fn run_all(commands: &[Words]) -> Result<(), SystemError> {
    for command in commands {
        run(command).await?;
    }
    Ok(())
}

/// The name of a node's link: at most 15 bytes, as the kernel wants it, with that of its far end.
fn link(node: NodeId) -> String {
    let digits = node.as_bytes().iter().take(4).map(|byte| format!("{byte:02x}"));
    format!("{PREFIX}{}", digits.collect::<String>())
}

fn far_end(link: &str) -> String {
    format!("{link}p")
}

/// The two ways to make a link that leads nowhere.
fn additions(link: &str) -> [Words; 2] {
    let pair = ["veth", "peer", "name", &far_end(link)];
    [
        words(&["ip", "link", "add", link, "type", "dummy"]),
        [words(&["ip", "link", "add", link, "type"]), words(&pair)].concat(),
    ]
}

/// What makes a link count that is there for this alone.
fn make_count(link: &str) -> [Words; 2] {
    [
        words(&["ip", "address", "add", &format!("{DUMMY}/32"), "dev", link]),
        words(&["ip", "link", "set", link, "up"]),
    ]
}

/// What leads the domains to the server by a link that counts.
fn lead(link: &str, server: SocketAddr, domains: &[String]) -> Vec<Words> {
    let routed = domains.iter().map(|domain| format!("~{domain}"));
    vec![
        words(&["resolvectl", "dns", link, &server.to_string()]),
        words(&["resolvectl", "domain", link])
            .into_iter()
            .chain(routed)
            .collect(),
        words(&["resolvectl", "default-route", link, "false"]),
        words(&["resolvectl", "llmnr", link, "no"]),
        words(&["resolvectl", "mdns", link, "no"]),
        words(&["resolvectl", "dnssec", link, "no"]),
    ]
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn run(command: &[String]) -> Result<(), SystemError> {
    let failed = |reason: String| {
        // The domains fill a screen.
        let shown = command.iter().take(8).cloned().collect::<Vec<_>>();
        SystemError::Command {
            command: shown.join(" "),
            reason,
        }
    };
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(PATIENCE, child.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(REASON_LEN_MAX).collect();
    Err(failed(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_named_after_its_node_and_not_too_long() {
        let link = link(NodeId::from_random([0xab; 16]));
        assert!(link.starts_with(PREFIX) && link.len() == 13);
        assert!(far_end(&link).len() <= 15);
        let other = super::link(NodeId::from_random([0xac; 16]));
        assert_ne!(link, other);
    }

    #[test]
    fn only_the_domains_are_led_to_the_server() {
        let server = "127.0.0.1:5399".parse().expect("an address");
        let domains = ["home.mesh.internal", "64.100.in-addr.arpa"].map(str::to_owned);
        let link = "rmdns01234567";
        let all = [make_count(link).to_vec(), lead(link, server, &domains)].concat();
        let lines: Vec<String> = all.iter().map(|words| words.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "ip address add 192.0.0.8/32 dev rmdns01234567",
                "ip link set rmdns01234567 up",
                "resolvectl dns rmdns01234567 127.0.0.1:5399",
                "resolvectl domain rmdns01234567 ~home.mesh.internal ~64.100.in-addr.arpa",
                "resolvectl default-route rmdns01234567 false",
                "resolvectl llmnr rmdns01234567 no",
                "resolvectl mdns rmdns01234567 no",
                "resolvectl dnssec rmdns01234567 no",
            ]
        );
    }

    #[tokio::test]
    async fn what_a_command_says_is_said_on_and_what_hangs_is_not_waited_for() {
        let error = run(&words(&["sh", "-c", "echo no way >&2; exit 1"])).await;
        let text = error.expect_err("it failed").to_string();
        assert!(text.ends_with("no way"), "{text}");
        assert!(run(&words(&["runmesh-has-no-such-program"])).await.is_err());
        let noise = run(&words(&[
            "sh",
            "-c",
            "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1",
        ]))
        .await;
        assert!(noise.expect_err("it failed").to_string().len() < 600);
    }
}
