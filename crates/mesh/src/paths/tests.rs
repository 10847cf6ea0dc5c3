//! Two ends of a path, probes carried by hand.
