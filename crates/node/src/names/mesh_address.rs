//! The resolver for the host's own programs at its mesh addresses, in TUN mode. What the host sends there never reaches the
//! network device, since the kernel delivers it by itself; so sockets of the host answer, for nobody else than the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::host::HostResolver;
use super::{Names, RETRY};
use crate::config::OnTalk;
use crate::status::StatusBoard;
use crate::talk::Talk;

impl Names {
    /// Answers at each of `addresses`, which are those that the host has now, for ever; dropping this ends it. A port that
    /// cannot be had is said once, and tried again.
    pub(crate) async fn serve_own_addresses(
        &self,
        mut addresses: watch::Receiver<BTreeSet<IpAddr>>,
        board: &StatusBoard,
        on_talk: &OnTalk,
    ) {
        loop {
            let mut serving = JoinSet::new();
            for ip in addresses.borrow_and_update().iter().copied() {
                serving.spawn(serve(ip, self.clone(), board.clone(), on_talk.clone()));
            }
            let changed = addresses.changed().await;
            serving.shutdown().await;
            board.change(|status| status.names_mesh_addresses.clear());
            if changed.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

async fn serve(ip: IpAddr, names: Names, board: StatusBoard, on_talk: OnTalk) {
    let mut is_said = false;
    let resolver = loop {
        match HostResolver::at_mesh_address(ip) {
            Ok(resolver) => break resolver,
            Err(error) if !is_said => {
                on_talk(&Talk::NamesNotAnswered {
                    reason: error.to_string(),
                });
                is_said = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    };
    let address = resolver.address().to_string();
    board.change(|status| status.names_mesh_addresses.push(address.clone()));
    on_talk(&Talk::Names { address });
    resolver.serve(names).await;
}
