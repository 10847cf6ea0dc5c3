//! The cells of the lab: each a world of its own, what is tried in it, and what must come of it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::nat::Nat;
use super::{pair, router, tls, trouble};
use crate::processes::in_search_path;

/// What came of a cell.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The name of the cell.
    pub cell: String,
    /// How the second device was reached in the end: `direct` or `relay`.
    pub path: String,
    /// Why so.
    pub reason: String,
    /// How long the first byte took to go there and back, the handshake included.
    pub first_byte_ms: u64,
    /// After how long the path was direct, from the same moment on; absent where it was not.
    pub direct_ms: Option<u64>,
    /// The longest time without an answer while something broke; absent where nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<u64>,
}

/// Which cell it is, and where its files are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) cell: &'a str,
    pub(super) dir: &'a Path,
}

/// One of the cells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Its name: also that of the test.
    pub name: String,
    trial: Trial,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trial {
    /// Two devices, each in a network of a kind.
    Pair(Nat, Nat),
    /// Two devices, and then something happens.
    Trouble(trouble::Trouble),
}

/// The pairs that are tried; which of the two asks first makes no difference to what must come of it.
const PAIRS: [(Nat, Nat); 35] = {
    use Nat::{
        Cgnat, FullCone, Ipv6Only, None, PortRestricted, Restricted, Symmetric, SymmetricWithNatPmp,
        SymmetricWithPcp, SymmetricWithUpnp, Tcp443Only, UdpBlocked,
    };
    [
        (None, None),
        (None, FullCone),
        (None, Restricted),
        (None, PortRestricted),
        (None, Symmetric),
        (FullCone, FullCone),
        (FullCone, Restricted),
        (FullCone, PortRestricted),
        (FullCone, Symmetric),
        (Restricted, Restricted),
        (Restricted, PortRestricted),
        (Symmetric, Restricted),
        (PortRestricted, PortRestricted),
        (Symmetric, PortRestricted),
        (Symmetric, Symmetric),
        (SymmetricWithUpnp, Symmetric),
        (SymmetricWithPcp, Symmetric),
        (SymmetricWithNatPmp, Symmetric),
        (SymmetricWithUpnp, SymmetricWithPcp),
        (Cgnat, None),
        (Cgnat, FullCone),
        (Cgnat, Restricted),
        (Cgnat, PortRestricted),
        (Cgnat, Symmetric),
        (Cgnat, Cgnat),
        (UdpBlocked, None),
        (UdpBlocked, PortRestricted),
        (UdpBlocked, Symmetric),
        (UdpBlocked, UdpBlocked),
        (Tcp443Only, None),
        (Tcp443Only, PortRestricted),
        (Tcp443Only, UdpBlocked),
        (Ipv6Only, None),
        (Ipv6Only, PortRestricted),
        (Ipv6Only, Ipv6Only),
    ]
};

/// Returns all cells.
#[must_use]
pub fn all() -> Vec<Cell> {
    let pairs = PAIRS.iter().map(|(one, other)| Cell {
        name: format!("nat_{}_x_{}", one.word(), other.word()),
        trial: Trial::Pair(*one, *other),
    });
    let troubles = trouble::Trouble::ALL.iter().map(|trouble| Cell {
        name: trouble.word().to_owned(),
        trial: Trial::Trouble(*trouble),
    });
    pairs.chain(troubles).collect()
}

/// Returns what the cell of a name lacks here.
#[must_use]
pub fn missing(name: &str) -> Option<String> {
    all().into_iter().find(|cell| cell.name == name)?.missing()
}

/// Runs the cell of a name, and fails when it does not do what it must.
pub fn run(name: &str) -> Result<Report> {
    let cell = all().into_iter().find(|cell| cell.name == name);
    cell.with_context(|| format!("there is no cell `{name}`"))?.run()
}

impl Cell {
    /// Returns what it needs beside the lab itself and does not find.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let nats = match self.trial {
            Trial::Pair(one, other) => [one, other],
            Trial::Trouble(trouble::Trouble::RelayElsewhereBehind443) => [Nat::Tcp443Only; 2],
            Trial::Trouble(_) => return None,
        };
        let needs = [
            (
                nats.iter().any(|nat| nat.opens_ports()),
                "a router that opens ports",
                router::PROGRAM,
            ),
            (
                nats.contains(&Nat::Tcp443Only),
                "a server behind TLS",
                tls::PROGRAM,
            ),
        ];
        let mut lacking = needs
            .iter()
            .filter(|(is_needed, _, program)| *is_needed && !in_search_path(program));
        lacking
            .next()
            .map(|(_, what, program)| format!("{what} needs the program `{program}`"))
    }

    /// Runs the cell, and fails when it does not do what it must.
    pub fn run(&self) -> Result<Report> {
        let dir = tempfile::tempdir().context("make a directory")?;
        let place = Place {
            cell: &self.name,
            dir: dir.path(),
        };
        let report = match self.trial {
            Trial::Pair(one, other) => pair::run(place, one, other),
            Trial::Trouble(trouble) => trouble::run(place, trouble),
        };
        match report {
            Ok(report) => Ok(report),
            Err(error) => Err(error.context(format!("{} (logs are in {})", self.name, dir.keep().display()))),
        }
    }
}
