//! The stream of a session as messages: `mesh::frame` around JSON.

use std::time::Duration;

use mesh::frame::{Decoder, encode_within};
use runs::protocol::{FRAME_BYTES_MAX, ToOrchestrator, ToSidecar};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::SessionError;

/// How long one frame may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How much one read takes; each of ten thousand sessions has such a buffer.
const READ_BYTES: usize = 8 * 1024;

/// Messages out of a stream.
pub(super) struct Reader<R> {
    stream: R,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads messages of at most `bytes_max`.
    pub(super) fn new(stream: R, bytes_max: usize) -> Self {
        Self {
            stream,
            decoder: Decoder::new(bytes_max),
            buffer: vec![0; READ_BYTES],
        }
    }

    /// Goes on with another limit; false when something was read that would be lost by it.
    pub(super) fn begin_anew(&mut self, bytes_max: usize) -> bool {
        let is_clean = self.decoder.is_at_boundary();
        self.decoder = Decoder::new(bytes_max);
        is_clean
    }

    /// Returns the next message that this build knows; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<ToOrchestrator>, SessionError> {
        loop {
            while let Some(frame) = self.decoder.next()? {
                match serde_json::from_slice(&frame) {
                    Ok(message) => return Ok(Some(message)),
                    Err(error) if !error.is_data() => return Err(SessionError::Unreadable(error)),
                    Err(error) => tracing::debug!(%error, "a message of an unknown type was skipped"),
                }
            }
            let len = self.stream.read(&mut self.buffer).await?;
            if len == 0 {
                return Ok(None);
            }
            self.decoder.push(&self.buffer[..len]);
        }
    }
}

/// Writes what is queued until the queue or the session is closed, and closes the session.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    mut queue: mpsc::Receiver<ToSidecar>,
    mut writer: W,
    close: CancellationToken,
) {
    let writing = async {
        while let Some(message) = queue.recv().await {
            let json = serde_json::to_vec(&message).map_err(std::io::Error::other)?;
            let frame = encode_within(&json, FRAME_BYTES_MAX).map_err(std::io::Error::other)?;
            let written = tokio::time::timeout(WRITE_TIMEOUT, async {
                writer.write_all(&frame).await?;
                writer.flush().await
            });
            written.await.map_err(std::io::Error::other)??;
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::select! {
        () = close.cancelled() => {}
        written = writing => {
            if let Err(error) = written {
                tracing::info!(%error, "a sidecar's session cannot be written");
            }
        }
    }
    close.cancel();
}
