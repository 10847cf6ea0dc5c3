//! The target of the messages of the control stream and the dispatch session, and of the orders and tickets in them.

use std::fmt::Debug;

use runs::protocol::{ToOrchestrator, ToSidecar};
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::control::{FromNode, ToNode};
use types::{
    AgentId, Attempt, Fence, NodePrivateKey, OrgId, RunId, RunLimits, RunTicket, SealedOrder,
    SignedRunTicket, SigningPrivateKey, Timestamp,
};

/// Feeds the JSON of a message: what is taken is written as what is read again.
///
/// The first byte chooses: 0 and 1, to and from a node on the control stream; 2 and 3, to a sidecar and from one on the dispatch
/// session; 4, the text of an order that a genuine ticket was signed for, to which the second byte says what is changed.
pub fn messages(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    match mode % 5 {
        0 => drop(again::<ToNode>(rest)),
        1 => drop(again::<FromNode>(rest)),
        2 => ticketed(again::<ToSidecar>(rest)),
        3 => drop(again::<ToOrchestrator>(rest)),
        _ => ordered(rest),
    }
}

/// Reads a message; what was read must survive being written.
fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(json: &[u8]) -> Option<T> {
    let message: T = serde_json::from_slice(json).ok()?;
    let written = serde_json::to_vec(&message).expect("what was read can be written");
    let read: T = serde_json::from_slice(&written).expect("what was written can be read");
    // Twice, since a number of JSON may be rounded once.
    let rewritten = serde_json::to_vec(&read).expect("what was read can be written");
    assert_eq!(
        String::from_utf8_lossy(&written),
        String::from_utf8_lossy(&rewritten)
    );
    Some(message)
}

/// Whoever has not the org's key makes no ticket, whatever the order says.
fn ticketed(message: Option<ToSidecar>) {
    if let Some(ToSidecar::Offer { order, ticket, .. } | ToSidecar::Registered { order, ticket, .. }) =
        message
    {
        assert!(open(&ticket).is_none(), "nobody here could have signed it");
        let _ = order.read();
    }
}

/// An order is admitted only as the text that was signed, for the attempt and fence that were.
fn ordered(input: &[u8]) {
    let Some((change, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = serde_json::to_vec(&String::from_utf8_lossy(text)) else {
        return;
    };
    let order: SealedOrder = serde_json::from_slice(&text).expect("a text");
    let read = order.read();
    let ticket = RunTicket {
        org_id: OrgId::from_random([1; 16]),
        agent_id: read
            .as_ref()
            .map_or(AgentId::from_random([2; 16]), |order| order.agent_id),
        node_key: node_key(),
        run_id: read
            .as_ref()
            .map_or(RunId::from_random([4; 16]), |order| order.run_id),
        attempt: Attempt(1),
        fence: Fence(7),
        limits: read.as_ref().map_or(RunLimits::default(), |order| order.limits),
        order: order.digest(),
        expires_at: now(),
    };
    let opened = open(&ticket.sign(&org_key())).expect("a genuine ticket");
    assert_eq!(opened, ticket);
    let (attempt, fence) = (
        Attempt(1 + u32::from(change & 1)),
        Fence(7 + u64::from(change >> 1 & 1)),
    );
    let admitted = opened.admit(&order, attempt, fence);
    assert_eq!(admitted.is_ok(), read.is_ok() && change & 3 == 0, "{admitted:?}");
    let other = SealedOrder::seal(&match read {
        Ok(order) => order,
        Err(_) => return,
    });
    // The same order in other words is not what was signed.
    assert!(other == order || opened.admit(&other, Attempt(1), Fence(7)).is_err());
}

fn now() -> Timestamp {
    Timestamp::from_unix_ms(1_000_000_000)
}

fn org_key() -> SigningPrivateKey {
    SigningPrivateKey::from_random([5; 32])
}

fn node_key() -> types::NodePublicKey {
    NodePrivateKey::from_random([3; 32]).public()
}

fn open(ticket: &SignedRunTicket) -> Option<RunTicket> {
    ticket
        .open(
            &org_key().public(),
            OrgId::from_random([1; 16]),
            &node_key(),
            now(),
        )
        .ok()
}
