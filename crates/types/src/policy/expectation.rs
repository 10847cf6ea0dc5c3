//! Tests inside a policy document: what must be accepted and what denied, or the document is not taken.
//!
//! A test speaks of one node of the org by name (`node:laptop`), or of a node that is imagined: one of which nothing is
//! known but the tag, the owner or the kind that the test names. So the tests say the same whatever nodes there are.

use serde::{Deserialize, Serialize};

use super::evaluate::{Decision, Subject};
use super::{Policy, PolicyError, Selector};
use crate::filter::{Protocol, Service};
use crate::ids::NodeId;
use crate::node::NodeKind;

/// One test.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expectation {
    /// Who reaches.
    pub src: Selector,
    /// Whom.
    pub dst: Selector,
    /// How; TCP unless said.
    #[serde(default)]
    pub proto: Protocol,
    /// On which port; none for ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What must come of it.
    pub expect: Expected,
}

/// What a test expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// A grant lets it through.
    Accept,
    /// No grant does.
    Deny,
}

impl Expectation {
    /// Returns what is reached; `None` when protocol and port do not go together.
    #[must_use]
    pub fn service(&self) -> Option<Service> {
        match (self.proto, self.port) {
            (Protocol::Tcp, Some(port)) if port != 0 => Some(Service::Tcp(port)),
            (Protocol::Udp, Some(port)) if port != 0 => Some(Service::Udp(port)),
            (Protocol::Icmp, None) => Some(Service::Icmp),
            _ => None,
        }
    }

    pub(super) fn check(&self, path: &str) -> Result<(), PolicyError> {
        if self.service().is_none() {
            let reason = match self.proto {
                Protocol::Icmp => "icmp has no ports",
                Protocol::Tcp | Protocol::Udp => "a port from 1 to 65535 is needed",
            };
            return Err(PolicyError::new(format!("{path}.port"), reason));
        }
        for (field, selector) in [("src", &self.src), ("dst", &self.dst)] {
            if matches!(selector, Selector::Everybody | Selector::OwnerSelf) {
                let reason = "a test names one kind of node: kind:, tag:, user:, group: or node:";
                return Err(PolicyError::new(format!("{path}.{field}"), reason));
            }
        }
        Ok(())
    }
}

impl Policy {
    /// Runs the tests inside the document against the nodes of an org; returns every one that fails.
    #[must_use]
    pub fn failures(&self, nodes: &[Subject]) -> Vec<PolicyError> {
        let tests = self.tests.iter().enumerate();
        tests
            .filter_map(|(number, test)| self.run(&format!("tests[{number}]"), test, nodes).err())
            .collect()
    }

    fn run(&self, path: &str, test: &Expectation, nodes: &[Subject]) -> Result<(), PolicyError> {
        let service = test
            .service()
            .ok_or_else(|| PolicyError::new(path, "names no port"))?;
        let sources = self.meant(&format!("{path}.src"), &test.src, nodes, 1)?;
        let targets = self.meant(&format!("{path}.dst"), &test.dst, nodes, 2)?;
        for (src, dst) in sources
            .iter()
            .flat_map(|src| targets.iter().map(move |dst| (src, dst)))
        {
            let (reached, by) = match self.decide(src, dst, service) {
                Decision::Accept(by) => (Expected::Accept, Some(by)),
                Decision::Deny => (Expected::Deny, None),
            };
            if reached != test.expect {
                let why = match by {
                    Some(super::Basis::Grant(number)) => format!("grants[{number}] accepts it"),
                    Some(super::Basis::BuiltIn) => "it is built in".to_owned(),
                    None => "no grant accepts it".to_owned(),
                };
                let wanted = if test.expect == Expected::Accept {
                    "accept"
                } else {
                    "deny"
                };
                let reason = format!(
                    "expected {wanted} of {} to {service} of {}, but {why}",
                    test.src, test.dst
                );
                return Err(PolicyError::new(path, reason));
            }
        }
        Ok(())
    }

    /// The nodes a test speaks of: the one of that name, or imagined ones. `mark` keeps the two sides apart.
    fn meant(
        &self,
        path: &str,
        selector: &Selector,
        nodes: &[Subject],
        mark: u8,
    ) -> Result<Vec<Subject>, PolicyError> {
        let blank = Subject {
            id: NodeId::from_random([mark; 16]),
            name: None,
            kind: NodeKind::Device,
            tags: Vec::new(),
            owner: None,
            blocks: Vec::new(),
        };
        let owned = |user| Subject {
            owner: Some(user),
            ..blank.clone()
        };
        Ok(match selector {
            Selector::Node(name) => {
                let named = nodes.iter().find(|node| node.name.as_ref() == Some(name));
                let missing = || PolicyError::new(path, format!("no node of the org is called {name}"));
                vec![named.ok_or_else(missing)?.clone()]
            }
            Selector::Kind(kind) => vec![Subject { kind: *kind, ..blank }],
            Selector::Tag(tag) => vec![Subject {
                tags: vec![tag.0.clone()],
                ..blank
            }],
            Selector::User(user) => vec![owned(*user)],
            Selector::Group(group) => {
                let members = self.groups.get(group).into_iter().flatten();
                let people = members.filter_map(|member| match member {
                    super::PersonSelector::User(user) => Some(owned(*user)),
                    super::PersonSelector::Group(_) => None,
                });
                people.collect()
            }
            Selector::Everybody | Selector::OwnerSelf => Vec::new(),
        })
    }
}
