//! Front ends: each reads one kind of source and returns a graph.

pub mod hub;
