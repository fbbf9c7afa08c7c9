//! Runs the windows of many texts, those of like length together.

use super::id::Task;
use super::prediction::Predicted;
use super::watch::Watch;
use crate::error::{Error, Result, printable};
use crate::ports::PortKind;
use crate::runtime::{Elements, Encoded, Engine, Named, TextEncoder, TextInput, Window};

/// A text with its tokens and windows.
pub(super) struct Tokenized<'a> {
    pub input: TextInput<'a>,
    pub encoded: Encoded,
}

/// How outputs become predictions.
pub(super) trait Reader {
    /// The intermediate result of a window.
    type Part;

    /// The prediction for all windows of a text.
    type Prediction;

    /// Reads the engine's outputs for the window of that number.
    fn read(&self, tokenized: &Tokenized, window: usize, row: &Row) -> Result<Self::Part>;

    /// The prediction for a text from the results of its windows, in their order.
    fn join(&self, tokenized: &Tokenized, parts: Vec<Self::Part>) -> Result<Self::Prediction>;
}

/// How windows are run.
pub(super) struct Batches<'a> {
    pub encoder: &'a TextEncoder,
    /// Most windows that are run together.
    pub windows: usize,
    /// Most tokens that are, padding too, where one window does not have more.
    pub tokens: usize,
    pub watch: &'a Watch<'a>,
}

/// Most tokens of a batch, so that its outputs fit in memory: for every token, a masked one's has a
/// number for each entry of the vocabulary.
pub(super) fn most_tokens(task: Task) -> usize {
    if task.is_over_vocabulary() { 1 << 10 } else { 1 << 14 }
}

/// A window among all that are run.
#[derive(Clone, Copy)]
struct Place {
    text: usize,
    window: usize,
    tokens: usize,
}

impl Batches<'_> {
    /// The predictions for all texts, in their order.
    pub fn run<R: Reader>(
        &self,
        engine: &mut dyn Engine,
        tokenized: &[Tokenized],
        reader: &R,
    ) -> Result<Vec<Predicted<R::Prediction>>> {
        let mut parts: Vec<Vec<Option<R::Part>>> =
            tokenized.iter().map(|text| text.encoded.windows().iter().map(|_| None).collect()).collect();
        for batch in self.batches(tokenized) {
            let windows: Vec<(&Encoded, &Window)> =
                batch.iter().filter_map(|location| location.of(tokenized)).collect();
            let outputs = engine.run(&self.encoder.tensors(&windows)?)?;
            let padded = batch.iter().map(|location| location.tokens).max().unwrap_or_default();
            for (number, location) in batch.iter().enumerate() {
                let row = Row { outputs: &outputs, number, rows: batch.len(), padded, tokens: location.tokens };
                let Some(text) = tokenized.get(location.text) else { continue };
                let part =
                    reader.read(text, location.window, &row).map_err(|e| self.watch.located(location.text, e))?;
                let Some(slots) = parts.get_mut(location.text) else { continue };
                if let Some(slot) = slots.get_mut(location.window) {
                    *slot = Some(part);
                }
                if slots.iter().all(Option::is_some) {
                    (self.watch.done)(location.text);
                }
            }
        }
        let joined = tokenized.iter().zip(parts).enumerate().map(|(number, (text, parts))| {
            let prediction = reader.join(text, parts.into_iter().flatten().collect());
            Ok(text.predicted(prediction.map_err(|e| self.watch.located(number, e))?))
        });
        joined.collect()
    }

    /// Windows by their length, in batches of no more than is allowed.
    fn batches(&self, tokenized: &[Tokenized]) -> Vec<Vec<Place>> {
        let windows = tokenized.iter().enumerate().flat_map(|(text, tokenized)| {
            let windows = tokenized.encoded.windows().iter().enumerate();
            windows.map(move |(window, seen)| Place { text, window, tokens: seen.tokens.len() })
        });
        let mut windows: Vec<Place> = windows.collect();
        windows.sort_by_key(|location| location.tokens);
        let mut batches: Vec<Vec<Place>> = Vec::new();
        for location in windows {
            match batches.last_mut() {
                Some(batch) if batch.len() < self.windows && (batch.len() + 1) * location.tokens <= self.tokens => {
                    batch.push(location);
                }
                _ => batches.push(vec![location]),
            }
        }
        batches
    }
}

impl Place {
    fn of<'a>(&self, tokenized: &'a [Tokenized]) -> Option<(&'a Encoded, &'a Window)> {
        let encoded = &tokenized.get(self.text)?.encoded;
        Some((encoded, encoded.windows().get(self.window)?))
    }
}

impl Tokenized<'_> {
    fn predicted<A>(&self, prediction: A) -> Predicted<A> {
        let windows = self.encoded.windows();
        let read = windows.first().map_or(0, |window| window.tokens.len());
        let tokens_cut = if self.encoded.is_cut() { self.encoded.len() - read } else { 0 };
        Predicted { prediction, windows: windows.len(), tokens_cut }
    }

    /// The tokens that the window of that number decides, with their positions in it.
    pub fn owned(&self, window: usize) -> impl Iterator<Item = (usize, usize)> {
        let tokens = self.encoded.windows().get(window).map(|window| window.tokens.as_slice()).unwrap_or_default();
        let tokens = tokens.iter().copied().enumerate();
        tokens.filter(move |(_, token)| self.encoded.window_of(*token) == Some(window)).map(|(at, token)| (token, at))
    }
}

/// The outputs of one window of a batch.
pub(super) struct Row<'a> {
    outputs: &'a Named,
    number: usize,
    rows: usize,
    padded: usize,
    tokens: usize,
}

impl<'a> Row<'a> {
    /// How many tokens the window has.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether the engine has an output of that kind.
    pub fn has(&self, kind: PortKind) -> bool {
        self.outputs.iter().any(|(given, _)| kind.is(given))
    }

    /// The numbers of the output of that kind, `[batch, numbers]`.
    pub fn numbers(&self, kind: PortKind) -> Result<&'a [f32]> {
        let (shape, share) = self.share(kind)?;
        match shape {
            [_, _] => finite(share),
            _ => Err(unexpected_shape(kind, shape)),
        }
    }

    /// The numbers of each of the window's tokens in the output of that kind, `[batch, tokens]` or `[batch, tokens,
    /// numbers]`.
    pub fn per_token(&self, kind: PortKind) -> Result<Vec<&'a [f32]>> {
        let (shape, share) = self.share(kind)?;
        let each = match shape {
            [_, tokens] if *tokens == self.padded => 1,
            [_, tokens, each] if *tokens == self.padded && *each > 0 => *each,
            _ => return Err(unexpected_shape(kind, shape)),
        };
        let tokens: Vec<&[f32]> = share.chunks_exact(each).take(self.tokens).collect();
        tokens.iter().try_for_each(|numbers| finite(numbers).map(drop))?;
        Ok(tokens)
    }

    fn share(&self, kind: PortKind) -> Result<(&'a [usize], &'a [f32])> {
        let found = self.outputs.iter().find(|(given, _)| kind.is(given)).ok_or_else(|| {
            let given: Vec<&str> = self.outputs.iter().map(|(given, _)| given.as_str()).collect();
            Error::bad_input(format!(
                "the engine gives no `{}`; it gives {}",
                kind.name(),
                printable(&given.join(", "))
            ))
        });
        let (_, tensor) = found?;
        let Elements::F32(values) = &tensor.elements else { return Err(unexpected_shape(kind, &tensor.shape)) };
        let each = values.len() / self.rows.max(1);
        let share = values.get(self.number * each..(self.number + 1) * each);
        match share {
            Some(share) if tensor.shape.first() == Some(&self.rows) => Ok((&tensor.shape, share)),
            _ => Err(unexpected_shape(kind, &tensor.shape)),
        }
    }
}

fn finite(numbers: &[f32]) -> Result<&[f32]> {
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(numbers),
        false => Err(Error::bad_input("the engine's outputs have NaN or infinity")),
    }
}

fn unexpected_shape(kind: PortKind, shape: &[usize]) -> Error {
    let name = kind.name();
    Error::bad_input(format!("the engine's `{name}` has the shape {shape:?}, which the task does not read"))
}

/// The sum of vectors, each with its weight, divided by all weights.
pub(super) fn mean(vectors: &[(Vec<f32>, usize)]) -> Vec<f32> {
    let width = vectors.iter().map(|(vector, _)| vector.len()).min().unwrap_or(0);
    let weights: usize = vectors.iter().map(|(_, weight)| weight).sum();
    let at =
        |i: usize| vectors.iter().filter_map(move |(vector, weight)| Some(f64::from(*vector.get(i)?) * *weight as f64));
    (0..width).map(|i| (at(i).sum::<f64>() / weights.max(1) as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Tensor;

    fn row(outputs: &Named, number: usize) -> Row<'_> {
        Row { outputs, number, rows: 2, padded: 3, tokens: 2 }
    }

    fn output(name: &str, shape: &[usize], from: f32) -> (String, Tensor) {
        let values = (0..shape.iter().product()).map(|i| from + i as f32).collect();
        (name.to_owned(), Tensor { shape: shape.to_vec(), elements: Elements::F32(values) })
    }

    #[test]
    fn a_window_gets_its_row_without_padding() {
        let outputs = vec![
            output("pooler_output", &[2, 2], 0.0),
            output("logits", &[2, 3, 2], 0.0),
            output("end_logits", &[2, 3], 0.0),
        ];
        let second = row(&outputs, 1);
        assert_eq!(second.numbers(PortKind::Pooled).unwrap(), [2.0, 3.0]);
        assert_eq!(second.per_token(PortKind::Logits).unwrap(), [[6.0, 7.0], [8.0, 9.0]]);
        assert_eq!(second.per_token(PortKind::EndLogits).unwrap(), [[3.0], [4.0]]);
    }

    #[test]
    fn outputs_of_another_kind_are_refused_by_name() {
        let outputs = vec![output("logits", &[2, 4, 2], 0.0), output("end_logits", &[2, 3], f32::NAN)];
        let said = |error: Error| error.message().to_owned();
        let row = row(&outputs, 0);
        let expected = "the engine's `logits` has the shape [2, 4, 2], which the task does not read";
        assert_eq!(said(row.per_token(PortKind::Logits).unwrap_err()), expected);
        assert_eq!(said(row.numbers(PortKind::Logits).unwrap_err()), expected);
        assert_eq!(said(row.per_token(PortKind::EndLogits).unwrap_err()), "the engine's outputs have NaN or infinity");
        assert_eq!(
            said(row.numbers(PortKind::Pooled).unwrap_err()),
            "the engine gives no `pooler_output`; it gives logits, end_logits"
        );
    }

    #[test]
    fn a_mean_counts_by_weight() {
        assert_eq!(mean(&[(vec![1.0, 0.0], 3), (vec![0.0, 4.0], 1)]), [0.75, 1.0]);
    }
}
