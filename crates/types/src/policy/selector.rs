//! How a policy names nodes and people: `*`, `kind:device`, `tag:ci`, `user:<id>`, `group:eng`, `node:laptop`, `owner:self`.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::evaluate::Subject;
use crate::ids::UserId;
use crate::names::{Label, NodeName};
use crate::node::NodeKind;

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The part before the colon is unknown, or there is none.
    #[error("must be *, or begin with kind:, tag:, user:, group:, node: or owner:")]
    Unknown,
    /// Not what stands for a person here.
    #[error("must be a person: user: with an id, or group: with a name")]
    NoPerson,
    /// No kind of node.
    #[error("kind: must be followed by device, sandbox or platform")]
    Kind,
    /// Only `owner:self` exists.
    #[error("owner: must be followed by self")]
    Owner,
    /// An e-mail address can change hands, an id cannot.
    #[error(
        "user: must be followed by a user's id, as the list of members shows it; an e-mail address is not enough"
    )]
    User,
    /// A name that is no label.
    #[error("{prefix} {error}")]
    Name {
        /// What the name is of.
        prefix: &'static str,
        /// What is wrong with it.
        error: crate::names::NameError,
    },
}

/// Names nodes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// `*`: every node of the org.
    Everybody,
    /// `kind:device`: every node of a kind.
    Kind(NodeKind),
    /// `tag:ci`: every node with a tag.
    Tag(TagRef),
    /// `user:<id>`: every node of a person.
    User(UserId),
    /// `group:eng`: every node of the people in a group.
    Group(GroupRef),
    /// `node:laptop`: the node of that name.
    Node(NodeName),
    /// `owner:self`: every node that has the owner of the source.
    OwnerSelf,
}

impl Selector {
    pub(super) fn group(&self) -> Option<&GroupRef> {
        match self {
            Self::Group(group) => Some(group),
            _ => None,
        }
    }

    /// Tells whether `node` is meant; [`Selector::OwnerSelf`] means nobody without a source.
    pub(super) fn names(&self, node: &Subject, groups: &Groups) -> bool {
        match self {
            Self::Everybody => true,
            Self::Kind(kind) => node.kind == *kind,
            Self::Tag(tag) => node.tags.contains(&tag.0),
            Self::User(user) => node.owner == Some(*user),
            Self::Group(group) => {
                let members = groups.get(group).into_iter().flatten();
                node.owner.is_some_and(|owner| {
                    members
                        .into_iter()
                        .any(|member| *member == PersonSelector::User(owner))
                })
            }
            Self::Node(name) => node.name.as_ref() == Some(name),
            Self::OwnerSelf => false,
        }
    }
}

/// Which people are in which group.
pub(super) type Groups = BTreeMap<GroupRef, Vec<PersonSelector>>;

/// Names people: `user:<id>` or `group:eng`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PersonSelector {
    /// One person.
    User(UserId),
    /// Everybody in a group.
    Group(GroupRef),
}

impl PersonSelector {
    pub(super) fn group(&self) -> Option<&GroupRef> {
        match self {
            Self::User(_) => None,
            Self::Group(group) => Some(group),
        }
    }

    /// Tells whether `person` is meant.
    pub(super) fn holds(&self, person: UserId, groups: &Groups) -> bool {
        match self {
            Self::User(user) => *user == person,
            Self::Group(group) => groups
                .get(group)
                .is_some_and(|members| members.contains(&Self::User(person))),
        }
    }
}

/// A tag as a document names it: `tag:ci`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagRef(pub(super) Label);

/// A group as a document names it: `group:eng`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupRef(pub(super) Label);

/// A map of tags is asked with the bare name.
impl Borrow<str> for TagRef {
    fn borrow(&self) -> &str {
        self.0.as_str()
    }
}

fn label<T: FromStr<Err = crate::names::NameError>>(
    prefix: &'static str,
    text: &str,
) -> Result<T, SelectorError> {
    text.parse()
        .map_err(|error| SelectorError::Name { prefix, error })
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text == "*" {
            return Ok(Self::Everybody);
        }
        let (prefix, rest) = text.split_once(':').ok_or(SelectorError::Unknown)?;
        match prefix {
            "kind" => match rest {
                "device" => Ok(Self::Kind(NodeKind::Device)),
                "sandbox" => Ok(Self::Kind(NodeKind::Sandbox)),
                "platform" => Ok(Self::Kind(NodeKind::Platform)),
                _ => Err(SelectorError::Kind),
            },
            "tag" => text.parse().map(Self::Tag),
            "user" => rest.parse().map(Self::User).map_err(|_| SelectorError::User),
            "group" => text.parse().map(Self::Group),
            "node" => label("node:", rest).map(Self::Node),
            "owner" if rest == "self" => Ok(Self::OwnerSelf),
            "owner" => Err(SelectorError::Owner),
            _ => Err(SelectorError::Unknown),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("*"),
            Self::Kind(NodeKind::Device) => f.write_str("kind:device"),
            Self::Kind(NodeKind::Sandbox) => f.write_str("kind:sandbox"),
            Self::Kind(NodeKind::Platform) => f.write_str("kind:platform"),
            Self::Tag(tag) => write!(f, "{tag}"),
            Self::User(user) => write!(f, "user:{user}"),
            Self::Group(group) => write!(f, "{group}"),
            Self::Node(name) => write!(f, "node:{name}"),
            Self::OwnerSelf => f.write_str("owner:self"),
        }
    }
}

impl FromStr for PersonSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        match text.parse()? {
            Selector::User(user) => Ok(Self::User(user)),
            Selector::Group(group) => Ok(Self::Group(group)),
            _ => Err(SelectorError::NoPerson),
        }
    }
}

impl fmt::Display for PersonSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user:{user}"),
            Self::Group(group) => write!(f, "{group}"),
        }
    }
}

macro_rules! prefixed {
    ($name:ident, $prefix:literal) => {
        impl FromStr for $name {
            type Err = SelectorError;

            fn from_str(text: &str) -> Result<Self, SelectorError> {
                let rest = text.strip_prefix($prefix).ok_or(SelectorError::Unknown)?;
                label($prefix, rest).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

prefixed!(TagRef, "tag:");
prefixed!(GroupRef, "group:");

macro_rules! as_text {
    ($($name:ident),+) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

as_text!(Selector, PersonSelector, TagRef, GroupRef);
