//! What the end-to-end tests and the demo share: a stand-in model server, and real `runmesh` processes.
//!
//! Nothing here is part of the product.

pub mod stand_in_model;
