//! A node of the lab, and streams through it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::platform::{Platform, start};
use super::world::Site;
use crate::processes::{Process, Runmesh, STEP_TIMEOUT, text};

/// The port that every device offers to its peers.
pub const EXPOSED: u16 = 7000;

/// The port of its own at which a device takes streams for its peer.
const LOCAL: u16 = 7001;

/// How long a first byte may take before a cell counts as not connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long nothing may come back on a stream before it counts as ended: longer than anything of the lab is away.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A device at a site. Dropping it ends it.
#[derive(Debug)]
pub struct Device {
    /// What the org calls it.
    pub name: String,
    /// The site; its host echoes what is exposed.
    pub site: Site,
    up: Process,
    /// `runmesh expose` and `runmesh forward`.
    ports: Vec<Process>,
    /// The program, on the device's host.
    program: Runmesh,
    state_dir: PathBuf,
}

/// How a device reaches a peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathSeen {
    /// `direct` or `relay`; empty when it is not reached.
    pub kind: String,
    /// The word that says why.
    pub reason: String,
    /// Where packets go.
    pub endpoint: String,
}

impl Device {
    /// Starts a device that is not linked yet.
    pub fn start(platform: &Platform, site: Site, dir: &Path, name: &str) -> Result<Self> {
        Self::start_with(platform, site, dir, name, &[])
    }

    /// Starts one with more words for `runmesh up`.
    pub fn start_with(
        platform: &Platform,
        site: Site,
        dir: &Path,
        name: &str,
        more: &[&str],
    ) -> Result<Self> {
        let mut program = platform.api.clone();
        program.place = site.host.prefix();
        let state_dir = dir.join(name);
        Ok(Self {
            name: name.to_owned(),
            up: start_up(&program, &state_dir, name, more)?,
            ports: Vec::new(),
            site,
            program,
            state_dir,
        })
    }

    /// Starts it once more after its end, with these words for `runmesh up`.
    pub fn start_again(&mut self, more: &[&str]) -> Result<()> {
        self.up = start_up(&self.program, &self.state_dir, &self.name, more)?;
        Ok(())
    }

    /// Returns the process of its node.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.up
    }

    /// Runs another command of the device's, with `--json` and its state directory.
    pub fn call(&self, words: &[&str]) -> Result<Value> {
        let dir = self.state_dir.to_string_lossy();
        self.program.call(&[words, &["--state-dir", &*dir]].concat())
    }

    /// Links it to the control plane's one owner.
    pub fn link(&self, platform: &Platform) -> Result<()> {
        let is_code = |said: &Value| text(said, "event") == "link_code";
        let shown = self.up.wait_for(STEP_TIMEOUT, is_code)?;
        let code = text(&shown, "code");
        platform.api.call(&["approve", code, "--name", &self.name])?;
        self.wait_for("linked")
    }

    /// Offers a port to its peers, behind which everything is echoed.
    pub fn offer(&mut self) -> Result<()> {
        self.echo()?;
        self.hold("expose", &[&EXPOSED.to_string()])
    }

    /// Leads a port of its own host to the one that a peer offers.
    pub fn lead_to(&mut self, peer: &str) -> Result<()> {
        self.hold("forward", &[&LOCAL.to_string(), &format!("{peer}:{EXPOSED}")])
    }

    /// Starts a command that holds a port open, until the device is dropped.
    pub fn hold(&mut self, name: &str, words: &[&str]) -> Result<()> {
        let mut command = self.program.command(&[&[name], words, &["--json"]].concat());
        command.arg("--state-dir").arg(&self.state_dir);
        let process = start(name, &mut command, &self.state_dir)?;
        process.line(STEP_TIMEOUT)?;
        self.ports.push(process);
        Ok(())
    }

    /// Waits until it says one thing.
    pub fn wait_for(&self, event: &str) -> Result<()> {
        let said = self
            .up
            .wait_for(STEP_TIMEOUT, |said| text(said, "event") == event);
        said.with_context(|| format!("wait for {} to say {event}", self.name))?;
        Ok(())
    }

    /// Pings a peer inside its session; fails without an answer.
    pub fn ping(&self, peer: &str) -> Result<()> {
        let dir = self.state_dir.to_string_lossy();
        let words = ["ping", peer, "-c", "1", "--state-dir", &*dir];
        self.program.lines(&words).map(|_| ())
    }

    /// Returns what the device says of itself.
    pub fn status(&self) -> Result<Value> {
        self.call(&["status"])
    }

    /// Returns what the networks around it let through.
    pub fn netcheck(&self) -> Result<Value> {
        self.program
            .call(&["netcheck", "--state-dir", &self.state_dir.to_string_lossy()])
    }

    /// Returns how it reaches a peer.
    pub fn path_to(&self, peer: &str) -> Result<PathSeen> {
        let status = self.status()?;
        let mut peers = status["peers"].as_array().into_iter().flatten();
        let Some(peer) = peers.find(|known| text(known, "name") == peer) else {
            return Ok(PathSeen::default());
        };
        Ok(PathSeen {
            kind: text(peer, "path").to_owned(),
            reason: text(peer, "reason").to_owned(),
            endpoint: text(peer, "endpoint").to_owned(),
        })
    }

    /// Waits until it reaches a peer in a way; returns that, or what it was last.
    pub fn wait_for_path(
        &self,
        peer: &str,
        time_max: Duration,
        wanted: impl Fn(&PathSeen) -> bool,
    ) -> Result<PathSeen, PathSeen> {
        let deadline = Instant::now() + time_max;
        loop {
            let path = self.path_to(peer).unwrap_or_default();
            if wanted(&path) {
                return Ok(path);
            }
            if Instant::now() >= deadline {
                return Err(path);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Opens a stream to the one other device.
    pub fn open(&self) -> Result<TcpStream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, LOCAL));
        let stream = self.site.host.within(|| TcpStream::connect(address))?;
        let stream = stream.context("connect to the device's own port")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
        Ok(stream)
    }

    /// Opens a stream and waits for its first byte to come back; returns the time that took.
    pub fn first_byte(&self) -> Result<(TcpStream, Duration)> {
        let start = Instant::now();
        let mut stream = self.open()?;
        stream.write_all(b"?").context("write the first byte")?;
        let mut answer = [0];
        stream.read_exact(&mut answer).context("read the first byte")?;
        ensure!(answer == *b"?", "the first byte is another one");
        Ok((stream, start.elapsed()))
    }

    /// Echoes what arrives at the exposed port of the device's host, until this process ends.
    fn echo(&self) -> Result<()> {
        let listener = self
            .site
            .host
            .within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, EXPOSED)))?
            .context("listen for streams")?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let (mut from, mut to) = (&stream, &stream);
                    std::io::copy(&mut from, &mut to)
                });
            }
        });
        Ok(())
    }
}

/// Starts the node of a device.
fn start_up(program: &Runmesh, state_dir: &Path, name: &str, more: &[&str]) -> Result<Process> {
    let mut up = program.command(&["up", "--json", "--server", &program.url, "--label", name]);
    up.arg("--state-dir").arg(state_dir).args(more);
    up.env_remove("RUNTOOLS_API_KEY");
    start(name, &mut up, state_dir)
}

impl Drop for Device {
    fn drop(&mut self) {
        // A device that is asked first waits for what its peers still have to say.
        for process in self.ports.iter().chain([&self.up]) {
            let _ = process.kill();
        }
    }
}

/// Sends bytes there and back; fails unless they come back as they went, and the end after them.
pub fn exchange(mut stream: TcpStream, len: usize) -> Result<()> {
    let sent: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251).to_le_bytes()[0]).collect();
    let mut writer = stream.try_clone()?;
    let received = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            writer.write_all(&sent)?;
            writer.shutdown(std::net::Shutdown::Write)
        });
        let mut received = Vec::new();
        let read = stream.read_to_end(&mut received).context("read what was sent");
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("sending panicked"))?
            .context("send")?;
        read.map(|_| received)
    })?;
    ensure!(
        received == sent,
        "{} of {} bytes came back, or others",
        received.len(),
        sent.len()
    );
    Ok(())
}

/// Sends one byte there and back on an open stream.
pub fn tick(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(b"!")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"!", "it is another one");
    Ok(())
}

/// A stream on which a number goes there and back every 20 ms.
#[derive(Debug)]
pub struct Ticking {
    stream: TcpStream,
    reader: std::thread::JoinHandle<Vec<Instant>>,
    writer: std::thread::JoinHandle<(TcpStream, usize)>,
    stop: std::sync::mpsc::Sender<()>,
}

impl Ticking {
    /// Begins on an open stream.
    pub fn start(stream: TcpStream) -> Result<Self> {
        let (stop, stopped) = std::sync::mpsc::channel();
        let mut reading = stream.try_clone()?;
        let mut writing = stream.try_clone()?;
        reading.set_read_timeout(Some(SILENCE_MAX))?;
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut number = [0; 4];
            while reading.read_exact(&mut number).is_ok() {
                if u32::from_le_bytes(number) as usize != seen.len() {
                    break;
                }
                seen.push(Instant::now());
            }
            seen
        });
        let writer = std::thread::spawn(move || {
            let mut number = 0_u32;
            while stopped.recv_timeout(Duration::from_millis(20)).is_err()
                && writing.write_all(&number.to_le_bytes()).is_ok()
            {
                number += 1;
            }
            (writing, number as usize)
        });
        Ok(Self {
            stream,
            reader,
            writer,
            stop,
        })
    }

    /// Ends it; returns the longest time in which nothing came back. Fails unless all that went came back.
    pub fn finish(self) -> Result<Duration> {
        let _ = self.stop.send(());
        let panicked = |_| anyhow::anyhow!("a thread of the stream panicked");
        let (writing, sent) = self.writer.join().map_err(panicked)?;
        writing
            .shutdown(std::net::Shutdown::Write)
            .context("end the stream")?;
        let seen = self.reader.join().map_err(panicked)?;
        drop(self.stream);
        ensure!(seen.len() == sent, "{} of {sent} came back", seen.len());
        let gaps = seen.windows(2).map(|pair| pair[1] - pair[0]);
        match gaps.max() {
            Some(gap) => Ok(gap),
            None => bail!("nothing came back"),
        }
    }
}
