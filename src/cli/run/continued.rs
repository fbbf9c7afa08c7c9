//! What is printed of prompts and chats: texts and replies, tokens as they come, and a summary.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::super::Screen;
use super::jsonl::Answered;
use kilnc::build::Observer;
use kilnc::error::{Error, Result, visible};
use kilnc::runtime::generate::{FinishReason, Generated};

/// Who says what is generated, in the roles of chats.
const ASSISTANT: &str = "assistant";

/// A prompt or a chat that can be continued.
pub(super) struct Prompt {
    pub id: Option<Box<RawValue>>,
    /// The text that is continued.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// For a chat: what is printed before the reply, where there are several.
    pub chat: Option<String>,
}

/// What is printed of a prompt.
#[derive(Serialize)]
pub(super) struct Continued<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// Of a chat, in place of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    tokens: &'a [u32],
    finish_reason: FinishReason,
    /// Whether the text is JSON of the schema that it has to follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
    prompt_tokens: usize,
    /// How long the prompt and the first token took.
    first_token_ms: f64,
    /// The mean of how long the other tokens took.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_token_ms: Option<f64>,
}

impl<'a> Continued<'a> {
    pub fn new(prompt: &'a Prompt, generated: &'a Generated) -> Continued<'a> {
        let (is_chat, text) = (prompt.chat.is_some(), generated.text.as_str());
        Continued {
            id: prompt.id.as_deref(),
            prompt: None,
            text: (!is_chat).then_some(text),
            role: is_chat.then_some(ASSISTANT),
            content: is_chat.then_some(text),
            tokens: &generated.tokens,
            finish_reason: generated.finish_reason,
            complete: generated.complete,
            prompt_tokens: generated.prompt_tokens,
            first_token_ms: milliseconds(generated.first_token()),
            per_token_ms: generated.per_token().map(milliseconds),
        }
    }

    /// The same with the text that was continued.
    pub fn with_prompt(prompt: &'a Prompt, generated: &'a Generated) -> Continued<'a> {
        Continued { prompt: Some(&prompt.text), ..Continued::new(prompt, generated) }
    }
}

/// A token as it comes.
#[derive(Serialize)]
pub(super) struct Streamed<'a> {
    /// The number of the prompt.
    pub prompt: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u32>,
    pub text: &'a str,
}

/// To a thousandth.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// What was generated.
#[derive(Default, Serialize)]
pub(super) struct Summary {
    pub prompts: usize,
    pub tokens: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: usize,
    /// Texts that ended before they were JSON of the schema.
    #[serde(skip_serializing_if = "is_zero")]
    pub incomplete: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    #[serde(skip)]
    last: Option<(FinishReason, Duration, Option<Duration>)>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Answered for Summary {
    fn texts(&self) -> usize {
        self.prompts
    }

    fn summary(&self) -> &impl Serialize {
        self
    }
}

impl Summary {
    pub fn count(&mut self, generated: &Generated) {
        self.prompts += 1;
        self.tokens += generated.tokens.len();
        self.incomplete += usize::from(generated.complete == Some(false));
        self.last = Some((generated.finish_reason, generated.first_token(), generated.per_token()));
    }

    /// Counts a line that cannot be continued.
    pub fn fail(&mut self, error: &str) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| error.to_owned());
    }

    /// Warns of texts that are no JSON of the schema.
    pub fn warn(&self, screen: &Screen) {
        if self.incomplete > 0 {
            screen.warn(&format!(
                "{} of {} texts ended before they were JSON of the schema: no token or position was left",
                self.incomplete, self.prompts
            ));
        }
    }

    pub fn print(&self, screen: &Screen) {
        self.warn(screen);
        if let (1, Some((reason, first, others))) = (self.prompts, self.last) {
            let others = others.map(|time| format!(", {:.2} ms for each other", milliseconds(time)));
            let reason = match reason {
                FinishReason::Eos => "the model ended the text",
                FinishReason::Stop => "a stop string",
                FinishReason::Length => "as many as asked for",
                FinishReason::Context => "the model has no position for another",
            };
            screen.note(format!(
                "{} tokens ({reason}); {:.2} ms to the first{}",
                self.tokens,
                milliseconds(first),
                others.unwrap_or_default()
            ));
        } else if self.prompts > 1 {
            screen.note(format!("{} prompts continued by {} tokens", self.prompts, self.tokens));
        }
    }
}

pub(super) fn line<T: Serialize>(to: &mut dyn Write, value: &T) -> Result<()> {
    let line = serde_json::to_string(value).map_err(|e| Error::bug(format!("an answer cannot be written: {e}")))?;
    written(writeln!(to, "{line}"))
}

/// An element of the one list that is printed.
pub(super) fn element(to: &mut dyn Write, number: usize, prompt: &Prompt, generated: &Generated) -> Result<()> {
    let element = serde_json::to_string_pretty(&Continued::with_prompt(prompt, generated))
        .map_err(|e| Error::bug(format!("an answer cannot be printed: {e}")))?
        .replace('\n', "\n  ");
    written(write!(to, "{}  {element}", if number == 0 { "[\n" } else { ",\n" }))
}

/// The line before the text of one of several prompts.
pub(super) fn head(to: &mut dyn Write, number: usize, prompt: &Prompt) -> Result<()> {
    let blank = if number == 0 { "" } else { "\n" };
    written(writeln!(to, "{blank}> {}", shown(prompt.chat.as_ref().unwrap_or(&prompt.text))))
}

/// A text as it is printed: on a terminal, what moves the cursor is escaped, but for line feeds and tabs.
pub(super) fn shown(text: &str) -> String {
    match io::stdout().is_terminal() {
        true => text.split('\t').map(visible).collect::<Vec<_>>().join("\t"),
        false => text.to_owned(),
    }
}

pub(super) fn written(written: io::Result<()>) -> Result<()> {
    written.map_err(|e| Error::of_system("standard output", &e))
}
