//! A relay that runs by itself: its key file, its sockets, and the record by which a control plane names it to nodes.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use net::key_file;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use types::{NodeName, RelayRecord, SigningPublicKey};

use crate::tls::{Tls, TlsError, TlsFiles};
use crate::websocket::{self, WebSocketOptions};
use crate::{Relay, RelayOptions, StartError, door, metrics};

const KEY_FILE: &str = "relay.key";

/// How to run a relay by itself.
#[derive(Debug, Clone)]
pub struct StandaloneOptions {
    /// Where its key is kept; made when it is not there.
    pub data_dir: PathBuf,
    /// The key of the control plane that signs tickets.
    pub authority: SigningPublicKey,
    /// What people call it.
    pub name: NodeName,
    /// The host at which nodes reach it; the address it is bound to when absent.
    pub public_host: Option<String>,
    /// Where to receive UDP.
    pub listen: SocketAddr,
    /// The second port, which answers STUN only.
    pub stun_listen: SocketAddr,
    /// Where to serve WebSockets; nowhere when absent.
    pub web_listen: Option<SocketAddr>,
    /// The certificate for them; without one they are served in the clear, for a proxy that ends TLS.
    pub tls: Option<TlsFiles>,
    /// Where nodes reach the WebSocket; made from the host and `web_listen` when absent.
    pub public_url: Option<String>,
    /// Where to serve `/metrics` and `/healthz`; nowhere when absent.
    pub metrics_listen: Option<SocketAddr>,
}

/// Why a relay does not run.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// The data directory or the key in it cannot be used.
    #[error("cannot use the relay's key below {path}: {source}")]
    Key {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The relay cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A TCP port cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A relay that runs by itself.
#[derive(Debug)]
pub struct Standalone {
    relay: Relay,
    record: RelayRecord,
    metrics_addr: Option<SocketAddr>,
    stop: CancellationToken,
}

impl Standalone {
    /// Opens everything and starts to serve.
    pub async fn start(options: StandaloneOptions) -> Result<Self, StandaloneError> {
        let key_error = |source| StandaloneError::Key {
            path: options.data_dir.clone(),
            source,
        };
        std::fs::create_dir_all(&options.data_dir).map_err(key_error)?;
        let private_key = key_file::open(&options.data_dir.join(KEY_FILE)).map_err(key_error)?;
        let tls = options.tls.clone().map(Tls::load).transpose()?;
        let mut start = RelayOptions::new(options.listen, private_key, options.authority);
        start.stun_listen = Some(options.stun_listen);
        let relay = Relay::start(start)?;
        let stop = CancellationToken::new();
        let is_secure = tls.is_some();
        let web_addr = match options.web_listen {
            Some(address) => {
                let (listener, bound) = listen(address).await?;
                let router = websocket::router(relay.clone(), WebSocketOptions::default());
                tokio::spawn(door::serve(listener, router, tls, stop.clone()));
                Some(bound)
            }
            None => None,
        };
        let metrics_addr = match options.metrics_listen {
            Some(address) => {
                let (listener, bound) = listen(address).await?;
                let router = metrics::router(relay.clone());
                tokio::spawn(door::serve(listener, router, None, stop.clone()));
                Some(bound)
            }
            None => None,
        };
        Ok(Self {
            record: record(&options, &relay, web_addr.map(|bound| (bound, is_secure))),
            relay,
            metrics_addr,
            stop,
        })
    }

    /// Returns how a control plane names it to nodes.
    #[must_use]
    pub fn record(&self) -> &RelayRecord {
        &self.record
    }

    /// Returns where its metrics are.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Sends its clients away within `left`, and stops.
    pub async fn drain(self, left: Duration) {
        self.relay.drain(left).await;
        self.stop.cancel();
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StandaloneError> {
    let failed = |source| StandaloneError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn record(options: &StandaloneOptions, relay: &Relay, web: Option<(SocketAddr, bool)>) -> RelayRecord {
    let at = |bound: SocketAddr| match &options.public_host {
        Some(host) if host.contains(':') => format!("[{host}]:{}", bound.port()),
        Some(host) => format!("{host}:{}", bound.port()),
        None => bound.to_string(),
    };
    let made = web.map(|(bound, is_secure)| {
        let scheme = if is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}{}", at(bound), websocket::PATH)
    });
    RelayRecord {
        id: relay.id(),
        name: options.name.clone(),
        endpoints: vec![at(relay.local_addr())],
        url: options.public_url.clone().or(made),
        stun_endpoints: relay.stun_addr().map(at).into_iter().collect(),
    }
}
