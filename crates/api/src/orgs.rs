//! The caller, its org and the org's members (contract §9).

use serde::{Deserialize, Serialize};
use types::{OrgId, Timestamp, UserId};
use utoipa::ToSchema;

use crate::api_keys::CreatedApiKey;
use crate::schema;
use crate::scope::{Role, Scope};

/// Who a credential belongs to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    /// The person.
    pub user: User,
    /// The org that the credential is for.
    pub organization: Organization,
    /// What the person is in that org.
    pub role: Role,
    /// What the credential is good for.
    pub scopes: Vec<Scope>,
}

/// A person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: UserId,
    /// What people call them.
    pub name: String,
    /// When the record was made.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
}

/// A tenant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Organization {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: OrgId,
    /// A DNS label, the middle of every mesh name.
    #[schema(value_type = schema::Label)]
    pub name: String,
    /// When it was made.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
}

/// A person in an org.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The person.
    #[schema(value_type = schema::Id)]
    pub user_id: UserId,
    /// What people call them.
    pub name: String,
    /// What they are in the org.
    pub role: Role,
    /// Since when.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
}

/// Makes an org; the caller becomes its first admin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateOrganization {
    /// A DNS label that no other org has.
    #[schema(value_type = schema::Label)]
    pub name: String,
}

/// An org and the first key to it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedOrganization {
    /// The org.
    pub organization: Organization,
    /// The caller's key to it, shown once.
    pub api_key: CreatedApiKey,
}

/// Makes a person and adds them to the org.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateMember {
    /// What people call them, 1 to 128 characters.
    #[schema(value_type = schema::DisplayText)]
    pub name: String,
    /// What they are to be.
    pub role: Role,
}

/// A new member and their first key.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedMember {
    /// The member.
    pub member: Member,
    /// Their key, shown once.
    pub api_key: CreatedApiKey,
}
