//! What a node was given last, and whether it is in force there: pure, one for each control stream.

use types::netmap::Difference;
use types::{Generation, NetmapDelta};

/// The netmap that a node was given last.
#[derive(Debug)]
pub(crate) struct Given {
    /// Its number, as the node knows it.
    generation: Generation,
    /// Up to which generation there is nothing else to say.
    good_for: Generation,
    form: Form,
    in_force: bool,
}

/// How a netmap was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Whole,
    Delta,
    /// It was refused, or there is none: the next must be whole.
    Refused,
}

/// What is to be sent.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Nothing: it was all said.
    None,
    /// What is different from what was given before.
    Delta(Box<NetmapDelta>),
    /// The whole netmap.
    Whole,
}

impl Given {
    /// Begins at hello, with the generation that the node says it has in force.
    pub(crate) fn at_hello(has: Option<Generation>) -> Self {
        let generation = has.unwrap_or_default();
        Self {
            generation,
            good_for: generation,
            form: if has.is_some() { Form::Whole } else { Form::Refused },
            in_force: has.is_some(),
        }
    }

    /// Returns the generation whose netmap the node has, or has before it, but for the number; `None` when the next must be
    /// whole.
    pub(crate) fn base(&self) -> Option<Generation> {
        (self.form != Form::Refused).then_some(self.good_for)
    }

    /// Takes how the netmap of a generation differs from that of [`Given::base`]; what is returned must be sent.
    pub(crate) fn renew(&mut self, generation: Generation, difference: Difference) -> News {
        self.good_for = generation;
        let before = self.generation;
        match difference {
            Difference::None => return News::None,
            Difference::Delta(_) => self.form = Form::Delta,
            Difference::Whole => self.form = Form::Whole,
        }
        self.generation = generation;
        self.in_force = false;
        match difference {
            Difference::Delta(mut delta) => {
                // Generations may have passed that said nothing to this node.
                delta.from = before;
                News::Delta(delta)
            }
            _ => News::Whole,
        }
    }

    /// Takes the word of the node that a generation is in force; returns up to which one that holds. Nothing is believed
    /// of a generation that it was not given.
    pub(crate) fn applied(&mut self, generation: Generation) -> Option<Generation> {
        if generation < self.generation {
            return Some(generation);
        }
        if generation == self.generation {
            self.in_force = true;
            if self.form == Form::Refused {
                // A delta to it was refused before the whole one came.
                self.form = Form::Whole;
            }
        }
        self.in_force()
    }

    /// Takes the word of the node that it refused a generation; `true` when that was a delta, and the whole netmap must be
    /// sent. A whole one that was refused is not sent again before something changes.
    pub(crate) fn refused(&mut self, generation: Generation) -> bool {
        if generation != self.generation {
            return false;
        }
        self.in_force = false;
        std::mem::replace(&mut self.form, Form::Refused) == Form::Delta
    }

    /// Returns up to which generation the node has everything in force; `None` when it has not said so.
    pub(crate) fn in_force(&self) -> Option<Generation> {
        self.in_force.then_some(self.good_for)
    }
}

#[cfg(test)]
mod tests {
    use types::netmap::FilterChange;
    use types::{NodeId, OrgId};

    use super::*;

    fn delta(from: u64, generation: u64) -> Box<NetmapDelta> {
        Box::new(NetmapDelta {
            generation: Generation(generation),
            from: Generation(from),
            org_id: OrgId::from_random([1; 16]),
            node_id: NodeId::from_random([2; 16]),
            peer_count: 0,
            upserted: Vec::new(),
            removed: Vec::new(),
            node: None,
            relays: None,
            filter: FilterChange::default(),
        })
    }

    /// Given whole at 3, and in force.
    fn settled() -> Given {
        let mut given = Given::at_hello(None);
        assert_eq!((given.base(), given.in_force()), (None, None));
        assert_eq!(given.renew(Generation(3), Difference::Whole), News::Whole);
        assert_eq!(given.in_force(), None, "the node has not answered yet");
        assert_eq!(given.applied(Generation(3)), Some(Generation(3)));
        given
    }

    #[test]
    fn a_node_that_has_the_netmap_at_hello_needs_no_other() {
        let mut given = Given::at_hello(Some(Generation(3)));
        assert_eq!(given.base(), Some(Generation(3)));
        assert_eq!(given.renew(Generation(5), Difference::None), News::None);
        assert_eq!(given.in_force(), Some(Generation(5)));
        let mut given = Given::at_hello(Some(Generation(3)));
        given.renew(Generation(5), Difference::Whole);
        assert_eq!(given.in_force(), None);
    }

    #[test]
    fn a_netmap_holds_for_every_generation_that_says_the_same() {
        let mut given = settled();
        assert_eq!(given.renew(Generation(5), Difference::None), News::None);
        assert_eq!(given.in_force(), Some(Generation(5)));
        assert_eq!(given.base(), Some(Generation(5)), "it says the same");
        let news = given.renew(Generation(7), Difference::Delta(delta(5, 7)));
        assert_eq!(
            news,
            News::Delta(delta(3, 7)),
            "by the number that the node knows"
        );
        assert_eq!(given.in_force(), None);
        assert_eq!(given.applied(Generation(7)), Some(Generation(7)));
    }

    #[test]
    fn an_answer_counts_for_what_was_given_and_no_further() {
        let mut given = settled();
        given.renew(Generation(4), Difference::Delta(delta(3, 4)));
        assert_eq!(given.applied(Generation(3)), Some(Generation(3)), "a late answer");
        assert_eq!(given.applied(Generation(9)), None, "it was never given that one");
        assert_eq!(given.applied(Generation(4)), Some(Generation(4)));
    }

    #[test]
    fn a_delta_that_is_refused_is_followed_by_the_whole_netmap_once() {
        let mut given = settled();
        given.renew(Generation(4), Difference::Delta(delta(3, 4)));
        given.renew(Generation(5), Difference::Delta(delta(4, 5)));
        assert!(
            !given.refused(Generation(4)),
            "so will the last one be, which builds on it"
        );
        assert!(given.refused(Generation(5)));
        assert_eq!((given.base(), given.in_force()), (None, None));
        given.renew(Generation(5), Difference::Whole);
        assert!(!given.refused(Generation(5)), "once more would be no better");
        assert_eq!(given.base(), None, "and the next is whole again");
        assert_eq!(given.applied(Generation(5)), Some(Generation(5)));
        assert_eq!(given.base(), Some(Generation(5)));
    }
}
