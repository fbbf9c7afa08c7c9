//! How long the way from checkpoint to ONNX takes, as whole processes, beside a copy of the checkpoint's files.
//!
//!     cargo bench --bench convert             MiniLM and BERT-base, with a LoRA each
//!     cargo bench --bench convert -- large    1.3 and 3.0 GB of random weights; needs 8 GB of disk, and frees it
//!
//! prints a Markdown table: medians of interleaved rounds, and the ratio to the copies of the same round. The checkpoints
//! are made by `scripts/setup.sh` and `scripts/make-bert-base.py` (which needs numpy).

mod common;

use std::path::{Path, PathBuf};

use common::{Sample, copy_all, kilnc, made, root, row};

struct Model {
    name: &'static str,
    checkpoint: PathBuf,
    adapter: Option<PathBuf>,
    rounds: usize,
}

fn main() {
    if !common::asked() {
        return;
    }
    println!("| medians of interleaved rounds | wall | private memory | against `cp` | against `cp` and sync |");
    println!("|---|---|---|---|---|");
    if std::env::args().any(|argument| argument == "large") { large() } else { usual() }
}

fn usual() {
    let bert = made("bert-base-random", "bert-base-random-lora", &["--lora", "8"]);
    let models = [
        Model {
            name: "MiniLM + LoRA, 91 MB",
            checkpoint: root().join("out/checkpoints/all-MiniLM-L6-v2"),
            adapter: Some(root().join("models/sections-lora")),
            rounds: 7,
        },
        Model {
            name: "BERT-base, random, + LoRA, 438 MB",
            adapter: Some(bert.with_file_name("bert-base-random-lora")),
            checkpoint: bert,
            rounds: 7,
        },
    ];
    for model in &models {
        assert!(model.checkpoint.exists(), "run scripts/setup.sh first");
        bench(model);
    }
}

/// One model after the other, each removed before the next is made.
fn large() {
    let large = ["--layers", "24", "--hidden", "1024", "--heads", "16", "--intermediate", "4096"];
    let larger = ["--layers", "25", "--hidden", "1536", "--heads", "24", "--intermediate", "6144"];
    let sharded = [larger.as_slice(), &["--shard-bytes", "1000000000"]].concat();
    for (name, arguments) in
        [("BERT-large, random, 1.3 GB", large.as_slice()), ("random, 3.0 GB in 4 shards", sharded.as_slice())]
    {
        let checkpoint = made("bench-large", "bench-large", arguments);
        bench(&Model { name, checkpoint: checkpoint.clone(), adapter: None, rounds: 3 });
        std::fs::remove_dir_all(&checkpoint).unwrap();
    }
}

fn bench(model: &Model) {
    let out = root().join("out/bench-convert");
    let mut samples: [Vec<Sample>; 5] = Default::default();
    for round in 0..=model.rounds {
        let fp32 = export(model, "fp32", &emptied(&out));
        let int8 = export(model, "int8", &emptied(&out));
        let copied = copy_all(&weights(model), &emptied(&out), false);
        let synced = copy_all(&weights(model), &emptied(&out), true);
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

fn export(model: &Model, precision: &str, out: &Path) -> Sample {
    let onnx = out.join("model.onnx");
    let adapter = model.adapter.iter().flat_map(|adapter| [Path::new("--adapter"), adapter]);
    let [export, flag, precision, output] = ["export", "--precision", precision, "-o"].map(Path::new);
    kilnc([export, &model.checkpoint, flag, precision, output, &onnx].into_iter().chain(adapter))
}

/// The files of the weights.
fn weights(model: &Model) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&model.checkpoint).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "safetensors")).collect()
}

/// An empty folder to write to: its old content is removed, so that no two outputs take up the disk.
fn emptied(out: &Path) -> PathBuf {
    let _ = std::fs::remove_dir_all(out);
    std::fs::create_dir_all(out).unwrap();
    out.to_owned()
}
