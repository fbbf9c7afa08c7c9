//! Measures of question answering: exact match and F1, by the published rules of SQuAD.

use std::collections::BTreeMap;

use serde::Serialize;

/// The measures of question answering. Each predicted answer is compared with the correct ones, and the best counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SpanScore {
    /// All questions.
    #[serde(flatten)]
    pub all: Part,
    /// The questions that have an answer, where some have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_answer: Option<Part>,
    /// The questions that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_answer: Option<Part>,
}

/// The measures over some of the questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// How many questions were run.
    pub examples: usize,
    /// The share of answers with the correct words, once both are normalized.
    pub exact_match: f64,
    /// The mean of each answer's `2pr / (p + r)`, by the words that it has in common with the correct one.
    pub f1: f64,
}

impl SpanScore {
    /// Scores answers, each with the correct ones: none, where the question has no answer.
    pub fn of(answers: &[(&str, &[String])]) -> SpanScore {
        let scored: Vec<Scored> = answers.iter().map(|(found, right)| Scored::of(found, right)).collect();
        let of = |answered: bool| Part::of(scored.iter().filter(|scored| scored.has_answer == answered));
        let none = of(false).filter(|none| none.examples > 0);
        SpanScore {
            all: Part::of(&scored).unwrap_or_default(),
            has_answer: none.and_then(|_| of(true)),
            no_answer: none,
        }
    }
}

struct Scored {
    has_answer: bool,
    exact: bool,
    f1: f64,
}

impl Scored {
    fn of(found: &str, right: &[String]) -> Scored {
        let found = normalized(found);
        // Articles and punctuation alone are no answer.
        let mut right: Vec<String> =
            right.iter().map(|text| normalized(text)).filter(|text| !text.is_empty()).collect();
        let has_answer = !right.is_empty();
        if !has_answer {
            right.push(String::new());
        }
        let f1 = right.iter().map(|right| f1(right, &found)).fold(0.0, f64::max);
        Scored { has_answer, exact: right.contains(&found), f1 }
    }
}

impl Part {
    /// None of no questions.
    fn of<'a>(scored: impl IntoIterator<Item = &'a Scored>) -> Option<Part> {
        let (mut examples, mut exact, mut f1) = (0, 0, 0.0);
        for one in scored {
            examples += 1;
            exact += usize::from(one.exact);
            f1 += one.f1;
        }
        let share = |sum: f64| sum / examples as f64;
        (examples > 0).then(|| Part { examples, exact_match: share(exact as f64), f1: share(f1) })
    }
}

/// A text in lower case, without ASCII's punctuation, the articles of English, and needless white space.
fn normalized(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    // Articles end where words do, which need not be at white space.
    let is_letter = |c: char| c.is_alphanumeric();
    let letters: Vec<char> = plain.chars().collect();
    let runs = letters.chunk_by(|a, b| is_letter(*a) == is_letter(*b)).map(|run| run.iter().collect::<String>());
    let kept: String =
        runs.map(|run| if ["a", "an", "the"].contains(&run.as_str()) { " ".to_owned() } else { run }).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Of two normalized texts; where either has no words, 1 if neither has.
fn f1(right: &str, found: &str) -> f64 {
    let [right, found] = [right, found].map(words);
    let count = |words: &BTreeMap<&str, usize>| words.values().sum::<usize>();
    if right.is_empty() || found.is_empty() {
        return f64::from(u8::from(right == found));
    }
    let common: usize = right.iter().filter_map(|(word, n)| Some(*n.min(found.get(word)?))).sum();
    2.0 * common as f64 / (count(&right) + count(&found)) as f64
}

/// The words of a text, and how often each appears.
fn words(text: &str) -> BTreeMap<&str, usize> {
    let mut words = BTreeMap::new();
    text.split_whitespace().for_each(|word| *words.entry(word).or_default() += 1);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_normalized_as_in_squad() {
        // transformers.data.metrics.squad_metrics.normalize_answer
        assert_eq!(normalized("The  Tower, an-d A \u{a0}theatre!"), "tower and theatre");
        assert_eq!(normalized("€a…the 東a a\u{2019}b"), "€ … 東a \u{2019}b");
        assert_eq!(normalized("the a. AN"), "");
    }

    #[test]
    fn the_best_of_the_correct_answers_counts() {
        let right = ["in Paris".to_owned(), "the city of Paris".to_owned()];
        let score = SpanScore::of(&[("Paris city", &right), ("in paris.", &right)]);
        // city of paris: 2 of 2 found, 2 of 3 there.
        assert_eq!(score.all, Part { examples: 2, exact_match: 0.5, f1: (0.8 + 1.0) / 2.0 });
        assert_eq!((score.has_answer, score.no_answer), (None, None));
    }

    #[test]
    fn a_word_counts_as_often_as_it_is_in_both() {
        assert_eq!(f1("b b c", "b b b"), 2.0 * 2.0 / 6.0);
        assert_eq!((f1("", ""), f1("b", ""), f1("", "b"), f1("b", "c")), (1.0, 0.0, 0.0, 0.0));
    }

    #[test]
    fn no_answer_is_correct_where_there_is_none() {
        let right = ["Paris".to_owned()];
        let score = SpanScore::of(&[("", &[]), ("Paris", &[]), ("", &right), ("an", &["the".to_owned()])]);
        assert_eq!(score.all, Part { examples: 4, exact_match: 0.5, f1: 0.5 });
        assert_eq!(score.has_answer, Some(Part { examples: 1, ..Part::default() }));
        let none = Part { examples: 3, exact_match: 2.0 / 3.0, f1: 2.0 / 3.0 };
        assert_eq!(score.no_answer, Some(none));
    }
}
