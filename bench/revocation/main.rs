//! Measures how long a revocation takes until the last of many nodes has said that it dropped the revoked one.
//!
//! The control plane is a process of its own: the one that `RUNMESH_BIN` names, or a development build made now. The nodes
//! are control streams of this process with nothing behind them: they open each message and answer it without reading more
//! of a netmap than its generation. One person owns all of them, so that each sees every other; with `star` they see only
//! those that are revoked.
//! Usage: `cargo run --release -p bench --bin revocation [-- NODES [star]]`, 1,000 by default; a node takes one descriptor.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use api::auth_keys::{CreateAuthKey, Join, Joined};
use api::client::Client;
use api::links::LinkStart;
use api::nodes::CutOff;
use e2e::processes::{ANY_PORT, Process, Runmesh};
use futures_util::{SinkExt as _, StreamExt as _};
use mesh::control_stream::{Channel, Initiator};
use net::random;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use types::control::{CAPABILITY_VERSION, FromNode, Hello};
use types::{Generation, NodeId, NodePrivateKey, SecretString, SigningPrivateKey};

const NODES: usize = 1000;

/// How many nodes are revoked, one after the other.
const REVOKED: usize = 5;

/// How often the API is asked how far a revocation has come.
const LOOK: Duration = Duration::from_millis(10);

const GIVE_UP: Duration = Duration::from_secs(120);

/// The beginning of each netmap, whole or delta, up to its generation.
const NETMAPS: [&[u8]; 2] = [
    br#"{"type":"netmap","generation":"#,
    br#"{"type":"netmap_delta","generation":"#,
];

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count = arguments.next().map_or(Ok(NODES), |text| text.parse())?;
    ensure!(count > REVOKED, "more nodes than are revoked are needed");
    let is_star = arguments.next().is_some_and(|word| word == "star");
    let dir = tempfile::tempdir()?;
    let (serve, api) = Runmesh::find()?.serve(&dir.path().join("control"), ANY_PORT, ANY_PORT)?;
    let client = Client::new(&api.url, Some(SecretString::new(api.key.clone())))?;
    if is_star {
        let grant = json!({"src": ["kind:device"], "dst": ["tag:gone"], "ports": ["*"]});
        let file = dir.path().join("policy.json");
        std::fs::write(&file, json!({"grants": [grant]}).to_string())?;
        api.call(&["policy", "set", &file.to_string_lossy()])?;
    }
    let gone = join_all(&client, REVOKED, Some("gone")).await?;
    let stay = join_all(&client, count - REVOKED, None).await?;
    let ids: Vec<NodeId> = gone.iter().map(|(_, joined)| joined.node.id).collect();
    let (told, mut answers) = mpsc::unbounded_channel();
    let begun = Instant::now();
    for (key, joined) in gone.into_iter().chain(stay) {
        let stream = Stream::open(&key, &joined)
            .await
            .context("open a control stream")?;
        tokio::spawn(stream.answer(told.clone()));
        answers.recv().await.context("a stream ended")?;
    }
    println!(
        "{count} nodes opened their streams one after the other in {:.1?}",
        begun.elapsed()
    );
    for id in ids {
        measure(&client, id, &serve).await?;
    }
    Ok(())
}

async fn measure(client: &Client, id: NodeId, serve: &Process) -> Result<()> {
    let begun = Instant::now();
    let first = client.revoke_node(id).await?.cut_off.context("no count")?;
    let answered = begun.elapsed();
    let mut last = first;
    while last.confirmed < last.nodes {
        ensure!(begun.elapsed() < GIVE_UP, "given up at {last:?}");
        tokio::time::sleep(LOOK).await;
        last = client.node(id).await?.cut_off.context("no count")?;
    }
    let CutOff {
        nodes, elapsed_ms, ..
    } = last;
    println!(
        "the last of {nodes} had dropped it after {elapsed_ms} ms; the answer came after {} ms with {} confirmed; \
         control plane {} MiB resident",
        answered.as_millis(),
        first.confirmed,
        serve.resident_kib()? / 1024
    );
    Ok(())
}

async fn join_all(client: &Client, count: usize, tag: Option<&str>) -> Result<Vec<(NodePrivateKey, Joined)>> {
    let request = CreateAuthKey {
        name: "nodes".to_owned(),
        reusable: true,
        tags: tag.map(|tag| vec![tag.to_owned()]),
        ..CreateAuthKey::default()
    };
    let auth_key = client.create_auth_key(&request).await?.key;
    let mut joined = Vec::with_capacity(count);
    for _ in 0..count {
        let key = NodePrivateKey::from_random(random::bytes());
        let request = Join {
            auth_key: auth_key.clone(),
            about: LinkStart {
                public_key: key.public().to_string(),
                ..LinkStart::default()
            },
            ..Join::default()
        };
        let mut answer = client.join(&request).await?;
        // Of no use here, and as long as the org is large.
        answer.config.peers = Vec::new();
        joined.push((key, answer));
    }
    Ok(joined)
}

struct Stream {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    channel: Channel,
}

impl Stream {
    async fn open(key: &NodePrivateKey, joined: &Joined) -> Result<Self> {
        let control = &joined.config.control;
        let (mut socket, _) = connect_async(&control.url).await?;
        let initiator = Initiator::new(key, &control.public_key, random::bytes());
        socket.send(Message::binary(initiator.message())).await?;
        let second = socket.next().await.context("closed")??;
        let channel = initiator.finish(&second.into_data())?;
        let mut stream = Self { socket, channel };
        let hello = Hello {
            capability_version: CAPABILITY_VERSION,
            app_version: None,
            os: None,
            hostname: None,
            signing_key: SigningPrivateKey::from_random(random::bytes()).public(),
            generation: None,
            endpoints: Vec::new(),
            home_relay: None,
        };
        stream.say(&FromNode::Hello(Box::new(hello))).await?;
        Ok(stream)
    }

    /// Answers every netmap, and says so, until the stream ends.
    async fn answer(mut self, told: mpsc::UnboundedSender<()>) {
        while let Some(Ok(message)) = self.socket.next().await {
            let Message::Binary(sealed) = message else {
                continue;
            };
            let Ok(opened) = self.channel.open(&sealed) else {
                return;
            };
            let Some(generation) = opened.as_deref().and_then(generation) else {
                continue;
            };
            if self.say(&FromNode::NetmapApplied { generation }).await.is_err() {
                return;
            }
            // Nobody listens any more once all are there.
            let _ = told.send(());
        }
    }

    async fn say(&mut self, message: &FromNode) -> Result<()> {
        for sealed in self.channel.seal(&serde_json::to_vec(message)?)? {
            self.socket.send(Message::binary(sealed)).await?;
        }
        Ok(())
    }
}

fn generation(json: &[u8]) -> Option<Generation> {
    let rest = NETMAPS
        .iter()
        .find_map(|beginning| json.strip_prefix(*beginning))?;
    let digits = rest.split(|byte| *byte == b',').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(Generation)
}
