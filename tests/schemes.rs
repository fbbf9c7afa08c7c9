//! The number formats: what each computes, to the digit, and what each leaves of every family's answers.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{fixture, openvino, place};
use kilnc::back::{lower, onnx};
use kilnc::checkpoint::safetensors;
use kilnc::eval::{Golden, Parity};
use kilnc::ir::{Builder, DType, Dim, Graph, Op, TensorType, Weight};
use kilnc::passes::{FuseQkv, Manager, Ranges};
use kilnc::pipeline::{self, Model, Source};
use kilnc::precision::Precision;
use kilnc::runtime::{self, Elements, Named, Options, Runtime, Tensor};
use kilnc::target::Target;
use kilnc::verify::verify;
use onnx_protobuf::{Message, ModelProto, ValueInfoProto};

const ONE_THREAD: Options = Options { threads: 1 };

fn runtime_of(target: &Target) -> Runtime {
    match target {
        Target::OrtCpu => Runtime::Ort,
        Target::OpenVino => Runtime::OpenVino,
        Target::Tract => Runtime::Tract,
        Target::TensorRtRtx(_) => panic!("its plans are not run here"),
    }
}

/// The first output of a graph on `target`.
fn first_output(graph: Graph, target: &Target, inputs: &Named) -> Vec<f32> {
    let graph = lower(&verify(graph).unwrap(), target).unwrap();
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {}).unwrap();
    let mut engine = runtime::open_apart(runtime_of(target), &path, ONE_THREAD).unwrap();
    match engine.run(inputs).unwrap().remove(0).1.elements {
        Elements::F32(values) => values,
        Elements::I64(_) => panic!("floats were expected"),
    }
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Named {
    vec![(name.to_owned(), Tensor { shape: shape.to_vec(), elements: Elements::F32(values.to_vec()) })]
}

/// The targets that run here.
fn targets(test: &str) -> Vec<Target> {
    common::children();
    let mut targets = vec![Target::OrtCpu, Target::Tract];
    targets.extend(openvino(test).then_some(Target::OpenVino));
    targets
}

/// `x · w + b` with `x` in steps of 1/4 from −32 (0) to 31.75 (255), and weights in steps of 1 and 1/127.
#[test]
fn static_layers_round_clip_and_add_as_they_say() {
    let x = [
        0.25, -0.5, // exact
        0.37, -0.13, // rounded to 0.25 and −0.25
        100.0, -100.0, // clipped to 31.75 and −32
    ];
    let weight = [127.0, 1.0, -64.0, 0.5];
    let bias = [1.0, 0.0];
    let expected = [
        0.25 * 127.0 + 0.5 * 64.0 + 1.0,
        0.25 - 0.5 * (64.0 / 127.0),
        0.25 * 127.0 + 0.25 * 64.0 + 1.0,
        0.25 - 0.25 * (64.0 / 127.0),
        31.75 * 127.0 + 32.0 * 64.0 + 1.0,
        31.75 - 32.0 * (64.0 / 127.0),
    ];
    let drawn = || {
        let mut b = Builder::new("g");
        let x = b.input("x", TensorType::new(DType::F32, [Dim::from("b"), Dim::from(2)]));
        let (values, scales) = Weight::f32s(vec![2, 2], &weight).unwrap().quantize(1).unwrap();
        let (values, scales) = (b.weight("values", values), b.weight("scales", scales));
        let bias = b.weight("bias", Weight::f32s(vec![2], &bias).unwrap());
        let op = Op::StaticQuantLinear { to: DType::U8, scale: 0.25, zero_point: 128 };
        let y = b.node("y", op, &[x, values, scales, bias]).unwrap();
        b.output("y", y).unwrap();
        b.finish()
    };
    for target in targets("static layers") {
        let found = first_output(drawn(), &target, &floats("x", &[3, 2], &x));
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-3 * expected.abs(), "{target}: {found} is not {expected}");
        }
    }
}

/// Two layers that read one value quantize it once.
#[test]
fn layers_of_one_input_share_its_quantization() {
    let mut b = Builder::new("g");
    let x = b.input("x", TensorType::new(DType::F32, [Dim::from("b"), Dim::from(2)]));
    let (values, scales) = Weight::f32s(vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap().quantize(1).unwrap();
    let (values, scales) = (b.weight("values", values), b.weight("scales", scales));
    let op = |zero_point| Op::StaticQuantLinear { to: DType::U8, scale: 0.25, zero_point };
    let first = b.node("first", op(128), &[x, values, scales]).unwrap();
    let second = b.node("second", op(128), &[x, values, scales]).unwrap();
    let third = b.node("third", op(127), &[x, values, scales]).unwrap();
    for (name, id) in [("first", first), ("second", second), ("third", third)] {
        b.output(name, id).unwrap();
    }
    let graph = verify(b.finish()).unwrap();
    for (target, dequantized) in [(Target::OrtCpu, 0), (Target::Tract, 0), (Target::OpenVino, 2 + 3)] {
        let lowered = lower(&graph, &target).unwrap();
        let count = |name: &str| lowered.nodes().filter(|(_, node)| node.op.name() == name).count();
        assert_eq!((count("QuantizeLinear"), count("DequantizeLinear")), (2, dequantized), "{target}");
    }
}

fn load(checkpoint: &Path) -> kilnc::Result<Model> {
    pipeline::load(&Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), task: None })
}

/// The range of every linear layer's input on the inputs of a golden file, by an FP32 engine that gives them out.
fn observed(model: &Model, golden: &Path) -> Ranges {
    let fused = Manager::default().run(&model.graph, &FuseQkv).unwrap();
    let layers = fused.nodes().filter(|(_, node)| node.op == Op::Linear);
    let names: Vec<String> =
        layers.filter_map(|(_, node)| Some(fused.value(node.inputs[0]?).name.clone())).collect::<Vec<_>>();
    let plain = pipeline::compile(model, &Target::OrtCpu, Precision::Fp32, &mut Manager::default()).unwrap();
    let place = place();
    let path = place.path().join("tapped.onnx");
    onnx::write(&plain, &path, &|_| {}).unwrap();
    let mut tapped = ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
    for name in &names {
        if !tapped.graph.output.iter().any(|output| output.name == *name) {
            tapped.graph.as_mut().unwrap().output.push(ValueInfoProto { name: name.clone(), ..Default::default() });
        }
    }
    std::fs::write(&path, tapped.write_to_bytes().unwrap()).unwrap();
    let mut engine = runtime::open_apart(Runtime::Ort, &path, ONE_THREAD).unwrap();
    let mut ranges = Ranges::new();
    for (name, tensor) in engine.run(&golden_inputs(golden)).unwrap() {
        if let (true, Elements::F32(values)) = (names.contains(&name), &tensor.elements) {
            let low = values.iter().copied().fold(f32::INFINITY, f32::min);
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            ranges.insert(name, (low, high));
        }
    }
    ranges
}

fn golden_inputs(golden: &Path) -> Named {
    let tensors = safetensors::read(golden).unwrap();
    let input = |(name, weight): (String, Weight)| {
        let name = name.strip_prefix("in.")?.to_owned();
        let bytes = weight.evaluate().unwrap().as_bytes().to_vec();
        let values = bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        Some((name, Tensor { shape: weight.shape().to_vec(), elements: Elements::I64(values) }))
    };
    tensors.into_iter().filter_map(input).collect()
}

/// The bare model of every family.
fn families() -> BTreeMap<String, PathBuf> {
    let folders = std::fs::read_dir(fixture("families")).unwrap().map(|entry| entry.unwrap().path());
    let named = folders.map(|dir| (dir.file_name().unwrap().to_str().unwrap().to_owned(), dir.join("base")));
    let families: BTreeMap<_, _> = named.filter(|(_, dir)| dir.is_dir() && load(dir).is_ok()).collect();
    assert!(families.len() >= 9, "{:?}", families.keys());
    families
}

/// An engine's outputs held against PyTorch's.
fn parity(
    model: &Model,
    checkpoint: &Path,
    target: &Target,
    precision: Precision,
    ranges: &Ranges,
) -> kilnc::Result<Parity> {
    let graph = pipeline::compile_calibrated(model, target, precision, ranges, &mut Manager::default())?;
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {})?;
    let mut engine = runtime::open_apart(runtime_of(target), &path, ONE_THREAD)?;
    Golden::read(&checkpoint.join("golden.safetensors"))?.compare(&mut *engine)
}

#[test]
fn every_family_keeps_its_answers_in_static_8_bits() {
    let targets = targets("static INT8 of every family");
    for (family, checkpoint) in families() {
        let model = load(&checkpoint).unwrap();
        let ranges = observed(&model, &checkpoint.join("golden.safetensors"));
        for target in &targets {
            let parity = parity(&model, &checkpoint, target, Precision::Int8Static, &ranges)
                .unwrap_or_else(|e| panic!("{family} on {target}: {e}"));
            // Random weights are harder on 8 bits than trained ones: this only tells right from wrong.
            assert!(parity.non_finite == 0 && parity.min_cosine >= 0.9, "{family} on {target}: {parity:?}");
        }
    }
}

#[test]
fn static_8_bits_without_ranges_are_refused() {
    let model = load(&fixture("tiny-bert")).unwrap();
    let error =
        pipeline::compile(&model, &Target::OrtCpu, Precision::Int8Static, &mut Manager::default()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "int8-static needs the ranges of the activations, and none were observed\n\n\
         hint: calibrate with texts like those that the engine will answer"
    );
}

#[test]
fn what_a_target_cannot_run_is_refused_by_name() {
    let model = load(&fixture("tiny-bert")).unwrap();
    let said = |target: &str, precision| {
        let target: Target = target.parse().unwrap();
        pipeline::compile(&model, &target, precision, &mut Manager::default()).err().unwrap().to_string()
    };
    assert_eq!(
        said("openvino", Precision::Int8),
        "`bert.encoder.layer.0.attention.self.qkv` is quantized with dynamic ranges, which this target cannot run\n  \
         in lowering to openvino\n\nhint: use int8-static for this target"
    );
    assert_eq!(
        said("tensorrt-rtx:sm75", Precision::Fp32),
        "tensorrt-rtx:sm75 multiplies no 32-bit matrices\n\nhint: use fp16 for it"
    );
}
