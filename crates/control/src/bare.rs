//! Puts the refusals that hyper makes by itself into the contract's envelope.
//!
//! What is no HTTP at all reaches no route: hyper answers it with a bare head (400, 414 or 431) and offers no hook for it.
//! So the connection looks at what is written to it, and replaces exactly such a head.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use api::{ErrorBody, ErrorCode, ErrorEnvelope};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use types::RequestId;

use crate::secrets;

/// The longest head that hyper makes by itself: a status line, a length, a date, whether the connection is closed.
const BARE_LEN_MAX: usize = 160;

/// A connection on which no refusal goes out bare.
#[derive(Debug)]
pub(crate) struct Enveloped<S> {
    stream: S,
    /// What is still to be written in place of a bare head.
    instead: Vec<u8>,
}

impl<S> Enveloped<S> {
    /// Watches over a connection.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            instead: Vec::new(),
        }
    }
}

impl<S: AsyncWrite + Unpin> Enveloped<S> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Enveloped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Enveloped<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if is_bare_refusal(buf) {
            self.instead = refusal();
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && is_bare_refusal(only)
        {
            return self.poll_write(cx, only);
        }
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Tells whether this is, from end to end, a head that hyper makes by itself. Every refusal of ours has a body.
fn is_bare_refusal(buf: &[u8]) -> bool {
    if buf.len() > BARE_LEN_MAX || !buf.starts_with(b"HTTP/1.1 4") {
        return false;
    }
    let Some(head) = buf.strip_suffix(b"\r\n\r\n") else {
        return false;
    };
    let Ok(head) = std::str::from_utf8(head) else {
        return false;
    };
    let mut lines = head.split("\r\n").skip(1).peekable();
    let known = ["content-length: 0", "connection: close", "date: "];
    lines.peek().is_some() && lines.all(|line| known.iter().any(|known| line.starts_with(known)))
}

/// The whole answer. The connection is closed after it: what follows on it cannot be told apart.
fn refusal() -> Vec<u8> {
    let id = RequestId::from_random(secrets::bytes());
    let error = ErrorBody {
        code: ErrorCode::BadRequest,
        message: "the head of this request is not HTTP/1.1, or larger than 64 KiB".to_owned(),
        request_id: id,
    };
    let body = serde_json::to_string(&ErrorEnvelope { error }).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nx-request-id: {id}\r\n\
         x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_bare_head_is_replaced() {
        let date = "date: Thu, 26 Nov 2026 06:00:00 GMT";
        for status in [
            "400 Bad Request",
            "414 URI Too Long",
            "431 Request Header Fields Too Large",
        ] {
            let bare = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{date}\r\n\r\n");
            assert!(is_bare_refusal(bare.as_bytes()), "{bare}");
            let cut = &bare.as_bytes()[..bare.len() - 1];
            assert!(!is_bare_refusal(cut));
        }
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 12\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nx-request-id: req_1\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "",
        ] {
            assert!(!is_bare_refusal(other.as_bytes()), "{other}");
        }
    }

    #[tokio::test]
    async fn a_bare_head_becomes_an_envelope_and_other_bytes_stay() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (ours, mut theirs) = tokio::io::duplex(64);
        let writing = async {
            let mut stream = Enveloped::new(ours);
            stream.write_all(b"before ").await.expect("written");
            let bare = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(bare).await.expect("written");
            stream.shutdown().await.expect("ended");
        };
        let mut read = String::new();
        let (_, read_len) = tokio::join!(writing, theirs.read_to_string(&mut read));
        assert_eq!(read_len.expect("read"), read.len());
        let answer = read.strip_prefix("before ").expect("other bytes stay");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        let body: ErrorEnvelope = serde_json::from_str(body).expect("an envelope");
        assert_eq!(body.error.code, ErrorCode::BadRequest);
        assert!(head.contains(&body.error.request_id.to_string()), "{head}");
    }
}
