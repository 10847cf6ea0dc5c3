//! What becomes of a request's body that nobody read to its end.
//!
//! A connection that is closed while bytes still arrive is reset, and the client loses the answer with it. So the rest is
//! read and thrown away, up to a limit, while the answer goes out.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The longest rest that is thrown away, in bytes; a client that sends more is cut.
const REST_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How long the rest may take.
const REST_TIMEOUT: Duration = Duration::from_secs(30);

/// A body whose unread rest is thrown away when it is dropped.
#[derive(Debug)]
pub(crate) struct Drained<B: Spare> {
    body: Option<B>,
}

/// What a body must be so that a task may read its rest.
pub(crate) trait Spare: Body<Data = Bytes> + Send + Unpin + 'static {}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Spare for B {}

impl<B: Spare> Drained<B> {
    /// Watches over a body.
    pub(crate) fn new(body: B) -> Self {
        Self { body: Some(body) }
    }
}

impl<B: Spare> Body for Drained<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<B: Spare> Drop for Drained<B> {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        // Without a runtime the process ends, and every connection with it.
        if let (Some(rest), Ok(runtime)) = (rest, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(REST_TIMEOUT, throw_away(rest)));
        }
    }
}

async fn throw_away<B: Spare>(mut rest: B) {
    let mut len = 0_usize;
    while len <= REST_BYTES_MAX {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else {
            return;
        };
        len = len.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
}
