//! How long the way from checkpoint to ONNX takes, as whole processes, beside a copy of the checkpoint's file.
//!
//!     cargo bench --bench convert
//!
//! prints a Markdown table: medians of interleaved rounds, and the ratio to the copies of the same round. The checkpoints
//! are made by `scripts/setup.sh` and `scripts/make-bert-base.py` (which needs numpy).

mod common;

use std::path::{Path, PathBuf};

use common::{Sample, copy, kilnc, made, root, row};

const ROUNDS: usize = 7;

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
    let models = [
        Model {
            name: "MiniLM + LoRA, 91 MB",
            checkpoint: root().join("out/checkpoints/all-MiniLM-L6-v2"),
            adapter: root().join("models/sections-lora"),
        },
        Model {
            name: "BERT-base, random, + LoRA, 438 MB",
            adapter: bert.with_file_name("bert-base-random-lora"),
            checkpoint: bert,
        },
    ];
    println!("| medians of {ROUNDS} rounds | wall | private memory | against `cp` | against `cp` and sync |");
    println!("|---|---|---|---|---|");
    for model in &models {
        assert!(model.checkpoint.exists(), "run scripts/setup.sh first");
        bench(model);
    }
}

fn bench(model: &Model) {
    let out = root().join("out/bench-convert");
    std::fs::create_dir_all(&out).unwrap();
    let weights = model.checkpoint.join("model.safetensors");
    let mut samples: [Vec<Sample>; 5] = Default::default();
    for round in 0..=ROUNDS {
        let fp32 = export(model, "fp32", &out.join("fp32.onnx"));
        let int8 = export(model, "int8", &out.join("int8.onnx"));
        let copied = copy(&weights, &out.join("copy"), false);
        let synced = copy(&weights, &out.join("synced"), true);
        let both = Sample { seconds: fp32.seconds + int8.seconds, private: fp32.private.max(int8.private) };
        // The first round warms the file cache.
        if round > 0 {
            for (list, sample) in samples.iter_mut().zip([copied, synced, fp32, int8, both]) {
                list.push(sample);
            }
        }
    }
    std::fs::remove_dir_all(&out).unwrap();
    let [copied, synced, ..] = &samples;
    let names = ["`cp`", "`cp` and sync", "→ FP32 ONNX", "→ INT8 ONNX", "→ both"];
    for (name, list) in names.iter().zip(&samples) {
        row(&format!("{}: {name}", model.name), list, copied, synced);
    }
}

fn export(model: &Model, precision: &str, to: &Path) -> Sample {
    let _ = std::fs::remove_file(to);
    let words = ["export", "--precision", precision, "--adapter", "-o"];
    let [export, flag, precision, adapter, output] = words.map(Path::new);
    kilnc([export, &model.checkpoint, flag, precision, adapter, &model.adapter, output, to])
}
