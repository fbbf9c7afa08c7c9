//! Scores of token classification: the entities of texts.

use std::ops::Range;

use super::words::Word;
use crate::bundle::{Bundle, EngineEntry};
use crate::error::Result;
use crate::eval::{Entity, EntityScore, Located, Tagged, Tagging, entities, read_tagged};
use crate::settings::{Aggregation, Settings};
use crate::task::options::PipelineOptions;
use crate::task::pipeline::Pipeline;
use crate::task::scoring::{Agreement, Rows, ScoringRequest, figure, largest, pipeline};

/// What a row is, and the measures.
pub(in crate::task) const ROWS: &str = r#"{"tokens": ["EU", "calls"], "tags": ["B-ORG", "O"]}, or “ner_tags”, by name or number; or
{"text": "EU calls", "entities": [{"start": 0, "end": 2, "label": "ORG"}]}, in characters
→ precision, recall and F1 of whole entities, as seqeval counts them; accuracy of tags"#;

/// Texts and their entities.
pub(in crate::task) struct TaggedTexts {
    texts: Vec<Located<Text>>,
    options: PipelineOptions,
}

/// A text and its entities.
pub(in crate::task) struct Text {
    text: String,
    /// The words that the text is made of, in characters, and their tags, where it comes as words.
    words: Option<(Vec<Range<usize>>, Vec<String>)>,
    /// By words where the text has them, else by characters.
    entities: Vec<Entity>,
}

/// The prediction.
pub(in crate::task) struct Found {
    words: Vec<Word>,
    entities: Vec<Entity>,
}

impl TaggedTexts {
    /// Words have the labels of their first tokens where nothing else is set.
    pub fn read(request: &ScoringRequest) -> Result<TaggedTexts> {
        let ScoringRequest { bundle, data, settings, .. } = *request;
        let rows = read_tagged(data, &bundle.manifest.labels)?.into_iter();
        let texts = rows.map(|Located { location, row }| Located { location, row: row.into() });
        let own = settings.aggregation.or(bundle.manifest.pipeline.aggregation);
        let options = Settings { aggregation: own.or(Some(Aggregation::First)), ..settings }.into();
        Ok(TaggedTexts { texts: texts.collect(), options })
    }
}

impl From<Tagged> for Text {
    fn from(tagged: Tagged) -> Text {
        match tagged {
            Tagged::Words { words, tags } => {
                let (text, places) = joined(&words);
                let entities = entities(&tags);
                Text { text, words: Some((places, tags)), entities }
            }
            Tagged::Text { text, entities } => Text { text, words: None, entities },
        }
    }
}

/// The text that words make with a space between them, and the position of each in it, in characters.
fn joined(words: &[String]) -> (String, Vec<Range<usize>>) {
    let mut start = 0;
    let places = words.iter().map(|word| {
        let location = start..start + word.chars().count();
        start = location.end + 1;
        location
    });
    let places = places.collect();
    (words.join(" "), places)
}

/// The entities of a text by the labels of its words: by their numbers, or by their characters.
fn found(words: &[Word], by_words: bool) -> Vec<Entity> {
    let labels: Vec<&str> = words.iter().map(|word| word.label.as_str()).collect();
    let located = |entity: Entity| {
        let (first, last) = (words.get(entity.start)?, words.get(entity.end.checked_sub(1)?)?);
        Some(Entity { start: first.start, end: last.end, ..entity })
    };
    let of_words = entities(&labels);
    if by_words { of_words } else { of_words.into_iter().filter_map(located).collect() }
}

impl Rows for TaggedTexts {
    type Row = Located<Text>;

    type Model = Pipeline;

    type Found = Found;

    type Score = EntityScore;

    fn rows(&self) -> &[Located<Text>] {
        &self.texts
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        pipeline(bundle, engine, self.options)
    }

    fn run(&self, model: &mut Pipeline, Located { location, row }: &Located<Text>) -> Result<Found> {
        let given = row.words.as_ref().map(|(places, _)| places.as_slice());
        let words = model.words(&row.text, given).map_err(|e| e.at(location.clone()))?.prediction;
        let entities = found(&words, given.is_some());
        Ok(Found { words, entities })
    }

    fn score(&self, found: &[Found]) -> EntityScore {
        let of = |(Located { row, .. }, found): (&Located<Text>, &Found)| Tagging {
            found: found.entities.clone(),
            expected: row.entities.clone(),
            tags: row.words.as_ref().map(|(_, tags)| (correct(&found.words, tags), tags.len())),
        };
        EntityScore::of(&self.texts.iter().zip(found).map(of).collect::<Vec<_>>())
    }

    fn agreement(&self, first: &[Found], found: &[Found]) -> Result<Agreement> {
        Ok(Agreement::of(first.iter().zip(found).map(|(a, b)| (a.entities == b.entities, difference(a, b)))))
    }

    fn measures(&self, score: &EntityScore) -> Vec<(&'static str, String)> {
        let mut measures =
            vec![("precision", figure(score.precision)), ("recall", figure(score.recall)), ("F1", figure(score.f1))];
        measures.extend(score.token_accuracy.map(|accuracy| ("token accuracy", figure(accuracy))));
        measures
    }

    fn summary(&self, score: &EntityScore) -> String {
        format!("F1 {:.4}, {} of {} entities correct", score.f1, score.correct, score.expected)
    }
}

fn correct(words: &[Word], tags: &[String]) -> usize {
    words.iter().zip(tags).filter(|(word, tag)| word.label == **tag).count()
}

/// The largest difference of a probability of any label of any word.
fn difference(a: &Found, b: &Found) -> f64 {
    let scores = |found: &Found| found.words.iter().flat_map(|word| word.scores.clone()).collect::<Vec<f32>>();
    largest(scores(a).iter().zip(scores(b)).map(|(a, b)| f64::from((a - b).abs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_positions_in_characters() {
        let words = ["é東", "", "a"].map(str::to_owned);
        assert_eq!(joined(&words), ("é東  a".to_owned(), vec![0..2, 3..3, 4..5]));
    }

    #[test]
    fn entities_are_by_words_or_by_characters() {
        let word = |start, end, label: &str| Word { start, end, label: label.to_owned(), scores: Vec::new() };
        let words = [word(0, 6, "B-PER"), word(7, 13, "I-PER"), word(14, 17, "O")];
        let of = |by_words| found(&words, by_words).into_iter().map(|e| (e.start, e.end)).collect::<Vec<_>>();
        assert_eq!((of(true), of(false)), (vec![(0, 2)], vec![(0, 13)]));
    }
}
