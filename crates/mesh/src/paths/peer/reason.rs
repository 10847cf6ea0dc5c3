//! Why a peer is reached the way it is, in one word that a person can act on.

use types::{Monotonic, PathReason};

use super::{PathAction, PeerPaths};
use crate::endpoint::Endpoint;
use crate::probe::Mapping;

impl PeerPaths {
    pub(super) fn update_reason(&mut self, now: Monotonic) {
        let is_searching = self.round_end.is_some_and(|end| now < end);
        let is_lost = self.reason == PathReason::PathLost && is_searching && !self.is_direct();
        if !is_lost {
            self.reason = self.judge(is_searching);
        }
        let view = self.view();
        let is_news = self.told.is_none_or(|told| {
            (told.endpoint, told.kind, told.reason) != (view.endpoint, view.kind, view.reason)
        });
        if is_news {
            self.told = Some(view);
            self.actions.push_back(PathAction::Changed);
        }
    }

    pub(super) fn judge(&self, is_searching: bool) -> PathReason {
        if !self.has_session {
            return match (self.is_absent(), self.current) {
                (true, _) => PathReason::PeerAsleep,
                (_, Some(_)) => PathReason::Probing,
                (_, None) if self.table.is_empty() => PathReason::NoCandidate,
                (_, None) => PathReason::NoRelay,
            };
        }
        if let Some(current) = self.current.filter(Endpoint::is_direct) {
            // Without a relay what does not answer any more stays in use, for want of anything better.
            let is_dead = self.speaks_probes && self.table.proof(&current).is_none();
            return if is_dead {
                PathReason::PathLost
            } else {
                PathReason::EndpointAnswered
            };
        }
        match (self.own.mapping(), self.peer_mapping) {
            (Mapping::Blocked, _) => PathReason::UdpBlocked,
            (_, Mapping::Blocked) => PathReason::PeerUdpBlocked,
            _ if is_searching && !self.has_searched || self.guess.is_under_way() => PathReason::Probing,
            _ if self.table.is_empty() => PathReason::NoCandidate,
            _ if !self.has_common_family() => PathReason::NoCommonFamily,
            (Mapping::EndpointDependent, Mapping::EndpointDependent) => PathReason::SymmetricBoth,
            (Mapping::EndpointDependent, _) | (_, Mapping::EndpointDependent) => PathReason::SymmetricOne,
            _ => PathReason::NoAnswer,
        }
    }

    /// Tells whether we have an address of a family that the peer has one of. Of ourselves that is not known before the shell
    /// said it, and then nothing is concluded.
    fn has_common_family(&self) -> bool {
        let own = self.own.candidates();
        let peers = self.table.endpoints().filter_map(|endpoint| endpoint.remote());
        let mut peers = peers.map(|address| address.is_ipv4());
        own.is_empty() || peers.any(|is_ipv4| own.iter().any(|own| own.address.is_ipv4() == is_ipv4))
    }
}
