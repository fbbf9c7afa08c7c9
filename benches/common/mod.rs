//! Runs and watches whole processes, for benches.
//!
//! “Private” is the largest memory that is the process's own (`RssAnon` of Linux, sampled every millisecond); pages of
//! mapped files are not counted, for the system can take them back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Wall time in seconds, and private memory in bytes where a process was watched.
#[derive(Clone, Copy)]
pub struct Sample {
    pub seconds: f64,
    pub private: u64,
}

/// Whether this is `cargo bench`; test runners start benches too.
pub fn asked() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `scripts/make-bert-base.py` writes with these arguments, made where it is not there.
#[allow(dead_code)]
pub fn made(name: &str, proof: &str, arguments: &[&str]) -> PathBuf {
    let place = root().join("out/checkpoints").join(name);
    if !place.with_file_name(proof).exists() {
        let maker = root().join("scripts/make-bert-base.py");
        let made = Command::new("python3").arg(maker).arg(&place).args(arguments).status();
        assert!(made.is_ok_and(|status| status.success()), "scripts/make-bert-base.py needs Python 3 with numpy");
    }
    place
}

/// Runs kilnc.
pub fn kilnc<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Sample {
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilnc"));
    let mut child = command.args(arguments).arg("--quiet").stdout(Stdio::null()).spawn().unwrap();
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

/// Copies a file by `cp`.
#[allow(dead_code)]
pub fn copy(from: &Path, to: &Path, sync: bool) -> Sample {
    let _ = std::fs::remove_file(to);
    copied(&[from.to_owned()], to, &[to.to_owned()], sync)
}

/// Copies files into an empty folder by `cp`.
#[allow(dead_code)]
pub fn copy_all(from: &[PathBuf], to: &Path, sync: bool) -> Sample {
    let made: Vec<PathBuf> = from.iter().map(|file| to.join(file.file_name().unwrap())).collect();
    copied(from, to, &made, sync)
}

fn copied(from: &[PathBuf], to: &Path, made: &[PathBuf], sync: bool) -> Sample {
    let start = Instant::now();
    let status = Command::new("cp").arg("-L").args(from).arg(to).status().unwrap();
    assert!(status.success());
    if sync {
        made.iter().for_each(|file| File::open(file).unwrap().sync_all().unwrap());
    }
    Sample { seconds: start.elapsed().as_secs_f64(), private: 0 }
}

/// A row of a table of samples beside copies of the same rounds.
pub fn row(name: &str, list: &[Sample], copied: &[Sample], synced: &[Sample]) {
    let against = |base: &[Sample]| median(list.iter().zip(base).map(|(own, base)| own.seconds / base.seconds));
    let private = match list.iter().map(|sample| sample.private).max() {
        Some(bytes) if bytes > 0 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => String::new(),
    };
    println!(
        "| {name} | {:.2} s | {private} | {:.2} | {:.2} |",
        median(list.iter().map(|sample| sample.seconds)),
        against(copied),
        against(synced)
    );
}

pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
