//! A foreign relay of our own: started for the measurement, ended with it, its processor time read from the system.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use e2e::processes::processor_time;

pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts what `command` makes of a free address on this machine.
    pub(crate) fn start(command: impl FnOnce(SocketAddr) -> Command) -> anyhow::Result<Self> {
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = command(address);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the processor time of all its threads so far, of the system's share too.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        processor_time(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
