//! A certificate authority of a world's own, and the proxy that ends TLS before a control plane, as people put one there.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::namespace::Namespace;
use super::world::{CONTROL_HOST, RELAY_HOSTS};

/// The program that ends TLS.
pub(super) const PROGRAM: &str = "socat";

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(5);

/// Files that belong together.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    /// The authority's certificate: what a node must trust.
    pub(super) authority: PathBuf,
    /// A certificate for every server of a world, and its key.
    pub(super) server: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file.
    both: PathBuf,
}

impl Certificates {
    /// Makes an authority that nobody else trusts, and has it issue one certificate.
    pub(super) fn issue(dir: &Path) -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate()?;
        let names = [CONTROL_HOST, RELAY_HOSTS[0], RELAY_HOSTS[1]].map(str::to_owned);
        let server = CertificateParams::new(names)?.signed_by(&key, &issuer)?.pem();
        let key = key.serialize_pem();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {name}"))?;
            anyhow::Ok(path)
        };
        Ok(Self {
            authority: write("authority.pem", &authority)?,
            server: write("server.pem", &server)?,
            key: write("server-key.pem", &key)?,
            both: write("server-both.pem", &(server + &key))?,
        })
    }
}

/// Ends TLS on a machine's port 443. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Proxy(Child);

impl Proxy {
    /// Starts it before a server at a port of the machine's loopback, and waits until it takes connections.
    pub(super) fn start(machine: &Namespace, certificates: &Certificates, to: u16) -> Result<Self> {
        let both = certificates.both.display();
        let listen = format!("OPENSSL-LISTEN:443,pf=ip6,ipv6only=0,reuseaddr,fork,verify=0,cert={both}");
        let mut command = machine.command(PROGRAM, &[&listen, &format!("TCP4:127.0.0.1:{to}")]);
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let proxy = Self(quiet.spawn().context("start socat")?);
        let deadline = Instant::now() + START_MAX;
        let connects = || TcpStream::connect((Ipv4Addr::LOCALHOST, 443)).is_ok();
        while !machine.within(connects)? {
            ensure!(Instant::now() < deadline, "socat does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its children, one a connection, end with the namespace.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
