//! How the tokens of a text are chosen, by the names of `transformers`' `GenerationConfig`: `generation_config.json`, the
//! manifest's `generation`, and flags of `kilnc run`, each over the one before it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the next token is chosen. A field that is not set is left to the next source, and to its default in the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strategy {
    /// Whether tokens are drawn by their probabilities. If not, the likeliest is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    /// What logits are divided by before they are drawn from; 1, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// How many of the likeliest tokens are drawn from; 50, if not set, and all for 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// The likeliest tokens that have this probability together are drawn from (arXiv 1904.09751).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Tokens of at least this share of the likeliest one's probability are drawn from (arXiv 2407.01082).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Tokens whose information is nearest to the expected one, of this probability together, are drawn from
    /// (arXiv 2202.00666).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    /// What positive logits of tokens in the prompt and after it are divided by, and negative ones multiplied
    /// (arXiv 1909.05858).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// What is taken from the logits of tokens that were generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// What is taken from the logits of tokens that were generated, as often as they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// No sequence of so many tokens comes twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
    /// No end of the text before it has so many tokens, those of the prompt among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<usize>,
    /// No end of the text before so many tokens were generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_new_tokens: Option<usize>,
    /// Sequences of tokens that do not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_words_ids: Option<Vec<Vec<u32>>>,
    /// Tokens that do not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppress_tokens: Option<Vec<u32>>,
    /// Tokens that do not come first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// The token after a prompt of one token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced_bos_token_id: Option<u32>,
    /// The tokens, one of which is the last of a text that becomes as long as it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forced_eos_token_id: Option<OneOrMore>,
    /// How many beams are searched; 1, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_beams: Option<usize>,
    /// The power of a text's length that its log probability is divided by; 1, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f32>,
    /// When a search by beams ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// What is drawn follows from it; 0, if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// When a search by beams ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EarlyStopping {
    /// `true`: as soon as there are as many whole texts as beams. `false`: once no beam is likely to become better.
    When(bool),
    /// `"never"`: once no beam can become better.
    Never(Never),
}

/// The word of [`EarlyStopping::Never`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Never {
    /// `never`.
    Never,
}

/// A token, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(u32),
    /// Several.
    More(Vec<u32>),
}

impl OneOrMore {
    /// All of them.
    pub fn ids(&self) -> &[u32] {
        match self {
            OneOrMore::One(id) => std::slice::from_ref(id),
            OneOrMore::More(ids) => ids,
        }
    }
}

impl Strategy {
    /// With every field set to something, for their names.
    pub(crate) fn all() -> Strategy {
        Strategy {
            do_sample: Some(true),
            temperature: Some(1.0),
            top_k: Some(1),
            top_p: Some(1.0),
            min_p: Some(1.0),
            typical_p: Some(1.0),
            repetition_penalty: Some(1.0),
            presence_penalty: Some(1.0),
            frequency_penalty: Some(1.0),
            no_repeat_ngram_size: Some(1),
            min_length: Some(1),
            min_new_tokens: Some(1),
            bad_words_ids: Some(Vec::new()),
            suppress_tokens: Some(Vec::new()),
            begin_suppress_tokens: Some(Vec::new()),
            forced_bos_token_id: Some(0),
            forced_eos_token_id: Some(OneOrMore::One(0)),
            num_beams: Some(1),
            length_penalty: Some(1.0),
            early_stopping: Some(EarlyStopping::When(true)),
            seed: Some(0),
        }
    }

    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        *self == Strategy::default()
    }

    /// Whether tokens are drawn by their probabilities.
    pub fn samples(&self) -> bool {
        self.do_sample.unwrap_or(false)
    }

    /// How many beams are searched.
    pub fn beams(&self) -> usize {
        self.num_beams.unwrap_or(1)
    }

    /// The same with every field of `other` that is not set here.
    pub fn over(self, other: Strategy) -> Strategy {
        Strategy {
            do_sample: self.do_sample.or(other.do_sample),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            typical_p: self.typical_p.or(other.typical_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            presence_penalty: self.presence_penalty.or(other.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(other.frequency_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.or(other.no_repeat_ngram_size),
            min_length: self.min_length.or(other.min_length),
            min_new_tokens: self.min_new_tokens.or(other.min_new_tokens),
            bad_words_ids: self.bad_words_ids.or(other.bad_words_ids),
            suppress_tokens: self.suppress_tokens.or(other.suppress_tokens),
            begin_suppress_tokens: self.begin_suppress_tokens.or(other.begin_suppress_tokens),
            forced_bos_token_id: self.forced_bos_token_id.or(other.forced_bos_token_id),
            forced_eos_token_id: self.forced_eos_token_id.or(other.forced_eos_token_id),
            num_beams: self.num_beams.or(other.num_beams),
            length_penalty: self.length_penalty.or(other.length_penalty),
            early_stopping: self.early_stopping.or(other.early_stopping),
            seed: self.seed.or(other.seed),
        }
    }

    /// The same for a vocabulary whose tokens have other ids. A token that is gone cannot come, and is not forced.
    pub fn renumbered(self, now: impl Fn(u32) -> Option<u32>) -> Strategy {
        let all = |ids: Vec<u32>| -> Vec<u32> { ids.into_iter().filter_map(&now).collect() };
        let whole = |words: Vec<u32>| words.into_iter().map(&now).collect::<Option<Vec<u32>>>();
        let forced = |ids: OneOrMore| Some(all(ids.ids().to_vec())).filter(|ids| !ids.is_empty()).map(OneOrMore::More);
        Strategy {
            bad_words_ids: self.bad_words_ids.map(|words| words.into_iter().filter_map(whole).collect()),
            suppress_tokens: self.suppress_tokens.map(all),
            begin_suppress_tokens: self.begin_suppress_tokens.map(all),
            forced_bos_token_id: self.forced_bos_token_id.and_then(&now),
            forced_eos_token_id: self.forced_eos_token_id.and_then(forced),
            ..self
        }
    }

    /// Fails where a field has a value that means nothing, or fields contradict each other, naming them.
    pub fn check(&self) -> Result<()> {
        let refused = |field: &str, expected: &str, found: String| {
            Err(Error::bad_input(format!("{field}: expected {expected}, found {found}")))
        };
        let share = |p: f32| p > 0.0 && p <= 1.0;
        for (field, value) in [("top_p", self.top_p), ("typical_p", self.typical_p)] {
            if let Some(p) = value.filter(|p| !share(*p)) {
                return refused(field, "more than 0 and at most 1", p.to_string());
            }
        }
        if let Some(p) = self.min_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return refused("min_p", "0 to 1", p.to_string());
        }
        if let Some(t) = self.temperature.filter(|t| !(t.is_finite() && *t >= 0.0)) {
            return refused("temperature", "a number of 0 or more", t.to_string());
        }
        if let Some(penalty) = self.repetition_penalty.filter(|penalty| !(penalty.is_finite() && *penalty > 0.0)) {
            return refused("repetition_penalty", "a number above 0", penalty.to_string());
        }
        let numbers = [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
            ("length_penalty", self.length_penalty),
        ];
        for (field, value) in numbers {
            if let Some(number) = value.filter(|number| !number.is_finite()) {
                return refused(field, "a number", number.to_string());
            }
        }
        match self.num_beams {
            Some(beams) if !(1..=MOST_BEAMS).contains(&beams) => {
                refused("num_beams", &format!("1 to {MOST_BEAMS}"), beams.to_string())
            }
            Some(beams) if beams > 1 && self.samples() && self.temperature != Some(0.0) => {
                Err(Error::unsupported("tokens are not drawn in a search by beams")
                    .hint("choose one: num_beams of 1, or a temperature of 0"))
            }
            _ => Ok(()),
        }
    }
}

/// Most beams. Each has a cache of its own.
pub const MOST_BEAMS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_without_a_meaning_are_refused_by_name() {
        let said = |text: &str| {
            let strategy: Strategy = serde_json::from_str(text).unwrap();
            strategy.check().unwrap_err().message().to_owned()
        };
        assert_eq!(said(r#"{"top_p": 0}"#), "top_p: expected more than 0 and at most 1, found 0");
        assert_eq!(said(r#"{"min_p": 1.5}"#), "min_p: expected 0 to 1, found 1.5");
        assert_eq!(said(r#"{"temperature": -1}"#), "temperature: expected a number of 0 or more, found -1");
        assert_eq!(said(r#"{"repetition_penalty": 0}"#), "repetition_penalty: expected a number above 0, found 0");
        assert_eq!(said(r#"{"num_beams": 0}"#), "num_beams: expected 1 to 256, found 0");
        assert!(said(r#"{"num_beams": 2, "do_sample": true}"#).starts_with("tokens are not drawn"));
        let fine = r#"{"do_sample": true, "num_beams": 2, "temperature": 0, "early_stopping": "never"}"#;
        serde_json::from_str::<Strategy>(fine).unwrap().check().unwrap();
    }

    #[test]
    fn flags_count_before_files_and_a_cut_vocabulary_renumbers() {
        let file = Strategy { top_k: Some(5), seed: Some(1), ..Strategy::default() };
        let flags = Strategy { seed: Some(2), ..Strategy::default() };
        assert_eq!(flags.over(file), Strategy { top_k: Some(5), seed: Some(2), ..Strategy::default() });
        let before = Strategy {
            bad_words_ids: Some(vec![vec![1, 2], vec![2, 9]]),
            suppress_tokens: Some(vec![9, 1]),
            forced_bos_token_id: Some(9),
            ..Strategy::default()
        };
        let after = before.renumbered(|id| (id < 9).then_some(id + 10));
        assert_eq!(after.bad_words_ids, Some(vec![vec![11, 12]]));
        assert_eq!((after.suppress_tokens, after.forced_bos_token_id), (Some(vec![11]), None));
    }
}
