//! Foreign WireGuards without a device of the system: what they make of a packet or a datagram, handed in and out by the test.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use types::{NodePrivateKey, NodePublicKey};

/// What is to be sent in answer to a datagram, and the packet that was in it.
pub(crate) type Received = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// One end of a tunnel with one peer.
pub(crate) trait Bare {
    /// Seals a packet, or begins a handshake for it: what is to be sent.
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>>;
    /// Takes a datagram.
    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<Received>;
}

/// Cloudflare's.
pub(crate) struct Boringtun(boringtun::noise::Tunn);

impl Boringtun {
    pub(crate) fn new(key: &NodePrivateKey, peer: &NodePublicKey) -> Self {
        Self(boringtun::noise::Tunn::new(
            boringtun::x25519::StaticSecret::from(*key.expose()),
            boringtun::x25519::PublicKey::from(*peer.as_bytes()),
            None,
            None,
            5,
            None,
        ))
    }
}

impl Bare for Boringtun {
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        match self.0.encapsulate(packet, &mut [0; 2048]) {
            boringtun::noise::TunnResult::WriteToNetwork(datagram) => vec![datagram.to_vec()],
            _ => Vec::new(),
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<Received> {
        use boringtun::noise::TunnResult;
        use boringtun::noise::errors::WireGuardError;
        let (mut answers, mut input) = (Vec::new(), datagram);
        loop {
            match self.0.decapsulate(Some(from.ip()), input, &mut [0; 2048]) {
                TunnResult::WriteToNetwork(answer) => answers.push(answer.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) => return Ok((answers, Some(packet.to_vec()))),
                // Probes are no IP packets, and another WireGuard drops them.
                TunnResult::Done | TunnResult::Err(WireGuardError::InvalidPacket) => {
                    return Ok((answers, None));
                }
                other => bail!("boringtun refuses it: {other:?}"),
            }
            input = &[];
        }
    }
}

/// Mullvad's.
pub(crate) struct Gotatun {
    tunnel: gotatun::noise::Tunn,
    /// What waits for the handshake.
    waiting: Vec<Vec<u8>>,
}

impl Gotatun {
    pub(crate) fn new(key: &NodePrivateKey, peer: &NodePublicKey) -> Self {
        use gotatun::noise::index_table::IndexTable;
        use gotatun::noise::rate_limiter::RateLimiter;
        use gotatun::x25519::{PublicKey, StaticSecret};
        let private = StaticSecret::from(*key.expose());
        let limiter = RateLimiter::new(&PublicKey::from(&private), 100);
        let peer = PublicKey::from(*peer.as_bytes());
        let indices = IndexTable::from_os_rng();
        Self {
            tunnel: gotatun::noise::Tunn::new(private, peer, None, None, indices, Arc::new(limiter)),
            waiting: Vec::new(),
        }
    }
}

impl Bare for Gotatun {
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let sealed = self
            .tunnel
            .encapsulate_with_session(gotatun::packet::Packet::copy_from(packet));
        let sealed = sealed.map(|data| data.into_bytes().to_vec());
        let datagram = sealed.ok().or_else(|| {
            self.waiting.push(packet.to_vec());
            let initiation = self.tunnel.format_handshake_initiation(false)?;
            Some(initiation.into_bytes().to_vec())
        });
        datagram.into_iter().collect()
    }

    fn receive(&mut self, _: SocketAddr, datagram: &[u8]) -> Result<Received> {
        use gotatun::noise::TunnResult;
        use gotatun::packet::Packet;
        let datagram = Packet::copy_from(datagram).try_into_wg();
        let datagram = datagram.map_err(|error| anyhow::anyhow!("gotatun cannot read it: {error}"))?;
        match self.tunnel.handle_incoming_packet(datagram) {
            TunnResult::WriteToNetwork(answer) => {
                let mut answers = vec![Packet::from(answer).to_vec()];
                for packet in std::mem::take(&mut self.waiting) {
                    answers.extend(self.send(&packet));
                }
                Ok((answers, None))
            }
            TunnResult::WriteToTunnel(packet) => Ok((Vec::new(), unpadded(&packet))),
            TunnResult::Done => Ok((Vec::new(), None)),
            TunnResult::Err(error) => bail!("gotatun refuses it: {error:?}"),
        }
    }
}

/// What gotatun's device does after its protocol: it takes padding off IPv4. What is empty is a keepalive; what has no version
/// of IP is a probe, and dropped.
fn unpadded(packet: &[u8]) -> Option<Vec<u8>> {
    let len = u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]);
    let packet = packet.get(..usize::from(len))?;
    (packet.first()? >> 4 == 4).then(|| packet.to_vec())
}
