//! Client methods for the caller, its org and the org's members.

use reqwest::Method;
use types::{OrgId, UserId};

use super::{Client, ClientError, NO_QUERY, data};
use crate::envelope::Page;
use crate::orgs::{
    CreateMember, CreateOrganization, CreatedMember, CreatedOrganization, Me, Member, Organization,
};
use crate::page::PageQuery;

impl Client {
    /// Returns who the credential belongs to.
    pub async fn me(&self) -> Result<Me, ClientError> {
        self.get("v1/me", NO_QUERY).await.map(data)
    }

    /// Returns the org of the credential.
    pub async fn current_organization(&self) -> Result<Organization, ClientError> {
        self.get("v1/organizations/current", NO_QUERY).await.map(data)
    }

    /// Makes an org; the caller becomes its first admin.
    pub async fn create_organization(
        &self,
        request: &CreateOrganization,
    ) -> Result<CreatedOrganization, ClientError> {
        self.send(Method::POST, "v1/organizations", request)
            .await
            .map(data)
    }

    /// Lists the members of the caller's org.
    pub async fn members(&self, org: OrgId, query: &PageQuery) -> Result<Page<Member>, ClientError> {
        self.get(&format!("v1/organizations/{org}/members"), query).await
    }

    /// Makes a person and adds them to the caller's org.
    pub async fn create_member(
        &self,
        org: OrgId,
        request: &CreateMember,
    ) -> Result<CreatedMember, ClientError> {
        let path = format!("v1/organizations/{org}/members");
        self.send(Method::POST, &path, request).await.map(data)
    }

    /// Takes a member out of the caller's org; returns the member as they were.
    pub async fn remove_member(&self, org: OrgId, user: UserId) -> Result<Member, ClientError> {
        let path = format!("v1/organizations/{org}/members/{user}");
        self.send(Method::DELETE, &path, &()).await.map(data)
    }
}
