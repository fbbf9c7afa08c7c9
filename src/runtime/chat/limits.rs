//! How much a template may do.

/// Most steps. One is an instruction, or 64 bytes of a value that is made.
pub(super) const STEPS: u64 = 2_000_000;

/// How deep it calls itself.
pub(super) const DEEPEST: usize = 100;

/// How deep values nest that it prints.
pub(super) const NESTED: usize = 128;
