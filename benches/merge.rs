//! How long merging adapters takes, as whole processes, beside a copy of the base's file.
//!
//!     cargo bench --bench merge
//!
//! prints two Markdown tables. The first: medians of interleaved rounds, and the ratio to the copies of the same round.
//! The second: the cost of one more adapter, when many are merged at once, and when one is merged after another into the
//! same base. The checkpoints are made by `scripts/setup.sh` and `scripts/make-bert-base.py` (which needs numpy).

mod common;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use common::{Sample, copy, kilnc, made, median, root, row};

const ROUNDS: usize = 7;

/// A base, and its adapters.
struct Model {
    name: &'static str,
    checkpoint: PathBuf,
    adapter: PathBuf,
}

fn main() {
    if !common::asked() {
        return;
    }
    let bert = made("bert-base-random", "bert-base-random-lora", &["--lora", "8"]);
    let rank_64 = made("bert-base-random-64", "bert-base-random-64-lora", &["--lora", "64", "--lora-only"]);
    let minilm = Model {
        name: "MiniLM, 91 MB, and the sections LoRA",
        checkpoint: root().join("out/checkpoints/all-MiniLM-L6-v2"),
        adapter: root().join("models/sections-lora"),
    };
    let large = Model {
        name: "BERT-base, random, 438 MB, and a LoRA of rank 64 over every linear layer",
        checkpoint: bert.clone(),
        adapter: rank_64.with_file_name("bert-base-random-64-lora"),
    };
    let out = root().join("out/bench-merge");
    std::fs::create_dir_all(&out).unwrap();
    println!("| medians of {ROUNDS} rounds | wall | private memory | against `cp` | against `cp` and sync |");
    println!("|---|---|---|---|---|");
    for model in [&minilm, &large] {
        assert!(model.checkpoint.exists(), "run scripts/setup.sh first");
        beside_a_copy(model, &out);
    }
    println!("\n| adapters | wall | each | private memory |\n|---|---|---|---|");
    let small = bert.with_file_name("bert-base-random-lora");
    at_once(&Model { name: "BERT-base and LoRAs of rank 8, at once", checkpoint: bert, adapter: small }, &out);
    one_by_one(&minilm, &out);
    std::fs::remove_dir_all(&out).unwrap();
}

fn merge(model: &Model, count: usize, to: &Path) -> Sample {
    let _ = std::fs::remove_dir_all(to);
    let mut arguments: Vec<OsString> = vec!["merge".into(), model.checkpoint.clone().into()];
    for _ in 0..count {
        arguments.extend(["--adapter".into(), format!("{}@0.01", model.adapter.display()).into()]);
    }
    arguments.extend(["-o".into(), to.into()]);
    kilnc(arguments)
}

fn beside_a_copy(model: &Model, out: &Path) {
    let weights = model.checkpoint.join("model.safetensors");
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for round in 0..=ROUNDS {
        let merged = merge(model, 1, &out.join("merged"));
        let copied = copy(&weights, &out.join("copy"), false);
        let synced = copy(&weights, &out.join("synced"), true);
        // The first round warms the file cache.
        if round > 0 {
            for (list, sample) in samples.iter_mut().zip([copied, synced, merged]) {
                list.push(sample);
            }
        }
    }
    let [copied, synced, merged] = &samples;
    for (name, list) in [("`cp`", copied), ("`cp` and sync", synced), ("`kilnc merge`", merged)] {
        row(&format!("{}: {name}", model.name), list, copied, synced);
    }
}

/// Many adapters into one checkpoint.
fn at_once(model: &Model, out: &Path) {
    let timed = |count| {
        let samples: Vec<Sample> = (0..3).map(|_| merge(model, count, &out.join("merged"))).collect();
        let private = samples.iter().map(|sample| sample.private).max().unwrap_or(0);
        (median(samples.iter().map(|sample| sample.seconds)), private)
    };
    let (none, _) = timed(0);
    for count in [0, 1, 10, 100] {
        let (seconds, private) = timed(count);
        let each = if count == 0 { String::new() } else { format!("{:.1} ms", (seconds - none) * 1e3 / count as f64) };
        println!("| {}: {count} | {seconds:.2} s | {each} | {:.0} MB |", model.name, private as f64 / 1e6);
    }
}

/// One checkpoint for each of a hundred adapters.
fn one_by_one(model: &Model, out: &Path) {
    let samples: Vec<Sample> = (0..100).map(|_| merge(model, 1, &out.join("merged"))).collect();
    for (from, to) in [(0, 10), (45, 55), (90, 100)] {
        let tenth = &samples[from..to];
        let each = median(tenth.iter().map(|sample| sample.seconds));
        let private = tenth.iter().map(|sample| sample.private).max().unwrap_or(0) as f64 / 1e6;
        println!("| {}, one by one: {}…{to} | | {:.0} ms | {private:.0} MB |", model.name, from + 1, each * 1e3);
    }
}
