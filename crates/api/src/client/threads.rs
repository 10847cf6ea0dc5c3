//! Client methods for threads.

use reqwest::Method;
use types::ThreadId;

use super::{ANSWER_TIMEOUT, Client, ClientError, checked, data};
use crate::activity::{Activity, ActivityQuery};
use crate::envelope::Page;
use crate::page::PageQuery;
use crate::threads::{
    CompactThread, Compacted, PatchThread, Rollout, Thread, ThreadQuery, ThreadSnapshot, ThreadsQuery,
};

impl Client {
    /// Lists threads, newest first.
    pub async fn threads(&self, query: &ThreadsQuery) -> Result<Page<Thread>, ClientError> {
        self.get("v1/threads", query).await
    }

    /// Returns a thread as its events add up.
    pub async fn thread(&self, id: ThreadId, query: &ThreadQuery) -> Result<ThreadSnapshot, ClientError> {
        self.get(&format!("v1/threads/{id}"), query).await.map(data)
    }

    /// Renames a thread, or puts it away.
    pub async fn patch_thread(&self, id: ThreadId, change: &PatchThread) -> Result<Thread, ClientError> {
        self.send(Method::PATCH, &format!("v1/threads/{id}"), change)
            .await
            .map(data)
    }

    /// Deletes a thread with all its events and runs.
    pub async fn delete_thread(&self, id: ThreadId) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &format!("v1/threads/{id}"))?;
        checked(request.timeout(ANSWER_TIMEOUT).send().await?)
            .await
            .map(|_| ())
    }

    /// Begins a new rollout.
    pub async fn compact_thread(
        &self,
        id: ThreadId,
        request: &CompactThread,
    ) -> Result<Compacted, ClientError> {
        self.send(Method::POST, &format!("v1/threads/{id}/compact"), request)
            .await
            .map(data)
    }

    /// Lists the rollouts of a thread, oldest first.
    pub async fn rollouts(&self, id: ThreadId, page: &PageQuery) -> Result<Page<Rollout>, ClientError> {
        self.get(&format!("v1/threads/{id}/rollouts"), page).await
    }

    /// Lists the activity of a thread, newest first.
    pub async fn thread_activity(
        &self,
        id: ThreadId,
        query: &ActivityQuery,
    ) -> Result<Page<Activity>, ClientError> {
        self.get(&format!("v1/threads/{id}/activity"), query).await
    }
}
