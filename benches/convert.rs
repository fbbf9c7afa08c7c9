//! How long the way from checkpoint to ONNX takes, as whole processes, beside a copy of the checkpoint's file.
//!
//!     cargo bench --bench convert
//!
//! prints a Markdown table: medians of interleaved rounds, and the ratio to the copies of the same round. “Private” is
//! the largest memory that is the process's own (`RssAnon` of Linux, sampled every millisecond); pages of mapped files
//! are not counted, for the system can take them back. The checkpoints are made by `scripts/setup.sh` and
//! `scripts/make-bert-base.py` (which needs numpy).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;

struct Model {
    name: &'static str,
    checkpoint: PathBuf,
    adapter: PathBuf,
}

/// Wall time in seconds, and private memory in bytes where a process was watched.
#[derive(Clone, Copy)]
struct Sample {
    seconds: f64,
    private: u64,
}

fn main() {
    // Test runners start this too; only `cargo bench` asks for figures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checkpoints = root.join("out/checkpoints");
    let bert = checkpoints.join("bert-base-random");
    if !bert.exists() {
        let maker = root.join("scripts/make-bert-base.py");
        let made = Command::new("python3").arg(maker).arg(&bert).args(["--lora", "8"]).status();
        assert!(made.is_ok_and(|status| status.success()), "scripts/make-bert-base.py needs Python 3 with numpy");
    }
    let models = [
        Model {
            name: "MiniLM + LoRA, 91 MB",
            checkpoint: checkpoints.join("all-MiniLM-L6-v2"),
            adapter: root.join("models/sections-lora"),
        },
        Model {
            name: "BERT-base, random, + LoRA, 438 MB",
            adapter: checkpoints.join("bert-base-random-lora"),
            checkpoint: bert,
        },
    ];
    println!("| medians of {ROUNDS} rounds | wall | private memory | against `cp` | against `cp` and sync |");
    println!("|---|---|---|---|---|");
    for model in &models {
        assert!(model.checkpoint.exists(), "run scripts/setup.sh first");
        bench(root, model);
    }
}

fn bench(root: &Path, model: &Model) {
    let out = root.join("out/bench-convert");
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
        let against = |base: &[Sample]| median(list.iter().zip(base).map(|(own, base)| own.seconds / base.seconds));
        let private = match list.iter().map(|sample| sample.private).max() {
            Some(bytes) if bytes > 0 => format!("{:.0} MB", bytes as f64 / 1e6),
            _ => String::new(),
        };
        println!(
            "| {}: {name} | {:.2} s | {private} | {:.2} | {:.2} |",
            model.name,
            median(list.iter().map(|sample| sample.seconds)),
            against(copied),
            against(synced)
        );
    }
}

fn export(model: &Model, precision: &str, to: &Path) -> Sample {
    let _ = std::fs::remove_file(to);
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_kilnc"))
        .arg("export")
        .arg(&model.checkpoint)
        .arg("--adapter")
        .arg(&model.adapter)
        .args(["--precision", precision, "--quiet", "-o"])
        .arg(to)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut private = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        private = private.max(private_memory(child.id()));
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success());
    Sample { seconds: start.elapsed().as_secs_f64(), private }
}

fn private_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn copy(from: &Path, to: &Path, sync: bool) -> Sample {
    let _ = std::fs::remove_file(to);
    let start = Instant::now();
    let status = Command::new("cp").arg("-L").arg(from).arg(to).status().unwrap();
    assert!(status.success());
    if sync {
        File::open(to).unwrap().sync_all().unwrap();
    }
    Sample { seconds: start.elapsed().as_secs_f64(), private: 0 }
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
