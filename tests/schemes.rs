//! The number formats: the arithmetic of each, to the digit, and the accuracy of each in every family.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::common::{fixture, openvino, place};
use kilnc::back::{lower, onnx};
use kilnc::build::{self, Calibrator, Model, Observer, Scheme, Source};
use kilnc::eval::{Golden, Parity};
use kilnc::ir::weight::{Blocks, Int8Range};
use kilnc::ir::{Builder, DType, Dim, Graph, Op, Part, TensorType, Weight};
use kilnc::passes::{Manager, QuantizeEmbeddings, QuantizeWeights};
use kilnc::precision::Precision;
use kilnc::runtime::{self, Elements, Named, Options, Runtime, Tensor};
use kilnc::target::Target;
use kilnc::verify::verify;

struct Silent;
impl Observer for Silent {}

const ONE_THREAD: Options = Options { threads: 1 };

/// The first output of a graph on `target`.
fn first_output(graph: Graph, target: &Target, inputs: &Named) -> Vec<f32> {
    let graph = lower(&verify(graph).unwrap(), target).unwrap();
    let place = place();
    let path = place.path().join("model.onnx");
    onnx::write(&graph, &path, &|_| {}).unwrap();
    let mut engine = runtime::open_isolated(Runtime::of(target), &path, ONE_THREAD, &[]).unwrap();
    match engine.run(inputs).unwrap().remove(0).1.elements {
        Elements::F32(values) => values,
        _ => panic!("floats were expected"),
    }
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Named {
    vec![(name.to_owned(), Tensor { shape: shape.to_vec(), elements: Elements::F32(values.to_vec()) })]
}

/// The targets that run here.
fn targets(test: &str) -> Vec<Target> {
    crate::common::children();
    let mut targets = vec![Target::OrtCpu, Target::Tract];
    targets.extend(openvino(test).then_some(Target::OpenVino));
    targets
}

/// `x · w + b` with `x` in steps of 1/4 from −32 (0) to 31.75 (255), and weights in steps of 1 and 1/127.
#[test]
fn static_layers_round_clip_and_add_as_documented() {
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
    let built = || {
        let mut b = Builder::new("g");
        let x = b.input("x", TensorType::new(DType::F32, [Dim::from("b"), Dim::from(2)]));
        let (values, scales) = Weight::f32s(vec![2, 2], &weight).unwrap().quantize(1, Int8Range::Full).unwrap();
        let (values, scales) = (b.weight("values", values), b.weight("scales", scales));
        let bias = b.weight("bias", Weight::f32s(vec![2], &bias).unwrap());
        let op = Op::StaticQuantLinear { to: DType::U8, scale: 0.25, zero_point: 128 };
        let y = b.node("y", op, &[x, values, scales, bias]).unwrap();
        b.output("y", y).unwrap();
        b.finish()
    };
    for target in targets("static layers") {
        let found = first_output(built(), &target, &floats("x", &[3, 2], &x));
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
    let (values, scales) =
        Weight::f32s(vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap().quantize(1, Int8Range::Full).unwrap();
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

/// `x · w + b` with weights of 4 bits in blocks of 16, and of 8 bits by channel.
#[test]
fn layers_with_quantized_weights_multiply_by_their_blocks() {
    let (k, n) = (48, 3);
    // Every block of a row holds all codes times its own step: exact, in every layout.
    let weight: Vec<f32> = (0..n * k).map(|i| ((i * 7 % 16) as f32 - 8.0) * [0.5, 1.0, 2.0][i / 16 % 3]).collect();
    // Kernels may quantize activations block by block: these have no rounding.
    let x: Vec<f32> = (0..2 * k).map(|i| [2.0, 0.0, -2.0, -2.0, 2.0][i % 5]).collect();
    let bias = [1.0, -2.0, 0.5];
    let product = |i: usize, j: usize| (0..k).map(|at| x[i * k + at] * weight[j * k + at]).sum::<f32>() + bias[j];
    let expected: Vec<f32> = (0..2 * n).map(|at| product(at / n, at % n)).collect();
    let built = |how: Option<Blocks>| {
        let mut b = Builder::new("g");
        let x = b.input("x", TensorType::new(DType::F32, [Dim::from("b"), Dim::from(k)]));
        let weight = Weight::f32s(vec![n, k], &weight).unwrap().transpose().unwrap();
        let weight = b.weight("w", weight);
        let bias = b.weight("bias", Weight::f32s(vec![n], &bias).unwrap());
        b.set_role(Some(Part::FeedForwardIn.into()));
        let y = b.node("y", Op::Linear, &[x, weight, bias]).unwrap();
        b.output("y", y).unwrap();
        let graph = verify(b.finish()).unwrap();
        Manager::default().run(&graph, &QuantizeWeights { blocks: how, keep: &[] }).unwrap().into_inner()
    };
    let blocks = |bits, zero_points| Some(Blocks { bits, size: 16, zero_points });
    for target in targets("light weights") {
        let mut forms = vec![(None, 0.2), (blocks(4, false), 0.0), (blocks(4, true), 0.0)];
        if target != Target::Tract {
            forms.extend([(blocks(8, false), 0.0), (blocks(8, true), 0.2)]);
        }
        for (how, rounding) in forms {
            let found = first_output(built(how), &target, &floats("x", &[2, k], &x));
            for (found, expected) in found.iter().zip(&expected) {
                let bound = rounding + 0.02 * expected.abs().max(1.0);
                assert!((found - expected).abs() <= bound, "{target} {how:?}: {found} is not {expected}");
            }
        }
    }
}

/// Rows of a table in 8 bits.
#[test]
fn tables_give_their_rows_times_their_steps() {
    let (rows, width) = (1024, 4);
    let row = |r: usize| [127.0, -64.0, 0.0, 1.0].map(|x| x * (r + 1) as f32);
    let table: Vec<f32> = (0..rows).flat_map(row).collect();
    let built = || {
        let mut b = Builder::new("g");
        let ids = b.input("ids", TensorType::new(DType::I64, ["b", "s"]));
        let table = b.weight("table", Weight::f32s(vec![rows, width], &table).unwrap());
        let y = b.node("y", Op::Embed, &[table, ids]).unwrap();
        b.output("y", y).unwrap();
        let graph = verify(b.finish()).unwrap();
        Manager::default().run(&graph, &QuantizeEmbeddings { keep: &[] }).unwrap().into_inner()
    };
    let invoked = [5usize, 0, 1023, 7];
    let ids = Elements::I64(invoked.map(|id| id as i64).to_vec());
    let inputs = vec![("ids".to_owned(), Tensor { shape: vec![2, 2], elements: ids })];
    let expected: Vec<f32> = invoked.into_iter().flat_map(row).collect();
    for target in targets("tables") {
        assert_eq!(first_output(built(), &target, &inputs), expected, "{target}");
    }
}

fn load(checkpoint: &Path) -> kilnc::Result<Model> {
    build::load(&Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None })
}

/// The bare model of every family.
fn families() -> BTreeMap<String, PathBuf> {
    let folders = std::fs::read_dir(fixture("families")).unwrap().map(|entry| entry.unwrap().path());
    let named = folders.map(|dir| (dir.file_name().unwrap().to_str().unwrap().to_owned(), dir.join("base")));
    let families: BTreeMap<_, _> = named.filter(|(_, dir)| dir.is_dir() && load(dir).is_ok()).collect();
    assert!(families.len() >= 9, "{:?}", families.keys());
    families
}

/// An engine's outputs compared with PyTorch's, calibrated on the inputs that they belong to.
fn parity(model: &Model, checkpoint: &Path, target: &Target, precision: Precision) -> kilnc::Result<Parity> {
    let golden = Golden::read(&checkpoint.join("golden.safetensors"))?;
    let place = place();
    let calibrator = Calibrator::new("golden", vec![golden.inputs().clone()], place.path().to_owned(), &Silent);
    let scheme = Scheme { calibrator: Some(&calibrator), ..Scheme::new(target, precision) };
    let graph = build::compile(model.graph(), &scheme, &mut Manager::default())?;
    let path = place.path().join("model.onnx");
    onnx::write_with(&graph, &path, &build::hints(target, precision).metadata(), &|_| {})?;
    golden.compare(&mut *runtime::open_isolated(Runtime::of(target), &path, ONE_THREAD, &[])?)
}

/// The bounds of each number format; random weights are harder on few bits than trained ones, so this
/// only finds gross errors.
const FORMATS: [(Precision, f64); 7] = [
    (Precision::Fp16, 0.9999),
    (Precision::Bf16, 0.999),
    (Precision::Int8, 0.9),
    (Precision::Int8Fast, 0.9),
    (Precision::Int8Static, 0.9),
    (Precision::Int8Weights, 0.99),
    (Precision::Int4, 0.5),
];

#[test]
fn every_family_comes_through_every_format() {
    let targets = targets("number formats of every family");
    let mut wrong = Vec::new();
    for (family, checkpoint) in families() {
        let model = load(&checkpoint).unwrap();
        for target in &targets {
            // An emulated processor is slow: of what depends on it, one format for each target that other tests do not run.
            let emulated = std::env::var_os(crate::common::PROGRAM).is_some();
            let slow = [(Target::OrtCpu, Precision::Int8Static), (Target::OpenVino, Precision::Int8)];
            let invoked = |p: Precision| {
                build::supports(target, p)
                    && (!emulated || slow.iter().any(|(on, format)| (on, *format) == (target, p)))
            };
            for (precision, least) in FORMATS.into_iter().filter(|(p, _)| invoked(*p)) {
                if (family.as_str(), target, precision) == ("modernbert", &Target::OpenVino, Precision::Bf16) {
                    // Refused; see below.
                    continue;
                }
                let parity = parity(&model, &checkpoint, target, precision);
                if !parity.as_ref().is_ok_and(|parity| parity.non_finite == 0 && parity.min_cosine >= least) {
                    wrong.push(format!("{family} in {precision} on {target}: {parity:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Compiles without texts to calibrate on.
fn refused(model: &Model, target: &str, precision: Precision) -> String {
    let target: Target = target.parse().unwrap();
    build::compile(model.graph(), &Scheme::new(&target, precision), &mut Manager::default()).err().unwrap().to_string()
}

#[test]
fn schemes_that_a_target_cannot_run_are_refused_by_name() {
    let model = load(&fixture("tiny-bert")).unwrap();
    let said = |target: &str, precision| refused(&model, target, precision);
    for (target, precision) in
        [("ort-cpu", Precision::Int8Static), ("openvino", Precision::Int8), ("openvino", Precision::Int8Fast)]
    {
        assert_eq!(
            said(target, precision),
            format!(
                "{precision} for {target} needs the ranges of the activations, and none were observed\n\n\
                 hint: calibrate with texts like those that the engine will read"
            )
        );
    }
    let local = load(&fixture("families/modernbert/base")).unwrap();
    assert_eq!(
        refused(&local, "openvino", Precision::Bf16),
        "`model.layers.1.attn` has a bias that all heads share, with which openvino computes wrongly in bf16\n\n\
         hint: use fp32, int8 or int8-weights for this model"
    );
    for target in ["ort-cpu", "tract", "tensorrt-rtx:sm80"] {
        assert_eq!(
            said(target, Precision::Bf16),
            format!(
                "{target} has no kernels for bf16\n\nhint: use fp16 for it; of all targets, openvino computes in bf16"
            )
        );
    }
    assert_eq!(
        said("tensorrt-rtx:sm75", Precision::Int4),
        "tensorrt-rtx:sm75 runs no layers whose weights alone are of 4 bits\n\nhint: use fp16 for it"
    );
    assert_eq!(
        said("tensorrt-rtx:sm75", Precision::Fp32),
        "tensorrt-rtx:sm75 multiplies no 32-bit matrices\n\nhint: use fp16 for it"
    );
}
