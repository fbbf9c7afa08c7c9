//! Every word of a text with its label, also outside of entities: for callers that know what the
//! labels should be.

use std::ops::Range;

use super::entity::OUTSIDE;
use super::groups::{self, Token};
use super::tokens::Tokens;
use crate::error::Result;
use crate::task::batches::{self, Row, Tokenized};
use crate::task::characters::Characters;

/// A word with its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// Where it begins in the text, in characters.
    pub start: usize,
    /// Where it ends, in characters.
    pub end: usize,
    /// The likeliest label.
    pub label: String,
    /// The probability of each label; of none, where no token is of the word.
    pub scores: Vec<f32>,
}

pub(super) struct Words<'a> {
    pub tokens: Tokens<'a>,
    /// The positions of words in the text, in characters and in order; the tokenizer's own words, if not set.
    pub given: Option<&'a [Range<usize>]>,
}

impl<'a> batches::Reader for Words<'a> {
    type Part = <Tokens<'a> as batches::Reader>::Part;

    type Prediction = Vec<Word>;

    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Self::Part> {
        self.tokens.read(tokenized, window, row)
    }

    fn join(&self, tokenized: &Tokenized, parts: Vec<Self::Part>) -> Result<Vec<Word>> {
        let text = Characters::of(tokenized.input.text);
        let (_, tokens) = self.tokens.scored(tokenized, &text, parts);
        let aggregation = self.tokens.settings.aggregation();
        Ok(match self.given {
            Some(given) => {
                let first = |word: &Range<usize>| first(&tokens, word).map(|token| token.scores.clone());
                given.iter().map(|word| self.word(word.clone(), first(word).unwrap_or_default())).collect()
            }
            None => {
                let words = groups::parts(&tokens, aggregation).filter_map(|word| Some((word, shown(&text, word)?)));
                words.map(|(word, position)| self.word(position, groups::scores(word, aggregation))).collect()
            }
        })
    }
}

impl Words<'_> {
    fn word(&self, position: Range<usize>, scores: Vec<f32>) -> Word {
        let label = if scores.is_empty() { OUTSIDE.to_owned() } else { self.tokens.label(groups::surest(&scores).0) };
        Word { start: position.start, end: position.end, label, scores }
    }
}

/// The first token of a word. Some tokenizers make a token of the space before it, which is the word's too.
fn first<'a>(tokens: &'a [Token], word: &Range<usize>) -> Option<&'a Token> {
    let first = tokens.partition_point(|token| token.end < word.start);
    tokens.get(first).filter(|token| token.start < word.end)
}

/// The position of tokens without the white space around them; none, where they are only white space.
fn shown(text: &Characters, tokens: &[Token]) -> Option<Range<usize>> {
    let (mut start, mut end) = (tokens.first()?.start, tokens.last()?.end);
    let is_space = |at: usize| text.slice(at, at + 1).trim().is_empty();
    while start < end && is_space(start) {
        start += 1;
    }
    while start < end && is_space(end - 1) {
        end -= 1;
    }
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(start: usize, end: usize) -> Token {
        Token { word: String::new(), scores: vec![start as f32], start, end, goes_on: false }
    }

    #[test]
    fn a_word_has_the_tokens_over_it_and_over_the_space_before_it() {
        // `a`, ` `, `bc`, `d`; the last word was dropped by the tokenizer.
        let tokens = [token(0, 1), token(1, 2), token(2, 4), token(4, 5)];
        let found = [0..1, 2..5, 6..7].map(|word| first(&tokens, &word).map(|token| token.start));
        assert_eq!(found, [Some(0), Some(1), None]);
        // A token over two words is the first of both.
        let found = [0..2, 3..5].map(|word| first(&[token(0, 5)], &word).map(|token| token.start));
        assert_eq!(found, [Some(0), Some(0)]);
    }

    #[test]
    fn positions_have_no_white_space_around_them() {
        let text = Characters::of("é  東 a");
        assert_eq!(shown(&text, &[token(1, 4), token(4, 5)]), Some(3..4));
        assert_eq!((shown(&text, &[token(1, 3)]), shown(&text, &[])), (None, None));
    }
}
