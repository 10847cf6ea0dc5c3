//! What the end-to-end tests and the demo share: real `runmesh` processes, a checkout, a stand-in model server.
//!
//! Nothing here is part of the product.

pub mod agents;
pub mod demo;
pub mod device;
pub mod fuzz;
pub mod lab;
pub mod processes;
pub mod repository;
pub mod skipped;
pub mod stand_in_model;
pub mod times;
pub mod world;
