//! Client methods for sessions.

use reqwest::Method;
use types::SessionId;

use super::{Client, ClientError, data};
use crate::envelope::Page;
use crate::sessions::{Session, SessionsQuery};

impl Client {
    /// Lists signed-in browsers, newest first.
    pub async fn sessions(&self, query: &SessionsQuery) -> Result<Page<Session>, ClientError> {
        self.get("v1/sessions", query).await
    }

    /// Signs a browser out; returns what it was.
    pub async fn end_session(&self, id: SessionId) -> Result<Session, ClientError> {
        self.send(Method::DELETE, &format!("v1/sessions/{id}"), &())
            .await
            .map(data)
    }
}
