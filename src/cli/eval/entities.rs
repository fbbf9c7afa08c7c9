//! Token classification: the entities of texts.

use std::ops::Range;

use super::EvalArgs;
use super::engines::{Agreement, Labelled, largest, pipeline, summary};
use kilnc::bundle::{Bundle, EngineEntry};
use kilnc::error::{Error, Result};
use kilnc::eval::{Entity, EntityScore, Located, Tagged, Tagging, entities, read_tagged};
use kilnc::task::{Pipeline, PipelineOptions, Word};

/// Texts and their entities.
pub(super) struct Data {
    texts: Vec<Located<Text>>,
    options: PipelineOptions,
}

/// What is asked and what should be answered.
struct Text {
    text: String,
    /// The words that the text is made of, in characters, and their tags, where it was given so.
    words: Option<(Vec<Range<usize>>, Vec<String>)>,
    /// By words where they are given, else by characters.
    entities: Vec<Entity>,
}

/// What was answered.
pub(super) struct Found {
    words: Vec<Word>,
    entities: Vec<Entity>,
}

impl Data {
    pub fn read(args: &EvalArgs, bundle: &Bundle) -> Result<Data> {
        let rows = read_tagged(&args.data, &bundle.manifest.labels)?.into_iter();
        let texts = rows.map(|Located { place, row }| Located { place, row: row.into() });
        Ok(Data { texts: texts.collect(), options: args.options(bundle) })
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

/// The text that words make with a space between them, and where each of them stands in it, in characters.
fn joined(words: &[String]) -> (String, Vec<Range<usize>>) {
    let mut start = 0;
    let places = words.iter().map(|word| {
        let place = start..start + word.chars().count();
        start = place.end + 1;
        place
    });
    let places = places.collect();
    (words.join(" "), places)
}

/// The entities of a text by the labels of its words: by their numbers, or by their characters.
fn found(words: &[Word], by_words: bool) -> Vec<Entity> {
    let labels: Vec<&str> = words.iter().map(|word| word.label.as_str()).collect();
    let placed = |entity: Entity| {
        let (first, last) = (words.get(entity.start)?, words.get(entity.end.checked_sub(1)?)?);
        Some(Entity { start: first.start, end: last.end, ..entity })
    };
    let of_words = entities(&labels);
    if by_words { of_words } else { of_words.into_iter().filter_map(placed).collect() }
}

impl Labelled for Data {
    type Model = Pipeline;

    type Found = Found;

    type Score = EntityScore;

    fn texts(&self) -> usize {
        self.texts.len()
    }

    fn open(&self, bundle: &Bundle, engine: &EngineEntry) -> Result<Pipeline> {
        pipeline(bundle, engine, self.options)
    }

    fn run(&self, model: &mut Pipeline, number: usize) -> Result<Found> {
        let Located { place, row } =
            self.texts.get(number).ok_or_else(|| Error::bug("there is no text of that number"))?;
        let given = row.words.as_ref().map(|(places, _)| places.as_slice());
        let words = model.words(&row.text, given).map_err(|e| e.at(place.clone()))?.answer;
        let entities = found(&words, given.is_some());
        Ok(Found { words, entities })
    }

    fn score(&self, found: &[Found]) -> EntityScore {
        let of = |(Located { row, .. }, found): (&Located<Text>, &Found)| Tagging {
            found: found.entities.clone(),
            expected: row.entities.clone(),
            tags: row.words.as_ref().map(|(_, tags)| (right(&found.words, tags), tags.len())),
        };
        EntityScore::of(&self.texts.iter().zip(found).map(of).collect::<Vec<_>>())
    }

    fn agreement(&self, first: &[Found], found: &[Found]) -> Result<Agreement> {
        Ok(Agreement::of(first.iter().zip(found).map(|(a, b)| (a.entities == b.entities, difference(a, b)))))
    }

    fn measures(&self, score: &EntityScore) -> Vec<(&'static str, String)> {
        let mut measures =
            vec![("precision", summary(score.precision)), ("recall", summary(score.recall)), ("F1", summary(score.f1))];
        measures.extend(score.token_accuracy.map(|accuracy| ("token accuracy", summary(accuracy))));
        measures
    }

    fn summary(&self, score: &EntityScore) -> String {
        format!("F1 {:.4}, {} of {} entities right", score.f1, score.right, score.expected)
    }
}

fn right(words: &[Word], tags: &[String]) -> usize {
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
    fn words_stand_in_their_text_by_characters() {
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
