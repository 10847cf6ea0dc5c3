//! A port of the router that leads to this node's mesh socket: asked for, renewed, told to the mesh, and given back at the end.

use std::num::NonZeroU16;
use std::time::Duration;

use mesh::port_mapping::word::Word;
use mesh::port_mapping::{PortMapping, Protocol, Timer};
use net::MeshNet;
use net::clock::Clock;
use net::port_mapping::announcements::Announcements;
use net::port_mapping::{OpenError, Opened, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::StatusBoard;

/// How long the clock of the runtime is trusted: it stands still while the device sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(300);

/// How long at most to wait before a router that begins anew is asked: all of its network hear it at the same time.
const SPREAD_MS_MAX: u64 = 2000;

/// What is known of the router's port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMappingState {
    /// Nobody asks the router: it was so wished, or the mesh socket is one of loopback.
    #[default]
    Off,
    /// The router is being asked.
    Looking,
    /// It opens no ports.
    None,
    /// It opened one by PCP.
    Pcp,
    /// It opened one by NAT-PMP.
    NatPmp,
    /// It opened one by UPnP.
    Upnp,
}

/// Keeps a port of the router open.
pub(crate) struct PortMapper {
    mesh: MeshNet,
    board: StatusBoard,
    networks: watch::Receiver<u64>,
    clock: Clock,
    state: PortMapping,
    router: Option<Router>,
    announcements: Option<Announcements>,
    opened: Option<Opened>,
}

impl PortMapper {
    /// `networks` is changed whenever this device may be in others.
    pub(crate) fn new(mesh: MeshNet, board: StatusBoard, networks: watch::Receiver<u64>) -> Self {
        let clock = Clock::new();
        Self {
            mesh,
            board,
            networks,
            state: PortMapping::new(clock.mono()),
            clock,
            router: None,
            announcements: None,
            opened: None,
        }
    }

    /// Does so until it is stopped; when this returns, the router was asked to close the port.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let local = self.mesh.local_addr();
        let (Some(port), false) = (NonZeroU16::new(local.port()), local.ip().is_loopback()) else {
            return;
        };
        self.show(PortMappingState::Looking);
        loop {
            let (due, timer) = self.state.due();
            let wait = due.since(self.clock.mono()).min(SLEEP_MAX);
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.networks.changed() => match changed {
                    Ok(()) => self.look().await,
                    Err(_) => break,
                },
                word = hear(self.announcements.as_ref()) => self.heed(word),
                () = tokio::time::sleep(wait) => if due <= self.clock.mono() {
                    self.act(timer, port, &stop).await;
                },
            }
        }
        if let Some(opened) = self.opened.take() {
            opened.release().await;
        }
    }

    /// Looks whether the router is another one.
    async fn look(&mut self) {
        if self.find_router().await {
            // The router that opened it is out of reach; it closes it by itself.
            self.opened = None;
            self.state.network_changed(self.clock.mono());
            self.show(PortMappingState::Looking);
        }
        // The mesh forgets the port whenever paths must prove themselves anew.
        self.tell().await;
    }

    /// Looks for the router; returns whether it is another one.
    async fn find_router(&mut self) -> bool {
        let router = Router::find().await;
        if router == self.router {
            return false;
        }
        self.router = router;
        self.announcements = router.and_then(|router| {
            let heard = Announcements::of(router);
            heard
                .inspect_err(|error| tracing::debug!(%error, "the router is not heard when it begins anew"))
                .ok()
        });
        true
    }

    /// Asks anew when the router has lost what it gave.
    fn heed(&mut self, word: Word) {
        let protocol = match word {
            Word::Pcp { .. } => Protocol::Pcp,
            Word::NatPmp { .. } => Protocol::NatPmp,
        };
        let spread = Duration::from_millis(u64::from_ne_bytes(net::random::bytes()) % SPREAD_MS_MAX);
        let now = self.clock.mono();
        if self.state.announced(protocol, word.epoch(), spread, now) {
            tracing::debug!("the router began anew and is asked again");
        }
    }

    async fn act(&mut self, timer: Timer, port: NonZeroU16, stop: &CancellationToken) {
        match timer {
            Timer::Expire => {
                self.opened = None;
                self.state.expired(self.clock.mono());
            }
            Timer::Ask | Timer::Renew => self.ask(port, stop).await,
        }
        self.tell().await;
    }

    async fn ask(&mut self, port: NonZeroU16, stop: &CancellationToken) {
        self.find_router().await;
        let Some(router) = self.router else {
            return self.state.failed(self.clock.mono());
        };
        let opened = match Opened::open(router, port, self.opened.as_ref(), stop).await {
            Ok(opened) => opened,
            Err(OpenError::Stopped) => return,
            Err(error) => {
                tracing::debug!(%error, "the router opens no port");
                return self.state.failed(self.clock.mono());
            }
        };
        match self.state.granted(opened.grant(), self.clock.mono()) {
            Ok(()) => self.opened = Some(opened),
            Err(reason) => {
                tracing::debug!(%reason, "what the router opened is of no use");
                opened.release().await;
                // It may have been the port that is held.
                if self.opened.take().is_some() {
                    self.state.expired(self.clock.mono());
                }
            }
        }
    }

    async fn tell(&self) {
        self.mesh.set_mapped(self.state.address()).await;
        self.show(match self.state.grant().map(|grant| grant.protocol) {
            None if self.state.has_failed() => PortMappingState::None,
            None => PortMappingState::Looking,
            Some(Protocol::Pcp) => PortMappingState::Pcp,
            Some(Protocol::NatPmp) => PortMappingState::NatPmp,
            Some(Protocol::Upnp) => PortMappingState::Upnp,
        });
    }

    fn show(&self, state: PortMappingState) {
        self.board.change(|status| status.port_mapping = state);
    }
}

/// Waits for a word of the router.
async fn hear(announcements: Option<&Announcements>) -> Word {
    if let Some(announcements) = announcements {
        match announcements.next().await {
            Ok(word) => return word,
            Err(error) => tracing::debug!(%error, "the router is no longer heard"),
        }
    }
    std::future::pending().await
}
