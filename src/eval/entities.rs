//! How well the entities of texts are found: the measures of CoNLL's evaluation, as `seqeval` reads it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// The tag outside of entities.
pub(super) const OUTSIDE: &str = "O";

/// The kind of entities whose tags name none.
const NAMELESS: &str = "_";

/// A part of a text that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entity {
    /// Its first word or character.
    pub start: usize,
    /// The one after its last.
    pub end: usize,
    /// Its kind.
    pub kind: String,
}

/// A tag's position in an entity, by its letter, and the kind of the entity; none outside of entities. A tag that does
/// not begin with a letter and a hyphen is a kind by itself, whose tags are inside.
fn parts(tag: &str) -> Option<(char, &str)> {
    let mut letters = tag.chars();
    match (letters.next(), letters.next(), letters.as_str()) {
        (Some('O') | None, None, _) | (Some('O'), Some('-'), _) => None,
        (Some(position @ ('B' | 'I' | 'E' | 'S')), None, _) => Some((position, NAMELESS)),
        (Some(position), Some('-'), "") => Some((position, NAMELESS)),
        (Some(position), Some('-'), kind) => Some((position, kind)),
        _ => Some(('I', tag)),
    }
}

/// The kind of entity that a tag is of; none outside of entities.
pub fn kind(tag: &str) -> Option<&str> {
    parts(tag).map(|(_, kind)| kind)
}

/// The entities of a row of tags, by the numbers of their tags. `B-` and `S-` begin one, `E-` and `S-` end one, and one
/// ends where the kind is another; nothing else ends it, so that `I-` may begin one too.
pub fn entities<S: AsRef<str>>(tags: &[S]) -> Vec<Entity> {
    let mut found: Vec<Entity> = Vec::new();
    let mut last = None;
    for (location, tag) in tags.iter().enumerate() {
        let now = parts(tag.as_ref());
        if let Some((position, kind)) = now {
            match found.last_mut() {
                Some(entity) if goes_on(last, position, kind) => entity.end = location + 1,
                _ => found.push(Entity { start: location, end: location + 1, kind: kind.to_owned() }),
            }
        }
        last = now;
    }
    found
}

fn goes_on(last: Option<(char, &str)>, position: char, kind: &str) -> bool {
    let begins = matches!(position, 'B' | 'S');
    last.is_some_and(|(before, of)| of == kind && !matches!(before, 'E' | 'S') && !begins)
}

/// The predicted and the true entities of a text.
#[derive(Clone, Debug, Default)]
pub struct Tagging {
    /// The entities that a model finds.
    pub found: Vec<Entity>,
    /// Those that are there.
    pub expected: Vec<Entity>,
    /// How many words have the correct tag, and how many words there are, where the text comes as words.
    pub tags: Option<(usize, usize)>,
}

/// How well entities are found. One is found correctly where it begins, ends and is called as it should.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EntityScore {
    /// How many texts were run.
    pub examples: usize,
    /// `correct / found`, over all entities of all texts; 0 where none was found.
    pub precision: f64,
    /// `correct / expected`; 0 where there are none.
    pub recall: f64,
    /// `2 · correct / (found + expected)`; 0 where there are none of either.
    pub f1: f64,
    /// How many entities were found correctly.
    pub correct: usize,
    /// How many were found.
    pub found: usize,
    /// How many there are.
    pub expected: usize,
    /// The share of words with the correct tag, where texts come as words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_accuracy: Option<f64>,
    /// The same for each kind of entity, in the order of their names.
    pub labels: Vec<KindScore>,
}

/// How well entities of one kind are found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindScore {
    /// The kind.
    pub label: String,
    /// `correct / found`
    pub precision: f64,
    /// `correct / expected`
    pub recall: f64,
    /// `2 · correct / (found + expected)`
    pub f1: f64,
    /// How many there are.
    pub expected: usize,
}

impl EntityScore {
    /// Scores the entities predicted in each text.
    pub fn of(texts: &[Tagging]) -> EntityScore {
        let mut kinds: BTreeMap<&str, Counts> = BTreeMap::new();
        for Tagging { found, expected, .. } in texts {
            let there: BTreeSet<&Entity> = expected.iter().collect();
            for entity in found {
                let counts = kinds.entry(&entity.kind).or_default();
                counts.found += 1;
                counts.correct += usize::from(there.contains(entity));
            }
            expected.iter().for_each(|entity| kinds.entry(&entity.kind).or_default().expected += 1);
        }
        let total = kinds.values().fold(Counts::default(), |sum, counts| Counts {
            correct: sum.correct + counts.correct,
            found: sum.found + counts.found,
            expected: sum.expected + counts.expected,
        });
        let tags = texts.iter().filter_map(|text| text.tags).reduce(|a, b| (a.0 + b.0, a.1 + b.1));
        EntityScore {
            examples: texts.len(),
            precision: total.precision(),
            recall: total.recall(),
            f1: total.f1(),
            correct: total.correct,
            found: total.found,
            expected: total.expected,
            token_accuracy: tags.map(|(correct, all)| share(correct, all)),
            labels: kinds.into_iter().map(|(kind, counts)| counts.of_kind(kind)).collect(),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    correct: usize,
    found: usize,
    expected: usize,
}

impl Counts {
    fn precision(self) -> f64 {
        share(self.correct, self.found)
    }

    fn recall(self) -> f64 {
        share(self.correct, self.expected)
    }

    fn f1(self) -> f64 {
        share(2 * self.correct, self.found + self.expected)
    }

    fn of_kind(self, kind: &str) -> KindScore {
        let (precision, recall, f1) = (self.precision(), self.recall(), self.f1());
        KindScore { label: kind.to_owned(), precision, recall, f1, expected: self.expected }
    }
}

/// 0 of none, as in `seqeval`.
fn share(part: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tags: &str) -> Vec<(usize, usize, String)> {
        let tags: Vec<&str> = tags.split(' ').collect();
        entities(&tags).into_iter().map(|Entity { start, end, kind }| (start, end, kind)).collect()
    }

    fn of(kind: &str, start: usize, end: usize) -> (usize, usize, String) {
        (start, end, kind.to_owned())
    }

    #[test]
    fn tags_are_read_as_seqeval_reads_them() {
        // seqeval.metrics.sequence_labeling.get_entities, whose ends are the last tag and not the one after it.
        assert_eq!(read("B-PER I-PER O B-LOC"), [of("PER", 0, 2), of("LOC", 3, 4)]);
        assert_eq!(read("I-PER I-PER B-PER I-LOC"), [of("PER", 0, 2), of("PER", 2, 3), of("LOC", 3, 4)]);
        assert_eq!(read("O I-PER O I-PER"), [of("PER", 1, 2), of("PER", 3, 4)]);
        assert_eq!(read("B-PER E-PER I-PER S-PER S-PER"), [0, 2, 3, 4].map(|n| of("PER", n, n.max(1) + 1)));
        assert_eq!(read("E-PER E-PER O E-LOC"), [of("PER", 0, 1), of("PER", 1, 2), of("LOC", 3, 4)]);
        assert_eq!(read("B-a-b I-a-b B I I-"), [of("a-b", 0, 2), of("_", 2, 5)]);
    }

    #[test]
    fn plain_labels_are_kinds_by_themselves() {
        // seqeval takes the first letter of a plain label for its position, and `ORG` for a tag outside of entities.
        assert_eq!(read("PER PER ORG O ORG"), [of("PER", 0, 2), of("ORG", 2, 3), of("ORG", 4, 5)]);
        assert_eq!([kind("ORG"), kind("B-ORG"), kind("O"), kind("")], [Some("ORG"), Some("ORG"), None, None]);
    }

    #[test]
    fn entities_count_whole_and_over_all_texts() {
        let text = |found: &[&str], expected: &[&str], correct| Tagging {
            found: entities(found),
            expected: entities(expected),
            tags: Some((correct, expected.len())),
        };
        let texts = [
            text(&["B-PER", "I-PER", "O", "B-LOC"], &["B-PER", "O", "O", "B-LOC"], 3),
            text(&["O", "I-LOC"], &["B-PER", "B-LOC"], 0),
        ];
        let score = EntityScore::of(&texts);
        assert_eq!((score.correct, score.found, score.expected), (2, 3, 4));
        assert_eq!((score.precision, score.recall, score.f1), (2.0 / 3.0, 0.5, 4.0 / 7.0));
        assert_eq!(score.token_accuracy, Some(0.5));
        let labels: Vec<_> = score.labels.iter().map(|kind| (kind.label.as_str(), kind.f1, kind.expected)).collect();
        assert_eq!(labels, [("LOC", 1.0, 2), ("PER", 0.0, 2)]);
    }

    #[test]
    fn no_entities_score_0() {
        let score = EntityScore::of(&[Tagging::default()]);
        assert_eq!((score.precision, score.recall, score.f1, score.token_accuracy), (0.0, 0.0, 0.0, None));
    }
}
