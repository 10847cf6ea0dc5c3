//! What relays must hear of nodes that are shut out: signed here, and kept for the nodes of the org, who carry it to the
//! relays that they reach and the platform's node may not.
//!
//! A record of this process; the one who starts it makes it anew from the store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use types::relay::{RELAY_TICKET_LIFETIME, RelayExpulsion, RelayTicket};
use types::{
    NodePublicKey, OrgId, Realm, SignedRelayExpulsion, SignedRelayTicket, SigningPrivateKey, Timestamp,
};

use super::realm_of;
use crate::clock::Clock;

/// How many an org's nodes are given; of more the oldest are left to the platform's node, which has had all of them.
const KEPT_PER_ORG_MAX: usize = 64;

/// The expulsions of an org that matter still, oldest first, each with its number.
pub(crate) type Kept = VecDeque<(u64, SignedRelayExpulsion)>;

/// Signs tickets and expulsions, so that each expulsion voids every ticket that was signed before it.
#[derive(Debug, Default)]
pub(super) struct Expulsions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    orgs: BTreeMap<OrgId, watch::Sender<Kept>>,
    last: u64,
    /// The latest that any ticket expires. The clock may be set back between a ticket and its expulsion.
    latest: Timestamp,
}

impl Expulsions {
    /// Signs a ticket for a node that may have one when it is signed: whoever shuts the node out must make `may` say so
    /// before [`Expulsions::expel`].
    pub(super) fn ticket(
        &self,
        (node, realm): (NodePublicKey, Realm),
        may: impl FnOnce() -> bool,
        key: &SigningPrivateKey,
        clock: &Clock,
    ) -> Option<SignedRelayTicket> {
        let mut inner = self.lock();
        if !may() {
            return None;
        }
        let expires_at = clock.wall() + RELAY_TICKET_LIFETIME;
        inner.latest = inner.latest.max(expires_at);
        drop(inner);
        let ticket = RelayTicket {
            node,
            realm,
            expires_at,
        };
        Some(ticket.sign(key))
    }

    /// Signs that a node is shut out, and wakes those of its org who carry it to relays.
    pub(super) fn expel(
        &self,
        (org, node): (OrgId, NodePublicKey),
        key: &SigningPrivateKey,
        clock: &Clock,
    ) -> SignedRelayExpulsion {
        let mut inner = self.lock();
        let now = clock.wall();
        let expulsion = RelayExpulsion::of_tickets_until(now, node, realm_of(org));
        let expulsion = RelayExpulsion {
            void_until: expulsion.void_until.max(inner.latest),
            ..expulsion
        };
        let signed = expulsion.sign(key);
        inner.forget_past(now);
        inner.last += 1;
        let number = inner.last;
        inner.orgs.entry(org).or_default().send_modify(|kept| {
            if kept.len() >= KEPT_PER_ORG_MAX {
                kept.pop_front();
            }
            kept.push_back((number, signed));
        });
        signed
    }

    /// Returns what an org's nodes are given, now and whenever there is more.
    pub(super) fn follow(&self, org: OrgId) -> watch::Receiver<Kept> {
        self.lock().orgs.entry(org).or_default().subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget_past(&mut self, now: Timestamp) {
        self.orgs.retain(|_, kept| {
            kept.send_if_modified(|kept| {
                kept.retain(|(_, expulsion)| expulsion.claim().ends_at() >= now);
                // What is of no use any more is no news.
                false
            });
            kept.receiver_count() > 0 || !kept.borrow().is_empty()
        });
    }
}
