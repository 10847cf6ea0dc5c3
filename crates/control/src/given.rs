//! What a node was given last, and whether it is in force there: pure, one for each control stream.

use types::{Generation, Netmap};

/// The netmap that a node was given last.
#[derive(Debug)]
pub(crate) struct Given {
    map: Netmap,
    /// Up to which generation there is nothing else to say.
    good_for: Generation,
    in_force: bool,
}

impl Given {
    /// Begins at hello, with the generation that the node has. It must be sent the netmap unless it is in force there.
    pub(crate) fn at_hello(map: Netmap, has: Option<Generation>) -> Self {
        Self {
            good_for: map.generation,
            in_force: has == Some(map.generation),
            map,
        }
    }

    /// Takes the netmap as it is now; `true` when it says something new, which must be sent.
    pub(crate) fn renew(&mut self, map: &Netmap) -> bool {
        self.good_for = map.generation;
        let before = Netmap {
            generation: self.map.generation,
            ..map.clone()
        };
        if before == self.map {
            return false;
        }
        self.map = map.clone();
        self.in_force = false;
        true
    }

    /// Takes the word of the node that a generation is in force; returns up to which one that holds. Nothing is believed
    /// of a generation that it was not given.
    pub(crate) fn applied(&mut self, generation: Generation) -> Option<Generation> {
        if generation < self.map.generation {
            return Some(generation);
        }
        self.in_force |= generation == self.map.generation;
        self.in_force()
    }

    /// Returns up to which generation the node has everything in force; `None` when it has not said so.
    pub(crate) fn in_force(&self) -> Option<Generation> {
        self.in_force.then_some(self.good_for)
    }
}

#[cfg(test)]
mod tests {
    use types::netmap::SelfRecord;
    use types::{MeshAddresses, NodeId, NodePrivateKey, OrgId, SigningPrivateKey};

    use super::*;

    fn map(generation: u64, name: &str) -> Netmap {
        Netmap {
            generation: Generation(generation),
            org_id: OrgId::from_random([1; 16]),
            org_name: "home".parse().expect("a name"),
            org_signing_key: SigningPrivateKey::from_random([1; 32]).public(),
            node: SelfRecord {
                id: NodeId::from_random([2; 16]),
                name: name.parse().expect("a name"),
                public_key: NodePrivateKey::from_random([2; 32]).public(),
                addresses: MeshAddresses {
                    mesh_ip4: "100.64.0.2".parse().expect("an address"),
                    mesh_ip6: "fd00::2".parse().expect("an address"),
                },
                key_life: None,
            },
            peers: Vec::new(),
            relays: Vec::new(),
            filter: None,
            orchestrator: None,
        }
    }

    #[test]
    fn a_node_that_has_the_netmap_at_hello_needs_no_other() {
        let given = Given::at_hello(map(3, "a"), Some(Generation(3)));
        assert_eq!(given.in_force(), Some(Generation(3)));
        for has in [None, Some(Generation(2)), Some(Generation(4))] {
            assert_eq!(Given::at_hello(map(3, "a"), has).in_force(), None);
        }
    }

    #[test]
    fn a_netmap_holds_for_every_generation_that_says_the_same() {
        let mut given = Given::at_hello(map(3, "a"), None);
        assert!(!given.renew(&map(5, "a")), "nothing new");
        assert_eq!(given.in_force(), None, "the node has not answered yet");
        assert_eq!(given.applied(Generation(3)), Some(Generation(5)));
        assert!(!given.renew(&map(6, "a")));
        assert_eq!(given.in_force(), Some(Generation(6)));
        assert!(given.renew(&map(7, "b")));
        assert_eq!(given.in_force(), None);
    }

    #[test]
    fn an_answer_counts_for_what_was_given_and_no_further() {
        let mut given = Given::at_hello(map(3, "a"), None);
        given.renew(&map(4, "b"));
        assert_eq!(given.applied(Generation(3)), Some(Generation(3)), "a late answer");
        assert_eq!(given.applied(Generation(9)), None, "it was never given that one");
        assert_eq!(given.applied(Generation(4)), Some(Generation(4)));
    }
}
