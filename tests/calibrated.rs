//! Calibrated rewrites of a graph keep its outputs, and rounded weights stay near.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::common::{fixture, place, repository};
use kilnc::back::{self, onnx};
use kilnc::build::{self, Calibrator, Model, Observer, Scheme, Source};
use kilnc::eval::{Golden, Parity};
use kilnc::ir::weight::Int8Range;
use kilnc::passes::{FirstToken, FuseQkv, GroupNeurons, Manager, Smooth};
use kilnc::precision::Precision;
use kilnc::runtime::{self, Options, Runtime};
use kilnc::target::Target;

struct Silent;
impl Observer for Silent {}

fn load(checkpoint: &Path) -> Model {
    build::load(&Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None }).unwrap()
}

fn families() -> Vec<PathBuf> {
    let root = repository("tests/fixtures/families");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut heads: Vec<PathBuf> =
        folders.flat_map(|family| ["base", "seqcls", "mlm"].map(|head| family.join(head))).collect();
    heads.retain(|head| head.join("golden.safetensors").is_file());
    heads.sort();
    heads
}

fn parity(graph: &kilnc::verify::Verified<kilnc::ir::Graph>, target: &Target, golden: &Golden) -> Parity {
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&back::lower(graph, target).unwrap(), &path, &|_| {}).unwrap();
    let runtime = if *target == Target::Tract { Runtime::Tract } else { Runtime::Ort };
    golden.compare(&mut *runtime::open(runtime, &path, Options { threads: 1 }).unwrap()).unwrap()
}

#[test]
fn smoothed_and_grouped_channels_give_the_same_outputs() {
    let mut changed = 0;
    for checkpoint in families() {
        let Ok(model) =
            build::load(&Source { checkpoint: checkpoint.clone(), adapters: Vec::new(), combine: None, task: None })
        else {
            continue;
        };
        let golden = Golden::read(&checkpoint.join("golden.safetensors")).unwrap();
        let place = place();
        let mut manager = Manager::default();
        let graph = manager.run(model.graph(), &FirstToken).unwrap();
        let graph = manager.run(&graph, &FuseQkv).unwrap();
        let calibrator = Calibrator::new("golden", vec![golden.inputs().clone()], place.path().to_owned(), &Silent);
        let calibration = RefCell::new(calibrator.on(&graph).unwrap());
        let graph =
            manager.run(&graph, &Smooth { calibration: &calibration, keep: &[], range: Int8Range::Full }).unwrap();
        let graph = manager.run(&graph, &GroupNeurons { calibration: &calibration, groups: 3, keep: &[] }).unwrap();
        changed += manager.ran.iter().rev().take(2).map(|ran| ran.report.changed).sum::<usize>();
        for target in [Target::OrtCpu, Target::Tract] {
            let parity = parity(&graph, &target, &golden);
            assert!(parity.max_abs <= 1e-4, "{} on {target}: {parity:?}", checkpoint.display());
        }
    }
    assert!(changed >= 20, "only {changed} matches were changed");
}

#[test]
fn every_family_is_calibrated_and_rounded() {
    for checkpoint in families().into_iter().filter(|path| path.ends_with("base")) {
        let Ok(model) =
            build::load(&Source { checkpoint: checkpoint.clone(), adapters: Vec::new(), combine: None, task: None })
        else {
            continue;
        };
        let golden = Golden::read(&checkpoint.join("golden.safetensors")).unwrap();
        let place = place();
        let calibrator = Calibrator::new("golden", vec![golden.inputs().clone()], place.path().to_owned(), &Silent);
        for precision in [Precision::Int8, Precision::Int8Fast] {
            let target = Target::OrtCpu;
            let graph = build::compile(
                model.graph(),
                &Scheme { calibrator: Some(&calibrator), ..Scheme::new(&target, precision) },
                &mut Manager::default(),
            )
            .unwrap();
            let path = place.path().join("model.onnx");
            onnx::write(&graph, &path, &|_| {}).unwrap();
            let mut engine = runtime::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap();
            let parity = golden.compare(&mut *engine).unwrap();
            assert_eq!(parity.non_finite, 0, "{}", checkpoint.display());
            assert!(parity.min_cosine >= 0.9, "{} in {precision}: {parity:?}", checkpoint.display());
        }
    }
}

#[test]
fn weights_that_are_not_finite_name_the_value_and_leave_nothing_behind() {
    let checkpoint = crate::common::copied("tiny-bert");
    let path = checkpoint.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[at..].chunks_exact_mut(4).for_each(|float| float.copy_from_slice(&f32::NAN.to_le_bytes()));
    std::fs::write(&path, bytes).unwrap();
    let model = load(checkpoint.path());
    let golden = Golden::read(&fixture("tiny-bert").join("golden.safetensors")).unwrap();
    let place = place();
    let calibrator = Calibrator::new("texts.jsonl", vec![golden.inputs().clone()], place.path().to_owned(), &Silent);
    let error = build::compile(
        model.graph(),
        &Scheme { calibrator: Some(&calibrator), ..Scheme::new(&Target::OrtCpu, Precision::Int8) },
        &mut Manager::default(),
    )
    .err()
    .unwrap();
    assert!(error.to_string().contains("NaN"), "{error}");
    assert_eq!(crate::common::names(place.path()), Vec::<String>::new());
}
