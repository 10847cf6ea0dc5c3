//! Starts and stops a control plane: what the `runmesh serve` command and the tests call.

use std::fs::{DirBuilder, File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use types::{AllowedIp, OrgName, RelayRecord, SecretString};
use url::Url;

use crate::app::{self, App, AppConfig, Limits, Reaches, Revocations, Rosters};
use crate::clock::Clock;
use crate::cut_offs::CutOffs;
use crate::door::Door;
use crate::http;
use crate::hub::Hub;
use crate::keys::ControlKeys;
use crate::live::Watchers;
use crate::orchestrator::{self, Orchestrator};
use crate::platform::Platform;
use crate::provider::{Provider, ProviderConfig, ProviderConfigError};
use crate::relays::{RelayKeys, RelayStart, Relays, TICKET_EVERY};
use crate::store::Store;

/// How long requests under way may take to end when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a WebSocket is pinged, and an idle event stream commented (contract §6).
const PING_EVERY: Duration = Duration::from_secs(20);

/// How to start a control plane.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where the database and the keys are kept; made when it is not there.
    pub data_dir: PathBuf,
    /// A PostgreSQL database to use instead of the SQLite file in `data_dir`.
    pub database_url: Option<String>,
    /// Where HTTP is served; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the platform node's UDP socket is; port 0 picks a free one.
    pub mesh_listen: SocketAddr,
    /// Where people and devices reach this server; made from `listen` when absent.
    pub public_url: Option<Url>,
    /// The name of the org that the first start makes.
    pub org_name: OrgName,
    /// Proxies whose `X-Forwarded-For` is believed; of everybody else the address of the connection counts.
    pub trusted_proxies: Vec<AllowedIp>,
    /// How the relay beside the control plane is started; there is none when absent.
    pub relay: Option<RelayStart>,
    /// Relays that run elsewhere and know this control plane's key for tickets.
    pub relays_elsewhere: Vec<RelayRecord>,
    /// Where people sign in without an API key; nowhere by default.
    pub provider: Option<ProviderConfig>,
    /// The clock; tests turn it forward.
    pub clock: Clock,
}

/// How long a WebSocket may take to swallow one frame before it is told that it is too slow.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is rarely set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tuning {
    /// The most pages of 4 KiB that the SQLite file may have; as many as the disk holds when absent.
    pub sqlite_pages_max: Option<u32>,
    /// How long a client may take to send the head of a request; 30 seconds when absent.
    pub head_timeout: Option<Duration>,
    /// How long a client may take to send a body; 30 seconds when absent.
    pub body_timeout: Option<Duration>,
    /// How many connections one address may hold; 1024 when absent. Trusted proxies may hold all there are.
    pub connections_per_address_max: Option<usize>,
    /// How often a live connection is pinged; every 20 seconds when absent.
    pub ping_every: Option<Duration>,
    /// How long a WebSocket may take to swallow one frame; 30 seconds when absent.
    pub frame_timeout: Option<Duration>,
    /// How long a request to the sign-in provider may take; ten seconds when absent.
    pub provider_timeout: Option<Duration>,
}

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be made or written.
    #[error("cannot use the data directory {path}")]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another control plane runs on the data directory.
    #[error("another control plane runs on {path}")]
    InUse {
        /// Which one.
        path: PathBuf,
    },
    /// The database cannot be opened.
    #[error("cannot open the database: {0}")]
    Database(String),
    /// The platform's mesh socket cannot be opened.
    #[error("cannot start the platform's mesh node: {0}")]
    Mesh(String),
    /// The relay beside the control plane cannot be started.
    #[error("cannot start the relay: {0}")]
    Relay(String),
    /// The sign-in provider is not configured as it must be.
    #[error("cannot use the sign-in provider")]
    Provider(#[from] ProviderConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running control plane. Dropping it stops it at once; [`Server::shutdown`] stops it gently.
#[derive(Debug)]
pub struct Server {
    /// Where HTTP is served.
    pub http_addr: SocketAddr,
    /// Where the platform node's UDP socket is.
    pub mesh_addr: SocketAddr,
    /// Where people and devices reach this server.
    pub public_url: Url,
    /// The admin's key, when this start made it: print it once.
    pub admin_key: Option<SecretString>,
    pub(crate) app: Arc<App>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    /// Held as long as the server is.
    _lock: File,
}

/// Starts a control plane.
pub async fn serve(config: ServeConfig) -> Result<Server, ServeError> {
    serve_with(config, Tuning::default()).await
}

/// Starts a control plane with limits of one's own.
pub async fn serve_with(config: ServeConfig, tuning: Tuning) -> Result<Server, ServeError> {
    let lock = lock_data_dir(&config.data_dir)?;
    let store = open_store(&config, tuning).await?;
    let listen_error = |source| ServeError::Listen {
        address: config.listen,
        source,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
    let http_addr = listener.local_addr().map_err(listen_error)?;
    let public_url = with_slash(config.public_url.clone().unwrap_or_else(|| url_of(http_addr)));
    let provider = config
        .provider
        .clone()
        .map(|provider| Provider::new(provider, &public_url, tuning.provider_timeout))
        .transpose()?;
    let keys = ControlKeys::open(&config.data_dir).map_err(|source| ServeError::DataDir {
        path: config.data_dir.clone(),
        source,
    })?;
    let platform = Platform::start(keys.platform.clone(), config.mesh_listen, &public_url)
        .map_err(|error| ServeError::Mesh(error.to_string()))?;
    let relays = relays(&config, &keys, &public_url)?;
    let rosters = Rosters::new(store.clone(), platform.endpoints());
    let app = Arc::new(App {
        store,
        clock: config.clock.clone(),
        config: app_config(&public_url, tuning),
        keys,
        hub: Hub::default(),
        cut_offs: CutOffs::default(),
        reaches: Reaches::default(),
        rosters,
        revocations: Revocations::default(),
        limits: Limits::default(),
        platform,
        relays,
        provider,
        watchers: Arc::new(Watchers::default()),
        orchestrator: Arc::new(Orchestrator::default()),
    });
    let admin_key = app::orgs::first_start(&app, &config.org_name)
        .await
        .map_err(|error| ServeError::Database(error.message))?
        .map(|created| SecretString::new(created.key));
    app.open()
        .await
        .map_err(|error| ServeError::Database(error.message))?;
    let stop = CancellationToken::new();
    begin_work(&app, &stop);
    orchestrator::start(&app, &stop)
        .await
        .map_err(|error| ServeError::Mesh(error.to_string()))?;
    let door = Door::new(&config.trusted_proxies, tuning);
    let router = http::router(Arc::clone(&app)).merge(app.relays.routes());
    let task = tokio::spawn(door.serve(listener, router, stop.clone()));
    Ok(Server {
        http_addr,
        mesh_addr: app.platform.local_addr(),
        public_url,
        admin_key,
        app,
        stop,
        task: Some(task),
        _lock: lock,
    })
}

fn app_config(public_url: &Url, tuning: Tuning) -> AppConfig {
    AppConfig {
        public_url: public_url.clone(),
        ping_every: tuning.ping_every.unwrap_or(PING_EVERY),
        body_timeout: tuning.body_timeout.unwrap_or(BODY_TIMEOUT),
        frame_timeout: tuning.frame_timeout.unwrap_or(FRAME_TIMEOUT),
    }
}

/// Begins what goes on by itself until `stop`.
fn begin_work(app: &Arc<App>, stop: &CancellationToken) {
    tokio::spawn(use_relays(Arc::clone(app), stop.clone()));
    tokio::spawn(app::ephemeral::sweep_until(Arc::clone(app), stop.clone()));
    tokio::spawn(app::node_keys::sweep_until(Arc::clone(app), stop.clone()));
}

impl Server {
    /// Stops taking requests, ends those under way within ten seconds, and closes the database.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        self.app.hub.close_all();
        self.app.watchers.stop();
        if let Some(mut task) = self.task.take()
            && tokio::time::timeout(DRAIN_TIMEOUT, &mut task).await.is_err()
        {
            task.abort();
        }
        tokio::join!(self.app.hub.drained(), self.app.watchers.drained());
        tokio::join!(self.app.platform.stop(), self.app.relays.stop());
        self.app.store.close().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn open_store(config: &ServeConfig, tuning: Tuning) -> Result<Store, ServeError> {
    let store = match &config.database_url {
        Some(url) => Store::open(url).await,
        None => Store::open_sqlite(&config.data_dir, tuning.sqlite_pages_max).await,
    };
    store.map_err(|error| ServeError::Database(error.to_string()))
}

fn relays(config: &ServeConfig, keys: &ControlKeys, public_url: &Url) -> Result<Relays, ServeError> {
    let relay_keys = RelayKeys {
        private_key: keys.relay.clone(),
        authority: keys.relay_tickets.public(),
    };
    let beside = config.relay.as_ref().map(|start| start.start(relay_keys));
    let beside = beside.transpose().map_err(ServeError::Relay)?;
    let authority = keys.relay_tickets.clone();
    Ok(Relays::new(
        authority,
        beside,
        &config.relays_elsewhere,
        public_url,
    ))
}

/// The platform's node is one more client of the relays, and its tickets end as all others do.
async fn use_relays(app: Arc<App>, stop: CancellationToken) {
    app.platform.use_relays(app.relays.points().await).await;
    let mut due = tokio::time::interval(TICKET_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let ticket = app.relays.platform_ticket(app.keys.platform.public(), &app.clock);
        let Some(ticket) = ticket else {
            return;
        };
        app.platform.renew_ticket(ticket).await;
    }
}

/// Makes the data directory and takes it: two processes on one database would not tell each other what changes.
fn lock_data_dir(path: &Path) -> Result<File, ServeError> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let refused = |source| ServeError::DataDir {
        path: path.to_owned(),
        source,
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(refused)?;
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(path.join("lock")).map_err(refused)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ServeError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}

/// Paths are joined to the address, which keeps its last part only when a slash ends it.
fn with_slash(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// An unspecified address is reachable at least from this machine.
fn url_of(address: SocketAddr) -> Url {
    let host = if address.ip().is_unspecified() {
        "127.0.0.1".to_owned()
    } else if address.is_ipv6() {
        format!("[{}]", address.ip())
    } else {
        address.ip().to_string()
    };
    let text = format!("http://{host}:{}/", address.port());
    text.parse().expect("an address and a port make a URL")
}
