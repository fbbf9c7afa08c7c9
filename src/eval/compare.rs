//! Compares every output of two engines, text by text, and holds none of them.

use serde::{Deserialize, Serialize};

use super::parity::Tally;
use super::{Check, Gate, Parity};
use crate::error::{Error, Result, printable};
use crate::ports::PortKind;
use crate::runtime::{self, Elements, Named, ProblemType, Tensor};

/// The numbers of one output that belong to one text: `rows` of `width`. Values for padding are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextOutput {
    /// The output's name.
    pub name: String,
    /// How long a row is.
    pub width: usize,
    /// All rows, one after another.
    pub values: Vec<f32>,
}

impl TextOutput {
    /// The rows, each of `width` numbers.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.width.max(1))
    }

    /// How many numbers are NaN or infinite.
    pub fn non_finite(&self) -> usize {
        self.values.iter().filter(|x| !x.is_finite()).count()
    }
}

/// The outputs of a run for each of its texts `[batch, …]`, of which `attention_mask [batch, tokens]` says which
/// tokens are real. An output `[batch, tokens, n]` has a row for each token; `[batch, n]` is one row of its text, and has a
/// number for each token where it says where an answer starts or ends. A cache `[batch, heads, tokens, n]` has a row for each
/// head and token. A state that a run replaces is one for its text, and nothing where padding comes last.
///
/// Fails where an output holds no floats, or is not of the batch.
pub fn per_text(inputs: &Named, outputs: &Named) -> Result<Vec<Vec<TextOutput>>> {
    let mask = runtime::port(inputs, PortKind::AttentionMask);
    let batch = inputs.iter().find_map(|(_, tensor)| tensor.shape.first()).copied().unwrap_or(1);
    (0..batch).map(|text| outputs.iter().map(|(name, tensor)| of_text(name, tensor, mask, text)).collect()).collect()
}

/// One output of one text of a batch.
fn of_text(name: &str, tensor: &Tensor, mask: Option<&Tensor>, text: usize) -> Result<TextOutput> {
    let shape = &tensor.shape;
    let unreadable = || Error::bad_input(format!("the output `{}` has the shape {shape:?}", printable(name)));
    let Elements::F32(values) = &tensor.elements else {
        return Err(Error::bad_input(format!("the output `{}` holds no floats", printable(name))));
    };
    let each: usize = shape.get(1..).unwrap_or_default().iter().product();
    let values = values.get(text * each..(text + 1) * each).ok_or_else(unreadable)?;
    let width = shape.get(1..).and_then(<[usize]>::last).copied().unwrap_or(1).max(1);
    let real = |tokens: &Tensor| -> Option<Vec<bool>> {
        let Elements::I64(mask) = &tokens.elements else { return None };
        let length = tokens.shape.get(1).copied()?;
        Some(mask.get(text * length..(text + 1) * length)?.iter().map(|m| *m != 0).collect())
    };
    if is_replaced(name) {
        // After padding it is that of the padding, which nobody reads.
        let padded = mask.and_then(real).is_some_and(|real| real.last() == Some(&false));
        return Ok(TextOutput::new(name, Some(width), values.iter().copied().filter(|_| !padded)));
    }
    if let ([_, _, tokens, size], Some(real)) = (shape.as_slice(), mask.and_then(real))
        && PortKind::of(name).is_some_and(|kind| kind.next().is_some())
        && real.len() == *tokens
    {
        let rows = values.chunks((*size).max(1)).zip(real.iter().cycle());
        let kept = rows.filter(|(_, real)| **real).flat_map(|(row, _)| row).copied();
        return Ok(TextOutput::new(name, Some(*size), kept));
    }
    let per_token = mask.filter(|mask| match shape.as_slice() {
        // An output per text can be as long as the text has tokens, by chance.
        [_, _] => shape == &mask.shape && is_place(name),
        _ => shape.starts_with(&mask.shape),
    });
    let values = match per_token.and_then(real) {
        None => values.to_vec(),
        Some(real) if shape.len() == 2 => {
            return Ok(TextOutput::new(
                name,
                None,
                real.iter().zip(values).filter(|(real, _)| **real).map(|(_, v)| *v),
            ));
        }
        Some(real) => {
            let rows = real.iter().zip(values.chunks(each.max(1) / real.len().max(1)));
            rows.filter(|(real, _)| **real).flat_map(|(_, row)| row).copied().collect()
        }
    };
    Ok(TextOutput::new(name, Some(width), values))
}

impl TextOutput {
    fn new(name: &str, width: Option<usize>, values: impl IntoIterator<Item = f32>) -> TextOutput {
        let values: Vec<f32> = values.into_iter().collect();
        TextOutput { name: name.to_owned(), width: width.unwrap_or(values.len()), values }
    }
}

/// Whether an output is a state of a fixed size, which each run replaces.
fn is_replaced(name: &str) -> bool {
    PortKind::of(name).is_some_and(|kind| kind.next().is_some() && kind.grows().is_none())
}

/// Whether an output has a number for each token: where an answer starts or ends.
fn is_place(name: &str) -> bool {
    matches!(PortKind::of(name), Some(PortKind::StartLogits | PortKind::EndLogits))
}

/// The name by which an output is reported: the caches of all layers are one.
pub fn reported(name: &str) -> &str {
    match PortKind::of(name).and_then(PortKind::next) {
        Some(_) => "present.*",
        None => name,
    }
}

/// How far one output of an engine is from the reference's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputParity {
    /// The output's name.
    pub output: String,
    /// The differences found.
    pub parity: Parity,
    /// Root mean square of the differences of its elements.
    pub rms: f64,
    /// That of the reference's elements.
    pub reference_rms: f64,
}

impl Parity {
    /// The differences of all outputs as one: of each measure the worst of any output. The rows are those of the first.
    pub fn worst(outputs: &[OutputParity]) -> Parity {
        let all = || outputs.iter().map(|of| &of.parity);
        Parity {
            rows: all().next().map_or(0, |parity| parity.rows),
            agreement: all().filter_map(|parity| parity.agreement).reduce(f64::min),
            max_abs: all().map(|parity| parity.max_abs).fold(0.0, f64::max),
            min_cosine: all().map(|parity| parity.min_cosine).fold(1.0, f64::min),
            non_finite: all().map(|parity| parity.non_finite).sum(),
        }
    }
}

/// Outputs of a candidate beside those of a reference, on one text after another.
pub struct Comparison {
    problem_type: ProblemType,
    outputs: Vec<(String, Tally)>,
}

impl Comparison {
    /// With no texts yet. `problem_type` decides which rows of logits agree.
    pub fn new(problem_type: ProblemType) -> Comparison {
        Comparison { problem_type, outputs: Vec::new() }
    }

    /// Compares all outputs that one text has. Fails where the candidate lacks one of the reference's, or has rows of
    /// another length.
    pub fn add(&mut self, reference: &[TextOutput], candidate: &[TextOutput]) -> Result<()> {
        let answer = answer(reference).map(|output| output.name.as_str());
        for expected in reference {
            let found = candidate
                .iter()
                .find(|found| found.name == expected.name)
                .ok_or_else(|| Error::bad_input(format!("the engine gives no `{}`", printable(&expected.name))))?;
            if is_replaced(&expected.name) && found.values.is_empty() {
                continue;
            }
            if (found.width, found.values.len()) != (expected.width, expected.values.len()) {
                return Err(Error::bad_input(format!(
                    "`{}` has {} numbers of a text, the reference {}",
                    printable(&expected.name),
                    found.values.len(),
                    expected.values.len()
                )));
            }
            let reported = reported(&expected.name);
            let tally = match self.outputs.iter_mut().position(|(name, _)| name == reported) {
                Some(at) => self.outputs.get_mut(at),
                None => {
                    let says = says(&expected.name) || answer == Some(&expected.name);
                    self.outputs.push((reported.to_owned(), Tally::new(says.then_some(self.problem_type))));
                    self.outputs.last_mut()
                }
            };
            if let Some((_, tally)) = tally {
                expected.rows().zip(found.rows()).try_for_each(|(a, b)| tally.add(a, b))?;
            }
        }
        Ok(())
    }

    /// The differences of each output, in the reference's order. Fails where nothing was compared.
    pub fn finish(self) -> Result<Vec<OutputParity>> {
        if self.outputs.is_empty() {
            return Err(Error::bad_input("there is nothing to compare"));
        }
        let of = |(output, tally): (String, Tally)| {
            let [rms, reference_rms] = tally.root_mean_squares();
            Ok(OutputParity { output, parity: tally.parity()?, rms, reference_rms })
        };
        self.outputs.into_iter().map(of).collect()
    }
}

/// The output that a task reads first: a text's vector where there is one, else the first.
pub fn answer(outputs: &[TextOutput]) -> Option<&TextOutput> {
    outputs.iter().find(|output| PortKind::Embedding.is(&output.name)).or(outputs.first())
}

/// Whether the largest value of an output's row is a prediction.
fn says(output: &str) -> bool {
    PortKind::of(output).is_some_and(PortKind::is_logits)
}

impl Gate {
    /// Checks every output against the bounds; the loss of accuracy belongs to all of them.
    pub fn check_all(&self, outputs: &[OutputParity], accuracy_drop: Option<f64>) -> Vec<Check> {
        let alone = outputs.len() == 1;
        let mut checks = Vec::new();
        for (i, OutputParity { output, parity, .. }) in outputs.iter().enumerate() {
            let drop = accuracy_drop.filter(|_| i == 0);
            // Where texts have labels, only the bound on accuracy itself measures accuracy.
            let gate = if accuracy_drop.is_some() && i > 0 { Gate { accuracy_drop: None, ..*self } } else { *self };
            let found = gate.check(parity, drop).into_iter();
            checks.extend(found.map(|check| Check { output: (!alone).then(|| output.clone()), ..check }));
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(shape: [usize; 2], mask: &[i64]) -> Named {
        let tensor = Tensor { shape: shape.to_vec(), elements: Elements::I64(mask.to_vec()) };
        vec![("input_ids".to_owned(), tensor.clone()), ("attention_mask".to_owned(), tensor)]
    }

    fn output(name: &str, shape: &[usize]) -> (String, Tensor) {
        let values = (0..shape.iter().product()).map(|i| i as f32).collect();
        (name.to_owned(), Tensor { shape: shape.to_vec(), elements: Elements::F32(values) })
    }

    #[test]
    fn a_replaced_state_is_of_the_last_tokens_alone() {
        let outputs = vec![output("present_conv.0", &[2, 3, 1])];
        let texts = per_text(&ids([2, 3], &[1, 1, 0, 0, 0, 1]), &outputs).unwrap();
        assert_eq!(texts[0], vec![TextOutput::new("present_conv.0", Some(1), [])]);
        assert_eq!(texts[1], vec![TextOutput::new("present_conv.0", Some(1), [3.0, 4.0, 5.0])]);
        let mut comparison = Comparison::new(ProblemType::SingleLabel);
        comparison.add(&texts[1], &texts[0]).unwrap();
        comparison.add(&texts[1], &texts[1]).unwrap();
        let other = vec![TextOutput::new("present_conv.0", Some(1), [3.0])];
        assert!(comparison.add(&texts[1], &other).is_err());
    }

    #[test]
    fn padding_on_either_side_is_left_out() {
        let inputs = ids([2, 3], &[1, 1, 0, 0, 0, 1]);
        let outputs = vec![output("start_logits", &[2, 3]), output("logits", &[2, 3, 2]), output("pooled", &[2, 4])];
        let texts = per_text(&inputs, &outputs).unwrap();
        let values = |text: usize| texts[text].iter().map(|output| (output.width, output.values.clone()));
        let first = [(2, vec![0.0, 1.0]), (2, vec![0.0, 1.0, 2.0, 3.0]), (4, vec![0.0, 1.0, 2.0, 3.0])];
        let second = [(1, vec![5.0]), (2, vec![10.0, 11.0]), (4, vec![4.0, 5.0, 6.0, 7.0])];
        assert_eq!(values(0).collect::<Vec<_>>(), first);
        assert_eq!(values(1).collect::<Vec<_>>(), second);
    }

    #[test]
    fn a_cache_has_rows_for_its_heads_and_tokens() {
        let outputs = vec![output("present.0.key", &[1, 2, 3, 2])];
        let texts = per_text(&ids([1, 3], &[0, 1, 1]), &outputs).unwrap();
        assert_eq!(
            (texts[0][0].width, texts[0][0].values.as_slice()),
            (2, [2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0].as_slice())
        );
    }

    #[test]
    fn caches_are_reported_as_one() {
        let run = |value: f32| -> Vec<TextOutput> {
            let cache = |name| TextOutput::new(name, Some(2), [1.0, value]);
            vec![TextOutput::new("logits", None, [1.0]), cache("present.0.key"), cache("present.0.value")]
        };
        let mut comparison = Comparison::new(ProblemType::SingleLabel);
        comparison.add(&run(2.0), &run(2.5)).unwrap();
        let found = comparison.finish().unwrap();
        let rows: Vec<_> = found.iter().map(|of| (of.output.as_str(), of.parity.rows, of.parity.max_abs)).collect();
        assert_eq!(rows, [("logits", 1, 0.0), ("present.*", 2, 0.5)]);
    }

    #[test]
    fn numbers_of_a_text_as_many_as_its_tokens_are_all_there() {
        let outputs = vec![output("logits", &[1, 3]), output("sentence_embedding", &[1, 3])];
        let texts = per_text(&ids([1, 3], &[1, 1, 0]), &outputs).unwrap();
        assert!(texts[0].iter().all(|output| output.values == [0.0, 1.0, 2.0]));
    }

    #[test]
    fn every_output_is_compared_and_a_missing_one_is_named() {
        let text = |end: f32| -> Vec<TextOutput> {
            let start = TextOutput::new("start_logits", None, [1.0, 2.0]);
            vec![start, TextOutput::new("end_logits", None, [3.0, end])]
        };
        let mut comparison = Comparison::new(ProblemType::SingleLabel);
        comparison.add(&text(1.0), &text(4.0)).unwrap();
        let error = comparison.add(&text(1.0), &text(1.0)[..1]).unwrap_err();
        assert_eq!(error.message(), "the engine gives no `end_logits`");
        let found = comparison.finish().unwrap();
        let gate: Gate = "agreement=1,max_abs=1".parse().unwrap();
        let missed = gate.check_all(&found, None).into_iter().filter(|check| !check.passed);
        let missed: Vec<String> = missed.map(|check| check.to_string()).collect();
        assert_eq!(missed, ["end_logits agreement 0 (≥ 1)", "end_logits max_abs 3 (≤ 1)"]);
    }

    #[test]
    fn hidden_states_have_no_prediction_by_their_largest_number() {
        let text = [TextOutput::new("logits", None, [1.0, 2.0]), TextOutput::new("last_hidden_state", None, [1.0])];
        let mut comparison = Comparison::new(ProblemType::SingleLabel);
        comparison.add(&text, &text).unwrap();
        let agreements: Vec<_> = comparison.finish().unwrap().into_iter().map(|of| of.parity.agreement).collect();
        assert_eq!(agreements, [Some(1.0), None]);
    }
}
