//! The inputs of engines: texts of one length, or those of a file, in one of MLPerf Inference's scenarios.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::stats::shuffled;
use crate::error::{Error, Result, printable};
use crate::eval::Example;
use crate::ports::PortKind;
use crate::runtime::session::prefill;
use crate::runtime::{self, Elements, Named, Port, Tensor, TextEncoder};

/// How many batches are sampled from a file's texts for a stream.
const SAMPLED: usize = 64;

/// Texts that are tokenized at once.
const AT_ONCE: usize = 64;

/// How texts come. The server's, where they come at random times, is measured separately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// One at a time, the next when the one before is done.
    #[default]
    SingleStream,
    /// Several at once as one query, the next when the one before is done (MLPerf Inference 2.0 and later).
    MultiStream,
    /// All that there are.
    Offline,
    /// A prompt, up to the first token after it.
    FirstToken,
    /// A token after a prompt and the tokens before it, which are cached.
    NextToken,
}

impl Scenario {
    fn of(batch: usize) -> Scenario {
        if batch == 1 { Scenario::SingleStream } else { Scenario::MultiStream }
    }

    /// MLPerf's name of it, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::SingleStream => "single-stream",
            Scenario::MultiStream => "multi-stream",
            Scenario::Offline => "offline",
            Scenario::FirstToken => "first token",
            Scenario::NextToken => "next token",
        }
    }
}

/// How the texts of a file become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Batching {
    /// In the order of the file, each batch as long as its longest text.
    Padded,
    /// The same with texts in the order of their lengths, so that little is padded.
    Bucketed,
}

impl Batching {
    fn name(self) -> &'static str {
        match self {
            Batching::Padded => "padded",
            Batching::Bucketed => "bucketed",
        }
    }
}

impl FromStr for Batching {
    type Err = Error;

    fn from_str(text: &str) -> Result<Batching> {
        let known = [Batching::Padded, Batching::Bucketed];
        known.into_iter().find(|batching| batching.name() == text).ok_or_else(|| {
            Error::bad_input(format!("`{}` is no way to make batches; known: padded, bucketed", printable(text)))
        })
    }
}

/// The key of a report's point. Reports are compared where their keys are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointKey {
    /// How texts come.
    pub scenario: Scenario,
    /// Texts in a query.
    pub batch: usize,
    /// Tokens of each text; none where they have lengths of their own.
    pub length: Option<usize>,
    /// How batches were made of all the texts of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
}

impl fmt::Display for PointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.scenario, self.length) {
            (Scenario::FirstToken, Some(prompt)) => return write!(f, "first token · prompt of {prompt} tokens"),
            (Scenario::NextToken, Some(prompt)) => return write!(f, "next token · after a prompt of {prompt} tokens"),
            _ => {}
        }
        write!(f, "{} · batch {}", self.scenario.name(), self.batch)?;
        match (self.length, self.batching) {
            (Some(length), _) => write!(f, " · {length} tokens"),
            (None, Some(batching)) => write!(f, " · all texts, {}", batching.name()),
            (None, None) => f.write_str(" · texts as they are"),
        }
    }
}

/// Texts that are run together, as token ids row after row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenBatch {
    /// Number of texts.
    pub rows: usize,
    /// Tokens of each text, padding among them.
    pub length: usize,
    /// The token numbers.
    pub ids: Vec<i64>,
    /// The token type of every token.
    token_types: Vec<i64>,
    /// Tokens of each text without padding.
    real: Vec<usize>,
    /// The texts, and the second ones of pairs; none where there are only tokens.
    texts: Vec<(String, Option<String>)>,
}

impl TokenBatch {
    /// Texts of one length, of the first token type alone.
    pub fn full(rows: usize, length: usize, ids: Vec<i64>) -> TokenBatch {
        TokenBatch { rows, length, token_types: vec![0; ids.len()], ids, real: vec![length; rows], texts: Vec::new() }
    }

    /// Texts of one length, of numbers that any vocabulary has.
    pub fn of_any_vocabulary(rows: usize, length: usize) -> TokenBatch {
        TokenBatch::full(rows, length, (0..rows * length).map(|i| 1 + (i % 4) as i64).collect())
    }

    /// Texts as a tokenizer makes them, padded to the longest.
    fn encode(encoder: &TextEncoder, examples: &[&Example]) -> Result<TokenBatch> {
        let named = encoder.encode(examples)?;
        let of = |kind: PortKind| match runtime::port(&named, kind) {
            Some(Tensor { elements: Elements::I64(values), .. }) => Ok(values.clone()),
            _ => Err(Error::bug(format!("a tokenizer gives `{}`", kind.name()))),
        };
        let (ids, mask) = (of(PortKind::TokenIds)?, of(PortKind::AttentionMask)?);
        let length = ids.len() / examples.len().max(1);
        Ok(TokenBatch {
            rows: examples.len(),
            length,
            ids,
            token_types: of(PortKind::TokenTypes)?,
            real: mask.chunks(length.max(1)).map(|row| row.iter().filter(|real| **real != 0).count()).collect(),
            texts: examples.iter().map(|example| (example.text.clone(), example.pair.clone())).collect(),
        })
    }

    /// The inputs that an engine of that interface wants; a decoder's state is empty, so texts are read as prompts.
    pub(super) fn inputs(&self, ports: &[Port]) -> Result<Named> {
        let mask = || self.mask().into_iter().map(|(_, mask)| mask.elements);
        let elements = |port: &Port| match port.kind() {
            Some(PortKind::TokenIds) => Ok(Elements::I64(self.ids.clone())),
            Some(PortKind::AttentionMask) => mask().next().ok_or_else(|| Error::bug("a batch has a mask")),
            Some(PortKind::TokenTypes) => Ok(Elements::I64(self.token_types.clone())),
            _ => Err(Error::unsupported(format!(
                "no values are known for the engine's input `{}`",
                printable(&port.name)
            ))
            .hint("engines are run with input_ids, attention_mask, token_type_ids, position_ids and an empty cache")),
        };
        let tensor = |port: &Port| {
            Ok((port.name.clone(), Tensor { shape: vec![self.rows, self.length], elements: elements(port)? }))
        };
        let of_prefill = |port: &&Port| port.kind().is_some_and(|kind| kind == PortKind::PositionIds || kind.is_past());
        prefill(ports, &ports.iter().filter(|port| !of_prefill(port)).map(tensor).collect::<Result<_>>()?)
    }

    /// The texts, to be tokenized.
    pub(super) fn texts(&self) -> &[(String, Option<String>)] {
        &self.texts
    }

    /// Tokens without padding.
    pub fn real(&self) -> usize {
        self.real.iter().sum()
    }

    /// The mask, by which outputs for padding are distinguished from others.
    pub(super) fn mask(&self) -> Named {
        let real = self.real.iter().flat_map(|real| (0..self.length).map(move |i| i64::from(i < *real))).collect();
        let mask = Tensor { shape: vec![self.rows, self.length], elements: Elements::I64(real) };
        vec![(PortKind::AttentionMask.name().into_owned(), mask)]
    }

    /// Its texts one by one, without padding.
    pub(super) fn singles(&self) -> impl Iterator<Item = TokenBatch> {
        let cut = |values: &[i64], row: usize, real: usize| -> Vec<i64> {
            values.iter().skip(row * self.length).take(real).copied().collect()
        };
        self.real.iter().enumerate().map(move |(row, real)| TokenBatch {
            rows: 1,
            length: *real,
            ids: cut(&self.ids, row, *real),
            token_types: cut(&self.token_types, row, *real),
            real: vec![*real],
            texts: self.texts.get(row).cloned().into_iter().collect(),
        })
    }
}

/// The inputs of engines at one point of a report.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its key.
    pub key: PointKey,
    /// Queries that are run one after the other, over and over.
    pub queries: Vec<TokenBatch>,
    /// The prompt, and how much is generated after it, where that is measured.
    pub generation: Option<Generation>,
}

/// A prompt, and what is generated after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens after the first that are generated in steps; none where the first token is measured.
    pub steps: usize,
}

impl Workload {
    /// The time to the first token after a prompt, and that of each of so many tokens after it.
    pub fn generated(prompt: usize, steps: usize) -> [Workload; 2] {
        let key = |scenario| PointKey { scenario, batch: 1, length: Some(prompt), ..PointKey::default() };
        let workload = |scenario, tokens: usize, steps| Workload {
            key: key(scenario),
            queries: vec![TokenBatch::of_any_vocabulary(1, tokens)],
            generation: Some(Generation { prompt, steps }),
        };
        [workload(Scenario::FirstToken, prompt, 0), workload(Scenario::NextToken, 1, steps)]
    }

    /// One batch of texts of one length.
    pub fn full(batch: TokenBatch) -> Workload {
        let key = PointKey {
            scenario: Scenario::of(batch.rows),
            batch: batch.rows,
            length: Some(batch.length),
            ..PointKey::default()
        };
        Workload { key, queries: vec![batch], generation: None }
    }

    /// Batches of so many texts that are sampled from a file's, every text once before any comes again.
    pub fn sampled(examples: &[Example], batch: usize, seed: u64, encoder: &TextEncoder) -> Result<Workload> {
        let order = shuffled(examples.len(), seed);
        let queries = (examples.len() / batch.max(1)).clamp(1, SAMPLED);
        let mut sampled = order.iter().filter_map(|i| examples.get(*i)).cycle();
        let mut next = || TokenBatch::encode(encoder, &sampled.by_ref().take(batch).collect::<Vec<_>>());
        let queries = (0..queries).map(|_| next()).collect::<Result<_>>()?;
        Ok(Workload {
            key: PointKey { scenario: Scenario::of(batch), batch, ..PointKey::default() },
            queries,
            generation: None,
        })
    }

    /// All texts of a file in batches of so many; the last may have fewer.
    pub fn all(examples: &[Example], batch: usize, batching: Batching, encoder: &TextEncoder) -> Result<Workload> {
        let mut texts: Vec<&Example> = examples.iter().collect();
        if batching == Batching::Bucketed {
            let lengths = lengths(examples, encoder)?;
            let mut sorted: Vec<(usize, &Example)> = lengths.into_iter().zip(texts).collect();
            sorted.sort_by_key(|(length, _)| *length);
            texts = sorted.into_iter().map(|(_, text)| text).collect();
        }
        let queries =
            texts.chunks(batch.max(1)).map(|texts| TokenBatch::encode(encoder, texts)).collect::<Result<_>>()?;
        let key = PointKey { scenario: Scenario::Offline, batch, length: None, batching: Some(batching) };
        Ok(Workload { key, queries, generation: None })
    }

    /// Texts of one pass.
    pub fn texts(&self) -> usize {
        self.queries.iter().map(|query| query.rows).sum()
    }

    /// Tokens of one pass without padding.
    pub fn real(&self) -> usize {
        self.queries.iter().map(TokenBatch::real).sum()
    }

    /// Tokens of one pass with padding.
    pub fn padded(&self) -> usize {
        self.queries.iter().map(|query| query.rows * query.length).sum()
    }
}

/// The texts that were run, where they came from a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextStats {
    /// The file's name.
    pub file: String,
    /// Number of texts.
    pub texts: usize,
    /// Tokens of all of them.
    pub tokens: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Whether tokenizing them is part of each latency.
    pub tokenized_in_latency: bool,
}

impl TextStats {
    /// The content of a file.
    pub fn of(file: String, examples: &[Example], encoder: &TextEncoder, tokenize: bool) -> Result<TextStats> {
        let lengths = lengths(examples, encoder)?;
        Ok(TextStats {
            file,
            texts: lengths.len(),
            tokens: lengths.iter().sum(),
            longest: lengths.iter().copied().max().unwrap_or_default(),
            tokenized_in_latency: tokenize,
        })
    }
}

fn lengths(examples: &[Example], encoder: &TextEncoder) -> Result<Vec<usize>> {
    let mut lengths = Vec::with_capacity(examples.len());
    for some in examples.chunks(AT_ONCE) {
        lengths.extend(TokenBatch::encode(encoder, &some.iter().collect::<Vec<_>>())?.real);
    }
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::per_text;

    fn encoder() -> TextEncoder {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-bert/tokenizer.json");
        TextEncoder::open(&path, 32).unwrap()
    }

    /// Texts of 1 to 10 words, long and short by turns.
    fn texts() -> Vec<Example> {
        (0..10).map(|i| Example::unlabelled(&["a"; 10][..(i * 7) % 10 + 1].join(" "))).collect()
    }

    #[test]
    fn all_texts_run_once_and_buckets_have_less_padding() {
        let (texts, encoder) = (texts(), encoder());
        let all = |batching| Workload::all(&texts, 4, batching, &encoder).unwrap();
        let [padded, bucketed] = [Batching::Padded, Batching::Bucketed].map(all);
        for workload in [&padded, &bucketed] {
            assert_eq!((workload.texts(), workload.queries.len(), workload.queries[2].rows), (10, 3, 2));
            // One token a word, and two around.
            assert_eq!(workload.real(), 55 + 20);
        }
        // The longest of 1 8 5 2, 9 6 3 10, 7 4; and of 1…4, 5…8, 9 and 10.
        assert_eq!((padded.padded(), bucketed.padded()), (4 * 10 + 4 * 12 + 2 * 9, 4 * 6 + 4 * 10 + 2 * 12));
    }

    #[test]
    fn texts_are_sampled_by_the_seed_and_each_once_before_any_again() {
        let (texts, encoder) = (texts(), encoder());
        let sampled = |batch, seed| Workload::sampled(&texts, batch, seed, &encoder).unwrap();
        let lengths = |workload: &Workload| workload.queries.iter().map(TokenBatch::real).collect::<Vec<_>>();
        let one = sampled(1, 5);
        assert_eq!((one.key.scenario, one.texts(), one.real()), (Scenario::SingleStream, 10, 75));
        assert_eq!(lengths(&one), lengths(&sampled(1, 5)));
        assert!((0..9).any(|seed| lengths(&one) != lengths(&sampled(1, seed))));
        let (four, many) = (sampled(4, 5), sampled(20, 5));
        assert_eq!((four.key.scenario, four.queries.len(), four.texts()), (Scenario::MultiStream, 2, 8));
        // More than there are: every text twice.
        assert_eq!((many.queries.len(), many.real()), (1, 150));
    }

    fn port(name: &str) -> Port {
        let element = Some(runtime::ElementType::I64);
        Port { name: name.to_owned(), element, type_name: "i64".to_owned(), shape: vec![None, None] }
    }

    #[test]
    fn padding_is_masked_and_its_outputs_do_not_count() {
        let (texts, encoder) = (texts(), encoder());
        let batch = TokenBatch::encode(&encoder, &[&texts[0], &texts[3]]).unwrap();
        assert_eq!((batch.rows, batch.length, batch.real()), (2, 4, 7));
        let inputs = batch.inputs(&[port("attention_mask")]).unwrap();
        assert_eq!(inputs[0].1.elements, Elements::I64(vec![1, 1, 1, 0, 1, 1, 1, 1]));
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let output = |shape: &[usize]| {
            let tensor = Tensor { shape: shape.to_vec(), elements: Elements::F32(values.clone()) };
            per_text(&batch.mask(), &vec![("logits".to_owned(), tensor)]).unwrap()
        };
        let tokens = output(&[2, 4, 2]);
        assert_eq!((tokens[0][0].rows().count(), tokens[1][0].rows().count()), (3, 4));
        assert_eq!(tokens[1][0].rows().next(), Some(&[8.0, 9.0][..]));
        assert_eq!(output(&[2, 8])[1][0].rows().count(), 1);
        let singles: Vec<_> = batch.singles().collect();
        assert_eq!((singles.len(), singles[0].length, singles[1].ids.len()), (2, 3, 4));
        assert_eq!(singles[1].texts, [("a a".to_owned(), None)]);
    }

    #[test]
    fn an_input_without_values_is_named() {
        let error = TokenBatch::full(1, 2, vec![5, 6]).inputs(&[port("pixel_values")]).unwrap_err();
        assert_eq!(error.message(), "no values are known for the engine's input `pixel_values`");
    }
}
