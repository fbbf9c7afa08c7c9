//! Where the strings of a JSON text are.

/// Whether the characters of a text are in a string.
#[derive(Default)]
pub(super) struct Strings {
    open: bool,
    escaped: bool,
}

impl Strings {
    /// Whether the next character belongs to a string, its quotes included.
    pub(super) fn inside(&mut self, c: char) -> bool {
        let was_open = self.open;
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' if self.open => self.escaped = true,
            '"' => self.open = !self.open,
            _ => {}
        }
        was_open || self.open
    }
}
