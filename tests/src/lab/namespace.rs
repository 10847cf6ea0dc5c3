//! Network namespaces that do not outlive whoever made them: they go when they are dropped, when the process ends in
//! whatever way, and those of a process whose janitor was ended too go when the next one begins.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What the names of all namespaces of the lab begin with; the number of the process and that of the world follow.
const PREFIX: &str = "rml-";

/// How long a link may take to carry packets.
const LINK_UP_MAX: Duration = Duration::from_secs(10);

/// Ends what runs in namespaces and removes them, by the beginning of their names.
const REMOVE: &str = r#"
remove() {
    for name in $(ip netns list | cut -d ' ' -f 1 | grep "^$1"); do
        ip netns pids "$name" | xargs -r kill -KILL
        ip netns del "$name"
        rm -rf "/etc/netns/$name"
    done
}
"#;

/// A network namespace. Dropping it ends what runs in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with nothing but loopback in it; `world` and `role` name it.
    pub fn new(world: &str, role: &str) -> Result<Self> {
        static JANITOR: OnceLock<Result<Child>> = OnceLock::new();
        // Once and no more: a second janitor that nobody keeps would begin at once.
        let janitor = JANITOR.get_or_init(|| remove_leftovers().and_then(|()| start_janitor()));
        if let Err(error) = janitor {
            bail!("{error:#}");
        }
        let name = format!("{PREFIX}{}-{world}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Returns its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs commands of `ip` in it, one a line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines)
    }

    /// Waits until a link of it carries packets: the kernel says so some time after it was set up.
    pub fn wait_for_link(&self, link: &str) -> Result<()> {
        let deadline = Instant::now() + LINK_UP_MAX;
        loop {
            let mut show = Command::new("ip");
            let output = show
                .args(["-n", &self.name, "-brief", "link", "show", link])
                .output();
            let shown = output.context("start ip")?.stdout;
            if String::from_utf8_lossy(&shown).contains(" UP ") {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the link {link} of {} carries nothing",
                self.name
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Loads rules of `nft` in it.
    pub fn nft(&self, rules: &str) -> Result<()> {
        feed(&mut self.command("nft", &["-f", "-"]), rules)
    }

    /// Sets parameters of its kernel, each as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, parameters: &[(&str, &str)]) -> Result<()> {
        let parameters = parameters.to_vec();
        self.within(move || {
            for (name, value) in parameters {
                let path = Path::new("/proc/thread-self/root/proc/sys").join(name);
                // `/proc/sys/net` shows the namespace of whoever opens it.
                std::fs::write(&path, value).with_context(|| format!("set {name}"))?;
            }
            Ok(())
        })?
    }

    /// Gives host names addresses for programs that run in it: the text of a file like `/etc/hosts`.
    pub fn set_hosts(&self, hosts: &str) -> Result<()> {
        let dir = self.etc();
        std::fs::create_dir_all(&dir).context("make a directory below /etc/netns")?;
        std::fs::write(dir.join("hosts"), hosts).context("write the hosts of a namespace")
    }

    /// Returns what makes a command run in it: the beginning of its words.
    #[must_use]
    pub fn prefix(&self) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.name].map(OsString::from).to_vec()
    }

    /// Makes a command that runs in it.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, program])
            .args(arguments);
        command
    }

    /// Calls a function on a thread that is in it. Sockets stay in the namespace in which they were made.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<T> {
                self.enter()?;
                Ok(act())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the thread that calls this into it, for ever.
    pub fn enter(&self) -> Result<()> {
        let path = Path::new("/run/netns").join(&self.name);
        let file = File::open(path).context("open a namespace")?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("enter a namespace")
    }

    fn etc(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let removed = shell(&format!("{REMOVE} remove '{}$'", self.name)).output();
        if let Err(error) = removed {
            eprintln!("the namespace {} was not removed: {error}", self.name);
        }
    }
}

/// Removes namespaces of processes that are gone.
fn remove_leftovers() -> Result<()> {
    let output = Command::new("ip").args(["netns", "list"]).output();
    let listed = output.context("start ip")?.stdout;
    for line in String::from_utf8_lossy(&listed).lines() {
        let owner = line.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
        let Some((owner, _)) = owner else {
            continue;
        };
        if !Path::new("/proc").join(owner).exists() {
            run(&mut shell(&format!("{REMOVE} remove '{PREFIX}{owner}-'")))?;
        }
    }
    Ok(())
}

/// Starts a process that waits for the end of this one, however it comes, and then removes its namespaces.
fn start_janitor() -> Result<Child> {
    let script = format!(
        "trap '' INT TERM HUP; cat >/dev/null\n{REMOVE} remove '{PREFIX}{}-'",
        std::process::id()
    );
    let mut janitor = shell(&script);
    // A ctrl-C goes to the whole group. Its input ends with us, since nobody else has the other end.
    janitor.process_group(0).stdin(Stdio::piped());
    let quiet = janitor.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().context("start the janitor of the lab")
}

fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    shell
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs a command that must succeed with a text as its input.
fn feed(command: &mut Command, text: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let mut input = child.stdin.take().context("the child has no input")?;
    let written = input.write_all(text.as_bytes());
    drop(input);
    let output = child.wait_with_output().context("wait for a child")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{text}", said.trim());
    written.context("feed a child")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> String {
        let output = Command::new("ip").args(["netns", "list"]).output().expect("ip");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn a_namespace_goes_with_its_owner_and_with_the_next_start() {
        if !crate::lab::can_run() {
            return;
        }
        let namespace = Namespace::new("0", "unit").expect("a namespace");
        let name = namespace.name().to_owned();
        namespace.set_hosts("192.0.2.1 example\n").expect("hosts");
        let ends = namespace.within(|| std::net::UdpSocket::bind("192.0.2.1:0").is_err());
        assert!(ends.expect("a thread"), "it has no address but loopback");
        assert!(names().contains(&name));
        drop(namespace);
        assert!(!names().contains(&name));
        assert!(!Path::new("/etc/netns").join(&name).exists());
        // Nobody has this number: it is more than the largest of a process.
        let left = format!("{PREFIX}4194305-0-unit");
        run(Command::new("ip").args(["netns", "add", &left])).expect("a namespace");
        remove_leftovers().expect("remove");
        assert!(!names().contains(&left));
    }
}
