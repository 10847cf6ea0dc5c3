//! The reference model: what must hold between two nodes once the world is quiet, from the theory of RFC 4787 alone.
//!
//! It knows where nodes are and which relays are up, and nothing of probes, rounds or timers: it is what the product's state
//! machines are held against, and shares no line with them.

use types::{PathKind, PathReason};

use crate::internet::NatId;
use crate::mesh_world::{MeshWorld, NodeNumber};
use crate::nat::{Dependence, NatKind};

/// Whether two nodes can reach each other without a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// They must.
    Must,
    /// By guessing a port, which may fail.
    Guess,
    /// Theory does not decide: it depends on what they learn from others.
    May,
    /// They cannot.
    Never,
}

/// What must hold from the point of view of one node towards another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Whether packets must arrive; `None` when theory does not decide.
    pub connects: Option<bool>,
    /// Whether they can do without a relay.
    pub direct: Direct,
    /// The reasons that may be given while a relay carries.
    pub reasons: Vec<PathReason>,
}

/// How all the NATs on a way behave together.
#[derive(Clone, Copy)]
struct Way {
    is_foretold: bool,
    filtering: Dependence,
}

impl Way {
    fn of(chain: &[(NatId, NatKind)]) -> Self {
        let mapped = chain.iter().map(|(_, kind)| kind.mapping);
        let filtered = chain.iter().map(|(_, kind)| kind.filtering);
        Self {
            is_foretold: mapped.max().unwrap_or(Dependence::EndpointIndependent)
                == Dependence::EndpointIndependent,
            filtering: filtered.max().unwrap_or(Dependence::EndpointIndependent),
        }
    }
}

/// Says what must hold from `a` towards `b`.
#[must_use]
pub fn judge(world: &MeshWorld, a: NodeNumber, b: NodeNumber) -> Verdict {
    let relays_up = world.relays().filter(|(_, is_down)| !is_down).count();
    let is_blocked = |node| world.internet.is_udp_blocked(world.host(node));
    let is_asleep = |node| world.internet.is_offline(world.host(node));
    let has_relay = |node| relays_up > 0 && (!is_blocked(node) || world.has_tls(node));
    let direct = if is_blocked(a) || is_blocked(b) {
        Direct::Never
    } else {
        between(world, a, b)
    };
    let connects = if is_asleep(a) || is_asleep(b) {
        Some(false)
    } else if has_relay(a) && has_relay(b) {
        Some(true)
    } else if direct == Direct::Never {
        Some(false)
    } else if are_on_one_link(world, a, b) {
        Some(true)
    } else {
        // They may know from before where the other is.
        None
    };
    Verdict {
        connects,
        direct,
        reasons: reasons(world, [a, b], direct, relays_up),
    }
}

/// Tells whether a node's view of its path is one that the verdict allows.
#[must_use]
pub fn allows(verdict: &Verdict, kind: Option<PathKind>, reason: PathReason) -> bool {
    match kind {
        Some(PathKind::Direct) => verdict.direct != Direct::Never && reason == PathReason::EndpointAnswered,
        Some(_) => verdict.direct != Direct::Must && verdict.reasons.contains(&reason),
        None => verdict.connects != Some(true),
    }
}

/// Tells whether two nodes hear each other on a link.
fn are_on_one_link(world: &MeshWorld, a: NodeNumber, b: NodeNumber) -> bool {
    let [a, b] = [a, b].map(|node| {
        let chain = world.internet.chain(world.host(node));
        chain.first().map(|(nat, _)| *nat)
    });
    a.is_some() && a == b
}

fn between(world: &MeshWorld, a: NodeNumber, b: NodeNumber) -> Direct {
    let [a, b] = [a, b].map(|node| world.internet.chain(world.host(node)));
    let shared = a.iter().rev().zip(b.iter().rev());
    let shared = shared.take_while(|(one, other)| one.0 == other.0).count();
    let (own_a, own_b) = (&a[..a.len() - shared], &b[..b.len() - shared]);
    if shared == 0 {
        return through(Way::of(own_a), Way::of(own_b));
    }
    if own_a.is_empty() || own_b.is_empty() {
        // One is in a network where the other's packets come by, and says at which address.
        return Direct::Must;
    }
    let hairpins = a.last().is_some_and(|(_, outermost)| outermost.hairpins);
    match through(Way::of(&a), Way::of(&b)) {
        Direct::Must if hairpins => Direct::Must,
        // A third node in the network between may tell one where it sees the other.
        _ => Direct::May,
    }
}

/// Between two nodes each of which knows where relays see the other.
fn through(a: Way, b: Way) -> Direct {
    let lets_any_port_in = |way: Way| way.filtering != Dependence::AddressAndPortDependent;
    match (a.is_foretold, b.is_foretold) {
        (true, true) => Direct::Must,
        (true, false) if lets_any_port_in(a) => Direct::Must,
        (false, true) if lets_any_port_in(b) => Direct::Must,
        (true, false) | (false, true) => Direct::Guess,
        // What is sent in vain to one port may open another.
        (false, false) if lets_any_port_in(a) || lets_any_port_in(b) => Direct::May,
        (false, false) => Direct::Never,
    }
}

fn reasons(world: &MeshWorld, [a, b]: [NodeNumber; 2], direct: Direct, relays_up: usize) -> Vec<PathReason> {
    let is_blocked = |node| world.internet.is_udp_blocked(world.host(node));
    if is_blocked(a) {
        return vec![PathReason::UdpBlocked];
    }
    if is_blocked(b) {
        return vec![PathReason::PeerUdpBlocked];
    }
    let is_foretold = |node| Way::of(&world.internet.chain(world.host(node))).is_foretold;
    let exact = match (is_foretold(a), is_foretold(b)) {
        (true, true) => PathReason::NoAnswer,
        (false, false) => PathReason::SymmetricBoth,
        _ => PathReason::SymmetricOne,
    };
    let mut reasons = vec![exact];
    if matches!(direct, Direct::Guess | Direct::May) {
        reasons.push(PathReason::Probing);
    }
    if relays_up < 2 {
        // One relay sees one port, whatever the NAT does: both are taken for what they may be.
        reasons.extend([
            PathReason::NoAnswer,
            PathReason::SymmetricOne,
            PathReason::SymmetricBoth,
            PathReason::Probing,
        ]);
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{can_be_direct, must_be_guessed};

    fn node(world: &mut MeshWorld, kinds: &[NatKind]) -> NodeNumber {
        let nat = kinds
            .iter()
            .fold(None, |behind, kind| Some(world.internet.add_nat(*kind, behind)));
        let host = world.internet.add_host(nat);
        world.add_node(host)
    }

    #[test]
    fn two_nodes_behind_one_nat_each_are_judged_as_the_table_says() {
        let kinds = [
            NatKind::FULL_CONE,
            NatKind::RESTRICTED,
            NatKind::PORT_RESTRICTED,
            NatKind::SYMMETRIC,
        ];
        for one in kinds {
            for other in kinds {
                let mut world = MeshWorld::new(1);
                world.add_relay();
                let (a, b) = (node(&mut world, &[one]), node(&mut world, &[other]));
                let expected = match (
                    can_be_direct(Some(one), Some(other)),
                    must_be_guessed(Some(one), Some(other)),
                ) {
                    (true, _) => Direct::Must,
                    (_, true) => Direct::Guess,
                    _ => Direct::Never,
                };
                assert_eq!(judge(&world, a, b).direct, expected, "{one:?} {other:?}");
                assert_eq!(judge(&world, b, a).direct, expected, "{other:?} {one:?}");
            }
        }
    }

    #[test]
    fn the_strictest_nat_on_the_way_decides_and_a_shared_network_decides_before_all() {
        let mut world = MeshWorld::new(1);
        let relay = world.add_relay();
        let nested = node(&mut world, &[NatKind::SYMMETRIC, NatKind::FULL_CONE]);
        let strict = node(&mut world, &[NatKind::PORT_RESTRICTED]);
        assert_eq!(judge(&world, nested, strict).direct, Direct::Guess);
        assert_eq!(judge(&world, nested, strict).connects, Some(true));
        let outer = world.internet.add_nat(NatKind::SYMMETRIC, None);
        let inner = world.internet.add_nat(NatKind::SYMMETRIC, Some(outer));
        let hosts = [outer, inner, inner].map(|nat| world.internet.add_host(Some(nat)));
        let [near, deep, deeper] = hosts.map(|host| world.add_node(host));
        assert_eq!(judge(&world, near, deep).direct, Direct::Must);
        assert_eq!(judge(&world, deep, deeper).direct, Direct::Must);
        world.block_udp(deep, true);
        let verdict = judge(&world, deep, deeper);
        assert_eq!(
            (verdict.direct, verdict.reasons),
            (Direct::Never, vec![PathReason::UdpBlocked])
        );
        world.set_tls(deep, false);
        assert_eq!(judge(&world, deeper, deep).connects, Some(false));
        world.set_relay_down(relay, true);
        assert_eq!(judge(&world, near, strict).connects, None);
        let host = world.internet.add_host(Some(outer));
        let neighbour = world.add_node(host);
        assert_eq!(judge(&world, near, neighbour).connects, Some(true));
        world.set_asleep(near, true);
        assert_eq!(judge(&world, near, strict).connects, Some(false));
    }

    #[test]
    fn a_view_is_held_against_kind_and_reason() {
        let verdict = Verdict {
            connects: Some(true),
            direct: Direct::Guess,
            reasons: vec![PathReason::SymmetricOne],
        };
        let relay = Some(PathKind::Relay);
        assert!(allows(&verdict, relay, PathReason::SymmetricOne));
        assert!(!allows(&verdict, relay, PathReason::SymmetricBoth));
        assert!(allows(
            &verdict,
            Some(PathKind::Direct),
            PathReason::EndpointAnswered
        ));
        assert!(!allows(&verdict, None, PathReason::Probing));
        let must = Verdict {
            direct: Direct::Must,
            ..verdict.clone()
        };
        assert!(!allows(&must, relay, PathReason::SymmetricOne));
        let never = Verdict {
            direct: Direct::Never,
            ..verdict
        };
        assert!(!allows(
            &never,
            Some(PathKind::Direct),
            PathReason::EndpointAnswered
        ));
    }
}
