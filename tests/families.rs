//! Every family × head × weight format of the fixtures gives PyTorch's numbers, on ONNX Runtime and on tract.
//!
//! The test also writes the table of coverage, `docs/coverage.md`; `UPDATE_SNAPSHOTS=1` refreshes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{assert_page, minilm, place, repository};
use kilnc::back::onnx;
use kilnc::build::{self, Scheme, Source};
use kilnc::eval::{Golden, Parity};
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Options, Runtime};
use kilnc::target::Target;

/// Largest difference of any output from PyTorch's, in FP32.
const BOUND: f64 = 1e-4;

/// Fixtures that kilnc refuses so far, by the beginning of the message.
const REFUSED: &[(&str, &str)] = &[];

/// Every folder with a golden file, as `family/head`.
pub fn fixtures() -> Vec<(String, PathBuf)> {
    let inside = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut families: Vec<_> =
        inside(&repository("tests/fixtures/families")).into_iter().map(|path| (name(&path), path)).collect();
    families.push(("sentence-transformers".to_owned(), repository("tests/fixtures/sentence")));
    let mut found = Vec::new();
    for (family, path) in families {
        let heads = inside(&path).into_iter().filter(|head| head.join("golden.safetensors").is_file());
        found.extend(heads.map(|head| (format!("{family}/{}", name(&head)), head)));
    }
    found.sort();
    found
}

/// An engine's outputs compared with PyTorch's.
fn parity(checkpoint: &Path, target: &Target, precision: Precision, runtime: Runtime) -> kilnc::Result<Parity> {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source)?;
    let graph = build::compile(model.graph(), &Scheme::new(target, precision), &mut Manager::default())?;
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {})?;
    let mut engine = runtime::open(runtime, &path, Options { threads: 1 })?;
    let golden = Golden::read(&checkpoint.join("golden.safetensors"))?;
    golden.compare(&mut *engine)
}

fn difference(checkpoint: &Path, target: &Target, runtime: Runtime) -> kilnc::Result<f64> {
    Ok(parity(checkpoint, target, Precision::Fp32, runtime)?.max_abs)
}

#[test]
fn every_fixture_gives_pytorchs_outputs_or_the_recorded_refusal() {
    let fixtures = fixtures();
    assert!(fixtures.len() > 40, "the fixtures are not there");
    let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, path) in &fixtures {
        let measured = difference(path, &Target::OrtCpu, Runtime::Ort)
            .and_then(|ort| Ok((ort, difference(path, &Target::Tract, Runtime::Tract)?)));
        match (measured, refused(name)) {
            (Ok((ort, tract)), None) if ort <= BOUND && tract <= BOUND => {
                let (family, head) = name.split_once('/').unwrap();
                rows.entry(family.to_owned()).or_default().push(head.to_owned());
            }
            (Err(e), Some(message)) if e.message().starts_with(message) => {}
            (found, _) => wrong.push(format!("{name}: {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rows.extend(crate::decoders::covered());
    assert_page("docs/coverage.md", &table(&rows));
}

/// The passes know roles and operations, no family; so every family must come through them.
#[test]
fn every_family_comes_through_every_precision() {
    let gpu: Target = "tensorrt-rtx:sm75".parse().unwrap();
    let engines = [
        (Target::OrtCpu, Precision::Int8, Runtime::Ort),
        (Target::Tract, Precision::Int8, Runtime::Tract),
        (gpu, Precision::Fp16, Runtime::Ort),
    ];
    let mut checked = 0;
    let invoked = |name: &str| name.ends_with("/base") || name.ends_with("/mlm") || name.starts_with("sentence-");
    for (name, path) in fixtures().iter().filter(|(name, _)| invoked(name)) {
        if refused(name).is_some() {
            continue;
        }
        for (target, precision, runtime) in &engines {
            let parity = parity(path, target, *precision, *runtime).unwrap_or_else(|e| panic!("{name}: {e}"));
            // Random weights are harder on 8 bits than trained ones: this only finds gross errors.
            let bound = if *precision == Precision::Fp16 { 0.999 } else { 0.9 };
            assert_eq!(parity.non_finite, 0, "{name} for {target} in {precision}");
            // Of one number, such as a reranker's, the cosine is the sign.
            let right = parity.min_cosine >= bound || name.contains("reranker") && parity.max_abs <= 0.2;
            assert!(right, "{name} for {target} in {precision}: {parity:?}");
            checked += 1;
        }
    }
    assert!(checked >= 45, "only {checked} engines were checked");
}

/// The message with which a fixture is refused so far, if it is.
fn refused(name: &str) -> Option<&'static str> {
    let fits = |prefix: &str| name == prefix || prefix.ends_with('/') && name.starts_with(prefix);
    REFUSED.iter().find(|(prefix, _)| fits(prefix)).map(|(_, message)| *message)
}

/// One row for each family.
fn table(rows: &BTreeMap<String, Vec<String>>) -> String {
    let mut out = String::from(
        "# Coverage\n\nMade by `tests/families.rs` and `tests/decoders.rs` from `tests/fixtures/families`, \
         `tests/fixtures/sentence`\nand `tests/fixtures/decoders`: tiny checkpoints by `transformers` and \
         sentence-transformers, with PyTorch's outputs. Every\noutput element of every row is within 1e-4 of PyTorch's, in \
         FP32, on ONNX Runtime and on tract.\n\n| family | heads and variants |\n|---|---|\n",
    );
    for (family, heads) in rows {
        out += &format!("| {family} | {} |\n", heads.join(", "));
    }
    if !REFUSED.is_empty() {
        out += "\nRefused so far, by name:\n\n";
    }
    for (fixture, message) in REFUSED {
        out += &format!("- `{fixture}`: {message}\n");
    }
    out
}

#[test]
fn minilm_gives_the_vectors_of_sentence_transformers() {
    let golden = Golden::read(&repository("tests/fixtures/minilm-embeddings.safetensors")).unwrap();
    let model = build::load(&Source { checkpoint: minilm(), adapters: Vec::new(), combine: None, task: None }).unwrap();
    assert_eq!(model.task.name(), "sentence-similarity");
    let place = place();
    for (target, runtime) in [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)] {
        let graph =
            build::compile(model.graph(), &Scheme::new(&target, Precision::Fp32), &mut Manager::default()).unwrap();
        let path = place.path().join("model.onnx");
        onnx::write(&graph, &path, &|_| {}).unwrap();
        let mut engine = runtime::open(runtime, &path, Options::default()).unwrap();
        let parity = golden.compare(&mut *engine).unwrap();
        assert_eq!(parity.rows, 16);
        assert!(parity.min_cosine >= 0.99999, "{target}: {parity:?}");
        assert!(parity.max_abs <= 1e-5, "{target}: {parity:?}");
    }
}
