//! A PostgreSQL server for the tests of the control plane: made, started and thrown away by `cargo xtask test`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command;

/// Who may come only over TLS, and everybody else.
const WHO_MAY: &str = "hostssl all encrypted 127.0.0.0/8 trust\nhostnossl all encrypted all reject\nhost all all 127.0.0.0/8 trust\n";

/// Where Debian puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A running server. Dropping it stops it and removes its data.
pub(crate) struct Postgres {
    programs: PathBuf,
    dir: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts a server on a free port of 127.0.0.1; `None` where PostgreSQL is not installed.
    pub(crate) fn start() -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            return Ok(None);
        };
        let dir = std::env::temp_dir().join(format!("runmesh-postgres-{}", std::process::id()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        let port = listener.local_addr().context("learn the free port")?.port();
        drop(listener);
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let server = Self { programs, dir, port };
        certify(&server)?;
        if command::is_root() {
            quiet(Command::new("chown").args(["-R", "postgres:"]).arg(&server.dir))?;
        }
        let data = server.data();
        quiet(
            server
                .program("initdb")
                .args(["--username=runmesh", "--auth=trust", "--no-sync", "-D"])
                .arg(&data),
        )?;
        fs::write(data.join("pg_hba.conf"), WHO_MAY).context("say who may come")?;
        let options = format!(
            "-c listen_addresses=127.0.0.1,127.0.0.2 -c port={port} -c unix_socket_directories='' -c fsync=off \
             -c max_connections=300 -c ssl=on -c ssl_cert_file='{}' -c ssl_key_file='{}'",
            server.certificate().display(),
            server.certificate_key().display(),
        );
        let log = server.dir.join("log");
        quiet(
            server
                .program("pg_ctl")
                .args(["start", "-w", "-o", &options, "-D"])
                .arg(&data)
                .arg("-l")
                .arg(log),
        )?;
        let user = "CREATE ROLE encrypted LOGIN CREATEDB";
        quiet(server.program("psql").arg(server.url()).args(["-c", user]))?;
        Ok(Some(server))
    }

    /// Returns the address that the tests connect to.
    pub(crate) fn url(&self) -> String {
        format!("postgres://runmesh@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the address for connections that must be encrypted.
    pub(crate) fn tls_url(&self) -> String {
        format!("postgres://encrypted@127.0.0.1:{}/postgres", self.port)
    }

    /// Returns the file with the certificate by which the server is known: its own, for 127.0.0.1 alone.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.join("server.crt")
    }

    fn certificate_key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// PostgreSQL refuses to run as root, so root becomes its user.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !command::is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"])
            .arg(program);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.program("pg_ctl");
        let stopped = quiet(stop.args(["stop", "-m", "immediate", "-D"]).arg(self.data()));
        if let Err(error) = stopped.and_then(|()| fs::remove_dir_all(&self.dir).context("remove its data")) {
            eprintln!("note: PostgreSQL was not cleaned up: {error:#}");
        }
    }
}

/// Makes a key and a certificate that nobody else has signed. Debian's PostgreSQL brings the program for it.
fn certify(server: &Postgres) -> Result<()> {
    let mut make = Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ])
    .args([
        "-subj",
        "/CN=runmesh test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ])
    .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
    .arg(server.certificate_key())
    .arg("-out")
    .arg(server.certificate());
    quiet(&mut make)
}

fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(Path::new(VERSIONS)).ok()?;
    let programs = versions.flatten().map(|version| version.path().join("bin"));
    programs.filter(|dir| dir.join("initdb").is_file()).max()
}

/// Runs a command and shows what it said only when it fails. It is not kept from outliving us: servers must.
fn quiet(command: &mut Command) -> Result<()> {
    let log = tempfile_path();
    let file = fs::File::create(&log).context("make a log")?;
    let errors = file.try_clone().context("make a log")?;
    let status = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .status();
    let said = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    let name = command.get_program().to_string_lossy().into_owned();
    if !status.with_context(|| format!("start {name}"))?.success() {
        bail!("{name}: {}", said.trim());
    }
    Ok(())
}

/// A pipe would stay open as long as the server lives, so output goes to a file.
fn tempfile_path() -> PathBuf {
    std::env::temp_dir().join(format!("runmesh-postgres-{}.log", std::process::id()))
}
