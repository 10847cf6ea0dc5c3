//! The network device that smoltcp sees during one call.

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::Packets;

/// What smoltcp sees as its network device during one call: at most one packet in, a batch out.
pub(super) struct Link<'a> {
    mtu: usize,
    incoming: Option<&'a [u8]>,
    out: Option<&'a mut Packets>,
}

impl<'a> Link<'a> {
    pub(super) fn new(mtu: usize, incoming: Option<&'a [u8]>, out: Option<&'a mut Packets>) -> Self {
        Self { mtu, incoming, out }
    }

    pub(super) fn is_full(&self) -> bool {
        self.out.as_ref().is_none_or(|out| out.is_full())
    }
}

impl Device for Link<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let incoming = Incoming(self.incoming.take()?);
        Some((incoming, Outgoing(self.out.as_deref_mut()?)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        // No question here of whether the batch is full: sockets are asked in the same order every time, and one that is told
        // so is told so again.
        self.out.as_deref_mut().map(Outgoing)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // Every packet that comes in was just authenticated by the tunnel: no bit of it can have changed on the way.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Outgoing<'a>(&'a mut Packets);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.push_with(len, f)
    }
}
