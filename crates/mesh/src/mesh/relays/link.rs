//! One relay as the mesh keeps it: over what frames go there, and what was seen of it.

use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use types::{Monotonic, NodePrivateKey, SignedRelayTicket};

use super::{
    Link, RelayConfig, RelayView, STREAM_LINGER, Stream, UDP_PATIENCE, UDP_RETRY_MAX, UDP_RETRY_MIN,
    stun_request,
};
use crate::endpoint::SocketNumber;
use crate::mesh::{Datagrams, Output, StreamFrames};
use crate::relay::client::{CONFIRM_TIMEOUT, CONFIRMS_UNANSWERED_MAX, ClientEvent, RelayClient};
use crate::stun;

impl Link {
    pub(in crate::mesh) fn new(
        config: RelayConfig,
        ticket: Option<SignedRelayTicket>,
        private_key: &NodePrivateKey,
        rng: &mut ChaCha20Rng,
    ) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let view = RelayView {
            id: config.id,
            is_up: false,
            is_stream: false,
            observed: None,
            observed_besides: None,
            rtt: None,
            is_draining: false,
        };
        Self {
            client: RelayClient::new(config.id, private_key.clone(), ticket, seed),
            view,
            config,
            address: 0,
            stream: Stream::Closed,
            transport_due: None,
            udp_retry: UDP_RETRY_MIN,
            question: None,
            question_besides: None,
            is_udp_silent: false,
            is_from_stream: false,
        }
    }

    /// How long UDP has to work before something else is done.
    pub(in crate::mesh) fn patience(&self) -> Duration {
        if self.stream == Stream::Leaving {
            STREAM_LINGER
        } else {
            UDP_PATIENCE
        }
    }

    /// Doubts that the relay is still there. It may be, and UDP not: without an answer the other transport is prepared, before
    /// this one is given up.
    pub(in crate::mesh) fn check(&mut self, now: Monotonic) {
        self.client.check(now);
        if self.stream == Stream::Closed && self.client.is_up() {
            let patience = self
                .view
                .rtt
                .map_or(CONFIRM_TIMEOUT, |rtt| CONFIRM_TIMEOUT.max(rtt * 2));
            self.transport_due.get_or_insert(now + patience);
        }
    }

    /// Tells whether the relay passes on what we send by UDP, as far as we know.
    pub(in crate::mesh) fn works_by_udp(&self) -> bool {
        let is_seen = self.view.is_up && self.view.observed.is_some();
        is_seen && !self.view.is_stream && !self.client.is_in_doubt()
    }

    /// Everything goes over the WebSocket from now on.
    pub(in crate::mesh) fn use_stream(&mut self, now: Monotonic) {
        self.stream = Stream::Open;
        self.view.is_stream = true;
        self.transport_due = Some(now + self.next_udp_retry());
        self.client.confirm_anew(2, now);
    }

    pub(in crate::mesh) fn next_udp_retry(&mut self) -> Duration {
        let wait = self.udp_retry;
        self.udp_retry = (wait * 2).min(UDP_RETRY_MAX);
        wait
    }

    pub(in crate::mesh) fn udp(&self) -> Option<SocketAddr> {
        self.config.udp.get(self.address).copied()
    }

    /// Asks how the relay's second port sees us, in the family in which the first one does.
    pub(in crate::mesh) fn ask_besides(&mut self, transaction: stun::TransactionId) -> Option<Output> {
        let udp = self.udp().filter(|_| self.stream != Stream::Open)?;
        let mut ports = self.config.stun.iter();
        let to = ports.find(|port| port.is_ipv4() == udp.is_ipv4())?;
        self.question_besides = Some(transaction);
        Some(stun_request(*to, transaction))
    }

    /// Takes how the second port sees us; returns what tells of it when that is news.
    pub(in crate::mesh) fn seen_besides(&mut self, address: SocketAddr) -> Option<ClientEvent> {
        let before = self.view.observed_besides.replace(address);
        let (observed, rtt) = self.view.observed.zip(self.view.rtt)?;
        (before != Some(address)).then_some(ClientEvent::Confirmed { observed, rtt })
    }

    /// Sends frames over what is in use.
    pub(in crate::mesh) fn output(&self, bytes: Vec<u8>, frame_len: usize) -> Option<Output> {
        if self.stream == Stream::Open {
            return Some(Output::Stream(StreamFrames {
                relay: self.view.id,
                frame_len,
                bytes,
            }));
        }
        Some(Output::Datagrams(Datagrams {
            socket: SocketNumber::MAIN,
            to: self.udp()?,
            segment_len: frame_len,
            bytes,
        }))
    }

    pub(in crate::mesh) fn note(&mut self, event: ClientEvent, now: Monotonic) {
        // A relay that takes us in anew has come back from whatever it announced.
        self.view.is_draining &= !matches!(event, ClientEvent::Up { .. });
        match event {
            ClientEvent::Up { observed, rtt } | ClientEvent::Confirmed { observed, rtt } => {
                self.view.is_up = true;
                self.view.rtt = Some(rtt);
                // What comes late over a WebSocket that is left says nothing of UDP.
                if self.is_from_stream == self.view.is_stream {
                    // Behind a NAT that started anew the second port's answer is of before.
                    let is_same = self.view.observed == Some(observed);
                    self.view.observed_besides = self.view.observed_besides.filter(|_| is_same);
                    self.view.observed = Some(observed);
                }
                if !self.is_from_stream && !self.view.is_stream {
                    self.is_udp_silent = false;
                    self.udp_retry = UDP_RETRY_MIN;
                    self.transport_due = self.transport_due.filter(|_| self.stream == Stream::Leaving);
                }
            }
            ClientEvent::Down => {
                self.view.is_up = false;
                self.view.observed = None;
                self.view.observed_besides = None;
                // The Confirms without an answer have spent most of the patience that UDP has.
                let spent = CONFIRM_TIMEOUT * CONFIRMS_UNANSWERED_MAX;
                let left = if self.view.is_stream {
                    UDP_PATIENCE
                } else {
                    UDP_PATIENCE - spent
                };
                self.transport_due = Some(now + left);
            }
            ClientEvent::Draining { .. } => self.view.is_draining = true,
            ClientEvent::NotHere { .. } | ClientEvent::TooMuch => {}
        }
    }
}
