//! The load on a relay: every pair has a number of datagrams under way, and sends the next ones when these have arrived.

use std::fmt;
use std::time::{Duration, Instant};

use crate::DATAGRAM_BYTES;

/// Datagrams of one batch: what one send may carry, headers included.
pub(crate) const BATCH: u64 = 46;

/// How many datagrams of one pair are under way: few enough for the socket buffers of any relay.
pub(crate) const WINDOW: u64 = 2 * BATCH;

/// After how long without any arrival what is under way counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(20);

/// How datagrams are handed to the system.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// 46 with one call.
    Batches,
    /// Each with a call of its own.
    Singly,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Batches => "batches",
            Self::Singly => "singly",
        })
    }
}

/// What is measured: pairs of clients, and how much processor time their relay has used.
pub(crate) trait Relayed {
    fn pairs(&self) -> usize;
    /// Sends `count` datagrams from one end of a pair to the other.
    fn send(&mut self, pair: usize, count: u64, mode: Mode);
    /// Takes what arrived at the other end: how many datagrams.
    fn receive(&mut self, pair: usize) -> anyhow::Result<u64>;
    /// Does what the protocol wants from time to time.
    fn tick(&mut self);
    fn cpu(&mut self) -> anyhow::Result<Duration>;
}

/// One run.
#[derive(Debug)]
pub(crate) struct Measured {
    span: Duration,
    sent: u64,
    arrived: u64,
    cpu: Duration,
}

impl Measured {
    fn bytes(&self) -> f64 {
        self.arrived as f64 * DATAGRAM_BYTES as f64
    }

    pub(crate) fn gigabits(&self) -> f64 {
        self.bytes() * 8.0 / 1e9 / self.span.as_secs_f64()
    }

    pub(crate) fn kilopackets(&self) -> f64 {
        self.arrived as f64 / 1e3 / self.span.as_secs_f64()
    }

    pub(crate) fn cpu_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes() / 1e9)
    }

    pub(crate) fn lost_percent(&self) -> f64 {
        100.0 * (self.sent - self.arrived) as f64 / self.sent as f64
    }
}

#[derive(Clone, Default)]
struct Flow {
    under_way: u64,
    last: Option<Instant>,
}

/// Loads a relay for `span`.
pub(crate) fn run(relayed: &mut impl Relayed, mode: Mode, span: Duration) -> anyhow::Result<Measured> {
    let mut flows = vec![Flow::default(); relayed.pairs()];
    let (mut sent, mut arrived) = (0, 0);
    let (begun, cpu) = (Instant::now(), relayed.cpu()?);
    while begun.elapsed() < span {
        let mut is_idle = true;
        for (pair, flow) in flows.iter_mut().enumerate() {
            let now = Instant::now();
            let count = relayed.receive(pair)?;
            arrived += count;
            flow.under_way = flow.under_way.saturating_sub(count);
            if count > 0 {
                flow.last = Some(now);
            }
            if flow.last.is_some_and(|last| now - last > LOST_AFTER) {
                flow.under_way = 0;
            }
            if flow.under_way + BATCH <= WINDOW {
                is_idle = false;
                relayed.send(pair, BATCH, mode);
                flow.under_way += BATCH;
                flow.last = Some(now);
                sent += BATCH;
            }
        }
        relayed.tick();
        if is_idle {
            std::thread::yield_now();
        }
    }
    let (span, cpu) = (begun.elapsed(), relayed.cpu()? - cpu);
    arrived += settle(relayed)?;
    Ok(Measured {
        span,
        sent,
        arrived: arrived.min(sent),
        cpu,
    })
}

/// Takes what is still under way, so that it does not count for the next run.
fn settle(relayed: &mut impl Relayed) -> anyhow::Result<u64> {
    let (mut arrived, mut last) = (0, Instant::now());
    while last.elapsed() < LOST_AFTER {
        for pair in 0..relayed.pairs() {
            let count = relayed.receive(pair)?;
            if count > 0 {
                last = Instant::now();
                arrived += count;
            }
        }
    }
    Ok(arrived)
}
