//! The keys of this node: the one in force, and while it is being changed the one to be or the one that was.
//!
//! A key is on disk before anybody hears of it, and the one before it goes last, so that a crash at any point leaves a key
//! that the control plane takes. The order of a change: `next.key` is written; the control plane notes it; a stream opened
//! with it puts it into force; `previous.key` is written, `node.key` is replaced, `next.key` is removed; when the time of
//! the old one is over, `previous.key` is removed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use types::policy::KeyLife;
use types::{NodePrivateKey, NodePublicKey, Timestamp};
use zeroize::Zeroizing;

use crate::state_dir::{StateDir, StateDirError};

const CURRENT: &str = "node.key";
const NEXT: &str = "next.key";
const PREVIOUS: &str = "previous.key";

/// How long whoever asks for another key waits for it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// The keys of this node.
#[derive(Debug)]
pub struct Keyring {
    state_dir: Arc<StateDir>,
    keys: Mutex<Keys>,
    view: watch::Sender<KeyView>,
}

#[derive(Debug)]
struct Keys {
    current: NodePrivateKey,
    next: Option<NodePrivateKey>,
    previous: Option<(NodePrivateKey, Timestamp)>,
    /// Whether the next stream is opened with the key to be: it may be in force already, and the one before be refused.
    tries_next: bool,
}

/// What may be known of the keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyView {
    /// The key in force.
    pub current: NodePublicKey,
    /// The key to be.
    pub next: Option<NodePublicKey>,
    /// Until when the key before is taken.
    pub previous_until: Option<Timestamp>,
    /// What was refused last.
    pub refused: Option<Refusal>,
}

/// A key that the control plane did not take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Which key.
    pub key: NodePublicKey,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl KeyView {
    /// Returns when the key is to be changed, by what the netmap says of it; `None` when that speaks of another key, or a
    /// change is under way.
    #[must_use]
    pub fn change_at(&self, named: &NodePublicKey, life: Option<KeyLife>) -> Option<Timestamp> {
        let is_ours = *named == self.current && self.next.is_none();
        let refused_at = self.refused.as_ref().map(|refused| refused.at);
        life.filter(|_| is_ours).map(|life| life.attempt_at(refused_at))
    }
}

/// What the control plane's word of the key in force was to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InForce {
    /// It is the key that we have.
    AsBefore,
    /// It is the one that was to be; it is ours from now on.
    Changed,
    /// It is none that we have.
    Unknown,
}

/// Why there is no other key.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The new key cannot be kept.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The control plane said no.
    #[error("{0}")]
    Refused(String),
    /// The control plane has not answered. The new key stays, and takes effect as soon as it has.
    #[error(
        "the control plane has not answered yet; the key changes when it does, if it is new enough to know how"
    )]
    Pending,
}

impl Keyring {
    /// Reads the keys, making one at the first start; a change that a crash cut short is where it was.
    pub fn open(state_dir: Arc<StateDir>) -> Result<Self, StateDirError> {
        let current = state_dir.node_key()?;
        let own = current.public();
        let next = state_dir.read_secret(NEXT)?;
        let next = next.map(|text| read(&state_dir, NEXT, &text)).transpose()?;
        if next.as_ref().is_some_and(|next| next.public() == own) {
            state_dir.remove(NEXT)?;
        }
        let next = next.filter(|next| next.public() != own);
        let previous = state_dir.read_secret(PREVIOUS)?;
        let previous = previous
            .map(|text| read_previous(&state_dir, &text))
            .transpose()?;
        let keys = Keys {
            previous: previous.filter(|(previous, _)| previous.public() != own),
            current,
            next,
            tries_next: false,
        };
        Ok(Self {
            view: watch::Sender::new(keys.view(None)),
            keys: Mutex::new(keys),
            state_dir,
        })
    }

    /// Returns the key in force.
    #[must_use]
    pub fn current(&self) -> NodePrivateKey {
        self.lock().current.clone()
    }

    /// Returns the public half of the key in force.
    #[must_use]
    pub fn public(&self) -> NodePublicKey {
        self.lock().current.public()
    }

    /// Returns the key to open the next control stream with.
    #[must_use]
    pub fn to_open_with(&self) -> NodePrivateKey {
        let keys = self.lock();
        let next = keys.next.as_ref().filter(|_| keys.tries_next);
        next.unwrap_or(&keys.current).clone()
    }

    /// A control stream could not be opened, or broke. Which key is refused, if one is, nobody says: it is the other one's
    /// turn.
    pub fn turn(&self) {
        let mut keys = self.lock();
        keys.tries_next = !keys.tries_next && keys.next.is_some();
    }

    /// The control plane has noted a key: if it is the key to be, the next stream is opened with it, and it is `true`.
    #[must_use]
    pub fn noted(&self, key: &NodePublicKey) -> bool {
        let mut keys = self.lock();
        let is_next = keys.next.as_ref().is_some_and(|next| next.public() == *key);
        keys.tries_next |= is_next;
        is_next
    }

    /// Returns the key in force, and the other one with which handshakes are taken besides, if there is one.
    #[must_use]
    pub fn both(&self) -> (NodePrivateKey, Option<NodePrivateKey>) {
        let keys = self.lock();
        let previous = keys.previous.as_ref().map(|(previous, _)| previous);
        (keys.current.clone(), keys.next.as_ref().or(previous).cloned())
    }

    /// Returns the public half of the key in force, and then of the one that was until a short time ago.
    #[must_use]
    pub fn held(&self) -> Vec<NodePublicKey> {
        let keys = self.lock();
        let previous = keys.previous.iter().map(|(previous, _)| previous.public());
        std::iter::once(keys.current.public()).chain(previous).collect()
    }

    /// Tells whether a key is in force, or was until a short time ago.
    #[must_use]
    pub fn holds(&self, key: &NodePublicKey) -> bool {
        self.held().contains(key)
    }

    /// Follows what may be known of the keys.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<KeyView> {
        self.view.subscribe()
    }

    /// Makes the key to be, unless there is one; it is on disk when this returns.
    pub fn prepare(&self) -> Result<NodePublicKey, StateDirError> {
        let mut keys = self.lock();
        if let Some(next) = &keys.next {
            return Ok(next.public());
        }
        let next = NodePrivateKey::from_random(net::random::bytes());
        self.state_dir.write_secret(NEXT, &next.to_base64())?;
        let public = next.public();
        keys.next = Some(next);
        self.show(&keys, None);
        Ok(public)
    }

    /// Prepares another key and waits until it is in force, at most twenty seconds.
    pub async fn rotate(&self) -> Result<KeyView, RotateError> {
        let mut view = self.follow();
        let wanted = self.prepare()?;
        let decided = view.wait_for(|view| {
            let is_refused = view.refused.as_ref().is_some_and(|refused| refused.key == wanted);
            view.current == wanted || is_refused
        });
        match tokio::time::timeout(CHANGE_TIMEOUT, decided).await {
            Ok(Ok(view)) if view.current == wanted => Ok(view.clone()),
            Ok(Ok(view)) => {
                let reason = view.refused.as_ref().map(|refused| refused.reason.clone());
                Err(RotateError::Refused(reason.unwrap_or_default()))
            }
            Ok(Err(_)) | Err(_) => Err(RotateError::Pending),
        }
    }

    /// Takes the control plane's word of which key is in force, and until when the one before is taken.
    pub fn in_force(
        &self,
        key: &NodePublicKey,
        previous_until: Option<Timestamp>,
    ) -> Result<InForce, StateDirError> {
        let mut keys = self.lock();
        keys.tries_next = false;
        if keys.current.public() == *key {
            match (previous_until, keys.previous.take()) {
                (Some(until), Some((previous, _))) => keys.previous = Some((previous, until)),
                (None, Some(_)) => self.state_dir.remove(PREVIOUS)?,
                (_, None) => {}
            }
            self.show(&keys, None);
            return Ok(InForce::AsBefore);
        }
        let Some(next) = keys.next.clone().filter(|next| next.public() == *key) else {
            return Ok(InForce::Unknown);
        };
        if let Some(until) = previous_until {
            let text = Zeroizing::new(format!("{}\n{until}\n", *keys.current.to_base64()));
            self.state_dir.write_secret(PREVIOUS, &text)?;
        }
        self.state_dir.write_secret(CURRENT, &next.to_base64())?;
        self.state_dir.remove(NEXT)?;
        let old = std::mem::replace(&mut keys.current, next);
        keys.next = None;
        keys.previous = previous_until.map(|until| (old, until));
        self.show(&keys, None);
        Ok(InForce::Changed)
    }

    /// Takes the control plane's refusal of the key to be: it is dropped.
    pub fn refused(&self, refused: Refusal) -> Result<(), StateDirError> {
        let mut keys = self.lock();
        if keys
            .next
            .as_ref()
            .is_some_and(|next| next.public() == refused.key)
        {
            self.state_dir.remove(NEXT)?;
            keys.next = None;
            keys.tries_next = false;
            self.show(&keys, Some(refused));
        }
        Ok(())
    }

    /// Forgets the key before when its time is over; tells whether it did.
    pub fn expire(&self, now: Timestamp) -> Result<bool, StateDirError> {
        let mut keys = self.lock();
        let is_over = keys.previous.as_ref().is_some_and(|(_, until)| *until <= now);
        if is_over {
            self.state_dir.remove(PREVIOUS)?;
            keys.previous = None;
            self.show(&keys, None);
        }
        Ok(is_over)
    }

    fn show(&self, keys: &Keys, refused: Option<Refusal>) {
        self.view.send_replace(keys.view(refused));
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    fn view(&self, refused: Option<Refusal>) -> KeyView {
        KeyView {
            current: self.current.public(),
            next: self.next.as_ref().map(NodePrivateKey::public),
            previous_until: self.previous.as_ref().map(|(_, until)| *until),
            refused,
        }
    }
}

fn read(state_dir: &StateDir, name: &str, text: &str) -> Result<NodePrivateKey, StateDirError> {
    NodePrivateKey::from_base64(text.trim()).map_err(|source| StateDirError::BadKey {
        path: state_dir.file(name),
        source,
    })
}

/// Reads the key and, on the next line, until when it is taken.
fn read_previous(state_dir: &StateDir, text: &str) -> Result<(NodePrivateKey, Timestamp), StateDirError> {
    let (key, until) = text.split_once('\n').unwrap_or((text, ""));
    let until = Timestamp::parse(until.trim()).unwrap_or_default();
    Ok((read(state_dir, PREVIOUS, key)?, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until() -> Timestamp {
        Timestamp::from_unix_ms(1_800_000_000_000)
    }

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("temporary directory"))
        }

        fn open(&self) -> Keyring {
            let state_dir = StateDir::open(self.0.path()).expect("opens");
            Keyring::open(Arc::new(state_dir)).expect("keys")
        }

        fn has(&self, name: &str) -> bool {
            self.0.path().join(name).exists()
        }

        fn copy(&self, from: &str, to: &str) {
            let path = |name: &str| self.0.path().join(name);
            std::fs::copy(path(from), path(to)).expect("copies");
        }
    }

    #[test]
    fn a_key_is_on_disk_before_it_is_offered_and_the_same_one_is_offered_after_a_crash() {
        let place = Place::new();
        let keyring = place.open();
        let first = keyring.public();
        let next = keyring.prepare().expect("kept");
        assert_eq!(keyring.prepare().expect("kept"), next, "one at a time");
        drop(keyring);
        let keyring = place.open();
        assert_eq!(keyring.public(), first);
        assert_eq!(keyring.follow().borrow().next, Some(next));
    }

    #[test]
    fn the_key_that_is_put_into_force_takes_the_place_of_the_other_until_that_ones_time_is_over() {
        let place = Place::new();
        let keyring = place.open();
        let first = keyring.public();
        let next = keyring.prepare().expect("kept");
        assert!(!keyring.holds(&next), "it is not in force yet");
        assert_eq!(
            keyring.in_force(&next, Some(until())).expect("kept"),
            InForce::Changed
        );
        drop(keyring);
        let keyring = place.open();
        let (current, other) = keyring.both();
        assert_eq!(current.public(), next);
        assert_eq!(other.expect("the one before").public(), first);
        assert!(keyring.holds(&first) && keyring.holds(&next));
        assert!(!keyring.expire(until() - Duration::from_millis(1)).expect("kept"));
        assert!(keyring.expire(until()).expect("removed"));
        assert!(!keyring.holds(&first) && !place.has(PREVIOUS) && !place.has(NEXT));
    }

    #[test]
    fn a_crash_between_any_two_steps_of_the_change_leaves_a_keyring_that_ends_it() {
        // After the old key was put aside, and after the new one took its place.
        for is_replaced in [false, true] {
            let place = Place::new();
            let keyring = place.open();
            let first = keyring.public();
            let next = keyring.prepare().expect("kept");
            let aside = format!("{}\n{}\n", *keyring.current().to_base64(), until());
            keyring.state_dir.write_secret(PREVIOUS, &aside).expect("kept");
            if is_replaced {
                place.copy(NEXT, CURRENT);
            }
            drop(keyring);
            let keyring = place.open();
            let expected = if is_replaced { next } else { first };
            assert_eq!(keyring.public(), expected);
            assert_eq!(keyring.follow().borrow().next.is_some(), !is_replaced);
            let word = keyring.in_force(&next, Some(until())).expect("kept");
            assert_eq!(word == InForce::Changed, !is_replaced);
            assert_eq!(keyring.public(), next);
            assert!(keyring.holds(&first) && !place.has(NEXT));
        }
    }

    #[test]
    fn a_refused_key_is_dropped_and_the_next_one_is_another() {
        let place = Place::new();
        let keyring = place.open();
        let next = keyring.prepare().expect("kept");
        let other = NodePrivateKey::from_random([3; 32]).public();
        let refusal = |key| Refusal {
            key,
            reason: "taken".to_owned(),
            at: until(),
        };
        keyring.refused(refusal(other)).expect("nothing");
        assert!(place.has(NEXT));
        keyring.refused(refusal(next)).expect("removed");
        assert!(!place.has(NEXT));
        assert_eq!(keyring.follow().borrow().refused, Some(refusal(next)));
        assert_ne!(keyring.prepare().expect("kept"), next);
    }

    #[test]
    fn streams_are_opened_with_the_key_to_be_once_it_is_noted_and_with_each_in_turn_when_they_fail() {
        let place = Place::new();
        let keyring = place.open();
        let first = keyring.public();
        let opens = |key| assert_eq!(keyring.to_open_with().public(), key);
        keyring.turn();
        opens(first);
        let next = keyring.prepare().expect("kept");
        opens(first);
        assert!(!keyring.noted(&first));
        assert!(keyring.noted(&next));
        opens(next);
        keyring.turn();
        opens(first);
        keyring.turn();
        opens(next);
        keyring.in_force(&first, None).expect("nothing");
        opens(first);
        keyring.turn();
        keyring.in_force(&next, None).expect("kept");
        opens(next);
        keyring.turn();
        opens(next);
    }

    #[test]
    fn a_key_is_changed_when_the_netmap_says_so_of_it_and_not_again_while_that_is_under_way_or_was_just_refused()
     {
        let place = Place::new();
        let keyring = place.open();
        let own = keyring.public();
        let life = KeyLife {
            expires_at: until(),
            rotate_at: until() - Duration::from_secs(60),
        };
        let change_at = |named, life| keyring.follow().borrow().change_at(named, life);
        assert_eq!(change_at(&own, None), None, "it does not expire");
        assert_eq!(change_at(&own, Some(life)), Some(life.rotate_at));
        let other = NodePrivateKey::from_random([3; 32]).public();
        assert_eq!(change_at(&other, Some(life)), None, "a netmap of before");
        let key = keyring.prepare().expect("kept");
        assert_eq!(change_at(&own, Some(life)), None);
        let (reason, at) = ("no".to_owned(), life.rotate_at);
        keyring.refused(Refusal { key, reason, at }).expect("removed");
        assert_eq!(change_at(&own, Some(life)), Some(life.attempt_at(Some(at))));
    }

    #[test]
    fn a_key_that_we_do_not_have_changes_nothing() {
        let place = Place::new();
        let keyring = place.open();
        let first = keyring.public();
        keyring.prepare().expect("kept");
        let other = NodePrivateKey::from_random([3; 32]).public();
        assert_eq!(keyring.in_force(&other, None).expect("nothing"), InForce::Unknown);
        assert_eq!(keyring.public(), first);
        assert_eq!(
            keyring.in_force(&first, None).expect("nothing"),
            InForce::AsBefore
        );
        assert!(place.has(NEXT), "it may still be put into force");
    }

    #[test]
    fn the_key_before_goes_when_the_control_plane_takes_it_no_longer() {
        let place = Place::new();
        let keyring = place.open();
        let next = keyring.prepare().expect("kept");
        keyring.in_force(&next, Some(until())).expect("kept");
        keyring.in_force(&next, None).expect("removed");
        assert!(!place.has(PREVIOUS) && keyring.both().1.is_none());
    }
}
