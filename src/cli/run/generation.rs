//! The flags of generation: how long a text becomes, how its tokens are chosen, and when they are shown.

use std::io::{self, IsTerminal};
use std::path::Path;

use clap::Args;

use super::super::Screen;
use super::super::units::some;
use kilnc::build::Observer;
use kilnc::error::{Error, Result};
use kilnc::json::{self, file_name};
use kilnc::runtime::generate::{GenerateOptions, JsonSchema};
use kilnc::settings::{EarlyStopping, Never, Strategy};

/// Most tokens that are generated where nothing is said.
const MAX_NEW_TOKENS: usize = 256;

#[derive(Args)]
pub(super) struct GenerateArgs {
    /// Most tokens that are generated after a prompt; 256, if not given.
    #[arg(long, value_name = "N", value_parser = some)]
    pub max_new_tokens: Option<usize>,
    /// Fewest tokens that are generated after a prompt.
    #[arg(long, value_name = "N")]
    min_new_tokens: Option<usize>,
    /// A text that ends what is generated, and is left out; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Let what is generated be JSON of this JSON Schema: a file, or the schema itself. A text ends where its JSON does, and
    /// is cut where --max-new-tokens is reached before. Needs a kilnc with the feature json-schema.
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "stop")]
    json_schema: Option<String>,
    /// Draw tokens by their probabilities, rather than take the likeliest; the model's own choice by default.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    do_sample: Option<bool>,
    /// What logits are divided by before tokens are drawn; 0 takes the likeliest. It draws tokens, as the next three do
    /// and --top-k (50 by default) does.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Draw from the likeliest tokens that have this probability together.
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Draw from tokens of at least this share of the likeliest one's probability.
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Draw from the tokens nearest to the expected information, of this probability together.
    #[arg(long, value_name = "P")]
    typical_p: Option<f32>,
    /// What tokens are drawn follows from it; 0 by default, so a command gives the same text again.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Divide the logits of tokens that have been there, where they are positive, and multiply the others.
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Take this from the logits of tokens that were generated.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Take this from the logits of tokens that were generated, as often as they were.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Let no sequence of so many tokens come twice.
    #[arg(long, value_name = "N")]
    no_repeat_ngram_size: Option<usize>,
    /// Search the likeliest text by so many beams.
    #[arg(long, value_name = "N", value_parser = some)]
    num_beams: Option<usize>,
    /// The power of a text's length that its log probability is divided by in a search; 1 by default.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f32>,
    /// When a search ends: false (no better text is likely; the default), true (there are as many texts as beams), never
    /// (no better text is possible).
    #[arg(long, value_name = "HOW", value_parser = early_stopping)]
    early_stopping: Option<EarlyStopping>,
    /// Print each word as it is generated, one prompt after another; the default on a terminal. With --json, a line of
    /// JSON for each token.
    #[arg(long, conflicts_with = "no_stream")]
    pub stream: bool,
    /// Print each text when it is whole, with prompts in batches; the default elsewhere.
    #[arg(long)]
    no_stream: bool,
}

fn early_stopping(text: &str) -> std::result::Result<EarlyStopping, String> {
    match text {
        "true" => Ok(EarlyStopping::When(true)),
        "false" => Ok(EarlyStopping::When(false)),
        "never" => Ok(EarlyStopping::Never(Never::Never)),
        _ => Err("expected true, false or never".to_owned()),
    }
}

impl GenerateArgs {
    /// The schema that texts follow. What of it is passed over is warned of.
    pub fn schema(&self, screen: &Screen) -> Result<Option<JsonSchema>> {
        let Some(given) = &self.json_schema else { return Ok(None) };
        let schema = match given.trim_start().starts_with('{') {
            true => JsonSchema::parse(given, "--json-schema")?,
            false => {
                let path = Path::new(given);
                JsonSchema::parse(&json::read_text(path)?, &file_name(path))?
            }
        };
        schema.warnings().iter().for_each(|warning| screen.warn(warning));
        Ok(Some(schema))
    }

    /// The options; `top_k` and `max_length` are flags that other tasks have, too.
    pub fn options(
        &self,
        top_k: Option<usize>,
        max_length: Option<usize>,
        json_schema: Option<JsonSchema>,
    ) -> Result<GenerateOptions> {
        let strategy = self.strategy(top_k);
        strategy.check().map_err(|e| Error::bad_input(flagged(e.message())))?;
        Ok(GenerateOptions {
            strategy,
            max_new_tokens: self.max_new_tokens.or(max_length.is_none().then_some(MAX_NEW_TOKENS)),
            max_length,
            stop: self.stop.clone(),
            json_schema,
        })
    }

    fn strategy(&self, top_k: Option<usize>) -> Strategy {
        let draws = top_k.is_some()
            || self.temperature.is_some()
            || [self.top_p, self.min_p, self.typical_p].iter().any(Option::is_some);
        let searches = self.num_beams.is_some_and(|beams| beams > 1);
        let implied = match (self.temperature, draws, searches) {
            (Some(0.0), ..) | (_, false, true) => Some(false),
            (_, true, _) => Some(true),
            _ => None,
        };
        Strategy {
            do_sample: self.do_sample.or(implied),
            temperature: self.temperature,
            top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            min_new_tokens: self.min_new_tokens,
            num_beams: self.num_beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping,
            seed: self.seed,
            ..Strategy::default()
        }
    }

    /// Whether words are printed as they come.
    pub fn streams(&self, screen: &Screen) -> bool {
        let default = io::stdout().is_terminal() && !screen.is_json();
        !self.no_stream && (self.stream || default)
    }

    /// The flags, and which of them are given.
    pub fn given(&self) -> [(&'static str, bool); 19] {
        [
            ("--max-new-tokens", self.max_new_tokens.is_some()),
            ("--min-new-tokens", self.min_new_tokens.is_some()),
            ("--stop", !self.stop.is_empty()),
            ("--json-schema", self.json_schema.is_some()),
            ("--do-sample", self.do_sample.is_some()),
            ("--temperature", self.temperature.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--typical-p", self.typical_p.is_some()),
            ("--seed", self.seed.is_some()),
            ("--repetition-penalty", self.repetition_penalty.is_some()),
            ("--presence-penalty", self.presence_penalty.is_some()),
            ("--frequency-penalty", self.frequency_penalty.is_some()),
            ("--no-repeat-ngram-size", self.no_repeat_ngram_size.is_some()),
            ("--num-beams", self.num_beams.is_some()),
            ("--length-penalty", self.length_penalty.is_some()),
            ("--early-stopping", self.early_stopping.is_some()),
            ("--stream", self.stream),
            ("--no-stream", self.no_stream),
        ]
    }
}

/// A message about a field, about its flag.
fn flagged(message: &str) -> String {
    match message.split_once(':') {
        Some((field, rest)) if !field.contains(' ') => format!("{}:{rest}", kilnc::settings::flag(field)),
        _ => message.to_owned(),
    }
}
