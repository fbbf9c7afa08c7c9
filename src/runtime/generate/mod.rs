//! Generation: a decoder continues prompts, token by token.
//!
//! A [`Decoding`] holds the session, in this process ([`Decoder`]) or in one of its own ([`open_isolated`]), and makes one
//! token for each row of a batch at a time; only tokens and times leave it. A [`Generator`] asks it for the next ones as
//! long as a prompt goes on, and turns tokens into text. Prompts of different lengths are padded on the left, and what has
//! ended is run no more.
//!
//! The names of strategies, limits and reasons are those of `transformers` (`GenerationMixin.generate`).

mod beams;
mod choose;
mod decoder;
mod isolated;
mod logits;
mod schema;
mod score;
mod stop;
mod stream;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chat::{Chat, ChatTemplates};
use super::{TextEncoder, TextInput};
use crate::error::{Error, Result};
use stop::{StopStrings, Waiting};
use stream::TextStream;

pub use crate::settings::Strategy;
pub use beams::Hypothesis;
pub use choose::{DecodeOptions, largest};
pub use decoder::{Decoder, DecoderLimits};
pub use isolated::{JOB, open_isolated, open_isolated_with, serve};
pub use logits::{Context, process, warp};
pub use schema::{Constraint, JsonSchema};
pub use score::{Nll, Window};

/// A decoder that continues a batch of prompts, wherever it runs.
pub trait Decoding {
    /// The runtime and its version, for reports.
    fn describe(&self) -> String;

    /// Reads prompts, and chooses the token after each.
    ///
    /// # Errors
    /// Bad input: a prompt of no token, or of more than the model has positions; logits that are not numbers; a strategy
    /// that means nothing or forbids every token.
    fn begin(&mut self, prompts: &[&[u32]], options: &DecodeOptions) -> Result<Step>;

    /// Reads those of the tokens that were chosen last, and chooses the token after each. What is not named has ended.
    fn step(&mut self, going_on: &[usize]) -> Result<Step>;

    /// Reads prompts, and begins a search by beams after each. Fails as [`Decoding::begin`] does.
    fn begin_search(&mut self, prompts: &[&[u32]], options: &DecodeOptions) -> Result<BeamStep>;

    /// Lets the texts that begin next follow a schema, or none.
    ///
    /// # Errors
    /// Bad input: a schema that the vocabulary has no texts of. Unsupported: a decoder that follows none.
    fn constrain(&mut self, constraint: Option<&Constraint>) -> Result<()> {
        match constraint {
            None => Ok(()),
            Some(_) => Err(Error::unsupported("this decoder follows no schema")),
        }
    }

    /// Lets the searches go on by one token.
    fn search(&mut self) -> Result<BeamStep>;

    /// The negative log likelihood of given tokens, for each of the windows, which are one batch.
    fn score(&mut self, windows: &[Window]) -> Result<Vec<Nll>>;
}

/// What one run of a decoder gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The tokens that come next.
    pub chosen: Vec<Chosen>,
    /// How long the run and the choice took.
    pub elapsed: Duration,
}

/// What one run of a search gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeamStep {
    /// The best text after each prompt, once all searches have ended.
    pub found: Option<Vec<Hypothesis>>,
    /// How long the run and the choice took.
    pub elapsed: Duration,
}

/// A token that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// The row of the batch that it continues, as the run before had it.
    pub row: usize,
    /// Its id.
    pub token: u32,
    /// Whether the model has no position for another one.
    pub full: bool,
    /// Whether the text up to it is JSON of the schema, where it has to follow one.
    pub complete: bool,
}

/// What ends a text, and how long it may become.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub strategy: Strategy,
    /// Most tokens that are generated; as many as the model has positions for, if not given.
    pub max_new_tokens: Option<usize>,
    /// Most tokens of a prompt and what is generated after it. Where both limits are given, the smaller counts.
    pub max_length: Option<usize>,
    /// Texts that end generation. They are no part of what was generated.
    pub stop: Vec<String>,
    /// What is generated is JSON of this schema, as far as the limits let it become whole.
    pub json_schema: Option<JsonSchema>,
}

/// The tokens of a model with a meaning of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Those that end a text.
    pub eos: Vec<u32>,
    /// The one that begins a text, where the model has one: it stands for a prompt of no token.
    pub bos: Option<u32>,
}

/// Why a text has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model generated a token that ends a text.
    Eos,
    /// A stop string was generated.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// The model has no position for another token.
    Context,
}

/// What was generated after a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The text after the prompt, up to a stop string. What was streamed is, together, the same.
    pub text: String,
    /// The ids of all tokens that were generated, the one that ended the text among them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Whether the text is JSON of the schema that was asked for; none where none was.
    pub complete: Option<bool>,
    /// How many tokens the prompt has.
    pub prompt_tokens: usize,
    /// How long each token took; the prompt was read for the first. Prompts of a batch share them.
    pub times: Vec<Duration>,
}

impl Generated {
    /// How long the prompt and the first token took.
    pub fn first_token(&self) -> Duration {
        self.times.first().copied().unwrap_or_default()
    }

    /// The mean of how long the other tokens took; none where there is no other.
    pub fn per_token(&self) -> Option<Duration> {
        let others = self.times.get(1..).filter(|others| !others.is_empty())?;
        Some(others.iter().sum::<Duration>() / u32::try_from(others.len()).unwrap_or(u32::MAX))
    }
}

/// A token that was generated, with the text that it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The number of the prompt.
    pub prompt: usize,
    /// The token; none for text that waited and came when generation had ended.
    pub token: Option<u32>,
    /// Often a word, and nothing where a character is not whole yet or a stop string may have begun.
    pub text: &'a str,
}

/// A decoder with its tokenizer.
pub struct Generator {
    decoding: Box<dyn Decoding>,
    encoder: TextEncoder,
    special: SpecialTokens,
    positions: Option<usize>,
    strategy: Strategy,
    /// What the decoder follows.
    followed: Option<JsonSchema>,
}

impl Generator {
    /// Of a decoder, the tokenizer of its model, and the tokens that mean something.
    pub fn new(decoding: Box<dyn Decoding>, encoder: TextEncoder, special: SpecialTokens) -> Generator {
        Generator { decoding, encoder, special, positions: None, strategy: Strategy::default(), followed: None }
    }

    /// Says how many positions the model has, so that longer prompts are refused before any is read.
    pub fn with_positions(self, positions: Option<usize>) -> Generator {
        Generator { positions, ..self }
    }

    /// Says how tokens are chosen where the options of a call do not.
    pub fn with_strategy(self, strategy: Strategy) -> Generator {
        Generator { strategy, ..self }
    }

    /// The runtime and its version, for reports.
    pub fn describe(&self) -> String {
        self.decoding.describe()
    }

    /// The decoder, for tokens that are known.
    pub fn decoding(&mut self) -> &mut dyn Decoding {
        &mut *self.decoding
    }

    /// The ids of prompts. One of no token begins with the token that begins a text; it is an error where there is none.
    pub fn encode(&self, prompts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let inputs: Vec<TextInput> = prompts.iter().map(|prompt| (*prompt).into()).collect();
        let begun = |ids: Vec<u32>| match (ids.is_empty(), self.special.bos) {
            (false, _) => Ok(ids),
            (true, Some(bos)) => Ok(vec![bos]),
            (true, None) => Err(Error::bad_input("a prompt is empty")
                .hint("the model's configuration names no token that begins a text (`bos_token_id`)")),
        };
        self.encoder.ids(&inputs)?.into_iter().map(begun).collect()
    }

    /// The ids of texts that chat templates made, which have every special token already.
    pub fn encode_rendered(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        self.encoder.plain_ids(texts)
    }

    /// Replies to chats, all in one batch, by the templates of the model. `show` is given each token as it comes.
    ///
    /// # Errors
    /// Bad input: those of [`ChatTemplates::render`] and [`Generator::generate`].
    pub fn chat(
        &mut self,
        templates: &ChatTemplates,
        chats: &[Chat],
        options: &GenerateOptions,
        show: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        let texts = chats.iter().map(|chat| templates.render(chat)).collect::<Result<Vec<String>>>()?;
        let prompts = self.encode_rendered(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        self.generate_after(&prompts, options, show)
    }

    /// Continues prompts, all in one batch. `show` is given each token as it comes; an error of it ends generation.
    ///
    /// # Errors
    /// Bad input: a prompt that is empty or longer than the model reads, an empty stop string, a limit of 0 tokens, a schema that
    /// the model's vocabulary has no texts of, or one beside stop strings.
    pub fn generate(
        &mut self,
        prompts: &[&str],
        options: &GenerateOptions,
        show: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        let prompts = self.encode(prompts)?;
        self.generate_after(&prompts, options, show)
    }

    /// The same for prompts that are tokens already.
    pub fn generate_after(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        show: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let mut texts = self.texts(prompts, options)?;
        self.follow(options.json_schema.as_ref())?;
        let borrowed: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let decode = DecodeOptions {
            strategy: options.strategy.clone().over(self.strategy.clone()),
            eos: self.special.eos.clone(),
            max_new_tokens: options.max_new_tokens,
            max_length: options.max_length,
        };
        if decode.strategy.beams() > 1 {
            return self.searched(&borrowed, texts, &decode, show);
        }
        let mut step = self.decoding.begin(&borrowed, &decode)?;
        // The prompts of the rows of the last run.
        let mut rows: Vec<usize> = (0..prompts.len()).collect();
        loop {
            let of_row = |chosen: &Chosen| rows.get(chosen.row).copied().ok_or_else(unknown);
            let of = step.chosen.iter().map(of_row).collect::<Result<Vec<usize>>>()?;
            for (chosen, prompt) in step.chosen.iter().zip(&of) {
                texts.get_mut(*prompt).ok_or_else(unknown)?.push(chosen, step.elapsed, &self.special);
            }
            self.read(&mut texts, &of, show)?;
            let going_on = |(number, prompt): (usize, &usize)| {
                texts.get(*prompt).is_some_and(|text| text.finished.is_none()).then_some(number)
            };
            let going_on: Vec<usize> = of.iter().enumerate().filter_map(going_on).collect();
            if going_on.is_empty() {
                return texts.into_iter().map(Text::generated).collect();
            }
            rows = going_on.iter().filter_map(|number| of.get(*number).copied()).collect();
            step = self.decoding.step(&going_on)?;
        }
    }

    /// Lets the decoder follow a schema, or none.
    fn follow(&mut self, schema: Option<&JsonSchema>) -> Result<()> {
        if self.followed.as_ref() == schema {
            return Ok(());
        }
        let constraint = schema.map(|schema| schema.constraint(&self.encoder, &self.special.eos)).transpose()?;
        self.decoding.constrain(constraint.as_ref())?;
        self.followed = schema.cloned();
        Ok(())
    }

    /// Continues prompts by a search, whose texts are shown when they are whole.
    fn searched(
        &mut self,
        prompts: &[&[u32]],
        mut texts: Vec<Text>,
        options: &DecodeOptions,
        show: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        if texts.iter().any(|text| !text.stops.is_empty()) {
            return Err(Error::unsupported("a search by beams does not end at stop strings")
                .hint("leave --stop out, or choose --num-beams 1"));
        }
        let mut step = self.decoding.begin_search(prompts, options)?;
        let mut times = vec![step.elapsed];
        let found = loop {
            match step.found {
                Some(found) => break found,
                None => step = self.decoding.search()?,
            }
            times.push(step.elapsed);
        };
        for (number, (text, hypothesis)) in texts.iter_mut().zip(&found).enumerate() {
            for token in &hypothesis.tokens {
                let full = self.positions.is_some_and(|most| text.prompt_tokens + text.tokens.len() + 1 >= most);
                let chosen = Chosen { row: number, token: *token, full, complete: hypothesis.complete };
                text.push(&chosen, Duration::ZERO, &self.special);
            }
            text.finished.get_or_insert(FinishReason::Length);
            text.times.clone_from(&times);
        }
        let all: Vec<usize> = (0..texts.len()).collect();
        self.read(&mut texts, &all, show)?;
        texts.into_iter().map(Text::generated).collect()
    }

    /// Texts of which nothing was generated yet.
    fn texts(&self, prompts: &[Vec<u32>], options: &GenerateOptions) -> Result<Vec<Text>> {
        if options.max_new_tokens == Some(0) {
            return Err(Error::bad_input("0 new tokens are asked for"));
        }
        if options.json_schema.is_some() && !options.stop.is_empty() {
            return Err(Error::bad_input("a stop string may end a text before it is JSON of the schema")
                .hint("leave --stop out: with --json-schema, a text ends where its JSON does"));
        }
        let (stops, ids) = self.stops(&options.stop)?;
        let contexts: Vec<Vec<u32>> = prompts.iter().map(|prompt| TextStream::context(prompt).to_vec()).collect();
        let decoded = self.encoder.decoded(contexts.clone(), true)?;
        let text = |((prompt, context), decoded): ((&Vec<u32>, Vec<u32>), String)| {
            self.check_room(prompt, options)?;
            let room = options.max_length.map(|most| most.saturating_sub(prompt.len()));
            let limits = [options.max_new_tokens, room];
            Ok(Text {
                stream: TextStream::after(context, decoded),
                waiting: Waiting::default(),
                stops: stops.clone(),
                stop_ids: ids.clone(),
                most: limits.into_iter().flatten().min(),
                text: String::new(),
                tokens: Vec::new(),
                times: Vec::new(),
                prompt_tokens: prompt.len(),
                finished: None,
                complete: options.json_schema.is_some().then_some(false),
            })
        };
        prompts.iter().zip(contexts).zip(decoded).map(text).collect()
    }

    /// Fails where there is no room for a token after a prompt.
    pub fn check_room(&self, prompt: &[u32], options: &GenerateOptions) -> Result<()> {
        let bounds =
            [(self.positions, "the model has", "positions"), (options.max_length, "a text is to have", "tokens")];
        for (most, has, of) in bounds {
            if let Some(most) = most.filter(|most| prompt.len() >= *most) {
                let what = format!("a prompt of {} tokens leaves no room for another: {has} {most} {of}", prompt.len());
                return Err(Error::bad_input(what));
            }
        }
        Ok(())
    }

    /// Stop strings, and those of them that are special tokens, which have no text.
    fn stops(&self, texts: &[String]) -> Result<(StopStrings, Vec<u32>)> {
        let ids = texts.iter().filter_map(|text| self.encoder.special(text)).collect();
        Ok((StopStrings::new(texts)?, ids))
    }

    /// Reads what the new tokens of some texts say, and shows it.
    fn read(&self, texts: &mut [Text], of: &[usize], show: &mut dyn FnMut(Piece) -> Result<()>) -> Result<()> {
        let rows: Vec<Vec<u32>> =
            of.iter().filter_map(|prompt| Some(texts.get(*prompt)?.stream.ids().to_vec())).collect();
        for (prompt, decoded) in of.iter().zip(self.encoder.decoded(rows, true)?) {
            let text = texts.get_mut(*prompt).ok_or_else(unknown)?;
            let (token, new) = (text.tokens.last().copied(), text.read(decoded));
            show(Piece { prompt: *prompt, token, text: &new })?;
        }
        let long = |text: &&mut Text| text.finished.is_none() && text.stream.tail().is_some();
        let mut long: Vec<&mut Text> = texts.iter_mut().filter(long).collect();
        let tails = long.iter().filter_map(|text| text.stream.tail().map(<[u32]>::to_vec)).collect();
        for (text, decoded) in long.iter_mut().zip(self.encoder.decoded(tails, true)?) {
            text.stream.forget(decoded);
        }
        Ok(())
    }
}

fn unknown() -> Error {
    Error::bug("a decoder continues a row that there is not")
}

/// A text while it is generated.
struct Text {
    stream: TextStream,
    waiting: Waiting,
    stops: StopStrings,
    stop_ids: Vec<u32>,
    /// Most tokens that are generated.
    most: Option<usize>,
    text: String,
    tokens: Vec<u32>,
    times: Vec<Duration>,
    prompt_tokens: usize,
    finished: Option<FinishReason>,
    complete: Option<bool>,
}

impl Text {
    /// Takes a token. Its text is read later, together with that of other rows.
    fn push(&mut self, chosen: &Chosen, elapsed: Duration, special: &SpecialTokens) {
        self.tokens.push(chosen.token);
        self.times.push(elapsed);
        self.complete = self.complete.map(|_| chosen.complete);
        self.finished = if special.eos.contains(&chosen.token) {
            Some(FinishReason::Eos)
        } else if self.stop_ids.contains(&chosen.token) {
            Some(FinishReason::Stop)
        } else {
            self.stream.push(chosen.token);
            let enough = self.most.is_some_and(|most| self.tokens.len() >= most);
            let full = chosen.full.then_some(FinishReason::Context);
            if enough { Some(FinishReason::Length) } else { full }
        };
    }

    /// Takes the text of the tokens; gives what goes out of it.
    fn read(&mut self, decoded: String) -> String {
        let new = self.stream.take(decoded, self.finished.is_some());
        let (mut out, stopped) = self.waiting.push(&new, &self.stops);
        if stopped {
            // A stop string in the last token that was asked for is a stop string all the same.
            self.finished = Some(FinishReason::Stop);
        } else if self.finished.is_some() {
            out += &self.waiting.rest();
        }
        self.text += &out;
        out
    }

    fn generated(self) -> Result<Generated> {
        let Text { text, tokens, times, prompt_tokens, finished, complete, .. } = self;
        let finish_reason = finished.ok_or_else(|| Error::bug("a text has not ended"))?;
        Ok(Generated { text, tokens, finish_reason, complete, prompt_tokens, times })
    }
}
