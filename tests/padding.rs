//! Padding and length change no output of real tokens: lone texts get, unpadded, the outputs that PyTorch
//! gave in a batch, down to a single token.

use std::path::Path;

use crate::common::{fixture, place};
use kilnc::back::onnx;
use kilnc::build::{self, Scheme, Source};
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{self, Elements, Engine, Named, Options, Runtime, Tensor};
use kilnc::safetensors;
use kilnc::target::Target;

const FAMILIES: [&str; 11] = [
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

/// Largest difference from PyTorch's numbers.
const BOUND: f32 = 1e-4;

fn engines(checkpoint: &Path) -> Vec<Box<dyn Engine>> {
    let source = Source { checkpoint: checkpoint.to_owned(), adapters: Vec::new(), combine: None, task: None };
    let model = build::load(&source).unwrap();
    let engine = |(target, runtime): (Target, Runtime)| {
        let place = place();
        let path = place.path().join("model.onnx");
        let scheme = Scheme::new(&target, Precision::Fp32);
        let graph = build::compile(model.graph(), &scheme, &mut Manager::default()).unwrap();
        onnx::write(&graph, &path, &|_| {}).unwrap();
        runtime::open(runtime, &path, Options { threads: 1 }).unwrap()
    };
    [(Target::OrtCpu, Runtime::Ort), (Target::Tract, Runtime::Tract)].map(engine).into()
}

/// Golden inputs, and the hidden states that PyTorch gave for them.
fn golden(checkpoint: &Path) -> (Named, Tensor) {
    let (mut inputs, mut states) = (Vec::new(), None);
    for (name, weight) in safetensors::read(&checkpoint.join("golden.safetensors")).unwrap() {
        let shape = weight.shape().to_vec();
        if let Some(input) = name.strip_prefix("in.") {
            let bytes = weight.evaluate().unwrap();
            let numbers = bytes.as_bytes().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
            inputs.push((input.to_owned(), Tensor { shape, elements: Elements::I64(numbers) }));
        } else if name == "out.last_hidden_state" {
            let elements = Elements::F32(weight.to_f32s().unwrap().into_owned());
            states = Some(Tensor { shape, elements });
        }
    }
    (inputs, states.unwrap())
}

fn integers(tensor: &Tensor) -> &[i64] {
    let Elements::I64(numbers) = &tensor.elements else { panic!("{tensor:?} holds no integers") };
    numbers
}

/// The hidden state of every token, in order.
fn states(tensor: &Tensor) -> Vec<&[f32]> {
    tensor.rows().unwrap().collect()
}

fn hidden_states(engine: &mut dyn Engine, inputs: &Named) -> Tensor {
    engine.run(inputs).unwrap().into_iter().find(|(name, _)| name == "last_hidden_state").unwrap().1
}

/// The inputs at some positions of a batch, as one text.
fn at(inputs: &Named, places: &[usize]) -> Named {
    let one = |tensor: &Tensor| Tensor {
        shape: vec![1, places.len()],
        elements: Elements::I64(places.iter().map(|place| integers(tensor)[*place]).collect()),
    };
    inputs.iter().map(|(name, tensor)| (name.clone(), one(tensor))).collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_lone_text_gets_the_outputs_that_it_has_in_a_batch() {
    for family in FAMILIES {
        let checkpoint = fixture("families").join(family).join("base");
        let (inputs, expected) = golden(&checkpoint);
        let mask = &inputs.iter().find(|(name, _)| name == "attention_mask").unwrap().1;
        let [rows, length] = mask.shape[..] else { panic!("a mask has two dimensions") };
        let (mask, expected) = (integers(mask), states(&expected));
        for mut engine in engines(&checkpoint) {
            for row in 0..rows {
                let places: Vec<usize> = (row * length..(row + 1) * length).filter(|i| mask[*i] != 0).collect();
                let found = hidden_states(&mut *engine, &at(&inputs, &places));
                for (found, place) in states(&found).into_iter().zip(&places) {
                    let difference = difference(found, expected[*place]);
                    assert!(difference <= BOUND, "{family}, row {row}, place {place}: {difference}");
                }
            }
        }
    }
}

#[test]
fn a_single_token_gets_the_outputs_that_it_has_beside_padding() {
    for family in FAMILIES {
        let checkpoint = fixture("families").join(family).join("base");
        let (inputs, _) = golden(&checkpoint);
        let alone: Named = at(&inputs, &[1])
            .into_iter()
            .map(|(name, tensor)| if name == "attention_mask" { (name, number(1)) } else { (name, tensor) })
            .collect();
        for mut engine in engines(&checkpoint) {
            let expected = hidden_states(&mut *engine, &padded(&alone, 6));
            let found = hidden_states(&mut *engine, &alone);
            assert_eq!(states(&found).len(), 1);
            let difference = difference(states(&found)[0], states(&expected)[0]);
            assert!(difference <= 1e-5, "{family}: {difference}");
        }
    }
}

fn number(n: i64) -> Tensor {
    Tensor { shape: vec![1, 1], elements: Elements::I64(vec![n]) }
}

/// One token with padding after it, which is any other token: the mask alone says that it is padding.
fn padded(alone: &Named, length: usize) -> Named {
    let longer = |(name, tensor): &(String, Tensor)| {
        let first = integers(tensor)[0];
        let rest = match name.as_str() {
            "attention_mask" => 0,
            "token_type_ids" => first,
            _ => 40,
        };
        let numbers = std::iter::once(first).chain(std::iter::repeat_n(rest, length - 1)).collect();
        (name.clone(), Tensor { shape: vec![1, length], elements: Elements::I64(numbers) })
    };
    alone.iter().map(longer).collect()
}

/// Every token attends to itself there, padding too; so the outputs of padding are defined, and the last token of a text
/// that is padded to the right is padding.
#[test]
fn xlnet_handles_padding_as_pytorch() {
    for variant in ["base", "base-clamped", "base-relu"] {
        let checkpoint = fixture("families/xlnet").join(variant);
        let (inputs, expected) = golden(&checkpoint);
        assert!(inputs.iter().any(|(name, tensor)| name == "attention_mask" && integers(tensor).contains(&0)));
        for mut engine in engines(&checkpoint) {
            let found = hidden_states(&mut *engine, &inputs);
            let pairs = states(&found).into_iter().zip(states(&expected));
            let difference = pairs.map(|(found, expected)| difference(found, expected)).fold(0.0, f32::max);
            assert!(difference <= BOUND, "{variant}: {difference}");
        }
    }
}
