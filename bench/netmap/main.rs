//! Measures what one change costs for each node that sees it, in an org where everybody sees everybody: what the control
//! plane does to tell it, how long the message is, and what the node does to check and apply it; in time on a processor.
//!
//! It works on the very types of both ends (`types::Evaluation`, `types::netmap`), without database, stream and disk; and on
//! a whole node (`node::membership`) with its mesh, its status and its disk.
//! Usage: `cargo run --release -p bench --bin netmap [-- NODES]`, 10,000 by default.

mod node;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::node::footprint;
use anyhow::{Context as _, Result, bail, ensure};
use net::random;
use rustix::time::{ClockId, clock_gettime};
use types::address::{host_ip4, node_ip6};
use types::control::ToNode;
use types::netmap::{Difference, InForce, NetmapDelta, Pins, SelfRecord};
use types::policy::Changes;
use types::{
    AllowedIp, Evaluation, Generation, MeshAddresses, Netmap, NodeId, NodeKind, NodePrivateKey, OrgId,
    PacketFilter, PeerRecord, Policy, SigningPrivateKey, Subject, UserId,
};

const NODES: usize = 10_000;

/// How many nodes are told of each change.
const TOLD: usize = 50;

/// How many times the whole node is told of each kind of change.
const ROUNDS: usize = 30;

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    let count: usize = argument.map_or(Ok(NODES), |text| text.parse())?;
    ensure!(count > TOLD, "more nodes than are told are needed");
    let org_id = OrgId::from_random(random::bytes());
    let key = SigningPrivateKey::from_random(random::bytes());
    let begun = Instant::now();
    let mut records: Vec<_> = (0..count).map(|number| record(org_id, number, &key)).collect();
    records.sort_by_key(|record| record.id);
    println!("{count} records made and signed: {:.1?}", begun.elapsed());
    let before = Org::new(org_id, &key, records.clone(), Generation(1));

    let mut moved = records.clone();
    Arc::make_mut(&mut moved[count / 2]).endpoints = vec!["198.51.100.7:41641".to_owned()];
    let moved = Org {
        records: moved,
        ..before.clone()
    };
    let mut fewer = records.clone();
    fewer.remove(count / 2);
    let fewer = Org::new(org_id, &key, fewer, Generation(1));
    measure("a node moves", &before, &moved.at(2))?;
    measure("a node is revoked", &before, &fewer.at(2))?;
    measure("a node joins", &fewer, &before.at(2))?;
    footprint::runtime()?.block_on(measure_node(&before, &moved, &fewer))
}

/// An org at one moment.
#[derive(Clone)]
struct Org {
    id: OrgId,
    key: SigningPrivateKey,
    generation: Generation,
    records: Vec<Arc<PeerRecord>>,
    evaluation: Arc<Evaluation>,
}

impl Org {
    fn new(
        id: OrgId,
        key: &SigningPrivateKey,
        records: Vec<Arc<PeerRecord>>,
        generation: Generation,
    ) -> Self {
        let owner = Some(UserId::from_random([7; 16]));
        let subjects = records.iter().map(|record| Subject {
            id: record.id,
            name: Some(record.name.clone()),
            kind: record.kind,
            tags: Vec::new(),
            owner,
            blocks: record.allowed_ips.clone(),
        });
        let evaluation = Arc::new(Evaluation::new(&Policy::standard(), subjects.collect()));
        Self {
            key: key.clone(),
            id,
            generation,
            records,
            evaluation,
        }
    }

    /// The same at another generation.
    fn at(&self, generation: u64) -> Self {
        Self {
            generation: Generation(generation),
            ..self.clone()
        }
    }

    fn netmap(&self, own: &PeerRecord, filter: PacketFilter) -> Netmap {
        let peers = self.evaluation.peers(own.id);
        Netmap {
            generation: self.generation,
            org_id: self.id,
            org_name: "home".parse().expect("a label"),
            org_signing_key: self.key.public(),
            node: SelfRecord {
                id: own.id,
                name: own.name.clone(),
                public_key: own.public_key,
                addresses: MeshAddresses {
                    mesh_ip4: host_ip4(1).expect("in range"),
                    mesh_ip6: node_ip6(self.id, own.id),
                },
                key_life: None,
            },
            peers: peers.map(|place| Arc::clone(&self.records[place])).collect(),
            relays: Vec::new(),
            filter: Some(Arc::new(filter)),
            orchestrator: None,
        }
    }

    /// What the control plane does for one node; it works filters out only where somebody came or went, and of those only.
    fn difference(&self, before: &Self, own: &PeerRecord, changes: Option<&Changes>) -> Difference {
        let same = Arc::ptr_eq(&self.evaluation, &before.evaluation);
        let cut = |org: &Self| {
            let filter = match changes {
                _ if same => PacketFilter::default(),
                Some(changes) => org.evaluation.filter_among(own.id, changes),
                None => org.evaluation.filter(own.id),
            };
            org.netmap(own, filter)
        };
        Difference::between(&cut(before), &cut(self))
    }

    fn whole(&self, own: &PeerRecord) -> Netmap {
        self.netmap(own, self.evaluation.filter(own.id))
    }
}

fn measure(what: &str, before: &Org, after: &Org) -> Result<()> {
    let told: Vec<_> = before.records.iter().take(TOLD).cloned().collect();
    // Worked out once for all who are told.
    let changes = after.evaluation.changes_since(&before.evaluation);
    let mut tell = Vec::new();
    let mut messages = Vec::new();
    for own in &told {
        let begun = thread_time();
        let Difference::Delta(delta) = after.difference(before, own, changes.as_ref()) else {
            bail!("{what}: it is not told by a delta");
        };
        messages.push(serde_json::to_vec(&ToNode::NetmapDelta(delta))?);
        tell.push(thread_time() - begun);
    }
    let bytes = messages.iter().map(Vec::len).max().unwrap_or_default();
    let mut apply = Vec::new();
    for (own, message) in told.iter().zip(&messages) {
        let pins = Pins {
            own_key: own.public_key,
            org_id: before.id,
            org_signing_key: before.key.public(),
        };
        let mut node = InForce::new(before.whole(own), &pins, None).context("the netmap is refused")?;
        let begun = thread_time();
        let delta: NetmapDelta = serde_json::from_slice(message)?;
        node.put(node.amended(&delta, &pins).context("the delta is refused")?);
        apply.push(thread_time() - begun);
        ensure!(**node.map() == after.whole(own), "{what}: it leads elsewhere");
    }
    let whole = serde_json::to_vec(&before.whole(&told[0]))?.len();
    println!(
        "{what}: told in {:.0?}, {bytes} bytes (the whole netmap: {whole}), checked and applied in {:.0?} (CPU, medians of {TOLD})",
        median(tell),
        median(apply)
    );
    Ok(())
}

/// Has one whole node follow a node that moves, is revoked and joins again, over and over.
async fn measure_node(before: &Org, moved: &Org, fewer: &Org) -> Result<()> {
    let own_key = NodePrivateKey::from_random(random::bytes());
    let own = PeerRecord {
        public_key: own_key.public(),
        ..PeerRecord::clone(&before.records[0])
    };
    let node = node::Node::start(own_key, before.whole(&own)).await?;
    let steps = [
        ("a node moves", before, moved),
        ("moves back", moved, before),
        ("a node is revoked", before, fewer),
        ("a node joins", fewer, before),
    ];
    let mut taken = steps.map(|_| Vec::new());
    let mut generation = before.generation.0;
    for _ in 0..ROUNDS {
        for ((what, from, to), taken) in steps.iter().zip(&mut taken) {
            let (from, to) = (from.at(generation), to.at(generation + 1));
            generation += 1;
            let changes = to.evaluation.changes_since(&from.evaluation);
            let Difference::Delta(delta) = to.difference(&from, &own, changes.as_ref()) else {
                bail!("{what}: it is not told by a delta");
            };
            let message = serde_json::to_vec(&ToNode::NetmapDelta(delta))?;
            taken.push(node.take(&message).await?);
        }
    }
    ensure!(
        node.has(&before.at(generation).whole(&own)),
        "the node has gone elsewhere"
    );
    for ((what, ..), taken) in steps.iter().zip(taken) {
        println!(
            "a whole node, {what}: {:.0?} of CPU, {:.0?} until it is in force, {} bytes written (medians of {ROUNDS})",
            median(taken.iter().map(|taken| taken.cpu).collect()),
            median(taken.iter().map(|taken| taken.elapsed).collect()),
            median(taken.iter().map(|taken| taken.written).collect()),
        );
    }
    Ok(())
}

/// How long this thread has been on a processor: others may be using the machine.
fn thread_time() -> Duration {
    cpu_time(ClockId::ThreadCPUTime)
}

fn cpu_time(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).expect("it is not negative")
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

fn record(org: OrgId, number: usize, key: &SigningPrivateKey) -> Arc<PeerRecord> {
    let id = NodeId::from_random(random::bytes());
    let ip4 = host_ip4(u32::try_from(number).expect("few") + 2).expect("in range");
    let mut record = PeerRecord {
        id,
        name: format!("node-{number}").parse().expect("a label"),
        kind: NodeKind::Device,
        public_key: NodePrivateKey::from_random(random::bytes()).public(),
        allowed_ips: vec![
            AllowedIp::host(ip4.into()),
            AllowedIp::host(node_ip6(org, id).into()),
        ],
        endpoints: vec!["192.0.2.1:41641".to_owned(), "[2001:db8::1]:41641".to_owned()],
        home_relay: None,
        signatures: Vec::new(),
    };
    record.sign(org, key);
    Arc::new(record)
}
