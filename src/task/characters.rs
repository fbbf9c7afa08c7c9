//! Texts by their characters, as positions count them.

/// A text by the numbers of its characters.
pub(super) struct Characters<'a> {
    text: &'a str,
    /// Where each begins, in bytes.
    starts: Vec<usize>,
}

impl<'a> Characters<'a> {
    pub fn of(text: &'a str) -> Characters<'a> {
        Characters { text, starts: text.char_indices().map(|(start, _)| start).collect() }
    }

    /// The characters from `start` up to `end`, as far as there are.
    pub fn slice(&self, start: usize, end: usize) -> &'a str {
        let byte = |character: usize| self.starts.get(character).copied().unwrap_or(self.text.len());
        self.text.get(byte(start)..byte(end)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_and_not_bytes() {
        let text = Characters::of("aé🦀東");
        assert_eq!((text.slice(1, 3), text.slice(2, 9), text.slice(3, 2), text.slice(9, 10)), ("é🦀", "🦀東", "", ""));
    }
}
