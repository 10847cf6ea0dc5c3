//! Client methods for API keys.

use reqwest::Method;
use types::ApiKeyId;

use super::{Client, ClientError, NO_QUERY, data};
use crate::api_keys::{ApiKey, ApiKeysQuery, CreateApiKey, CreatedApiKey};
use crate::envelope::Page;

impl Client {
    /// Makes a key for the caller.
    pub async fn create_api_key(&self, request: &CreateApiKey) -> Result<CreatedApiKey, ClientError> {
        self.send(Method::POST, "v1/api-keys", request).await.map(data)
    }

    /// Lists keys, newest first.
    pub async fn api_keys(&self, query: &ApiKeysQuery) -> Result<Page<ApiKey>, ClientError> {
        self.get("v1/api-keys", query).await
    }

    /// Returns one key's record.
    pub async fn api_key(&self, id: ApiKeyId) -> Result<ApiKey, ClientError> {
        self.get(&format!("v1/api-keys/{id}"), NO_QUERY).await.map(data)
    }

    /// Revokes a key; a second time answers the same record.
    pub async fn revoke_api_key(&self, id: ApiKeyId) -> Result<ApiKey, ClientError> {
        self.send(Method::DELETE, &format!("v1/api-keys/{id}"), &())
            .await
            .map(data)
    }
}
