//! How long the evaluator takes for a text of MiniLM, on one thread.
//!
//!     cargo bench --bench evaluate
//!
//! prints a Markdown table: medians for a text of 128 tokens. The checkpoint is that of `scripts/setup.sh`.

#[allow(dead_code)]
mod common;

use std::time::Instant;

use common::{asked, median, root};
use kilnc::build::{self, Scheme, Source};
use kilnc::evaluate::{Arithmetic, Floats, Int8Sums};
use kilnc::passes::Manager;
use kilnc::precision::Precision;
use kilnc::runtime::{Elements, Named, Tensor};
use kilnc::target::Target;

const ROUNDS: usize = 15;
const TOKENS: usize = 128;

fn main() {
    if !asked() {
        return;
    }
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let checkpoint = root().join("out/checkpoints/all-MiniLM-L6-v2");
    assert!(checkpoint.exists(), "run scripts/setup.sh first");
    let model = build::load(&Source { checkpoint, adapters: Vec::new(), combine: None, task: None }).unwrap();
    println!("| {TOKENS} tokens, medians of {ROUNDS} rounds | ms |\n|---|---|");
    let exact = Arithmetic::default();
    let rounded = Arithmetic { float: Floats::RoundEachNode, ..exact };
    let saturating = Arithmetic { int8: Int8Sums::Saturating, ..exact };
    for (what, target, precision, arithmetic) in [
        ("fp32 for ort-cpu", "ort-cpu", Precision::Fp32, exact),
        ("fp32 for tract", "tract", Precision::Fp32, exact),
        ("fp16 for TensorRT, rounded at each node", "tensorrt-rtx:sm75", Precision::Fp16, rounded),
        ("int8 for ort-cpu, exact sums", "ort-cpu", Precision::Int8, exact),
        ("int8 for ort-cpu, sums that saturate", "ort-cpu", Precision::Int8, saturating),
    ] {
        let target: Target = target.parse().unwrap();
        let graph = build::compile(model.graph(), &Scheme::new(&target, precision), &mut Manager::default()).unwrap();
        let mut engine = build::open_evaluator(&graph, arithmetic).unwrap();
        engine.run(&text()).unwrap();
        let times = (0..ROUNDS).map(|_| {
            let start = Instant::now();
            engine.run(&text()).unwrap();
            start.elapsed().as_secs_f64() * 1e3
        });
        println!("| {what} | {:.1} |", median(times));
    }
}

fn text() -> Named {
    let tensor = |values: Vec<i64>| Tensor { shape: vec![1, TOKENS], elements: Elements::I64(values) };
    let ids = (0..TOKENS as i64).map(|i| 1000 + i * 37 % 20_000).collect();
    [("input_ids", ids), ("attention_mask", vec![1; TOKENS]), ("token_type_ids", vec![0; TOKENS])]
        .map(|(name, values)| (name.to_owned(), tensor(values)))
        .to_vec()
}
