//! Attention, rotations and root-mean-square norms: the evaluator on every target's graph, ONNX Runtime and tract compute
//! the mathematics, written here as in the papers.

use std::collections::BTreeMap;

use crate::common::place;
use kilnc::back;
use kilnc::build;
use kilnc::evaluate::{Arithmetic, Evaluator, Floats};
use kilnc::ir::{Builder, DType, Dim, Graph, Op, TensorType, ValueId, Weight, text};
use kilnc::runtime::{self, Elements, Engine, Named, Options, Runtime, Tensor};
use kilnc::target::Target;
use kilnc::verify::{Verified, verify};

const BATCH: usize = 2;
const SIZE: usize = 4;

/// Which keys count.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mask {
    None,
    /// Zeros before, as generation pads.
    Left,
    /// Zeros after.
    Right,
    /// For each query its own.
    Pairs,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bias {
    None,
    /// One for all heads and texts.
    Shared,
    PerHead,
}

/// Where keys and values come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    /// The tokens of the queries.
    Own,
    /// The tokens of the queries, and those of the past.
    WithPast,
    /// Another component's rows.
    Other,
    /// Another component's rows, already by head.
    OtherByHead,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    keys: Keys,
    causal: bool,
    window: Option<usize>,
    soft_cap: Option<f32>,
    mask: Mask,
    bias: Bias,
}

const PLAIN: Case = Case {
    heads: 4,
    kv_heads: 4,
    keys: Keys::Own,
    causal: false,
    window: None,
    soft_cap: None,
    mask: Mask::Right,
    bias: Bias::None,
};
const DECODER: Case = Case { keys: Keys::WithPast, causal: true, mask: Mask::Left, ..PLAIN };
const SCALE: f32 = 0.6;

/// Tokens, and those before them or of the other component.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    queries: usize,
    others: usize,
}

impl Case {
    /// The lengths in which one graph is run: prefill, steps and pieces where there is a past.
    fn lengths(&self) -> Vec<Lengths> {
        let runs: &[(usize, usize)] = match self.keys {
            Keys::Own => &[(5, 0), (1, 0)],
            Keys::WithPast => &[(5, 0), (1, 6), (3, 4)],
            Keys::Other | Keys::OtherByHead => &[(3, 5), (1, 2), (4, 4)],
        };
        runs.iter().map(|(queries, others)| Lengths { queries: *queries, others: *others }).collect()
    }

    fn new_keys(&self, lengths: Lengths) -> usize {
        if matches!(self.keys, Keys::Own | Keys::WithPast) { lengths.queries } else { lengths.others }
    }

    fn all_keys(&self, lengths: Lengths) -> usize {
        let past = if self.keys == Keys::WithPast { lengths.others } else { 0 };
        self.new_keys(lengths) + past
    }

    fn graph(&self) -> Verified<Graph> {
        let mut b = Builder::new("attention");
        let (batch, tokens) = (Dim::from("batch_size"), Dim::from("sequence_length"));
        let other = Dim::from("past_sequence_length");
        let (new, all) = match self.keys {
            Keys::Own => (tokens.clone(), tokens.clone()),
            Keys::WithPast => (tokens.clone(), other.plus(&tokens).unwrap()),
            Keys::Other | Keys::OtherByHead => (other.clone(), other.clone()),
        };
        let floats = |shape: Vec<Dim>| TensorType::new(DType::F32, shape);
        let kv = match self.keys {
            Keys::OtherByHead => vec![batch.clone(), self.kv_heads.into(), new, SIZE.into()],
            _ => vec![batch.clone(), new, (self.kv_heads * SIZE).into()],
        };
        let q = b.input("q", floats(vec![batch.clone(), tokens.clone(), (self.heads * SIZE).into()]));
        let (k, v) = (b.input("k", floats(kv.clone())), b.input("v", floats(kv)));
        let mask = match self.mask {
            Mask::None => None,
            Mask::Pairs => Some(vec![batch.clone(), tokens.clone(), all.clone()]),
            Mask::Left | Mask::Right => Some(vec![batch.clone(), all.clone()]),
        };
        let mask = mask.map(|shape| b.input("mask", TensorType::new(DType::I64, shape)));
        let bias = match self.bias {
            Bias::None => None,
            Bias::Shared => Some(vec![Dim::Fixed(1), Dim::Fixed(1), tokens, all]),
            Bias::PerHead => Some(vec![Dim::Fixed(1), self.heads.into(), tokens, all]),
        };
        let bias = bias.map(|shape| b.input("bias", floats(shape)));
        let past = vec![batch, self.kv_heads.into(), other, SIZE.into()];
        let past: Vec<ValueId> = match self.keys {
            Keys::WithPast => ["past_key", "past_value"].map(|name| b.input(name, floats(past.clone()))).to_vec(),
            _ => Vec::new(),
        };
        let op = Op::Attention {
            heads: self.heads as i64,
            scale: SCALE,
            kv_heads: (self.kv_heads != self.heads).then_some(self.kv_heads as i64),
            causal: self.causal,
            window: self.window.map(|n| n as i64),
            positions: (self.causal || self.window.is_some()).then_some(16),
            soft_cap: self.soft_cap,
        };
        let mut operands = vec![Some(q), Some(k), Some(v), mask, bias];
        operands.extend(past.into_iter().map(Some));
        while operands.last() == Some(&None) {
            operands.pop();
        }
        for (name, id) in ["y", "present_key", "present_value"].iter().zip(b.nodes("y", op, &operands).unwrap()) {
            b.output(name, id).unwrap();
        }
        let graph = verify(b.finish()).unwrap();
        assert_eq!(text::parse(&graph.to_string()).unwrap().to_string(), graph.to_string());
        graph
    }

    fn inputs(&self, lengths: Lengths) -> Named {
        let (t, new, all) = (lengths.queries, self.new_keys(lengths), self.all_keys(lengths));
        let kv = match self.keys {
            Keys::OtherByHead => vec![BATCH, self.kv_heads, new, SIZE],
            _ => vec![BATCH, new, self.kv_heads * SIZE],
        };
        let mut inputs = vec![
            ("q".to_owned(), noise(&[BATCH, t, self.heads * SIZE], 1.0)),
            ("k".to_owned(), noise(&kv, 2.0)),
            ("v".to_owned(), noise(&kv, 3.0)),
        ];
        let kept = |b: usize, i: usize, j: usize| match self.mask {
            Mask::None => true,
            // The first text has no padding.
            Mask::Left => b == 0 || j >= 2.min(all - 1),
            Mask::Right => b == 0 || j + 2 < all || j == 0,
            Mask::Pairs => (i * 3 + j * 5 + b).is_multiple_of(3) || j == 0,
        };
        let rows = if self.mask == Mask::Pairs { t } else { 1 };
        let values = (0..BATCH * rows * all).map(|n| i64::from(kept(n / (rows * all), n / all % rows, n % all)));
        let shape = if self.mask == Mask::Pairs { vec![BATCH, t, all] } else { vec![BATCH, all] };
        if self.mask != Mask::None {
            inputs.push(("mask".to_owned(), Tensor { shape, elements: Elements::I64(values.collect()) }));
        }
        match self.bias {
            Bias::None => {}
            Bias::Shared => inputs.push(("bias".to_owned(), noise(&[1, 1, t, all], 4.0))),
            Bias::PerHead => inputs.push(("bias".to_owned(), noise(&[1, self.heads, t, all], 4.0))),
        }
        if self.keys == Keys::WithPast {
            let shape = [BATCH, self.kv_heads, lengths.others, SIZE];
            inputs.push(("past_key".to_owned(), noise(&shape, 5.0)));
            inputs.push(("past_value".to_owned(), noise(&shape, 6.0)));
        }
        inputs
    }

    /// Keys or values as `[batch][head][position]`, those of the past first.
    fn by_head(&self, inputs: &Named, lengths: Lengths, name: &str) -> Vec<Vec<Vec<Vec<f32>>>> {
        let (new, x) = (self.new_keys(lengths), floats(inputs, name));
        let past = inputs.iter().any(|(n, _)| n.starts_with("past_"));
        let past = past.then(|| floats(inputs, if name == "k" { "past_key" } else { "past_value" }));
        let row = |b: usize, h: usize, j: usize| match (&past, j.checked_sub(lengths.others)) {
            (Some(past), None) => {
                let at = ((b * self.kv_heads + h) * lengths.others + j) * SIZE;
                past[at..at + SIZE].to_vec()
            }
            (_, after) => {
                let j = if past.is_some() { after.unwrap() } else { j };
                let at = match self.keys {
                    Keys::OtherByHead => ((b * self.kv_heads + h) * new + j) * SIZE,
                    _ => ((b * new + j) * self.kv_heads + h) * SIZE,
                };
                x[at..at + SIZE].to_vec()
            }
        };
        let heads =
            |b| (0..self.kv_heads).map(|h| (0..self.all_keys(lengths)).map(|j| row(b, h, j)).collect()).collect();
        (0..BATCH).map(heads).collect()
    }

    /// The paper's formula: for each text, token and head the weighted values, none where no key is attended to; then keys and
    /// values.
    fn expected(&self, inputs: &Named, lengths: Lengths) -> (Vec<Option<Vec<f32>>>, Vec<f32>, Vec<f32>) {
        let (t, n) = (lengths.queries, self.all_keys(lengths));
        let (keys, values) = (self.by_head(inputs, lengths, "k"), self.by_head(inputs, lengths, "v"));
        let q = floats(inputs, "q");
        let mask = inputs.iter().find(|(name, _)| name == "mask").map(|(_, tensor)| match &tensor.elements {
            Elements::I64(values) => values.clone(),
            _ => unreachable!("masks are integers"),
        });
        let bias = (self.bias != Bias::None).then(|| floats(inputs, "bias"));
        let observed = |b: usize, i: usize, j: usize| {
            let kept = mask.as_ref().is_none_or(|mask| match self.mask {
                Mask::Pairs => mask[(b * t + i) * n + j] != 0,
                _ => mask[b * n + j] != 0,
            });
            let (query, key) = ((n + i) as i64 - t as i64, j as i64);
            let window = self.window.unwrap_or(1 << 20) as i64;
            let near = if self.causal { query - key < window } else { (query - key).abs() < window };
            kept && near && (!self.causal || key <= query)
        };
        let mut out = Vec::new();
        for b in 0..BATCH {
            for i in 0..t {
                for h in 0..self.heads {
                    let group = h * self.kv_heads / self.heads;
                    let at = ((b * t + i) * self.heads + h) * SIZE;
                    let score = |j: usize| {
                        let dot: f32 = (0..SIZE).map(|c| q[at + c] * keys[b][group][j][c]).sum();
                        let capped = self.soft_cap.map_or(SCALE * dot, |cap| cap * (SCALE * dot / cap).tanh());
                        capped
                            + match (self.bias, &bias) {
                                (Bias::PerHead, Some(bias)) => bias[(h * t + i) * n + j],
                                (_, Some(bias)) => bias[i * n + j],
                                (_, None) => 0.0,
                            }
                    };
                    let scores: BTreeMap<usize, f32> =
                        (0..n).filter(|j| observed(b, i, *j)).map(|j| (j, score(j))).collect();
                    let total: f64 = scores.values().map(|x| f64::from(*x).exp()).sum();
                    let weighted = |c: usize| {
                        let of = |(j, x): (&usize, &f32)| f64::from(*x).exp() * f64::from(values[b][group][*j][c]);
                        (scores.iter().map(of).sum::<f64>() / total) as f32
                    };
                    out.push((!scores.is_empty()).then(|| (0..SIZE).map(weighted).collect()));
                }
            }
        }
        let flat = |x: &[Vec<Vec<Vec<f32>>>]| x.iter().flatten().flatten().flatten().copied().collect::<Vec<f32>>();
        (out, flat(&keys), flat(&values))
    }

    /// The errors of an engine's outputs.
    fn wrong(&self, engine: &mut dyn Engine) -> Option<String> {
        for lengths in self.lengths() {
            let inputs = self.inputs(lengths);
            let (expected, keys, values) = self.expected(&inputs, lengths);
            let found = match engine.run(&inputs) {
                Ok(found) => found,
                Err(e) => return Some(format!("{lengths:?}: {e}")),
            };
            let y = floats(&found, "y");
            if y.len() != expected.len() * SIZE || y.iter().any(|x| !x.is_finite()) {
                return Some(format!("{lengths:?}: {y:?}"));
            }
            let far = |(found, expected): (&[f32], &Option<Vec<f32>>)| {
                let expected = expected.as_deref().unwrap_or(found);
                found.iter().zip(expected).any(|(a, b)| (a - b).abs() > 1e-5)
            };
            if y.chunks(SIZE).zip(&expected).any(far) {
                return Some(format!("{lengths:?}: {y:?} is not {expected:?}"));
            }
            if self.keys == Keys::WithPast
                && (floats(&found, "present_key") != keys || floats(&found, "present_value") != values)
            {
                return Some(format!("{lengths:?}: other keys or values"));
            }
        }
        None
    }
}

/// Pseudo-random numbers between −1 and 1.
fn noise(shape: &[usize], seed: f32) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|i| ((i as f32 + 1.0) * 12.9898 * (seed + 0.37)).sin() * 1.5).collect();
    Tensor { shape: shape.to_vec(), elements: Elements::F32(values) }
}

fn floats(named: &Named, name: &str) -> Vec<f32> {
    match &named.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no {name}")).1.elements {
        Elements::F32(values) => values.clone(),
        _ => panic!("{name} is not of floats"),
    }
}

/// Every way in which a graph is computed here, by name.
fn engines(graph: &Verified<Graph>) -> Vec<(String, kilnc::Result<Box<dyn Engine>>)> {
    let mut engines: Vec<(String, kilnc::Result<Box<dyn Engine>>)> = Vec::new();
    let lowered = |target: &Target| back::lower(graph, target).unwrap();
    for name in ["ort-cpu", "openvino", "tract", "web", "tensorrt", "tensorrt-rtx:sm75"] {
        let graph = lowered(&name.parse().unwrap());
        engines.push((format!("the evaluator for {name}"), build::open_evaluator(&graph, Arithmetic::default())));
    }
    let place = place();
    let runtimes = [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Ort), (Target::Tract, Runtime::Tract)];
    for (target, runtime) in runtimes {
        let path = place.path().join(format!("{target}-{runtime:?}.onnx"));
        back::onnx::write(&lowered(&target), &path, &|_| {}).unwrap();
        engines.push((format!("{runtime:?} for {target}"), runtime::open(runtime, &path, Options { threads: 1 })));
    }
    engines
}

fn check(cases: impl IntoIterator<Item = Case>) {
    let mut wrong = Vec::new();
    for case in cases {
        for (name, engine) in engines(&case.graph()) {
            let said = match engine {
                Ok(mut engine) => case.wrong(&mut *engine),
                Err(e) => Some(e.to_string()),
            };
            wrong.extend(said.map(|said| format!("{name}: {case:?}: {said}")));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_decoder_attends_in_prefill_and_in_steps() {
    let mut cases = Vec::new();
    for mask in [Mask::None, Mask::Left, Mask::Right, Mask::Pairs] {
        for kv_heads in [4, 2, 1] {
            cases.push(Case { mask, kv_heads, ..DECODER });
        }
    }
    check(cases);
}

#[test]
fn attention_without_a_past_may_be_causal_and_grouped() {
    let mut cases = Vec::new();
    for mask in [Mask::None, Mask::Left, Mask::Right, Mask::Pairs] {
        for (causal, kv_heads) in [(false, 4), (false, 2), (true, 4), (true, 2)] {
            cases.push(Case { mask, causal, kv_heads, ..PLAIN });
        }
    }
    check(cases);
}

#[test]
fn a_window_leaves_far_keys_out() {
    let mut cases = Vec::new();
    for (mask, window) in [(Mask::None, 1), (Mask::Left, 2), (Mask::Right, 3), (Mask::Left, 100)] {
        let window = Some(window);
        cases.push(Case { mask, window, ..DECODER });
        cases.push(Case { mask, window, kv_heads: 2, ..DECODER });
        cases.push(Case { mask, window, ..PLAIN });
        cases.push(Case { mask, window, causal: true, ..PLAIN });
    }
    check(cases);
}

#[test]
fn a_soft_cap_comes_before_bias_and_mask() {
    let mut cases = Vec::new();
    for bias in [Bias::None, Bias::PerHead] {
        let soft_cap = Some(0.8);
        cases.push(Case { soft_cap, bias, ..PLAIN });
        cases.push(Case { soft_cap, bias, ..DECODER });
        cases.push(Case { soft_cap, bias, kv_heads: 2, window: Some(3), ..DECODER });
    }
    check(cases);
}

#[test]
fn a_bias_is_added_whatever_else_there_is() {
    let mut cases = Vec::new();
    for bias in [Bias::Shared, Bias::PerHead] {
        for mask in [Mask::None, Mask::Left] {
            for kv_heads in [4, 2] {
                cases.push(Case { bias, mask, kv_heads, ..PLAIN });
                cases.push(Case { bias, mask, kv_heads, ..DECODER });
                cases.push(Case { bias, mask, kv_heads, causal: false, ..DECODER });
            }
        }
    }
    check(cases);
}

#[test]
fn a_decoder_attends_to_an_encoder() {
    let mut cases = Vec::new();
    for keys in [Keys::Other, Keys::OtherByHead] {
        for (mask, kv_heads) in [(Mask::None, 4), (Mask::Left, 4), (Mask::Right, 2), (Mask::Pairs, 1)] {
            cases.push(Case { keys, mask, kv_heads, ..PLAIN });
        }
        cases.push(Case { keys, bias: Bias::PerHead, ..PLAIN });
    }
    check(cases);
}

/// The files say what callers have to give, in the words of Optimum and of Transformers.js.
#[test]
fn a_mask_and_keys_with_a_past_have_the_sizes_of_their_symbols() {
    let graph = Case { kv_heads: 2, ..DECODER }.graph();
    let ty = |name: &str| graph.value(graph.find(name).unwrap()).ty.to_string();
    assert_eq!(ty("mask"), "i64[batch_size, past_sequence_length + sequence_length]");
    assert_eq!(ty("past_key"), "f32[batch_size, 2, past_sequence_length, 4]");
    assert_eq!(ty("present_value"), "f32[batch_size, 2, past_sequence_length + sequence_length, 4]");
    let place = place();
    for target in [Target::OrtCpu, Target::Tract] {
        let path = place.path().join("model.onnx");
        back::onnx::write(&back::lower(&graph, &target).unwrap(), &path, &|_| {}).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let written = b"past_sequence_length + sequence_length";
        assert!(bytes.windows(written.len()).any(|window| window == written), "{target}");
    }
}

/// One operator of ONNX where it is exactly this attention, and none where it is not.
#[test]
fn onnx_runtime_gets_one_operator_where_it_means_the_same() {
    let ops = |case: Case| {
        let graph = back::lower(&case.graph(), &Target::OrtCpu).unwrap();
        let names: Vec<&str> = graph.nodes().map(|(_, node)| node.op.name()).collect();
        ["BiasedAttention", "MultiHeadAttention", "Softmax"].map(|name| names.contains(&name))
    };
    assert_eq!(ops(PLAIN), [true, false, false]);
    assert_eq!(ops(Case { bias: Bias::PerHead, ..PLAIN }), [false, true, false]);
    assert_eq!(ops(Case { kv_heads: 2, window: Some(3), ..DECODER }), [true, false, false]);
    assert_eq!(ops(Case { bias: Bias::PerHead, ..DECODER }), [true, false, false]);
    assert_eq!(ops(Case { bias: Bias::Shared, kv_heads: 2, ..DECODER }), [true, false, false]);
    assert_eq!(ops(Case { bias: Bias::PerHead, kv_heads: 2, ..DECODER }), [false, false, true]);
    assert_eq!(ops(Case { soft_cap: Some(1.0), ..DECODER }), [false, false, true]);
    assert_eq!(ops(Case { keys: Keys::OtherByHead, ..PLAIN }), [false, false, true]);
}

/// Masks by position are the same for all layers of one kind.
#[test]
fn layers_share_their_masks() {
    let layer = |i: usize, window: &str| {
        format!(
            "  %y{next}: f32[b, s, 8] = Attention {{heads=2, scale=0.5, causal=true{window}, positions=16}} (%y{i}, %y{i}, %y{i}, %mask)\n",
            next = i + 1
        )
    };
    let layers = [layer(0, ""), layer(1, ", window=4"), layer(2, ""), layer(3, ", window=4")].concat();
    let graph =
        format!("graph \"g\" {{\n  input %y0: f32[b, s, 8]\n  input %mask: i64[b, s]\n{layers}  output %y4\n}}\n");
    let graph = verify(text::parse(&graph).unwrap()).unwrap();
    for target in [Target::OrtCpu, Target::Tract] {
        let lowered = back::lower(&graph, &target).unwrap();
        let pairs = lowered.values().filter(|(_, value)| value.name.contains(".pairs")).count();
        assert_eq!(pairs, 2, "{target}: {}", *lowered);
    }
}

fn parse(text: &str) -> Verified<Graph> {
    verify(text::parse(text).unwrap()).unwrap()
}

/// In half precision, squares and masks stay finite.
#[test]
fn half_precision_holds_norms_and_masked_scores() {
    let graph = parse(
        r#"graph "g" {
  input %x: f16[b, s, 8]
  input %mask: i64[b, p + s]
  input %past_key: f16[b, 1, p, 4]
  input %past_value: f16[b, 1, p, 4]
  input %k: f16[b, s, 4]
  weight %scale: f16[8] = literal x"003c003c003c003c003c003c003c003c"
  %n: f16[b, s, 8] = RmsNorm {epsilon=1e-06} (%x, %scale)
  %y: f16[b, s, 8], %pk: f16[b, 1, p + s, 4], %pv: f16[b, 1, p + s, 4] = Attention {heads=2, scale=0.5, kv_heads=1, causal=true, positions=16, soft_cap=3.0} (%n, %k, %k, %mask, _, %past_key, %past_value)
  output %n
  output %y
  output %pk
  output %pv
}
"#,
    );
    for name in ["tensorrt", "tensorrt-rtx:sm75", "web"] {
        let lowered = back::lower(&graph, &name.parse().unwrap()).unwrap();
        let rounded = Arithmetic { float: Floats::RoundEachNode, ..Arithmetic::default() };
        let array = |shape: &[usize], seed| {
            let Elements::F32(values) = noise(shape, seed).elements else { unreachable!("noise is floats") };
            kilnc::evaluate::Array::f32s(shape, values.iter().map(|x| x * 500.0).collect()).unwrap()
        };
        let mask = kilnc::evaluate::Array::i64s(&[1, 5], vec![0, 1, 1, 1, 1]).unwrap();
        let inputs = [
            ("x", array(&[1, 3, 8], 1.0)),
            ("mask", mask),
            ("past_key", array(&[1, 1, 2, 4], 2.0)),
            ("past_value", array(&[1, 1, 2, 4], 3.0)),
            ("k", array(&[1, 3, 4], 4.0)),
        ];
        let outputs = Evaluator::new(&lowered, rounded).unwrap().run(&inputs).unwrap();
        assert_eq!(outputs.len(), 4);
        for (output, array) in outputs {
            assert!(array.to_f32s().unwrap().iter().all(|x| x.is_finite()), "{name}: {output}");
        }
    }
}

#[test]
fn rotations_turn_pairs_by_the_rows_of_their_positions() {
    let (heads, length, rows) = (2usize, 5usize, 9usize);
    let mut wrong = Vec::new();
    for (size, pairs) in [(8, 4), (8, 2), (6, 1), (4, 2)] {
        for interleaved in [false, true] {
            for positioned in [false, true] {
                let mut b = Builder::new("rotary");
                let shape = [Dim::from("batch_size"), Dim::from("sequence_length"), Dim::from(heads * size)];
                let x = b.input("x", TensorType::new(DType::F32, shape.clone()));
                let [cos, sin] = [7.0, 8.0].map(|seed| floats(&vec![(String::new(), noise(&[rows, pairs], seed))], ""));
                let table = |values: &[f32]| Weight::f32s(vec![rows, pairs], values).unwrap();
                let mut operands = vec![x, b.weight("cos", table(&cos)), b.weight("sin", table(&sin))];
                if positioned {
                    operands.push(b.input("positions", TensorType::new(DType::I64, shape[..2].iter().cloned())));
                }
                let y = b.node("y", Op::Rotary { heads: heads as i64, interleaved }, &operands).unwrap();
                // A second one reads the same rows.
                let y = b.node("z", Op::Rotary { heads: heads as i64, interleaved }, &[&[y], &operands[1..]].concat());
                b.output("y", y.unwrap()).unwrap();
                let graph = verify(b.finish()).unwrap();
                assert_eq!(text::parse(&graph.to_string()).unwrap().to_string().len(), graph.to_string().len());

                let position = |b: usize, i: usize| if positioned { (b * 3 + i * 2) % rows } else { i };
                let mut inputs = vec![("x".to_owned(), noise(&[BATCH, length, heads * size], 9.0))];
                let mut expected = floats(&inputs, "x");
                let positions = (0..BATCH * length).map(|n| position(n / length, n % length) as i64).collect();
                if positioned {
                    let tensor = Tensor { shape: vec![BATCH, length], elements: Elements::I64(positions) };
                    inputs.push(("positions".to_owned(), tensor));
                }
                for _ in 0..2 {
                    for (n, head) in expected.chunks_mut(size).enumerate() {
                        let row = position(n / heads / length, n / heads % length) * pairs;
                        for pair in 0..pairs {
                            let (i, j) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + pairs) };
                            let (a, b, c, s) = (head[i], head[j], cos[row + pair], sin[row + pair]);
                            (head[i], head[j]) = (a * c - b * s, b * c + a * s);
                        }
                    }
                }
                for (name, engine) in engines(&graph) {
                    let found = engine.and_then(|mut engine| engine.run(&inputs)).map(|found| floats(&found, "y"));
                    let near = |found: &Vec<f32>| {
                        found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5)
                    };
                    if !found.as_ref().is_ok_and(near) {
                        wrong.push(format!("{name}, {size} {pairs} {interleaved} {positioned}: {found:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn norms_divide_by_the_root_of_the_mean_square() {
    let mut b = Builder::new("norm");
    let x = b.input("x", TensorType::new(DType::F32, [Dim::from("b"), "s".into(), 2.into(), 6.into()]));
    let weights = floats(&vec![(String::new(), noise(&[6], 3.0))], "");
    let scale = b.weight("scale", Weight::f32s(vec![6], &weights).unwrap());
    let y = b.node("y", Op::RmsNorm { epsilon: 1e-3 }, &[x, scale]).unwrap();
    b.output("y", y).unwrap();
    let graph = verify(b.finish()).unwrap();
    let inputs = vec![("x".to_owned(), noise(&[2, 3, 2, 6], 1.0))];
    let expected: Vec<f32> = floats(&inputs, "x")
        .chunks(6)
        .flat_map(|row| {
            let square = row.iter().map(|x| x * x).sum::<f32>() / 6.0;
            row.iter().zip(&weights).map(move |(x, w)| x / (square + 1e-3).sqrt() * w).collect::<Vec<_>>()
        })
        .collect();
    for (name, engine) in engines(&graph) {
        let found = floats(&engine.and_then(|mut engine| engine.run(&inputs)).unwrap(), "y");
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{name}: {found:?} {expected:?}");
    }
}
