//! Client methods for nodes, the overview, the audit log and activity.

use reqwest::Method;
use types::NodeId;

use super::{Client, ClientError, NO_QUERY, data};
use crate::activity::{Activity, ActivityQuery};
use crate::audit::{AuditEvent, AuditQuery};
use crate::envelope::Page;
use crate::nodes::{ConfigFormat, ConfigQuery, Node, NodeConfig, NodesQuery, PatchNode};
use crate::overview::{Overview, OverviewQuery};

impl Client {
    /// Returns counts over the nodes that [`Client::nodes`] lists.
    pub async fn overview(&self, query: &OverviewQuery) -> Result<Overview, ClientError> {
        self.get("v1/runmesh/overview", query).await.map(data)
    }

    /// Lists nodes.
    pub async fn nodes(&self, query: &NodesQuery) -> Result<Page<Node>, ClientError> {
        self.get("v1/runmesh/nodes", query).await
    }

    /// Returns one node.
    pub async fn node(&self, id: NodeId) -> Result<Node, ClientError> {
        self.get(&format!("v1/runmesh/nodes/{id}"), NO_QUERY)
            .await
            .map(data)
    }

    /// Returns a node's configuration.
    pub async fn node_config(&self, id: NodeId) -> Result<NodeConfig, ClientError> {
        self.get(&format!("v1/runmesh/nodes/{id}/config"), NO_QUERY)
            .await
            .map(data)
    }

    /// Returns a node's configuration as the text of a `wg-quick` file.
    pub async fn node_config_wg_quick(&self, id: NodeId) -> Result<String, ClientError> {
        let query = ConfigQuery {
            format: Some(ConfigFormat::WgQuick),
        };
        self.text(&format!("v1/runmesh/nodes/{id}/config"), &query).await
    }

    /// Renames a node.
    pub async fn rename_node(&self, id: NodeId, name: &str) -> Result<Node, ClientError> {
        let patch = PatchNode {
            name: Some(name.to_owned()),
            ..PatchNode::default()
        };
        self.send(Method::PATCH, &format!("v1/runmesh/nodes/{id}"), &patch)
            .await
            .map(data)
    }

    /// Revokes a node; the answer says how far it has come. A second time answers the same node.
    pub async fn revoke_node(&self, id: NodeId) -> Result<Node, ClientError> {
        self.send(Method::POST, &format!("v1/runmesh/nodes/{id}/revoke"), &())
            .await
            .map(data)
    }

    /// Lists audit events, newest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<Page<AuditEvent>, ClientError> {
        self.get("v1/runmesh/audit", query).await
    }

    /// Lists activity, newest first.
    pub async fn activity(&self, query: &ActivityQuery) -> Result<Page<Activity>, ClientError> {
        self.get("v1/activity", query).await
    }

    /// Lists the activity of one device, newest first.
    pub async fn device_activity(
        &self,
        id: NodeId,
        query: &ActivityQuery,
    ) -> Result<Page<Activity>, ClientError> {
        self.get(&format!("v1/runmesh/devices/{id}/activity"), query)
            .await
    }
}
