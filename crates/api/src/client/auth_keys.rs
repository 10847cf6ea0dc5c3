//! Client methods for auth keys, and for joining by one.

use reqwest::Method;
use types::AuthKeyId;

use super::{Client, ClientError, data};
use crate::auth_keys::{AuthKey, CreateAuthKey, CreatedAuthKey, Join, Joined};
use crate::envelope::Page;
use crate::page::PageQuery;

impl Client {
    /// Makes a key by which nodes join; it is shown once.
    pub async fn create_auth_key(&self, request: &CreateAuthKey) -> Result<CreatedAuthKey, ClientError> {
        self.send(Method::POST, "v1/runmesh/auth-keys", request)
            .await
            .map(data)
    }

    /// Lists the keys that the caller can see, newest first.
    pub async fn auth_keys(&self, query: &PageQuery) -> Result<Page<AuthKey>, ClientError> {
        self.get("v1/runmesh/auth-keys", query).await
    }

    /// Revokes a key; nodes that joined by it stay.
    pub async fn revoke_auth_key(&self, id: AuthKeyId) -> Result<AuthKey, ClientError> {
        self.send(Method::DELETE, &format!("v1/runmesh/auth-keys/{id}"), &())
            .await
            .map(data)
    }

    /// Joins by a key.
    pub async fn join(&self, request: &Join) -> Result<Joined, ClientError> {
        self.send(Method::POST, "v1/runmesh/devices/join", request)
            .await
            .map(data)
    }
}
