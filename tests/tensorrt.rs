//! Engines of TensorRT for RTX, compiled without a GPU from graphs that kilnc lowered.
#![cfg(all(feature = "tensorrt", not(feature = "enterprise")))]

use std::path::{Path, PathBuf};

use crate::common::{fixture, minilm, place, repository};
use kilnc::Result;
use kilnc::back::tensorrt::{CompileOptions, CompileReport, InputProfile, Libraries, compile};
use kilnc::back::{lower, onnx};
use kilnc::build::{self, Calibrator, Observer, Scheme, Source};
use kilnc::eval::Golden;
use kilnc::front::hub::adapter::AdapterSource;
use kilnc::ir::{Builder, DType, Op, TensorType, Weight};
use kilnc::passes::{Half, Manager};
use kilnc::precision::Precision;
use kilnc::runtime::library::TENSORRT_RTX;
use kilnc::runtime::{self, Options, Runtime};
use kilnc::shapes::Shapes;
use kilnc::target::Target;
use kilnc::verify::verify;

struct Silent;
impl Observer for Silent {}

/// The library's folder; without the library a test is skipped, loudly. `scripts/test.sh` installs it and sets
/// `KILNC_TEST_STRICT`, under which a skip is a failure: test runners do not show the output of a passed test.
fn libraries(test: &str) -> Option<Libraries> {
    match TENSORRT_RTX.find() {
        Ok(path) => Some(Libraries::beside(path)),
        Err(e) => {
            assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{test}: {e}");
            eprintln!("SKIPPED: {test}: {}", e.message());
            None
        }
    }
}

/// A checkpoint as an ONNX file in the operations of `target`.
fn model(dir: &Path, checkpoint: PathBuf, target: &str, precision: Precision) -> PathBuf {
    let model = build::load(&Source { checkpoint, adapters: Vec::new(), combine: None, task: None }).unwrap();
    let target: Target = target.parse().unwrap();
    let graph = build::compile(model.graph(), &Scheme::new(&target, precision), &mut Manager::default()).unwrap();
    let path = dir.join("model.onnx");
    onnx::write(&graph, &path, &|_| {}).unwrap();
    path
}

/// Shapes for the inputs that most models have.
fn options(capability: &str, longest: i64) -> CompileOptions {
    options_for(capability, longest, &["input_ids", "attention_mask", "token_type_ids"])
}

fn options_for(capability: &str, longest: i64, inputs: &[&str]) -> CompileOptions {
    let range = |input: &str| InputProfile {
        input: input.to_owned(),
        min: vec![1, 8],
        opt: vec![4, 16],
        max: vec![8, longest],
    };
    CompileOptions {
        capabilities: vec![capability.parse().unwrap()],
        profiles: vec![inputs.iter().map(|input| range(input)).collect()],
        ..CompileOptions::default()
    }
}

fn compiled(libraries: &Libraries, onnx: &Path, options: &CompileOptions) -> Result<(CompileReport, Vec<u8>)> {
    let mut plan = Vec::new();
    compile(libraries, onnx, options, &mut plan).map(|report| (report, plan))
}

/// The GPUs that TensorRT for RTX and the cards people deploy on have in common.
const CAPABILITIES: [&str; 5] = ["sm75", "sm80", "sm86", "sm89", "sm120"];

#[test]
fn every_gpu_generation_gets_half_precision_products_and_fused_attention() {
    let Some(libraries) = libraries("plans for every capability") else { return };
    let place = place();
    let onnx = model(place.path(), minilm(), "tensorrt-rtx:sm75", Precision::Fp16);
    for capability in CAPABILITIES {
        let (report, plan) = compiled(&libraries, &onnx, &options(capability, 512)).unwrap();
        assert_eq!(&plan[..4], b"vtrt");
        let summary = report.summary();
        assert_eq!(summary.fused_attention, 6, "{capability}: {summary}");
        let precisions: Vec<&String> = summary.gemms.keys().collect();
        assert_eq!(precisions, ["Half"], "{capability}: {summary}");
        assert!(report.library_version.starts_with("1.7"), "{}", report.library_version);
    }
}

/// MiniLM with the topics of packages, calibrated on inputs with known predictions.
#[test]
fn every_gpu_generation_gets_8_bit_products_and_fused_attention() {
    let Some(libraries) = libraries("8-bit plans for every capability") else { return };
    let place = place();
    let golden = Golden::read(&repository("models/sections-lora/golden.safetensors")).unwrap();
    let adapter = AdapterSource { dir: repository("models/sections-lora"), scale: 1.0 };
    let source = Source { checkpoint: minilm(), adapters: vec![adapter], combine: None, task: None };
    let model = build::load(&source).unwrap();
    let calibrator = Calibrator::new("golden", vec![golden.inputs().clone()], place.path().to_owned(), &Silent);
    let target: Target = "tensorrt-rtx:sm75".parse().unwrap();
    let scheme = Scheme { calibrator: Some(&calibrator), ..Scheme::new(&target, Precision::Int8Fast) };
    let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
    let onnx = place.path().join("model.onnx");
    onnx::write(&graph, &onnx, &|_| {}).unwrap();
    // The plan's graph on the CPU: the predictions are the trained model's.
    let mut engine = runtime::open(Runtime::Ort, &onnx, Options { threads: 1 }).unwrap();
    let parity = golden.compare(&mut *engine).unwrap();
    assert!(parity.non_finite == 0 && parity.agreement.unwrap() >= 0.95 && parity.min_cosine >= 0.9, "{parity:?}");
    for capability in CAPABILITIES {
        let (report, _) = compiled(&libraries, &onnx, &options(capability, 512)).unwrap();
        let summary = report.summary();
        assert_eq!(summary.fused_attention, 6, "{capability}: {summary}");
        assert_eq!(summary.gemms.get("Int8"), Some(&24), "{capability}: {summary}");
        // The pooler and the classifier.
        assert_eq!(summary.gemms.get("Half"), Some(&2), "{capability}: {summary}");
        assert!(!report.warnings.iter().any(|warning| warning.contains("hold their sums")), "{:?}", report.warnings);
    }
}

/// DeBERTa's and XLNet's attention, with heads of a size that the fixtures do not have.
#[test]
fn scores_by_distance_and_token_type_leave_attention_fused() {
    let Some(libraries) = libraries("fused attention with a bias") else { return };
    let width = 128;
    let numbers = |b: &mut Builder, name: &str, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i % 17) as f32 / 64.0 - 0.125).collect();
        b.weight(name, Weight::f32s(shape.to_vec(), &values).unwrap())
    };
    let mut b = Builder::new("g");
    let [ids, mask, types] = ["input_ids", "attention_mask", "token_type_ids"]
        .map(|name| b.input(name, TensorType::new(DType::I64, ["batch_size", "sequence_length"])));
    let (heads, scale) = (2, 0.125);
    let table = numbers(&mut b, "table", &[16, width]);
    let x = b.node("x", Op::Embed, &[table, ids]).unwrap();
    let [q, k, v] = ["q", "k", "v"].map(|name| {
        let weight = numbers(&mut b, &format!("{name}.weight"), &[width, width]);
        b.node(name, Op::Linear, &[x, weight]).unwrap()
    });
    let rows = b.node("rows", Op::Sinusoids { width: width as i64, clamp: 0, positions: 64 }, &[ids]).unwrap();
    let c2p = b.node("c2p", Op::DistanceScores { heads, scale, keys: false }, &[q, rows]).unwrap();
    let p2c = b.node("p2c", Op::DistanceScores { heads, scale, keys: true }, &[k, rows]).unwrap();
    let two = numbers(&mut b, "two", &[2, width]);
    let segment = b.node("segment", Op::SegmentScores { heads, scale }, &[q, two, types]).unwrap();
    let bias = b.node("distance", Op::Add, &[c2p, p2c]).unwrap();
    let bias = b.node("bias", Op::Add, &[bias, segment]).unwrap();
    let mask = b.node("mask", Op::SelfMask { positions: 64 }, &[mask]).unwrap();
    let y = b.node("y", Op::attention(heads, scale), &[q, k, v, mask, bias]).unwrap();
    b.output("y", y).unwrap();

    let target: Target = "tensorrt-rtx:sm75".parse().unwrap();
    let half = Manager::default().run(&verify(b.finish()).unwrap(), &Half::to(DType::F16)).unwrap();
    let place = place();
    let onnx = place.path().join("model.onnx");
    onnx::write(&lower(&half, &target).unwrap(), &onnx, &|_| {}).unwrap();
    let (report, _) = compiled(&libraries, &onnx, &options("sm75", 64)).unwrap();
    let summary = report.summary();
    assert_eq!(summary.fused_attention, 1, "{summary}");
    assert_eq!(summary.gemms.keys().collect::<Vec<_>>(), ["Half"], "{summary}");
}

#[test]
fn refusals_of_the_library_keep_its_words() {
    let Some(libraries) = libraries("refusals") else { return };
    let place = place();
    let fp32 = model(place.path(), fixture("tiny-bert"), "tract", Precision::Fp32);
    let message = compiled(&libraries, &fp32, &options("sm75", 64)).unwrap_err().to_string();
    assert!(message.contains("FP32 GEMM is not supported"), "{message}");

    let mut short = options("sm75", 64);
    short.profiles[0].pop();
    let message = compiled(&libraries, &fp32, &short).unwrap_err().to_string();
    assert!(message.contains("token_type_ids"), "{message}");

    let garbage = place.path().join("garbage.onnx");
    std::fs::write(&garbage, "garbage").unwrap();
    let message = compiled(&libraries, &garbage, &options("sm75", 64)).unwrap_err().to_string();
    assert!(message.contains("garbage.onnx"), "{message}");
}

#[test]
fn decoders_with_convolutions_and_angles_by_length_compile_for_every_gpu_generation() {
    let Some(libraries) = libraries("plans of decoders") else { return };
    for name in ["lfm2/lm", "ministral3/lm", "phi3/lm-longer", "llama/lm-dynamic"] {
        let place = place();
        let onnx = model(place.path(), fixture(&format!("decoders/{name}")), "tensorrt-rtx:sm75", Precision::Fp16);
        let profile = |text: &str| -> Vec<InputProfile> {
            text.parse::<Shapes>().unwrap().ranges().iter().map(InputProfile::from).collect()
        };
        let all = CompileOptions {
            capabilities: CAPABILITIES.map(|capability| capability.parse().unwrap()).to_vec(),
            profiles: vec![profile("1x1..1x8..4x16,past=0"), profile("1x1..1x1..4x1,past=1..8..15")],
            ..CompileOptions::default()
        };
        let (report, _) = compiled(&libraries, &onnx, &all).unwrap_or_else(|e| panic!("{name}: {e}"));
        let summary = report.summary();
        let precisions: Vec<&String> = summary.gemms.keys().collect();
        assert_eq!(precisions, ["Half"], "{name}: {summary}");
    }
}

#[test]
fn every_family_compiles_for_every_gpu_generation_with_half_precision_products_only() {
    let Some(libraries) = libraries("plans for every family") else { return };
    let families = [
        "albert",
        "bert",
        "camembert",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "roberta",
        "xlm-roberta",
        "xlnet",
    ];
    let heads = ["base", "seqcls", "qa", "mlm", "seqcls-conv"];
    let mut checkpoints: Vec<String> =
        families.iter().flat_map(|family| heads.map(|head| format!("families/{family}/{head}"))).collect();
    checkpoints.extend(["all-modes-dense", "dense-twice"].map(|name| format!("sentence/{name}")));
    // XLNet has no `mlm`, and a convolution is DeBERTa's alone.
    checkpoints.retain(|name| fixture(name).is_dir());
    assert_eq!(checkpoints.len(), 46, "fixtures are not there");
    for name in checkpoints {
        let place = place();
        let onnx = model(place.path(), fixture(&name), "tensorrt-rtx:sm75", Precision::Fp16);
        let segments = ["/albert/", "/bert/", "/electra/", "/xlnet/", "sentence/"];
        let inputs = ["input_ids", "attention_mask", "token_type_ids"];
        let inputs = if segments.iter().any(|part| name.contains(part)) { &inputs[..] } else { &inputs[..2] };
        let capabilities = CAPABILITIES.map(|capability| capability.parse().unwrap()).to_vec();
        let all = CompileOptions { capabilities, ..options_for("sm75", 32, inputs) };
        let (report, _) = compiled(&libraries, &onnx, &all).unwrap_or_else(|e| panic!("{name}: {e}"));
        let summary = report.summary();
        let precisions: Vec<&String> = summary.gemms.keys().collect();
        assert_eq!(precisions, ["Half"], "{name}: {summary}");
    }
}

/// A profile to begin texts, with an empty cache, and one to go on with them.
#[test]
fn every_decoder_compiles_for_every_gpu_generation_with_its_cache() {
    let Some(libraries) = libraries("plans for every decoder") else { return };
    let families = std::fs::read_dir(fixture("decoders")).unwrap().map(|entry| entry.unwrap().path().join("lm"));
    // Mixtures of experts are refused: tests/decoders.rs.
    let mixture = |path: &PathBuf| ["gpt_oss/lm", "qwen3_moe/lm"].iter().any(|name| path.ends_with(name));
    let (mixtures, checkpoints): (Vec<PathBuf>, Vec<PathBuf>) =
        families.filter(|path| path.is_dir()).partition(mixture);
    assert!(mixtures.len() == 2 && checkpoints.len() >= 20, "fixtures are not there");
    for checkpoint in checkpoints {
        let (place, name) = (place(), checkpoint.display().to_string());
        let onnx = model(place.path(), checkpoint, "tensorrt-rtx:sm75", Precision::Fp16);
        let profile = |shapes: &Shapes| shapes.ranges().iter().map(InputProfile::from).collect();
        let options = CompileOptions {
            capabilities: CAPABILITIES.map(|capability| capability.parse().unwrap()).to_vec(),
            profiles: Shapes::decoding_up_to(32).iter().map(profile).collect(),
            ..CompileOptions::default()
        };
        let (report, _) = compiled(&libraries, &onnx, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let summary = report.summary();
        let precisions: Vec<&String> = summary.gemms.keys().collect();
        assert_eq!(precisions, ["Half"], "{name}: {summary}");
    }
}
