//! A whole node's part of a change: its membership with a mesh and a state directory, and nobody to talk to.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use net::clock::Clock;
use net::{MeshNet, MeshNetConfig};
use node::keyring::Keyring;
use node::link_state::Pinned;
use node::membership::Membership;
use node::state_dir::StateDir;
use node::status::StatusBoard;
use rustix::time::ClockId;
use tempfile::TempDir;
use types::control::ToNode;
use types::{Netmap, NodePrivateKey};

use crate::cpu_time;

/// What one change took.
pub(crate) struct Taken {
    /// On processors, of all threads.
    pub(crate) cpu: Duration,
    /// By the clock: the wait for the disk is in it.
    pub(crate) elapsed: Duration,
    /// How many bytes were written to files.
    pub(crate) written: u64,
}

/// A node without a control plane.
pub(crate) struct Node {
    membership: Arc<Membership>,
    _dir: TempDir,
}

impl Node {
    /// Starts it as the node of a netmap, which it puts into force.
    pub(crate) async fn start(key: NodePrivateKey, map: Netmap) -> Result<Self> {
        let dir = TempDir::new()?;
        fs::write(dir.path().join("node.key"), key.to_base64().as_bytes())?;
        let config = MeshNetConfig {
            private_key: key.clone(),
            listen: "127.0.0.1:0".parse()?,
        };
        let mesh = MeshNet::start(config)?;
        let pinned = Pinned {
            control_key: key.public(),
            org_id: map.org_id,
            org_signing_key: map.org_signing_key,
            node_id: map.node.id,
            name: map.node.name.clone(),
            addresses: Vec::new(),
        };
        let state_dir = Arc::new(StateDir::open(dir.path())?);
        let keyring = Arc::new(Keyring::open(state_dir.clone())?);
        let board = StatusBoard::new("bench".to_owned(), key.public(), Clock::new().now().wall);
        let (membership, _) = Membership::new(mesh, keyring, pinned, state_dir, board);
        membership.offer(map).await.map_err(|why| anyhow!(why))?;
        Ok(Self {
            membership,
            _dir: dir,
        })
    }

    /// Has it read a delta as it comes, check it, keep it, and do what follows from it.
    pub(crate) async fn take(&self, message: &[u8]) -> Result<Taken> {
        let (cpu, written, begun) = (cpu_time(ClockId::ProcessCPUTime), written()?, Instant::now());
        let ToNode::NetmapDelta(delta) = serde_json::from_slice(message)? else {
            return Err(anyhow!("it is no delta"));
        };
        let offered = self.membership.offer_delta(&delta).await;
        let taken = Taken {
            cpu: cpu_time(ClockId::ProcessCPUTime) - cpu,
            elapsed: begun.elapsed(),
            written: self::written()? - written,
        };
        ensure!(offered.map_err(|why| anyhow!(why))? == delta.generation);
        Ok(taken)
    }

    /// Tells whether it has this netmap.
    pub(crate) fn has(&self, map: &Netmap) -> bool {
        self.membership.follow().borrow().as_deref() == Some(map)
    }
}

/// How many bytes this process has written by `write` since it began; datagrams do not count.
fn written() -> Result<u64> {
    let counts = fs::read_to_string("/proc/self/io")?;
    let count = counts.lines().find_map(|line| line.strip_prefix("wchar: "));
    Ok(count
        .ok_or_else(|| anyhow!("the system does not count"))?
        .parse()?)
}
