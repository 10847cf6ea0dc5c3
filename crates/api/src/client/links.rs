//! Client methods for device linking.

use reqwest::Method;

use super::{Client, ClientError, NO_QUERY, data};
use crate::links::{Link, LinkApprove, LinkApproved, LinkDeny, LinkPoll, LinkPolled, LinkStart, LinkStarted};

impl Client {
    /// Asks for a code; needs no credential.
    pub async fn link_start(&self, request: &LinkStart) -> Result<LinkStarted, ClientError> {
        self.send(Method::POST, "v1/runmesh/devices/link/start", request)
            .await
            .map(data)
    }

    /// Asks how a code fares; needs no credential.
    pub async fn link_poll(&self, request: &LinkPoll) -> Result<LinkPolled, ClientError> {
        self.send(Method::POST, "v1/runmesh/devices/link/poll", request)
            .await
            .map(data)
    }

    /// Returns what the approve page shows.
    pub async fn link(&self, code: &str) -> Result<Link, ClientError> {
        self.get(&format!("v1/runmesh/devices/link/{}", segment(code)), NO_QUERY)
            .await
            .map(data)
    }

    /// Admits the device behind a code.
    pub async fn link_approve(&self, request: &LinkApprove) -> Result<LinkApproved, ClientError> {
        self.send(Method::POST, "v1/runmesh/devices/link/approve", request)
            .await
            .map(data)
    }

    /// Refuses the device behind a code.
    pub async fn link_deny(&self, request: &LinkDeny) -> Result<Link, ClientError> {
        self.send(Method::POST, "v1/runmesh/devices/link/deny", request)
            .await
            .map(data)
    }
}

/// A code typed by a person as one path segment.
fn segment(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).collect()
}
