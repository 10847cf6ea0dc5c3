//! The relays that nodes are given: the one beside this control plane, those that run elsewhere, the tickets for all, and
//! who is shut out of them.
//!
//! What a relay does is `mesh::relay`, and running one is the crate `relay`, which this one does not know: whoever starts a
//! control plane hands in how the relay beside it is started.

mod expulsions;

use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::BoxFuture;
use net::RelayPoint;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use types::relay::{RELAY_TICKET_LIFETIME, Realm};
use types::{
    NodePrivateKey, NodePublicKey, OrgId, RelayId, RelayRecord, SignedRelayExpulsion, SignedRelayTicket,
    SigningPrivateKey, SigningPublicKey,
};
use url::{Host, Url};

use self::expulsions::Expulsions;
pub(crate) use self::expulsions::Kept;
use crate::clock::Clock;

/// How often a ticket is renewed: at half its life, so that one message may be lost.
pub(crate) const TICKET_EVERY: Duration = Duration::from_secs(RELAY_TICKET_LIFETIME.as_secs() / 2);

/// What people call the relay beside the control plane.
const NAME: &str = "home";

/// How long the clients of the relay have to go elsewhere when the control plane stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a relay is started with.
#[derive(Clone, Debug)]
pub struct RelayKeys {
    /// Its own key.
    pub private_key: NodePrivateKey,
    /// The key that signs tickets.
    pub authority: SigningPublicKey,
}

/// A running relay beside a control plane, as far as that uses it.
pub struct RelayBeside {
    /// Its id.
    pub id: RelayId,
    /// Where its UDP socket is.
    pub local_addr: SocketAddr,
    /// Where its second port is, which answers STUN.
    pub stun_addr: Option<SocketAddr>,
    /// The route of its WebSocket, to be served with the control plane's own.
    pub routes: Router,
    /// Shuts a node out whose tickets are void.
    pub expel: Box<dyn Fn(SignedRelayExpulsion) -> BoxFuture<'static, ()> + Send + Sync>,
    /// Sends its clients away and stops within the time given.
    pub drain: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Debug for RelayBeside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBeside")
            .field("id", &self.id)
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

type Start = dyn Fn(RelayKeys) -> Result<RelayBeside, String> + Send + Sync;

/// How the relay beside a control plane is started, once its keys are known.
#[derive(Clone)]
pub struct RelayStart(Arc<Start>);

impl RelayStart {
    /// Takes what starts the relay; the error says why it cannot.
    pub fn new(start: impl Fn(RelayKeys) -> Result<RelayBeside, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(start))
    }

    pub(crate) fn start(&self, keys: RelayKeys) -> Result<RelayBeside, String> {
        (self.0)(keys)
    }
}

impl Debug for RelayStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayStart(…)")
    }
}

/// The relays of this control plane.
#[derive(Clone, Debug)]
pub(crate) struct Relays {
    authority: SigningPrivateKey,
    beside: Option<Arc<RelayBeside>>,
    records: Vec<RelayRecord>,
    expulsions: Arc<Expulsions>,
}

impl Relays {
    /// Takes the relay beside, reached by UDP at the public host and by WebSocket below the public URL, and those elsewhere.
    pub(crate) fn new(
        authority: SigningPrivateKey,
        beside: Option<RelayBeside>,
        elsewhere: &[RelayRecord],
        public_url: &Url,
    ) -> Self {
        let own = beside.iter().map(|relay| record_of(relay, public_url));
        Self {
            records: own.chain(elsewhere.iter().cloned()).collect(),
            authority,
            beside: beside.map(Arc::new),
            expulsions: Arc::default(),
        }
    }

    /// Returns the key that a relay must know to take this control plane's tickets.
    pub(crate) fn authority(&self) -> SigningPublicKey {
        self.authority.public()
    }

    /// Returns the relays as netmaps name them.
    pub(crate) fn records(&self) -> &[RelayRecord] {
        &self.records
    }

    /// Tells whether netmaps name a relay.
    pub(crate) fn include(&self, relay: RelayId) -> bool {
        self.records.iter().any(|record| record.id == relay)
    }

    /// Makes a ticket for a node of an org that may have one when it is signed: whoever shuts the node out has `may` say so
    /// before [`Relays::expel`]. `None` while there is no relay.
    pub(crate) fn ticket(
        &self,
        (org, node): (OrgId, NodePublicKey),
        may: impl FnOnce() -> bool,
        clock: &Clock,
    ) -> Option<SignedRelayTicket> {
        self.sign((node, realm_of(org)), may, clock)
    }

    /// Makes the ticket of the platform's own node; `None` while there is no relay.
    pub(crate) fn platform_ticket(&self, node: NodePublicKey, clock: &Clock) -> Option<SignedRelayTicket> {
        self.sign((node, Realm::PLATFORM), || true, clock)
    }

    fn sign(
        &self,
        node: (NodePublicKey, Realm),
        may: impl FnOnce() -> bool,
        clock: &Clock,
    ) -> Option<SignedRelayTicket> {
        let is_useful = || !self.records.is_empty() && may();
        self.expulsions.ticket(node, is_useful, &self.authority, clock)
    }

    /// Returns how the platform's own node reaches the relays: the one beside it without leaving the machine.
    pub(crate) async fn points(&self) -> Vec<RelayPoint> {
        let mut points = Vec::new();
        for record in &self.records {
            let beside = self.beside.as_ref().filter(|relay| relay.id == record.id);
            points.push(match beside {
                Some(relay) => RelayPoint {
                    id: record.id,
                    udp: vec![on_this_machine(relay.local_addr)],
                    // How loopback maps tells nothing.
                    stun: Vec::new(),
                    url: None,
                },
                None => RelayPoint::resolve(record).await,
            });
        }
        points
    }

    /// Returns the route of the relay beside, if there is one.
    pub(crate) fn routes(&self) -> Router {
        self.beside
            .as_ref()
            .map_or_else(Router::new, |relay| relay.routes.clone())
    }

    /// Signs that a node of an org is shut out, and wakes those who carry it to relays; `None` while there is no relay.
    #[must_use]
    pub(crate) fn expel(
        &self,
        org: OrgId,
        node: NodePublicKey,
        clock: &Clock,
    ) -> Option<SignedRelayExpulsion> {
        let is_useful = !self.records.is_empty();
        is_useful.then(|| self.expulsions.expel((org, node), &self.authority, clock))
    }

    /// Shuts a node out of the relay beside.
    pub(crate) async fn expel_beside(&self, expulsion: SignedRelayExpulsion) {
        if let Some(relay) = &self.beside {
            (relay.expel)(expulsion).await;
        }
    }

    /// Returns who of an org is shut out, for its nodes to carry to relays: now, and whenever there is more.
    pub(crate) fn follow_expulsions(&self, org: OrgId) -> watch::Receiver<Kept> {
        self.expulsions.follow(org)
    }

    /// Sends the clients of the relay beside away, and stops it.
    pub(crate) async fn stop(&self) {
        if let Some(relay) = &self.beside {
            (relay.drain)(DRAIN_TIMEOUT).await;
        }
    }
}

/// An org's id is random, so that its digest tells a relay nothing and is no other org's.
fn realm_of(org: OrgId) -> Realm {
    let digest = Sha256::new()
        .chain_update(b"runmesh relay realm v1\n")
        .chain_update(org.to_string())
        .finalize();
    Realm(digest[..16].try_into().expect("16 bytes of 32"))
}

fn record_of(relay: &RelayBeside, public_url: &Url) -> RelayRecord {
    let mut url = public_url.clone();
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    // Both schemes are special ones, so the change cannot fail.
    let _ = url.set_scheme(scheme);
    RelayRecord {
        id: relay.id,
        name: NAME.parse().expect("the name is a label"),
        endpoints: vec![public_endpoint(relay.local_addr, public_url)],
        url: url.join("v1/relay").ok().map(|url| url.to_string()),
        stun_endpoints: relay
            .stun_addr
            .map(|address| public_endpoint(address, public_url))
            .into_iter()
            .collect(),
    }
}

/// Where others reach a socket: at its address, or at the public host when it is bound to all.
pub(crate) fn public_endpoint(bound: SocketAddr, public_url: &Url) -> String {
    match public_url.host().filter(|_| bound.ip().is_unspecified()) {
        Some(Host::Ipv6(ip)) => format!("[{ip}]:{}", bound.port()),
        Some(host) => format!("{host}:{}", bound.port()),
        None => bound.to_string(),
    }
}

/// A socket that is bound to all addresses is reached at the loopback one.
fn on_this_machine(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip([127, 0, 0, 1].into());
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> NodePublicKey {
        NodePrivateKey::from_random([7; 32]).public()
    }

    fn still() -> RelayBeside {
        RelayBeside {
            id: RelayId(key()),
            local_addr: "[::]:3478".parse().expect("an address"),
            stun_addr: "[::]:3479".parse().ok(),
            routes: Router::new(),
            expel: Box::new(|_| Box::pin(async {})),
            drain: Box::new(|_| Box::pin(async {})),
        }
    }

    fn relays(beside: Option<RelayBeside>) -> Relays {
        let public_url = "https://mesh.example.com/base/".parse().expect("a URL");
        Relays::new(SigningPrivateKey::from_random([3; 32]), beside, &[], &public_url)
    }

    #[test]
    fn the_relay_beside_is_named_at_the_public_host() {
        let relays = relays(Some(still()));
        let record = &relays.records()[0];
        assert_eq!(record.endpoints, ["mesh.example.com:3478"]);
        assert_eq!(record.stun_endpoints, ["mesh.example.com:3479"]);
        let url = record.url.as_deref();
        assert_eq!(url, Some("wss://mesh.example.com/base/v1/relay"));
    }

    #[test]
    fn a_ticket_is_the_nodes_and_of_its_orgs_realm() {
        let relays = relays(Some(still()));
        let (node, clock) = (key(), Clock::system());
        let orgs = [[1; 16], [2; 16]].map(OrgId::from_random);
        let open = |ticket: SignedRelayTicket| {
            let opened = ticket.open(&relays.authority.public(), clock.wall());
            opened.expect("a ticket of our own")
        };
        let now = clock.wall();
        let [one, other] =
            orgs.map(|org| open(relays.ticket((org, node), || true, &clock).expect("a ticket")));
        assert_eq!(one.node, node);
        let life = one.expires_at.since(now);
        assert!((RELAY_TICKET_LIFETIME..RELAY_TICKET_LIFETIME + Duration::from_secs(60)).contains(&life));
        assert!(!one.realm.reaches(other.realm));
        let platform = open(relays.platform_ticket(node, &clock).expect("a ticket"));
        assert!(platform.realm.reaches(one.realm) && platform.realm.reaches(other.realm));
    }

    #[test]
    fn without_a_relay_there_are_no_tickets_and_nobody_is_shut_out() {
        let (relays, node, clock) = (relays(None), key(), Clock::system());
        let org = OrgId::from_random([1; 16]);
        assert!(relays.records().is_empty());
        assert_eq!(relays.platform_ticket(node, &clock), None);
        assert_eq!(relays.ticket((org, node), || true, &clock), None);
        assert_eq!(relays.expel(org, node, &clock), None);
        assert!(relays.follow_expulsions(org).borrow().is_empty());
    }

    #[test]
    fn an_expulsion_voids_every_ticket_of_before_and_no_later_one() {
        let relays = relays(Some(still()));
        let (node, clock, org) = (key(), Clock::system(), OrgId::from_random([1; 16]));
        let ticket = || relays.ticket((org, node), || true, &clock).expect("a ticket");
        let (authority, now) = (relays.authority(), clock.wall());
        let before = ticket().open(&authority, now).expect("our own");
        let mut followed = relays.follow_expulsions(org);
        let expulsion = relays.expel(org, node, &clock).expect("there is a relay");
        assert!(followed.has_changed().expect("it is there"));
        assert!(
            followed
                .borrow_and_update()
                .iter()
                .any(|(_, kept)| *kept == expulsion)
        );
        let expulsion = expulsion.open(&authority).expect("our own");
        assert!(expulsion.voids(&before));
        clock.advance(Duration::from_millis(1));
        let after = ticket().open(&authority, clock.wall()).expect("our own");
        assert!(!expulsion.voids(&after));
        assert_eq!(relays.ticket((org, node), || false, &clock), None);
    }

    #[test]
    fn the_nodes_of_an_org_are_given_the_newest_that_matter_still() {
        let relays = relays(Some(still()));
        let (node, clock) = (key(), Clock::system());
        let [org, other] = [[1; 16], [2; 16]].map(OrgId::from_random);
        let of_other = relays.expel(other, node, &clock);
        let mut last = None;
        for _ in 0..70 {
            clock.advance(Duration::from_millis(1));
            last = relays.expel(org, node, &clock);
        }
        let kept = relays.follow_expulsions(org).borrow().clone();
        assert_eq!((kept.len(), kept.back().map(|(_, one)| *one)), (64, last));
        assert!(kept.iter().all(|(_, one)| Some(*one) != of_other));
        clock.advance(Duration::from_secs(361));
        let last = relays.expel(org, node, &clock);
        let kept = relays.follow_expulsions(org).borrow().clone();
        assert_eq!((kept.len(), kept.back().map(|(_, one)| *one)), (1, last));
    }
}
