//! What the daemon is started with, and how it ends. No parsing: the command line is `runmesh`'s.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use net::tun::TunName;
use types::SecretString;
use url::Url;

use crate::log_tail::LogTail;
use crate::names::host::DnsConfig;
use crate::reach::proxy::ProxyConfig;
use crate::talk::Talk;

/// Receives what the daemon has to say to the person who started it; must return at once.
pub type OnTalk = Arc<dyn Fn(&Talk) + Send + Sync>;

/// Everything the daemon needs to know when it starts.
#[derive(Clone)]
pub struct NodeConfig {
    /// The control plane, such as `https://mesh.example.com`; `None` means the one this state directory is linked to.
    pub server_url: Option<Url>,
    /// Where the node keeps its keys, journal and socket; made with mode 0700 if missing.
    pub state_dir: PathBuf,
    /// What the approver sees as the device's label; `None` means the host name.
    pub label: Option<String>,
    /// By which to join when this device is no node yet; without one a person approves it.
    pub auth_key: Option<SecretString>,
    /// The UDP address of the mesh socket; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The network device by which the host itself is in the mesh; `None`: userspace mode, without one.
    pub tun: Option<TunName>,
    /// Whether the router is asked for a port that leads to the mesh socket (PCP, NAT-PMP, UPnP); never for a socket of loopback.
    pub port_mapping: bool,
    /// Whether peers are looked for on the links of this device where no relay leads to them, and it is found there by others.
    pub lan_discovery: bool,
    /// Where programs on this device reach the mesh by SOCKS5 and HTTP CONNECT; `None`: nowhere.
    pub proxy: Option<ProxyConfig>,
    /// Where programs on this device are told of the mesh's names by DNS; `None`: nowhere.
    pub dns: Option<DnsConfig>,
    /// The version of the program, as it is shown to the org.
    pub app_version: String,
    /// What a first start writes into `policy.toml`; ignored when the file exists.
    pub policy_seed: PolicySeed,
    /// Where the daemon's talk goes.
    pub on_talk: OnTalk,
    /// What whoever set up the log keeps of it, for the local API; empty when nobody does.
    pub log: LogTail,
}

impl NodeConfig {
    /// Makes a configuration with a mesh socket on any free port, an empty policy seed and no one listening to talk.
    #[must_use]
    pub fn new(server_url: Option<Url>, state_dir: PathBuf) -> Self {
        Self {
            server_url,
            state_dir,
            label: None,
            auth_key: None,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            tun: None,
            port_mapping: true,
            lan_discovery: true,
            proxy: None,
            dns: None,
            app_version: env!("CARGO_PKG_VERSION").to_owned(),
            policy_seed: PolicySeed::default(),
            on_talk: Arc::new(|_| {}),
            log: LogTail::default(),
        }
    }
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeConfig")
            .field("server_url", &self.server_url.as_ref().map(Url::as_str))
            .field("state_dir", &self.state_dir)
            .field("label", &self.label)
            .field("listen", &self.listen)
            .field("tun", &self.tun)
            .field("port_mapping", &self.port_mapping)
            .field("lan_discovery", &self.lan_discovery)
            .field("proxy", &self.proxy)
            .field("dns", &self.dns)
            .field("policy_seed", &self.policy_seed)
            .finish_non_exhaustive()
    }
}

/// What the owner allows from the first start on. Empty means: no folder, no runner, so no run at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySeed {
    /// Folders in which runs may work; the first becomes the default folder. Each must exist.
    pub allowed_folders: Vec<PathBuf>,
    /// Built-in runners to enable, such as `goose`; the first becomes the default runner. Enabling one here also lets
    /// it use its tools (`permissions = "allow"`).
    pub runners: Vec<String>,
}

/// How the daemon ended without an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It was asked to stop: by its caller or over the local socket.
    Shutdown,
    /// The org shut this node out; it does not come back with this key.
    Revoked,
    /// The node's key has expired; the next start links the device anew.
    KeyExpired,
}
