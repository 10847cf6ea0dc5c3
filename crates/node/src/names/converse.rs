//! DNS over TCP: messages one after the other, each behind its length (RFC 7766).

use std::io;
use std::time::Duration;

use mesh::dns::{Asker, QUERY_LEN_MAX, Transport};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Names;

/// How long a client may take to say one thing, and to read the answer: also how long it may say nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How many questions one connection may ask.
pub(super) const QUESTIONS_MAX: usize = 100;

/// Answers one client until it ends, is too slow, asks too much, or says what is no question.
pub(super) async fn converse<S>(mut stream: S, names: &Names, asker: Asker)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for _ in 0..QUESTIONS_MAX {
        match timeout(PATIENCE, one(&mut stream, names, asker)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false) | Err(_)) | Err(_) => return,
        }
    }
}

/// Answers one question; `false` when there will be no other.
async fn one<S>(stream: &mut S, names: &Names, asker: Asker) -> io::Result<bool>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let len = usize::from(stream.read_u16().await?);
    // A longer message is none that would be answered, and need not be read.
    if len > QUERY_LEN_MAX {
        return Ok(false);
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    let Some(answer) = names.answer(&message, asker, Transport::Tcp) else {
        return Ok(false);
    };
    let len = u16::try_from(answer.len()).expect("an answer by TCP has at most 65,535 bytes");
    // In one piece: some clients take the length alone for the whole message.
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend(answer);
    stream.write_all(&framed).await?;
    stream.flush().await?;
    Ok(true)
}
