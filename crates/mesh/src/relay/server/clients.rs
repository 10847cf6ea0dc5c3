//! The clients of a relay: by number, by address, by key, and by whose time is over first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_core::Rng;
use types::{Monotonic, NodePublicKey, Now, Realm, RelayExpulsion, RelayTicket, Timestamp};

use super::super::frame::{ClientNumber, KeyBytes};
use super::super::sealed::SealedChannel;
use super::super::{CLIENT_SILENCE_MAX, HANDSHAKE_LIFETIME};
use super::Source;
use super::allowance::Allowance;

/// How many handshakes of one key may wait for their Confirm: a replayed Hello must not push out the true one.
const PENDING_PER_KEY_MAX: usize = 4;

/// How often a client over its quota is told.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// How many further tickets a client may show at once, and how many a second: it needs one every few minutes.
const RENEWALS: Allowance = Allowance::full(8, 1);

/// What one client may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// Bytes a second on average.
    pub bytes_per_second: u64,
    /// Bytes at once.
    pub burst_bytes: u64,
}

/// Why a relay wants to be woken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RelayTimer {
    /// A Welcome was not confirmed within 10 s.
    HandshakeLifetime,
    /// A client did not confirm for 90 s.
    ClientSilence,
    /// A client's ticket is over.
    TicketExpiry,
}

/// One client, or one handshake on its way to be one.
pub(super) struct Client {
    pub(super) key: NodePublicKey,
    pub(super) realm: Realm,
    /// Where it confirmed to be; `None` before its first Confirm.
    pub(super) source: Option<Source>,
    pub(super) channel: SealedChannel,
    pub(super) bucket: Bucket,
    renewals: Allowance,
    /// The counter of the newest Confirm, plus one.
    confirmed: u64,
    ticket_until: Monotonic,
    /// The same as the newest of its tickets says it.
    ticket_expires: Timestamp,
    /// Until when it must confirm again.
    silent_until: Monotonic,
}

impl Client {
    pub(super) fn new(ticket: RelayTicket, channel: SealedChannel, quota: Quota, now: Now) -> Self {
        Self {
            key: ticket.node,
            realm: ticket.realm,
            source: None,
            channel,
            bucket: Bucket::new(quota),
            renewals: RENEWALS,
            confirmed: 0,
            ticket_until: until(&ticket, now),
            ticket_expires: ticket.expires_at,
            silent_until: now.mono + HANDSHAKE_LIFETIME,
        }
    }

    /// Notes the counter of an authentic Confirm; tells whether it is newer than every one before.
    pub(super) fn is_newest(&mut self, counter: u64) -> bool {
        let newest = counter >= self.confirmed;
        if newest {
            self.confirmed = counter + 1;
        }
        newest
    }

    /// Tells whether the client may show another ticket now, since checking it costs.
    pub(super) fn may_renew(&mut self, now: Monotonic) -> bool {
        self.renewals.take(1, 1, now) == 1
    }

    /// Tells whether an expulsion voids every ticket that it has shown.
    fn is_expelled_by(&self, expulsion: &RelayExpulsion) -> bool {
        expulsion.voids(&RelayTicket {
            node: self.key,
            realm: self.realm,
            expires_at: self.ticket_expires,
        })
    }

    fn due(&self) -> (Monotonic, RelayTimer) {
        let silence = if self.source.is_some() {
            RelayTimer::ClientSilence
        } else {
            RelayTimer::HandshakeLifetime
        };
        (self.silent_until, silence).min((self.ticket_until, RelayTimer::TicketExpiry))
    }
}

fn until(ticket: &RelayTicket, now: Now) -> Monotonic {
    let expires = ticket.expires_at + types::relay::RELAY_CLOCK_SKEW_MAX;
    now.mono + expires.since(now.wall)
}

#[derive(Default)]
pub(super) struct Clients {
    all: BTreeMap<ClientNumber, Client>,
    by_source: BTreeMap<Source, ClientNumber>,
    by_key: BTreeMap<NodePublicKey, ClientNumber>,
    /// Handshakes that wait for their Confirm, oldest first.
    pending: BTreeMap<NodePublicKey, Vec<ClientNumber>>,
    due: BTreeSet<(Monotonic, ClientNumber)>,
}

impl Clients {
    /// Returns how many there are, handshakes included.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn bound_count(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn get(&self, number: ClientNumber) -> Option<&Client> {
        self.all.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: ClientNumber) -> Option<&mut Client> {
        self.all.get_mut(&number)
    }

    /// Returns who confirmed to be at `source`.
    pub(super) fn at(&self, source: Source) -> Option<ClientNumber> {
        self.by_source.get(&source).copied()
    }

    /// Returns who confirmed to have this key.
    pub(super) fn by_key(&self, key: &KeyBytes) -> Option<(ClientNumber, &Client)> {
        let number = *self.by_key.get(key)?;
        Some((number, self.all.get(&number)?))
    }

    /// Returns every client that confirmed.
    pub(super) fn bound(&mut self) -> impl Iterator<Item = (ClientNumber, &mut Client)> {
        let all = self.all.iter_mut();
        all.filter(|(_, client)| client.source.is_some())
            .map(|(number, client)| (*number, client))
    }

    /// Draws a number that nobody has.
    pub(super) fn draw_number(&self, rng: &mut impl Rng) -> ClientNumber {
        loop {
            let number = ClientNumber(rng.next_u32());
            if number != ClientNumber(0) && !self.all.contains_key(&number) {
                return number;
            }
        }
    }

    /// Adds a handshake that waits for its Confirm; the oldest of too many of one key goes.
    pub(super) fn add(&mut self, number: ClientNumber, client: Client) {
        let pending = self.pending.entry(client.key).or_default();
        pending.push(number);
        let oldest = (pending.len() > PENDING_PER_KEY_MAX).then(|| pending[0]);
        self.due.insert((client.due().0, number));
        self.all.insert(number, client);
        if let Some(oldest) = oldest {
            self.remove(oldest);
        }
    }

    /// Notes that a client is at `source` now: the only one there, and the only one with its key.
    pub(super) fn bind(&mut self, number: ClientNumber, source: Source, now: Monotonic) {
        if let Some(other) = self.at(source).filter(|other| *other != number) {
            self.remove(other);
        }
        let Some(client) = self.all.get_mut(&number) else {
            return;
        };
        let key = client.key;
        let before = (client.due().0, number);
        if let Some(old) = client.source.replace(source) {
            self.by_source.remove(&old);
        }
        client.silent_until = now + CLIENT_SILENCE_MAX;
        let after = (client.due().0, number);
        self.due.remove(&before);
        self.due.insert(after);
        self.by_source.insert(source, number);
        self.forget_pending(&key, number);
        if let Some(older) = self.by_key.insert(key, number).filter(|older| *older != number) {
            self.remove(older);
        }
    }

    /// Takes a newer ticket; tells whether it is this client's.
    pub(super) fn renew(&mut self, number: ClientNumber, ticket: &RelayTicket, now: Now) -> bool {
        let Some(client) = self.all.get_mut(&number) else {
            return false;
        };
        if ticket.node != client.key || ticket.realm != client.realm {
            return false;
        }
        let before = (client.due().0, number);
        client.ticket_until = client.ticket_until.max(until(ticket, now));
        client.ticket_expires = client.ticket_expires.max(ticket.expires_at);
        let after = (client.due().0, number);
        self.due.remove(&before);
        self.due.insert(after);
        true
    }

    pub(super) fn remove(&mut self, number: ClientNumber) {
        let Some(client) = self.all.remove(&number) else {
            return;
        };
        self.due.remove(&(client.due().0, number));
        if let Some(source) = client.source {
            self.by_source.remove(&source);
        }
        if self.by_key.get(&client.key) == Some(&number) {
            self.by_key.remove(&client.key);
        }
        self.forget_pending(&client.key, number);
    }

    /// Removes the client and the handshakes of a node whose tickets are void; tells whether there was a client.
    pub(super) fn expel(&mut self, expulsion: &RelayExpulsion) -> bool {
        let client = self.by_key.get(&expulsion.node).copied();
        let pending = self.pending.get(&expulsion.node).into_iter().flatten().copied();
        let all: Vec<_> = pending.chain(client).collect();
        let mut was_here = false;
        for number in all {
            if self.get(number).is_some_and(|one| one.is_expelled_by(expulsion)) {
                self.remove(number);
                was_here |= Some(number) == client;
            }
        }
        was_here
    }

    pub(super) fn first_due(&self) -> Option<(Monotonic, RelayTimer)> {
        let (_, number) = self.due.first()?;
        self.all.get(number).map(Client::due)
    }

    pub(super) fn remove_due(&mut self, now: Monotonic) {
        while let Some((_, number)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.remove(number);
        }
    }

    fn forget_pending(&mut self, key: &NodePublicKey, number: ClientNumber) {
        if let Some(pending) = self.pending.get_mut(key) {
            pending.retain(|other| *other != number);
            if pending.is_empty() {
                self.pending.remove(key);
            }
        }
    }
}

/// What is left of a client's quota.
pub(super) struct Bucket {
    bytes: Allowance,
    complained: Option<Monotonic>,
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        Self {
            bytes: Allowance::full(quota.burst_bytes, quota.bytes_per_second),
            complained: None,
        }
    }

    /// Takes as much of `bytes` as there is, in whole frames of `frame_len` (the last may be shorter); returns how much.
    pub(super) fn take(&mut self, bytes: usize, frame_len: usize, now: Monotonic) -> usize {
        self.bytes.take(bytes, frame_len, now)
    }

    /// Tells whether the client may be told once more that it sends too much.
    pub(super) fn may_complain(&mut self, now: Monotonic) -> bool {
        let may = self
            .complained
            .is_none_or(|last| now.since(last) >= COMPLAINT_INTERVAL);
        if may {
            self.complained = Some(now);
        }
        may
    }
}
