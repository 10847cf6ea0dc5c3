//! What the control plane does: authorisation, rules, and one write per change. One file per noun.
//!
//! It knows neither HTTP (`http`) nor SQL (`store`). Every change writes its audit row, and its activity row where people
//! care, in its own transaction; what must be told to nodes is told after the commit.

pub(crate) mod access;
pub(crate) mod activity;
pub(crate) mod admission;
pub(crate) mod agents;
pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod auth_keys;
mod departure;
pub(crate) mod ephemeral;
mod error;
pub(crate) mod events;
pub(crate) mod invitations;
pub(crate) mod links;
pub(crate) mod netmap;
pub(crate) mod node_keys;
pub(crate) mod nodes;
pub(crate) mod orgs;
pub(crate) mod overview;
pub(crate) mod page;
pub(crate) mod policy;
pub(crate) mod presence;
pub(crate) mod reach;
pub(crate) mod relays;
mod roster;
mod rosters;
pub(crate) mod runs;
pub(crate) mod sessions;
pub(crate) mod sign_in;
mod sweep;
pub(crate) mod threads;
pub(crate) mod tie;
pub(crate) mod users;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::nodes::Node;
use types::relay::{RELAY_CLOCK_SKEW_MAX, RELAY_TICKET_LIFETIME};
use types::{DisplayText, Generation, Monotonic, NodeId, NodePublicKey, OrgId, UserId};
use url::Url;

pub(crate) use access::{Access, Actor, Caller, Revocations};
pub(crate) use error::{AppError, RateLimit};
pub(crate) use page::{Page, Window};
pub(crate) use reach::Reaches;
pub(crate) use roster::Roster;
pub(crate) use rosters::Rosters;

use crate::clock::Clock;
use crate::cut_offs::CutOffs;
use crate::door::origin;
use crate::hub::Hub;
use crate::keys::ControlKeys;
use crate::limits::{Buckets, Quota};
use crate::live::Watchers;
use crate::orchestrator::Orchestrator;
use crate::platform::Platform;
use crate::provider::Provider;
use crate::relays::Relays;
use crate::store::{self, Conn, Store, Tx};

/// How long after a node was shut out the last of its tickets is over.
const TICKETS_OVER: Duration = RELAY_TICKET_LIFETIME.saturating_add(RELAY_CLOCK_SKEW_MAX);

/// Everything a request needs, shared by all of them.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) config: AppConfig,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) orchestrator: Arc<Orchestrator>,
    pub(crate) keys: ControlKeys,
    pub(crate) hub: Hub,
    pub(crate) cut_offs: CutOffs,
    pub(crate) reaches: Reaches,
    pub(crate) rosters: Rosters,
    pub(crate) revocations: Revocations,
    pub(crate) limits: Limits,
    pub(crate) platform: Platform,
    pub(crate) relays: Relays,
    /// Where people sign in without an API key, when one is configured.
    pub(crate) provider: Option<Provider>,
}

impl App {
    /// Takes up the work where the last process left it: nobody is connected yet, and every admitted node is a peer.
    pub(crate) async fn open(&self) -> Result<(), AppError> {
        self.platform.guard().await;
        let mut tx = self.store.write().await?;
        store::nodes::all_offline(&mut tx).await?;
        self.move_platform(&mut tx).await?;
        for row in store::nodes::admitted(&mut tx).await? {
            self.admit_to_platform(&mut tx, &row.node).await?;
        }
        let shut_out = store::nodes::shut_out_since(&mut tx, self.clock.wall() - TICKETS_OVER).await?;
        tx.commit().await?;
        // What the last process told the relays, they may have forgotten since, or never heard.
        for (org, key) in shut_out {
            self.expel_from_relays(org, key).await;
        }
        Ok(())
    }

    /// Notes where the platform's nodes and the relays are reached now. Netmaps name it: when it is elsewhere than before,
    /// they are new.
    async fn move_platform(&self, conn: &mut Conn) -> Result<(), AppError> {
        let endpoints = self.platform.endpoints();
        let relays_moved = store::relays::replace(conn, self.relays.records()).await?;
        for org in store::orgs::all(conn).await? {
            let Some(own) = store::nodes::platform(conn, org.id).await? else {
                continue;
            };
            if own.endpoints != endpoints || relays_moved {
                store::nodes::set_endpoints(conn, own.node.id, &endpoints).await?;
                store::orgs::raise_generation(conn, org.id).await?;
            }
        }
        Ok(())
    }

    /// Tells who sees a node, and the node itself, that its netmap may have changed. To be called after the commit, with the
    /// generation that it made.
    pub(crate) async fn tell_circle(&self, org: OrgId, node: NodeId, generation: Generation) {
        match self.rosters.at_least(&self.reaches, org, generation).await {
            Ok(roster) => self.hub.changed(&roster.reach.circle(node), generation),
            Err(error) => {
                tracing::warn!(%error, "who sees a node is not known; all of the org are told");
                self.hub.changed_org(org, generation);
            }
        }
    }

    /// Has every relay shut a node out: the one beside at once, those elsewhere by whoever of the platform's node and the
    /// nodes of the org reaches them first. To be called when the node can get no ticket any more.
    pub(crate) async fn expel_from_relays(&self, org: OrgId, key: NodePublicKey) {
        if let Some(expulsion) = self.relays.expel(org, key, &self.clock) {
            self.relays.expel_beside(expulsion).await;
            self.platform.expel_from_relays(expulsion).await;
        }
    }

    /// Makes a node a peer of the platform's node. Within a write, so that no revocation comes in between.
    pub(crate) async fn admit_to_platform(&self, tx: &mut Tx, node: &Node) -> Result<(), AppError> {
        if let Some(own) = store::nodes::platform(tx, node.org_id).await? {
            let own = own.node.mesh_ip6.into();
            self.platform
                .admit(node.public_key, node.mesh_ip6.into(), own)
                .await;
        }
        Ok(())
    }
}

/// Who may ask how often. All tables are bounded.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Link start, per address.
    pub(crate) link_start: Buckets,
    /// Link poll, per code: a little faster than the interval that devices are told.
    pub(crate) link_poll: Buckets,
    /// Link poll, per address.
    pub(crate) link_poll_by_address: Buckets,
    /// Wrong codes or keys at poll, per address.
    pub(crate) link_guess_by_address: Buckets,
    /// Wrong keys at poll, per code.
    pub(crate) link_guess_by_code: Buckets,
    /// Wrong codes at approve, deny and show, per person.
    pub(crate) link_guess_by_user: Buckets,
    /// Wrong auth keys, per address.
    pub(crate) join_guess_by_address: Buckets,
    /// Sign-ins, with a key or at the provider, per address.
    pub(crate) sign_in: Buckets,
}

/// A kind of request that is limited, for those that must tell how the limit stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    /// Link start.
    LinkStart,
    /// Link poll.
    LinkPoll,
    /// Approve, deny and show of a code.
    LinkCode,
    /// Joining by an auth key.
    Join,
    /// Sign-in, with a key or at the provider.
    SignIn,
}

impl Limits {
    /// Tells how the limit of a request stands for whoever sends it; where it goes by person, `None` for a stranger.
    pub(crate) fn standing(
        &self,
        limit: Limit,
        (ip, user): (IpAddr, Option<UserId>),
        now: Monotonic,
    ) -> Option<RateLimit> {
        let address = origin(ip).to_string();
        Some(match limit {
            Limit::LinkStart => self.link_start.show(&address, now),
            Limit::LinkPoll => {
                let guesses = self.link_guess_by_address.show(&address, now);
                let polls = self.link_poll_by_address.show(&address, now);
                if polls.remaining < guesses.remaining {
                    polls
                } else {
                    guesses
                }
            }
            Limit::LinkCode => self.link_guess_by_user.show(&user?.to_string(), now),
            Limit::Join => self.join_guess_by_address.show(&address, now),
            Limit::SignIn => self.sign_in.show(&address, now),
        })
    }
}

impl Default for Limits {
    fn default() -> Self {
        let buckets = |burst, every_ms| {
            Buckets::new(Quota {
                burst,
                every: Duration::from_millis(every_ms),
            })
        };
        Self {
            link_start: buckets(20, 3_000),
            link_poll: buckets(5, 500),
            link_poll_by_address: buckets(200, 50),
            link_guess_by_address: buckets(10, 30_000),
            link_guess_by_code: buckets(10, 60_000),
            link_guess_by_user: buckets(10, 30_000),
            join_guess_by_address: buckets(20, 10_000),
            sign_in: buckets(10, 10_000),
        }
    }
}

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub(crate) struct AppConfig {
    /// Where people and devices reach this server.
    pub(crate) public_url: Url,
    /// How often a live connection is pinged (contract §6).
    pub(crate) ping_every: Duration,
    /// How long a client may take to send a body.
    pub(crate) body_timeout: Duration,
    /// How long a WebSocket may take to swallow one frame.
    pub(crate) frame_timeout: Duration,
}

impl AppConfig {
    /// The address of the control stream.
    pub(crate) fn control_url(&self) -> String {
        let mut url = self.public_url.clone();
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        let path = format!("{}v1/runmesh/control", url.path());
        url.set_path(&path);
        // The url crate refuses to turn a special scheme into another kind; these four are all special.
        let changed = url.set_scheme(scheme).is_ok();
        debug_assert!(changed);
        url.into()
    }
}

/// Takes any text but one with the NUL character, which not every database engine can store.
pub(crate) fn without_nul(field: &str, text: &str) -> Result<(), AppError> {
    if text.contains('\0') {
        let message = format!("{field} must not contain the NUL character");
        return Err(AppError::bad_request(message));
    }
    Ok(())
}

/// Parses text that people or peers chose; the message names the field.
pub(crate) fn display_text(field: &str, text: &str) -> Result<DisplayText, AppError> {
    text.parse()
        .map_err(|error| AppError::bad_request(format!("{field} {error}")))
}
