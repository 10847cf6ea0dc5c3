//! Roles of people, scopes of credentials.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema, openapi::RefOr};

/// What a person is in an org.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and does what is their own.
    Member,
    /// Sees and does everything of the org.
    Admin,
}

impl Role {
    /// Returns the text that stands in the API and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        match text {
            "member" => Ok(Self::Member),
            "admin" => Ok(Self::Admin),
            _ => Err(UnknownScope),
        }
    }
}

/// A text that names no scope or role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not known")]
pub struct UnknownScope;

macro_rules! scopes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// What a credential is good for. `family:*` covers its family, `*` covers all.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum Scope {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
        }

        impl Scope {
            /// Every scope.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the text that stands in the API and in the store.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

scopes! {
    /// Everything the person's role allows.
    All = "*",
    /// All of `runmesh`.
    RunmeshAll = "runmesh:*",
    /// See nodes, their configuration and the audit log.
    RunmeshRead = "runmesh:read",
    /// Link, rename, revoke.
    RunmeshWrite = "runmesh:write",
    /// All of `activity`.
    ActivityAll = "activity:*",
    /// Read the activity list.
    ActivityRead = "activity:read",
    /// All of `agent`.
    AgentAll = "agent:*",
    /// See agents, runs and threads.
    AgentRead = "agent:read",
    /// Start and cancel runs.
    AgentRun = "agent:run",
    /// Create, change and delete agents and threads.
    AgentWrite = "agent:write",
    /// All of `sandbox`.
    SandboxAll = "sandbox:*",
    /// Boot sandboxes.
    SandboxCreate = "sandbox:create",
    /// See sandboxes.
    SandboxRead = "sandbox:read",
    /// Use and destroy sandboxes.
    SandboxWrite = "sandbox:write",
    /// All of `org`.
    OrgAll = "org:*",
    /// See the org, and one's API keys and sessions.
    OrgRead = "org:read",
    /// Make orgs and API keys, end sessions.
    OrgWrite = "org:write",
    /// Add and invite members.
    OrgMembers = "org:members",
    /// All of `admin`.
    AdminAll = "admin:*",
    /// Look at the resources of others, as an admin.
    AdminResources = "admin:resources",
}

impl Scope {
    /// Tells whether holding this scope includes `wanted`.
    #[must_use]
    pub fn covers(self, wanted: Self) -> bool {
        if self == wanted || self == Self::All {
            return true;
        }
        let family = self.as_str().strip_suffix('*');
        family.is_some_and(|family| wanted.as_str().starts_with(family))
    }
}

/// Written by hand: utoipa's derive does not see names that a macro passes on.
impl PartialSchema for Scope {
    fn schema() -> RefOr<Schema> {
        let names = Self::ALL.iter().map(|scope| scope.as_str());
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(names))
            .build()
            .into()
    }
}

impl ToSchema for Scope {}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .iter()
            .copied()
            .find(|scope| scope.as_str() == text)
            .ok_or(UnknownScope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_covers_its_own_and_nothing_else() {
        assert!(Scope::RunmeshAll.covers(Scope::RunmeshRead));
        assert!(!Scope::RunmeshAll.covers(Scope::AgentRead));
        assert!(!Scope::RunmeshAll.covers(Scope::All));
        assert!(Scope::All.covers(Scope::AgentAll));
        assert!(!Scope::RunmeshRead.covers(Scope::RunmeshWrite));
    }

    #[test]
    fn the_text_of_a_scope_is_its_json() {
        for scope in Scope::ALL {
            assert_eq!(serde_json::to_value(scope).expect("serializes"), scope.as_str());
            assert_eq!(scope.as_str().parse(), Ok(*scope));
        }
    }

    #[test]
    fn the_schema_names_every_scope_as_it_is_sent() {
        let schema = serde_json::to_value(Scope::schema()).expect("serializes");
        assert_eq!(
            schema["enum"],
            serde_json::to_value(Scope::ALL).expect("serializes")
        );
    }
}
