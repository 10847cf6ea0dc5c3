//! Tests of the policy document, and of the evaluation against the one that looks at each pair.

use proptest::prelude::*;

use super::*;
use crate::address::{AllowedIp, host_ip4};
use crate::filter::{FilterChange, PacketFilter, Service};
use crate::ids::{NodeId, UserId};
use crate::node::NodeKind;

fn user(seed: u8) -> UserId {
    UserId::from_random([seed; 16])
}

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text)
}

fn check_refused(text: &str, path: &str, reason: &str) {
    let error = parse(text).expect_err(text);
    assert_eq!(error.path, path, "{error}");
    assert!(error.reason.contains(reason), "{error}");
}

fn grants(grants: &str) -> String {
    format!(r#"{{"grants":[{grants}]}}"#)
}

#[test]
fn the_standard_policy_is_a_document_like_any_other() {
    let standard = Policy::standard();
    assert_eq!(parse(&standard.to_text()).as_ref(), Ok(&standard));
    let value: Value = serde_json::from_str(&standard.to_text()).expect("JSON");
    assert_eq!(value["grants"][0]["ports"][0], "tcp:7420");
    assert_eq!(value["grants"][1]["dst"][0], "owner:self");
}

#[test]
fn errors_say_where_and_what() {
    let at = |field: &str, value: &str| {
        let grant = r#"{"src":["*"],"dst":["*"],"ports":["*"]}"#;
        let spoiled = grant.replace(&format!(r#""{field}":["*"]"#), &format!(r#""{field}":{value}"#));
        grants(&format!("{grant},{spoiled}"))
    };
    check_refused(
        &at("src", r#"["tag:Ci"]"#),
        "grants[1].src[0]",
        "tag: must be lower-case",
    );
    check_refused(
        &at("dst", r#"["*","kind:mac"]"#),
        "grants[1].dst[1]",
        "device, sandbox",
    );
    check_refused(
        &at("src", r#"["user:ada@example.com"]"#),
        "grants[1].src[0]",
        "e-mail",
    );
    check_refused(&at("src", r#"["laptop"]"#), "grants[1].src[0]", "must be *");
    check_refused(&at("src", r#"["owner:self"]"#), "grants[1].src[0]", "dst only");
    check_refused(&at("dst", r#"["owner:me"]"#), "grants[1].dst[0]", "self");
    check_refused(
        &at("dst", r#"["kind:platform"]"#),
        "grants[1].dst[0]",
        "cannot be granted",
    );
    check_refused(
        &at("dst", r#"["group:eng"]"#),
        "grants[1].dst[0]",
        "not among the groups",
    );
    check_refused(&at("ports", r#"["22"]"#), "grants[1].ports[0]", "must be *, icmp");
    check_refused(&at("ports", "[]"), "grants[1].ports", "empty");
    check_refused(&at("src", "[]"), "grants[1].src", "empty");
    check_refused(&at("src", "7"), "grants[1].src", "expected a sequence");
    check_refused(r#"{"grants":[],"acls":[]}"#, "acls", "unknown field");
}

#[test]
fn what_stands_outside_the_grants_is_checked_too() {
    check_refused(r#"[{},{},[],[]]"#, ".", "an object");
    check_refused(
        r#"{"grants":[[["*"],["*"],["*"],null]]}"#,
        "grants[0]",
        "an object",
    );
    check_refused(r"{}", ".", "missing field `grants`");
    check_refused(r#"{"grants":[]} x"#, ".", "trailing");
    check_refused(r#"{"grants":[],"groups":{"eng":[]}}"#, "groups.eng", "must be *");
    check_refused(
        r#"{"grants":[],"groups":{"group:a":["node:x"]}}"#,
        "groups.group:a[0]",
        "person",
    );
    check_refused(
        r#"{"grants":[],"groups":{"group:a":["group:a"]}}"#,
        "groups.group:a[0]",
        "no groups",
    );
    let test = |test: &str| format!(r#"{{"grants":[],"tests":[{test}]}}"#);
    check_refused(
        &test(r#"{"src":"kind:device","dst":"kind:device","expect":"deny"}"#),
        "tests[0].port",
        "needed",
    );
    check_refused(
        &test(r#"{"src":"kind:device","dst":"kind:device","proto":"icmp","port":1,"expect":"deny"}"#),
        "tests[0].port",
        "no ports",
    );
    check_refused(
        &test(r#"{"src":"*","dst":"kind:device","port":1,"expect":"deny"}"#),
        "tests[0].src",
        "one kind of node",
    );
    check_refused(
        &test(r#"{"src":"kind:device","dst":"kind:device","port":1,"expect":"maybe"}"#),
        "tests[0].expect",
        "unknown variant",
    );
}

#[test]
fn every_limit_holds_and_what_is_at_it_passes() {
    let check = |limit: usize, path: &str, document: &dyn Fn(usize) -> Policy| {
        let read = |count| parse(&document(count).to_text());
        assert_eq!(read(limit).map(|_| ()), Ok(()), "{path}");
        let error = read(limit + 1).expect_err(path);
        assert_eq!(error.path, path);
        assert!(error.reason.contains("more than"), "{error}");
    };
    let grant = Policy::standard().grants.remove(1);
    let with_grant = |change: &dyn Fn(&mut Grant)| {
        let mut grant = grant.clone();
        change(&mut grant);
        Policy {
            grants: vec![grant],
            ..Policy::default()
        }
    };
    check(GRANTS_MAX, "grants", &|count| Policy {
        grants: vec![grant.clone(); count],
        ..Policy::default()
    });
    check(SELECTORS_MAX, "grants[0].src", &|count| {
        with_grant(&|grant| grant.src = vec![Selector::Everybody; count])
    });
    check(SELECTORS_MAX, "grants[0].dst", &|count| {
        with_grant(&|grant| grant.dst = vec![Selector::Everybody; count])
    });
    check(PORTS_MAX, "grants[0].ports", &|count| {
        with_grant(&|grant| grant.ports = vec![Ports::Icmp; count])
    });
    let names =
        |prefix: &str, count| -> Vec<String> { (0..count).map(|n| format!("{prefix}:x{n}")).collect() };
    check(NAMES_MAX, "groups", &|count| Policy {
        groups: names("group", count)
            .iter()
            .map(|name| (name.parse().expect("a group"), Vec::new()))
            .collect(),
        ..Policy::default()
    });
    check(NAMES_MAX, "tagOwners", &|count| Policy {
        tag_owners: names("tag", count)
            .iter()
            .map(|name| (name.parse().expect("a tag"), Vec::new()))
            .collect(),
        ..Policy::default()
    });
    let person = PersonSelector::User(user(1));
    check(MEMBERS_MAX, "groups.group:a", &|count| Policy {
        groups: [("group:a".parse().expect("a group"), vec![person.clone(); count])].into(),
        ..Policy::default()
    });
    check(SELECTORS_MAX, "tagOwners.tag:a", &|count| Policy {
        tag_owners: [("tag:a".parse().expect("a tag"), vec![person.clone(); count])].into(),
        ..Policy::default()
    });
    let test = Expectation {
        src: Selector::Kind(NodeKind::Device),
        dst: Selector::Kind(NodeKind::Device),
        proto: crate::Protocol::Tcp,
        port: Some(1),
        expect: Expected::Deny,
    };
    check(TESTS_MAX, "tests", &|count| Policy {
        tests: vec![test.clone(); count],
        ..Policy::default()
    });
}

#[test]
fn a_document_is_not_larger_than_it_may_be() {
    let padded = |len: usize| {
        let text = r#"{"grants":[]}"#;
        format!("{text}{}", " ".repeat(len - text.len()))
    };
    assert!(parse(&padded(DOCUMENT_BYTES_MAX)).is_ok());
    check_refused(&padded(DOCUMENT_BYTES_MAX + 1), ".", "larger than");
}

fn node(seed: u8, kind: NodeKind, tags: &[&str], owner: Option<u8>) -> Subject {
    let address = host_ip4(u32::from(seed) + 1).expect("in range");
    Subject {
        id: NodeId::from_random([seed; 16]),
        name: format!("n{seed}").parse().ok(),
        kind,
        tags: tags.iter().map(|tag| tag.parse().expect("a label")).collect(),
        owner: owner.map(user),
        blocks: vec![AllowedIp::host(address.into())],
    }
}

#[test]
fn by_the_standard_policy_a_device_reaches_its_owners_nodes_and_nobody_else() {
    let policy = Policy::standard();
    let (platform, mine, also_mine, yours) = (
        node(0, NodeKind::Platform, &[], None),
        node(1, NodeKind::Device, &[], Some(1)),
        node(2, NodeKind::Sandbox, &[], Some(1)),
        node(3, NodeKind::Device, &[], Some(2)),
    );
    let ssh = Service::Tcp(22);
    let dispatch = Service::Tcp(DISPATCH_PORT);
    let by = |number| Decision::Accept(Basis::Grant(number));
    assert_eq!(policy.decide(&mine, &also_mine, ssh), by(1));
    assert_eq!(
        policy.decide(&also_mine, &mine, ssh),
        Decision::Deny,
        "a sandbox reaches nobody"
    );
    assert_eq!(policy.decide(&mine, &yours, ssh), Decision::Deny);
    assert_eq!(policy.decide(&mine, &mine, ssh), Decision::Deny);
    assert_eq!(policy.decide(&platform, &yours, dispatch), by(0));
    assert_eq!(policy.decide(&platform, &yours, ssh), Decision::Deny);
    assert_eq!(
        policy.decide(&yours, &platform, dispatch),
        Decision::Accept(Basis::BuiltIn)
    );
    assert_eq!(policy.decide(&yours, &platform, ssh), Decision::Deny);
    let nodes = vec![platform, mine, also_mine, yours];
    let evaluation = Evaluation::new(&policy, nodes);
    let peers = |seed: u8| {
        evaluation
            .peers(NodeId::from_random([seed; 16]))
            .collect::<Vec<_>>()
    };
    assert_eq!((peers(1), peers(2), peers(3)), (vec![0, 2], vec![0, 1], vec![0]));
    assert_eq!(peers(9), Vec::<usize>::new(), "nobody knows it");
}

#[test]
fn nodes_without_an_owner_have_no_owner_in_common() {
    let policy = Policy::standard();
    let (a, b) = (
        node(1, NodeKind::Device, &[], None),
        node(2, NodeKind::Device, &[], None),
    );
    assert_eq!(policy.decide(&a, &b, Service::Icmp), Decision::Deny);
    let (a_id, evaluation) = (a.id, Evaluation::new(&policy, vec![a, b]));
    assert_eq!(evaluation.peers(a_id).count(), 0);
}

#[test]
fn whoever_owns_a_tag_may_give_it() {
    let policy = parse(&format!(
        r#"{{"groups":{{"group:eng":["user:{}"]}},"tagOwners":{{"tag:ci":["group:eng","user:{}"]}},"grants":[]}}"#,
        user(1),
        user(2)
    ))
    .expect("a policy");
    let tag = |text: &str| text.parse().expect("a label");
    assert!(policy.may_tag(user(1), &tag("ci")));
    assert!(policy.may_tag(user(2), &tag("ci")));
    assert!(!policy.may_tag(user(3), &tag("ci")));
    assert!(!policy.may_tag(user(1), &tag("prod")), "nobody owns it");
}

#[test]
fn tests_inside_the_document_speak_of_named_and_of_imagined_nodes() {
    let document = |expect: &str| {
        format!(
            r#"{{"groups":{{"group:eng":["user:{ada}","user:{bob}"]}},
                "grants":[{{"src":["group:eng"],"dst":["tag:ci"],"ports":["tcp:22"]}},
                          {{"src":["user:{ada}"],"dst":["node:n1"],"ports":["icmp"]}}],
                "tests":[{expect}]}}"#,
            ada = user(1),
            bob = user(2)
        )
    };
    let nodes = [
        node(1, NodeKind::Device, &["ci"], Some(1)),
        node(2, NodeKind::Device, &[], Some(2)),
    ];
    let failures = |test: &str| {
        let policy = parse(&document(test)).expect("a policy");
        let failures = policy.failures(&nodes).into_iter();
        failures.map(|failure| failure.to_string()).collect::<Vec<_>>()
    };
    let ok = Vec::<String>::new();
    assert_eq!(
        failures(r#"{"src":"group:eng","dst":"tag:ci","port":22,"expect":"accept"}"#),
        ok
    );
    assert_eq!(
        failures(r#"{"src":"node:n2","dst":"node:n1","port":22,"expect":"accept"}"#),
        ok
    );
    assert_eq!(
        failures(r#"{"src":"kind:device","dst":"tag:ci","port":22,"expect":"deny"}"#),
        ok
    );
    assert_eq!(
        failures(r#"{"src":"group:eng","dst":"node:n1","proto":"icmp","expect":"accept"}"#),
        ["tests[0]: expected accept of group:eng to icmp of node:n1, but no grant accepts it"]
    );
    assert_eq!(
        failures(r#"{"src":"group:eng","dst":"tag:ci","port":22,"expect":"deny"}"#),
        ["tests[0]: expected deny of group:eng to tcp:22 of tag:ci, but grants[0] accepts it"]
    );
    assert_eq!(
        failures(r#"{"src":"node:gone","dst":"tag:ci","port":22,"expect":"deny"}"#),
        ["tests[0].src: no node of the org is called gone"]
    );
    assert_eq!(
        failures(r#"{"src":"kind:sandbox","dst":"kind:platform","port":7420,"expect":"deny"}"#),
        ["tests[0]: expected deny of kind:sandbox to tcp:7420 of kind:platform, but it is built in"]
    );
}

fn any_selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        Just("*".to_owned()),
        "kind:(device|sandbox|platform)",
        "tag:[ab]",
        (0..3_u8).prop_map(|seed| format!("user:{}", user(seed))),
        "group:[ab]",
        "node:n[0-9]",
    ]
    .prop_map(|text| text.parse().expect("a selector"))
}

fn any_ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        Just("*".to_owned()),
        Just("icmp".to_owned()),
        "(tcp|udp):[1-4]",
        "(tcp|udp):[12]-[34]",
    ]
    .prop_map(|text| text.parse().expect("ports"))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let dst = prop_oneof![4 => any_selector(), 1 => Just(Selector::OwnerSelf)];
    let grant = (
        prop::collection::vec(any_selector(), 1..3),
        prop::collection::vec(dst, 1..3),
        prop::collection::vec(any_ports(), 1..3),
    );
    let grant = grant.prop_map(|(src, dst, ports)| Grant {
        src,
        dst,
        ports,
        comment: None,
    });
    let members = || prop::collection::vec((0..3_u8).prop_map(|seed| PersonSelector::User(user(seed))), 0..3);
    (prop::collection::vec(grant, 0..5), members(), members()).prop_map(|(grants, a, b)| Policy {
        groups: [("group:a", a), ("group:b", b)]
            .map(|(name, members)| (name.parse().expect("a group"), members))
            .into(),
        grants,
        ..Policy::default()
    })
}

fn any_nodes() -> impl Strategy<Value = Vec<Subject>> {
    let kind = prop_oneof![
        6 => Just(NodeKind::Device),
        3 => Just(NodeKind::Sandbox),
        1 => Just(NodeKind::Platform)
    ];
    let one = (kind, any::<[bool; 2]>(), prop::option::of(0..3_u8));
    prop::collection::vec(one, 1..80).prop_map(|drawn| {
        let nodes = (0_u8..).zip(drawn).map(|(seed, (kind, tags, owner))| {
            let tags: Vec<&str> = ["a", "b"]
                .into_iter()
                .zip(tags)
                .filter_map(|(tag, has)| has.then_some(tag))
                .collect();
            node(seed, kind, &tags, owner.filter(|_| kind != NodeKind::Platform))
        });
        nodes.collect()
    })
}

fn passes(filter: &PacketFilter, from: &Subject, service: Service) -> bool {
    let source = from.blocks[0].address();
    filter.rules.iter().any(|rule| {
        rule.from.iter().any(|block| block.contains(source))
            && rule.to.iter().any(|ports| ports.covers(service))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_evaluation_says_what_a_look_at_every_pair_says(policy in any_policy(), nodes in any_nodes()) {
        let evaluation = Evaluation::new(&policy, nodes.clone());
        let services: Vec<Service> = (1..6)
            .flat_map(|port| [Service::Tcp(port), Service::Udp(port)])
            .chain([Service::Icmp, Service::Tcp(DISPATCH_PORT)])
            .collect();
        for dst in &nodes {
            let filter = evaluation.filter(dst.id);
            let seen: Vec<usize> = evaluation.peers(dst.id).collect();
            for (number, src) in nodes.iter().enumerate().filter(|(_, src)| src.id != dst.id) {
                let may = |a: &Subject, b: &Subject| {
                    services.iter().any(|service| policy.decide(a, b, *service) != Decision::Deny)
                };
                prop_assert_eq!(seen.contains(&number), may(src, dst) || may(dst, src));
                if dst.kind == NodeKind::Platform {
                    continue;
                }
                for service in &services {
                    let accepted = policy.decide(src, dst, *service) != Decision::Deny;
                    prop_assert_eq!(passes(&filter, src, *service), accepted, "{:?} {:?} {}", src, dst, service);
                }
                let reached = evaluation.reached_by(src.id).any(|place| nodes[place].id == dst.id);
                prop_assert_eq!(reached, may(src, dst));
            }
            prop_assert!(!seen.iter().any(|number| nodes[*number].id == dst.id));
        }
    }

    #[test]
    fn filters_of_one_policy_differ_by_what_they_say_of_nodes_that_changed(
        policy in any_policy(),
        nodes in any_nodes(),
        others in any_nodes(),
        stays in proptest::collection::vec(any::<bool>(), 32),
    ) {
        let later = nodes.iter().zip(stays).filter(|(_, stays)| *stays).map(|(node, _)| node.clone());
        let known: Vec<_> = later.collect();
        let is_new = |node: &&Subject| known.iter().all(|known| known.id != node.id);
        let later: Vec<_> = known.iter().chain(others.iter().filter(is_new)).cloned().collect();
        let (before, after) = (Evaluation::new(&policy, nodes.clone()), Evaluation::new(&policy, later.clone()));
        let changes = after.changes_since(&before).expect("one policy");
        for node in &known {
            prop_assert!(!changes.include(node.id));
            let whole = FilterChange::between(before.filter(node.id), &after.filter(node.id));
            let part = |evaluation: &Evaluation| evaluation.filter_among(node.id, &changes);
            prop_assert_eq!(FilterChange::between(part(&before), &part(&after)), whole);
        }
        let is_same = |node: &Subject| nodes.contains(node) && later.contains(node);
        for node in nodes.iter().chain(&later) {
            prop_assert_eq!(changes.include(node.id), !is_same(node));
        }
        let mut other = policy.clone();
        other.grants.push(policy.grants.first().cloned().unwrap_or_else(|| Policy::standard().grants[0].clone()));
        prop_assert!(Evaluation::new(&other, later).changes_since(&before).is_none());
    }

    #[test]
    fn a_document_survives_its_own_text(policy in any_policy()) {
        let allowed = policy.grants.iter().all(|grant| {
            !grant.dst.contains(&Selector::Kind(NodeKind::Platform))
        });
        let read = Policy::parse(&policy.to_text());
        prop_assert_eq!(read.is_ok(), allowed);
        if allowed {
            prop_assert_eq!(read.expect("just seen"), policy);
        }
    }
}
