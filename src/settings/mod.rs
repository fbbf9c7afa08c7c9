//! How a pipeline cuts its texts and selects its predictions, as far as a bundle states it: the table `[pipeline]` of a
//! recipe, `pipeline` in a bundle's manifest, and flags of `kilnc run`, each over the one before it.

mod long;
mod names;
mod strategy;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::task::id::Task;

pub use long::LongTexts;
pub use names::{Aggregation, Join, Similarity};
pub use strategy::{EarlyStopping, MOST_BEAMS, Never, OneOrMore, Strategy};

/// How a pipeline cuts its texts and selects its predictions. A field that is not set is left to the next source, and
/// to the default in the end.
///
/// An unknown field is refused, in a manifest too: without it the predictions would be others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Longest window in tokens; the model's own, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// How many tokens a window shares with the one before it; a quarter of a window, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Whether a text that is longer than a window is cut, rather than read in several, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// How the scores of several windows become one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// How many predictions are returned: labels, spans or tokens. If not set, the chosen labels, one span, five
    /// tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// How tokens become entities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
    /// Longest answer to a question, in tokens; 15, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_answer_length: Option<usize>,
    /// Whether a question may have no answer; then the empty one competes with the others. It may not, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_answer: Option<bool>,
    /// The similarity of two texts' vectors; their cosine, if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub similarity: Option<Similarity>,
}

/// The text around the two texts of a pair, for rerankers that are language models: what their chat template makes of messages
/// of the roles `query` and `document`. It has the special tokens of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairPrompt {
    /// The text before the query.
    pub before: String,
    /// The text between query and document.
    pub between: String,
    /// The text after the document.
    pub after: String,
}

impl Settings {
    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        *self == Settings::default()
    }

    /// These, and those of `bundle` where they are not set. A stride implies windows, which undoes cutting;
    /// the bundle's own stride is left where texts are cut, or windows are too short for it.
    pub fn over(self, bundle: Settings) -> Settings {
        let truncate = self.truncate.or(bundle.truncate.map(|cut| cut && self.stride.is_none()));
        let fits = |stride: &usize| truncate != Some(true) && self.window.is_none_or(|window| *stride < window);
        Settings {
            window: self.window.or(bundle.window),
            stride: self.stride.or(bundle.stride.filter(fits)),
            truncate,
            join: self.join.or(bundle.join),
            top_k: self.top_k.or(bundle.top_k),
            aggregation: self.aggregation.or(bundle.aggregation),
            max_answer_length: self.max_answer_length.or(bundle.max_answer_length),
            no_answer: self.no_answer.or(bundle.no_answer),
            similarity: self.similarity.or(bundle.similarity),
        }
    }

    /// The longest window of a model that reads `longest` tokens, and the overlap of two windows.
    pub fn window_and_stride(&self, longest: usize) -> (usize, usize) {
        let window = self.window.unwrap_or(longest);
        (window, self.stride.unwrap_or(window / 4))
    }

    /// How tokens become entities.
    pub fn aggregation(&self) -> Aggregation {
        self.aggregation.unwrap_or_default()
    }

    /// Longest answer to a question, in tokens.
    pub fn longest_answer(&self) -> usize {
        self.max_answer_length.unwrap_or(15)
    }

    /// Fails where something cannot be for a model of that task that reads `longest` tokens.
    pub fn check(&self, task: Task, longest: usize) -> Result<()> {
        self.fault(task, longest).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The same for a table `pipeline` of a file, with both named. An empty table cannot be wrong.
    pub fn check_in(&self, file: &str, task: Task, longest: usize) -> Result<()> {
        let fault = if self.is_empty() { None } else { self.fault(task, longest) };
        fault.map_or(Ok(()), |(field, error)| Err(error.at(format!("{file}: pipeline.{field}"))))
    }

    /// The first field that cannot be, and why.
    fn fault(&self, task: Task, longest: usize) -> Option<(&'static str, Error)> {
        self.of_another_task(task).or_else(|| self.of_windows(longest)).or_else(|| self.of_nothing())
    }

    /// The first field that is set and that a task does not have, with the tasks that do.
    pub fn misplaced(&self, task: Task) -> Option<(&'static str, Vec<Task>)> {
        let given = [
            ("join", self.join.is_some()),
            ("aggregation", self.aggregation.is_some()),
            ("max_answer_length", self.max_answer_length.is_some()),
            ("no_answer", self.no_answer.is_some()),
            ("top_k", self.top_k.is_some()),
            ("similarity", self.similarity.is_some()),
        ];
        let (field, _) = given.into_iter().find(|(field, given)| *given && !task.has_setting(field))?;
        Some((field, Task::all_with(|task| task.has_setting(field))))
    }

    fn of_another_task(&self, task: Task) -> Option<(&'static str, Error)> {
        let (field, of) = self.misplaced(task)?;
        Some((field, of_other_tasks(&format!("`{field}`"), &of, task)))
    }

    fn of_windows(&self, longest: usize) -> Option<(&'static str, Error)> {
        let (window, stride) = self.window_and_stride(longest);
        if !(2..=longest).contains(&window) {
            let error = Error::bad_input(format!("a window of {window} tokens is outside 2…{longest}"));
            return Some(("window", error.hint("the model reads no more at once")));
        }
        if stride >= window {
            let what = format!("the stride is {stride}, which is no less than the window of {window} tokens");
            let hint = "the stride is what two windows share; a quarter of a window is taken where nothing is said";
            return Some(("stride", Error::bad_input(what).hint(hint)));
        }
        let cut = self.truncate == Some(true) && self.stride.is_some();
        cut.then(|| ("stride", Error::bad_input("a text that is cut has no windows that share a stride")))
    }

    fn of_nothing(&self) -> Option<(&'static str, Error)> {
        let given = [
            ("top_k", self.top_k, "0 predictions are requested"),
            ("max_answer_length", self.max_answer_length, "an answer of 0 tokens"),
        ];
        let (field, _, what) = given.into_iter().find(|(_, n, _)| *n == Some(0))?;
        Some((field, Error::bad_input(what)))
    }
}

/// The error for a setting of other tasks than the model's.
pub fn of_other_tasks(what: &str, of: &[Task], task: Task) -> Error {
    let of: Vec<&str> = of.iter().map(|task| task.name()).collect();
    Error::bad_input(format!("{what} is for {}; this model is for {task}", of.join(", ")))
}

/// The flag of a field.
pub fn flag(field: &str) -> String {
    format!("--{}", field.replace('_', "-"))
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { window, stride, truncate, join, top_k, aggregation, .. } = self;
        let Settings { max_answer_length, no_answer, similarity, .. } = self;
        let given = [
            ("window", window.map(|n| n.to_string())),
            ("stride", stride.map(|n| n.to_string())),
            ("truncate", truncate.map(|on| on.to_string())),
            ("join", join.map(|join| join.to_string())),
            ("top_k", top_k.map(|n| n.to_string())),
            ("aggregation", aggregation.map(|how| how.to_string())),
            ("max_answer_length", max_answer_length.map(|n| n.to_string())),
            ("no_answer", no_answer.map(|on| on.to_string())),
            ("similarity", similarity.map(|how| how.to_string())),
        ];
        let fields = given.into_iter().filter_map(|(field, value)| Some(format!("{field} {}", value?)));
        f.write_str(&fields.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Settings = Settings {
        window: None,
        stride: None,
        truncate: None,
        join: None,
        top_k: None,
        aggregation: None,
        max_answer_length: None,
        no_answer: None,
        similarity: None,
    };

    #[test]
    fn options_override_the_bundles_settings() {
        let bundle = Settings { window: Some(16), stride: Some(8), top_k: Some(3), no_answer: Some(true), ..NONE };
        assert_eq!((NONE.over(bundle), bundle.over(NONE)), (bundle, bundle));
        let said = Settings { window: Some(12), no_answer: Some(false), ..NONE };
        assert_eq!(said.over(bundle), Settings { window: Some(12), no_answer: Some(false), ..bundle });
        let short = Settings { window: Some(8), ..NONE }.over(bundle);
        assert_eq!((short.window, short.stride), (Some(8), None));
        let cut = Settings { truncate: Some(true), ..NONE };
        assert_eq!(cut.over(bundle), Settings { truncate: Some(true), stride: None, ..bundle });
        let stride = Settings { stride: Some(2), ..NONE };
        assert_eq!(stride.over(cut), Settings { truncate: Some(false), ..stride });
    }

    #[test]
    fn impossible_settings_are_refused_by_field() {
        let said = |task, settings: Settings| {
            let error = settings.check_in("r.toml", task, 64).unwrap_err();
            format!("{} in {}", error.message(), error.locations().join(" "))
        };
        let of = |settings| said(Task::TextClassification, settings);
        assert_eq!(
            of(Settings { window: Some(65), ..NONE }),
            "a window of 65 tokens is outside 2…64 in r.toml: pipeline.window"
        );
        assert_eq!(
            of(Settings { window: Some(1), ..NONE }),
            "a window of 1 tokens is outside 2…64 in r.toml: pipeline.window"
        );
        let expected = "the stride is 64, which is no less than the window of 64 tokens in r.toml: pipeline.stride";
        assert_eq!(of(Settings { stride: Some(64), ..NONE }), expected);
        let expected = "a text that is cut has no windows that share a stride in r.toml: pipeline.stride";
        assert_eq!(of(Settings { stride: Some(8), truncate: Some(true), ..NONE }), expected);
        assert_eq!(of(Settings { top_k: Some(0), ..NONE }), "0 predictions are requested in r.toml: pipeline.top_k");
        assert_eq!(
            said(Task::QuestionAnswering, Settings { max_answer_length: Some(0), ..NONE }),
            "an answer of 0 tokens in r.toml: pipeline.max_answer_length"
        );
        let others = [
            ("join", Settings { join: Some(Join::Max), ..NONE }),
            ("aggregation", Settings { aggregation: Some(Aggregation::Max), ..NONE }),
            ("max_answer_length", Settings { max_answer_length: Some(3), ..NONE }),
            ("no_answer", Settings { no_answer: Some(false), ..NONE }),
            ("top_k", Settings { top_k: Some(3), ..NONE }),
        ];
        let expected = "`similarity` is for feature-extraction, sentence-similarity; this model is for \
                        text-classification in r.toml: pipeline.similarity";
        assert_eq!(of(Settings { similarity: Some(Similarity::Dot), ..NONE }), expected);
        for (field, settings) in others {
            let said = said(Task::SentenceSimilarity, settings);
            assert!(said.starts_with(&format!("`{field}` is for ")), "{said}");
            assert!(said.ends_with(&format!("; this model is for sentence-similarity in r.toml: pipeline.{field}")));
        }
        assert!(NONE.check(Task::FeatureExtraction, 64).is_ok());
    }

    #[test]
    fn they_are_printed_by_their_fields() {
        let settings = Settings { window: Some(8), join: Some(Join::Max), no_answer: Some(true), ..NONE };
        assert_eq!(settings.to_string(), "window 8, join max, no_answer true");
        assert!(NONE.is_empty() && !settings.is_empty());
    }
}
