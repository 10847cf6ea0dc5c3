//! Client methods for runs.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::ACCEPT;
use types::{RunId, ThreadId};

use super::events::{Frames, header};
use super::{ANSWER_TIMEOUT, Client, ClientError, NO_QUERY, data, open, read};
use crate::IDEMPOTENCY_KEY_HEADER;
use crate::envelope::{Page, Success};
use crate::runs::{Run, RunReceipt, RunsQuery, StartRun};

/// A run that was started with `stream: true`.
#[derive(Debug)]
pub struct StartedRun {
    /// The run.
    pub run_id: RunId,
    /// Its thread.
    pub thread_id: ThreadId,
    /// What happens in it, up to its `run_completed`.
    pub frames: Frames,
}

impl Client {
    /// Starts a run and returns its receipt, after up to `request.wait` seconds.
    ///
    /// The same `idempotency_key` within a day answers with the same run.
    pub async fn start_run(
        &self,
        request: &StartRun,
        idempotency_key: Option<&str>,
    ) -> Result<RunReceipt, ClientError> {
        let request = StartRun {
            stream: Some(false),
            ..request.clone()
        };
        let mut call = self.request(Method::POST, "v1/run")?.json(&request);
        if let Some(key) = idempotency_key {
            call = call.header(IDEMPOTENCY_KEY_HEADER, key);
        }
        let patience = ANSWER_TIMEOUT + Duration::from_secs(request.wait.unwrap_or(0).into());
        let answer: Success<RunReceipt> = read(call.timeout(patience).send().await?).await?;
        Ok(answer.data)
    }

    /// Starts a run and follows it.
    pub async fn start_run_streaming(
        &self,
        request: &StartRun,
        idempotency_key: Option<&str>,
    ) -> Result<StartedRun, ClientError> {
        let request = StartRun {
            stream: Some(true),
            ..request.clone()
        };
        let mut call = self.request(Method::POST, "v1/run")?.json(&request);
        call = call.header(ACCEPT, "text/event-stream");
        if let Some(key) = idempotency_key {
            call = call.header(IDEMPOTENCY_KEY_HEADER, key);
        }
        let answer = open(call).await?;
        Ok(StartedRun {
            run_id: header(&answer, "x-run-id")?,
            thread_id: header(&answer, "x-thread-id")?,
            frames: Frames::new(answer),
        })
    }

    /// Lists runs, newest first.
    pub async fn runs(&self, query: &RunsQuery) -> Result<Page<Run>, ClientError> {
        self.get("v1/runs", query).await
    }

    /// Returns one run.
    pub async fn run(&self, id: RunId) -> Result<Run, ClientError> {
        self.get(&format!("v1/runs/{id}"), NO_QUERY).await.map(data)
    }

    /// Asks to stop a run; a second time answers the same run.
    pub async fn cancel_run(&self, id: RunId) -> Result<Run, ClientError> {
        self.send(Method::POST, &format!("v1/runs/{id}/cancel"), &())
            .await
            .map(data)
    }
}
