//! What the handles ask of the engine, and how it answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh::MeshPeer;
use mesh::paths::PathView;
use mesh::probe::Transaction;
use mesh::tunnel::PeerStatus;
use tokio::sync::{mpsc, oneshot};
use types::{
    AllowedIp, NodePrivateKey, NodePublicKey, Now, PacketFilter, RelayId, SignedRelayExpulsion,
    SignedRelayTicket,
};

use super::peer::Flow;
use super::{Engine, Stopping};
use crate::mesh_net::{ConnectError, ListenError, MeshCounters, Responder, Surroundings};
use crate::networks::Link;
use crate::relay_stream::{RelayPoint, StreamEvent};
use crate::stream::MeshStream;

/// How many commands one turn of the loop carries out, so that packets do not wait for a flood of them.
const COMMANDS_PER_TURN: usize = 64;

/// How many accepted streams wait for the program that listens; a SYN beyond that is refused.
const BACKLOG: usize = 256;

/// How many addresses of our own a peer may use.
const LOCALS_MAX: usize = 8;

pub(crate) enum Command {
    Upsert {
        config: MeshPeer,
        locals: Vec<IpAddr>,
        reply: oneshot::Sender<()>,
    },
    Remove {
        peer: NodePublicKey,
        reply: oneshot::Sender<bool>,
    },
    Rename {
        old: NodePublicKey,
        new: NodePublicKey,
        reply: oneshot::Sender<bool>,
    },
    Keys {
        /// The one to go by, and another one with which handshakes are taken.
        keys: (NodePrivateKey, Option<NodePrivateKey>),
        reply: oneshot::Sender<()>,
    },
    Connect {
        peer: NodePublicKey,
        remote: SocketAddr,
        timeout: Duration,
        reply: oneshot::Sender<Result<MeshStream, ConnectError>>,
    },
    Listen {
        port: u16,
        reply: oneshot::Sender<Result<mpsc::Receiver<MeshStream>, ListenError>>,
    },
    Respond {
        port: u16,
        responder: Responder,
    },
    Status {
        peer: NodePublicKey,
        reply: oneshot::Sender<Option<(PeerStatus, Option<PathView>)>>,
    },
    Relays {
        relays: Vec<RelayPoint>,
    },
    Ticket {
        ticket: SignedRelayTicket,
    },
    ExpelFromRelays {
        expulsion: SignedRelayExpulsion,
    },
    Filter {
        filter: Option<Arc<PacketFilter>>,
        /// Of which blocks it says something else than before; `None` when that is not known.
        blocks: Option<BTreeSet<AllowedIp>>,
        reply: oneshot::Sender<()>,
    },
    Local {
        addresses: Vec<SocketAddr>,
    },
    Mapped {
        address: Option<SocketAddr>,
    },
    Links {
        links: Vec<Link>,
    },
    NetworkChanged,
    Ping {
        peer: NodePublicKey,
        reply: oneshot::Sender<Option<Transaction>>,
    },
    Surroundings {
        reply: oneshot::Sender<Surroundings>,
    },
    Stream {
        relay: RelayId,
        event: StreamEvent,
    },
    Counters {
        reply: oneshot::Sender<MeshCounters>,
    },
    Shutdown {
        grace: Duration,
        reply: oneshot::Sender<()>,
    },
}

impl Engine {
    /// Carries out waiting commands. A caller that has gone away is no reason not to do what it asked.
    pub(super) fn take_commands(&mut self, now: Now) {
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else {
                return;
            };
            self.obey(command, now);
        }
        self.has_more = true;
    }

    fn obey(&mut self, command: Command, now: Now) {
        match command {
            Command::Upsert {
                config,
                locals,
                reply,
            } => {
                self.upsert(config, locals, now);
                let _ = reply.send(());
            }
            Command::Remove { peer, reply } => {
                let _ = reply.send(self.remove(&peer, now));
            }
            Command::Rename { old, new, reply } => {
                let _ = reply.send(self.rename(&old, new, now));
            }
            Command::Keys { keys, reply } => {
                self.mesh.set_keys(keys.0, keys.1);
                let _ = reply.send(());
            }
            Command::Connect {
                peer,
                remote,
                timeout,
                reply,
            } => self.connect((peer, remote), timeout, reply, now),
            Command::Listen { port, reply } => {
                let _ = reply.send(self.listen(port));
            }
            Command::Respond { port, responder } => {
                self.peers.responders.insert(port, responder);
            }
            Command::Status { peer, reply } => {
                let path = self.mesh.path(&peer);
                let status = self.mesh.peer_status(&peer);
                let _ = reply.send(status.map(|status| (status, path)));
            }
            Command::Counters { reply } => drop(reply.send(self.all_counters())),
            Command::Relays { relays } => self.set_relays(relays, now),
            Command::Ticket { ticket } => self.mesh.set_ticket(ticket, now),
            Command::ExpelFromRelays { expulsion } => self.mesh.expel_from_relays(expulsion, now),
            Command::Filter {
                filter,
                blocks,
                reply,
            } => {
                self.set_filter(filter.as_deref(), blocks.as_ref(), now);
                let _ = reply.send(());
            }
            Command::Local { addresses } => self.mesh.set_local(addresses, now),
            Command::Mapped { address } => self.mesh.set_mapped(address, now),
            Command::Links { links } => self.set_links(&links, now),
            Command::NetworkChanged => self.mesh.network_changed(now),
            Command::Ping { peer, reply } => {
                let _ = reply.send(self.mesh.ping(&peer, now));
            }
            Command::Surroundings { reply } => drop(reply.send(self.surroundings())),
            Command::Stream { relay, event } => self.stream_event(relay, event, now),
            Command::Shutdown { grace, reply } => self.begin_shutdown(grace, reply, now),
        }
    }

    fn all_counters(&self) -> MeshCounters {
        MeshCounters {
            tunnel: self.mesh.counters().clone(),
            filter: *self.mesh.filter_counters(),
            net: self.peers.counters,
        }
    }

    fn surroundings(&self) -> Surroundings {
        let own = self.mesh.own_candidates();
        Surroundings {
            mapping: own.mapping(),
            local: own.local().collect(),
            candidates: own.candidates().to_vec(),
            relays: self.mesh.relays().collect(),
            home: self.mesh.home_relay(),
        }
    }

    fn stream_event(&mut self, relay: RelayId, event: StreamEvent, now: Now) {
        match event {
            StreamEvent::Opened => self.mesh.stream_opened(relay, now),
            StreamEvent::Message(bytes) => self.take_stream_message(relay, bytes, now),
            StreamEvent::Closed => {
                self.relay_streams.close(relay);
                self.mesh.stream_closed(relay, now);
            }
        }
    }

    pub(super) fn upsert(&mut self, config: MeshPeer, mut locals: Vec<IpAddr>, now: Now) {
        locals.retain(|local| !local.is_unspecified() && !local.is_multicast());
        locals.truncate(LOCALS_MAX);
        let key = config.public_key;
        self.peers.upsert(key, locals, &config.allowed_ips);
        self.mesh.upsert_peer(config, now);
    }

    /// Streams that the new rules do not let go on are cut at both ends, rather than left to fall silent.
    fn set_filter(&mut self, filter: Option<&PacketFilter>, blocks: Option<&BTreeSet<AllowedIp>>, now: Now) {
        match blocks {
            Some(blocks) => self.mesh.change_filter(filter, blocks),
            None => self.mesh.set_filter(filter),
        }
        let hosts = blocks.filter(|blocks| blocks.iter().all(AllowedIp::is_host));
        let keys = match hosts {
            Some(hosts) => hosts
                .iter()
                .filter_map(|host| self.mesh.route(host.address()))
                .collect(),
            None => self.peers.keys(),
        };
        for key in keys {
            let mesh = &self.mesh;
            let cut = self.peers.map.get_mut(&key).map_or(0, |peer| {
                peer.cut_unless(|local, remote| mesh.admits_tcp(local, remote, now))
            });
            if cut > 0 {
                tracing::debug!(peer = %key, cut, "the policy lets streams go on no longer");
                self.peers.mark_dirty(&key);
            }
        }
    }

    fn set_relays(&mut self, relays: Vec<RelayPoint>, now: Now) {
        self.relay_streams.set_urls(&relays);
        let configs = relays.into_iter().map(RelayPoint::into_config);
        self.mesh.set_relays(configs.collect(), now);
    }

    fn rename(&mut self, old: &NodePublicKey, new: NodePublicKey, now: Now) -> bool {
        let is_renamed = self.mesh.rename_peer(old, new, now);
        if is_renamed {
            self.peers.rename(old, new, now.mono);
        }
        is_renamed
    }

    fn remove(&mut self, key: &NodePublicKey, now: Now) -> bool {
        if let Some(mut peer) = self.peers.remove(key) {
            peer.fail_all(ConnectError::PeerUnknown, true);
            // The other end learns at once; what cannot be sent now is not sent at all.
            self.send_due(key, &mut peer, now);
            self.transmit();
        }
        self.mesh.remove_peer(key)
    }

    fn connect(
        &mut self,
        (key, remote): (NodePublicKey, SocketAddr),
        timeout: Duration,
        reply: oneshot::Sender<Result<MeshStream, ConnectError>>,
        now: Now,
    ) {
        let route = self.mesh.route(remote.ip());
        if let Err((error, reply)) = self.peers.connect((key, remote), route, reply, (now, timeout)) {
            let _ = reply.send(Err(error));
        }
    }

    pub(super) fn listen(&mut self, port: u16) -> Result<mpsc::Receiver<MeshStream>, ListenError> {
        if port == 0 {
            return Err(ListenError::BadPort);
        }
        if self
            .peers
            .listeners
            .get(&port)
            .is_some_and(|old| !old.is_closed())
        {
            return Err(ListenError::InUse(port));
        }
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.peers.listeners.insert(port, sender);
        Ok(receiver)
    }

    fn begin_shutdown(&mut self, grace: Duration, reply: oneshot::Sender<()>, now: Now) {
        self.peers.listeners.clear();
        self.peers.mark_all_dirty();
        for peer in self.peers.map.values_mut() {
            for (conn, flow) in std::mem::take(&mut peer.flows) {
                if let Flow::Open(core) = flow {
                    core.shut_write();
                    peer.touch(conn);
                    peer.flows.insert(conn, Flow::Open(core));
                } else if let Flow::Connecting(reply) = flow {
                    let _ = reply.send(Err(ConnectError::Stopped));
                    peer.abort(conn);
                }
            }
        }
        let by = now.mono + grace;
        match &mut self.stopping {
            Some(stopping) => stopping.replies.push(reply),
            None => {
                self.stopping = Some(Stopping {
                    by,
                    replies: vec![reply],
                });
            }
        }
    }
}
