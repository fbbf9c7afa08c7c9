//! Outputs of the trained model, to compare engines with.
//!
//! A golden file is a safetensors file with tensors `in.NAME` and `out.NAME`, where `NAME` is an input or output of the
//! engine.

use std::path::Path;

use super::compare::per_text;
use super::parity::{Parity, Tally};
use crate::error::{Error, Result, printable};
use crate::ir::{DType, Weight};
use crate::runtime::session::prefill;
use crate::runtime::{Elements, Engine, Named, ProblemType, Tensor};
use crate::safetensors;

/// Inputs, and the outputs that belong to them.
#[derive(Clone, Debug)]
pub struct Golden {
    inputs: Named,
    outputs: Named,
}

impl Golden {
    /// Reads a golden file.
    pub fn read(path: &Path) -> Result<Golden> {
        let mut golden = Golden { inputs: Vec::new(), outputs: Vec::new() };
        for (name, weight) in safetensors::read(path)? {
            let tensor = tensor(&name, &weight).map_err(|e| e.at(path.display().to_string()))?;
            match name.split_once('.') {
                Some(("in", input)) => golden.inputs.push((input.to_owned(), tensor)),
                Some(("out", output)) => golden.outputs.push((output.to_owned(), tensor)),
                _ => {
                    return Err(Error::bad_input(format!(
                        "tensor `{}` is neither `in.…` nor `out.…`",
                        printable(&name)
                    ))
                    .at(path.display().to_string()));
                }
            }
        }
        match golden.inputs.is_empty() || golden.outputs.is_empty() {
            true => Err(Error::bad_input("a golden file needs inputs and outputs").at(path.display().to_string())),
            false => Ok(golden),
        }
    }

    /// The inputs of the model.
    pub fn inputs(&self) -> &Named {
        &self.inputs
    }

    /// What the trained model gave.
    pub fn outputs(&self) -> &Named {
        &self.outputs
    }

    /// Runs an engine on the inputs, from an empty state, and compares all outputs that the file has.
    pub fn compare(&self, engine: &mut dyn Engine) -> Result<Parity> {
        self.compare_outputs(engine, ProblemType::SingleLabel)
    }

    /// The same for a classifier whose logits are read so.
    pub fn compare_outputs(&self, engine: &mut dyn Engine, problem_type: ProblemType) -> Result<Parity> {
        let found = engine.run(&prefill(engine.inputs(), &self.inputs)?)?;
        let mut tally = Tally::new(Some(problem_type));
        for (name, expected) in &self.outputs {
            let output = found.iter().find(|(given, _)| given == name).map(|(_, tensor)| tensor);
            let output =
                output.ok_or_else(|| Error::bad_input(format!("the engine gives no `{}`", printable(name))))?;
            if output.shape != expected.shape {
                return Err(Error::bad_input(format!(
                    "`{}` has shape {:?}, the golden file's {:?}",
                    printable(name),
                    output.shape,
                    expected.shape
                )));
            }
            // Values for padding are no prediction, and families with local attention do not even define them.
            let texts = |tensor: &Tensor| per_text(&self.inputs, &vec![(name.clone(), tensor.clone())]);
            for (expected, found) in texts(expected)?.iter().flatten().zip(texts(output)?.iter().flatten()) {
                expected.rows().zip(found.rows()).try_for_each(|(a, b)| tally.add(a, b))?;
            }
        }
        tally.parity()
    }
}

fn tensor(name: &str, weight: &Weight) -> Result<Tensor> {
    let shape = weight.shape().to_vec();
    let elements = match weight.dtype() {
        DType::I64 => {
            let bytes = weight.evaluate()?;
            Elements::I64(bytes.as_bytes().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
        }
        dtype if dtype.is_float() => Elements::F32(weight.to_f32s()?.into_owned()),
        other => {
            return Err(Error::bad_input(format!(
                "tensor `{}` holds {other}, expected i64 or floats",
                printable(name)
            )));
        }
    };
    Ok(Tensor { shape, elements })
}
