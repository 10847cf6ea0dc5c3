//! What a policy means for a set of nodes: who may reach what, who sees whom, and the packet filter of each.
//!
//! [`Policy::decide`] says it of one pair, grant by grant. [`Evaluation`] says it of a node and all others, by sets of
//! nodes that are made once: what one costs for each pair, the other costs for each 64 nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{DISPATCH_PORT, Grant, Policy, Selector};
use crate::address::AllowedIp;
use crate::filter::{FilterRule, PacketFilter, Ports, Service};
use crate::ids::{NodeId, UserId};
use crate::names::{Label, NodeName};
use crate::node::NodeKind;

/// What a policy knows of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Its id.
    pub id: NodeId,
    /// Its name; none of a node that is only imagined.
    pub name: Option<NodeName>,
    /// What it is.
    pub kind: NodeKind,
    /// Its tags.
    pub tags: Vec<Label>,
    /// Whose it is.
    pub owner: Option<UserId>,
    /// From which addresses it sends.
    pub blocks: Vec<AllowedIp>,
}

/// Whether a node may reach something of another, and by what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It may.
    Accept(Basis),
    /// It may not: no grant says so.
    Deny,
}

/// What lets something through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Basis {
    /// What holds in every org: each node reaches the dispatch port of the platform's node.
    BuiltIn,
    /// The grant of this number, counted from 0; of several the first.
    Grant(usize),
}

impl Policy {
    /// Says whether `src` may reach `service` of `dst`, and by what.
    #[must_use]
    pub fn decide(&self, src: &Subject, dst: &Subject, service: Service) -> Decision {
        if src.id == dst.id {
            return Decision::Deny;
        }
        if dst.kind == NodeKind::Platform {
            return if service == Service::Tcp(DISPATCH_PORT) {
                Decision::Accept(Basis::BuiltIn)
            } else {
                Decision::Deny
            };
        }
        let opens = |grant: &Grant| {
            grant.ports.iter().any(|ports| ports.covers(service)) && self.joins(grant, src, dst)
        };
        let grant = self.grants.iter().position(opens);
        grant.map_or(Decision::Deny, |number| Decision::Accept(Basis::Grant(number)))
    }

    fn joins(&self, grant: &Grant, src: &Subject, dst: &Subject) -> bool {
        let is_src = grant.src.iter().any(|selector| selector.names(src, &self.groups));
        let has_same_owner = src.owner.is_some() && src.owner == dst.owner;
        let is_dst = |selector: &Selector| {
            selector.names(dst, &self.groups) || (*selector == Selector::OwnerSelf && has_same_owner)
        };
        is_src && grant.dst.iter().any(is_dst)
    }
}

/// A policy, applied to every node of an org at one moment.
#[derive(Clone, Debug)]
pub struct Evaluation {
    nodes: Vec<Subject>,
    numbers: BTreeMap<NodeId, usize>,
    platforms: Set,
    owned: BTreeMap<UserId, Set>,
    grants: Vec<Reach>,
}

/// A grant, with the nodes that it names.
#[derive(Clone, Debug)]
struct Reach {
    from: Set,
    from_everybody: bool,
    to: Set,
    to_own: bool,
    ports: Vec<Ports>,
}

impl Evaluation {
    /// Applies `policy` to `nodes`; of two with one id the later counts.
    #[must_use]
    pub fn new(policy: &Policy, nodes: Vec<Subject>) -> Self {
        let pick = |wanted: &dyn Fn(&Subject) -> bool| Set::of(&nodes, wanted);
        let numbers = nodes.iter().enumerate().map(|(number, node)| (node.id, number));
        let numbers = numbers.collect();
        let platforms = pick(&|node| node.kind == NodeKind::Platform);
        let mut owned: BTreeMap<UserId, Set> = BTreeMap::new();
        for (number, node) in nodes.iter().enumerate() {
            if let Some(owner) = node.owner {
                let set = owned.entry(owner).or_insert_with(|| Set::empty(nodes.len()));
                set.insert(number);
            }
        }
        let grants = policy.grants.iter().map(|grant| {
            let named = |selectors: &[Selector]| {
                pick(&|node| selectors.iter().any(|s| s.names(node, &policy.groups)))
            };
            let mut to = named(&grant.dst);
            to.remove_all(&platforms);
            Reach {
                from: named(&grant.src),
                from_everybody: grant.src.contains(&Selector::Everybody),
                to,
                to_own: grant.dst.contains(&Selector::OwnerSelf),
                ports: grant.ports.clone(),
            }
        });
        let grants = grants.collect();
        Self {
            grants,
            platforms,
            owned,
            numbers,
            nodes,
        }
    }

    /// Returns the nodes, in the order they were given.
    #[must_use]
    pub fn nodes(&self) -> &[Subject] {
        &self.nodes
    }

    /// Returns whom a node sees, by their place in [`Evaluation::nodes`]: whom it may reach, who may reach it, and the
    /// platform. Nobody when there is no such node.
    pub fn peers(&self, node: NodeId) -> impl Iterator<Item = usize> + '_ {
        self.numbers
            .get(&node)
            .map(|number| self.seen_by(*number))
            .into_iter()
            .flat_map(Set::into_members)
    }

    /// Returns whom a node may reach by some grant, by their place in [`Evaluation::nodes`]; the platform is not among them.
    pub fn reached_by(&self, node: NodeId) -> impl Iterator<Item = usize> + '_ {
        self.numbers
            .get(&node)
            .map(|number| self.targets(*number))
            .into_iter()
            .flat_map(Set::into_members)
    }

    /// Returns what peers may open towards a node; nothing when there is no such node.
    #[must_use]
    pub fn filter(&self, node: NodeId) -> PacketFilter {
        let Some(&number) = self.numbers.get(&node) else {
            return PacketFilter::default();
        };
        let mut to_everybody: Vec<Ports> = Vec::new();
        let mut by_source: BTreeMap<usize, Vec<Ports>> = BTreeMap::new();
        for reach in &self.grants {
            let is_named = reach.to.has(number);
            if is_named && reach.from_everybody {
                to_everybody.extend(&reach.ports);
                continue;
            }
            for source in self.sources(reach, number).into_members() {
                by_source.entry(source).or_default().extend(&reach.ports);
            }
        }
        self.compiled(number, Ports::merged(to_everybody), by_source)
    }

    fn compiled(
        &self,
        own: usize,
        to_everybody: Vec<Ports>,
        by_source: BTreeMap<usize, Vec<Ports>>,
    ) -> PacketFilter {
        let is_known = |ports: &Ports| to_everybody.contains(&Ports::All) || to_everybody.contains(ports);
        let mut by_ports: BTreeMap<Vec<Ports>, Vec<AllowedIp>> = BTreeMap::new();
        for (source, ports) in by_source {
            let mut ports = Ports::merged(ports);
            ports.retain(|ports| !is_known(ports));
            if source != own && !ports.is_empty() {
                let blocks = by_ports.entry(ports).or_default();
                blocks.extend(&self.nodes[source].blocks);
            }
        }
        let everybody = FilterRule {
            from: AllowedIp::everywhere().to_vec(),
            to: to_everybody,
        };
        let of_some = by_ports.into_iter().map(|(to, from)| FilterRule { from, to });
        let rules = std::iter::once(everybody).chain(of_some);
        PacketFilter {
            rules: rules
                .filter(|rule| !rule.to.is_empty() && !rule.from.is_empty())
                .collect(),
        }
    }

    /// Whom a grant lets reach a node.
    fn sources(&self, reach: &Reach, number: usize) -> Set {
        if reach.to.has(number) {
            return reach.from.clone();
        }
        let own = reach.to_own.then(|| self.siblings(number)).flatten();
        let mut sources = own.cloned().unwrap_or_else(|| Set::empty(self.nodes.len()));
        sources.keep_all(&reach.from);
        sources
    }

    fn siblings(&self, number: usize) -> Option<&Set> {
        if self.platforms.has(number) {
            return None;
        }
        self.owned.get(&self.nodes[number].owner?)
    }

    fn targets(&self, number: usize) -> Set {
        let mut targets = Set::empty(self.nodes.len());
        for reach in self.grants.iter().filter(|reach| reach.from.has(number)) {
            targets.insert_all(&reach.to);
            if let Some(own) = self.siblings(number).filter(|_| reach.to_own) {
                targets.insert_all(own);
            }
        }
        targets.remove(number);
        targets
    }

    fn seen_by(&self, number: usize) -> Set {
        if self.platforms.has(number) {
            return Set::of(&self.nodes, &|node| node.id != self.nodes[number].id);
        }
        let mut seen = self.targets(number);
        for reach in &self.grants {
            seen.insert_all(&self.sources(reach, number));
        }
        seen.insert_all(&self.platforms);
        seen.remove(number);
        seen
    }

    /// Returns every place in [`Evaluation::nodes`] whose node sees `node`, or saw it if it were there.
    #[must_use]
    pub fn seers(&self, node: NodeId) -> BTreeSet<NodeId> {
        // Seeing is mutual: who may reach a node must know its key, and the other way round.
        self.peers(node).map(|number| self.nodes[number].id).collect()
    }
}

/// Some of the nodes, one bit each.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Set(Vec<u64>);

impl Set {
    fn empty(nodes: usize) -> Self {
        Self(vec![0; nodes.div_ceil(64)])
    }

    fn of(nodes: &[Subject], wanted: &dyn Fn(&Subject) -> bool) -> Self {
        let mut set = Self::empty(nodes.len());
        for (number, _) in nodes.iter().enumerate().filter(|(_, node)| wanted(node)) {
            set.insert(number);
        }
        set
    }

    fn has(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }

    fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    fn insert_all(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    fn remove_all(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= !other;
        }
    }

    fn keep_all(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
    }

    fn into_members(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(index, word)| {
            (0..64)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| index * 64 + bit)
        })
    }
}
