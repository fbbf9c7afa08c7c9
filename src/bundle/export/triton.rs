//! A model repository of Triton Inference Server, for its backend `onnxruntime`.

use std::fmt::Write;
use std::path::Path;

use super::folder::{Exported, Folder, ort_engine, without_libraries, without_prompt};
use crate::bundle::{Bundle, ComponentEntry, EngineEntry, StateEntry};
use crate::error::{Error, Result, printable};

/// The names of the labels' file in a repository.
const LABELS: &str = "labels.txt";

/// Most texts at once whose state the server keeps for an instance of the model.
const MOST_SEQUENCES: u32 = 64;

/// How a model is served.
#[derive(Clone, Debug)]
pub struct Repository {
    /// The model's name; the bundle's, if not set.
    pub name: Option<String>,
    /// The engine; the best that ONNX Runtime runs, if not set.
    pub engine: Option<String>,
    /// The version, a folder's name.
    pub version: u32,
    /// Most texts in a batch; none are put together, if it is 0.
    pub max_batch: u32,
    /// How long a text waits for others, in microseconds.
    pub max_delay: u32,
}

impl Default for Repository {
    fn default() -> Repository {
        Repository { name: None, engine: None, version: 1, max_batch: 32, max_delay: 1000 }
    }
}

/// Writes a repository with one model into an empty folder.
pub fn export(bundle: &Bundle, repository: &Repository, dir: &Path) -> Result<Exported> {
    let mut folder = Folder::new(dir);
    let engine = ort_engine(bundle, repository.engine.as_deref(), &mut folder.exported.notes)?;
    let name = repository.name.as_deref().unwrap_or(&bundle.manifest.name);
    check_name(name)?;
    let labels = &bundle.manifest.labels;
    let config = config(name, engine, repository, !labels.is_empty())?;
    folder.write(&format!("{name}/config.pbtxt"), config.as_bytes())?;
    if !labels.is_empty() {
        let lines: String = labels.iter().map(|label| label.replace(['\n', '\r'], " ") + "\n").collect();
        folder.write(&format!("{name}/{LABELS}"), lines.as_bytes())?;
    }
    folder.engine(bundle, engine, &format!("{name}/{}", repository.version), "model.onnx")?;
    without_libraries(bundle, &mut folder.exported.notes);
    without_prompt(bundle, &mut folder.exported.notes);
    folder.exported.notes.push(match engine.model()?.state.is_empty() {
        true => "requests hold tokens, and are put together where they are of one length",
        false => {
            "the requests of a text are one sequence, with the new tokens of each; a cache begins with one position of zeros, so \
             attention_mask has one 0 more before it"
        }
    }.to_owned());
    Ok(folder.done())
}

/// A name is a folder's, and part of the server's addresses.
fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty() && name.chars().all(fits) && !name.starts_with('.') {
        true => Ok(()),
        false => Err(Error::bad_input(format!("`{}` is no name for a served model", printable(name)))
            .hint("give one with --name: letters, digits, - _ .")),
    }
}

/// The text of config.pbtxt.
fn config(name: &str, engine: &EngineEntry, repository: &Repository, labels: bool) -> Result<String> {
    let batched = repository.max_batch > 0;
    let component = engine.model()?;
    // Texts of one batch have caches of one length, and requests come when they come.
    let most = if component.state.is_empty() { repository.max_batch } else { repository.max_batch.min(1) };
    let mut out = format!("name: \"{name}\"\nbackend: \"onnxruntime\"\nmax_batch_size: {most}\n");
    let is_state =
        |port: &Port| component.state.iter().any(|state| [&state.input, &state.output].contains(&&port.name));
    for port in &component.inputs {
        let port = Port::parse(port)?;
        if !is_state(&port) {
            out += &block("input", &port, batched, None);
        }
    }
    for (i, port) in component.outputs.iter().enumerate() {
        let port = Port::parse(port)?;
        // Labels are named where Triton classifies: of an output with one number for each of them.
        let named = labels && i == 0 && port.sizes.len() == 2;
        if !is_state(&port) {
            out += &block("output", &port, batched, named.then_some(LABELS));
        }
    }
    if !component.state.is_empty() {
        out += &sequences(component, repository)?;
    } else if batched {
        let _ = write!(out, "dynamic_batching {{\n  max_queue_delay_microseconds: {}\n}}\n", repository.max_delay);
    }
    let _ = write!(out, "version_policy {{\n  specific {{\n    versions: {}\n  }}\n}}\n", repository.version);
    Ok(out)
}

/// How requests of one text follow each other: the server keeps the state between them.
///
/// Triton has no state without elements, so a cache begins with one position of zeros, which the mask of the first request
/// leaves out.
fn sequences(component: &ComponentEntry, repository: &Repository) -> Result<String> {
    let batched = repository.max_batch > 0;
    let mut out = format!("sequence_batching {{\n  oldest {{\n    max_candidate_sequences: {}\n  }}\n", MOST_SEQUENCES);
    for StateEntry { input, output, .. } in &component.state {
        let ports = component.inputs.iter().map(|port| Port::parse(port)).collect::<Result<Vec<Port>>>()?;
        let port = ports.into_iter().find(|port| port.name == *input);
        let port = port.ok_or_else(|| {
            Error::bad_input(format!("the state `{}` is no input", printable(input))).at(crate::bundle::MANIFEST)
        })?;
        let sizes = port.sizes.get(usize::from(batched)..).unwrap_or_default();
        let dims: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        let first: Vec<String> = sizes.iter().map(|size| if *size < 0 { 1 } else { *size }.to_string()).collect();
        let (ty, dims, first) = (port.ty, dims.join(", "), first.join(", "));
        let _ = write!(
            out,
            "  state {{\n    input_name: \"{input}\"\n    output_name: \"{output}\"\n    data_type: {ty}\n    dims: [ {dims} ]\n    \
             initial_state {{\n      name: \"zeros\"\n      data_type: {ty}\n      dims: [ {first} ]\n      zero_data: true\n    }}\n  }}\n"
        );
    }
    Ok(out + "}\n")
}

fn block(kind: &str, port: &Port, batched: bool, labels: Option<&str>) -> String {
    let dims: Vec<String> = port.sizes.iter().skip(usize::from(batched)).map(ToString::to_string).collect();
    let labels = labels.map(|file| format!("  label_filename: \"{file}\"\n")).unwrap_or_default();
    let (name, ty) = (&port.name, port.ty);
    format!("{kind} {{\n  name: \"{name}\"\n  data_type: {ty}\n  dims: [ {} ]\n{labels}}}\n", dims.join(", "))
}

/// An input or output, as the manifest has it: `input_ids: i64[batch_size, sequence_length]`.
struct Port {
    name: String,
    ty: &'static str,
    /// -1 for sizes that are set when it runs.
    sizes: Vec<i64>,
}

impl Port {
    fn parse(text: &str) -> Result<Port> {
        let unknown =
            || Error::bad_input(format!("`{}` is no input or output", printable(text))).at(crate::bundle::MANIFEST);
        let (name, ty) = text.split_once(": ").ok_or_else(unknown)?;
        let (dtype, sizes) = ty.strip_suffix(']').and_then(|ty| ty.split_once('[')).ok_or_else(unknown)?;
        let ty = match dtype {
            "i64" => "TYPE_INT64",
            "i32" => "TYPE_INT32",
            "f32" => "TYPE_FP32",
            "f16" => "TYPE_FP16",
            "bf16" => "TYPE_BF16",
            _ => return Err(unknown()),
        };
        let size = |size: &str| size.trim().parse().unwrap_or(-1);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
        match name.chars().all(plain) {
            true => Ok(Port { name: name.to_owned(), ty, sizes: sizes.split(',').map(size).collect() }),
            false => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_the_manifest_writes_them() {
        let port = Port::parse("logits: f32[batch_size, 3]").unwrap();
        assert_eq!((port.name.as_str(), port.ty, port.sizes), ("logits", "TYPE_FP32", vec![-1, 3]));
        for wrong in ["logits", "logits: f32", "logits: u2[1]", "a\"b: f32[1]"] {
            assert!(Port::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_served_model_has_a_name_that_fits_an_address() {
        assert!(check_name("sections-v1.2").is_ok());
        for wrong in ["", "..", "a/b", "a b", "é"] {
            assert!(check_name(wrong).unwrap_err().message().ends_with("is no name for a served model"));
        }
    }
}
