//! What is different between two packet filters of one node, as far as a netmap delta must say it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{FilterRule, PacketFilter, Ports};
use crate::address::AllowedIp;

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

    /// Makes the new filter out of the old one, which is canonical. The change must be in order.
    pub(crate) fn applied(&self, mut filter: PacketFilter) -> PacketFilter {
        if self.is_empty() {
            return filter;
        }
        for closed in &self.closed {
            if let Ok(place) = filter.rules.binary_search_by(|rule| rule.to.cmp(&closed.to)) {
                let gone = |block: &AllowedIp| closed.from.binary_search(block).is_ok();
                filter.rules[place].from.retain(|block| !gone(block));
            }
        }
        filter.rules.extend(self.opened.iter().cloned());
        filter.canonical()
    }

    /// Tells whether it is written as [`PacketFilter::canonical`] writes a filter, so that applying it costs no more than
    /// reading it.
    pub(crate) fn is_in_order(&self) -> bool {
        let in_order = |rules: &Vec<FilterRule>| {
            rules.is_sorted_by(|a, b| a.to < b.to)
                && rules.iter().all(|rule| rule.from.is_sorted_by(|a, b| a < b))
        };
        in_order(&self.closed) && in_order(&self.opened)
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

/// Returns what of a canonical filter is not in another.
fn missing(filter: &PacketFilter, other: &PacketFilter) -> Vec<FilterRule> {
    let blocks_of = |to: &[Ports]| {
        let place = other.rules.binary_search_by(|rule| rule.to.as_slice().cmp(to));
        place.map_or(&[][..], |place| &other.rules[place].from)
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
        assert_eq!(change.applied(old), new);
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
