//! The policy of an org: a document that grants some nodes some ports of others. What no grant says is denied.
//!
//! This file is the document, its limits and its check; `selector` is how it names nodes and people, `evaluate` what it
//! means for a set of nodes, `expectation` the tests inside the document.

mod evaluate;
mod expectation;
mod node_keys;
mod selector;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::filter::{PortRange, Ports};
use crate::names::DisplayText;

pub use evaluate::{Basis, Changes, Decision, Evaluation, Subject};
pub use expectation::{Expectation, Expected};
pub use node_keys::{KeyLife, NodeKeyRules, OVERLAP, is_over};
pub use selector::{GroupRef, PersonSelector, Selector, SelectorError, TagRef};

/// The largest document, in bytes of JSON.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// The most grants of one document.
pub const GRANTS_MAX: usize = 256;

/// The most selectors of one list.
pub const SELECTORS_MAX: usize = 64;

/// The most entries of one grant's `ports`.
pub const PORTS_MAX: usize = 16;

/// The most groups, and the most tags with owners.
pub const NAMES_MAX: usize = 256;

/// The most people in one group.
pub const MEMBERS_MAX: usize = 256;

/// The most tests inside one document.
pub const TESTS_MAX: usize = 256;

/// The TCP port on which the two ends of a dispatch session meet inside the mesh.
///
/// Every node reaches it at the platform's node of its org, whatever the document says: it is how work comes.
pub const DISPATCH_PORT: u16 = 7420;

/// Who may reach what in an org.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Policy {
    /// People under one name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<GroupRef, Vec<PersonSelector>>,
    /// Who but admins may give a tag to nodes of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tag_owners: BTreeMap<TagRef, Vec<PersonSelector>>,
    /// How the keys of nodes change.
    #[serde(default, skip_serializing_if = "NodeKeyRules::is_empty")]
    pub node_keys: NodeKeyRules,
    /// Each lets something through; their order means nothing.
    pub grants: Vec<Grant>,
    /// What must hold, or the document is not accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<Expectation>,
}

/// Lets some nodes reach some ports of others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Grant {
    /// Which nodes.
    pub src: Vec<Selector>,
    /// Of which nodes.
    pub dst: Vec<Selector>,
    /// Which ports.
    pub ports: Vec<Ports>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<DisplayText>,
}

/// Why a document is no policy: where in it, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct PolicyError {
    /// Such as `grants[3].dst[0]`; `.` for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

impl PolicyError {
    fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

impl Policy {
    /// Reads a document and checks it, all but the tests inside it, which need the org's nodes.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        at_most_bytes(text.len())?;
        let value = serde_json::from_str(text);
        Self::from_value(value.map_err(|error| PolicyError::new(".", error.to_string()))?)
    }

    /// The same, of a document that was read as JSON.
    pub fn from_value(value: Value) -> Result<Self, PolicyError> {
        at_most_bytes(value.to_string().len())?;
        // Serde takes a list for an object, its fields in their order.
        let is_list = |value: &Value| value.is_array();
        let of = |field| value.get(field).and_then(Value::as_array).into_iter().flatten();
        if is_list(&value) {
            return Err(PolicyError::new(".", "must be an object"));
        }
        if value.get("nodeKeys").is_some_and(is_list) {
            return Err(PolicyError::new("nodeKeys", "must be an object"));
        }
        for field in ["grants", "tests"] {
            if let Some(at) = of(field).position(is_list) {
                return Err(PolicyError::new(format!("{field}[{at}]"), "must be an object"));
            }
        }
        let policy: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            PolicyError::new(path, error.into_inner().to_string())
        })?;
        policy.check()?;
        Ok(policy)
    }

    /// Returns what holds in an org that has said nothing: the platform reaches every node's dispatch port, and a person's
    /// devices reach that person's nodes.
    #[must_use]
    pub fn standard() -> Self {
        let comment = |text: &str| Some(text.parse().expect("a printable constant"));
        let dispatch = PortRange::new(DISPATCH_PORT, DISPATCH_PORT).expect("a port");
        let from_platform = Grant {
            src: vec![Selector::Kind(crate::NodeKind::Platform)],
            dst: vec![Selector::Everybody],
            ports: vec![Ports::Tcp(dispatch)],
            comment: comment("the orchestrator reaches every sidecar"),
        };
        let among_own = Grant {
            src: vec![Selector::Kind(crate::NodeKind::Device)],
            dst: vec![Selector::OwnerSelf],
            ports: vec![Ports::All],
            comment: comment("a person's devices reach that person's nodes"),
        };
        Self {
            grants: vec![from_platform, among_own],
            ..Self::default()
        }
    }

    /// Writes the document as it is stored and shown.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a policy has only string keys")
    }

    /// Tells whether a person may give `tag` to a node of their own without being an admin.
    #[must_use]
    pub fn may_tag(&self, person: crate::UserId, tag: &crate::Label) -> bool {
        let owners = self.tag_owners.get(tag.as_str());
        owners.is_some_and(|owners| owners.iter().any(|owner| owner.holds(person, &self.groups)))
    }

    /// Checks what the shape of the document does not: its limits, and that what it names is there.
    fn check(&self) -> Result<(), PolicyError> {
        at_most("groups", self.groups.len(), NAMES_MAX)?;
        at_most("tagOwners", self.tag_owners.len(), NAMES_MAX)?;
        at_most("grants", self.grants.len(), GRANTS_MAX)?;
        at_most("tests", self.tests.len(), TESTS_MAX)?;
        self.node_keys.check()?;
        for (group, members) in &self.groups {
            let path = format!("groups.{group}");
            at_most(&path, members.len(), MEMBERS_MAX)?;
            if let Some(at) = members.iter().position(|member| member.group().is_some()) {
                return Err(PolicyError::new(
                    format!("{path}[{at}]"),
                    "a group holds people (user:), no groups",
                ));
            }
        }
        for (tag, owners) in &self.tag_owners {
            let path = format!("tagOwners.{tag}");
            at_most(&path, owners.len(), SELECTORS_MAX)?;
            self.check_groups(&path, owners.iter().map(PersonSelector::group))?;
        }
        for (number, grant) in self.grants.iter().enumerate() {
            self.check_grant(&format!("grants[{number}]"), grant)?;
        }
        for (number, test) in self.tests.iter().enumerate() {
            let path = format!("tests[{number}]");
            self.check_groups(&format!("{path}.src"), [test.src.group()])?;
            self.check_groups(&format!("{path}.dst"), [test.dst.group()])?;
            test.check(&path)?;
        }
        Ok(())
    }

    fn check_grant(&self, path: &str, grant: &Grant) -> Result<(), PolicyError> {
        for (field, selectors) in [("src", &grant.src), ("dst", &grant.dst)] {
            let path = format!("{path}.{field}");
            some_at_most(&path, selectors.len(), SELECTORS_MAX)?;
            self.check_groups(&path, selectors.iter().map(Selector::group))?;
        }
        if let Some(at) = grant.src.iter().position(|src| *src == Selector::OwnerSelf) {
            return Err(PolicyError::new(
                format!("{path}.src[{at}]"),
                "owner:self stands in dst only: the nodes of the source's owner",
            ));
        }
        let platform = Selector::Kind(crate::NodeKind::Platform);
        if let Some(at) = grant.dst.iter().position(|dst| *dst == platform) {
            return Err(PolicyError::new(
                format!("{path}.dst[{at}]"),
                "the platform cannot be granted: every node reaches its dispatch port and nothing else of it",
            ));
        }
        some_at_most(&format!("{path}.ports"), grant.ports.len(), PORTS_MAX)
    }

    /// Checks that the groups of a list are defined.
    fn check_groups<'a>(
        &self,
        path: &str,
        named: impl IntoIterator<Item = Option<&'a GroupRef>>,
    ) -> Result<(), PolicyError> {
        for (at, group) in named.into_iter().enumerate() {
            if let Some(group) = group.filter(|group| !self.groups.contains_key(*group)) {
                let reason = format!("{group} is not among the groups");
                return Err(PolicyError::new(format!("{path}[{at}]"), reason));
            }
        }
        Ok(())
    }
}

fn at_most_bytes(len: usize) -> Result<(), PolicyError> {
    if len > DOCUMENT_BYTES_MAX {
        let reason = format!("it is larger than {DOCUMENT_BYTES_MAX} bytes");
        return Err(PolicyError::new(".", reason));
    }
    Ok(())
}

fn at_most(path: &str, count: usize, limit: usize) -> Result<(), PolicyError> {
    if count > limit {
        let reason = format!("has {count} entries, more than {limit}");
        return Err(PolicyError::new(path, reason));
    }
    Ok(())
}

fn some_at_most(path: &str, count: usize, limit: usize) -> Result<(), PolicyError> {
    if count == 0 {
        return Err(PolicyError::new(path, "must not be empty"));
    }
    at_most(path, count, limit)
}

#[cfg(test)]
mod tests;
