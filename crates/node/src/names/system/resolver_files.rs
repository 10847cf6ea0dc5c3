//! macOS: a file of `/etc/resolver` for each domain (resolver(5)), named after it, that says where to ask.
//!
//! Only the org's own domain is told: 65 files more, for the names of addresses, would help few. A file says by its first
//! line that it is ours and whose, so that it is found after a crash, and what others wrote is left alone.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

#[cfg(target_os = "macos")]
use net::tun::TunName;
use types::names::MESH_ZONE;
use types::{NodeId, OrgName};

use super::SystemError;

#[cfg(target_os = "macos")]
const DIR: &str = "/etc/resolver";

/// The longest file that is looked at, in bytes; ours are shorter.
const FILE_LEN_MAX: u64 = 4096;

#[cfg(target_os = "macos")]
pub(super) async fn check() -> Result<(), SystemError> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(SystemError::NotRoot)
    }
}

#[cfg(target_os = "macos")]
pub(super) async fn tell(
    node: NodeId,
    device: Option<&TunName>,
    server: SocketAddr,
    domains: &[String],
) -> Result<(), SystemError> {
    take_back(node, device).await?;
    let dir = Path::new(DIR);
    domains
        .iter()
        .filter(|domain| is_of_an_org(domain))
        .try_for_each(|domain| write(dir, domain, node, server))
}

#[cfg(target_os = "macos")]
pub(super) async fn take_back(node: NodeId, _: Option<&TunName>) -> Result<(), SystemError> {
    remove_all(Path::new(DIR), node)
}

/// Tells whether a domain is an org's, and so a name that a file may have.
fn is_of_an_org(domain: &str) -> bool {
    let org = domain
        .strip_suffix(MESH_ZONE)
        .and_then(|rest| rest.strip_suffix('.'));
    org.is_some_and(|org| org.parse::<OrgName>().is_ok())
}

fn first_line(node: NodeId) -> String {
    format!("# Written by runmesh for {node}, which removes it when it stops.\n")
}

fn text(node: NodeId, server: SocketAddr) -> String {
    let first = first_line(node);
    format!("{first}nameserver {}\nport {}\n", server.ip(), server.port())
}

fn write(dir: &Path, domain: &str, node: NodeId, server: SocketAddr) -> Result<(), SystemError> {
    let path = dir.join(domain);
    let at = |source| SystemError::File {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(dir).map_err(at)?;
    let beside = dir.join(format!(".{domain}.runmesh"));
    fs::write(&beside, text(node, server)).map_err(at)?;
    // Unlike a rename, a link does not take the place of what others wrote.
    let linked = fs::hard_link(&beside, &path);
    fs::remove_file(&beside).map_err(at)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(SystemError::Foreign(path)),
        other => other.map_err(at),
    }
}

fn remove_all(dir: &Path, node: NodeId) -> Result<(), SystemError> {
    let at = |path: &Path, source| SystemError::File {
        path: path.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(dir, error)),
    };
    for entry in entries {
        let path: PathBuf = entry.map_err(|error| at(dir, error))?.path();
        if is_ours(&path, node).unwrap_or(false) {
            fs::remove_file(&path).map_err(|error| at(&path, error))?;
        }
    }
    Ok(())
}

fn is_ours(path: &Path, node: NodeId) -> io::Result<bool> {
    let about = fs::symlink_metadata(path)?;
    if !about.is_file() || about.len() > FILE_LEN_MAX {
        return Ok(false);
    }
    Ok(fs::read(path)?.starts_with(first_line(node).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "home.mesh.internal";

    fn server(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn a_file_is_written_and_found_again_and_nobody_elses_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("resolver");
        let (node, other) = (NodeId::from_random([1; 16]), NodeId::from_random([2; 16]));
        remove_all(&dir, node).expect("nothing to remove");
        write(&dir, DOMAIN, node, server(5399)).expect("written");
        let path = dir.join(DOMAIN);
        let text = fs::read_to_string(&path).expect("it is there");
        assert!(text.ends_with("\nnameserver 127.0.0.1\nport 5399\n"), "{text}");
        assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 1);
        remove_all(&dir, other).expect("nothing of its own");
        assert!(path.exists());
        let again = write(&dir, DOMAIN, other, server(1));
        assert!(matches!(again, Err(SystemError::Foreign(_))));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
        remove_all(&dir, node).expect("removed");
        assert!(!path.exists());
        fs::write(&path, "nameserver 192.0.2.1\n").expect("somebody's own");
        remove_all(&dir, node).expect("nothing of ours");
        assert!(path.exists());
    }

    #[test]
    fn only_an_orgs_domain_becomes_the_name_of_a_file() {
        assert!(is_of_an_org(DOMAIN));
        for bad in [
            "64.100.in-addr.arpa",
            "../../passwd.mesh.internal",
            "a/b.mesh.internal",
            ".mesh.internal",
            "mesh.internal",
            "a.b.mesh.internal",
            "HOME.mesh.internal",
        ] {
            assert!(!is_of_an_org(bad), "{bad}");
        }
    }
}
