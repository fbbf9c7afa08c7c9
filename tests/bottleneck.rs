//! Every adapter of the fixtures gives PyTorch's numbers, on ONNX Runtime and on tract.
//!
//! The test also writes the table of coverage, `docs/bottleneck-adapters.md`; `UPDATE_SNAPSHOTS=1` refreshes it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::common::{assert_page, fixture, kilnc, place, repository};
use kilnc::back::{self, onnx};
use kilnc::build::{self, Calibrator, Model, Observer, Scheme, Source};
use kilnc::eval::{Golden, Parity};
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::ir::weight::Int8Range;
use kilnc::passes::{FirstToken, FuseQkv, GroupNeurons, Manager, Smooth};
use kilnc::precision::Precision;
use kilnc::runtime::{self, Options, Runtime};
use kilnc::target::Target;

/// Largest difference of any output from PyTorch's, in FP32.
const BOUND: f64 = 1e-4;

/// A folder of the fixtures: one adapter or several to stack, over the checkpoint that its path names.
struct Fixture {
    /// `family/head/variant`
    name: String,
    base: PathBuf,
    dir: PathBuf,
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn fixtures() -> Vec<Fixture> {
    let mut found = Vec::new();
    for family in folders(&repository("tests/fixtures/adapters-bottleneck")) {
        for head in folders(&family) {
            let base = repository("tests/fixtures/families").join(name(&family)).join(name(&head));
            found.extend(folders(&head).into_iter().map(|dir| Fixture {
                name: format!("{}/{}/{}", name(&family), name(&head), name(&dir)),
                base: base.clone(),
                dir,
            }));
        }
    }
    found
}

impl Fixture {
    fn load(&self) -> kilnc::Result<Model> {
        let stack = folders(&self.dir);
        let dirs = if stack.is_empty() { vec![self.dir.clone()] } else { stack };
        let adapters = dirs.into_iter().map(|dir| AdapterSource { dir, scale: 1.0 }).collect();
        build::load(&Source { checkpoint: self.base.clone(), adapters, combine: None, task: None })
    }

    fn parity(&self, model: &Model, target: &Target, precision: Precision, runtime: Runtime) -> kilnc::Result<Parity> {
        let graph = build::compile(model.graph(), &Scheme::new(target, precision), &mut Manager::default())?;
        let place = place();
        let path = place.path().join("model.onnx");
        onnx::write(&graph, &path, &|_| {})?;
        let mut engine = runtime::open(runtime, &path, Options { threads: 1 })?;
        Golden::read(&self.dir.join("golden.safetensors"))?.compare(&mut *engine)
    }

    fn differences(&self) -> kilnc::Result<[f64; 2]> {
        let model = self.load()?;
        let difference =
            |target, runtime| self.parity(&model, &target, Precision::Fp32, runtime).map(|parity| parity.max_abs);
        Ok([difference(Target::OrtCpu, Runtime::Ort)?, difference(Target::Tract, Runtime::Tract)?])
    }
}

#[test]
fn every_adapter_gives_pytorchs_outputs() {
    let fixtures = fixtures();
    assert!(fixtures.len() > 50, "the fixtures are not there");
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for fixture in &fixtures {
        match fixture.differences() {
            Ok(found) if found.iter().all(|difference| *difference <= BOUND) => rows.push(fixture.name.as_str()),
            found => wrong.push(format!("{}: {found:?}", fixture.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_page("docs/bottleneck-adapters.md", &table(&rows));
}

/// The passes act on adapters by their roles: in 8 bits they keep full precision, in 16 they follow the layers.
#[test]
fn adapters_come_through_every_precision() {
    let gpu: Target = "tensorrt-rtx:sm75".parse().unwrap();
    let engines = [
        (Target::OrtCpu, Precision::Int8, Runtime::Ort, 0.9),
        (Target::Tract, Precision::Int8, Runtime::Tract, 0.9),
        (gpu, Precision::Fp16, Runtime::Ort, 0.999),
    ];
    let wanted = ["houlsby", "parallel-gated", "compacter", "invertible-mlm", "act-quick_gelu"];
    let fixtures: Vec<_> =
        fixtures().into_iter().filter(|fixture| wanted.iter().any(|name| fixture.name.ends_with(name))).collect();
    assert!(fixtures.len() > wanted.len());
    for fixture in fixtures {
        let model = fixture.load().unwrap();
        for (target, precision, runtime, bound) in &engines {
            let parity = fixture.parity(&model, target, *precision, *runtime).unwrap();
            let name = &fixture.name;
            assert_eq!(parity.non_finite, 0, "{name} for {target} in {precision}");
            // Random weights are harder on 8 bits than trained ones: this only finds gross errors.
            assert!(parity.min_cosine >= *bound, "{name} for {target} in {precision}: {parity:?}");
        }
    }
}

struct Silent;
impl Observer for Silent {}

/// Smoothing and grouping move factors through the layers' norms and products, and adapters read both.
#[test]
fn adapters_come_through_calibration() {
    let wanted = ["/houlsby", "/no-norm", "/parallel", "/gated", "/stack"];
    for fixture in fixtures().iter().filter(|fixture| wanted.iter().any(|name| fixture.name.ends_with(name))) {
        let model = fixture.load().unwrap();
        let golden = Golden::read(&fixture.dir.join("golden.safetensors")).unwrap();
        let place = place();
        let calibrator = Calibrator::new("golden", vec![golden.inputs().clone()], place.path().to_owned(), &Silent);
        let mut manager = Manager::default();
        let graph = manager.run(model.graph(), &FirstToken).unwrap();
        let graph = manager.run(&graph, &FuseQkv).unwrap();
        let calibration = RefCell::new(calibrator.on(&graph).unwrap());
        let graph =
            manager.run(&graph, &Smooth { calibration: &calibration, keep: &[], range: Int8Range::Full }).unwrap();
        let graph = manager.run(&graph, &GroupNeurons { calibration: &calibration, groups: 3, keep: &[] }).unwrap();
        let path = place.path().join("model.onnx");
        onnx::write(&back::lower(&graph, &Target::OrtCpu).unwrap(), &path, &|_| {}).unwrap();
        let mut engine = runtime::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap();
        let parity = golden.compare(&mut *engine).unwrap();
        assert!(parity.max_abs <= BOUND, "{}: {parity:?}", fixture.name);
    }
}

#[test]
fn eight_bits_leave_adapters_with_a_warning() {
    let houlsby = fixtures().into_iter().find(|fixture| fixture.name == "bert/base/houlsby").unwrap();
    let mut manager = Manager::default();
    let scheme = Scheme::new(&Target::OrtCpu, Precision::Int8);
    build::compile(houlsby.load().unwrap().graph(), &scheme, &mut manager).unwrap();
    let left = &manager.ran.iter().find(|ran| ran.name == "quantize-dynamic").unwrap().report.left;
    let adapters = left.iter().filter(|line| line.ends_with("adapters keep full precision")).count();
    assert_eq!(adapters, 8, "{left:?}");
}

fn table(rows: &[&str]) -> String {
    let mut out = String::from(
        "# Adapters of AdapterHub's library\n\nMade by `tests/bottleneck.rs` from `tests/fixtures/adapters-bottleneck`: \
         tiny adapters by `adapters`, with PyTorch's outputs.\nEvery output element of every row is within 1e-4 of \
         PyTorch's, in FP32, on ONNX Runtime and on tract.\n\n| base / adapter |\n|---|\n",
    );
    for name in rows {
        out += &format!("| {name} |\n");
    }
    out
}

/// An adapter with a head of three labels, for tiny-bert.
fn tiny_adapter(dir: &Path) {
    let shapes = |path: &str| {
        [("adapter_down.0.weight", vec![16, 32]), ("adapter_down.0.bias", vec![16])]
            .into_iter()
            .chain([("adapter_up.weight", vec![32, 16]), ("adapter_up.bias", vec![32])])
            .map(move |(name, shape)| (format!("{path}.{name}"), shape))
            .collect::<Vec<_>>()
    };
    let layers = ["bert.encoder.layer.0.output.adapters.a", "bert.encoder.layer.1.output.adapters.a"];
    let adapter = layers.into_iter().flat_map(shapes).collect();
    let head = vec![("heads.a.1.weight".to_owned(), vec![3, 32]), ("heads.a.1.bias".to_owned(), vec![3])];
    save(&dir.join("adapter.safetensors"), adapter);
    save(&dir.join("model_head.safetensors"), head);
    let config = r#"{"name": "a", "model_class": "BertAdapterModel", "version": "adapters.1.3.0", "config": {
        "mh_adapter": false, "output_adapter": true, "reduction_factor": 2, "non_linearity": "relu",
        "original_ln_before": true}}"#;
    let head = r#"{"name": "a", "model_class": "BertAdapterModel", "config": {"head_type": "classification",
        "layers": 1, "num_labels": 3, "use_pooler": false, "label2id": {"red": 0, "green": 1, "blue": 2}}}"#;
    std::fs::write(dir.join("adapter_config.json"), config).unwrap();
    std::fs::write(dir.join("head_config.json"), head).unwrap();
}

fn save(path: &Path, tensors: Vec<(String, Vec<usize>)>) {
    let data: Vec<_> = tensors
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product::<usize>();
            let bytes: Vec<u8> = (0..count).flat_map(|i| ((i * 7 % 11) as f32 / 11.0 - 0.4).to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_bundle_predicts_the_labels_of_the_adapters_head() {
    let (place, adapter) = (place(), place());
    tiny_adapter(adapter.path());
    let out = place.path().join("out");
    kilnc(arguments!["build", fixture("tiny-bert"), "--adapter", adapter.path(), "-o", out, "--quiet"]).expect(0);
    let manifest = kilnc(arguments!["inspect", out, "--json"]).expect(0).json();
    assert_eq!(manifest["labels"], serde_json::json!(["red", "green", "blue"]));
    let entry = &manifest["adapters"][0];
    assert_eq!((entry["inserted"].as_u64(), entry["saved"].as_array().unwrap().len()), (Some(8), 2));
    assert_eq!(entry["files"].as_array().unwrap().len(), 4);
    let answers = kilnc(arguments!["run", out, "--text", "the movie", "--json"]).expect(0).json();
    assert!(["red", "green", "blue"].contains(&answers[0]["label"].as_str().unwrap()), "{answers}");
    let said = kilnc(arguments!["inspect", adapter.path()]).expect(0).stdout;
    assert!(said.starts_with("adapter of AdapterHub: "), "{said}");
}
