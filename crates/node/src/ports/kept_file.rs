//! `ports.json`: which ports are kept in the background, and for whom.
//!
//! It names the node that they were kept for: whoever is another node, or of another org, offers nothing by it. A file that
//! cannot be believed does not stop the daemon, whose other work does not need it: it is moved aside, and said. One that
//! cannot be read stays, for the next start; what is kept meanwhile takes its place.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::{NodeId, OrgId};

use super::entries::{Entries, KEPT_MAX};
use super::port::Port;
use crate::link_state::Pinned;
use crate::state_dir::{StateDir, StateDirError, open_to};

const FILE: &str = "ports.json";

/// Where a file goes that is not believed; the one that was there before it is gone then.
const ASIDE: &str = "ports.aside.json";

/// The version of the format that is read and written.
const VERSION: u32 = 1;

/// Whose ports are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Owner {
    node_id: NodeId,
    org_id: OrgId,
}

impl From<&Pinned> for Owner {
    fn from(pinned: &Pinned) -> Self {
        Self {
            node_id: pinned.node_id,
            org_id: pinned.org_id,
        }
    }
}

/// The file, as it is written.
#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    #[serde(flatten)]
    owner: Owner,
    ports: Vec<Port>,
}

/// What every version of the file says.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
enum Unbelievable {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no file")]
    NoFile,
    #[error("{0}")]
    Open(String),
    #[error("it is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("it has version {0} of its format, and this program knows {VERSION}")]
    Version(u32),
    #[error("it is of another node than this device is now")]
    OtherNode,
    #[error("it names {0} ports, and {KEPT_MAX} is the most")]
    TooMany(usize),
    #[error("it names a port 0")]
    NoPort,
    #[error("it gives two ports one place")]
    Twice,
}

/// What is kept, and why what the file said is not, if so.
pub(super) struct Read {
    pub(super) ports: Vec<Port>,
    pub(super) set_aside: Option<String>,
}

/// Reads what is kept for a node. A file that is not believed is moved aside.
pub(super) fn read(state_dir: &StateDir, owner: Owner) -> Read {
    let unbelievable = match read_file(state_dir, owner) {
        Ok(ports) => {
            return Read {
                ports,
                set_aside: None,
            };
        }
        Err(unbelievable) => unbelievable,
    };
    if let Unbelievable::Io(error) = &unbelievable {
        // Perhaps it can be read the next time.
        return not_believed(format!(
            "what {FILE} names is not open: it cannot be read: {error}"
        ));
    }
    let moved = fs::rename(state_dir.file(FILE), state_dir.file(ASIDE));
    not_believed(match moved {
        Ok(()) => format!("{FILE} was moved to {ASIDE}, and what it names is not open: {unbelievable}"),
        Err(error) => {
            format!("what {FILE} names is not open: {unbelievable}; moving it aside failed: {error}")
        }
    })
}

fn not_believed(set_aside: String) -> Read {
    tracing::warn!("{set_aside}");
    Read {
        ports: Vec::new(),
        set_aside: Some(set_aside),
    }
}

fn read_file(state_dir: &StateDir, owner: Owner) -> Result<Vec<Port>, Unbelievable> {
    let meta = match fs::metadata(state_dir.file(FILE)) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    if let Some(open) = open_to(&meta) {
        return Err(Unbelievable::Open(open.to_string()));
    }
    if !meta.is_file() {
        return Err(Unbelievable::NoFile);
    }
    match state_dir.read_json(FILE) {
        Ok(value) => parse(value.unwrap_or_default(), owner),
        Err(StateDirError::BadJson { source, .. }) => Err(source.into()),
        Err(error) => Err(io::Error::other(error).into()),
    }
}

fn parse(value: Value, owner: Owner) -> Result<Vec<Port>, Unbelievable> {
    let Versioned { version } = Versioned::deserialize(&value)?;
    if version != VERSION {
        return Err(Unbelievable::Version(version));
    }
    let contents: Contents = serde_json::from_value(value)?;
    if contents.owner != owner {
        return Err(Unbelievable::OtherNode);
    }
    let ports = contents.ports;
    if ports.len() > KEPT_MAX {
        return Err(Unbelievable::TooMany(ports.len()));
    }
    if !ports.iter().all(Port::is_named) {
        return Err(Unbelievable::NoPort);
    }
    let mut entries = Entries::default();
    for port in &ports {
        if entries.check_free(&port.claim()).is_err() {
            return Err(Unbelievable::Twice);
        }
        entries.insert(port.clone(), Some(()));
    }
    Ok(ports)
}

/// Writes what is kept for a node; it is on disk when this returns.
pub(super) fn write(state_dir: &StateDir, owner: Owner, ports: Vec<Port>) -> Result<(), StateDirError> {
    let contents = Contents {
        version: VERSION,
        owner,
        ports,
    };
    state_dir.write_json(FILE, &contents)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    fn owner(seed: u8) -> Owner {
        Owner {
            node_id: NodeId::from_random([seed; 16]),
            org_id: OrgId::from_random([9; 16]),
        }
    }

    fn exposed(port: u16) -> Port {
        Port::Exposed { port, offered: port }
    }

    fn ports() -> Vec<Port> {
        let forwarded = Port::Forwarded {
            local: "[::1]:3000".parse().expect("an address"),
            target: "[fd00::2]:443".parse().expect("a target"),
        };
        let offered = Port::Exposed {
            port: 3000,
            offered: 80,
        };
        vec![offered, forwarded]
    }

    fn start() -> (TempDir, StateDir) {
        let dir = TempDir::new().expect("temporary directory");
        let state_dir = StateDir::open(dir.path()).expect("opens");
        (dir, state_dir)
    }

    /// Reads what a file says that is not to be believed.
    fn refused(contents: &[u8]) -> String {
        let (_dir, state_dir) = start();
        fs::write(state_dir.file(FILE), contents).expect("written");
        let read = read(&state_dir, owner(1));
        assert!(read.ports.is_empty());
        assert!(!state_dir.file(FILE).exists());
        assert_eq!(fs::read(state_dir.file(ASIDE)).expect("kept"), contents);
        read.set_aside.expect("it is said")
    }

    #[test]
    fn what_was_written_is_read_by_the_same_node_and_nobody_else_may_read_it() {
        let (_dir, state_dir) = start();
        let nothing = read(&state_dir, owner(1));
        assert!(nothing.ports.is_empty() && nothing.set_aside.is_none());
        write(&state_dir, owner(1), ports()).expect("written");
        let mode = fs::metadata(state_dir.file(FILE)).expect("there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let there = read(&state_dir, owner(1));
        assert_eq!(there.ports, ports());
        assert!(there.set_aside.is_none());
    }

    #[test]
    fn the_format_is_pinned() {
        let (_dir, state_dir) = start();
        write(&state_dir, owner(1), ports()).expect("written");
        let owner = serde_json::to_value(owner(1)).expect("JSON");
        assert_eq!(
            state_dir.read_json::<Value>(FILE).expect("JSON"),
            Some(json!({
                "version": 1,
                "nodeId": owner["nodeId"],
                "orgId": owner["orgId"],
                "ports": [
                    { "kind": "exposed", "port": 3000, "as": 80 },
                    { "kind": "forwarded", "local": "[::1]:3000", "target": "[fd00::2]:443" },
                ],
            }))
        );
    }

    #[test]
    fn another_node_and_another_org_get_nothing_of_it() {
        let other_org = Owner {
            org_id: OrgId::from_random([8; 16]),
            ..owner(1)
        };
        for other in [owner(2), other_org] {
            let (_dir, state_dir) = start();
            write(&state_dir, owner(1), ports()).expect("written");
            let there = read(&state_dir, other);
            assert!(there.ports.is_empty());
            let said = there.set_aside.expect("it is said");
            assert!(said.contains("it is of another node"), "{said}");
            assert!(read(&state_dir, owner(1)).ports.is_empty(), "gone for good");
        }
    }

    #[test]
    fn a_file_that_cannot_be_believed_is_moved_aside_and_said() {
        let whole = |version: u32, ports: &[Port]| {
            let owner = owner(1);
            let contents = Contents {
                version,
                owner,
                ports: ports.to_vec(),
            };
            serde_json::to_vec(&contents).expect("JSON")
        };
        let good = whole(VERSION, &ports());
        for len in 0..good.len() {
            assert!(refused(&good[..len]).contains("it is damaged"), "torn at {len}");
        }
        let many: Vec<Port> = (1..).take(KEPT_MAX + 1).map(exposed).collect();
        let no_target = whole(VERSION, &ports());
        let no_target = String::from_utf8(no_target).expect("text").replace(":443", "");
        for (contents, message) in [
            (b"{ rubbish".to_vec(), "it is damaged"),
            (b"{\"version\":1}".to_vec(), "it is damaged"),
            (b"\xff\xfe".to_vec(), "it is damaged"),
            (
                no_target.into_bytes(),
                "the target must end with a colon and a port",
            ),
            (whole(2, &ports()), "version 2"),
            (b"{\"version\":2,\"other\":[]}".to_vec(), "version 2"),
            (whole(VERSION, &many), "65 ports"),
            (whole(VERSION, &[exposed(0)]), "a port 0"),
            (whole(VERSION, &[exposed(7), exposed(7)]), "two ports one place"),
        ] {
            let said = refused(&contents);
            assert!(said.contains(message), "{message}: {said}");
            assert!(said.contains("ports.aside.json"), "{said}");
        }
        let (_dir, state_dir) = start();
        fs::write(state_dir.file(FILE), whole(VERSION, &many[1..])).expect("written");
        assert_eq!(read(&state_dir, owner(1)).ports.len(), KEPT_MAX);
    }

    #[test]
    fn a_file_that_others_could_have_written_is_moved_aside() {
        for mode in [0o620, 0o602, 0o666] {
            let (_dir, state_dir) = start();
            write(&state_dir, owner(1), ports()).expect("written");
            fs::set_permissions(state_dir.file(FILE), fs::Permissions::from_mode(mode)).expect("own file");
            let there = read(&state_dir, owner(1));
            assert!(there.ports.is_empty());
            let said = there.set_aside.expect("it is said");
            assert!(said.contains("others may write it"), "{said}");
        }
    }

    #[test]
    fn a_file_of_another_user_and_what_is_no_file_are_moved_aside() {
        let (_dir, state_dir) = start();
        fs::create_dir(state_dir.file(FILE)).expect("made");
        assert!(read(&state_dir, owner(1)).set_aside.is_some());
        write(&state_dir, owner(1), ports()).expect("there is room again");
        if !rustix::process::geteuid().is_root() {
            // Only root can give files away.
            return;
        }
        std::os::unix::fs::chown(state_dir.file(FILE), Some(65534), None).expect("given away");
        fs::remove_dir(state_dir.file(ASIDE)).expect("removed");
        let said = read(&state_dir, owner(1)).set_aside.expect("it is said");
        assert!(said.contains("another user (id 65534)"), "{said}");
    }
}
