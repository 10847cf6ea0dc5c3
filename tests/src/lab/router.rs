//! A router that opens ports when it is asked: miniupnpd, which is what many home routers have.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::namespace::Namespace;
use super::nat::Nat;

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

/// Opens ports. Dropping it ends that.
#[derive(Debug)]
pub(super) struct OpensPorts {
    child: Child,
    config: PathBuf,
}

impl OpensPorts {
    /// Starts it on a router whose rules have the chains for it.
    pub(super) fn start(router: &Namespace, number: u16, nat: Nat) -> Result<Self> {
        let outer = outer(number);
        router.ip(&format!("addr add {outer}/32 dev wan\n"))?;
        let has_upnp = nat == Nat::SymmetricWithUpnp;
        let yes = |is_so: bool| if is_so { "yes" } else { "no" };
        let text = format!(
            "ext_ifname=wan\next_ip={outer}\nlistening_ip=lan\nport={PORT}\nenable_upnp={}\nenable_natpmp={}\nsecure_mode=yes\n\
             uuid=00000000-0000-0000-0000-0000000000{number:02}\nupnp_table_name=site\nupnp_nat_table_name=site\n\
             upnp_forward_chain=opened\nupnp_nat_chain=lead_in\nupnp_nat_postrouting_chain=lead_out\n\
             allow 1024-65535 192.168.1.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            yes(has_upnp),
            yes(!has_upnp),
        );
        let config = std::env::temp_dir().join(format!("{}-{PROGRAM}.conf", router.name()));
        std::fs::write(&config, text).context("configure a router")?;
        let pid = config.with_extension("pid");
        let words = [
            "-d",
            "-f",
            &config.to_string_lossy(),
            "-P",
            &pid.to_string_lossy(),
        ];
        let mut command = router.command(PROGRAM, &words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("start miniupnpd")?;
        let service = Self { child, config };
        service.wait(router, has_upnp)?;
        Ok(service)
    }

    /// Waits until it answers: its port of HTTP, or a question for the outer address (RFC 6886 section 3.2).
    fn wait(&self, router: &Namespace, has_upnp: bool) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        let answers = || {
            if has_upnp {
                return TcpStream::connect(("192.168.1.1", PORT)).map(|_| ());
            }
            let socket = UdpSocket::bind(("192.168.1.1", 0))?;
            socket.set_read_timeout(Some(PAUSE))?;
            socket.connect(("192.168.1.1", 5351))?;
            socket.send(&[0, 0])?;
            socket.recv(&mut [0; 12]).map(|_| ())
        };
        while router.within(answers)?.is_err() {
            ensure!(Instant::now() < deadline, "miniupnpd does not start");
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for OpensPorts {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
        let _ = std::fs::remove_file(self.config.with_extension("pid"));
    }
}
