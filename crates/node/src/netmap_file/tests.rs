//! What is read after a crash at any byte, after damage, and at the limits.

use tempfile::TempDir;
use types::address::{host_ip4, node_ip6};
use types::netmap::{Difference, InForce, Peers, Pins, SelfRecord};
use types::{
    AllowedIp, Generation, MeshAddresses, NodeId, NodeKind, NodePrivateKey, OrgId, PeerRecord,
    SigningPrivateKey,
};

use super::*;

/// A state directory, its files, and what is in force.
struct Kept {
    dir: TempDir,
    file: NetmapFile,
    in_force: InForce,
}

impl Kept {
    fn new(map: Netmap) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let mut file = open(&dir);
        file.write(&map).expect("written");
        Self {
            dir,
            file,
            in_force: InForce::new(map, &pins(), None).expect("good"),
        }
    }

    /// Adds what makes `next` of what is in force.
    fn add(&mut self, next: &Netmap) {
        let delta = delta(self.in_force.map(), next);
        let amended = self.in_force.amended(&delta, &pins()).expect("it fits");
        self.file.add(&delta, amended.map()).expect("written");
        self.in_force.put(amended);
    }

    fn bytes(&self) -> Files {
        let read = |name| fs::read(self.dir.path().join(name)).ok();
        Files {
            whole: read(WHOLE),
            log: read(LOG),
        }
    }

    fn log_len(&self) -> u64 {
        self.bytes().log.map_or(0, |log| log.len() as u64)
    }
}

/// What stands in a directory at one moment.
#[derive(Clone, PartialEq)]
struct Files {
    whole: Option<Vec<u8>>,
    log: Option<Vec<u8>>,
}

impl Files {
    fn put(&self) -> TempDir {
        let dir = TempDir::new().expect("temporary directory");
        for (name, bytes) in [(WHOLE, &self.whole), (LOG, &self.log)] {
            if let Some(bytes) = bytes {
                fs::write(dir.path().join(name), bytes).expect("written");
            }
        }
        dir
    }

    /// Returns the netmap that a start finds, if it takes all of it.
    fn found(&self) -> Option<Netmap> {
        restored(&mut open(&self.put()))
    }

    /// Does the same, and lets that start write another, which the next one finds.
    fn restored(&self) -> Option<Netmap> {
        let dir = self.put();
        let mut file = open(&dir);
        let found = restored(&mut file)?;
        let next = Netmap {
            generation: Generation(found.generation.0 + 1),
            peers: [peer(200, 0)].into_iter().collect(),
            ..found.clone()
        };
        file.add(&delta(&found, &next), &next).expect("written");
        drop(file);
        assert_eq!(restored(&mut open(&dir)).as_ref(), Some(&next));
        Some(found)
    }
}

fn restored(file: &mut NetmapFile) -> Option<Netmap> {
    let kept = file.read().expect("readable")?;
    let mut in_force = InForce::new(kept.whole.clone(), &pins(), None).expect("good");
    for delta in &kept.deltas {
        in_force.put(in_force.amended(delta, &pins()).expect("it fits"));
    }
    file.go_on(&kept);
    Some(Netmap::clone(in_force.map()))
}

fn open(dir: &TempDir) -> NetmapFile {
    NetmapFile::new(Arc::new(StateDir::open(dir.path()).expect("opens")))
}

fn org() -> OrgId {
    OrgId::from_random([1; 16])
}

fn org_key() -> SigningPrivateKey {
    SigningPrivateKey::from_random([2; 32])
}

fn key(seed: u8) -> NodePrivateKey {
    NodePrivateKey::from_random([seed; 32])
}

fn pins() -> Pins {
    Pins {
        own_key: key(1).public(),
        org_id: org(),
        org_signing_key: org_key().public(),
    }
}

fn peer(seed: u8, place: u16) -> Arc<PeerRecord> {
    let mut peer = PeerRecord {
        id: NodeId::from_random([seed; 16]),
        name: format!("node-{seed}").parse().expect("a label"),
        kind: NodeKind::Device,
        public_key: key(seed).public(),
        allowed_ips: vec![AllowedIp::host(host_ip4(seed.into()).expect("in range").into())],
        endpoints: vec![format!("192.0.2.1:{}", place + 1)],
        home_relay: None,
        signatures: Vec::new(),
    };
    peer.sign(org(), &org_key());
    Arc::new(peer)
}

/// A netmap with peers 2 to 9, of which number 5 is at some place.
fn netmap(generation: u64, place: u16) -> Netmap {
    let id = NodeId::from_random([1; 16]);
    let peers = (2..10).map(|seed| peer(seed, if seed == 5 { place } else { 0 }));
    let mut peers: Vec<_> = peers.collect();
    peers.sort_by_key(|peer| peer.id);
    Netmap {
        generation: Generation(generation),
        org_id: org(),
        org_name: "home".parse().expect("a label"),
        org_signing_key: org_key().public(),
        node: SelfRecord {
            id,
            name: "here".parse().expect("a label"),
            public_key: key(1).public(),
            addresses: MeshAddresses {
                mesh_ip4: host_ip4(1).expect("in range"),
                mesh_ip6: node_ip6(org(), id),
            },
            key_life: None,
        },
        peers: Peers::from(peers),
        relays: Vec::new(),
        filter: Some(Arc::default()),
        orchestrator: None,
    }
}

/// The delta between two netmaps; one that is longer than the second is said as a delta all the same.
fn delta(old: &Netmap, new: &Netmap) -> NetmapDelta {
    match Difference::between(old, new) {
        Difference::Delta(delta) => *delta,
        other => {
            assert_eq!(other, Difference::Whole);
            let gone = |peer: &&Arc<PeerRecord>| new.peers.of_id(peer.id).is_none();
            NetmapDelta {
                generation: new.generation,
                from: old.generation,
                org_id: new.org_id,
                node_id: new.node.id,
                peer_count: new.peers.len(),
                upserted: new.peers.iter().cloned().collect(),
                removed: old.peers.iter().filter(gone).map(|peer| peer.id).collect(),
                node: None,
                relays: None,
                filter: types::netmap::FilterChange::default(),
            }
        }
    }
}

#[test]
fn a_crash_at_any_byte_leaves_the_state_before_or_after_the_last_write() {
    let mut kept = Kept::new(netmap(1, 0));
    let mut states = vec![(kept.bytes(), Netmap::clone(kept.in_force.map()))];
    for generation in 2..5 {
        kept.add(&netmap(generation, generation as u16));
        states.push((kept.bytes(), Netmap::clone(kept.in_force.map())));
    }
    for pair in states.windows(2) {
        let ((before, old), (after, new)) = (&pair[0], &pair[1]);
        assert_eq!(before.whole, after.whole, "only the log is written");
        let log = after.log.as_ref().expect("a log");
        let begun = before.log.as_ref().expect("a log").len();
        for cut in begun..=log.len() {
            let torn = Files {
                log: Some(log[..cut].to_vec()),
                ..after.clone()
            };
            let expected = if cut == log.len() { new } else { old };
            assert_eq!(torn.found().as_ref(), Some(expected), "cut at {cut}");
            // Each of these waits for the disk.
            if cut % 41 == 0 || cut == log.len() {
                assert_eq!(torn.restored().as_ref(), Some(expected), "cut at {cut}");
            }
        }
    }
}

#[test]
fn a_crash_while_the_whole_netmap_is_written_leaves_the_state_before_or_after() {
    let mut kept = Kept::new(netmap(1, 0));
    kept.add(&netmap(2, 1));
    kept.add(&netmap(3, 2));
    let before = kept.bytes();
    let next = netmap(4, 3);
    kept.file.write(&next).expect("written");
    let after = kept.bytes();
    assert_eq!(before.restored(), Some(netmap(3, 2)));
    // The new one is there, and the log is as it was, empty, or has some of its header.
    let logs = (0..=HEADER.len()).map(|len| Some(HEADER[..len].to_vec()));
    for log in logs.chain([before.log.clone(), None]) {
        let torn = Files { log, ..after.clone() };
        assert_eq!(torn.restored().as_ref(), Some(&next));
    }
    assert_eq!(after.restored(), Some(next));
}

#[test]
fn with_a_damaged_log_the_last_whole_netmap_is_used() {
    let mut kept = Kept::new(netmap(1, 0));
    kept.add(&netmap(2, 1));
    let first = kept.log_len() as usize;
    kept.add(&netmap(3, 2));
    let files = kept.bytes();
    let log = files.log.clone().expect("a log");
    for byte in 0..first {
        let mut damaged = log.clone();
        damaged[byte] ^= 1;
        let damaged = Files {
            log: Some(damaged),
            ..files.clone()
        };
        assert_eq!(damaged.found(), Some(netmap(1, 0)), "byte {byte}");
        if byte % 41 == 0 {
            assert_eq!(damaged.restored(), Some(netmap(1, 0)), "byte {byte}");
        }
    }
    let frame = |json: &[u8]| frames::seal([&[b' '; PREFIX_LEN], json].concat()).expect("small");
    let no_delta = Files {
        log: Some([HEADER, &frame(b"{}")].concat()),
        ..files
    };
    assert_eq!(no_delta.restored(), Some(netmap(1, 0)));
}

#[test]
fn a_log_without_a_netmap_is_nothing_and_both_are_removed() {
    let mut kept = Kept::new(netmap(1, 0));
    kept.add(&netmap(2, 1));
    let log_only = Files {
        whole: None,
        ..kept.bytes()
    };
    assert_eq!(log_only.restored(), None);
    kept.file.remove().expect("removed");
    assert!(
        kept.bytes()
            == Files {
                whole: None,
                log: None
            }
    );
}

#[test]
fn the_log_is_begun_anew_when_it_has_as_many_deltas_as_it_may() {
    let mut kept = Kept::new(netmap(1, 0));
    kept.file.whole_len = u64::MAX;
    let whole = kept.bytes().whole;
    for generation in 2..LOG_DELTAS_MAX as u64 + 2 {
        kept.add(&netmap(generation, generation as u16));
    }
    assert!(kept.bytes().whole == whole, "as many as may be are added");
    let last = Netmap::clone(kept.in_force.map());
    assert_eq!(kept.bytes().restored().as_ref(), Some(&last));
    let next = netmap(LOG_DELTAS_MAX as u64 + 2, 1);
    kept.add(&next);
    assert_eq!(kept.log_len(), HEADER.len() as u64);
    assert_eq!(kept.bytes().restored(), Some(next));
}

#[test]
fn the_log_is_begun_anew_when_it_would_be_longer_than_it_may() {
    let mut kept = Kept::new(netmap(1, 0));
    kept.add(&netmap(2, 1));
    let frame = kept.log_len() - HEADER.len() as u64;
    let (mut generation, mut longest) = (2, 0);
    while longest < kept.log_len() {
        longest = kept.log_len();
        generation += 1;
        kept.add(&netmap(generation, 1 + generation as u16 % 8));
    }
    assert!(
        longest <= LOG_BYTES_MIN && longest + frame > LOG_BYTES_MIN,
        "{longest}"
    );
    assert_eq!(kept.log_len(), HEADER.len() as u64);
    // With a large netmap it may be longer.
    kept.file.whole_len = 2 * LOG_BYTES_MIN;
    while kept.log_len() <= LOG_BYTES_MIN {
        generation += 1;
        kept.add(&netmap(generation, 1 + generation as u16 % 8));
    }
    assert_eq!(kept.bytes().restored().as_ref(), Some(&**kept.in_force.map()));
}

#[test]
fn a_change_of_the_node_itself_is_written_whole() {
    let mut kept = Kept::new(netmap(1, 0));
    kept.add(&netmap(2, 1));
    let mut next = netmap(3, 1);
    next.node.name = "there".parse().expect("a label");
    kept.add(&next);
    assert_eq!(kept.log_len(), HEADER.len() as u64);
    assert_eq!(kept.bytes().restored(), Some(next));
}

#[test]
fn a_full_disk_refuses_a_change_and_the_next_one_follows_on_what_was_before() {
    let mut kept = Kept::new(netmap(1, 0));
    kept.add(&netmap(2, 1));
    let before = kept.bytes();
    let log = kept.dir.path().join(LOG);
    let fail = |file: &mut NetmapFile, fail| {
        let log_file = &mut file.log.as_mut().expect("a log").file;
        log_file.fail_writes(&log, fail);
    };
    fail(&mut kept.file, true);
    let refused = kept.file.add(&delta(&netmap(2, 1), &netmap(3, 2)), &netmap(3, 2));
    assert!(refused.is_err());
    fail(&mut kept.file, false);
    assert!(kept.bytes() == before, "nothing of it stays");
    kept.add(&netmap(3, 3));
    assert_eq!(kept.bytes().restored(), Some(netmap(3, 3)));
}
