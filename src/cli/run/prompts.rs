//! `kilnc run --prompt` and `--chat`: continues the prompts of its arguments, of lines of standard input, or of JSON lines,
//! and replies to chats.

use std::io::{self, IsTerminal};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::super::Screen;
use super::chat::STANDARD_INPUT;
use super::continued::{Continued, Prompt, Streamed, Summary, element, head, line, shown, written};
use super::generation::GenerateArgs;
use super::jsonl::Claimed;
use kilnc::build::Observer;
use kilnc::error::{Error, Kind, Result};
use kilnc::json;
use kilnc::runtime::chat::{Chat, ChatTemplates};
use kilnc::runtime::generate::{GenerateOptions, Generated, Generator, Piece};
use kilnc::task::lines::{self, ErrorLine, OnError};
use kilnc::textfile::{Line, Lines};

/// What a line of --jsonl must be.
const LINE: &str =
    "each line is an object such as {\"id\": 7, \"prompt\": \"…\"}, or with `messages` in place of the prompt";

/// What is to be continued.
enum Asked {
    Prompt(String),
    Chat(Chat),
}

/// A generator, and how it is asked.
pub(super) struct Prompted<'a> {
    pub generator: Generator,
    /// The model's templates, or why there are none.
    pub templates: Result<ChatTemplates>,
    pub args: &'a GenerateArgs,
    /// What the arguments say of it.
    pub options: GenerateOptions,
    /// How many prompts are read together.
    pub batch: usize,
}

impl Prompted<'_> {
    /// Continues prompts or replies to chats, which have names; without any, continues the lines of standard input.
    pub fn answer(mut self, prompts: Vec<String>, chats: Vec<(String, Chat)>, screen: &Screen) -> Result<()> {
        let mut summary = Summary::default();
        let given = prompts.len() + chats.len();
        let (from_lines, many) = (given == 0, given > 1);
        let place = |number: usize| many.then(|| format!("prompt {}", number + 1));
        let prompts = prompts.into_iter().enumerate().map(|(number, text)| (place(number), Asked::Prompt(text)));
        let mut given = prompts.chain(chats.into_iter().map(|(name, chat)| (Some(name), Asked::Chat(chat))));
        let mut lines = Lines::of(io::stdin());
        let mut next = || -> Result<Option<(Option<String>, Asked)>> {
            if !from_lines {
                return Ok(given.next());
            }
            let line = lines.read(STANDARD_INPUT)?;
            Ok(line.map(|(place, text)| (Some(place), Asked::Prompt(text))))
        };
        // That there is none is said before anything is printed.
        let mut first = Some(next()?.ok_or_else(|| {
            Error::bad_input("there is no prompt").hint("give --prompt \"…\", --chat FILE, or lines on standard input")
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
                    && let Some((place, asked)) = first.take().map_or_else(&mut next, |first| Ok(Some(first)))?
                {
                    let prompt = self.prompt(None, asked);
                    some.push(prompt.map_err(|e| if let Some(place) = place { e.at(place) } else { e })?);
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
                        (true, true) => line(to, &Continued::with_prompt(prompt, generated))?,
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

    /// Continues the prompts of a file of JSON lines, and replies to its chats.
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
                            summary.fail(error);
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
            summary.warn(screen);
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
            let place = line.location.clone();
            let fits =
                parse(line).and_then(|(id, asked)| self.prompt(id.clone(), asked).map_err(|e| (id, e.at(place))));
            items.push(match fits {
                Ok(prompt) => Ok(prompt),
                Err((_, error)) if on_error == OnError::Fail || error.kind() != Kind::BadInput => return Err(error),
                Err((id, error)) => Err((id, lines::one_line(&error))),
            });
        }
        Ok(items)
    }

    /// A prompt or a chat as its tokens. Fails where it cannot be continued.
    fn prompt(&self, id: Identifier, asked: Asked) -> Result<Prompt> {
        let (text, chat) = match asked {
            Asked::Prompt(text) => (text, None),
            Asked::Chat(chat) => (self.templates()?.render(&chat)?, Some(chat.last())),
        };
        let ids = match chat {
            None => self.generator.encode(&[&text])?,
            Some(_) => self.generator.encode_rendered(&[&text])?,
        };
        let ids = ids.into_iter().next().ok_or_else(|| Error::bug("a prompt has no row of tokens"))?;
        self.generator.check_room(&ids, &self.options)?;
        Ok(Prompt { id, text, ids, chat })
    }

    /// The templates, or once more why there are none.
    fn templates(&self) -> Result<&ChatTemplates> {
        self.templates.as_ref().map_err(|e| {
            let again = if e.kind() == Kind::MachineFailed { Error::machine_failed } else { Error::bad_input };
            let again = again(e.message().to_owned());
            let placed = e.locations().iter().fold(again, |error, location| error.at(location));
            e.hints().iter().fold(placed, |error, hint| error.hint(hint))
        })
    }

    /// Continues prompts.
    fn generate<P: std::borrow::Borrow<Prompt>>(
        &mut self,
        prompts: &[P],
        show: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.borrow().ids.clone()).collect();
        let generated = self.generator.generate_after(&ids, &self.options, show)?;
        // What is drawn after a prompt does not depend on the batch that it is in.
        let seed = &mut self.options.strategy.seed;
        *seed = Some(seed.unwrap_or_default().wrapping_add(ids.len() as u64));
        Ok(generated)
    }
}

/// A line: a prompt, or its `id` and what is wrong with it.
type Item = std::result::Result<Prompt, (Identifier, String)>;

#[derive(Deserialize)]
struct Fields {
    /// As it stands: another reader's numbers may have more digits than ours.
    #[serde(default, deserialize_with = "lines::as_it_stands")]
    id: Option<Box<RawValue>>,
    prompt: Option<String>,
    messages: Option<IgnoredAny>,
}

type Identifier = Option<Box<RawValue>>;

fn parse(line: Line) -> std::result::Result<(Identifier, Asked), (Identifier, Error)> {
    let (place, text) = lines::object(line, LINE).map_err(|e| (None, e))?;
    let Fields { id, prompt, messages } = json::parse(&text, &place).map_err(|e| (lines::id_of(&text), e))?;
    match (prompt, messages) {
        (Some(prompt), None) => Ok((id, Asked::Prompt(prompt))),
        (None, Some(_)) => match Chat::parse(&text, &place) {
            Ok(chat) => Ok((id, Asked::Chat(chat))),
            Err(e) => Err((id, e)),
        },
        (Some(_), Some(_)) => {
            Err((id, Error::bad_input("there are both `prompt` and `messages`").at(place).hint(LINE)))
        }
        (None, None) => Err((id, Error::bad_input("there is no `prompt`").at(place).hint(LINE))),
    }
}
