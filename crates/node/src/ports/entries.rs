//! The rules by which ports are opened and taken back: who has which, and how many are kept. Pure.
//!
//! What is kept in the background has its place also while it cannot be opened, so that no command takes it meanwhile.

use std::collections::BTreeMap;

use super::port::{Claim, Port, Which};

/// The most ports that are kept in the background. Each may carry [`crate::reach::CONNECTIONS_MAX`] connections.
pub const KEPT_MAX: usize = 64;

/// A port has what is wanted for another, or for the same one in another way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{port} already, {}", if *.is_kept { "in the background" } else { "as long as a command runs" })]
pub struct Taken {
    /// The port that has it.
    pub port: Port,
    /// Whether it is kept in the background.
    pub is_kept: bool,
}

/// Why a port is not kept in the background.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// Another port has its place.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// There are as many as may be.
    #[error("{KEPT_MAX} ports are kept in the background already, which is the most")]
    TooMany,
}

/// Why nothing was taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeBackError {
    /// Nothing of the kind is there.
    #[error("{0}")]
    NotThere(Which),
    /// It is not kept: it ends with the command that asked for it.
    #[error("{0} as long as a command runs, not in the background")]
    OfCommand(Port),
}

/// A port that has its place.
pub(super) struct Entry<T> {
    pub(super) port: Port,
    /// What keeps it in the background; `None` when a command does.
    pub(super) kept: Option<T>,
}

/// Every port that has its place, in the order of [`Claim`].
pub(super) struct Entries<T>(BTreeMap<Claim, Entry<T>>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Entries<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.0.values()
    }

    /// Checks that a place is free.
    pub(super) fn check_free(&self, claim: &Claim) -> Result<(), Taken> {
        match self.in_the_way(claim) {
            None => Ok(()),
            Some(entry) => Err(entry.taken()),
        }
    }

    /// Finds what has a place, or one that takes it in.
    fn in_the_way(&self, claim: &Claim) -> Option<&Entry<T>> {
        let overlapping = || self.iter().find(|entry| entry.port.claim().overlaps(claim));
        self.0.get(claim).or_else(overlapping)
    }

    /// Finds what keeps a port already; `None` when it may be kept and is not yet.
    pub(super) fn keeper(&self, port: &Port) -> Result<Option<&T>, KeepError> {
        match self.in_the_way(&port.claim()) {
            Some(entry) => match &entry.kept {
                Some(kept) if entry.port == *port => Ok(Some(kept)),
                _ => Err(entry.taken().into()),
            },
            None if self.kept().count() >= KEPT_MAX => Err(KeepError::TooMany),
            None => Ok(None),
        }
    }

    /// Finds a kept port that answers a wish for any free port of an address.
    pub(super) fn like(&self, wanted: &Port) -> Option<&Port> {
        let Port::Forwarded {
            local: any,
            target: to,
        } = wanted
        else {
            return None;
        };
        self.kept().filter(|_| any.port() == 0).find(|port| {
            matches!(port, Port::Forwarded { local, target } if local.ip() == any.ip() && target == to)
        })
    }

    /// Finds what is to be taken back.
    pub(super) fn meant(&self, which: &Which) -> Result<Vec<Port>, TakeBackError> {
        let meant: Vec<_> = self.iter().filter(|entry| which.means(&entry.port)).collect();
        let kept: Vec<Port> = meant
            .iter()
            .filter(|entry| entry.kept.is_some())
            .map(|entry| entry.port.clone())
            .collect();
        match meant.first() {
            None => Err(TakeBackError::NotThere(which.clone())),
            Some(entry) if kept.is_empty() => Err(TakeBackError::OfCommand(entry.port.clone())),
            Some(_) => Ok(kept),
        }
    }

    /// Returns every port that is kept in the background.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Port> {
        self.iter()
            .filter(|entry| entry.kept.is_some())
            .map(|entry| &entry.port)
    }

    /// Takes a place that is free.
    pub(super) fn insert(&mut self, port: Port, kept: Option<T>) {
        let claim = port.claim();
        let before = self.0.insert(claim, Entry { port, kept });
        debug_assert!(before.is_none(), "a place has one port");
    }

    /// Gives a place back.
    pub(super) fn remove(&mut self, claim: &Claim) -> Option<Entry<T>> {
        self.0.remove(claim)
    }
}

impl<T> Entry<T> {
    fn taken(&self) -> Taken {
        Taken {
            port: self.port.clone(),
            is_kept: self.kept.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(port: u16, offered: u16) -> Port {
        Port::Exposed { port, offered }
    }

    fn forwarded(local: &str, target: &str) -> Port {
        Port::Forwarded {
            local: local.parse().expect("an address"),
            target: target.parse().expect("a target"),
        }
    }

    fn entries(kept: &[Port], of_commands: &[Port]) -> Entries<()> {
        let mut entries = Entries::default();
        for port in kept {
            entries.insert(port.clone(), Some(()));
        }
        for port in of_commands {
            entries.insert(port.clone(), None);
        }
        entries
    }

    #[test]
    fn the_same_port_is_kept_once_and_another_one_at_its_place_is_refused() {
        let kept = [exposed(3000, 80), forwarded("127.0.0.1:1", "laptop:1")];
        let entries = entries(&kept, &[exposed(22, 22)]);
        for port in &kept {
            assert_eq!(entries.keeper(port), Ok(Some(&())));
        }
        for (port, message) in [
            (
                exposed(3001, 80),
                "port 3000 of this device is port 80 in the mesh already, in the background",
            ),
            (
                forwarded("127.0.0.1:1", "laptop:2"),
                "127.0.0.1:1 leads to laptop:1 already, in the background",
            ),
            (
                exposed(22, 22),
                "port 22 of this device is port 22 in the mesh already, as long as a command runs",
            ),
        ] {
            let error = entries.keeper(&port).expect_err("taken");
            assert_eq!(error.to_string(), message);
            assert!(entries.check_free(&port.claim()).is_err());
        }
        for port in [exposed(3000, 81), forwarded("127.0.0.2:1", "laptop:1")] {
            assert_eq!(entries.keeper(&port), Ok(None), "{port}");
            assert_eq!(entries.check_free(&port.claim()), Ok(()));
        }
    }

    #[test]
    fn a_place_at_every_address_is_in_the_way_of_those_at_each_and_they_of_it() {
        let one = forwarded("127.0.0.1:3000", "laptop:1");
        let every = [
            forwarded("0.0.0.0:3000", "laptop:1"),
            forwarded("[::]:3000", "laptop:1"),
        ];
        for every in &every {
            let taken = entries(std::slice::from_ref(&one), &[]).check_free(&every.claim());
            assert_eq!(taken.map_err(|taken| taken.port), Err(one.clone()));
            let taken = entries(std::slice::from_ref(every), &[]).check_free(&one.claim());
            assert_eq!(taken.map_err(|taken| taken.port), Err(every.clone()));
        }
        let others = ["127.0.0.1:3001", "127.0.0.2:3000", "[::1]:3000", "0.0.0.0:0"];
        for other in others {
            let other = forwarded(other, "laptop:1");
            assert_eq!(
                entries(std::slice::from_ref(&one), &[]).check_free(&other.claim()),
                Ok(())
            );
        }
    }

    #[test]
    fn any_free_port_is_the_one_that_leads_there_already() {
        let there = forwarded("127.0.0.1:5000", "laptop:80");
        let entries = entries(
            std::slice::from_ref(&there),
            &[forwarded("127.0.0.1:6000", "desk:80")],
        );
        let find = |local, target| entries.like(&forwarded(local, target));
        assert_eq!(find("127.0.0.1:0", "laptop:80"), Some(&there));
        assert_eq!(find("127.0.0.1:0", "laptop:81"), None);
        assert_eq!(find("0.0.0.0:0", "laptop:80"), None);
        assert_eq!(
            find("127.0.0.1:7", "laptop:80"),
            None,
            "another port was asked for"
        );
        assert_eq!(find("127.0.0.1:0", "desk:80"), None, "it ends with its command");
        assert_eq!(entries.like(&exposed(0, 0)), None);
    }

    #[test]
    fn as_many_as_the_limit_are_kept_and_what_commands_hold_does_not_count() {
        let kept: Vec<Port> = (1..).take(KEPT_MAX).map(|port| exposed(port, port)).collect();
        let of_command = exposed(5000, 5000);
        let mut entries = entries(&kept[1..], std::slice::from_ref(&of_command));
        assert_eq!(entries.keeper(&kept[0]), Ok(None), "the last that has room");
        entries.insert(kept[0].clone(), Some(()));
        assert_eq!(entries.keeper(&exposed(6000, 6000)), Err(KeepError::TooMany));
        assert_eq!(entries.keeper(&kept[7]), Ok(Some(&())), "it is there already");
        assert_eq!(entries.check_free(&exposed(6000, 6000).claim()), Ok(()));
        entries.remove(&kept[7].claim());
        assert_eq!(entries.keeper(&exposed(6000, 6000)), Ok(None));
    }

    #[test]
    fn what_is_kept_is_taken_back_and_what_a_command_holds_is_not() {
        let kept = [exposed(3000, 80), exposed(3000, 81), exposed(3001, 82)];
        let forwards = [
            forwarded("127.0.0.1:1", "laptop:1"),
            forwarded("127.0.0.1:2", "laptop:1"),
        ];
        let of_command = [exposed(22, 22)];
        let all = [&kept[..], &forwards].concat();
        let entries = entries(&all, &of_command);
        let at = |port, offered| Which::Exposed { port, offered };
        let to = |local: &str, target: Option<&str>| Which::Forwarded {
            local: local.parse().expect("an address"),
            target: target.map(|target| target.parse().expect("a target")),
        };
        assert_eq!(entries.meant(&at(3000, None)), Ok(kept[..2].to_vec()));
        assert_eq!(entries.meant(&at(3000, Some(81))), Ok(kept[1..2].to_vec()));
        for target in [None, Some("laptop:1")] {
            let meant = entries.meant(&to("127.0.0.1:2", target));
            assert_eq!(meant, Ok(forwards[1..].to_vec()));
        }
        for (which, message) in [
            (at(80, None), "port 80 of this device is not exposed"),
            (
                at(3000, Some(82)),
                "port 3000 of this device is not exposed as port 82",
            ),
            (to("127.0.0.1:3", None), "127.0.0.1:3 leads nowhere"),
            (
                to("127.0.0.1:2", Some("laptop:2")),
                "127.0.0.1:2 does not lead to laptop:2",
            ),
            (
                at(22, None),
                "port 22 of this device is port 22 in the mesh as long as a command runs, not in the background",
            ),
        ] {
            assert_eq!(
                entries.meant(&which).map_err(|error| error.to_string()),
                Err(message.to_owned())
            );
        }
    }
}
