//! Development only: the pure cores in a world whose clock, network and faults follow from one seed.
//!
//! Nothing here is part of the product. There is no thread, socket or clock: a day passes as fast as the cores compute
//! it, and a seed that failed fails again. Now: two or more WireGuard tunnels on a faulty network. Reference models and
//! checkers for other cores come beside it.

pub mod dice;
pub mod link;
pub mod packet;
pub mod seeds;
pub mod world;

pub use dice::Dice;
pub use link::{Datagram, Faults, Link};
pub use seeds::for_each_seed;
pub use world::{NodeId, World};
