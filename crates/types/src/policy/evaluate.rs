//! What a policy means for a set of nodes: who may reach what, who sees whom, and the packet filter of each.
//!
//! [`Policy::decide`] says it of one pair, grant by grant. [`Evaluation`] says it of a node and all others, by sets of
//! nodes that are made once: what one costs for each pair, the other costs for each 64 nodes.

mod changes;

pub use changes::Changes;

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
    policy: Policy,
    nodes: Vec<Subject>,
    numbers: BTreeMap<NodeId, usize>,
    platforms: Set,
    owned: BTreeMap<UserId, Set>,
    grants: Vec<Reach>,
    /// Every address and whose it is, in the order of a canonical filter.
    blocks: Vec<(AllowedIp, usize)>,
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
        let blocks = nodes.iter().enumerate();
        let blocks = blocks.flat_map(|(number, node)| node.blocks.iter().map(move |block| (*block, number)));
        let mut blocks: Vec<_> = blocks.collect();
        blocks.sort_unstable();
        blocks.dedup();
        Self {
            policy: policy.clone(),
            blocks,
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

    /// Returns what peers may open towards a node, canonical; nothing when there is no such node.
    #[must_use]
    pub fn filter(&self, node: NodeId) -> PacketFilter {
        self.filter_of(node, None)
    }

    /// The filter, or what it says of some nodes and of everybody.
    fn filter_of(&self, node: NodeId, among: Option<&Set>) -> PacketFilter {
        let Some(&number) = self.numbers.get(&node) else {
            return PacketFilter::default();
        };
        let mut to_everybody: Vec<Ports> = Vec::new();
        let mut classes = Classes::of(self.nodes.len());
        for reach in &self.grants {
            if reach.to.has(number) && reach.from_everybody {
                to_everybody.extend(&reach.ports);
                continue;
            }
            let mut sources = self.sources(reach, number);
            sources.remove(number);
            if let Some(among) = among {
                sources.keep_all(among);
            }
            classes.grant(sources, &reach.ports);
        }
        self.compiled(Ports::merged(to_everybody), classes)
    }

    fn compiled(&self, to_everybody: Vec<Ports>, classes: Classes) -> PacketFilter {
        let is_known = |ports: &Ports| to_everybody.contains(&Ports::All) || to_everybody.contains(ports);
        let mut rules: Vec<FilterRule> = Vec::new();
        let of_classes = classes.ports.into_iter().map(|ports| {
            let mut to = Ports::merged(ports);
            to.retain(|ports| !is_known(ports));
            if to.is_empty() {
                return None;
            }
            // Two classes may come to the same ports by different grants.
            let known = rules.iter().position(|rule| rule.to == to);
            let from = Vec::new();
            Some(known.unwrap_or_else(|| {
                rules.push(FilterRule { from, to });
                rules.len() - 1
            }))
        });
        let of_classes: Vec<Option<usize>> = of_classes.collect();
        for (block, source) in &self.blocks {
            if let Some(rule) = of_classes[classes.of[*source]] {
                rules[rule].from.push(*block);
            }
        }
        rules.push(FilterRule {
            from: AllowedIp::everywhere().to_vec(),
            to: to_everybody,
        });
        rules.retain(|rule| !rule.to.is_empty() && !rule.from.is_empty());
        // One of everybody's and one of a class never have the same ports, so nothing is merged here.
        PacketFilter { rules }.canonical()
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

/// Nodes by what they may reach of one node: those of a class may reach the same.
struct Classes {
    /// The class of each node.
    of: Vec<usize>,
    /// What each class may reach; the first nothing.
    ports: Vec<Vec<Ports>>,
}

impl Classes {
    fn of(nodes: usize) -> Self {
        Self {
            of: vec![0; nodes],
            ports: vec![Vec::new()],
        }
    }

    fn grant(&mut self, sources: Set, ports: &[Ports]) {
        let mut moved: BTreeMap<usize, usize> = BTreeMap::new();
        for source in sources.into_members() {
            let before = self.of[source];
            self.of[source] = *moved.entry(before).or_insert_with(|| {
                let both = [&self.ports[before], ports].concat();
                self.ports.push(both);
                self.ports.len() - 1
            });
        }
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
