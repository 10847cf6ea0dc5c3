//! What is wrong in a delta is found by holding what it brings against the rest, as by looking at the whole netmap.

use proptest::sample::Index;

use super::*;

/// Something that is made wrong in a delta, or may be right.
#[derive(Clone, Debug)]
enum Spoil {
    /// A record gets the key, the name or the addresses of a node.
    Key(Index, Index),
    Name(Index, Index),
    Addresses(Index, Index),
    /// A record loses its signature.
    Unsigned(Index),
    /// A record names too much.
    Endpoints(Index),
    /// The filter lets in whoever has a node's addresses, or a stranger's.
    Opened(Index),
    OpenedToStranger,
    /// The node gets the name of another.
    Own(Index),
    /// A relay is named twice.
    Relays,
}

fn any_spoil() -> impl Strategy<Value = Spoil> {
    let index = any::<Index>;
    prop_oneof![
        (index(), index()).prop_map(|(record, of)| Spoil::Key(record, of)),
        (index(), index()).prop_map(|(record, of)| Spoil::Name(record, of)),
        (index(), index()).prop_map(|(record, of)| Spoil::Addresses(record, of)),
        index().prop_map(Spoil::Unsigned),
        index().prop_map(Spoil::Endpoints),
        index().prop_map(Spoil::Opened),
        Just(Spoil::OpenedToStranger),
        index().prop_map(Spoil::Own),
        Just(Spoil::Relays),
    ]
}

impl Spoil {
    /// Spoils a delta; the nodes to take from are those of both netmaps, and the node itself.
    fn act(&self, delta: &mut NetmapDelta, (old, new): (&Netmap, &Netmap)) {
        let nodes: Vec<_> = old.peers.iter().chain(&new.peers).collect();
        let other = |index: &Index| PeerRecord::clone(nodes[index.index(nodes.len())]);
        let change = |delta: &mut NetmapDelta, index: &Index, act: &dyn Fn(&mut PeerRecord)| {
            if !delta.upserted.is_empty() {
                let place = index.index(delta.upserted.len());
                let record = Arc::make_mut(&mut delta.upserted[place]);
                act(record);
                record.sign(org(), &org_key());
            }
        };
        match self {
            Self::Key(record, of) => {
                change(delta, record, &|record| record.public_key = other(of).public_key)
            }
            Self::Name(record, of) => change(delta, record, &|record| record.name = other(of).name),
            Self::Addresses(record, of) => {
                change(delta, record, &|record| {
                    record.allowed_ips = other(of).allowed_ips
                });
            }
            Self::Unsigned(record) => {
                if !delta.upserted.is_empty() {
                    let place = record.index(delta.upserted.len());
                    Arc::make_mut(&mut delta.upserted[place]).signatures.clear();
                }
            }
            Self::Endpoints(record) => change(delta, record, &|record| {
                record.endpoints = vec!["192.0.2.1:4000".to_owned(); 17];
            }),
            Self::Opened(of) => open(delta, other(of).allowed_ips),
            Self::OpenedToStranger => open(delta, vec!["10.9.9.9/32".parse().expect("a block")]),
            Self::Own(of) => {
                let name = other(of).name;
                let node = delta.node.as_ref().unwrap_or(&old.node).clone();
                delta.node = Some(SelfRecord { name, ..node });
            }
            Self::Relays => delta.relays = Some(vec![relay(1), relay(1)]),
        }
    }
}

fn open(delta: &mut NetmapDelta, mut from: Vec<AllowedIp>) {
    from.sort_unstable();
    let to = vec!["tcp:9".parse().expect("ports")];
    delta.filter.opened.push(FilterRule { from, to });
    delta.filter.opened.sort_by(|a, b| a.to.cmp(&b.to));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_delta_is_taken_or_refused_as_the_whole_netmap_would_be(
        history in any_history(),
        spoils in proptest::collection::vec(proptest::collection::vec(any_spoil(), 0..3), 8),
    ) {
        let mut node = in_force(&netmap(1, &history[0]));
        for (generation, (moment, spoils)) in (2..).zip(history[1..].iter().zip(&spoils)) {
            let (old, new) = (Netmap::clone(node.map()), netmap(generation, moment));
            let Difference::Delta(mut delta) = Difference::between(&old, &new) else {
                continue;
            };
            let good = delta.clone();
            for spoil in spoils {
                spoil.act(&mut delta, (&old, &new));
            }
            let amended = node.amended(&delta, &pins());
            let whole = old.unchecked(&delta).map(|made| made.map);
            let whole = whole.and_then(|map| map.verify(&pins(), Some(&old)).map(|()| map));
            match (amended, whole) {
                (Ok(amended), Ok(whole)) => {
                    prop_assert_eq!(&**amended.map(), &whole);
                    node.put(amended);
                }
                (Err(amended), Err(whole)) => {
                    let kind = std::mem::discriminant::<NetmapError>;
                    prop_assert_eq!(kind(&amended), kind(&whole), "{} and {}", amended, whole);
                    put(&mut node, &good);
                }
                (amended, whole) => prop_assert!(false, "{amended:?}, but {whole:?}"),
            }
        }
    }
}
