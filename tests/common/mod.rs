//! Runs the `kilnc` binary in tests, on the fixtures and in folders of their own.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A fixture's folder.
pub fn fixture(name: &str) -> PathBuf {
    repository("tests/fixtures").join(name)
}

/// The real checkpoint, which `scripts/setup.sh` installs.
pub fn minilm() -> PathBuf {
    let path = repository("out/checkpoints/all-MiniLM-L6-v2");
    assert!(path.join("model.safetensors").exists(), "the checkpoint is missing: run scripts/setup.sh");
    path
}

/// What children are started from instead of the binary: a script that runs it on an emulated processor.
pub const PROGRAM: &str = "KILNC_TEST_PROGRAM";

/// Has children started from the binary: the program that tests run in is not it.
pub fn children() {
    let program = std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_kilnc").into());
    kilnc::subprocess::set_program(program.into());
}

/// Whether this is a process that runs one test alone. Elsewhere the test is run in one, and must pass there.
pub fn in_a_process_of_its_own(test: &str) -> bool {
    const ALONE: &str = "KILNC_TEST_ALONE";
    if std::env::var_os(ALONE).is_some_and(|alone| alone == test) {
        return true;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    let ran = Ran::from(again.args(["--exact", test, "--nocapture"]).env(ALONE, test).output().unwrap()).expect(0);
    assert!(ran.stdout.contains("1 passed"), "{}", ran.stdout);
    false
}

/// Whether OpenVINO is there; without it what needs it is skipped, loudly. `scripts/test.sh` installs it and sets
/// `KILNC_TEST_STRICT`, under which a skip is a failure: test runners do not show the output of a passed test.
pub fn openvino(test: &str) -> bool {
    match kilnc::runtime::library::OPENVINO.find() {
        Ok(_) => true,
        Err(e) => {
            assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{test}: {e}");
            eprintln!("SKIPPED: {test} on OpenVINO: {}", e.message());
            false
        }
    }
}

/// An empty folder to work in.
pub fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Texts for the small classifier, with their labels.
pub const TEXTS: [(&str, &str); 6] = [
    ("the game is fast", "positive"),
    ("play this music, it is not slow", "negative"),
    ("a mail server for the web", "neutral"),
    ("read and send files", "neutral"),
    ("an editor of text and sound", "positive"),
    ("print the library with that tool!", "negative"),
];

/// The texts as a file of JSON lines in a folder.
pub fn jsonl(dir: &Path) -> PathBuf {
    let lines = TEXTS.map(|(text, label)| format!("{{\"text\": {text:?}, \"label\": {label:?}}}\n"));
    let path = dir.join("texts.jsonl");
    std::fs::write(&path, lines.concat()).unwrap();
    path
}

/// The binary with these arguments. It caches nothing: tests need every step run.
pub fn command<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilnc"));
    command.args(arguments).env("KILNC_CACHE", "off");
    command
}

/// The result of a run.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Fails the test, showing the output, unless the exit code is the one expected.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in:\n{}", self.stdout))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs the binary with these arguments.
pub fn kilnc<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    command(arguments).output().unwrap().into()
}

/// The names in a folder, hidden ones too.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies a fixture, so that a test can damage it.
pub fn copied(name: &str) -> TempDir {
    let copy = place();
    copy_folder(&fixture(name), copy.path());
    copy
}

/// Copies a folder with all that is in it; the target may exist.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let to = to.join(entry.file_name().unwrap());
        match entry.is_dir() {
            true => copy_folder(&entry, &to),
            false => assert!(std::fs::copy(&entry, &to).is_ok()),
        }
    }
}

/// A half of a tensor's numbers.
#[derive(Clone, Copy)]
pub enum Half {
    First,
    Second,
}

/// Changes the numbers in a half of the tensors whose names end so, in a checkpoint of one safetensors file.
pub fn change(checkpoint: &Path, tensor: &str, half: Half, new: impl Fn(f32) -> f32) {
    let path = checkpoint.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut changed = 0;
    let tensors: std::collections::BTreeMap<String, _> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let mut data = view.data().to_vec();
            if name.ends_with(tensor) {
                changed += 1;
                let numbers = data.as_chunks_mut::<4>().0;
                let (first, second) = numbers.split_at_mut(numbers.len() / 2);
                for number in if matches!(half, Half::First) { first } else { second } {
                    *number = new(f32::from_le_bytes(*number)).to_le_bytes();
                }
            }
            (name, (view.dtype(), view.shape().to_vec(), data))
        })
        .collect();
    assert!(changed > 0, "there is no {tensor}");
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Replaces text in a file.
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{} does not hold `{from}`", path.display());
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// The commands of a page of the repository, with their output.
pub fn commands(page: &str) -> Vec<(String, String)> {
    let page = std::fs::read_to_string(repository(page)).unwrap();
    let mut found: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match (line.strip_prefix("    "), line.strip_prefix("    $ ")) {
            (_, Some(command)) => found.push((command.to_owned(), String::new())),
            (Some(printed), None) if inside => found.last_mut().unwrap().1 += &format!("{printed}\n"),
            _ => {}
        }
        inside = line.starts_with("    $ ") || inside && line.starts_with("    ");
    }
    found
}

/// A folder with the inputs of the pages' commands.
pub fn place_of_page() -> TempDir {
    let place = place();
    for folder in ["tests", "models", "out"] {
        std::os::unix::fs::symlink(repository(folder), place.path().join(folder)).unwrap();
    }
    place
}

/// Runs a command of a page in a folder.
pub fn shell(command: &str, place: &Path) -> Ran {
    let binaries = Path::new(env!("CARGO_BIN_EXE_kilnc")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(place).env("PATH", &path).env("KILNC_CACHE", "off");
    shell.output().unwrap().into()
}

/// Compares a page of the repository that a test makes with the test's output now.
pub fn assert_page(page: &str, made: &str) {
    let path = repository(page);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "{page} is out of date: run the tests with UPDATE_SNAPSHOTS=1\n{made}");
}

/// Whether two texts are one but for decimal numbers, which processors round otherwise: those are at most two of the
/// last digit that is printed apart, or a ten-thousandth.
pub fn same_but_for_rounding(found: &str, expected: &str) -> bool {
    let parts = |text: &str| -> Vec<String> {
        let mut parts = vec![String::new()];
        let mut number = false;
        for c in text.chars() {
            let in_number = c.is_ascii_digit() || number && c == '.';
            if in_number != number {
                parts.push(String::new());
                number = in_number;
            }
            parts.last_mut().unwrap().push(c);
        }
        parts
    };
    let decimals = |text: &str| text.split_once('.').map(|(_, digits)| digits.len()).filter(|digits| *digits > 0);
    let close = |a: &String, b: &String| match (decimals(a), decimals(b), a.parse::<f64>(), b.parse::<f64>()) {
        (Some(in_a), Some(in_b), Ok(x), Ok(y)) => {
            let last = 10f64.powi(-(in_a.max(in_b) as i32));
            (x - y).abs() <= (2.01 * last).max(1e-4 * x.abs())
        }
        _ => a == b,
    };
    let (a, b) = (parts(found), parts(expected));
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| close(a, b))
}

#[test]
fn rounding_is_all_that_may_differ() {
    assert!(same_but_for_rounding("red 0.9871 in 3 parts", "red 0.9870 in 3 parts"));
    assert!(same_but_for_rounding("[0.123456, 7]", "[0.12345, 7]"));
    assert!(!same_but_for_rounding("red 0.9871", "red 0.9861"));
    assert!(!same_but_for_rounding("red 0.9871 in 3 parts", "red 0.9871 in 4 parts"));
    assert!(!same_but_for_rounding("red 0.98", "blue 0.98"));
    assert!(!same_but_for_rounding("0.98 and 0.1", "0.98"));
}

/// `OsString`s of arguments of any kind.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { [$(std::ffi::OsString::from(&$argument)),*] };
}

/// The folder of wheels that bundles take libraries from, where it has ONNX Runtime for these platforms; without them
/// what needs them is skipped, loudly, as in [`openvino`].
pub fn wheels(test: &str, platforms: &[kilnc::runtime::Platform]) -> Option<PathBuf> {
    use kilnc::bundle::runtimes;
    let folder = kilnc::runtime::library::wheels().unwrap();
    let packages: Vec<_> =
        platforms.iter().flat_map(|platform| runtimes::packages(kilnc::runtime::Runtime::Ort, *platform)).collect();
    match runtimes::find(&packages, &folder) {
        Ok(_) => Some(folder),
        Err(e) => {
            assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{test}: {e}");
            eprintln!("SKIPPED: {test}: {}", e.message());
            None
        }
    }
}
