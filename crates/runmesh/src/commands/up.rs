//! `runmesh up`: this device's node, in the foreground.
//!
//! What the daemon says goes to stderr as sentences, or to stdout as JSON lines.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::FalseyValueParser;
use node::log_tail::LogTail;
use node::names::host::DnsConfig;
use node::reach::proxy::ProxyConfig;
use node::tun::{DEFAULT_NAME, TunName};
use node::{Exit, NodeConfig, PolicySeed, Talk};
use serde_json::{Value, json};

use crate::failure::hinted;
use crate::interrupts::stop_token;
use crate::output::{Output, talk};

/// What `up` takes.
#[derive(Args)]
pub(crate) struct UpArgs {
    /// The control plane to join, such as `https://mesh.example.com`; known from the last time when left out
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Where the node keeps its keys and journal
    #[arg(long, value_name = "DIR", env = "RUNMESH_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// A key of `runmesh auth-keys create`: on a first start the node joins by it, and nobody has to approve
    #[arg(long, value_name = "KEY", env = "RUNMESH_AUTH_KEY", hide_env_values = true)]
    auth_key: Option<String>,
    /// What the approver sees; the host name when left out
    #[arg(long)]
    label: Option<String>,
    /// The UDP address of the mesh socket; any free port when left out
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Put the host itself into the mesh, with all its programs, by a network device; needs root or CAP_NET_ADMIN
    #[arg(long)]
    tun: bool,
    /// The name of that device
    #[arg(long, value_name = "NAME", requires = "tun", default_value = DEFAULT_NAME)]
    tun_name: TunName,
    /// Do not ask the router to open a port for the mesh socket (PCP, NAT-PMP, UPnP)
    #[arg(long, env = "RUNMESH_NO_PORT_MAPPING", value_parser = FalseyValueParser::new())]
    no_port_mapping: bool,
    /// Do not look for peers on the networks around this device when no relay leads to them, nor be found there (multicast)
    #[arg(long, env = "RUNMESH_NO_LAN_DISCOVERY", value_parser = FalseyValueParser::new())]
    no_lan_discovery: bool,
    /// Where programs on this device reach the mesh by SOCKS5 or HTTP CONNECT, such as 127.0.0.1:1080; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    proxy: Option<SocketAddr>,
    /// The file with the password of the proxy, whose user name is runmesh; none: only this device may use it
    #[arg(long, value_name = "FILE", requires = "proxy")]
    proxy_password_file: Option<PathBuf>,
    /// Has this system ask this node for the org's names, until the node stops: by systemd-resolved, or /etc/resolver on macOS; needs root
    #[arg(long)]
    dns: bool,
    /// Where names of the mesh are answered to programs on this device by DNS; any free port of 127.0.0.1 when left out with --dns
    #[arg(long, value_name = "ADDRESS")]
    dns_listen: Option<SocketAddr>,
    /// On a first start: a folder in which runs may work; may be given several times
    #[arg(long = "allow-folder", value_name = "DIR")]
    allowed_folders: Vec<PathBuf>,
    /// On a first start: an agent that may execute runs, such as goose; may be given several times
    #[arg(long = "runner", value_name = "NAME")]
    runners: Vec<String>,
}

/// Runs the node until it is told to stop or is shut out.
pub(crate) async fn up(args: UpArgs, log: LogTail, output: Output) -> Result<()> {
    let server = args.server.map(|text| {
        let url = text.parse();
        url.map_err(|_| {
            hinted(
                format!("`{text}` is no address"),
                "write it like https://mesh.example.com",
            )
        })
    });
    let mut config = NodeConfig::new(server.transpose()?, state_dir(args.state_dir)?);
    config.label = args.label;
    config.log = log;
    config.auth_key = args.auth_key.map(Into::into);
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    config.tun = args.tun.then_some(args.tun_name);
    config.port_mapping = !args.no_port_mapping;
    config.lan_discovery = !args.no_lan_discovery;
    config.proxy = proxy(args.proxy, args.proxy_password_file.as_deref())?;
    config.dns = (args.dns || args.dns_listen.is_some()).then(|| DnsConfig {
        listen: args.dns_listen.unwrap_or(DnsConfig::ANY_PORT),
        tell_system: args.dns,
    });
    config.policy_seed = PolicySeed {
        allowed_folders: args.allowed_folders,
        runners: args.runners,
    };
    config.on_talk = Arc::new(move |said| say(said, output));
    match node::run(config, stop_token()?).await? {
        Exit::Shutdown => Ok(()),
        Exit::Revoked => Err(hinted(
            "the org shut this node out",
            "to link this machine again, start with a fresh --state-dir",
        )),
        Exit::KeyExpired => Err(hinted(
            "the key of this node has expired",
            "run `runmesh up` again and have the device approved: it is the same node then",
        )),
    }
}

fn proxy(listen: Option<SocketAddr>, password_file: Option<&Path>) -> Result<Option<ProxyConfig>> {
    let Some(listen) = listen else {
        return Ok(None);
    };
    let password = password_file.map(|path| {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("read the proxy's password from {}", path.display()))?;
        match text.trim() {
            "" => Err(hinted(
                format!("{} is empty", path.display()),
                "write a password of some length into it",
            )),
            password => Ok(password.to_owned().into()),
        }
    });
    let password = password.transpose()?;
    Ok(Some(ProxyConfig { listen, password }))
}

/// Returns where the node keeps its state: as given, or where systems keep such things.
pub(crate) fn state_dir(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(dir);
    }
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    let base = base.context("no --state-dir was given and HOME is not set")?;
    Ok(base.join("runmesh"))
}

fn say(said: &Talk, output: Output) {
    if !output.is_json() {
        return talk(&sentence(said));
    }
    // A reader that went away does not stop the node.
    let _ = output.stream(&event(said), "");
}

/// Words what the daemon said for people.
fn sentence(said: &Talk) -> String {
    match said {
        Talk::LinkCode {
            code,
            match_number,
            url,
            qr,
            expires_at,
            ..
        } => format!(
            "{qr}\nTo link this device, open {url}\nor approve it elsewhere:  runmesh approve {code}\n\n  code   {code}\n  \
             match  {match_number}   (approve only if the page shows the same number)\n\nThe code is good until {expires_at}."
        ),
        Talk::LinkDenied => "Somebody said no to this device.".to_owned(),
        Talk::LinkExpired => "Nobody approved in time; here is a new code.".to_owned(),
        Talk::LinkWaiting { reason, retry_in } => {
            format!(
                "The control plane cannot be reached ({reason}); trying again in {} s.",
                retry_in.as_secs()
            )
        }
        Talk::Linked { name, addresses } => format!("Linked as {name}: {}.", addresses.join(", ")),
        Talk::ControlConnected => "Connected to the control plane.".to_owned(),
        Talk::ControlLost { reason, retry_in } => format!(
            "The control plane is away ({reason}); working on, trying again in {} s.",
            retry_in.as_secs()
        ),
        Talk::Host { device, addresses } => {
            format!("This host is in the mesh by {device}: {}.", addresses.join(", "))
        }
        Talk::Proxy { address } => {
            format!("Programs on this device reach the mesh by the proxy at {address}.")
        }
        Talk::Names { address } => format!("Names of the mesh are answered at {address}."),
        Talk::NamesNotAnswered { reason } => format!("{reason}; trying again."),
        Talk::NamesTold { domain } => format!("This system asks this node for names under {domain}."),
        Talk::NamesNotTold { reason } => {
            format!("This system does not ask this node for the mesh's names: {reason}.")
        }
        Talk::Ready => "Ready: runs can arrive.".to_owned(),
        Talk::RunStarted { summary } => format!("Run started: {summary}"),
        Talk::RunEnded { summary } => format!("Run ended: {summary}"),
        Talk::Revoked => "The org shut this node out; its key is of no more use.".to_owned(),
        Talk::KeyExpired => "The key of this node has expired.".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Words what the daemon said for programs.
fn event(said: &Talk) -> Value {
    match said {
        Talk::LinkCode {
            code,
            match_number,
            url,
            expires_at,
            resumed,
            ..
        } => json!({"event": "link_code", "code": code, "match": match_number, "url": url,
            "expiresAt": expires_at, "resumed": resumed}),
        Talk::LinkDenied => json!({"event": "link_denied"}),
        Talk::LinkExpired => json!({"event": "link_expired"}),
        Talk::LinkWaiting { reason, retry_in } => {
            json!({"event": "link_waiting", "reason": reason, "retryInMs": millis(*retry_in)})
        }
        Talk::Linked { name, addresses } => json!({"event": "linked", "name": name, "addresses": addresses}),
        Talk::ControlConnected => json!({"event": "control_connected"}),
        Talk::ControlLost { reason, retry_in } => {
            json!({"event": "control_lost", "reason": reason, "retryInMs": millis(*retry_in)})
        }
        Talk::Host { device, addresses } => {
            json!({"event": "host", "device": device, "addresses": addresses})
        }
        Talk::Proxy { address } => json!({"event": "proxy", "address": address}),
        Talk::Names { address } => json!({"event": "names", "address": address}),
        Talk::NamesNotAnswered { reason } => json!({"event": "names_not_answered", "reason": reason}),
        Talk::NamesTold { domain } => json!({"event": "names_told", "domain": domain}),
        Talk::NamesNotTold { reason } => json!({"event": "names_not_told", "reason": reason}),
        Talk::Ready => json!({"event": "ready"}),
        Talk::RunStarted { summary } => json!({"event": "run_started", "summary": summary}),
        Talk::RunEnded { summary } => json!({"event": "run_ended", "summary": summary}),
        Talk::Revoked => json!({"event": "revoked"}),
        Talk::KeyExpired => json!({"event": "key_expired"}),
        other => json!({"event": "other", "text": format!("{other:?}")}),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
