//! From labels of tokens to entities, as `pipeline("token-classification")` of `transformers` groups them.

use crate::settings::Aggregation;

/// A token that is part of the text, with the model's scores.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub word: String,
    /// The probability of each label.
    pub scores: Vec<f32>,
    pub start: usize,
    pub end: usize,
    /// Whether it goes on with the word before it.
    pub goes_on: bool,
}

/// A token, a word or a group of them, with its label by number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Labelled {
    /// The tokens or words whose text it is.
    pub words: Vec<String>,
    pub label: usize,
    pub score: f32,
    pub start: usize,
    pub end: usize,
}

/// The label of a token by itself.
pub(super) fn labelled(token: &Token) -> Labelled {
    let (label, score) = surest(&token.scores);
    Labelled { words: vec![token.word.clone()], label, score, start: token.start, end: token.end }
}

/// Words of tokens that belong together, each with one label.
pub(super) fn words(tokens: &[Token], aggregation: Aggregation) -> Vec<Labelled> {
    parts(tokens, aggregation).map(|word| whole(word, aggregation)).collect()
}

/// The tokens that get one label together: words, or tokens by themselves.
pub(super) fn parts(tokens: &[Token], aggregation: Aggregation) -> impl Iterator<Item = &[Token]> {
    let by_words = !matches!(aggregation, Aggregation::None | Aggregation::Simple);
    tokens.chunk_by(move |_, next| by_words && next.goes_on)
}

/// The probability of each label for tokens that get one together.
pub(super) fn scores(tokens: &[Token], aggregation: Aggregation) -> Vec<f32> {
    let surest_of = |token: &&Token| surest(&token.scores).1;
    let one = match aggregation {
        Aggregation::Average => return average(tokens),
        // Of equals the first.
        Aggregation::Max => tokens.iter().rev().max_by(|a, b| surest_of(a).total_cmp(&surest_of(b))),
        _ => tokens.first(),
    };
    one.map(|token| token.scores.clone()).unwrap_or_default()
}

fn whole(tokens: &[Token], aggregation: Aggregation) -> Labelled {
    let (label, score) = surest(&scores(tokens, aggregation));
    Labelled {
        words: tokens.iter().map(|token| token.word.clone()).collect(),
        label,
        score,
        start: tokens.first().map_or(0, |token| token.start),
        end: tokens.last().map_or(0, |token| token.end),
    }
}

fn average(tokens: &[Token]) -> Vec<f32> {
    let width = tokens.iter().map(|token| token.scores.len()).min().unwrap_or(0);
    let of = |label: usize| tokens.iter().filter_map(move |token| token.scores.get(label)).sum::<f32>();
    (0..width).map(|label| of(label) / tokens.len() as f32).collect()
}

/// The number of the largest score, the first of equals.
pub(super) fn surest(scores: &[f32]) -> (usize, f32) {
    let all = scores.iter().copied().enumerate().rev();
    all.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
}

/// Neighbours with the same label, as one; its score is the mean.
pub(super) fn groups(parts: &[Labelled], labels: &[String]) -> Vec<Labelled> {
    let name = |part: &Labelled| labels.get(part.label).map_or("", String::as_str);
    let same = |last: &Labelled, next: &Labelled| !name(next).starts_with("B-") && kind(name(last)) == kind(name(next));
    let joined = parts.chunk_by(same).map(|group| Labelled {
        words: group.iter().flat_map(|part| part.words.clone()).collect(),
        label: group.first().map_or(0, |part| part.label),
        score: group.iter().map(|part| part.score).sum::<f32>() / group.len() as f32,
        start: group.first().map_or(0, |part| part.start),
        end: group.last().map_or(0, |part| part.end),
    });
    joined.collect()
}

/// A label without its token's position in the entity.
fn kind(label: &str) -> &str {
    label.strip_prefix("B-").or_else(|| label.strip_prefix("I-")).unwrap_or(label)
}

/// The name of a group, which `transformers` cuts at the first hyphen, with any prefix.
pub(super) fn group_name(label: &str) -> &str {
    label.split_once('-').map_or(label, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(word: &str, scores: [f32; 3], goes_on: bool) -> Token {
        Token { word: word.to_owned(), scores: scores.to_vec(), start: 0, end: 1, goes_on }
    }

    #[test]
    fn a_word_has_the_label_that_its_tokens_agree_on() {
        let word = [
            token("mi", [0.6, 0.4, 0.0], false),
            token("##cro", [0.1, 0.7, 0.2], true),
            token("##n", [0.0, 0.1, 0.9], true),
        ];
        let label = |aggregation| {
            let found = words(&word, aggregation);
            assert_eq!(found.len(), 1);
            (found[0].label, found[0].score)
        };
        assert_eq!(label(Aggregation::First), (0, 0.6));
        assert_eq!(label(Aggregation::Average).0, 1);
        assert_eq!(label(Aggregation::Max), (2, 0.9));
    }

    #[test]
    fn groups_end_where_the_label_changes_or_one_begins() {
        let labels = ["O", "B-PER", "I-PER", "I-LOC", "MISC"].map(str::to_owned);
        let part = |label: usize| Labelled { words: vec![label.to_string()], label, score: 0.5, start: 0, end: 1 };
        let grouped = |of: &[usize]| {
            let parts: Vec<_> = of.iter().map(|label| part(*label)).collect();
            groups(&parts, &labels).into_iter().map(|group| group.words.concat()).collect::<Vec<_>>()
        };
        assert_eq!(grouped(&[1, 2, 2, 1, 2, 3, 3, 0, 0, 4, 4]), ["122", "12", "33", "00", "44"]);
        assert_eq!(grouped(&[2, 1]), ["2", "1"]);
        assert_eq!(["B-PER", "I-PER", "E-a-b", "PER"].map(group_name), ["PER", "PER", "a-b", "PER"]);
    }
}
