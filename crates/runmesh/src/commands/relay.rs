//! `runmesh relay`: a relay by itself, for control planes that name it with `--relays`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use relay::standalone::{Standalone, StandaloneOptions};
use relay::tls::TlsFiles;
use serde_json::json;

use crate::failure::hinted;
use crate::interrupts::stop_token;
use crate::output::{Output, talk};
use crate::table::Column;

/// How long its clients have to go elsewhere.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What `relay` takes.
#[derive(Args)]
pub(crate) struct RelayArgs {
    /// The control plane's key for tickets, as `runmesh relays` shows it
    #[arg(long, value_name = "KEY")]
    authority: String,
    /// Where the relay's key is kept; made when it is not there
    #[arg(
        long,
        value_name = "DIR",
        env = "RUNMESH_DATA_DIR",
        default_value = "runmesh-relay"
    )]
    data_dir: PathBuf,
    /// What people call it
    #[arg(long, value_name = "NAME", default_value = "relay")]
    name: String,
    /// The host name or address at which nodes reach it; that of --listen when left out
    #[arg(long, value_name = "HOST")]
    public_host: Option<String>,
    /// Where to receive UDP, STUN requests too
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:3478")]
    listen: SocketAddr,
    /// Where to answer STUN besides, so that a node can tell what its NAT does
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:3479")]
    stun_listen: SocketAddr,
    /// Where to serve WebSockets, for networks that let no UDP through
    #[arg(long, value_name = "ADDRESS")]
    web_listen: Option<SocketAddr>,
    /// The certificate for them, PEM; in the clear without one, for a proxy that ends TLS
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "web_listen"])]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Where nodes reach the WebSocket, when that is not --public-host and the port of --web-listen
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Where to serve /metrics and /healthz
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

const FIELDS: [Column; 5] = [
    ("name", "/name"),
    ("key", "/id"),
    ("endpoints", "/endpoints"),
    ("websocket", "/url"),
    ("stun", "/stunEndpoints"),
];

/// Runs the relay until it is told to stop; its record is the first line on stdout.
pub(crate) async fn relay(args: RelayArgs, output: Output) -> Result<()> {
    let authority = args.authority.parse();
    let authority = authority.map_err(|error| {
        hinted(
            format!("the authority `{}` {error}", args.authority),
            "`runmesh relays` shows the key of a control plane",
        )
    })?;
    let name = args.name.parse();
    let name =
        name.map_err(|error| hinted(format!("the name `{}` {error}", args.name), "use a DNS label"))?;
    let tls = args.tls_cert.zip(args.tls_key);
    let stop = stop_token()?;
    let relay = Standalone::start(StandaloneOptions {
        data_dir: args.data_dir,
        authority,
        name,
        public_host: args.public_host,
        listen: args.listen,
        stun_listen: args.stun_listen,
        web_listen: args.web_listen,
        tls: tls.map(|(certificates, private_key)| TlsFiles {
            certificates,
            private_key,
        }),
        public_url: args.public_url,
        metrics_listen: args.metrics_listen,
    })
    .await?;
    let record = json!(relay.record());
    if output.is_json() {
        output.stream(&record, "")?;
    } else {
        output.record(&record, &FIELDS)?;
    }
    if let Some(address) = relay.metrics_addr() {
        talk(&format!("metrics at http://{address}/metrics"));
    }
    stop.cancelled().await;
    talk("sending clients away");
    relay.drain(DRAIN_TIMEOUT).await;
    Ok(())
}
