//! Invitations: links by which a person joins the org, once, through the sign-in provider (contract §9).

use serde::{Deserialize, Serialize};
use types::{InvitationId, OrgId, Timestamp, UserId};
use utoipa::ToSchema;

use crate::schema;
use crate::scope::{Role, Scope};

/// An invitation as it is listed: everything but its token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// Its id.
    #[schema(value_type = schema::Id)]
    pub id: InvitationId,
    /// The org it leads into.
    #[schema(value_type = schema::Id)]
    pub org_id: OrgId,
    /// What the person is to be there.
    pub role: Role,
    /// What their sessions will be good for: what the inviter's credential was.
    pub scopes: Vec<Scope>,
    /// The verified e-mail address that the provider must name; anyone who holds the link when absent.
    pub email: Option<String>,
    /// Who invited.
    #[schema(value_type = schema::Id)]
    pub invited_by: UserId,
    /// When it was made.
    #[schema(value_type = schema::Time)]
    pub created_at: Timestamp,
    /// When it stops working.
    #[schema(value_type = schema::Time)]
    pub expires_at: Timestamp,
    /// When somebody joined by it, if anybody did.
    #[schema(value_type = Option<schema::Time>)]
    pub accepted_at: Option<Timestamp>,
    /// Who that was.
    #[schema(value_type = Option<schema::Id>)]
    pub accepted_by: Option<UserId>,
    /// When it was taken back, if it was.
    #[schema(value_type = Option<schema::Time>)]
    pub revoked_at: Option<Timestamp>,
}

/// A new invitation. `url` is shown here and never again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedInvitation {
    /// Its record.
    #[serde(flatten)]
    pub record: Invitation,
    /// What to hand to the person: whoever opens it first and can sign in joins.
    pub url: String,
}

impl std::fmt::Debug for CreatedInvitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedInvitation")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// How long an invitation lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub enum InvitationLifetime {
    /// A day.
    #[serde(rename = "1d")]
    Day,
    /// 7 days.
    #[default]
    #[serde(rename = "7d")]
    Week,
    /// 30 days.
    #[serde(rename = "30d")]
    Days30,
}

/// Invites a person into the caller's org.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateInvitation {
    /// What the person is to be.
    pub role: Role,
    /// Binds the invitation to this e-mail address, which the provider must name as verified; letters of either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Email>)]
    pub email: Option<String>,
    /// How long it lives, default `7d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<InvitationLifetime>,
}
