//! Front ends: each reads one kind of source and gives a graph.

pub mod hub;
