//! A byte stream inside the mesh, as tokio tasks see it, and the two bounded rings it shares with the engine's thread.
//!
//! Each side holds the lock only to copy bytes. What a full ring means for the other end of the connection is TCP's
//! business: the engine stops reading, the window closes.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use types::NodePublicKey;

use crate::netstack::ConnId;
use crate::wake::Bell;

/// The most bytes that wait in one direction of a stream, in each of its two rings.
pub(crate) const RING_BYTES: usize = 256 * 1024;

/// A peer of the engine for as long as it is one, whatever its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PeerNumber(pub(crate) u64);

/// Where the engine finds a stream. A stale one costs a look at a stream that did not ask for it.
pub(crate) type StreamId = (PeerNumber, ConnId);

/// Why a stream is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamFailure {
    /// The other end cut it, or the peer was removed.
    Reset,
    /// The other end fell silent.
    TimedOut,
    /// The engine has stopped.
    Stopped,
}

impl From<StreamFailure> for io::Error {
    fn from(failure: StreamFailure) -> Self {
        match failure {
            StreamFailure::Reset => Self::new(io::ErrorKind::ConnectionReset, "the peer reset the stream"),
            StreamFailure::TimedOut => Self::new(io::ErrorKind::TimedOut, "the peer fell silent"),
            StreamFailure::Stopped => Self::new(io::ErrorKind::ConnectionAborted, "the mesh has stopped"),
        }
    }
}

/// How tasks tell the engine that streams want attention: a list of each such stream once, and the bell.
#[derive(Debug)]
pub(crate) struct Doorbell {
    pub(crate) bell: Bell,
    streams: Mutex<Vec<StreamId>>,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            bell: Bell::new()?,
            streams: Mutex::new(Vec::new()),
        })
    }

    /// Moves the streams that want attention to the end of `into`.
    pub(crate) fn collect(&self, into: &mut Vec<StreamId>) {
        into.append(&mut lock(&self.streams));
    }

    fn announce(&self, stream: StreamId) {
        lock(&self.streams).push(stream);
        self.bell.ring();
    }
}

/// What a stream's task and the engine share.
#[derive(Debug)]
pub(crate) struct StreamCore {
    id: StreamId,
    doorbell: Arc<Doorbell>,
    announced: AtomicBool,
    rings: Mutex<Rings>,
}

#[derive(Debug, Default)]
struct Rings {
    received: VecDeque<u8>,
    to_send: VecDeque<u8>,
    /// The engine has more than the ring took.
    is_receive_blocked: bool,
    is_ended: bool,
    is_write_shut: bool,
    is_dropped: bool,
    is_reset: bool,
    failure: Option<StreamFailure>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What the task wants of the engine beside bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wishes {
    /// Everything written was taken, and nothing more will be.
    pub(crate) is_write_finished: bool,
    /// Nobody holds the stream any more.
    pub(crate) is_dropped: bool,
    /// The connection is to be cut, not finished.
    pub(crate) is_reset: bool,
}

impl StreamCore {
    pub(crate) fn new(id: StreamId, doorbell: Arc<Doorbell>) -> Arc<Self> {
        Arc::new(Self {
            id,
            doorbell,
            announced: AtomicBool::new(false),
            rings: Mutex::default(),
        })
    }

    /// The engine is about to look: whatever changes from here on must be announced again.
    pub(crate) fn begin_visit(&self) {
        self.announced.swap(false, Ordering::AcqRel);
    }

    /// Lets `fill` append to the received bytes, told how much room there is, and say whether that was the end.
    ///
    /// With `is_last` the room has no limit: the connection is over and its own buffer is bounded.
    pub(crate) fn receive(&self, is_last: bool, fill: impl FnOnce(usize, &mut VecDeque<u8>) -> bool) {
        let mut rings = lock(&self.rings);
        let room = if is_last {
            usize::MAX
        } else {
            RING_BYTES.saturating_sub(rings.received.len())
        };
        let before = rings.received.len();
        let is_ended = fill(room, &mut rings.received);
        let is_news = rings.received.len() > before || (is_ended && !rings.is_ended);
        rings.is_ended |= is_ended;
        rings.is_receive_blocked = !is_ended && rings.received.len() >= RING_BYTES;
        let waker = if is_news { rings.reader.take() } else { None };
        drop(rings);
        wake(waker);
    }

    /// Lets `take` remove bytes to send from the front, and returns what else the task wants.
    pub(crate) fn send(&self, mut take: impl FnMut(&[u8]) -> usize) -> Wishes {
        let mut rings = lock(&self.rings);
        loop {
            let offered = rings.to_send.as_slices().0;
            if offered.is_empty() {
                break;
            }
            let (offered, taken) = (offered.len(), take(offered));
            rings.to_send.drain(..taken);
            if taken < offered {
                break;
            }
        }
        // Half empty, so that a fast writer is not woken for every acknowledged packet.
        let waker = if rings.to_send.len() <= RING_BYTES / 2 {
            rings.writer.take()
        } else {
            None
        };
        let wishes = Wishes {
            is_write_finished: (rings.is_write_shut || rings.is_dropped) && rings.to_send.is_empty(),
            is_dropped: rings.is_dropped,
            is_reset: rings.is_reset,
        };
        drop(rings);
        wake(waker);
        wishes
    }

    /// Ends the stream for good; what was received before can still be read unless `forget` is set.
    pub(crate) fn fail(&self, failure: StreamFailure, forget: bool) {
        let mut rings = lock(&self.rings);
        rings.failure.get_or_insert(failure);
        rings.to_send = VecDeque::new();
        if forget {
            rings.received = VecDeque::new();
            rings.is_ended = false;
        }
        let wakers = (rings.reader.take(), rings.writer.take());
        drop(rings);
        wake(wakers.0);
        wake(wakers.1);
    }

    /// Nothing more may be written; what was written still goes out.
    pub(crate) fn shut_write(&self) {
        lock(&self.rings).is_write_shut = true;
    }

    fn announce(&self) {
        if !self.announced.swap(true, Ordering::AcqRel) {
            self.doorbell.announce(self.id);
        }
    }
}

/// A byte stream to a peer: TCP inside the tunnel, so encrypted and authenticated by the peer's key.
///
/// Dropping it sends what was written and then says goodbye. Shutting down the writing half leaves the reading half open.
/// At most 256 KiB wait in each direction beside TCP's own window.
#[derive(Debug)]
pub struct MeshStream {
    core: Arc<StreamCore>,
    peer: NodePublicKey,
    local: SocketAddr,
    remote: SocketAddr,
}

impl MeshStream {
    pub(crate) fn new(core: Arc<StreamCore>, peer: NodePublicKey, ends: (SocketAddr, SocketAddr)) -> Self {
        Self {
            core,
            peer,
            local: ends.0,
            remote: ends.1,
        }
    }

    /// Returns the key that the node at the other end had when the stream was opened: proven, not claimed.
    #[must_use]
    pub fn peer(&self) -> NodePublicKey {
        self.peer
    }

    /// Cuts the stream: what was written and has not left is lost, and both ends read an error, not an end.
    pub fn reset(&mut self) {
        self.core.fail(StreamFailure::Reset, true);
        lock(&self.core.rings).is_reset = true;
        self.core.announce();
    }

    /// Returns our mesh address and port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns the other end's mesh address and port.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut rings = lock(&self.core.rings);
        if rings.received.is_empty() {
            if rings.is_ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(failure) = rings.failure {
                return Poll::Ready(Err(failure.into()));
            }
            rings.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while buf.remaining() > 0 && !rings.received.is_empty() {
            let front = rings.received.as_slices().0;
            let taken = front.len().min(buf.remaining());
            buf.put_slice(&front[..taken]);
            rings.received.drain(..taken);
        }
        let wants_more = rings.is_receive_blocked && rings.received.len() <= RING_BYTES / 2;
        if wants_more {
            rings.is_receive_blocked = false;
        }
        drop(rings);
        if wants_more {
            self.core.announce();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut rings = lock(&self.core.rings);
        if let Some(failure) = rings.failure {
            return Poll::Ready(Err(failure.into()));
        }
        if rings.is_write_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = RING_BYTES.saturating_sub(rings.to_send.len());
        if room == 0 && !bytes.is_empty() {
            rings.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = room.min(bytes.len());
        rings.to_send.extend(&bytes[..taken]);
        drop(rings);
        self.core.announce();
        Poll::Ready(Ok(taken))
    }

    /// Does nothing: what was written is on its way already.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.core.rings).is_write_shut = true;
        self.core.announce();
        Poll::Ready(Ok(()))
    }
}

impl Drop for MeshStream {
    fn drop(&mut self) {
        lock(&self.core.rings).is_dropped = true;
        self.core.announce();
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A panic while holding one of these locks leaves at worst a copy half done on a stream that fails anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use types::NodePrivateKey;

    use super::*;

    /// A task that counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn woken(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    fn stream() -> (MeshStream, Arc<Doorbell>) {
        let doorbell = Arc::new(Doorbell::new().expect("doorbell"));
        let key = NodePrivateKey::from_random([1; 32]).public();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let core = StreamCore::new((PeerNumber(0), ConnId(0)), doorbell.clone());
        (MeshStream::new(core, key, (nowhere, nowhere)), doorbell)
    }

    fn read(stream: &mut MeshStream, task: &Arc<Task>, len: usize) -> Poll<io::Result<usize>> {
        let waker = Waker::from(task.clone());
        let mut bytes = vec![0; len];
        let mut buffer = ReadBuf::new(&mut bytes);
        let polled = Pin::new(stream).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        polled.map_ok(|()| buffer.filled().len())
    }

    fn write(stream: &mut MeshStream, task: &Arc<Task>, len: usize) -> Poll<io::Result<usize>> {
        let waker = Waker::from(task.clone());
        Pin::new(stream).poll_write(&mut Context::from_waker(&waker), &vec![0; len])
    }

    fn fill(core: &StreamCore, count: usize) {
        core.receive(false, |room, ring| {
            ring.extend(std::iter::repeat_n(7, count.min(room)));
            false
        });
    }

    #[test]
    fn a_reader_and_a_writer_in_different_tasks_are_woken_each_for_its_own() {
        let (mut stream, _) = stream();
        let (reader, writer) = (Arc::new(Task::default()), Arc::new(Task::default()));
        assert!(read(&mut stream, &reader, 10).is_pending());
        assert!(matches!(
            write(&mut stream, &writer, 2 * RING_BYTES),
            Poll::Ready(Ok(RING_BYTES))
        ));
        assert!(write(&mut stream, &writer, 1).is_pending());
        let core = stream.core.clone();
        core.send(|_| 10);
        assert_eq!(
            (reader.woken(), writer.woken()),
            (0, 0),
            "room for a few bytes is worth no wake-up"
        );
        core.send(|bytes| bytes.len());
        assert_eq!((reader.woken(), writer.woken()), (0, 1));
        fill(&core, 1);
        assert_eq!((reader.woken(), writer.woken()), (1, 0));
        assert!(matches!(read(&mut stream, &reader, 10), Poll::Ready(Ok(1))));

        assert!(read(&mut stream, &reader, 10).is_pending());
        assert!(matches!(
            write(&mut stream, &writer, RING_BYTES),
            Poll::Ready(Ok(_))
        ));
        assert!(write(&mut stream, &writer, 1).is_pending());
        core.fail(StreamFailure::Reset, false);
        assert_eq!((reader.woken(), writer.woken()), (1, 1));
        assert!(matches!(read(&mut stream, &reader, 10), Poll::Ready(Err(_))));
        assert!(matches!(write(&mut stream, &writer, 1), Poll::Ready(Err(_))));
    }

    #[test]
    fn the_engine_is_told_of_room_and_of_every_change_after_its_last_visit() {
        let (mut stream, doorbell) = stream();
        let task = Arc::new(Task::default());
        let mut announced = Vec::new();
        let mut told = |core: &StreamCore| {
            announced.clear();
            doorbell.collect(&mut announced);
            core.begin_visit();
            announced.len()
        };
        let core = stream.core.clone();
        fill(&core, 2 * RING_BYTES);
        assert!(matches!(read(&mut stream, &task, 10), Poll::Ready(Ok(10))));
        assert_eq!(told(&core), 0, "not for a little room");
        assert!(matches!(
            read(&mut stream, &task, RING_BYTES / 2),
            Poll::Ready(Ok(_))
        ));
        assert_eq!(told(&core), 1);
        for _ in 0..3 {
            assert!(matches!(write(&mut stream, &task, 1), Poll::Ready(Ok(1))));
        }
        assert_eq!(told(&core), 1, "once for all that came before the visit");
        assert!(matches!(write(&mut stream, &task, 1), Poll::Ready(Ok(1))));
        assert_eq!(told(&core), 1, "and again for what came after");
        drop(stream);
        assert_eq!(told(&core), 1);
        assert!(core.send(|bytes| bytes.len()).is_dropped);
    }
}
