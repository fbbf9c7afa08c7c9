//! Shipped files hold nothing of the machine that made them: no path, no name, no host, no time. Two machines make the
//! same of the same.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, command, copy_folder, fixture, jsonl, place};

/// A user's folders on a machine of his own.
struct Machine {
    root: PathBuf,
    /// Where native libraries are searched: on a machine that has none, nowhere.
    runtimes: Option<PathBuf>,
}

impl Machine {
    fn new(root: PathBuf, bare: bool) -> Machine {
        let machine = Machine { runtimes: bare.then(|| root.join("no runtimes")), root };
        for folder in ["home", "in", "out"] {
            fs::create_dir_all(machine.root.join(folder)).unwrap();
        }
        for name in ["tiny-bert", "tiny-lora"] {
            copy_folder(&fixture(name), &machine.root.join("in").join(name));
        }
        jsonl(&machine.root.join("in"));
        fs::write(machine.root.join("in/labels.json"), "[\"negative\", \"neutral\", \"positive\"]").unwrap();
        machine
    }

    fn input(&self, name: &str) -> PathBuf {
        self.root.join("in").join(name)
    }

    fn output(&self, name: &str) -> PathBuf {
        self.root.join("out").join(name)
    }

    fn kilnc(&self, arguments: &[OsString]) -> Ran {
        let mut command = command(arguments);
        command.current_dir(&self.root).env("USER", MARK).env("HOSTNAME", MARK);
        if let Some(runtimes) = &self.runtimes {
            let nowhere = self.root.join("home");
            command.env("HOME", &nowhere).env("KILNC_RUNTIMES", runtimes).env_remove("ORT_DYLIB_PATH");
        }
        command.output().unwrap().into()
    }
}

/// A mark in every path of a machine, and in its user and host.
const MARK: &str = "q7machine";

/// Every file below a folder.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(dir: &Path, below: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, below, into);
            } else {
                into.insert(path.strip_prefix(below).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, dir, &mut all);
    all
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// What nothing that is shipped may hold, on this machine too.
fn telling(machine: &Machine) -> Vec<String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let libraries = kilnc::runtime::library::ONNX_RUNTIME.find().ok();
    let folder = libraries.and_then(|file| Some(file.parent()?.display().to_string()));
    let program = Path::new(env!("CARGO_BIN_EXE_kilnc")).parent().unwrap().display().to_string();
    let mut all =
        vec![MARK.to_owned(), machine.root.display().to_string(), env!("CARGO_MANIFEST_DIR").to_owned(), program];
    // The hour, in seconds since 1970; the day.
    all.extend([(now / 1000).to_string(), day(now / 86_400)]);
    all.extend(folder);
    all.extend(Some(host).filter(|host| host.len() > 5));
    all
}

/// A day by its number since 1970, as 2026-01-31 (Howard Hinnant's civil_from_days).
fn day(number: u64) -> String {
    let z = number + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    format!("{}-{month:02}-{day:02}", year_of_era + era * 400 + u64::from(month <= 2))
}

/// Makes one of everything.
fn make(machine: &Machine, key: &Path) {
    let (model, lora) = (machine.input("tiny-bert"), machine.input("tiny-lora"));
    let (texts, labels) = (machine.input("texts.jsonl"), machine.input("labels.json"));
    let out = |name: &str| machine.output(name);
    let run = |arguments: &[OsString]| {
        machine.kilnc(arguments).expect(0);
    };
    let bare = machine.runtimes.is_some();
    let recipe = machine.input("recipe.toml");
    let plan = if bare { "[[engine]]\ntarget = \"tensorrt-rtx:sm75\"\nprecision = \"fp16\"\n" } else { "" };
    let text = format!(
        "calibration = \"texts.jsonl\"\ntexts = \"texts.jsonl\"\nlabels = \"labels.json\"\n\
         golden = {{ file = \"tiny-bert/golden.safetensors\", max_abs = 9.0 }}\n\
         [[engine]]\ntarget = \"ort-cpu\"\n[[engine]]\ntarget = \"ort-cpu\"\nprecision = \"int8\"\n\
         [[engine]]\ntarget = \"tract\"\n[[engine]]\ntarget = \"web\"\n{plan}"
    );
    fs::write(&recipe, text).unwrap();
    run(&arguments!["build", model, "--adapter", lora, "--recipe", recipe, "-o", out("b.kiln")]);
    run(&arguments!["bundle", "sign", out("b.kiln"), "--key", key]);
    run(&arguments!["bundle", "pack", out("b.kiln"), "-o", out("b.tar")]);
    for layout in ["hub", "triton", "oci"] {
        run(&arguments!["bundle", "export", out("b.kiln"), "--layout", layout, "-o", out(layout)]);
    }
    run(&arguments!["merge", model, "--adapter", lora, "-o", out("merged")]);
    run(&arguments!["export", model, "--adapter", lora, "-o", out("model.onnx")]);
    run(&arguments!["export", model, "--adapter", lora, "--adapter-as-input", "-o", out("base.onnx")]);
    run(&arguments!["run", out("b.kiln"), "--engine", "tract-fp32", "--jsonl", texts, "-o", out("predictions.jsonl")]);
    let prune = arguments!["prune", model, "--rounds", "0", "--heads", "0.5", "--target", "tract", "--vocab", texts];
    let prune =
        [&prune[..], &arguments!["--calibration", texts, "--labels", labels, "--report", out("report")]].concat();
    run(&[&prune[..], &arguments!["-o", out("pruned.kiln")]].concat());
    if !bare {
        let quantize = arguments!["quantize", model, "--calibration", texts, "--save-calibration", out("seen.kcal")];
        run(&[&quantize[..], &arguments!["-o", out("model_int8.onnx")]].concat());
    }
}

#[test]
fn two_machines_make_the_same_bytes_without_a_trace_of_either() {
    let place = place();
    let key = place.path().join("key.pem");
    command(arguments!["bundle", "keygen", "-o", key]).output().unwrap();
    for bare in [true, false] {
        let kind = if bare { "bare" } else { "whole" };
        let roots = [format!("{MARK}-{kind}-one"), format!("{MARK} {kind}/two and more")];
        let [one, two] = roots.map(|root| Machine::new(place.path().join(root), bare));
        make(&one, &key);
        // Another second, as file systems and archives count them.
        std::thread::sleep(std::time::Duration::from_millis(2100));
        make(&two, &key);
        let made = [&one, &two].map(|machine| files(&machine.root.join("out")));
        assert!(made[0].len() > 50, "{} files", made[0].len());
        for machine in [&one, &two] {
            for (name, bytes) in files(&machine.root.join("out")) {
                let summary = telling(machine).into_iter().find(|text| contains(&bytes, text) || name.contains(text));
                assert_eq!(
                    summary,
                    None,
                    "{kind}: {name}: {}",
                    String::from_utf8_lossy(&bytes[..bytes.len().min(4000)])
                );
            }
        }
        let [one, two] = &made;
        assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
        for (name, bytes) in one {
            let same = bytes == &two[name];
            let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(20_000)]).into_owned();
            assert!(same, "{kind}: {name} differs:\n{}\n{}", text(bytes), text(&two[name]));
        }
        let manifest: serde_json::Value = serde_json::from_slice(&one["b.kiln/manifest.json"]).unwrap();
        if bare {
            let engine = |name: &str| {
                let mut engines = manifest["engines"].as_array().unwrap().iter();
                engines.find(|engine| engine["name"] == name).unwrap().clone()
            };
            assert_eq!(engine("ort-cpu-fp32")["gates"][0]["ran_by"], "ONNX Runtime is not found", "{manifest}");
            let skipped = manifest["skipped"][0]["reason"].as_str().unwrap();
            assert!(skipped.contains("without TensorRT for RTX") || skipped.contains("is not found"), "{skipped}");
        }
    }
}

/// Timings differ from run to run; they name no path all the same.
#[test]
fn reports_of_measurements_name_no_path() {
    let place = place();
    let machine = Machine::new(place.path().join(MARK), false);
    let (model, texts) = (machine.input("tiny-bert"), machine.input("texts.jsonl"));
    let out = |name: &str| machine.output(name);
    let tune =
        arguments!["tune", model, "--rounds", "1", "--shape", "1x16", "--max-drop", "0.5", "--calibration", texts];
    let labels = machine.input("labels.json");
    machine.kilnc(&[&tune[..], &arguments!["--labels", labels, "-o", out("tuned")]].concat()).expect(0);
    let recipe = fs::read_to_string(out("tuned/recipe.toml")).unwrap();
    assert!(recipe.contains("file = \"../../in/texts.jsonl\""), "{recipe}");
    // It can be read from any path.
    machine.kilnc(&arguments!["build", model, "--recipe", out("tuned/recipe.toml"), "-o", out("tuned.kiln")]).expect(0);

    machine.kilnc(&arguments!["export", model, "-o", machine.input("model.onnx")]).expect(0);
    fs::write(machine.input("bad.onnx"), "garbage").unwrap();
    let prune = arguments!["prune", model, "--heads", "0.5", "--rounds", "1", "--calibration", texts];
    machine.kilnc(&[&prune[..], &arguments!["--report", out("report"), "-o", out("pruned.onnx")]].concat()).expect(0);
    let bench = arguments!["bench", machine.input("model.onnx"), machine.input("bad.onnx"), out("tuned.kiln")];
    let how = arguments!["--rounds", "2", "--seconds", "0.01", "--length", "8", "--json"];
    let pages = arguments!["--html", out("bench.html"), "--markdown", out("bench.md")];
    let report = machine.kilnc(&[&bench[..], &how, &pages].concat()).expect(0);
    fs::write(out("bench.json"), &report.stdout).unwrap();
    // The user at the machine gets the paths.
    assert!(
        report.stderr.contains("bad.onnx was not measured: ONNX Runtime does not load bad.onnx"),
        "{}",
        report.stderr
    );
    for (name, bytes) in files(&machine.root.join("out")) {
        let summary = telling(&machine).into_iter().find(|text| contains(&bytes, text));
        assert_eq!(summary, None, "{name}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]));
    }
}

#[test]
fn days_are_counted_as_the_calendar_has_them() {
    assert_eq!([0, 59, 11_016, 20_484].map(day), ["1970-01-01", "1970-03-01", "2000-02-29", "2026-01-31"]);
}
