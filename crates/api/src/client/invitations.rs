//! Client methods for invitations.

use reqwest::Method;
use types::InvitationId;

use super::{Client, ClientError, data};
use crate::envelope::Page;
use crate::invitations::{CreateInvitation, CreatedInvitation, Invitation};
use crate::page::PageQuery;

impl Client {
    /// Invites a person into the caller's org.
    pub async fn create_invitation(
        &self,
        request: &CreateInvitation,
    ) -> Result<CreatedInvitation, ClientError> {
        self.send(Method::POST, "v1/invitations", request).await.map(data)
    }

    /// Lists the org's invitations, newest first.
    pub async fn invitations(&self, query: &PageQuery) -> Result<Page<Invitation>, ClientError> {
        self.get("v1/invitations", query).await
    }

    /// Takes an invitation back; a second time answers the same record.
    pub async fn revoke_invitation(&self, id: InvitationId) -> Result<Invitation, ClientError> {
        self.send(Method::DELETE, &format!("v1/invitations/{id}"), &())
            .await
            .map(data)
    }
}
