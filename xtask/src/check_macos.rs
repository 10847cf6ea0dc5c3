//! `cargo xtask check-macos`: compiles every crate of the program for macOS as far as its types go, and lints it, on Linux.
//!
//! No standard library for macOS comes from a package registry, so the one here is compiled from the sources of Debian's
//! compiler for web browsers, which is newer than ours: that the code also suits ours, the build for Linux shows. Nothing is
//! linked, so nothing is run; and no C is compiled, since only a linker would miss it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::command;

const TARGET: &str = "aarch64-apple-darwin";

/// The packages of the compiler, by exact version, and what of each is needed.
const PACKAGES: [(&str, &str, &[&str]); 6] = [
    ("rustc-web", RUST, &["./usr"]),
    ("rust-web-clippy", RUST, &["./usr"]),
    ("libstd-rust-web-1.96", RUST, &["./usr"]),
    ("libstd-rust-web-dev", RUST, &["./usr"]),
    // Of the sources only the library, and the link by which cargo finds it.
    (
        "rust-web-src",
        RUST,
        &["./usr/src/rustc-1.96.0/library", "./usr/lib/rustlib/src"],
    ),
    ("libllvm22", "1:22.1.8-1~deb12u1", &["./usr"]),
];

const RUST: &str = "1.96.0+dfsg1-1~deb12u2";

/// Stands in for the C compiler: build scripts get the files that they ask for, with nothing in them.
const NO_CC: &str = r#"#!/bin/sh
for word do
    case $word in -E) echo clang; exit ;; esac
    if [ "$last" = -o ]; then : > "$word"; fi
    last=$word
done
"#;

/// Stands in for the archiver.
const NO_AR: &str = r#"#!/bin/sh
for word do
    case $word in *.a) printf '!<arch>\n' > "$word" ;; esac
done
"#;

/// Lets the crate with the system's code be compiled with the error that it holds ready for this.
const SPOIL: &str = r#"#!/bin/sh
case " $* " in *' --crate-name net '*) set -- "$@" --cfg prove_check_macos ;; esac
exec "$CLIPPY" "$@"
"#;

/// Tells why this machine cannot have the compiler, if it cannot.
fn missing() -> Option<&'static str> {
    let lacks = |program: &&str| !command::exists(program);
    if ["apt-get", "dpkg-deb", "tar"].iter().any(lacks) {
        return Some("it takes the packages of Debian");
    }
    (!cfg!(all(target_os = "linux", target_arch = "x86_64")))
        .then_some("its compiler is one for Linux on x86-64")
}

/// Checks the program, and then that a mistake would have been seen; says so and does nothing where that cannot be.
pub(crate) fn run_in_ci() -> Result<()> {
    if let Some(reason) = missing() {
        eprintln!("WARNING: the code for macOS is not checked here: {reason}");
        return Ok(());
    }
    run()?;
    prove()
}

/// Checks and lints every crate of the program.
pub(crate) fn run() -> Result<()> {
    let tools = Tools::install()?;
    command::run(&mut tools.check(&tools.root.join("usr/bin/clippy-driver")))
}

/// Checks that a mistake which only the compiler for macOS can see makes the check fail.
pub(crate) fn prove() -> Result<()> {
    let tools = Tools::install()?;
    let output = tools.check(&tools.root.join("spoil")).output();
    let output = output.context("start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success(),
        "a mistake in the code for macOS was not seen"
    );
    ensure!(
        said.contains("crates/net/src/tun/macos.rs") && said.contains("mismatched types"),
        "the check failed for another reason than the mistake: {said}"
    );
    eprintln!("check-macos: a mistake in the code for macOS is seen");
    Ok(())
}

/// The compiler, unpacked beside everything else.
struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Unpacks the compiler under `target/tools` unless it is there.
    fn install() -> Result<Self> {
        if let Some(reason) = missing() {
            bail!("the code for macOS cannot be checked here: {reason}");
        }
        let root = command::root().join("target/tools/macos");
        let stamp = root.join("installed");
        let wanted = format!("{PACKAGES:?}{NO_CC}{NO_AR}{SPOIL}");
        if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
            return Ok(Self { root });
        }
        if root.exists() {
            fs::remove_dir_all(&root).context("remove another compiler for macOS")?;
        }
        fs::create_dir_all(&root).context("make a directory for the compiler")?;
        download(&root)?;
        for (name, _, parts) in PACKAGES {
            unpack(&root, name, parts).with_context(|| format!("unpack {name}"))?;
        }
        for (name, text) in [("clang", NO_CC), ("ar", NO_AR), ("spoil", SPOIL)] {
            let path = root.join(name);
            fs::write(&path, text).with_context(|| format!("write {name}"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(&stamp, wanted).context("remember that the compiler is there")?;
        Ok(Self { root })
    }

    /// Makes the command that checks the program, each crate of ours by `driver`.
    fn check(&self, driver: &Path) -> Command {
        let usr = self.root.join("usr");
        let mut check = command::cargo(&["check", "--package", "runmesh", "--target", TARGET, "--quiet"]);
        check.args(["-Zbuild-std=std,panic_unwind", "--target-dir"]);
        check.arg(command::target_dir().join("macos"));
        // What is not run need not be fast.
        for setting in [
            "package.\"*\".opt-level=0",
            "package.mesh.opt-level=0",
            "debug=false",
            "incremental=false",
        ] {
            check.arg("--config").arg(format!("profile.dev.{setting}"));
        }
        check
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", usr.join("bin/rustc"))
            .env("RUSTC_WORKSPACE_WRAPPER", driver)
            .env("CLIPPY", usr.join("bin/clippy-driver"))
            .env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings")
            .env("LD_LIBRARY_PATH", usr.join("lib/x86_64-linux-gnu"));
        for (variable, name) in [("CC", "clang"), ("CXX", "clang"), ("AR", "ar")] {
            check.env(format!("{variable}_aarch64_apple_darwin"), self.root.join(name));
        }
        check
    }
}

fn download(root: &Path) -> Result<()> {
    let fetch = || {
        let mut fetch = Command::new("apt-get");
        fetch.args(["download", "--quiet", "--quiet"]).current_dir(root);
        let exact = PACKAGES.map(|(name, version, _)| format!("{name}={version}"));
        command::run(fetch.args(exact).stdout(Stdio::null()))
    };
    if fetch().is_ok() {
        return Ok(());
    }
    if command::is_root() {
        command::run(Command::new("apt-get").args(["update", "--quiet", "--quiet"]))?;
    }
    fetch().context("Debian no longer has one of these versions: raise them in xtask/src/check_macos.rs")
}

/// Unpacks parts of a package, and removes the package.
fn unpack(root: &Path, name: &str, parts: &[&str]) -> Result<()> {
    let prefix = format!("{name}_");
    let mut found = None;
    for entry in fs::read_dir(root).context("list the packages")? {
        let path = entry.context("list the packages")?.path();
        let is_it = path
            .file_name()
            .is_some_and(|file| file.to_string_lossy().starts_with(&prefix));
        found = found.or(is_it.then_some(path));
    }
    let package = found.context("it was not downloaded")?;
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&package)
        .stdout(Stdio::piped())
        .spawn()?;
    let bytes = archive.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--directory"])
        .arg(root)
        .args(parts)
        .stdin(bytes);
    let unpacked = tar.status().context("start tar")?;
    let read = archive.wait().context("wait for dpkg-deb")?;
    ensure!(
        unpacked.success() && read.success(),
        "tar: {unpacked}, dpkg-deb: {read}"
    );
    fs::remove_file(&package).context("remove the package")
}
