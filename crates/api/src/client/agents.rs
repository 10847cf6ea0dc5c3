//! Client methods for agents.

use reqwest::Method;
use serde_json::{Map, Value};
use types::AgentSlug;

use super::{ANSWER_TIMEOUT, Client, ClientError, NO_QUERY, checked, data};
use crate::agents::{Agent, AgentsQuery, PutAgent, PutAgentResult};
use crate::envelope::Page;

impl Client {
    /// Creates an agent or replaces all its settings.
    pub async fn put_agent(&self, request: &PutAgent) -> Result<PutAgentResult, ClientError> {
        self.send(Method::POST, "v1/agents", request).await.map(data)
    }

    /// Lists agents, oldest first.
    pub async fn agents(&self, query: &AgentsQuery) -> Result<Page<Agent>, ClientError> {
        self.get("v1/agents", query).await
    }

    /// Returns one agent.
    pub async fn agent(&self, slug: &AgentSlug) -> Result<Agent, ClientError> {
        self.get(&format!("v1/agents/{slug}"), NO_QUERY).await.map(data)
    }

    /// Changes the settings that `changes` names; null clears one.
    pub async fn patch_agent(
        &self,
        slug: &AgentSlug,
        changes: &Map<String, Value>,
    ) -> Result<Agent, ClientError> {
        self.send(Method::PATCH, &format!("v1/agents/{slug}"), changes)
            .await
            .map(data)
    }

    /// Deletes an agent. Its threads stay.
    pub async fn delete_agent(&self, slug: &AgentSlug) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &format!("v1/agents/{slug}"))?;
        checked(request.timeout(ANSWER_TIMEOUT).send().await?)
            .await
            .map(|_| ())
    }
}
