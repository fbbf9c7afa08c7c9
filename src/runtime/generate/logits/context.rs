//! A row and its scores.

/// A row that is continued.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The prompt, and the tokens after it.
    pub tokens: &'a [u32],
    /// How many of them are the prompt's.
    pub prompt: usize,
    /// How many tokens the row may have at the most.
    pub most: Option<usize>,
    /// The tokens that end a text.
    pub eos: &'a [u32],
}

/// The score of a token, where the vocabulary has it.
pub(super) fn score(scores: &mut [f32], token: u32) -> Option<&mut f32> {
    scores.get_mut(usize::try_from(token).ok()?)
}
