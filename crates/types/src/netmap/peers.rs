//! The peers of a netmap: a list that is copied and changed in a few of its pieces, however long it is.

use std::borrow::Cow;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PeerRecord;
use crate::ids::NodeId;

/// How many peers one piece is made with. A change copies a piece, and a copy of the list copies the list of pieces; for the
/// 10,000 peers of a large org both are about as long.
const PIECE: usize = 128;

/// A piece that has grown to this many is cut in two.
const PIECE_MAX: usize = 2 * PIECE;

type Record = Arc<PeerRecord>;

/// Peers, in the order of ids where they are to be changed one by one. Copies share what is the same.
///
/// A list is made in one piece, which is what reads fastest, and cut into many at its first change.
#[derive(Clone, Default)]
pub struct Peers {
    /// None is empty.
    pieces: Vec<Arc<Vec<Record>>>,
    len: usize,
}

impl Peers {
    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Goes through them in order.
    pub fn iter(&self) -> Iter<'_> {
        self.pieces.iter().flat_map(as_slice)
    }

    /// Finds a peer by its id. The peers must be in the order of ids; one that is not may be overlooked.
    #[must_use]
    pub fn of_id(&self, id: NodeId) -> Option<&Record> {
        let piece = self.pieces.get(self.piece_of(id))?;
        place_in(piece, id).ok().map(|place| &piece[place])
    }

    /// Tells whether they are in the order of ids, each once.
    pub(super) fn is_ascending(&self) -> bool {
        super::delta::is_ascending(&self.in_one_piece())
    }

    /// Returns them in one piece; only a list that was changed is copied for that.
    pub(super) fn in_one_piece(&self) -> Cow<'_, [Record]> {
        match self.pieces.as_slice() {
            [] => Cow::Borrowed(&[]),
            [piece] => Cow::Borrowed(piece),
            _ => Cow::Owned(self.iter().cloned().collect()),
        }
    }

    /// Puts a peer in its place in the order of ids, and returns the one with the same id that was there before.
    pub(super) fn put(&mut self, record: Record) -> Option<Record> {
        self.cut();
        // What comes behind all others goes to the last piece.
        let number = self.piece_of(record.id).min(self.pieces.len().saturating_sub(1));
        let Some(shared) = self.pieces.get_mut(number) else {
            *self = Self::from(vec![record]);
            return None;
        };
        let piece = Arc::make_mut(shared);
        match place_in(piece, record.id) {
            Ok(place) => return Some(std::mem::replace(&mut piece[place], record)),
            Err(place) => piece.insert(place, record),
        }
        self.len += 1;
        if piece.len() >= PIECE_MAX {
            let rest = piece.split_off(PIECE);
            self.pieces.insert(number + 1, Arc::new(rest));
        }
        None
    }

    /// Takes a peer out and returns it.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<Record> {
        self.cut();
        let number = self.piece_of(id);
        let shared = self.pieces.get_mut(number)?;
        let place = place_in(shared, id).ok()?;
        let piece = Arc::make_mut(shared);
        let removed = piece.remove(place);
        if piece.is_empty() {
            self.pieces.remove(number);
        }
        self.len -= 1;
        Some(removed)
    }

    /// Cuts the one piece in which a list is made, as the first change would.
    pub(super) fn cut(&mut self) {
        if let [piece] = self.pieces.as_slice()
            && piece.len() >= PIECE_MAX
        {
            self.pieces = piece
                .chunks(PIECE)
                .map(|piece| Arc::new(piece.to_vec()))
                .collect();
        }
    }

    /// Returns the number of the piece in which an id is, or would be unless it comes behind all others.
    fn piece_of(&self, id: NodeId) -> usize {
        let ends_before = |piece: &Arc<Vec<Record>>| piece.last().is_some_and(|last| last.id < id);
        self.pieces.partition_point(ends_before)
    }
}

fn place_in(piece: &[Record], id: NodeId) -> Result<usize, usize> {
    piece.binary_search_by_key(&id, |peer| peer.id)
}

fn as_slice(piece: &Arc<Vec<Record>>) -> &[Record] {
    piece
}

/// Goes through the peers of a netmap in order.
pub(super) type Iter<'a> = std::iter::FlatMap<
    std::slice::Iter<'a, Arc<Vec<Record>>>,
    &'a [Record],
    fn(&'a Arc<Vec<Record>>) -> &'a [Record],
>;

impl<'a> IntoIterator for &'a Peers {
    type Item = &'a Record;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<Record> for Peers {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        Self::from(records.into_iter().collect::<Vec<_>>())
    }
}

impl From<Vec<Record>> for Peers {
    fn from(records: Vec<Record>) -> Self {
        let len = records.len();
        let pieces = if len == 0 {
            Vec::new()
        } else {
            vec![Arc::new(records)]
        };
        Self { pieces, len }
    }
}

impl Index<usize> for Peers {
    type Output = Record;

    /// Costs a look at each piece before it.
    fn index(&self, index: usize) -> &Record {
        self.iter().nth(index).expect("there are more peers")
    }
}

impl PartialEq for Peers {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Record, &Record)| Arc::ptr_eq(one, other) || one == other;
        self.len == other.len && self.iter().zip(other).all(same)
    }
}

impl Eq for Peers {}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl Serialize for Peers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Arc::as_ref))
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::shared::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::NodePrivateKey;
    use crate::node::NodeKind;

    fn record(seed: u16, name: u8) -> Record {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&seed.to_be_bytes());
        Arc::new(PeerRecord {
            id: NodeId::from_random(id),
            name: format!("n-{name}").parse().expect("a label"),
            kind: NodeKind::Device,
            public_key: NodePrivateKey::from_random([1; 32]).public(),
            allowed_ips: Vec::new(),
            endpoints: Vec::new(),
            home_relay: None,
            signatures: Vec::new(),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn it_is_what_a_map_by_ids_is(
            first in 0..700u16,
            steps in proptest::collection::vec((any::<bool>(), 0..900u16, any::<u8>()), 0..900),
        ) {
            let mut peers: Peers = (0..first).map(|seed| record(seed, 0)).collect();
            let mut map: BTreeMap<_, _> = peers.iter().map(|peer| (peer.id, peer.clone())).collect();
            let (before, all) = (peers.clone(), map.clone());
            for (is_put, seed, name) in steps {
                let record = record(seed, name);
                if is_put {
                    prop_assert_eq!(peers.put(record.clone()), map.insert(record.id, record));
                } else {
                    prop_assert_eq!(peers.remove(record.id), map.remove(&record.id));
                }
                prop_assert_eq!(peers.of_id(NodeId::from_random([0; 16])), map.get(&NodeId::from_random([0; 16])));
            }
            prop_assert_eq!(peers.len(), map.len());
            prop_assert!(peers.is_ascending());
            prop_assert_eq!(&*peers.in_one_piece(), map.values().cloned().collect::<Vec<_>>());
            peers.remove(NodeId::from_random([0xff; 16]));
            prop_assert!(peers.pieces.iter().all(|piece| (1..PIECE_MAX).contains(&piece.len())));
            for (id, record) in &map {
                prop_assert_eq!(peers.of_id(*id), Some(record));
            }
            prop_assert_eq!(&peers, &map.into_values().collect());
            prop_assert_eq!(&before, &all.into_values().collect(), "the copy is as it was");
        }
    }

    #[test]
    fn a_change_leaves_all_pieces_but_one_shared() {
        let mut before: Peers = (0..10_000).map(|seed| record(seed, 0)).collect();
        before.put(record(1, 1));
        let mut after = before.clone();
        after.put(record(5000, 1));
        let pieces = before.pieces.iter().zip(&after.pieces);
        assert_eq!(pieces.filter(|(one, other)| !Arc::ptr_eq(one, other)).count(), 1);
    }
}
