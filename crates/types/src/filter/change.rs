//! What is different between two packet filters of one node, as far as a netmap delta must say it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FilterRule, PacketFilter, Ports};
use crate::address::AllowedIp;

/// So few blocks are put in or taken out one by one; with more, all are looked at once.
const FEW: usize = 16;

/// What becomes different in a packet filter. As JSON it is `{"closed": [rules], "opened": [rules]}`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FilterChange {
    /// What no longer lets these blocks reach these ports; first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<FilterRule>,
    /// What lets them from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opened: Vec<FilterRule>,
}

impl PacketFilter {
    /// Writes the same filter in one way: one rule for the same ports, rules by ports, blocks in order, each once.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        self.rules.sort_by(|a, b| a.to.cmp(&b.to));
        self.rules.dedup_by(|next, rule| {
            let is_same = next.to == rule.to;
            if is_same {
                rule.from.append(&mut next.from);
            }
            is_same
        });
        for rule in &mut self.rules {
            rule.from.sort_unstable();
            rule.from.dedup();
        }
        self.rules.retain(|rule| !rule.from.is_empty());
        self
    }

    /// Tells whether it is written as [`PacketFilter::canonical`] writes it.
    pub(crate) fn is_canonical(&self) -> bool {
        is_in_order(&self.rules) && self.rules.iter().all(|rule| !rule.from.is_empty())
    }

    /// Finds the rule of a canonical filter for these ports, or where it would be.
    fn place_of(&self, to: &[Ports]) -> Result<usize, usize> {
        self.rules.binary_search_by(|rule| rule.to.as_slice().cmp(to))
    }

    /// Returns the filter without some blocks, canonical.
    pub(crate) fn without(&self, gone: &BTreeSet<AllowedIp>) -> Self {
        let mut filter = self.clone().canonical();
        if !gone.is_empty() {
            for rule in &mut filter.rules {
                rule.from.retain(|block| !gone.contains(block));
            }
            filter.rules.retain(|rule| !rule.from.is_empty());
        }
        filter
    }
}

impl FilterChange {
    /// Says what makes `new` out of `old`, which is canonical.
    pub(crate) fn between(old: PacketFilter, new: &PacketFilter) -> Self {
        let new = new.clone().canonical();
        Self {
            closed: missing(&old, &new),
            opened: missing(&new, &old),
        }
    }

    /// Makes the new filter out of the old one, which is canonical: without the blocks that are gone, and then changed. Returns
    /// the blocks of which it says something else than before, too. The change must be in order.
    pub(crate) fn applied(
        &self,
        old: &Arc<PacketFilter>,
        gone: &BTreeSet<AllowedIp>,
    ) -> (Arc<PacketFilter>, BTreeSet<AllowedIp>) {
        let is_named = |block: &&AllowedIp| old.rules.iter().any(|rule| rule.names(block));
        let mut blocks: BTreeSet<AllowedIp> = gone.iter().filter(is_named).copied().collect();
        let gone: Vec<AllowedIp> = blocks.iter().copied().collect();
        blocks.extend(self.closed.iter().chain(&self.opened).flat_map(|rule| &rule.from));
        if blocks.is_empty() {
            return (Arc::clone(old), blocks);
        }
        let mut filter = PacketFilter::clone(old);
        for rule in &mut filter.rules {
            take_out(&mut rule.from, &gone);
        }
        for closed in &self.closed {
            if let Ok(place) = filter.place_of(&closed.to) {
                take_out(&mut filter.rules[place].from, &closed.from);
            }
        }
        for opened in &self.opened {
            match filter.place_of(&opened.to) {
                Ok(place) => put_in(&mut filter.rules[place].from, &opened.from),
                Err(place) => filter.rules.insert(place, opened.clone()),
            }
        }
        filter.rules.retain(|rule| !rule.from.is_empty());
        (Arc::new(filter), blocks)
    }

    /// Tells whether it is written as [`PacketFilter::canonical`] writes a filter, so that applying it costs no more than
    /// reading it.
    pub(crate) fn is_in_order(&self) -> bool {
        is_in_order(&self.closed) && is_in_order(&self.opened)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.opened.is_empty()
    }

    /// Counts the blocks it names.
    pub(crate) fn blocks(&self) -> usize {
        let rules = self.closed.iter().chain(&self.opened);
        rules.map(|rule| rule.from.len()).sum()
    }
}

impl FilterRule {
    /// Tells whether a rule of a canonical filter names a block, without a look at every one.
    #[must_use]
    pub fn names(&self, block: &AllowedIp) -> bool {
        self.from.binary_search(block).is_ok()
    }
}

fn is_in_order(rules: &[FilterRule]) -> bool {
    rules.is_sorted_by(|a, b| a.to < b.to) && rules.iter().all(|rule| rule.from.is_sorted_by(|a, b| a < b))
}

/// Takes blocks out of others, both in order.
fn take_out(blocks: &mut Vec<AllowedIp>, gone: &[AllowedIp]) {
    if gone.len() > FEW {
        blocks.retain(|block| gone.binary_search(block).is_err());
        return;
    }
    for block in gone {
        if let Ok(place) = blocks.binary_search(block) {
            blocks.remove(place);
        }
    }
}

/// Puts blocks among others, both in order.
fn put_in(blocks: &mut Vec<AllowedIp>, new: &[AllowedIp]) {
    if new.len() > FEW {
        blocks.extend(new);
        blocks.sort_unstable();
        blocks.dedup();
        return;
    }
    for block in new {
        if let Err(place) = blocks.binary_search(block) {
            blocks.insert(place, *block);
        }
    }
}

/// Returns what of a canonical filter is not in another.
fn missing(filter: &PacketFilter, other: &PacketFilter) -> Vec<FilterRule> {
    let blocks_of = |to: &[Ports]| {
        other
            .place_of(to)
            .map_or(&[][..], |place| &other.rules[place].from)
    };
    let rules = filter.rules.iter().map(|rule| {
        let known = blocks_of(&rule.to);
        let mut from = rule.from.clone();
        from.retain(|block| known.binary_search(block).is_err());
        FilterRule {
            from,
            to: rule.to.clone(),
        }
    });
    rules.filter(|rule| !rule.from.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(from: &[&str], to: &[&str]) -> FilterRule {
        FilterRule {
            from: from.iter().map(|block| block.parse().expect("a block")).collect(),
            to: to.iter().map(|ports| ports.parse().expect("ports")).collect(),
        }
    }

    fn filter(rules: &[FilterRule]) -> PacketFilter {
        PacketFilter {
            rules: rules.to_vec(),
        }
    }

    fn applied(change: &FilterChange, old: &PacketFilter) -> PacketFilter {
        let (new, _) = change.applied(&Arc::new(old.clone()), &BTreeSet::new());
        PacketFilter::clone(&new)
    }

    #[test]
    fn few_blocks_and_many_are_put_in_and_taken_out_alike() {
        let block = |number: usize| {
            AllowedIp::host(
                crate::address::host_ip4(number as u32 + 1)
                    .expect("in range")
                    .into(),
            )
        };
        let to = vec!["tcp:22".parse().expect("ports")];
        let rule = |from: Vec<AllowedIp>| vec![FilterRule { from, to: to.clone() }];
        let old = PacketFilter {
            rules: rule((0..200).step_by(2).map(block).collect()),
        };
        for count in [1, FEW, FEW + 1, 60] {
            let change = FilterChange {
                closed: rule((0..count).map(block).collect()),
                opened: rule((100 - count..100).map(block).collect()),
            };
            let new = applied(&change, &old);
            assert!(new.is_canonical());
            let stay = (0..200).filter(|number| number % 2 == 0 && *number >= count);
            let expected: BTreeSet<_> = stay.chain(100 - count..100).map(block).collect();
            assert_eq!(
                new.rules[0].from,
                expected.into_iter().collect::<Vec<_>>(),
                "{count}"
            );
        }
    }

    #[test]
    fn one_filter_is_written_in_one_way() {
        let odd = filter(&[
            rule(&["fd00::2/128", "100.64.0.2/32"], &["tcp:22"]),
            rule(&["0.0.0.0/0"], &["icmp"]),
            rule(&["100.64.0.1/32", "100.64.0.2/32"], &["tcp:22"]),
        ]);
        let one = filter(&[
            rule(&["0.0.0.0/0"], &["icmp"]),
            rule(&["100.64.0.1/32", "100.64.0.2/32", "fd00::2/128"], &["tcp:22"]),
        ]);
        assert_eq!(odd.canonical(), one);
        assert_eq!(one.clone().canonical(), one);
    }

    #[test]
    fn a_change_says_what_is_different_and_nothing_else() {
        let old = filter(&[
            rule(&["0.0.0.0/0"], &["icmp"]),
            rule(&["100.64.0.1/32", "100.64.0.2/32"], &["tcp:22"]),
        ]);
        let new = filter(&[rule(&["100.64.0.2/32", "100.64.0.3/32"], &["tcp:22"])]);
        let change = FilterChange::between(old.clone(), &new);
        let expected = FilterChange {
            closed: vec![
                rule(&["0.0.0.0/0"], &["icmp"]),
                rule(&["100.64.0.1/32"], &["tcp:22"]),
            ],
            opened: vec![rule(&["100.64.0.3/32"], &["tcp:22"])],
        };
        assert_eq!(change, expected);
        assert_eq!(applied(&change, &old), new);
        let text = r#"{"opened":[{"from":["100.64.0.3/32"],"to":["tcp:22"]}]}"#;
        let opened = FilterChange {
            closed: Vec::new(),
            ..change
        };
        assert_eq!(serde_json::to_string(&opened).expect("serializes"), text);
        assert_eq!(
            serde_json::from_str::<FilterChange>(text).expect("own text"),
            opened
        );
        assert!(FilterChange::between(new.clone(), &new).is_empty());
    }
}
