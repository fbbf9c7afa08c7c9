//! The tensors of quantized modules, and what a method makes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::state::{StateDict, Tensor};
use super::settings::Settings;
use crate::error::{Error, Result, printable};
use crate::ir::Weight;
use crate::ir::weight::Packing;

/// How the weights of a checkpoint were quantized.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The method, e.g. `gptq`.
    pub method: String,
    /// How many weights of each packing, by its name.
    pub packings: BTreeMap<String, usize>,
    /// Bytes of those weights in the files.
    pub bytes: usize,
    /// What the numbers of an engine differ in from those of the method's own kernels, and unknown fields.
    pub warnings: Vec<String>,
}

impl Quantized {
    /// What was read, on one line: `gptq: 14 of gptq_4_128, 0.1 MB`.
    pub fn summary(&self) -> String {
        let packings: Vec<String> = self.packings.iter().map(|(name, count)| format!("{count} of {name}")).collect();
        format!("{}: {}, {:.1} MB", self.method, packings.join(", "), self.bytes as f64 / 1e6)
    }
}

/// A method.
pub(super) struct Method {
    /// Its `quant_method`.
    pub(super) name: &'static str,
    /// Its fields that are read, and those that change no weight.
    pub(super) fields: &'static [&'static str],
    /// Replaces the tensors of quantized modules.
    pub(super) read: fn(&Settings, &mut Modules) -> Result<()>,
}

/// The tensors of a checkpoint, and what has been read of them so far.
pub(super) struct Modules {
    method: &'static str,
    state: StateDict,
    packings: BTreeMap<String, usize>,
    bytes: usize,
    /// Warnings about the numbers.
    pub(super) warnings: Vec<String>,
}

impl Modules {
    pub(super) fn new(method: &'static str, state: StateDict) -> Modules {
        Modules { method, state, packings: BTreeMap::new(), bytes: 0, warnings: Vec::new() }
    }

    /// The tensors with the weights in place of their parts, and what they were.
    pub(super) fn finish(self) -> (StateDict, Quantized) {
        let Modules { method, state, packings, bytes, warnings } = self;
        (state, Quantized { method: method.to_owned(), packings, bytes, warnings })
    }

    /// The names before one of those ends, each once and in order.
    pub(super) fn stems(&self, ends: &[&str]) -> Vec<String> {
        let stem = |name: &str| ends.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
        let stems: BTreeSet<String> = self.state.iter().filter_map(|(name, _)| stem(name)).collect();
        stems.into_iter().collect()
    }

    /// Takes out a tensor that a module has.
    pub(super) fn part(&mut self, stem: &str, end: &str) -> Result<Tensor> {
        if let Some(tensor) = self.optional(stem, end) {
            return Ok(tensor);
        }
        let files: BTreeSet<&str> = self.state.iter().map(|(_, tensor)| &*tensor.file).collect();
        Err(Error::bad_input(format!("tensor `{}{end}` is missing", printable(stem)))
            .at(files.into_iter().collect::<Vec<_>>().join(", "))
            .hint(format!("the other tensors of this weight are those of {}", self.method)))
    }

    /// Takes out a tensor that a module may have.
    pub(super) fn optional(&mut self, stem: &str, end: &str) -> Option<Tensor> {
        let name = format!("{stem}{end}");
        // What was packed is no part of another weight.
        self.state.get(&name).filter(|tensor| !tensor.weight.is_quantized())?;
        self.state.remove(&name)
    }

    /// Takes out all tensors with such an end, and returns how many there were.
    pub(super) fn drop(&mut self, ends: &[&str]) -> usize {
        let has_end = |name: &str| ends.iter().any(|end| name.ends_with(end));
        let names: Vec<String> =
            self.state.iter().map(|(name, _)| name.to_owned()).filter(|name| has_end(name)).collect();
        names.iter().filter(|name| self.state.remove(name).is_some()).count()
    }

    /// Adds the weight of a module. Fails where its parts do not fit, or the file has a tensor of that name as well.
    pub(super) fn put(&mut self, name: String, packing: Packing, parts: Vec<Weight>, file: &Arc<str>) -> Result<()> {
        let weight = Weight::packed(packing, parts).map_err(|e| {
            let hint = format!(
                "`{}` is packed in another way than its configuration says, or the file is damaged",
                printable(&name)
            );
            e.at(file.to_string()).hint(hint)
        })?;
        self.bytes += weight.stored_len();
        *self.packings.entry(packing.to_string()).or_default() += 1;
        let tensor = Tensor { weight, file: file.clone() };
        match self.state.insert(name.clone(), tensor) {
            None => Ok(()),
            Some(_) => Err(Error::bad_input(format!(
                "tensor `{}` is there, and tensors of the same weight in packed form",
                printable(&name)
            ))
            .at(file.to_string())),
        }
    }

    /// Fails where tensors with such ends are left: they belong to no weight that was read.
    pub(super) fn expect_none(&self, ends: &[&str]) -> Result<()> {
        let left = self.state.iter().find(|(name, _)| ends.iter().any(|end| name.ends_with(end)));
        match left {
            None => Ok(()),
            Some((name, tensor)) => Err(Error::bad_input(format!(
                "tensor `{}` belongs to no weight that {} has packed",
                printable(name),
                self.method
            ))
            .at(tensor.file.to_string())),
        }
    }

    /// Fails where 8-bit floats are left without their scales.
    pub(super) fn expect_scaled(&self) -> Result<()> {
        let is_bare = |tensor: &Tensor| tensor.weight.packing().is_some() && !tensor.weight.is_quantized();
        match self.state.iter().find(|(_, tensor)| is_bare(tensor)) {
            None => Ok(()),
            Some((name, tensor)) => Err(Error::bad_input(format!(
                "tensor `{}` holds 8-bit floats, and {} has no scales for them",
                printable(name),
                self.method
            ))
            .at(tensor.file.to_string())),
        }
    }
}
