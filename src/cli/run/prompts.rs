//! `kilnc run --prompt`: continues the prompts of its arguments, of lines of standard input, or of JSON lines.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::Screen;
use super::generation::GenerateArgs;
use super::jsonl::{Answered, Claimed};
use kilnc::build::Observer;
use kilnc::error::{Error, Kind, Result, visible};
use kilnc::json;
use kilnc::runtime::generate::{FinishReason, GenerateOptions, Generated, Generator, Piece};
use kilnc::task::lines::{self, ErrorLine, OnError};
use kilnc::textfile::{Line, Lines};

/// What messages call it.
const STANDARD_INPUT: &str = "standard input";

/// What a line of --jsonl must be.
const LINE: &str = "each line is an object such as {\"id\": 7, \"prompt\": \"…\"}";

/// A prompt, and where it comes from.
struct Prompt {
    place: Option<String>,
    id: Option<Box<RawValue>>,
    text: String,
}

/// What is printed of a prompt.
#[derive(Serialize)]
struct Continued<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    text: &'a str,
    tokens: &'a [u32],
    finish_reason: FinishReason,
    prompt_tokens: usize,
    /// How long the prompt and the first token took.
    first_token_ms: f64,
    /// The mean of how long the other tokens took.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_token_ms: Option<f64>,
}

impl<'a> Continued<'a> {
    fn new(prompt: &'a Prompt, generated: &'a Generated) -> Continued<'a> {
        Continued {
            id: prompt.id.as_deref(),
            prompt: None,
            text: &generated.text,
            tokens: &generated.tokens,
            finish_reason: generated.finish_reason,
            prompt_tokens: generated.prompt_tokens,
            first_token_ms: milliseconds(generated.first_token()),
            per_token_ms: generated.per_token().map(milliseconds),
        }
    }
}

/// A token as it comes.
#[derive(Serialize)]
struct Streamed<'a> {
    /// The number of the prompt.
    prompt: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<u32>,
    text: &'a str,
}

/// To a thousandth.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// A generator, and how it is asked.
pub(super) struct Prompted<'a> {
    pub generator: Generator,
    pub args: &'a GenerateArgs,
    /// What the arguments say of it.
    pub options: GenerateOptions,
    /// How many prompts are read together.
    pub batch: usize,
}

/// What was generated.
#[derive(Default, Serialize)]
struct Summary {
    prompts: usize,
    tokens: usize,
    #[serde(skip_serializing_if = "is_zero")]
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<String>,
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
    fn count(&mut self, generated: &Generated) {
        self.prompts += 1;
        self.tokens += generated.tokens.len();
        self.last = Some((generated.finish_reason, generated.first_token(), generated.per_token()));
    }

    fn print(&self, screen: &Screen) {
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

impl Prompted<'_> {
    /// Continues prompts of arguments; without any, the lines of standard input.
    pub fn answer(mut self, prompts: Vec<String>, screen: &Screen) -> Result<()> {
        let mut summary = Summary::default();
        let (from_lines, many) = (prompts.is_empty(), prompts.len() > 1);
        let place = |number: usize| many.then(|| format!("prompt {}", number + 1));
        let mut given =
            prompts.into_iter().enumerate().map(|(number, text)| Prompt { place: place(number), id: None, text });
        let mut lines = Lines::of(io::stdin());
        let mut next = || -> Result<Option<Prompt>> {
            if !from_lines {
                return Ok(given.next());
            }
            let line = lines.read(STANDARD_INPUT)?;
            Ok(line.map(|(place, text)| Prompt { place: Some(place), id: None, text }))
        };
        // That there is none is said before anything is printed.
        let mut first = Some(next()?.ok_or_else(|| {
            Error::bad_input("there is no prompt").hint("give --prompt \"…\", or lines on standard input")
        })?);
        let streams = self.args.streams(screen);
        // A line for each token, and one for the whole text.
        let json_lines = streams && screen.is_json();
        // Who types lines wants an answer to each.
        let one_by_one = streams || from_lines && io::stdin().is_terminal();
        let batch = if one_by_one { 1 } else { self.batch };
        let headed = many || from_lines;
        screen.results(|to| {
            let mut list = 0;
            loop {
                let mut some = Vec::new();
                while some.len() < batch
                    && let Some(prompt) = first.take().map_or_else(&mut next, |first| Ok(Some(first)))?
                {
                    some.push(prompt);
                }
                if some.is_empty() {
                    break;
                }
                if streams && headed && !screen.is_json() {
                    some.iter().try_for_each(|prompt| head(to, list, prompt))?;
                }
                let mut show = |piece: Piece| match (streams, screen.is_json()) {
                    (true, true) => {
                        let Piece { token, text, .. } = piece;
                        line(to, &Streamed { prompt: list, token, text })?;
                        written(to.flush())
                    }
                    (true, false) => written(to.write_all(shown(piece.text).as_bytes()).and_then(|()| to.flush())),
                    (false, _) => Ok(()),
                };
                let generated = self.generate(&some, &mut show)?;
                for (prompt, generated) in some.iter().zip(&generated) {
                    summary.count(generated);
                    match (screen.is_json(), streams) {
                        (true, true) => {
                            line(to, &Continued { prompt: Some(&prompt.text), ..Continued::new(prompt, generated) })?
                        }
                        (true, false) => element(to, list, prompt, generated)?,
                        (false, true) => written(to.write_all(b"\n"))?,
                        (false, false) => {
                            if headed {
                                head(to, list, prompt)?;
                            }
                            written(writeln!(to, "{}", shown(&generated.text)))?;
                        }
                    }
                    list += 1;
                }
                written(to.flush())?;
            }
            if screen.is_json() && !json_lines { written(to.write_all(b"\n]\n")) } else { Ok(()) }
        })?;
        summary.print(screen);
        Ok(())
    }

    /// Continues the prompts of a file of JSON lines.
    pub fn answer_lines(mut self, claimed: Claimed, screen: &Screen) -> Result<()> {
        if self.args.stream {
            return Err(Error::bad_input("--stream prints words as they come, and --jsonl whole lines"));
        }
        let on_error = claimed.on_error();
        screen.begin_counting("generating");
        let summary = claimed.write(screen, |from, name, to| {
            let (mut lines, mut summary) = (Lines::of(from), Summary::default());
            loop {
                let items = self.chunk(&mut lines, name, on_error)?;
                if items.is_empty() {
                    break;
                }
                let prompts: Vec<&Prompt> = items.iter().filter_map(|item| item.as_ref().ok()).collect();
                let generated = match prompts.is_empty() {
                    true => Vec::new(),
                    false => self.generate(&prompts, &mut |_| Ok(()))?,
                };
                let mut generated = generated.iter();
                for item in &items {
                    match item {
                        Ok(prompt) => {
                            let generated = generated.next().ok_or_else(|| Error::bug("a prompt was not continued"))?;
                            line(to, &Continued::new(prompt, generated))?;
                            summary.count(generated);
                        }
                        Err((id, error)) => {
                            if on_error == OnError::Empty {
                                line(to, &ErrorLine { id: id.as_deref(), error })?;
                            }
                            summary.failed += 1;
                            summary.first_failure.get_or_insert_with(|| error.clone());
                        }
                    }
                    screen.advance(1);
                }
                written(to.flush())?;
            }
            match (summary.prompts, &summary.first_failure) {
                (0, None) => Err(Error::bad_input(format!("{name} holds no prompts")).hint(LINE)),
                (0, Some(first)) if on_error == OnError::Skip => Err(Error::bad_input(format!(
                    "{name}: none of {} lines can be continued; the first: {first}",
                    summary.failed
                ))),
                _ => Ok(summary),
            }
        })?;
        if let Some(summary) = summary {
            screen.done(&format!("{} prompts continued by {} tokens", summary.prompts, summary.tokens));
            if let Some(first) = summary.first_failure {
                let what = if on_error == OnError::Skip { "left out" } else { "have an error for an answer" };
                screen.warn(&format!("{} lines {what}; the first: {first}", summary.failed));
            }
        }
        Ok(())
    }

    /// The next lines that are read together: prompts, or an `id` and what is wrong with the line.
    fn chunk<R: io::Read>(&self, lines: &mut Lines<R>, name: &str, on_error: OnError) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        while items.len() < self.batch
            && let Some(line) = lines.next(name)?
        {
            if line.is_blank() && on_error != OnError::Empty {
                continue;
            }
            let (place, parsed) = (line.location.clone(), parse(line));
            let fits = parsed.and_then(|(id, text)| match self.check(&text) {
                Ok(()) => Ok(Prompt { place: Some(place.clone()), id, text }),
                Err(e) => Err((id, e.at(place))),
            });
            items.push(match fits {
                Ok(prompt) => Ok(prompt),
                Err((_, error)) if on_error == OnError::Fail || error.kind() != Kind::BadInput => return Err(error),
                Err((id, error)) => Err((id, lines::one_line(&error))),
            });
        }
        Ok(items)
    }

    /// Fails where a prompt cannot be continued.
    fn check(&self, prompt: &str) -> Result<()> {
        let encoded = self.generator.encode(&[prompt])?;
        encoded.iter().try_for_each(|ids| self.generator.check_room(ids, &self.options))
    }

    /// Continues prompts; an error that one of them alone has is placed.
    fn generate<P: std::borrow::Borrow<Prompt>>(
        &mut self,
        prompts: &[P],
        show: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        for prompt in prompts.iter().map(P::borrow) {
            self.check(&prompt.text).map_err(|e| match &prompt.place {
                Some(place) => e.at(place.clone()),
                None => e,
            })?;
        }
        let texts: Vec<&str> = prompts.iter().map(|prompt| prompt.borrow().text.as_str()).collect();
        let generated = self.generator.generate(&texts, &self.options, show)?;
        // What is drawn after a prompt does not depend on the batch that it is in.
        let seed = &mut self.options.strategy.seed;
        *seed = Some(seed.unwrap_or_default().wrapping_add(texts.len() as u64));
        Ok(generated)
    }
}

/// A line: a prompt, or its `id` and what is wrong with it.
type Item = std::result::Result<Prompt, (Option<Box<RawValue>>, String)>;

#[derive(Deserialize)]
struct Fields {
    /// As it stands: another reader's numbers may have more digits than ours.
    #[serde(default, deserialize_with = "lines::as_it_stands")]
    id: Option<Box<RawValue>>,
    prompt: Option<String>,
}

type Identifier = Option<Box<RawValue>>;

fn parse(line: Line) -> std::result::Result<(Identifier, String), (Identifier, Error)> {
    let (place, text) = lines::object(line, LINE).map_err(|e| (None, e))?;
    let Fields { id, prompt } = json::parse(&text, &place).map_err(|e| (lines::id_of(&text), e))?;
    match prompt {
        Some(prompt) => Ok((id, prompt)),
        None => Err((id, Error::bad_input("there is no `prompt`").at(place).hint(LINE))),
    }
}

fn line<T: Serialize>(to: &mut dyn Write, value: &T) -> Result<()> {
    let line = serde_json::to_string(value).map_err(|e| Error::bug(format!("an answer cannot be written: {e}")))?;
    written(writeln!(to, "{line}"))
}

/// An element of the one list that is printed.
fn element(to: &mut dyn Write, number: usize, prompt: &Prompt, generated: &Generated) -> Result<()> {
    let element = Continued { prompt: Some(&prompt.text), ..Continued::new(prompt, generated) };
    let element = serde_json::to_string_pretty(&element)
        .map_err(|e| Error::bug(format!("an answer cannot be printed: {e}")))?
        .replace('\n', "\n  ");
    written(write!(to, "{}  {element}", if number == 0 { "[\n" } else { ",\n" }))
}

/// The line before the text of one of several prompts.
fn head(to: &mut dyn Write, number: usize, prompt: &Prompt) -> Result<()> {
    let blank = if number == 0 { "" } else { "\n" };
    written(writeln!(to, "{blank}> {}", shown(&prompt.text)))
}

/// A text as it is printed: on a terminal, what moves the cursor is escaped, but for line feeds and tabs.
fn shown(text: &str) -> String {
    match io::stdout().is_terminal() {
        true => text.split('\t').map(visible).collect::<Vec<_>>().join("\t"),
        false => text.to_owned(),
    }
}

fn written(written: io::Result<()>) -> Result<()> {
    written.map_err(|e| Error::of_system("standard output", &e))
}
