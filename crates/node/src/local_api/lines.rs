//! Answers that are lines of JSON, each written when there is something to tell.

use std::convert::Infallible;

use axum::body::Body as AnswerBody;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How many events may wait to be told.
const EVENTS_MAX: usize = 64;

/// Answers with a first event and then with those of `work` as they come, until it ends. When nobody reads the answer any more,
/// or the daemon stops, the work ends.
pub(super) fn lines<T, E, F>(
    first: T,
    stop: &CancellationToken,
    work: impl FnOnce(mpsc::Sender<E>) -> F,
) -> Response
where
    T: From<E> + Serialize + Send + 'static,
    E: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let (work, stop) = (work(events), stop.clone());
    let work = tokio::spawn(async move {
        stop.run_until_cancelled(work).await;
    });
    let state = (Some(first), receiver, AbortOnDropHandle::new(work));
    let lines = stream::unfold(state, |(first, mut receiver, work)| async move {
        let event = match first {
            Some(first) => first,
            None => T::from(receiver.recv().await?),
        };
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        Some((Ok::<_, Infallible>(line), (None, receiver, work)))
    });
    (
        [(CONTENT_TYPE, "application/x-ndjson")],
        AnswerBody::from_stream(lines),
    )
        .into_response()
}
