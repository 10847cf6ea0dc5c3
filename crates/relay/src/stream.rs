//! What the thread of a relay and a WebSocket share: two bounded queues, and a list of who has something to say.
//!
//! A WebSocket that sends faster than the thread takes waits, and so does its peer. One that takes more slowly than is sent
//! to it loses what its queue has no room for. Neither holds up anybody else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mesh::relay::server::Source;
use net::wake::Bell;
use tokio::sync::mpsc::{self, error::TryRecvError};
use types::Monotonic;

/// How many bytes wait at most for one WebSocket: some 700 full datagrams.
pub const QUEUED_BYTES_MAX: usize = 1024 * 1024;

/// How many runs of frames those bytes may be.
const QUEUED_RUNS_MAX: usize = 1024;

/// How many frames of one WebSocket wait for the thread; then its peer has to.
const INCOMING_FRAMES_MAX: usize = 64;

/// How many frames of one WebSocket the thread takes in one turn before the others have theirs.
const FRAMES_PER_TURN: usize = 32;

/// Why no WebSocket can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There are as many as there may be.
    #[error("the relay has too many streams")]
    Full,
    /// It takes nobody new.
    #[error("the relay is about to stop")]
    Draining,
    /// It has stopped.
    #[error("the relay has stopped")]
    Stopped,
}

/// One WebSocket's two ends at the relay. Dropping the first closes both.
#[derive(Debug)]
pub struct Stream {
    /// Where frames from the client go in.
    pub incoming: StreamSender,
    /// Where frames for the client come out.
    pub outgoing: StreamReceiver,
}

/// Takes frames of a client to the relay.
#[derive(Debug)]
pub struct StreamSender {
    frames: Option<mpsc::Sender<Bytes>>,
    notice: Notice,
}

/// Takes frames of the relay to a client.
#[derive(Debug)]
pub struct StreamReceiver {
    runs: mpsc::Receiver<Run>,
    queued: Arc<AtomicUsize>,
    /// What is left of the run that was begun, and the length of its frames.
    begun: Bytes,
    frame_len: usize,
}

/// Frames back to back, each `frame_len` bytes, the last may be shorter.
#[derive(Debug)]
struct Run {
    bytes: Bytes,
    frame_len: usize,
}

/// Tells the thread once that a stream has something for it.
#[derive(Debug, Clone)]
struct Notice {
    id: u64,
    is_given: Arc<AtomicBool>,
    // Without a bound of its own: each stream is in it once at most, and streams are limited.
    ready: mpsc::UnboundedSender<u64>,
    bell: Arc<Bell>,
}

impl StreamSender {
    /// Hands a frame to the relay; waits while there are too many before it. Returns whether the stream is still open.
    pub async fn send(&self, frame: Bytes) -> bool {
        let Some(frames) = &self.frames else {
            return false;
        };
        let is_open = frames.send(frame).await.is_ok();
        self.notice.give();
        is_open
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        self.frames = None;
        self.notice.give();
    }
}

impl StreamReceiver {
    /// Returns the next frame; `None` when the relay has closed the stream.
    pub async fn recv(&mut self) -> Option<Bytes> {
        if self.begun.is_empty() {
            let run = self.runs.recv().await?;
            self.begin(run);
        }
        Some(self.next())
    }

    /// Returns the next frame if one is there already.
    pub fn try_recv(&mut self) -> Option<Bytes> {
        if self.begun.is_empty() {
            let run = self.runs.try_recv().ok()?;
            self.begin(run);
        }
        Some(self.next())
    }

    fn begin(&mut self, run: Run) {
        self.queued.fetch_sub(run.bytes.len(), Ordering::AcqRel);
        self.begun = run.bytes;
        self.frame_len = run.frame_len;
    }

    fn next(&mut self) -> Bytes {
        self.begun.split_to(self.frame_len.min(self.begun.len()))
    }
}

impl Notice {
    fn give(&self) {
        if !self.is_given.swap(true, Ordering::AcqRel) {
            // Without a thread there is nobody to tell.
            let _ = self.ready.send(self.id);
            self.bell.ring();
        }
    }
}

/// The thread's side of every WebSocket.
#[derive(Debug)]
pub(crate) struct Streams {
    all: BTreeMap<u64, Entry>,
    next_id: u64,
    ready: mpsc::UnboundedReceiver<u64>,
    ready_sender: mpsc::UnboundedSender<u64>,
    bell: Arc<Bell>,
    max: usize,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    incoming: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Run>,
    queued: Arc<AtomicUsize>,
    notice: Notice,
    /// When it was last seen to be a client's; at first, when it was opened.
    bound_at: Monotonic,
}

/// What one stream had for the thread.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Its source; `None` when it is gone.
    pub(crate) source: Option<Source>,
    /// The frames it sent.
    pub(crate) frames: Vec<Bytes>,
    /// Whether it has just been closed.
    pub(crate) is_closed: bool,
}

impl Streams {
    pub(crate) fn new(bell: Arc<Bell>, max: usize) -> Self {
        let (ready_sender, ready) = mpsc::unbounded_channel();
        Self {
            all: BTreeMap::new(),
            next_id: 0,
            ready,
            ready_sender,
            bell,
            max,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn open(&mut self, remote: SocketAddr, now: Monotonic) -> Result<Stream, OpenError> {
        if self.all.len() >= self.max {
            return Err(OpenError::Full);
        }
        let id = self.next_id;
        self.next_id += 1;
        let (incoming_sender, incoming) = mpsc::channel(INCOMING_FRAMES_MAX);
        let (outgoing, runs) = mpsc::channel(QUEUED_RUNS_MAX);
        let notice = Notice {
            id,
            is_given: Arc::default(),
            ready: self.ready_sender.clone(),
            bell: self.bell.clone(),
        };
        let queued = Arc::<AtomicUsize>::default();
        let entry = Entry {
            source: Source::Stream { id, remote },
            incoming,
            outgoing,
            queued: queued.clone(),
            notice: notice.clone(),
            bound_at: now,
        };
        self.all.insert(id, entry);
        Ok(Stream {
            incoming: StreamSender {
                frames: Some(incoming_sender),
                notice,
            },
            outgoing: StreamReceiver {
                runs,
                queued,
                begun: Bytes::new(),
                frame_len: 1,
            },
        })
    }

    /// Returns how many streams have something now; each may be asked once by [`Streams::take_next`] in this turn.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Takes what the next stream has, up to a limit; what is beyond it comes in a later turn.
    pub(crate) fn take_next(&mut self) -> Taken {
        let mut taken = Taken::default();
        let Some(entry) = self.ready.try_recv().ok().and_then(|id| self.all.get_mut(&id)) else {
            return taken;
        };
        taken.source = Some(entry.source);
        // Before the queue is looked at: what comes later gives notice again.
        entry.notice.is_given.store(false, Ordering::Release);
        loop {
            if taken.frames.len() == FRAMES_PER_TURN {
                entry.notice.give();
                return taken;
            }
            match entry.incoming.try_recv() {
                Ok(frame) => taken.frames.push(frame),
                Err(TryRecvError::Empty) => return taken,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        taken.is_closed = true;
        let id = entry.notice.id;
        self.all.remove(&id);
        taken
    }

    /// Queues frames for a stream; returns whether there was room.
    pub(crate) fn forward(&mut self, id: u64, frames: &[u8], frame_len: usize) -> bool {
        let Some(entry) = self.all.get(&id) else {
            return false;
        };
        if entry.queued.load(Ordering::Acquire) + frames.len() > QUEUED_BYTES_MAX {
            return false;
        }
        let Ok(place) = entry.outgoing.try_reserve() else {
            return false;
        };
        // Only this thread adds; counted before the other end can take it off again.
        entry.queued.fetch_add(frames.len(), Ordering::AcqRel);
        place.send(Run {
            bytes: Bytes::copy_from_slice(frames),
            frame_len,
        });
        true
    }

    /// Closes every stream that has not been a client's for `max`, and returns how many.
    pub(crate) fn sweep(
        &mut self,
        is_bound: impl Fn(Source) -> bool,
        max: Duration,
        now: Monotonic,
    ) -> usize {
        let before = self.all.len();
        self.all.retain(|_, entry| {
            if is_bound(entry.source) {
                entry.bound_at = now;
            }
            now.since(entry.bound_at) < max
        });
        before - self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn streams() -> Streams {
        Streams::new(Arc::new(Bell::new().expect("bell")), 2)
    }

    fn open(streams: &mut Streams) -> Stream {
        let remote = "192.0.2.1:1".parse().expect("address");
        streams.open(remote, Monotonic::ZERO).expect("room")
    }

    #[test]
    fn there_are_no_more_streams_than_allowed() {
        let mut streams = streams();
        let first = open(&mut streams);
        let _second = open(&mut streams);
        let remote = "192.0.2.1:1".parse().expect("address");
        assert!(matches!(
            streams.open(remote, Monotonic::ZERO),
            Err(OpenError::Full)
        ));
        drop(first);
        assert!(streams.take_next().is_closed);
        open(&mut streams);
    }

    #[test]
    fn one_that_takes_nothing_has_no_more_than_its_limit_waiting_and_goes_on_when_it_takes() {
        let mut streams = streams();
        let mut stream = open(&mut streams);
        let frames = vec![0; 64 * 1000];
        let mut taken = 0;
        while streams.forward(0, &frames, 1000) {
            taken += frames.len();
        }
        assert!(taken <= QUEUED_BYTES_MAX && taken > QUEUED_BYTES_MAX / 2);
        let mut small = 0;
        while streams.forward(0, &[0], 1) {
            small += 1;
        }
        assert!(small <= QUEUED_RUNS_MAX);
        let mut received = 0;
        while let Some(frame) = stream.outgoing.try_recv() {
            received += frame.len();
        }
        assert_eq!(received, taken + small);
        assert!(streams.forward(0, &frames, 1000));
    }

    #[test]
    fn a_flood_waits_while_others_have_their_turn() {
        let mut streams = streams();
        let (loud, quiet) = (open(&mut streams), open(&mut streams));
        let mut sent = 0;
        while loud.incoming.send(Bytes::from_static(b"x")).now_or_never() == Some(true) {
            sent += 1;
        }
        assert_eq!(sent, INCOMING_FRAMES_MAX);
        assert_eq!(
            quiet.incoming.send(Bytes::from_static(b"y")).now_or_never(),
            Some(true)
        );
        assert_eq!(streams.ready_count(), 2);
        assert_eq!(streams.take_next().frames.len(), FRAMES_PER_TURN);
        assert_eq!(streams.take_next().frames, [Bytes::from_static(b"y")]);
        assert_eq!(streams.take_next().frames.len(), FRAMES_PER_TURN);
    }

    #[tokio::test]
    async fn one_that_is_no_clients_is_closed_in_time_and_no_other() {
        let mut streams = streams();
        let (mut bound, mut unbound) = (open(&mut streams), open(&mut streams));
        let is_bound = |source| matches!(source, Source::Stream { id: 0, .. });
        let at = |secs| Monotonic::ZERO + Duration::from_secs(secs);
        let max = Duration::from_secs(10);
        assert_eq!(streams.sweep(is_bound, max, at(9)), 0);
        assert_eq!(streams.sweep(is_bound, max, at(10)), 1);
        assert_eq!(unbound.outgoing.recv().await, None);
        assert!(!unbound.incoming.send(Bytes::new()).await);
        assert!(streams.forward(0, b"x", 1));
        assert_eq!(bound.outgoing.recv().await, Some(Bytes::from_static(b"x")));
        // It stopped being one just after 10 s.
        assert_eq!(streams.sweep(|_| false, max, at(19)), 0);
        assert_eq!(streams.sweep(|_| false, max, at(20)), 1);
    }
}
