//! The rosters that are kept: the newest of each org that was asked for lately, and some before it.
//!
//! One read of the database serves all the netmaps of an org's generation, also when ten thousand streams are woken at once.
//! What is kept is of committed generations only, each exactly as it was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use types::{Generation, OrgId};

use super::reach::Reaches;
use super::roster::{Readings, Roster};
use crate::store::{self, Conn, Store, StoreError};

/// How many rosters of one org are kept; a netmap that was given out before them is told of a change as a whole.
const GENERATIONS_MAX: usize = 16;

/// How many nodes may be in all rosters that are kept, each counted in every one: 16 generations of an org of 10,000, and
/// some. Generations share the records that did not change, so that a place costs about 100 bytes more.
const PLACES_MAX: usize = 200_000;

/// How often an org is read that changes all the while, before writers have to wait.
const READS_MAX: usize = 4;

/// The rosters of this process.
#[derive(Debug)]
pub(crate) struct Rosters {
    store: Store,
    endpoints: Vec<String>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    shelves: BTreeMap<OrgId, Shelf>,
    uses: u64,
}

/// The rosters of one org, the newest last.
#[derive(Debug, Default)]
struct Shelf {
    rosters: VecDeque<Arc<Roster>>,
    /// Taken by whoever reads the org, so that the others wait for that one.
    reading: Arc<tokio::sync::Mutex<()>>,
    last_use: u64,
}

impl Rosters {
    /// Begins without any. `endpoints` are where the platform's nodes are reached.
    pub(crate) fn new(store: Store, endpoints: Vec<String>) -> Self {
        Self {
            store,
            endpoints,
            kept: Mutex::default(),
        }
    }

    /// Returns an org as `conn` sees it, or newer. Not for a write that has changed something: what it sees is not committed.
    pub(crate) async fn current(
        &self,
        reaches: &Reaches,
        conn: &mut Conn,
        org: OrgId,
    ) -> Result<Arc<Roster>, StoreError> {
        let generation = store::orgs::generation(conn, org).await?;
        self.known_or_read(reaches, Some(conn), org, generation).await
    }

    /// Returns an org at a committed generation or newer; takes a connection only when that is not known.
    pub(crate) async fn at_least(
        &self,
        reaches: &Reaches,
        org: OrgId,
        generation: Generation,
    ) -> Result<Arc<Roster>, StoreError> {
        self.known_or_read(reaches, None, org, generation).await
    }

    /// Reads an org when it is not known at a generation, by a connection of the store when none is given. Who asks for the same
    /// org meanwhile waits, and finds it read.
    async fn known_or_read(
        &self,
        reaches: &Reaches,
        conn: Option<&mut Conn>,
        org: OrgId,
        generation: Generation,
    ) -> Result<Arc<Roster>, StoreError> {
        if let Some(known) = self.known(org, generation) {
            return Ok(known);
        }
        let reading = self.shelf(org);
        let _turn = reading.lock().await;
        match (self.known(org, generation), conn) {
            (Some(known), _) => Ok(known),
            (None, Some(conn)) => self.read(reaches, conn, org).await,
            (None, None) => self.read(reaches, &mut *self.store.read().await?, org).await,
        }
    }

    /// Returns the roster of exactly this generation, if it is kept.
    pub(crate) fn exactly(&self, org: OrgId, generation: Generation) -> Option<Arc<Roster>> {
        let kept = self.kept();
        let rosters = &kept.shelves.get(&org)?.rosters;
        rosters
            .iter()
            .find(|roster| roster.generation == generation)
            .cloned()
    }

    async fn read(&self, reaches: &Reaches, conn: &mut Conn, org: OrgId) -> Result<Arc<Roster>, StoreError> {
        let before = self.known(org, Generation::default());
        let with = Readings {
            reaches,
            endpoints: &self.endpoints,
            before: before.as_deref(),
        };
        for _ in 0..READS_MAX {
            if let Some(roster) = Roster::read(conn, org, with).await? {
                return Ok(self.keep(org, roster));
            }
        }
        let mut tx = self.store.write().await?;
        let roster = Roster::read(&mut tx, org, with).await?;
        roster
            .map(|roster| self.keep(org, roster))
            .ok_or(StoreError::Busy)
    }

    fn known(&self, org: OrgId, generation: Generation) -> Option<Arc<Roster>> {
        let mut kept = self.kept();
        kept.uses += 1;
        let now = kept.uses;
        let shelf = kept.shelves.get_mut(&org)?;
        shelf.last_use = now;
        let newest = shelf.rosters.back();
        newest.filter(|roster| roster.generation >= generation).cloned()
    }

    fn shelf(&self, org: OrgId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.kept().shelves.entry(org).or_default().reading)
    }

    fn keep(&self, org: OrgId, roster: Roster) -> Arc<Roster> {
        let roster = Arc::new(roster);
        let mut kept = self.kept();
        kept.uses += 1;
        let now = kept.uses;
        let shelf = kept.shelves.entry(org).or_default();
        shelf.last_use = now;
        // An org that was given up while somebody read it is read by another at the same time: nothing goes backwards.
        let newer = shelf.rosters.back();
        if let Some(newer) = newer.filter(|newer| newer.generation >= roster.generation) {
            return Arc::clone(newer);
        }
        shelf.rosters.push_back(Arc::clone(&roster));
        if shelf.rosters.len() > GENERATIONS_MAX {
            shelf.rosters.pop_front();
        }
        kept.fit(org);
        roster
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Gives up orgs until everything fits, those first that nobody asked for, and then what is oldest of `org`; its newest
    /// is kept whatever it takes.
    fn fit(&mut self, org: OrgId) {
        let mut places: usize = self.shelves.values().map(Shelf::places).sum();
        while places > PLACES_MAX {
            let others = self.shelves.iter().filter(|(other, _)| **other != org);
            let idle = others.min_by_key(|(_, shelf)| shelf.last_use).map(|(id, _)| *id);
            let given_up = match idle {
                Some(idle) => self.shelves.remove(&idle).map(|shelf| shelf.places()),
                None => self.shelves.get_mut(&org).and_then(Shelf::give_up_oldest),
            };
            let Some(given_up) = given_up else {
                return;
            };
            places -= given_up;
        }
    }
}

impl Shelf {
    fn places(&self) -> usize {
        // One more for an org that has none: what is kept of it takes room, too.
        self.rosters.iter().map(|roster| roster.len() + 1).sum::<usize>() + 1
    }

    fn give_up_oldest(&mut self) -> Option<usize> {
        (self.rosters.len() > 1).then(|| self.rosters.pop_front().map_or(0, |roster| roster.len() + 1))
    }
}

#[cfg(test)]
mod tests;
