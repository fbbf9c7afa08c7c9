//! Optimization profiles: the range of shapes that an engine must take.
//!
//! TensorRT checks them itself, but late and without naming what it compared; so they are
//! compared with the network's inputs first.

use trtx::trtx_sys::Dims64;
use trtx::{Builder, BuilderConfig, NetworkDefinition, OptProfileSelector};

use super::refused;
use crate::error::{Error, Result};
use crate::ports::PortKind;
use crate::shapes::{PAST, ShapeRange};

/// The shapes that one input takes, dimension by dimension in its own order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputProfile {
    /// The input's name in the ONNX file.
    pub input: String,
    /// The smallest shape.
    pub min: Vec<i64>,
    /// The shape to be fastest at.
    pub opt: Vec<i64>,
    /// The largest shape.
    pub max: Vec<i64>,
}

impl From<&ShapeRange> for InputProfile {
    fn from(range: &ShapeRange) -> InputProfile {
        let ShapeRange { input, min, opt, max } = range.clone();
        InputProfile { input: input.unwrap_or_else(|| EVERY_OTHER.to_owned()), min, opt, max }
    }
}

/// The name by which a range is that of every input that has none.
const EVERY_OTHER: &str = "*";

/// An input of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    name: String,
    /// -1 where the dimension is dynamic.
    shape: Vec<i64>,
}

impl Input {
    fn is_dynamic(&self) -> bool {
        self.shape.contains(&-1)
    }

    fn kind(&self) -> Option<PortKind> {
        PortKind::of(&self.name)
    }

    /// Whether a dimension may be 0: a cache may be empty.
    fn may_be_empty(&self, axis: usize) -> bool {
        self.cache_axis() == Some(axis)
    }

    /// The axis along which it grows, where it is keys or values of past tokens.
    fn cache_axis(&self) -> Option<usize> {
        self.kind().filter(|kind| kind.is_past()).and_then(PortKind::grows)
    }

    /// Its shape for so many texts; -1 for what they do not say.
    fn shape_of_rows(&self, batch: i64) -> Vec<i64> {
        self.shape.iter().enumerate().map(|(axis, size)| if axis == 0 { batch } else { *size }).collect()
    }

    /// Its shape where that of the tokens is `[batch, length]`, and a cache holds so many.
    fn shape_for(&self, tokens: &[i64], past: Option<i64>) -> Vec<i64> {
        match (self.kind(), past, tokens) {
            (Some(PortKind::AttentionMask), Some(past), [batch, length]) => vec![*batch, length + past],
            (Some(kind), past, [batch, _]) if kind.is_past() => {
                let mut shape = self.shape_of_rows(*batch);
                if let (Some(past), Some(size)) = (past, kind.grows().and_then(|axis| shape.get_mut(axis))) {
                    *size = past;
                }
                shape
            }
            _ => tokens.to_vec(),
        }
    }
}

/// The inputs of the network, in its order.
pub(super) fn inputs(network: &NetworkDefinition) -> Result<Vec<Input>> {
    let read = |index| {
        let tensor = network.input(index)?;
        let name = tensor.name(network)?;
        let shape = tensor.dimensions(network)?;
        Ok((Input { name, shape }, tensor.is_shape_tensor(network)))
    };
    (0..network.nb_inputs())
        .map(|index| {
            let (input, is_shape) =
                read(index).map_err(|error: trtx::Error| Error::unsupported(format!("input {index}: {error}")))?;
            match is_shape {
                true => Err(Error::unsupported(format!(
                    "input `{}` is used as a shape; profiles range over shapes, not values",
                    input.name
                ))),
                false => Ok(input),
            }
        })
        .collect()
}

/// Checks `profiles` against `inputs` and adds them to `config` in order.
pub(super) fn add(
    profiles: &[Vec<InputProfile>],
    inputs: &[Input],
    builder: &mut Builder,
    config: &mut BuilderConfig,
) -> Result<()> {
    let profiles: Vec<Vec<InputProfile>> =
        profiles.iter().map(|profile| spread(profile, inputs)).collect::<Result<_>>()?;
    check(&profiles, inputs)?;
    for profile in &profiles {
        let mut native = builder.creata_optimization_profile().map_err(refused)?;
        for range in profile {
            for (select, shape) in [
                (OptProfileSelector::kMIN, &range.min),
                (OptProfileSelector::kOPT, &range.opt),
                (OptProfileSelector::kMAX, &range.max),
            ] {
                native.set_dimensions(&range.input, select, &Dims64::from_slice(shape)).map_err(|_| {
                    Error::bad_input(format!("TensorRT refuses {shape:?} as a shape of input `{}`", range.input))
                })?;
            }
        }
        config
            .add_optimization_profile(&mut native)
            .map_err(|error| Error::bad_input(format!("TensorRT refuses a profile: {error}")))?;
    }
    Ok(())
}

/// The profile with a separate range for every input that has the common range of all others is for, and for caches.
fn spread(profile: &[InputProfile], inputs: &[Input]) -> Result<Vec<InputProfile>> {
    let (others, named): (Vec<_>, Vec<_>) = profile.iter().cloned().partition(|range| range.input == EVERY_OTHER);
    let (past, mut named): (Vec<_>, Vec<_>) = named.into_iter().partition(|range| range.input == PAST);
    let is_named = |input: &Input| named.iter().any(|range| range.input == input.name);
    let cache = inputs.iter().find(|input| input.cache_axis().is_some() && !is_named(input));
    let past = match (past.first(), cache) {
        (Some(range), Some(_)) => Some([&range.min, &range.opt, &range.max].map(|sizes| sizes.first().copied())),
        (None, None) => None,
        (Some(_), None) => {
            return Err(Error::bad_input(format!("a profile says `{PAST}`, and the model has no cache")));
        }
        (None, Some(input)) => {
            return Err(Error::bad_input(format!(
                "input `{}` is a cache, and a profile says not how many tokens it holds",
                input.name
            ))
            .hint(format!(
                "add it, as in 1x1..4x1..8x1,{PAST}=1..512..1024, or {PAST}=0 for a profile that begins texts"
            )));
        }
    };
    let [min, opt, max] = past.unwrap_or_default();
    if let Some(other) = others.first() {
        let unnamed: Vec<_> = inputs
            .iter()
            .filter(|input| !is_named(input))
            .map(|input| InputProfile {
                input: input.name.clone(),
                min: input.shape_for(&other.min, min),
                opt: input.shape_for(&other.opt, opt),
                max: input.shape_for(&other.max, max),
            })
            .collect();
        named.extend(unnamed);
    }
    Ok(named)
}

/// Every profile has a range for every dynamic input, and every range fits its input.
fn check(profiles: &[Vec<InputProfile>], inputs: &[Input]) -> Result<()> {
    if let (Some(input), true) = (inputs.iter().find(|input| input.is_dynamic()), profiles.is_empty()) {
        return Err(no_range(input));
    }
    for profile in profiles {
        for range in profile {
            let input = inputs.iter().find(|input| input.name == range.input);
            let input = input.ok_or_else(|| {
                let names: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
                Error::bad_input(format!(
                    "a profile names the input `{}`, the model has {}",
                    range.input,
                    names.join(", ")
                ))
            })?;
            fits(range, input)?;
        }
        let ranged = |input: &&Input| !profile.iter().any(|range| range.input == input.name);
        if let Some(input) = inputs.iter().filter(|input| input.is_dynamic()).find(ranged) {
            return Err(no_range(input));
        }
    }
    Ok(())
}

fn no_range(input: &Input) -> Error {
    Error::bad_input(format!(
        "input `{}` has the dynamic shape {:?}, and a profile gives no range for it",
        input.name, input.shape
    ))
}

/// Ranks agree, fixed dimensions stay, and 0 < min ≤ opt ≤ max elsewhere.
fn fits(range: &InputProfile, input: &Input) -> Result<()> {
    let rank = input.shape.len();
    let ranks = [&range.min, &range.opt, &range.max].map(Vec::len);
    if ranks.iter().any(|&other| other != rank) {
        return Err(Error::bad_input(format!(
            "the profile of input `{}` has shapes of {ranks:?} dimensions, expected {rank}",
            input.name
        )));
    }
    let bounds = range.min.iter().zip(&range.opt).zip(&range.max);
    for (axis, (&size, ((&min, &opt), &max))) in input.shape.iter().zip(bounds).enumerate() {
        let ordered = (0 < min || min == 0 && input.may_be_empty(axis)) && min <= opt && opt <= max;
        let fixed = size == -1 || (min == size && max == size);
        if !(ordered && fixed) {
            let expected = match size {
                -1 => "0 < min ≤ opt ≤ max".to_owned(),
                size => format!("the model's own {size}"),
            };
            return Err(Error::bad_input(format!(
                "dimension {axis} of input `{}` ranges over {min}, {opt}, {max}, expected {expected}",
                input.name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(profiles: &[Vec<InputProfile>]) -> String {
        let inputs = [
            Input { name: "input_ids".to_owned(), shape: vec![-1, -1] },
            Input { name: "pixels".to_owned(), shape: vec![1, 3] },
        ];
        match check(profiles, &inputs) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    fn range(input: &str, min: &[i64], opt: &[i64], max: &[i64]) -> InputProfile {
        InputProfile { input: input.to_owned(), min: min.to_vec(), opt: opt.to_vec(), max: max.to_vec() }
    }

    #[test]
    fn a_fixed_input_needs_no_range() {
        assert_eq!(refusal(&[vec![range("input_ids", &[1, 8], &[8, 128], &[8, 512])]]), "");
    }

    #[test]
    fn a_cache_is_ranged_over_by_its_tokens() {
        let input = |name: &str, shape: &[i64]| Input { name: name.to_owned(), shape: shape.to_vec() };
        let inputs = [
            input("input_ids", &[-1, -1]),
            input("attention_mask", &[-1, -1]),
            input("past_key_values.0.key", &[-1, 4, -1, 16]),
        ];
        let profile = |text: &str| -> Vec<InputProfile> {
            text.parse::<crate::shapes::Shapes>().unwrap().ranges().iter().map(InputProfile::from).collect()
        };
        let spread = |text: &str| spread(&profile(text), &inputs).map_err(|e| e.message().to_owned());
        let found = spread("1x1..2x1..8x1,past=0..32..64").unwrap();
        assert_eq!(found[1], range("attention_mask", &[1, 1], &[2, 33], &[8, 65]));
        assert_eq!(found[2], range("past_key_values.0.key", &[1, 4, 0, 16], &[2, 4, 32, 16], &[8, 4, 64, 16]));
        check(&[found], &inputs).unwrap();
        let said = "input `past_key_values.0.key` is a cache, and a profile says not how many tokens it holds";
        assert_eq!(spread("1x1..2x1..8x1").unwrap_err(), said);
        let none = super::spread(&profile("1x8,past=4"), &inputs[..1]).unwrap_err();
        assert_eq!(none.message(), "a profile says `past`, and the model has no cache");
    }

    #[test]
    fn each_misfit_is_named() {
        let fitting = range("input_ids", &[1, 8], &[8, 128], &[8, 512]);
        for (profiles, expected) in [
            (vec![], "input `input_ids` has the dynamic shape [-1, -1], and a profile gives no range for it"),
            (
                vec![vec![range("pixels", &[1, 3], &[1, 3], &[1, 3])]],
                "input `input_ids` has the dynamic shape [-1, -1], and a profile gives no range for it",
            ),
            (
                vec![vec![range("ids", &[1], &[1], &[1])]],
                "a profile names the input `ids`, the model has input_ids, pixels",
            ),
            (
                vec![vec![range("input_ids", &[1], &[8, 128], &[8, 512])]],
                "the profile of input `input_ids` has shapes of [1, 2, 2] dimensions, expected 2",
            ),
            (
                vec![vec![range("input_ids", &[1, 8], &[8, 4], &[8, 512])]],
                "dimension 1 of input `input_ids` ranges over 8, 4, 512, expected 0 < min ≤ opt ≤ max",
            ),
            (
                vec![vec![fitting, range("pixels", &[1, 3], &[1, 3], &[1, 4])]],
                "dimension 1 of input `pixels` ranges over 3, 3, 4, expected the model's own 3",
            ),
        ] {
            assert_eq!(refusal(&profiles), expected);
        }
    }
}
