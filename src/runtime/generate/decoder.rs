//! A decoder in this process: a session with what it reads for prompts and tokens.

use std::borrow::Cow;
use std::ops::Range;
use std::time::Instant;

use super::beams::{BeamSearch, Hypothesis};
use super::choose::{Candidate, DecodeOptions, choose};
use super::logits::Context;
use super::schema::{Constrained, Grammar};
use super::score::{PIECE, Scorer};
use super::{BeamStep, Chosen, Constraint, Decoding, Nll, Step, Window};
use crate::error::{Error, Result, printable};
use crate::ports::PortKind;
use crate::runtime::session::{Outputs, positions};
use crate::runtime::{Elements, ElementsView, Port, Session, Tensor, View};
use crate::settings::LongTexts;

/// What generation knows of a model beside its graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DecoderLimits {
    /// Most tokens of a text, those of the prompt among them; none, where the model has no such bound.
    pub positions: Option<usize>,
    /// What becomes of texts that are longer than trained, where the model's angles follow the length of a text.
    #[serde(default)]
    pub long: Option<LongTexts>,
    /// The id that fills up shorter prompts of a batch. It is masked, so any that the vocabulary has will do.
    pub pad: u32,
}

/// Is shown the number of a row, the place of a token in it, and the logits after the token.
pub type ShowLogits<'a> = &'a mut dyn FnMut(usize, usize, &[f32]) -> Result<()>;

/// A decoder with a cache, on a session.
pub struct Decoder {
    session: Session,
    ids: Port,
    mask: Option<Port>,
    /// How many tokens there are logits of, where the graph says it.
    vocabulary: Option<usize>,
    positions: Option<Port>,
    limits: DecoderLimits,
    rows: Vec<Row>,
    options: DecodeOptions,
    chosen: Vec<Chosen>,
    searches: Vec<Search>,
    /// What texts have to follow.
    grammar: Option<Grammar>,
}

/// A search by beams, and what it found once it has ended. Its beams are rows, in their order.
struct Search {
    beams: BeamSearch,
    ended: bool,
}

/// A prompt, and what was generated after it.
#[derive(Clone)]
struct Row {
    /// Places before the first token.
    padding: usize,
    tokens: Vec<u32>,
    /// How many tokens are the prompt's.
    prompt: usize,
    /// The number of the prompt.
    number: usize,
    /// What its text has to follow; beams have theirs.
    constrained: Option<Constrained>,
}

impl Decoder {
    /// Fails where the graph is none of a decoder with a cache, naming what it lacks or has too much.
    pub fn new(session: Session, limits: DecoderLimits) -> Result<Decoder> {
        if !session.has_state() {
            let (past, present) = (PortKind::PastKey(0).name(), PortKind::PresentKey(0).name());
            return Err(Error::unsupported(format!(
                "the graph has no cache: generation needs inputs such as `{past}` and outputs such as `{present}`"
            ))
            .hint("export the model with its cache: kilnc export, or Optimum's task text-generation-with-past"));
        }
        let (mut ids, mut mask, mut positions) = (None, None, None);
        for port in session.inputs() {
            match port.kind() {
                Some(PortKind::TokenIds) => ids = Some(port.clone()),
                Some(PortKind::AttentionMask) => mask = Some(port.clone()),
                Some(PortKind::PositionIds) => positions = Some(port.clone()),
                Some(kind) if kind.is_past() => {}
                _ => {
                    let name = printable(&port.name);
                    return Err(Error::unsupported(format!("no values are known for the graph's input `{name}`"))
                        .hint("a decoder is given input_ids, attention_mask, position_ids and its cache"));
                }
            }
        }
        let ids =
            ids.ok_or_else(|| Error::unsupported(format!("the graph has no input `{}`", PortKind::TokenIds.name())))?;
        let logits = session.outputs().iter().find(|port| port.kind() == Some(PortKind::Logits));
        let Some(logits) = logits else {
            return Err(Error::unsupported(format!("the graph has no output `{}`", PortKind::Logits.name())));
        };
        let vocabulary = logits.shape.last().copied().flatten();
        Ok(Decoder {
            session,
            ids,
            mask,
            positions,
            vocabulary,
            limits,
            rows: Vec::new(),
            options: DecodeOptions::greedy(),
            chosen: Vec::new(),
            searches: Vec::new(),
            grammar: None,
        })
    }

    /// Runs tokens through the model, one after another, and shows the logits after each: the number of the row, the place
    /// of the token in it, and a logit for each token of the vocabulary. `piece` tokens are run at a time, so that logits
    /// of a long text are never all in memory; but for texts whose angles follow their length, which are run whole.
    pub fn forced(&mut self, texts: &[&[u32]], piece: usize, show: ShowLogits) -> Result<()> {
        let width = self.place(texts)?;
        let piece = if self.limits.long.is_some_and(|long| width > long.after) { width } else { piece };
        let mut from = 0;
        while from < width {
            let until = from.saturating_add(piece.max(1)).min(width);
            let outputs = self.run(from, until)?;
            let logits = Logits::of(&outputs)?;
            logits.check(self.rows.len(), until - from)?;
            for (number, row) in self.rows.iter().enumerate() {
                for column in from.max(row.padding)..until {
                    show(number, column - row.padding, &logits.row(number, column - from)?)?;
                }
            }
            from = until;
        }
        Ok(())
    }

    /// Lets texts be the rows, those that are shorter padded before their first token. Gives the width.
    fn place(&mut self, texts: &[&[u32]]) -> Result<usize> {
        let width = texts.iter().map(|text| text.len()).max().unwrap_or_default();
        if texts.iter().any(|text| text.is_empty()) || width == 0 {
            return Err(Error::bad_input("a text of no token cannot be continued"));
        }
        // A runtime may crash on an id that its table does not have.
        let unknown = |id: &&u32| {
            self.vocabulary.is_some_and(|vocabulary| usize::try_from(**id).is_ok_and(|id| id >= vocabulary))
        };
        if let (Some(id), Some(vocabulary)) = (texts.iter().copied().flatten().find(unknown), self.vocabulary) {
            return Err(Error::bad_input(format!(
                "token {id} is outside of the model's vocabulary of {vocabulary} tokens"
            )));
        }
        if self.mask.is_none() && texts.iter().any(|text| text.len() != width) {
            return Err(Error::unsupported(format!(
                "the graph has no input `{}`, so texts of different lengths cannot be in one batch",
                PortKind::AttentionMask.name()
            ))
            .hint("give them one at a time"));
        }
        let row = |(number, text): (usize, &&[u32])| Row {
            padding: width - text.len(),
            tokens: text.to_vec(),
            prompt: text.len(),
            number,
            constrained: None,
        };
        self.rows = texts.iter().enumerate().map(row).collect();
        self.session.begin(texts.len())?;
        Ok(width)
    }

    /// Runs the columns from `from` up to `until`, which follow those that the state has.
    fn run(&mut self, from: usize, until: usize) -> Result<Outputs> {
        // Padding counts: attention knows the places of columns, not of a row's tokens.
        if let Some(most) = self.limits.positions.filter(|most| until > *most) {
            return Err(Error::bad_input(format!("a text of {until} tokens, and the model has {most} positions")));
        }
        let pad = i64::from(self.limits.pad);
        let token = |row: &Row, column: usize| {
            let token = column.checked_sub(row.padding).and_then(|place| row.tokens.get(place));
            token.map_or(pad, |token| i64::from(*token))
        };
        let mut inputs = vec![self.columns(&self.ids, from..until, &token)?];
        if let Some(port) = &self.mask {
            inputs.push(self.columns(port, 0..until, &|row, column| i64::from(column >= row.padding))?);
        }
        if let Some(port) = &self.positions {
            let mask = |row: &Row| (0..until).map(|column| i64::from(column >= row.padding)).collect::<Vec<_>>();
            let of_row = |row: &Row| positions(&mask(row)).skip(from).collect::<Vec<_>>();
            let values = self.rows.iter().flat_map(of_row).collect();
            let shape = vec![self.rows.len(), until - from];
            inputs.push((port.name.clone(), Tensor { shape, elements: Elements::integers(values, port)? }));
        }
        self.session.run(&inputs)
    }

    /// An input with a value for each row and column.
    fn columns(
        &self,
        port: &Port,
        columns: Range<usize>,
        value: &dyn Fn(&Row, usize) -> i64,
    ) -> Result<(String, Tensor)> {
        let shape = vec![self.rows.len(), columns.len()];
        let values = self.rows.iter().flat_map(|row| columns.clone().map(move |column| value(row, column)));
        Ok((port.name.clone(), Tensor { shape, elements: Elements::integers(values.collect(), port)? }))
    }

    /// Chooses a token for each row by the logits after its last one.
    fn choose(&mut self, outputs: &Outputs) -> Result<Vec<Chosen>> {
        let logits = Logits::of(outputs)?;
        let last = logits.last(self.rows.len())?;
        let full = self.limits.positions.is_some_and(|most| self.session.length() + 1 >= most);
        let mut chosen = Vec::with_capacity(self.rows.len());
        for (number, row) in self.rows.iter_mut().enumerate() {
            let context = Context {
                tokens: &row.tokens,
                prompt: row.prompt,
                most: self.options.most(row.prompt, self.limits.positions),
                eos: &self.options.eos,
            };
            let logits = logits.row(number, last)?;
            let constrained = row.constrained.as_mut();
            let candidate = Candidate { number: row.number, context, logits, constrained };
            let token = choose(&self.options.strategy, candidate)?;
            let complete = match &mut row.constrained {
                Some(constrained) => self.options.eos.contains(&token) || constrained.take(token)?,
                None => false,
            };
            chosen.push(Chosen { row: number, token, full, complete });
        }
        Ok(chosen)
    }

    /// Lets some rows go on, each by a token, and runs that.
    fn go_on(&mut self, chosen: &[(usize, u32)]) -> Result<Outputs> {
        self.session.select(&chosen.iter().map(|(row, _)| *row).collect::<Vec<_>>())?;
        let continued = |(row, token): &(usize, u32)| {
            let mut row = self.rows.get(*row).cloned().ok_or_else(unknown)?;
            row.tokens.push(*token);
            Ok(row)
        };
        self.rows = chosen.iter().map(continued).collect::<Result<_>>()?;
        let from = self.session.length();
        if self.outgrown() {
            self.session.begin(self.rows.len())?;
            return self.run(0, from + 1);
        }
        self.run(from, from + 1)
    }

    /// Whether the last token of a row gives all before it other angles, for which a state is thrown away.
    fn outgrown(&self) -> bool {
        let Some(LongTexts { after, restart: true }) = self.limits.long else { return false };
        self.rows.iter().any(|row| row.tokens.len() == after + 1)
    }

    /// Continues the beams of every search by the logits of a run. Gives the rows and the tokens that go on.
    fn advance(&mut self, outputs: &Outputs) -> Result<Vec<(usize, u32)>> {
        let logits = Logits::of(outputs)?;
        let last = logits.last(self.rows.len())?;
        let (mut first, mut going_on) = (0, Vec::new());
        for search in self.searches.iter_mut().filter(|search| !search.ended) {
            let rows = (first..first + search.beams.beams()).map(|row| logits.row(row, last));
            let rows = rows.collect::<Result<Vec<_>>>()?;
            let grown = search.beams.advance(&self.options, &rows.iter().map(|row| &**row).collect::<Vec<_>>())?;
            search.ended = grown.is_empty();
            going_on.extend(grown.iter().map(|grown| (first + grown.beam, grown.token)));
            first += rows.len();
        }
        Ok(going_on)
    }

    /// What the searches found, once they all have ended.
    fn searched(&mut self, going_on: Vec<(usize, u32)>, start: Instant) -> Result<BeamStep> {
        let chosen = |(row, token): &(usize, u32)| Chosen { row: *row, token: *token, full: false, complete: false };
        self.chosen = going_on.iter().map(chosen).collect();
        let found = match going_on.is_empty() {
            false => None,
            true => {
                let searches = std::mem::take(&mut self.searches).into_iter();
                Some(searches.map(|search| search.beams.best()).collect::<Result<Vec<Hypothesis>>>()?)
            }
        };
        Ok(BeamStep { found, elapsed: start.elapsed() })
    }
}

fn unknown() -> Error {
    Error::bug("a token is to be continued that was not chosen")
}

impl Decoding for Decoder {
    fn describe(&self) -> String {
        self.session.describe()
    }

    fn begin(&mut self, prompts: &[&[u32]], options: &DecodeOptions) -> Result<Step> {
        let start = Instant::now();
        options.strategy.check()?;
        let width = self.place(prompts)?;
        self.options = options.clone();
        let begun = self.grammar.as_ref().map(Grammar::begin);
        self.rows.iter_mut().for_each(|row| row.constrained.clone_from(&begun));
        let outputs = self.run(0, width)?;
        self.chosen = self.choose(&outputs)?;
        Ok(Step { chosen: self.chosen.clone(), elapsed: start.elapsed() })
    }

    fn constrain(&mut self, constraint: Option<&Constraint>) -> Result<()> {
        self.grammar = constraint.map(Grammar::new).transpose()?;
        Ok(())
    }

    fn step(&mut self, going_on: &[usize]) -> Result<Step> {
        let start = Instant::now();
        let chosen = going_on.iter().map(|number| self.chosen.get(*number).ok_or_else(unknown));
        let chosen =
            chosen.map(|chosen| chosen.map(|chosen| (chosen.row, chosen.token))).collect::<Result<Vec<_>>>()?;
        let outputs = self.go_on(&chosen)?;
        self.chosen = self.choose(&outputs)?;
        Ok(Step { chosen: self.chosen.clone(), elapsed: start.elapsed() })
    }

    fn begin_search(&mut self, prompts: &[&[u32]], options: &DecodeOptions) -> Result<BeamStep> {
        let start = Instant::now();
        options.strategy.check()?;
        let width = self.place(prompts)?;
        self.options = options.clone();
        let search = |prompt: &&[u32]| Search {
            beams: BeamSearch::new(prompt, options.most(prompt.len(), self.limits.positions))
                .constrained(self.grammar.as_ref().map(Grammar::begin)),
            ended: false,
        };
        self.searches = prompts.iter().map(search).collect();
        let outputs = self.run(0, width)?;
        let going_on = self.advance(&outputs)?;
        self.searched(going_on, start)
    }

    fn search(&mut self) -> Result<BeamStep> {
        let start = Instant::now();
        let chosen: Vec<(usize, u32)> = self.chosen.iter().map(|chosen| (chosen.row, chosen.token)).collect();
        if chosen.is_empty() {
            return Err(Error::bug("a search goes on that has ended"));
        }
        // The room of a batch is that of its widest row.
        if self.limits.positions.is_some_and(|most| self.session.length() >= most) {
            return Err(Error::bug("a search goes on that has no room"));
        }
        let outputs = self.go_on(&chosen)?;
        let going_on = self.advance(&outputs)?;
        self.searched(going_on, start)
    }

    fn score(&mut self, windows: &[Window]) -> Result<Vec<Nll>> {
        let texts: Vec<&[u32]> = windows.iter().map(|window| window.tokens.as_slice()).collect();
        let mut scorer = Scorer::new(windows);
        self.forced(&texts, PIECE, &mut |window, place, logits| scorer.take(window, place, logits))?;
        Ok(scorer.found())
    }
}

/// The logits of a run, `[b, s, v]`, where the runtime has them.
struct Logits<'a> {
    view: View<'a>,
    columns: usize,
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    fn of(outputs: &'a Outputs) -> Result<Logits<'a>> {
        let view = outputs.view(PortKind::Logits)?;
        match view.shape.as_slice() {
            [_, columns, vocabulary] if *columns > 0 && *vocabulary > 0 => {
                Ok(Logits { columns: *columns, vocabulary: *vocabulary, view })
            }
            shape => Err(shaped(shape)),
        }
    }

    /// Fails where there are not so many rows and columns.
    fn check(&self, rows: usize, columns: usize) -> Result<()> {
        match self.view.shape.first() == Some(&rows) && self.columns == columns {
            true => Ok(()),
            false => Err(shaped(&self.view.shape)),
        }
    }

    /// The last column, which may be the only one that a graph gives.
    fn last(&self, rows: usize) -> Result<usize> {
        self.check(rows, self.columns)?;
        Ok(self.columns - 1)
    }

    fn row(&self, row: usize, column: usize) -> Result<Cow<'a, [f32]>> {
        let start = (row * self.columns + column) * self.vocabulary;
        let range = start..start + self.vocabulary;
        let outside = || shaped(&self.view.shape);
        match self.view.elements {
            ElementsView::F32(values) => values.get(range).map(Cow::Borrowed).ok_or_else(outside),
            ElementsView::F16(values) => {
                let values = values.get(range).ok_or_else(outside)?;
                Ok(Cow::Owned(values.iter().map(|value| value.to_f32()).collect()))
            }
            other => Err(Error::unsupported(format!(
                "the graph's output `{}` is of {}",
                PortKind::Logits.name(),
                other.element_type()
            ))),
        }
    }
}

fn shaped(shape: &[usize]) -> Error {
    let name = PortKind::Logits.name();
    Error::unsupported(format!("the output `{name}` has the shape {shape:?}; a row for each token is expected"))
}
