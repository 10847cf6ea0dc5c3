//! The node daemon: links this device, keeps its place in the mesh, and executes the runs sent to it.
//!
//! A library; the command line is `runmesh`'s. The parts, each in a file of its own: what lies on disk ([`state_dir`]),
//! becoming a node ([`link`]), the control stream ([`control_client`]), the netmap in force ([`membership`]) and its files
//! (`netmap_file`), the dispatch session and its journal ([`sidecar`]), the programs that execute runs ([`runner`]), what the owner allows
//! ([`policy`]), where the device is (`whereabouts`), the router's port that leads to it ([`port_mapping`]), what goes in and
//! out of the mesh ([`reach`]), by which ports ([`ports`]), the host's own place in it (`host`), what its names mean
//! ([`names`]), and the local socket ([`local_api`], [`local_client`]). [`daemon`] puts them together.

mod append_file;
pub mod backoff;
pub mod config;
pub mod control_client;
pub mod daemon;
pub mod footprint;
mod host;
pub mod journal_file;
pub mod journal_keeper;
pub mod keyring;
pub mod link;
pub mod link_state;
pub mod local_api;
pub mod local_client;
pub mod log_tail;
pub mod membership;
pub mod names;
mod netmap_file;
pub mod policy;
pub mod port_mapping;
pub mod ports;
pub mod reach;
pub mod runner;
pub mod sidecar;
pub mod state_dir;
pub mod status;
pub mod talk;
mod whereabouts;

pub use config::{Exit, NodeConfig, PolicySeed};
pub use daemon::{NodeError, run};
pub use local_client::LocalClient;
pub use net::tun;
pub use talk::Talk;
