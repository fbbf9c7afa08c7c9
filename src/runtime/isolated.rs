//! An engine in an isolated process: a crash or a hang there is an error message here.
//!
//! Tensors go over as their name, element type, shape and elements, little-endian; lengths are 8 bytes. A byte before those
//! of a run says whether it goes on with the state that the child has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use super::engine::{Engine, Options, Runtime};
use super::in_process::open_with;
use super::tensor::{Elements, Named, Port, Tensor};
use crate::error::{Error, Result};
use crate::json::file_name;
use crate::subprocess::{self, SentPath, Worker};

/// The name of the child's job.
pub const JOB: &str = "engine";

/// Longest that opening an engine, or one run of it, may take.
const LIMIT: Duration = Duration::from_secs(600);

/// A run on the state that is given.
const RUN: u8 = 0;

/// A run on the state of the run before.
const RESUME: u8 = 1;

/// The parent's side.
pub(super) struct IsolatedEngine {
    child: Worker,
    described: Described,
}

/// The request to a child that opens an engine.
#[derive(Serialize, Deserialize)]
struct Opening {
    runtime: Runtime,
    path: SentPath,
    options: Options,
    adapters: Vec<SentPath>,
}

/// The reply: the opened engine.
#[derive(Serialize, Deserialize)]
struct Described {
    description: String,
    inputs: Vec<Port>,
}

impl IsolatedEngine {
    pub(super) fn open(
        runtime: Runtime,
        path: &Path,
        options: Options,
        adapters: &[PathBuf],
    ) -> Result<IsolatedEngine> {
        let what = format!("running {} by {runtime}", file_name(path));
        let adapters = adapters.iter().map(|path| path.as_path().into()).collect();
        let opening = Opening { runtime, path: path.into(), options, adapters };
        let opening = serde_json::to_vec(&opening).map_err(|e| Error::bug(format!("{what}: {e}")))?;
        let mut child = Worker::start(JOB, &what)?;
        let described = child.call(&opening, LIMIT)?;
        let described = serde_json::from_slice(&described).map_err(|e| Error::bug(format!("{what}: {e}")))?;
        Ok(IsolatedEngine { child, described })
    }

    fn ask(&mut self, how: u8, inputs: &Named) -> Result<Named> {
        let answer = self.child.call(&pack(vec![how], inputs), LIMIT)?;
        unpack(&answer).ok_or_else(|| Error::bug("a child process sent tensors that cannot be read"))
    }
}

impl Engine for IsolatedEngine {
    fn describe(&self) -> String {
        self.described.description.clone()
    }

    fn inputs(&self) -> &[Port] {
        &self.described.inputs
    }

    fn run(&mut self, inputs: &Named) -> Result<Named> {
        self.ask(RUN, inputs)
    }

    fn resume(&mut self, inputs: &Named) -> Result<Named> {
        self.ask(RESUME, inputs)
    }
}

/// The child's side: the first request opens the engine, every other one runs it.
pub fn serve() -> Result<()> {
    let mut engine: Option<Box<dyn Engine>> = None;
    subprocess::attend(|request| match &mut engine {
        None => {
            let failed = |e: serde_json::Error| Error::bug(format!("a request is malformed: {e}"));
            let opening: Opening = serde_json::from_slice(request).map_err(failed)?;
            let adapters: Vec<PathBuf> = opening.adapters.into_iter().map(PathBuf::from).collect();
            let opened = engine.insert(open_with(opening.runtime, &opening.path, opening.options, &adapters)?);
            let described = Described { description: opened.describe(), inputs: opened.inputs().to_vec() };
            serde_json::to_vec(&described).map_err(failed)
        }
        Some(engine) => {
            let unread = || Error::bug("tensors arrived that cannot be read");
            let (how, inputs) = request.split_first().ok_or_else(unread)?;
            let inputs = unpack(inputs).ok_or_else(unread)?;
            let outputs = if *how == RESUME { engine.resume(&inputs) } else { engine.run(&inputs) };
            outputs.map(|outputs| pack(Vec::new(), &outputs))
        }
    })
}

/// The tensors after those bytes.
fn pack(mut bytes: Vec<u8>, named: &Named) -> Vec<u8> {
    let number = |bytes: &mut Vec<u8>, n: usize| bytes.extend_from_slice(&(n as u64).to_le_bytes());
    for (name, tensor) in named {
        number(&mut bytes, name.len());
        bytes.extend_from_slice(name.as_bytes());
        let (kind, elements): (usize, &[u8]) = match &tensor.elements {
            Elements::I64(values) => (0, bytemuck::cast_slice(values)),
            Elements::F32(values) => (1, bytemuck::cast_slice(values)),
            Elements::I32(values) => (2, bytemuck::cast_slice(values)),
            Elements::F16(values) => (3, bytemuck::cast_slice(values.reinterpret_cast())),
            Elements::Bool(values) => (4, bytemuck::cast_slice(values)),
        };
        number(&mut bytes, kind);
        number(&mut bytes, tensor.shape.len());
        tensor.shape.iter().for_each(|size| number(&mut bytes, *size));
        number(&mut bytes, elements.len());
        bytes.extend_from_slice(elements);
    }
    bytes
}

fn unpack(bytes: &[u8]) -> Option<Named> {
    let mut rest = bytes;
    let mut named = Vec::new();
    while !rest.is_empty() {
        let length = number(&mut rest)?;
        let name = String::from_utf8(take(&mut rest, length)?.to_vec()).ok()?;
        let kind = number(&mut rest)?;
        let rank = number(&mut rest)?;
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(number(&mut rest)?);
        }
        let length = number(&mut rest)?;
        let elements = take(&mut rest, length)?;
        let elements = match kind {
            0 => Elements::I64(elements.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            1 => Elements::F32(elements.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            2 => Elements::I32(elements.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect()),
            3 => Elements::F16(elements.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b)).collect()),
            4 => Elements::Bool(elements.iter().map(|b| *b != 0).collect()),
            _ => return None,
        };
        named.push((name, Tensor { shape, elements }));
    }
    Some(named)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let bytes = take(rest, 8)?;
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(n)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_arrive_as_they_left() {
        let named = vec![
            ("ids".to_owned(), Tensor { shape: vec![2, 1], elements: Elements::I64(vec![-1, i64::MAX]) }),
            ("none".to_owned(), Tensor { shape: vec![0, 3], elements: Elements::F32(vec![]) }),
            ("é".to_owned(), Tensor { shape: vec![], elements: Elements::F32(vec![f32::MIN_POSITIVE]) }),
            ("half".to_owned(), Tensor { shape: vec![2], elements: Elements::F16(vec![f16::MAX, f16::NEG_ONE]) }),
            ("i32".to_owned(), Tensor { shape: vec![1], elements: Elements::I32(vec![i32::MIN]) }),
            ("switch".to_owned(), Tensor { shape: vec![2], elements: Elements::Bool(vec![true, false]) }),
        ];
        let packed = pack(Vec::new(), &named);
        assert_eq!(unpack(&packed), Some(named));
        for n in 1..packed.len() {
            // A frame that was cut is refused, or ends where a tensor ends.
            assert!(unpack(&packed[..n]).is_none_or(|named| named.len() < 6), "{n}");
        }
        assert_eq!(unpack(&[255; 40]), None);
    }
}
