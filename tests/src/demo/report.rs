//! What the demo measured and checked, as a table and as one JSON object.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::processes::{Runmesh, text};
use crate::repository::Repository;
use crate::times::unix_ms;

/// The report.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// The device became a node.
    linked: bool,
    /// How the device reached the platform: `direct` or `relay`.
    path: String,
    /// Why so.
    path_reason: String,
    run_id: String,
    thread_id: String,
    rollout_id: String,
    /// How the run ended.
    status: String,
    /// Durable events of the thread.
    events: usize,
    /// From the API taking the run to the device having it on disk, by the control plane's clock.
    dispatch_ms: i64,
    /// From the start of the control plane to the revoked device having noticed.
    pub(super) total_ms: u64,
    /// Who executed the run.
    pub(super) runner: String,
    /// From the revoke request to the device having noticed.
    pub(super) revoked_cut_off_ms: u64,
}

impl Report {
    /// Reads the newest run, its thread and its device, and checks that the agent really looked into the repository.
    pub(super) fn of_newest_run(api: &Runmesh, repository: &Repository, device: &str) -> Result<Self> {
        let runs = api.call(&["runs", "--limit", "1"])?;
        let run = runs["data"].get(0).context("the API lists no run")?;
        let node = api.call(&["node", device])?;
        let thread = api.call(&["thread", text(run, "threadId")])?;
        let events = thread["events"].as_array().context("the thread has no events")?;
        let own = |value: &Value, name: &str| text(value, name).to_owned();
        let report = Self {
            linked: true,
            path: own(&node, "path"),
            path_reason: own(&node, "pathReason"),
            run_id: own(run, "runId"),
            thread_id: own(run, "threadId"),
            rollout_id: own(run, "rolloutId"),
            status: own(run, "status"),
            events: events.len(),
            dispatch_ms: unix_ms(text(run, "acceptedAt"))? - unix_ms(text(run, "createdAt"))?,
            ..Self::default()
        };
        ensure!(report.status == "completed", "the run is {}", report.status);
        ensure!(
            !report.path.is_empty(),
            "the API does not know how the device is reached"
        );
        check_tool(events, &repository.newest_commit()?)?;
        Ok(report)
    }

    /// Returns the table for people.
    pub(super) fn table(&self) -> String {
        let rows = [
            ("path", format!("{} ({})", self.path, self.path_reason)),
            ("run", format!("{} in {}", self.status, self.thread_id)),
            ("runner", self.runner.clone()),
            (
                "dispatch",
                format!(
                    "{} ms from accepted by the API to on the device's disk",
                    self.dispatch_ms
                ),
            ),
            ("events", format!("{} durable", self.events)),
            (
                "cut off",
                format!("{} ms after the revoke request", self.revoked_cut_off_ms),
            ),
            ("total", format!("{} ms", self.total_ms)),
        ];
        rows.map(|(name, value)| format!("{name:<10}{value}")).join("\n")
    }

    /// Returns the JSON object, on one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers serialize")
    }
}

/// A tool call must stand in the thread, and its result must hold what only the repository knows.
fn check_tool(events: &[Value], commit: &str) -> Result<()> {
    let mut calls = events.iter().filter(|e| text(e, "type") == "tool_call");
    ensure!(calls.next().is_some(), "the thread shows no tool call");
    let mut results = events.iter().filter(|e| text(e, "type") == "tool_result");
    let seen = results.any(|e| e["payload"].to_string().contains(commit));
    ensure!(
        seen,
        "no tool result in the thread names the newest commit, {commit}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_a_real_look_into_the_repository_fails_the_demo() {
        let call = serde_json::json!({"type": "tool_call", "payload": {"title": "shell"}});
        let result = |text: &str| serde_json::json!({"type": "tool_result", "payload": {"content": text}});
        assert!(check_tool(&[call.clone(), result("abc1234 Note")], "abc1234").is_ok());
        assert!(check_tool(&[call, result("nothing")], "abc1234").is_err());
        assert!(check_tool(&[result("abc1234")], "abc1234").is_err());
    }

    #[test]
    fn the_json_has_exactly_the_documented_keys() {
        let json: Value = serde_json::from_str(&Report::default().json()).expect("JSON");
        let keys: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
        let mut expected = [
            "linked",
            "path",
            "pathReason",
            "runId",
            "threadId",
            "rolloutId",
            "status",
            "events",
            "dispatchMs",
            "totalMs",
            "runner",
            "revokedCutOffMs",
        ];
        expected.sort_unstable();
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, expected);
    }
}
