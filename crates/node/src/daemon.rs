//! The daemon: its parts started in order, kept running, and stopped in order.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::client::Client;
use api::links::LinkStart;
use net::clock::Clock;
use net::tun::{HostNetwork, Tun, TunError, TunName};
use net::{MeshNet, MeshNetConfig};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use types::SigningPrivateKey;
use url::Url;

use crate::backoff::Backoff;
use crate::config::{Exit, NodeConfig};
use crate::control_client::{ControlClient, ShutOut, hostname};
use crate::footprint::give_back_at_rest;
use crate::host::HostPlace;
use crate::journal_file::OpenError;
use crate::journal_keeper::JournalKeeper;
use crate::keyring::Keyring;
use crate::link::{LinkError, Linker};
use crate::link_state::{self, LinkRecord, LinkState, PendingCode, Pinned};
use crate::local_api::{self, LocalState};
use crate::membership::Membership;
use crate::names::Names;
use crate::names::host::{HostResolver, ResolverError};
use crate::names::system::{SystemError, SystemResolver};
use crate::policy::store::PolicyStore;
use crate::policy::{Environment, PolicyError, load_or_create};
use crate::port_mapping::PortMapper;
use crate::ports::Ports;
use crate::reach::Reach;
use crate::reach::proxy::{Proxy, ProxyError};
use crate::runner::executor::Stop;
use crate::sidecar::{self, Outbox, Sidecar, session};
use crate::state_dir::{StateDir, StateDirError};
use crate::status::{Connection, LinkStatus, StatusBoard};
use crate::talk::Talk;
use crate::whereabouts::Whereabouts;

/// How long, at the end, the orchestrator may take to acknowledge the last events.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The first policy file cannot be written as asked.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The device did not become a node.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No server was named, and the state directory knows none.
    #[error("no control plane is known yet; name one with --server URL")]
    NoServer,
    /// The state directory belongs to another control plane.
    #[error("this device is linked to {0}; choose another --state-dir for another control plane")]
    OtherServer(String),
    /// The server's address is none.
    #[error("the server's address must start with http:// or https://")]
    BadServer,
    /// The local socket cannot be made.
    #[error("the local socket {path} cannot be made: {source}")]
    Socket {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The proxy cannot be had.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The host cannot be in the mesh.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Names cannot be answered to programs on this device.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The system's resolver cannot be told of the mesh's names.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The mesh cannot be started.
    #[error(transparent)]
    Mesh(#[from] net::StartError),
}

/// Runs the daemon until it is asked to stop or shut out by its org. Everything is on disk when it returns.
///
/// [`crate::footprint::runtime`] is the runtime for it.
pub async fn run(config: NodeConfig, shutdown: CancellationToken) -> Result<Exit, NodeError> {
    // Whoever installed another one first meant it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut daemon = Daemon::open(config, shutdown.child_token())?;
    if daemon.tells_system() {
        SystemResolver::check().await?;
    }
    let serving = daemon.serve_local()?;
    let resting = tokio::spawn(give_back_at_rest(daemon.board.clone()));
    let ended = daemon.live().await;
    resting.abort();
    serving.stop().await;
    let _ = daemon.state_dir.remove(local_api::SOCKET);
    ended
}

struct Daemon {
    config: NodeConfig,
    state_dir: Arc<StateDir>,
    keyring: Arc<Keyring>,
    signing_key: SigningPrivateKey,
    board: StatusBoard,
    record: Option<LinkRecord>,
    server_url: Url,
    sidecar: Arc<OnceLock<Arc<Sidecar>>>,
    ports: Arc<OnceLock<Arc<Ports>>>,
    proxy: Option<Proxy>,
    tun: Option<Tun>,
    resolver: Option<HostResolver>,
    shutdown: CancellationToken,
}

/// How long what is told to stop may take: a router closes a port in two seconds, and a client that does not hang up must
/// not keep the daemon.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Something that runs until it is told to stop: the local API, or the router's port.
struct Serving {
    until: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    async fn stop(self) {
        self.until.cancel();
        let _ = timeout(STOP_PATIENCE, self.task).await;
    }
}

impl Daemon {
    fn open(config: NodeConfig, shutdown: CancellationToken) -> Result<Self, NodeError> {
        let state_dir = Arc::new(StateDir::open(&config.state_dir)?);
        let keyring = Arc::new(Keyring::open(state_dir.clone())?);
        let signing_key = state_dir.signing_key()?;
        let board = StatusBoard::new(
            config.app_version.clone(),
            keyring.public(),
            Clock::new().now().wall,
        );
        let policy_path = state_dir.file("policy.toml");
        let policy_exists = policy_path.exists();
        match load_or_create(&policy_path, &config.policy_seed) {
            Ok(_) => {}
            Err(error) if policy_exists => {
                tracing::error!(%error, "no run is accepted until the policy file is right");
                board.change(|status| status.policy_error = Some(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        let record = link_state::read(&state_dir)?;
        let server_url = server_url(&config, record.as_ref())?;
        board.change(|status| status.server_url = Some(server_url.to_string()));
        let proxy = config.proxy.as_ref().map(Proxy::bind).transpose()?;
        // Before a code is shown: what cannot be had should cost nobody an approval.
        let tun = config.tun.as_ref().map(Tun::open).transpose()?;
        if let Some(tun) = &tun {
            board.change(|status| status.mode = format!("tun {}", tun.name()));
        }
        let resolver = config.dns.as_ref().map(HostResolver::bind).transpose()?;
        Ok(Self {
            proxy,
            resolver,
            tun,
            config,
            state_dir,
            keyring,
            signing_key,
            board,
            record,
            server_url,
            sidecar: Arc::default(),
            ports: Arc::default(),
            shutdown,
        })
    }

    fn serve_local(&self) -> Result<Serving, NodeError> {
        let path = self.state_dir.file(local_api::SOCKET);
        let listener = local_api::bind(&path).map_err(|source| NodeError::Socket { path, source })?;
        let state = LocalState {
            board: self.board.clone(),
            sidecar: self.sidecar.clone(),
            ports: self.ports.clone(),
            keyring: self.keyring.clone(),
            log: self.config.log.clone(),
            shutdown: self.shutdown.clone(),
        };
        let until = CancellationToken::new();
        let task = tokio::spawn(local_api::serve(listener, state, until.clone()));
        Ok(Serving { until, task })
    }

    async fn live(&mut self) -> Result<Exit, NodeError> {
        let linked = tokio::select! {
            pinned = self.pinned() => pinned,
            () = self.shutdown.cancelled() => return Ok(Exit::Shutdown),
        };
        match linked {
            Ok(pinned) => self.take_part(pinned).await,
            Err(LinkError::Revoked(_)) if self.is_revoked() => Ok(self.revoked()),
            Err(error) => Err(error.into()),
        }
    }

    fn tells_system(&self) -> bool {
        self.config.dns.is_some_and(|dns| dns.tell_system)
    }

    /// In TUN mode the device carries what the system's resolver is told.
    fn device_that_is_told(&self) -> Option<&TunName> {
        self.config.tun.as_ref().filter(|_| self.tells_system())
    }

    fn is_revoked(&self) -> bool {
        matches!(&self.record, Some(record) if record.state == LinkState::Revoked)
    }

    fn revoked(&self) -> Exit {
        self.board.change(|status| status.link = LinkStatus::Revoked);
        (self.config.on_talk)(&Talk::Revoked);
        Exit::Revoked
    }

    /// Returns what was pinned at approval, linking the device first if it must be.
    async fn pinned(&self) -> Result<Pinned, LinkError> {
        let same_server = |record: &&LinkRecord| record.server_url == self.server_url.as_str();
        let pending = match self
            .record
            .as_ref()
            .filter(same_server)
            .map(|record| &record.state)
        {
            Some(LinkState::Linked(pinned)) => return Ok((**pinned).clone()),
            Some(LinkState::Revoked) => {
                return Err(LinkError::Revoked(self.state_dir.path().display().to_string()));
            }
            Some(LinkState::Pending(pending)) => Some(pending.clone()),
            Some(LinkState::Expired) | None => None,
        };
        self.link(pending).await
    }

    async fn link(&self, pending: Option<PendingCode>) -> Result<Pinned, LinkError> {
        let server_url = self.server_url.to_string();
        let hostname = hostname();
        let about = LinkStart {
            device_label: Some(self.config.label.clone().unwrap_or_else(|| hostname.clone())),
            os: Some(std::env::consts::OS.to_owned()),
            app_version: Some(self.config.app_version.clone()),
            hostname: Some(hostname),
            ..LinkStart::default()
        };
        let linker = Linker {
            client: Client::new(&server_url, None).map_err(LinkError::Refused)?,
            server_url,
            public_key: self.keyring.public(),
            about,
            state_dir: &self.state_dir,
            board: &self.board,
            on_talk: &self.config.on_talk,
            backoff: new_backoff(),
        };
        match &self.config.auth_key {
            Some(key) => linker.join(key).await,
            None => linker.link(pending).await,
        }
    }

    async fn take_part(&mut self, pinned: Pinned) -> Result<Exit, NodeError> {
        self.board.change(|status| status.link = LinkStatus::Linked);
        let (journal, interrupted) = JournalKeeper::open(&self.state_dir.file("journal"))?;
        let (mesh, host) = self.start_mesh().await?;
        let host_addresses = host.as_ref().map(|host| host.addresses.subscribe());
        let address = mesh.local_addr().to_string();
        self.board.change(|status| status.mesh_address = Some(address));
        let system = SystemResolver::of(pinned.node_id);
        // What a crash left: nobody answers there any more.
        system.take_back().await;
        let system = system.by(self.device_that_is_told().cloned());
        let (membership, reports) = Membership::new(
            mesh.clone(),
            self.keyring.clone(),
            pinned,
            self.state_dir.clone(),
            self.board.clone(),
        );
        membership.restore().await;
        let ports = self.open_ports(&membership).await;
        let (sidecar, outbox) = self.make_sidecar(&membership, journal);
        sidecar.recover(&interrupted);
        let has_lan_discovery = self.config.lan_discovery;
        let mut whereabouts =
            Whereabouts::new(membership.clone(), self.server_url.clone(), has_lan_discovery);
        // Before the first hello, which says where we are.
        whereabouts.look().await;
        let mapping = self.map_port(&mesh, whereabouts.changes());
        let following = AbortOnDropHandle::new(tokio::spawn(whereabouts.follow()));
        let control = ControlClient {
            server_url: self.server_url.clone(),
            signing_key: self.signing_key.public(),
            app_version: self.config.app_version.clone(),
            membership: membership.clone(),
            reports,
            board: self.board.clone(),
            on_talk: self.config.on_talk.clone(),
            backoff: new_backoff(),
        };
        let hosting = keep_host(host, &membership);
        let naming = Box::pin(self.serve_names(&membership, &system, host_addresses));
        let beside = async {
            tokio::select! {
                error = hosting => error,
                () = naming => std::future::pending().await,
            }
        };
        let ended = self
            .until_the_end(&membership, &sidecar, outbox, control, beside)
            .await;
        ports.stop().await;
        system.take_back().await;
        mapping.stop().await;
        drop(following);
        mesh.shutdown().await;
        match ended? {
            Some(why) => self.shut_out(why),
            None => Ok(Exit::Shutdown),
        }
    }

    async fn open_ports(&self, membership: &Arc<Membership>) -> Arc<Ports> {
        let reach = Reach::new(membership.clone());
        let ports = Ports::open(reach, self.state_dir.clone(), membership.pinned());
        let ports = Arc::new(ports.await);
        let _ = self.ports.set(ports.clone());
        ports
    }

    /// Starts the mesh, in TUN mode with the host in it.
    async fn start_mesh(&mut self) -> Result<(MeshNet, Option<HostPlace>), NodeError> {
        let config = MeshNetConfig {
            private_key: self.keyring.current(),
            listen: self.config.listen,
        };
        let Some(tun) = self.tun.take() else {
            return Ok((MeshNet::start(config)?, None));
        };
        let network = HostNetwork::of(&tun).await?;
        let (mesh, loss) = MeshNet::start_with_host(config, tun)?;
        let on_talk = self.config.on_talk.clone();
        let place = HostPlace {
            network,
            loss,
            on_talk,
            addresses: watch::Sender::default(),
        };
        Ok((mesh, Some(place)))
    }

    fn make_sidecar(&self, membership: &Arc<Membership>, journal: JournalKeeper) -> (Arc<Sidecar>, Outbox) {
        let (sidecar, outbox) = Sidecar::new(sidecar::Parts {
            membership: membership.clone(),
            journal,
            policy: Arc::new(PolicyStore::new(self.state_dir.file("policy.toml"))),
            own_env: own_environment(),
            state_dir: self.state_dir.clone(),
            board: self.board.clone(),
            on_talk: self.config.on_talk.clone(),
        });
        let _ = self.sidecar.set(sidecar.clone());
        (sidecar, outbox)
    }

    /// Runs the tasks until somebody asks to stop, the node is shut out, or `hosting` ends: why the host can be in the mesh
    /// no longer.
    async fn until_the_end(
        &self,
        membership: &Arc<Membership>,
        sidecar: &Arc<Sidecar>,
        outbox: Outbox,
        control: ControlClient,
        hosting: impl Future<Output = TunError>,
    ) -> Result<Option<ShutOut>, TunError> {
        let keeping_up = tokio::spawn(session::keep_up(sidecar.clone(), outbox, new_backoff()));
        let watching = tokio::spawn({
            let membership = membership.clone();
            async move { membership.watch_paths().await }
        });
        let proxying = self.serve_proxy(Reach::new(membership.clone()));
        let controlling = CancellationToken::new();
        let control = tokio::spawn({
            let over = controlling.clone().drop_guard();
            async move {
                let why = control.run_until_shut_out().await;
                drop(over);
                why
            }
        });
        let broken = tokio::select! {
            () = controlling.cancelled() => None,
            () = self.shutdown.cancelled() => None,
            () = proxying => None,
            error = hosting => Some(error),
        };
        control.abort();
        // A stream that broke down by a defect is no revocation: only its own word is.
        let shut_out = control.await.ok();
        if let Some(why) = shut_out {
            // The tunnel first: from here on nothing more comes in or goes out.
            membership.forget().await;
            sidecar
                .stop_all(match why {
                    ShutOut::Revoked => Stop::TakenAway,
                    ShutOut::KeyExpired => Stop::Shutdown,
                })
                .await;
        } else {
            sidecar.stop_all(Stop::Shutdown).await;
            let _ = timeout(LAST_WORDS, sidecar.acknowledged()).await;
        }
        for task in [keeping_up, watching] {
            task.abort();
            let _ = task.await;
        }
        match broken {
            Some(error) if shut_out.is_none() => Err(error),
            _ => Ok(shut_out),
        }
    }

    /// Serves the proxy, for ever; dropping this cuts its connections.
    async fn serve_proxy(&self, reach: Reach) {
        let Some(proxy) = &self.proxy else {
            return std::future::pending().await;
        };
        let address = proxy.address().to_string();
        self.board
            .change(|status| status.proxy_address = Some(address.clone()));
        (self.config.on_talk)(&Talk::Proxy { address });
        proxy.serve(reach).await;
    }

    /// Keeps a port of the router open unless it was wished otherwise.
    fn map_port(&self, mesh: &MeshNet, networks: watch::Receiver<u64>) -> Serving {
        let until = CancellationToken::new();
        let mapper = self
            .config
            .port_mapping
            .then(|| PortMapper::new(mesh.clone(), self.board.clone(), networks));
        let stop = until.clone();
        let task = tokio::spawn(async move {
            if let Some(mapper) = mapper {
                mapper.run(stop).await;
            }
        });
        Serving { until, task }
    }

    /// Answers for the mesh's names, for ever: in TUN mode also at the addresses that the host has.
    async fn serve_names(
        &self,
        membership: &Membership,
        system: &SystemResolver,
        host_addresses: Option<watch::Receiver<BTreeSet<IpAddr>>>,
    ) {
        let names = Names::new(membership.follow());
        let at_own_addresses = async {
            if let Some(addresses) = host_addresses {
                let on_talk = &self.config.on_talk;
                names.serve_own_addresses(addresses, &self.board, on_talk).await;
            }
        };
        let peers = names.serve_peers(membership.mesh());
        let programs = self.serve_names_to_programs(&names, system);
        tokio::join!(peers, at_own_addresses, programs);
    }

    /// Answers programs on this device at the address that was asked for, if one was.
    async fn serve_names_to_programs(&self, names: &Names, system: &SystemResolver) {
        let Some(resolver) = &self.resolver else {
            return;
        };
        let address = resolver.address().to_string();
        self.board
            .change(|status| status.names_address = Some(address.clone()));
        (self.config.on_talk)(&Talk::Names { address });
        let telling = async {
            if self.tells_system() {
                names.keep_told(system, resolver, &self.config.on_talk).await;
            }
        };
        tokio::join!(resolver.serve(names.clone()), telling);
    }

    fn shut_out(&self, why: ShutOut) -> Result<Exit, NodeError> {
        let (state, reason) = match why {
            ShutOut::Revoked => (LinkState::Revoked, "this node was revoked"),
            ShutOut::KeyExpired => (LinkState::Expired, "the key of this node has expired"),
        };
        let record = LinkRecord {
            server_url: self.server_url.to_string(),
            state,
        };
        link_state::write(&self.state_dir, &record)?;
        let now = Clock::new().now().wall;
        self.board.change(|status| {
            status.control = Connection::down(now, reason);
            status.sidecar = Connection::down(now, reason);
        });
        Ok(match why {
            ShutOut::Revoked => self.revoked(),
            ShutOut::KeyExpired => self.key_expired(),
        })
    }

    fn key_expired(&self) -> Exit {
        self.board.change(|status| status.link = LinkStatus::Expired);
        (self.config.on_talk)(&Talk::KeyExpired);
        Exit::KeyExpired
    }
}

/// Keeps the host in the mesh, if it is; dropping this stops following, and leaves the host as it is.
async fn keep_host(host: Option<HostPlace>, membership: &Membership) -> TunError {
    match host {
        Some(place) => place.keep(membership.follow()).await,
        None => std::future::pending().await,
    }
}

fn server_url(config: &NodeConfig, record: Option<&LinkRecord>) -> Result<Url, NodeError> {
    let known = record.map(|record| record.server_url.parse::<Url>().map_err(|_| NodeError::BadServer));
    let url = match (&config.server_url, known.transpose()?) {
        (Some(asked), Some(known)) if *asked != known => {
            let is_linked = record.is_some_and(|record| matches!(record.state, LinkState::Linked(_)));
            if is_linked {
                return Err(NodeError::OtherServer(known.to_string()));
            }
            asked.clone()
        }
        (Some(asked), _) => asked.clone(),
        (None, Some(known)) => known,
        (None, None) => return Err(NodeError::NoServer),
    };
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(NodeError::BadServer)
    }
}

/// The daemon's environment as far as it is text.
fn own_environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn new_backoff() -> Backoff {
    Backoff::new(u64::from_le_bytes(net::random::bytes()))
}
