//! The merges of SentencePiece's BPE, which joins the pair of pieces whose token has the largest score.

use std::collections::HashMap;

use super::kind::TokenKind;
use crate::error::{Error, Result, printable};

/// Longest token that is made of merges, in bytes: finding them takes time for every place where it can be cut.
const LONGEST: usize = 256;

/// Pairs of tokens by rank. A token that several pairs make has them after one another, longer first parts first.
///
/// # Errors
/// Bad input: a score that is no number. Unsupported: tokens of more than 256 bytes.
pub(super) fn merges<'a>(tokens: &[&'a str], kinds: &[TokenKind], scores: &[f32]) -> Result<Vec<[&'a str; 2]>> {
    let is_piece = |kind: &TokenKind| matches!(kind, TokenKind::Normal | TokenKind::UserDefined);
    let pieces = || tokens.iter().zip(kinds).zip(scores).filter(|((_, kind), _)| is_piece(kind));
    let known: HashMap<&str, f32> = pieces().map(|((token, _), score)| (*token, *score)).collect();
    let mut ranked = Vec::new();
    for ((token, kind), score) in pieces() {
        if score.is_nan() {
            return Err(Error::bad_input(format!("the score of `{}` is NaN", printable(token))));
        }
        // Found in texts before all else.
        if *kind == TokenKind::UserDefined {
            continue;
        }
        if token.len() > LONGEST {
            return Err(Error::unsupported(format!(
                "the token `{}` has {} bytes, at most {LONGEST} are read",
                printable(token),
                token.len()
            )));
        }
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let pairs = cuts.filter(|(one, other)| known.contains_key(one) && known.contains_key(other));
        ranked.extend(pairs.map(|(one, other)| (*score, [one, other])));
    }
    // Stable, so that tokens of one score keep their order.
    ranked.sort_by(|(a, [x, y]), (b, [v, w])| {
        b.total_cmp(a).then(v.chars().count().cmp(&x.chars().count())).then(w.chars().count().cmp(&y.chars().count()))
    });
    Ok(ranked.into_iter().map(|(_, pair)| pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_larger_scores_are_made_first() {
        let tokens = ["a", "b", "ab", "ba", "aba", "<0x61>", "abab"];
        let mut kinds = [TokenKind::Normal; 7];
        kinds[5] = TokenKind::Byte;
        let scores = [0.0, 0.0, -2.0, -1.0, -3.0, 0.0, -3.0];
        let expected = [["b", "a"], ["a", "b"], ["aba", "b"], ["ab", "ab"], ["ab", "a"], ["a", "ba"]];
        assert_eq!(merges(&tokens, &kinds, &scores).unwrap(), expected);
        kinds[6] = TokenKind::UserDefined;
        assert_eq!(merges(&tokens, &kinds, &scores).unwrap().len(), 4);
        let long = "x".repeat(257);
        let error = merges(&[&long], &[TokenKind::Normal], &[0.0]).unwrap_err();
        assert!(error.message().ends_with("has 257 bytes, at most 256 are read"), "{error}");
    }
}
