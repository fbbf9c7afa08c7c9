//! What tokens are.

/// What a token is, by its number in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of texts.
    Normal,
    /// What stands for texts that have no tokens.
    Unknown,
    /// One that is no text.
    Control,
    /// One that is found in texts before all else.
    UserDefined,
    /// One that no text has.
    Unused,
    /// A byte of a text that has no other token.
    Byte,
}

impl TokenKind {
    /// The kind of that number; others are plain tokens, as llama.cpp has it.
    pub fn numbered(number: i64) -> TokenKind {
        match number {
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => TokenKind::Normal,
        }
    }

    /// Whether it is found in texts before all else.
    pub fn is_added(self) -> bool {
        matches!(self, TokenKind::Unknown | TokenKind::Control | TokenKind::UserDefined)
    }
}
