//! `runmesh serve`: the control plane, in the foreground.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use clap::Args;
use control::clock::Clock;
use control::provider::ProviderConfig;
use control::{RelayBeside, RelayRecord, RelayStart, ServeConfig, Server};
use relay::websocket::WebSocketOptions;
use relay::{Relay, RelayOptions};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cli::DEFAULT_LISTEN;
use crate::failure::hinted;
use crate::interrupts::stop_token;
use crate::output::{Output, talk};
use crate::table::Column;

/// The mesh port beside the default HTTP port.
const DEFAULT_MESH_PORT: u16 = 7421;

/// The relay's port beside the default HTTP port; the next one answers STUN besides.
const DEFAULT_RELAY_PORT: u16 = 7422;

/// What `serve` takes.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Where the database and the keys are kept; made when it is not there
    #[arg(
        long,
        value_name = "DIR",
        env = "RUNMESH_DATA_DIR",
        default_value = "runmesh-data"
    )]
    data_dir: PathBuf,
    /// Where HTTP is served; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// Where the platform's own node is reached by UDP; beside --listen, port 7421, when left out
    #[arg(long, value_name = "ADDRESS")]
    mesh_listen: Option<SocketAddr>,
    /// Where the relay beside this server is reached by UDP; beside --listen, port 7422, when left out. The next port
    /// answers STUN besides
    #[arg(long, value_name = "ADDRESS", conflicts_with = "no_relay")]
    relay_listen: Option<SocketAddr>,
    /// Run no relay beside this server: nodes then use those of --relays only
    #[arg(long)]
    no_relay: bool,
    /// A JSON file with the records of relays that run elsewhere, a list of what `runmesh relay --json` prints
    #[arg(long, value_name = "FILE")]
    relays: Option<PathBuf>,
    /// Where people and devices reach this server, such as `https://mesh.example.com`; made from --listen when left out
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// The org that the first start makes
    #[arg(long, value_name = "NAME", default_value = "home")]
    org: String,
    /// A PostgreSQL database instead of the SQLite file in the data directory
    #[arg(
        long,
        value_name = "URL",
        env = "RUNMESH_DATABASE_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// A proxy before this server whose X-Forwarded-For is believed, such as 10.0.0.1/32; may be given again
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    trusted_proxies: Vec<String>,
    #[command(flatten)]
    oidc: OidcArgs,
}

/// Where people sign in without an API key.
#[derive(Args)]
struct OidcArgs {
    /// The OpenID Connect provider where people sign in, as it writes its own address
    #[arg(
        long = "oidc-issuer",
        value_name = "URL",
        env = "RUNMESH_OIDC_ISSUER",
        requires = "client_id"
    )]
    issuer: Option<String>,
    /// What the provider calls this server
    #[arg(
        long = "oidc-client-id",
        value_name = "ID",
        env = "RUNMESH_OIDC_CLIENT_ID",
        requires = "issuer"
    )]
    client_id: Option<String>,
    /// The file with what this server proves itself with at the provider; none for a public client
    #[arg(
        long = "oidc-client-secret-file",
        value_name = "FILE",
        env = "RUNMESH_OIDC_CLIENT_SECRET_FILE",
        requires = "issuer"
    )]
    client_secret_file: Option<PathBuf>,
    /// What the sign-in button calls the provider; its host when left out
    #[arg(
        long = "oidc-name",
        value_name = "TEXT",
        env = "RUNMESH_OIDC_NAME",
        requires = "issuer"
    )]
    name: Option<String>,
    /// Who joins the first org without an invitation: ROLE:sub:SUBJECT or ROLE:email:ADDRESS; may be given again
    #[arg(
        long = "oidc-join",
        value_name = "WHO",
        env = "RUNMESH_OIDC_JOIN",
        value_delimiter = '\n',
        requires = "issuer"
    )]
    joiners: Vec<String>,
}

impl OidcArgs {
    fn provider(self) -> Result<Option<ProviderConfig>> {
        let (Some(issuer), Some(client_id)) = (self.issuer, self.client_id) else {
            return Ok(None);
        };
        let secret = self.client_secret_file.map(|path| {
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| format!("read the client secret from {}", path.display()))?;
            Ok::<_, Error>(text.trim().to_owned().into())
        });
        let joiners = self.joiners.iter().map(|text| {
            let joiner = text.trim().parse();
            joiner.map_err(|error| {
                hinted(
                    format!("`{text}` {error}"),
                    "write it like member:email:ada@example.com",
                )
            })
        });
        let address = issuer.split_once("://").map_or(issuer.as_str(), |(_, rest)| rest);
        let host = address.split('/').next().unwrap_or_default().to_owned();
        Ok(Some(ProviderConfig {
            client_id,
            client_secret: secret.transpose()?,
            name: self.name.unwrap_or(host),
            joiners: joiners.collect::<Result<_>>()?,
            issuer,
        }))
    }
}

/// Starts the relay beside the control plane on one port, and on the next one what answers STUN besides.
fn relay_at(listen: SocketAddr) -> RelayStart {
    RelayStart::new(move |keys| {
        let mut options = RelayOptions::new(listen, keys.private_key, keys.authority);
        let next = listen
            .port()
            .checked_add(1)
            .filter(|next| *next != 1)
            .unwrap_or(0);
        options.stun_listen = Some(SocketAddr::new(listen.ip(), next));
        let relay = Relay::start(options).map_err(|error| error.to_string())?;
        let (expelling, draining) = (relay.clone(), relay.clone());
        Ok(RelayBeside {
            id: relay.id(),
            local_addr: relay.local_addr(),
            stun_addr: relay.stun_addr(),
            routes: relay::websocket::router(relay, WebSocketOptions::default()),
            expel: Box::new(move |expulsion| {
                let relay = expelling.clone();
                Box::pin(async move {
                    // It knows the key with which this is signed, and one that has stopped passes nothing on.
                    let _ = relay.expel(expulsion).await;
                })
            }),
            drain: Box::new(move |left| {
                let relay = draining.clone();
                Box::pin(async move { relay.drain(left).await })
            }),
        })
    })
}

fn read_relays(path: &Path) -> Result<Vec<RelayRecord>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read the relays in {}", path.display()))
}

const FIELDS: [Column; 3] = [("url", "/url"), ("api key", "/apiKey"), ("data", "/dataDir")];

/// Runs the control plane until it is told to stop.
pub(crate) async fn serve(args: ServeArgs, output: Output) -> Result<()> {
    let public_url = args.public_url.map(|text| {
        let url = text.parse();
        url.map_err(|_| {
            hinted(
                format!("`{text}` is no address"),
                "write it like https://mesh.example.com",
            )
        })
    });
    let beside = |port| match args.listen.port() {
        0 => SocketAddr::new(args.listen.ip(), 0),
        _ => SocketAddr::new(args.listen.ip(), port),
    };
    let trusted = args.trusted_proxies.iter().map(|text| {
        let block = text.parse();
        block.map_err(|error| hinted(format!("`{text}` {error}"), "write it like 10.0.0.1/32"))
    });
    let config = ServeConfig {
        data_dir: args.data_dir.clone(),
        database_url: args.database_url,
        listen: args.listen,
        mesh_listen: args.mesh_listen.unwrap_or(beside(DEFAULT_MESH_PORT)),
        relay: (!args.no_relay).then(|| relay_at(args.relay_listen.unwrap_or(beside(DEFAULT_RELAY_PORT)))),
        relays_elsewhere: args
            .relays
            .as_deref()
            .map(read_relays)
            .transpose()?
            .unwrap_or_default(),
        public_url: public_url.transpose()?,
        org_name: args
            .org
            .parse()
            .with_context(|| format!("the org's name `{}`", args.org))?,
        trusted_proxies: trusted.collect::<Result<_>>()?,
        provider: args.oidc.provider()?,
        clock: Clock::system(),
    };
    // Taken before anything is opened, so that a signal during the start is not lost.
    let stop = stop_token()?;
    let server = start(config, &stop).await?;
    let key = server.admin_key.as_ref().map(|key| key.expose());
    let started = json!({
        "url": server.public_url.as_str().trim_end_matches('/'),
        "apiKey": key,
        "dataDir": args.data_dir,
    });
    // In JSON one line, so that whoever started this reads it without waiting for the end.
    let shown = if output.is_json() {
        output.stream(&started, "")
    } else {
        output.record(&started, &FIELDS)
    };
    if let Err(error) = shown {
        let error = unseen(&error, key.is_some(), &args.data_dir);
        server.shutdown().await;
        return Err(error);
    }
    if key.is_some() {
        talk("this is the only time the key is shown: export it as RUNTOOLS_API_KEY");
    }
    stop.cancelled().await;
    talk("stopping");
    server.shutdown().await;
    Ok(())
}

/// Starts the control plane. A start that is under way is not broken off: it may be making the one key that is shown once.
async fn start(config: ServeConfig, stop: &CancellationToken) -> Result<Server> {
    let starting = control::serve(config);
    tokio::pin!(starting);
    tokio::select! {
        started = &mut starting => return Ok(started?),
        () = stop.cancelled() => {}
    }
    talk("stopping as soon as the start is over; press ctrl-C again to end at once");
    Ok(starting.await?)
}

/// A server whose address and key nobody could read is of no use, even where the reader only went away.
fn unseen(error: &Error, has_key: bool, data_dir: &Path) -> Error {
    let hint = if has_key {
        format!(
            "the key that was just made is lost: delete {} and start again with a stdout that can be written to",
            data_dir.display()
        )
    } else {
        "start again with a stdout that can be written to".to_owned()
    };
    hinted(format!("{error:#}"), hint)
}
