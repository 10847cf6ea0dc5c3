//! Client methods for the org's policy, and for the tags it speaks of.

use reqwest::Method;
use types::NodeId;

use super::{Client, ClientError, NO_QUERY, data};
use crate::nodes::{Node, PatchNode};
use crate::policy::{ExplainPolicy, PolicyExplained, PolicyTested, PolicyView, PutPolicy, TestPolicy};

impl Client {
    /// Returns the policy.
    pub async fn policy(&self) -> Result<PolicyView, ClientError> {
        self.get("v1/runmesh/policy", NO_QUERY).await.map(data)
    }

    /// Replaces the policy.
    pub async fn put_policy(&self, request: &PutPolicy) -> Result<PolicyView, ClientError> {
        self.send(Method::PUT, "v1/runmesh/policy", request)
            .await
            .map(data)
    }

    /// Checks a policy and runs the tests inside it; changes nothing.
    pub async fn test_policy(&self, request: &TestPolicy) -> Result<PolicyTested, ClientError> {
        self.send(Method::POST, "v1/runmesh/policy/test", request)
            .await
            .map(data)
    }

    /// Says whether one node may reach something of another.
    pub async fn explain_policy(&self, request: &ExplainPolicy) -> Result<PolicyExplained, ClientError> {
        self.send(Method::POST, "v1/runmesh/policy/explain", request)
            .await
            .map(data)
    }

    /// Gives a node these tags and no others.
    pub async fn tag_node(&self, id: NodeId, tags: Vec<String>) -> Result<Node, ClientError> {
        let patch = PatchNode {
            tags: Some(tags),
            ..PatchNode::default()
        };
        self.send(Method::PATCH, &format!("v1/runmesh/nodes/{id}"), &patch)
            .await
            .map(data)
    }
}
