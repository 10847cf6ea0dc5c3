//! A router that opens ports when it is asked: miniupnpd, which is what many home routers have.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::namespace::Namespace;
use super::nat::Nat;
use crate::processes::send_signal;

/// The program.
pub(super) const PROGRAM: &str = "miniupnpd";

/// Where it speaks HTTP; SSDP, PCP and NAT-PMP have ports of their own.
const PORT: u16 = 5000;

/// How long to wait before it is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(5);

/// Returns the outer address at which such a router opens ports. miniupnpd opens none at addresses for documentation, which all
/// others of the lab are; this one, too, is nobody's in there.
pub(super) fn outer(number: u16) -> Ipv4Addr {
    Ipv4Addr::new(11, 0, 0, number.to_le_bytes()[0])
}

/// The shortest and the longest time for which PCP opens a port here, in seconds: nodes take no shorter one, and miniupnpd
/// takes no two that are the same.
const PCP_LIFETIME_SECONDS: [u32; 2] = [120, 121];

/// Opens ports. Dropping it ends that.
#[derive(Debug)]
pub struct OpensPorts {
    child: Child,
    config: PathBuf,
    router: Arc<Namespace>,
    has_upnp: bool,
    inside: Ipv4Addr,
}

impl OpensPorts {
    /// Starts it on a router whose rules have the chains for it, and whose network has this number inside.
    pub(super) fn start(router: &Arc<Namespace>, number: u16, subnet: u16, nat: Nat) -> Result<Self> {
        let outer = outer(number);
        router.ip(&format!("addr add {outer}/32 dev wan\n"))?;
        let has_upnp = nat == Nat::SymmetricWithUpnp;
        let yes = |is_so: bool| if is_so { "yes" } else { "no" };
        let config = std::env::temp_dir().join(format!("{}-{PROGRAM}.conf", router.name()));
        let leases = config.with_extension("leases");
        let [shortest, longest] = PCP_LIFETIME_SECONDS;
        let text = format!(
            "ext_ifname=wan\next_ip={outer}\nlistening_ip=lan\nport={PORT}\nenable_upnp={}\nenable_natpmp={}\nsecure_mode=yes\n\
             uuid=00000000-0000-0000-0000-0000000000{number:02}\nupnp_table_name=site\nupnp_nat_table_name=site\n\
             upnp_forward_chain=opened\nupnp_nat_chain=lead_in\nupnp_nat_postrouting_chain=lead_out\n\
             min_lifetime={shortest}\nmax_lifetime={longest}\nlease_file={}\n\
             allow 1024-65535 192.168.{subnet}.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            yes(has_upnp),
            yes(!has_upnp),
            leases.display(),
        );
        std::fs::write(&config, text).context("configure a router")?;
        let service = Self {
            child: spawn(router, &config)?,
            config,
            router: Arc::clone(router),
            has_upnp,
            inside: Ipv4Addr::new(192, 168, subnet.to_le_bytes()[0], 1),
        };
        service.answers()?;
        Ok(service)
    }

    /// Ends it, has it forget every port that is open, and starts it again.
    pub fn begin_anew(&mut self) -> Result<()> {
        self.end();
        let _ = std::fs::remove_file(self.leases());
        for chain in ["opened", "lead_in", "lead_out"] {
            self.router.nft(&format!("flush chain inet site {chain}\n"))?;
        }
        self.child = spawn(&self.router, &self.config)?;
        self.answers()
    }

    /// Has it hear nothing, and what it is asked wait.
    pub fn pause(&self) -> Result<()> {
        send_signal(&self.child, "STOP")
    }

    /// Has it hear again, and answers what waits; returns when it has.
    pub fn resume(&self) -> Result<()> {
        send_signal(&self.child, "CONT")?;
        self.answers()
    }

    /// Returns the outer ports that are open, each with the moment at which it closes, in seconds since 1970.
    pub fn opened(&self) -> Result<Vec<(u16, u64)>> {
        // Of the form UDP:OUTER:ADDRESS:INNER:END:DESCRIPTION.
        let text = match std::fs::read_to_string(self.leases()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.context("read the ports of a router")?,
        };
        let read = |line: &str| {
            let mut fields = line.split(':');
            let outer = fields.nth(1)?.parse().ok()?;
            Some((outer, fields.nth(2)?.parse().ok()?))
        };
        text.lines()
            .map(|line| read(line).with_context(|| format!("read `{line}`")))
            .collect()
    }

    /// Returns how many rules lead strangers inside.
    pub fn rules(&self) -> Result<usize> {
        let mut nft = self
            .router
            .command("nft", &["list", "chain", "inet", "site", "lead_in"]);
        let listed = String::from_utf8(nft.output().context("start nft")?.stdout)?;
        Ok(listed.matches(" dnat ").count())
    }

    fn leases(&self) -> PathBuf {
        self.config.with_extension("leases")
    }

    /// Waits until it answers: its port of HTTP, or a question for the outer address (RFC 6886 section 3.2). What was asked
    /// before is done then.
    fn answers(&self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        let (inside, has_upnp) = (self.inside, self.has_upnp);
        let answers = || {
            if has_upnp {
                return TcpStream::connect((inside, PORT)).map(|_| ());
            }
            let socket = UdpSocket::bind((inside, 0))?;
            socket.set_read_timeout(Some(PAUSE))?;
            socket.connect((inside, 5351))?;
            socket.send(&[0, 0])?;
            socket.recv(&mut [0; 12]).map(|_| ())
        };
        while self.router.within(answers)?.is_err() {
            ensure!(Instant::now() < deadline, "miniupnpd does not answer");
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(router: &Namespace, config: &Path) -> Result<Child> {
    let pid = config.with_extension("pid");
    let words = [
        "-d",
        "-f",
        &config.to_string_lossy(),
        "-P",
        &pid.to_string_lossy(),
    ];
    let mut command = router.command(PROGRAM, &words);
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.spawn().context("start miniupnpd")
}

impl Drop for OpensPorts {
    fn drop(&mut self) {
        self.end();
        let _ = std::fs::remove_file(&self.config);
        for extension in ["pid", "leases"] {
            let _ = std::fs::remove_file(self.config.with_extension(extension));
        }
    }
}
