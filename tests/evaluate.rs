//! The evaluator gives PyTorch's numbers for every family on every target's graph, and those of other processors and of
//! half precision, on every machine.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{copied, kilnc, place};
use crate::families::fixtures;
use kilnc::build::{self, Calibrator, Model, Observer, Scheme, Source};
use kilnc::eval::{Golden, Parity};
use kilnc::evaluate::{Arithmetic, Evaluator, Floats, Int8Sums};
use kilnc::ir::weight::Int8Range;
use kilnc::ir::{Graph, Op};
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Elements, Engine, Named, Options, Processor, Runtime, Tensor};
use kilnc::target::Target;
use kilnc::verify::Verified;
use safetensors::tensor::{Dtype, TensorView};

struct Silent;
impl Observer for Silent {}

const EXACT: Arithmetic = Arithmetic { float: Floats::Exact, int8: Int8Sums::Exact };
const SATURATING: Arithmetic = Arithmetic { float: Floats::Exact, int8: Int8Sums::Saturating };
const ROUNDED: Arithmetic = Arithmetic { float: Floats::RoundEachNode, int8: Int8Sums::Exact };

fn load(checkpoint: &Path) -> Model {
    build::load(&Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None }).unwrap()
}

fn golden(checkpoint: &Path) -> Golden {
    Golden::read(&checkpoint.join("golden.safetensors")).unwrap()
}

fn targets() -> Vec<Target> {
    ["ort-cpu", "openvino", "tract", "web", "tensorrt", "tensorrt-rtx:sm75"].map(|name| name.parse().unwrap()).to_vec()
}

/// The graph of an engine that is calibrated on a golden file's inputs.
fn compiled(model: &Model, golden: &Golden, scheme: Scheme) -> kilnc::Result<Verified<Graph>> {
    let place = place();
    let calibrator = Calibrator::new("golden", vec![golden.inputs().clone()], place.path().to_owned(), &Silent);
    build::compile(model.graph(), &Scheme { calibrator: Some(&calibrator), ..scheme }, &mut Manager::default())
}

fn parity(graph: &Verified<Graph>, arithmetic: Arithmetic, golden: &Golden) -> Parity {
    golden.compare(&mut *build::open_evaluator(graph, arithmetic).unwrap()).unwrap()
}

/// All outputs, one after another.
fn outputs(engine: &mut dyn Engine, inputs: &Named) -> Vec<f32> {
    let floats = |(_, tensor): (String, Tensor)| match tensor.elements {
        Elements::F32(values) => values,
        _ => panic!("floats were expected"),
    };
    engine.run(inputs).unwrap().into_iter().flat_map(floats).collect()
}

fn evaluated(graph: &Verified<Graph>, arithmetic: Arithmetic, inputs: &Named) -> Vec<f32> {
    outputs(&mut *build::open_evaluator(graph, arithmetic).unwrap(), inputs)
}

#[test]
fn every_fixture_gives_pytorchs_outputs_on_every_targets_graph() {
    let mut wrong = Vec::new();
    for (name, path) in fixtures() {
        let (model, golden) = (load(&path), golden(&path));
        for target in targets() {
            // A target that multiplies no 32-bit matrices has the operations of one that does.
            let target = if target.capabilities().fp32_gemm { target } else { "tensorrt-rtx:sm80".parse().unwrap() };
            let graph = compiled(&model, &golden, Scheme::new(&target, Precision::Fp32)).unwrap();
            let parity = parity(&graph, EXACT, &golden);
            if parity.max_abs > 1e-4 || parity.non_finite > 0 {
                wrong.push(format!("{name} for {target}: {parity:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In half precision rounded at every node, and in every other number format that a target has.
#[test]
fn every_family_comes_through_every_format_of_every_target() {
    let least = |precision| match precision {
        Precision::Fp32 => 0.999_999,
        Precision::Fp16 => 0.999_9,
        Precision::Bf16 => 0.99,
        Precision::Int8Weights => 0.98,
        // Random weights are harder on few bits than trained ones: this only finds gross errors.
        Precision::Int8 | Precision::Int8Fast | Precision::Int8Static => 0.9,
        Precision::Int4 => 0.5,
    };
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (name, path) in fixtures().iter().filter(|(name, _)| name.ends_with("/base") || name.ends_with("/mlm")) {
        let (model, golden) = (load(path), golden(path));
        for target in targets() {
            for precision in Precision::ALL.into_iter().filter(|p| build::supports(&target, *p)) {
                if (name.starts_with("modernbert"), &target, precision) == (true, &Target::OpenVino, Precision::Bf16) {
                    // Refused: see `schemes.rs`.
                    continue;
                }
                let graph = compiled(&model, &golden, Scheme::new(&target, precision)).unwrap();
                let parity = parity(&graph, ROUNDED, &golden);
                checked += 1;
                if parity.min_cosine < least(precision) || parity.non_finite > 0 {
                    wrong.push(format!("{name} in {precision} for {target}: {parity:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 400, "only {checked} engines were checked");
}

/// The same texts without padding, whose values kernels do not define.
fn unpadded(inputs: &Named) -> Named {
    let mut inputs = inputs.clone();
    for (_, tensor) in inputs.iter_mut().filter(|(name, _)| name == "attention_mask") {
        tensor.elements = Elements::I64(vec![1; tensor.shape.iter().product()]);
    }
    inputs
}

/// What two kinds of processors make of 8-bit layers: ONNX Runtime, here, agrees with one of them.
#[test]
fn sums_that_saturate_differ_from_exact_ones_and_reduced_ranges_make_them_equal() {
    let here = if Processor::here().exact_8_bits() { EXACT } else { SATURATING };
    let (mut saturated, mut checked) = (Vec::new(), 0);
    for (name, path) in fixtures().into_iter().filter(|(name, _)| name.ends_with("/base") || name.ends_with("/mlm")) {
        let (model, golden) = (load(&path), golden(&path));
        let inputs = unpadded(golden.inputs());
        let graph_in = |range| {
            let scheme = Scheme { range, ..Scheme::new(&Target::OrtCpu, Precision::Int8) };
            compiled(&model, &golden, scheme).unwrap()
        };
        let reduced = graph_in(Int8Range::Reduced);
        assert_eq!(
            evaluated(&reduced, EXACT, &inputs),
            evaluated(&reduced, SATURATING, &inputs),
            "{name} in a reduced range"
        );
        let full = graph_in(Int8Range::Full);
        if evaluated(&full, EXACT, &inputs) != evaluated(&full, SATURATING, &inputs) {
            saturated.push(name.clone());
        }
        let place = place();
        for graph in [full, reduced] {
            let path = place.path().join("model.onnx");
            kilnc::back::onnx::write(&graph, &path, &|_| {}).unwrap();
            let found = outputs(&mut *runtime::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap(), &inputs);
            let ours = evaluated(&graph, here, &inputs);
            let parity = Parity::of([(ours.as_slice(), found.as_slice())]).unwrap();
            // A last digit of a float can be another step of 8 bits.
            assert!(parity.min_cosine >= 0.999, "{name}: {parity:?}");
            checked += 1;
        }
    }
    assert!(checked >= 30 && saturated.len() >= 3, "{checked} engines, {saturated:?} saturate");
}

/// A layer of 8 bits whose weights are as large as they can be: nothing hides what its sums do.
#[test]
fn onnx_runtime_adds_as_the_evaluator_on_this_processor() {
    use kilnc::ir::{Builder, DType, Dim, TensorType, Weight};
    let (k, n) = (130, 8);
    let mut b = Builder::new("g");
    let x = b.input("x", TensorType::new(DType::F32, [Dim::from("b"), Dim::from(k)]));
    let weight: Vec<f32> = (0..k * n).map(|i| if i * 7 % 5 == 0 { -126.0 } else { 127.0 }).collect();
    let (values, scales) = Weight::f32s(vec![k, n], &weight).unwrap().quantize(1, Int8Range::Full).unwrap();
    let (values, scales) = (b.weight("values", values), b.weight("scales", scales));
    let y = b.node("y", Op::DynamicQuantLinear, &[x, values, scales]).unwrap();
    b.output("y", y).unwrap();
    let graph = kilnc::back::lower(&kilnc::verify::verify(b.finish()).unwrap(), &Target::OrtCpu).unwrap();
    // Steps of 1 from 0 to 255: rounded exactly.
    let rows = 3;
    let values: Vec<f32> = (0..rows * k).map(|i| if i % 3 == 0 { 255.0 } else { (i * 13 % 256) as f32 }).collect();
    let inputs = vec![("x".to_owned(), Tensor { shape: vec![rows, k], elements: Elements::F32(values) })];
    let (exact, saturating) = (evaluated(&graph, EXACT, &inputs), evaluated(&graph, SATURATING, &inputs));
    assert!(exact.iter().zip(&saturating).all(|(a, b)| a > b), "{exact:?} {saturating:?}");
    let place = place();
    let path = place.path().join("model.onnx");
    kilnc::back::onnx::write(&graph, &path, &|_| {}).unwrap();
    let found = outputs(&mut *runtime::open(Runtime::Ort, &path, Options { threads: 1 }).unwrap(), &inputs);
    assert_eq!(found, if Processor::here().exact_8_bits() { exact } else { saturating });
}

/// A copy of a classifier one of whose layers computes numbers beyond 65,504, after which a norm scales them back.
fn overflowing() -> tempfile::TempDir {
    let checkpoint = copied("answers/bert/seqcls");
    let path = checkpoint.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let changed: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let mut data = view.data().to_vec();
            if name.ends_with("layer.0.output.dense.weight") {
                assert_eq!(view.dtype(), Dtype::F32);
                for element in data.chunks_exact_mut(4) {
                    let large = f32::from_le_bytes(element.try_into().unwrap()) * 1.15e5;
                    element.copy_from_slice(&large.to_le_bytes());
                }
            }
            (name, (view.dtype(), view.shape().to_vec(), data))
        })
        .collect();
    let views = changed
        .iter()
        .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    checkpoint
}

/// Three texts of the classifier, padded.
fn texts() -> Named {
    let ids: Vec<i64> = (0..3 * 8).map(|i| 5 + i * 7 % 40).collect();
    let mask: Vec<i64> = (0..3 * 8).map(|i| i64::from(i % 8 < 6 || i < 8)).collect();
    let tensor = |values: Vec<i64>| Tensor { shape: vec![3, 8], elements: Elements::I64(values) };
    [("input_ids", ids), ("attention_mask", mask), ("token_type_ids", vec![0; 24])]
        .map(|(name, values)| (name.to_owned(), tensor(values)))
        .to_vec()
}

#[test]
fn a_layer_beyond_half_precision_is_found_named_and_left_wide() {
    let checkpoint = overflowing();
    let model = load(checkpoint.path());
    let reference: Target = "tensorrt-rtx:sm80".parse().unwrap();
    let compile = |scheme: Scheme, manager: &mut Manager| build::compile(model.graph(), &scheme, manager).unwrap();
    let expected = compile(Scheme::new(&reference, Precision::Fp32), &mut Manager::default());
    let expected = evaluated(&expected, EXACT, &texts());
    let parity = |found: &[f32]| Parity::of(expected.chunks(3).zip(found.chunks(3))).unwrap();
    let place = place();
    let calibrator = Calibrator::new("texts", vec![texts()], place.path().to_owned(), &Silent);
    for (name, how) in [("tensorrt-rtx:sm75", "scaled by a power of two"), ("tensorrt-rtx:sm80", "it stays in f32")] {
        let target: Target = name.parse().unwrap();
        let blind = compile(Scheme::new(&target, Precision::Fp16), &mut Manager::default());
        // What ONNX Runtime's CPU would say: all is well.
        assert!(parity(&evaluated(&blind, EXACT, &texts())).min_cosine > 0.999, "{name}");
        let rounded = parity(&evaluated(&blind, ROUNDED, &texts()));
        assert!(rounded.non_finite > 0 || rounded.min_cosine < 0.99, "{name}: {rounded:?}");
        let mut evaluator = Evaluator::new(&blind, ROUNDED).unwrap();
        let mut first = None;
        let inputs: Vec<_> = texts()
            .into_iter()
            .map(|(name, tensor)| match tensor.elements {
                Elements::I64(values) => (name, kilnc::evaluate::Array::i64s(&tensor.shape, values).unwrap()),
                _ => unreachable!("tokens are integers"),
            })
            .collect();
        let inputs = inputs.iter().map(|(name, array)| (name.as_str(), array.clone())).collect();
        for range in kilnc::evaluate::ranges(&mut evaluator, [inputs]).unwrap() {
            if range.non_finite > 0 && first.is_none() {
                first = range.role.map(|role| role.name());
            }
        }
        assert_eq!(first.as_deref(), Some("ffn-out/0"), "{name}");

        let mut manager = Manager::default();
        let scheme = Scheme { calibrator: Some(&calibrator), ..Scheme::new(&target, Precision::Fp16) };
        let mended = compile(scheme, &mut manager);
        let found = parity(&evaluated(&mended, ROUNDED, &texts()));
        assert!(found.non_finite == 0 && found.min_cosine > 0.9999, "{name}: {found:?}");
        let left = &manager.ran.iter().find(|ran| ran.name == "half").unwrap().report.left;
        assert!(left.len() == 1 && left[0].contains("layer.0.output.dense: ") && left[0].contains(how), "{left:?}");
    }
}

#[test]
fn a_model_in_range_is_narrowed_whole() {
    let model = load(&crate::common::fixture("answers/bert/seqcls"));
    let place = place();
    let calibrator = Calibrator::new("texts", vec![texts()], place.path().to_owned(), &Silent);
    for name in ["tensorrt", "tensorrt-rtx:sm75"] {
        let target: Target = name.parse().unwrap();
        let text = |calibrator| {
            let mut manager = Manager::default();
            let scheme = Scheme { calibrator, ..Scheme::new(&target, Precision::Fp16) };
            let graph = build::compile(model.graph(), &scheme, &mut manager).unwrap();
            assert_eq!(manager.ran.iter().map(|ran| ran.report.left.len()).sum::<usize>(), 0, "{:?}", manager.ran);
            graph.to_string()
        };
        assert_eq!(text(Some(&calibrator)), text(None), "{name}");
    }
}

#[test]
fn layers_beyond_half_precision_are_warned_of() {
    let (checkpoint, place) = (overflowing(), place());
    let out = place.path().join("model.onnx");
    let texts = place.path().join("texts.jsonl");
    std::fs::write(&texts, "{\"text\": \"a mail server\"}\n").unwrap();
    let export = |target: &str, more: &[&std::ffi::OsStr]| {
        let mut arguments =
            arguments!["export", checkpoint.path(), "--target", target, "--precision", "fp16", "-o", out].to_vec();
        arguments.extend(more.iter().map(std::ffi::OsString::from));
        kilnc(arguments)
    };
    let layer = "warning: bert.encoder.layer.0.output.dense: ";
    let said = export("tensorrt-rtx:sm80", &["--calibration".as_ref(), texts.as_ref()]).expect(0).stderr;
    assert!(said.contains(&format!("{layer}it stays in f32, its values reach ")), "{said}");
    let said = export("tensorrt-rtx:sm75", &[]).expect(0).stderr;
    assert!(said.contains(&format!("{layer}its products are scaled by a power of two")), "{said}");
    // Weights are stored in half precision there, and nothing is computed in it.
    let said = export("web", &[]).expect(0).stderr;
    assert!(!said.contains("warning"), "{said}");
    std::fs::remove_file(checkpoint.path().join("tokenizer.json")).unwrap();
    let said = export("tensorrt-rtx:sm80", &[]).expect(0).stderr;
    assert!(said.contains("warning: no text can be tokenized, so no layer stays in FP32 for the range"), "{said}");
}

#[test]
fn a_build_names_the_layers_that_it_keeps_in_fp32() {
    let (checkpoint, place) = (overflowing(), place());
    let out = place.path().join("out.kiln");
    let said =
        kilnc(arguments!["build", checkpoint.path(), "--target", "tensorrt-rtx:sm75", "--quantize", "fp16", "-o", out]);
    assert!(
        said.stderr.contains(
            "warning: tensorrt-rtx-sm75-fp16: bert.encoder.layer.0.output.dense: its products are scaled by a power of two"
        ),
        "{}",
        said.stderr
    );
}

/// Layers that a recipe keeps are in FP32 where the target computes in half precision.
#[test]
fn layers_stay_in_fp32_by_their_roles() {
    let model = load(&crate::common::fixture("answers/bert/seqcls"));
    let keep: [kilnc::ir::Role; 2] = ["ffn-out/0".parse().unwrap(), "embedding".parse().unwrap()];
    let target: Target = "tensorrt".parse().unwrap();
    let mut manager = Manager::default();
    let scheme = Scheme { keep: &keep, ..Scheme::new(&target, Precision::Fp16) };
    let graph = build::compile(model.graph(), &scheme, &mut manager).unwrap();
    let left = &manager.ran.iter().find(|ran| ran.name == "half").unwrap().report.left;
    assert!(left.contains(&"bert.encoder.layer.0.output.dense: it stays in f32 by `keep`".to_owned()), "{left:?}");
    let wide = |name: &str| graph.value(graph.find(name).unwrap()).ty.dtype.to_string();
    assert_eq!(wide("bert.encoder.layer.0.output.dense"), "f32");
    assert_eq!(wide("bert.encoder.layer.1.output.dense"), "f16");
}
