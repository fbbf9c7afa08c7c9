//! Text from tokens as they come: no character that is not whole, and together what all tokens decoded at once are.
//!
//! A token's text depends on those around it: a character may be of several tokens, and decoders treat the first token of
//! a text differently. So the text of a token is by how much it makes the text of those before it longer, as in Hugging
//! Face's Text Generation Inference. Text that ends in U+FFFD waits: the character is not whole yet.

/// What stands for bytes that are no character.
const NOT_WHOLE: char = char::REPLACEMENT_CHARACTER;

/// Tokens that are decoded together with new ones.
const CONTEXT: usize = 8;

/// From so many tokens on, those that are given out are let go.
const MOST: usize = 64;

/// The text of a row of tokens, as far as it is given out.
pub(super) struct TextStream {
    /// Tokens before those that wait, and those.
    ids: Vec<u32>,
    /// The text of `ids` as far as it is known and given out.
    given: String,
    waits: bool,
}

impl TextStream {
    /// A text that begins after that prompt, of which `decoded` is the text.
    pub fn after(prompt: Vec<u32>, decoded: String) -> TextStream {
        TextStream { ids: prompt, given: decoded, waits: false }
    }

    /// The last tokens of a prompt, as far as what comes after them depends on them.
    pub fn context(prompt: &[u32]) -> &[u32] {
        prompt.get(prompt.len().saturating_sub(MOST)..).unwrap_or_default()
    }

    /// Takes a token.
    pub fn push(&mut self, token: u32) {
        self.ids.push(token);
    }

    /// The tokens whose text [`TextStream::take`] has to be given.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What the text of the tokens has more than was given out. At the end of a text nothing waits.
    pub fn take(&mut self, decoded: String, at_end: bool) -> String {
        self.waits = decoded.ends_with(NOT_WHOLE) && !at_end;
        if self.waits {
            return String::new();
        }
        let same = self.given.chars().zip(decoded.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let new = decoded.get(same..).unwrap_or_default().to_owned();
        self.given = decoded;
        new
    }

    /// The last tokens, where there are many and nothing waits; [`TextStream::forget`] has to be given their text.
    pub fn tail(&self) -> Option<&[u32]> {
        let many = self.ids.len() > MOST && !self.waits;
        self.ids.get(self.ids.len().saturating_sub(CONTEXT)..).filter(|_| many)
    }

    /// Lets go all tokens but [`TextStream::tail`]. Where that begins inside a character nothing is: what follows could be
    /// read together with the rest of it.
    pub fn forget(&mut self, decoded: String) {
        if !decoded.contains(NOT_WHOLE) {
            self.ids.drain(..self.ids.len().saturating_sub(CONTEXT));
            self.given = decoded;
        }
    }
}
