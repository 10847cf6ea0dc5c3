//! What the daemon says to the person who started it: facts, to be worded and drawn by the caller.

use std::time::Duration;

use types::{NodeName, Timestamp};

/// One thing worth saying.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Talk {
    /// The device waits for approval. Said again, with `resumed`, when a restart found a pending code.
    LinkCode {
        /// Six characters to type on the approve page.
        code: String,
        /// The two digits that must be the same on the approve page.
        match_number: String,
        /// The page to open.
        url: String,
        /// The same URL as a QR code: lines of block characters.
        qr: String,
        /// When the code dies.
        expires_at: Timestamp,
        /// Whether the code is from before this start.
        resumed: bool,
    },
    /// Somebody said no. A new code is not asked for.
    LinkDenied,
    /// Nobody approved in time; a new code follows.
    LinkExpired,
    /// The control plane cannot be reached to link; it is tried again.
    LinkWaiting {
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The device is a node.
    Linked {
        /// Its name in the org.
        name: NodeName,
        /// Its addresses, as text.
        addresses: Vec<String>,
    },
    /// The control stream is open.
    ControlConnected,
    /// The control stream is lost; the node works on with its last netmap.
    ControlLost {
        /// Why.
        reason: String,
        /// When it is tried again.
        retry_in: Duration,
    },
    /// The host itself is in the mesh.
    Host {
        /// The network device by which it is.
        device: String,
        /// Its addresses, as text.
        addresses: Vec<String>,
    },
    /// The proxy into the mesh listens.
    Proxy {
        /// Where, as text.
        address: String,
    },
    /// Names of the mesh are answered to programs on this device.
    Names {
        /// Where, as text.
        address: String,
    },
    /// They are not answered at a mesh address of this host, whose port somebody else has; it is tried again.
    NamesNotAnswered {
        /// Where, and why.
        reason: String,
    },
    /// This system's resolver leads the org's names to this node, until it stops.
    NamesTold {
        /// The domain under which they stand.
        domain: String,
    },
    /// It does not: it said no.
    NamesNotTold {
        /// Why.
        reason: String,
    },
    /// The dispatch session is open: runs can arrive.
    Ready,
    /// A run begins.
    RunStarted {
        /// Its id and what executes it.
        summary: String,
    },
    /// A run ended.
    RunEnded {
        /// Its id, status and reason.
        summary: String,
    },
    /// The org shut this node out.
    Revoked,
    /// The node's key has expired.
    KeyExpired,
}
