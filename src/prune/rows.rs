//! The trained model's values at some nodes, token after token, in files of the scratch folder.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::Request;
use crate::calibrate::collect_outputs;
use crate::error::{Error, Result};
use crate::ir::{Graph, ValueId};
use crate::runtime::{Elements, Tensor};
use crate::verify::Verified;

/// Values by their names, each with its rows in a file.
pub struct Rows {
    files: Vec<(String, PathBuf)>,
}

/// The elements of a tensor of activations. Fails where one is not finite.
pub fn floats(tensor: &Tensor) -> Result<&[f32]> {
    let Elements::F32(values) = &tensor.elements else { return Err(Error::bug("activations are floats")) };
    match values.iter().find(|x| !x.is_finite()) {
        None => Ok(values),
        Some(x) => Err(Error::bad_input(format!("the model computes {x}"))
            .hint("a model that overflows in FP32 cannot be fitted: are the weights whole?")),
    }
}

impl Rows {
    /// Runs a graph over the texts and saves the values of `saved`; `each` gets the values of `observed`.
    pub fn record(
        request: &Request,
        graph: &Verified<Graph>,
        saved: &[ValueId],
        observed: &[ValueId],
        mut each: impl FnMut(&[&[f32]]) -> Result<()>,
    ) -> Result<Rows> {
        let mut ids: Vec<ValueId> = Vec::new();
        let mut place = |id: &ValueId| match ids.iter().position(|other| other == id) {
            Some(at) => at,
            None => {
                ids.push(*id);
                ids.len() - 1
            }
        };
        let saved_at: Vec<usize> = saved.iter().map(&mut place).collect();
        let observed_at: Vec<usize> = observed.iter().map(&mut place).collect();
        let mut files = Vec::new();
        let mut writers = Vec::new();
        for (i, id) in saved.iter().enumerate() {
            let path = request.scratch.join(format!("rows-{i}.f32"));
            writers.push(BufWriter::new(File::create(&path).map_err(|e| Error::io("writing", &path, &e))?));
            files.push((graph.value(*id).name.clone(), path));
        }
        collect_outputs(&request.plan(graph), &ids, |_, observed| {
            let at = |i: &usize| observed.get(*i).ok_or_else(|| Error::bug("a value was not observed"));
            for ((i, writer), (_, path)) in saved_at.iter().zip(&mut writers).zip(&files) {
                let bytes = bytemuck::cast_slice(floats(at(i)?)?);
                writer.write_all(bytes).map_err(|e| Error::io("writing", path, &e))?;
            }
            let observed = observed_at.iter().map(|i| floats(at(i)?)).collect::<Result<Vec<_>>>()?;
            each(&observed)
        })?;
        for (writer, (_, path)) in writers.iter_mut().zip(&files) {
            writer.flush().map_err(|e| Error::io("writing", path, &e))?;
        }
        Ok(Rows { files })
    }

    /// The rows of a value, in the order of the texts.
    pub fn of(&self, name: &str) -> Result<Reader> {
        let file = self.files.iter().find(|(other, _)| other == name);
        let (_, path) = file.ok_or_else(|| Error::bug(format!("`{name}` was not saved")))?;
        Ok(Reader { bytes: std::fs::read(path).map_err(|e| Error::io("reading", path, &e))?, at: 0 })
    }

    /// Removes the files.
    pub fn forget(self) -> Result<()> {
        let remove = |path: &PathBuf| std::fs::remove_file(path).map_err(|e| Error::io("removing", path, &e));
        self.files.iter().try_for_each(|(_, path)| remove(path))
    }
}

/// Reads rows, text after text.
pub struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

impl Reader {
    /// The next so many elements.
    pub fn next(&mut self, elements: usize) -> Result<Vec<f32>> {
        let end = self.at + elements * 4;
        let these = self.bytes.get(self.at..end).ok_or_else(|| Error::bug("texts are the same twice"))?;
        self.at = end;
        Ok(these.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
