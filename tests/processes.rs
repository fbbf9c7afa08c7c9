//! Signals, limits of the system, and what becomes of children.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Ran, command, copied, fixture, jsonl, kilnc, minilm, names, place};

/// The small classifier for ONNX Runtime.
fn model(dir: &Path) -> PathBuf {
    let onnx = dir.join("model.onnx");
    kilnc(arguments!["export", fixture("tiny-bert"), "-o", onnx]).expect(0);
    onnx
}

/// A measurement whose first round takes longer than any test.
fn long_bench(onnx: &Path) -> Command {
    let mut bench = command(arguments!["bench", onnx, "--rounds", "1", "--seconds", "600", "--length", "8"]);
    bench.args(["--threads", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    bench
}

fn wait_for<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if let Some(found) = there() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not come about");
}

/// The children of a process.
fn children_of(id: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// Whether a process runs: one that has ended may be listed until its parent takes note.
fn runs(id: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { return false };
    !matches!(stat.rsplit_once(") ").unwrap().1.chars().next(), Some('Z' | 'X'))
}

/// Seconds of the processor that a process has used, in hundredths.
fn worked(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    fields.get(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The child of a process, once it is busy.
fn busy_child(id: u32) -> u32 {
    let child = wait_for("a child", || children_of(id).first().copied());
    wait_for("work", || (worked(child) > 20).then_some(child))
}

#[test]
fn a_measurement_that_is_ended_early_has_the_signals_exit_code() {
    let place = place();
    let onnx = model(place.path());
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let bench = long_bench(&onnx).spawn().unwrap();
        let child = busy_child(bench.id());
        send(&bench, signal);
        // The first signal waits for results that can be saved; a terminal sends it to the child, too.
        kill_process(Pid::from_raw(child as i32).unwrap(), signal).unwrap();
        let ran = Ran::from(bench.wait_with_output().unwrap()).expect(code);
        assert!(ran.stderr.contains("the measurement was ended before its first round was over"), "{}", ran.stderr);
        wait_for("the child's end", || (!runs(child)).then_some(()));
    }
}

#[test]
fn a_build_that_is_hung_up_on_leaves_nothing_and_one_under_nohup_goes_on() {
    let place = place();
    let out = place.path().join("sections.kiln");
    let build = arguments!["build", minilm(), "--target", "tract", "--no-cache", "-o", out, "--quiet"];
    let staged = || names(place.path()).iter().any(|name| name.ends_with("kilnc-stage")).then_some(());
    // A terminal that is closed, and its Ctrl-\.
    for (signal, code) in [(Signal::HUP, 129), (Signal::QUIT, 131)] {
        let mut ended = command(&build).stdout(Stdio::null()).spawn().unwrap();
        wait_for("a stage", staged);
        send(&ended, signal);
        assert_eq!(ended.wait().unwrap().code(), Some(code));
        assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));
    }

    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kilnc")]).args(&build);
    let mut going_on = nohup.stdout(Stdio::null()).spawn().unwrap();
    wait_for("a stage", staged);
    send(&going_on, Signal::HUP);
    assert_eq!(going_on.wait().unwrap().code(), Some(0));
    assert_eq!(names(place.path()), ["sections.kiln"]);
}

#[test]
fn a_busy_child_ends_with_its_parent_that_was_killed() {
    let place = place();
    let onnx = model(place.path());
    let mut bench = long_bench(&onnx).spawn().unwrap();
    let child = busy_child(bench.id());
    send(&bench, Signal::KILL);
    bench.wait().unwrap();
    let begun = Instant::now();
    wait_for("the child's end", || (!runs(child)).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Where the system does not end children by itself, the end of the pipe does: here the parent lives on.
#[test]
fn a_busy_child_ends_when_its_pipe_closes() {
    let place = place();
    let onnx = model(place.path());
    let request = serde_json::json!({
        "file": { "Unix": onnx.to_str().unwrap().as_bytes() }, "runtime": "ort", "device": "cpu", "adapters": [],
        "threads": 1, "seconds": 600.0, "tokenizer": null, "powercap": null,
        "points": [[{ "rows": 1, "length": 4, "ids": [1, 2, 3, 4], "token_types": [0, 0, 0, 0], "real": [4], "texts": [] }]],
    });
    let request = serde_json::to_vec(&request).unwrap();
    let mut child = command([kilnc::subprocess::SUBCOMMAND, "bench"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&(request.len() as u64).to_le_bytes()).unwrap();
    pipe.write_all(&request).unwrap();
    wait_for("work", || (worked(child.id()) > 20).then_some(()));
    assert!(child.try_wait().unwrap().is_none());
    drop(pipe);
    let status = wait_for("the child's end", || child.try_wait().unwrap());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!status.success(), "{said}");
}

/// The binary under limits of the shell.
fn limited(limits: &str, arguments: &[std::ffi::OsString]) -> Ran {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{limits}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_kilnc")]).args(arguments);
    shell.env("KILNC_CACHE", "off").output().unwrap().into()
}

#[test]
fn a_file_that_grows_too_long_is_a_fault_of_the_machine_and_leaves_nothing() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    let build = arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"];
    // The signal that would end the process is not turned off.
    let said = limited("ulimit -f 20", &build).expect(5).stderr;
    assert!(said.starts_with("error: writing ") && said.contains("File too large"), "{said}");
    assert!(names(place.path()).is_empty());
}

#[test]
fn files_that_cannot_be_opened_are_a_fault_of_the_machine() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    let texts = jsonl(place.path());
    for arguments in [
        arguments!["inspect", fixture("tiny-bert")].to_vec(),
        arguments!["run", out, "--jsonl", texts].to_vec(),
        arguments!["verify", out].to_vec(),
    ] {
        // Standard streams take three, and the program itself a few.
        let said = (4..12).map(|most| limited(&format!("ulimit -n {most}"), &arguments));
        // With fewer, the system does not start it at all.
        let failed: Vec<Ran> = said.filter(|ran| ![0, 127].contains(&ran.code)).collect();
        assert!(!failed.is_empty());
        for ran in failed {
            let said = ran.expect(5).stderr;
            assert!(said.contains("Too many open files") && !said.contains("panicked"), "{said}");
        }
    }
}

#[test]
fn a_file_that_may_not_be_read_is_a_fault_of_the_machine() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let copy = copied("tiny-bert");
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let folder = copy.path();
    // The superuser may read everything: somebody else tries, with a copy of the program that everybody may run.
    let superuser = rustix::process::geteuid().is_root();
    let program = place();
    let kilnc = program.path().join("kilnc");
    if superuser {
        fs::copy(env!("CARGO_BIN_EXE_kilnc"), &kilnc).unwrap();
        mode(program.path(), 0o755);
    }
    let inspect = || -> Ran {
        let mut command =
            Command::new(if superuser { kilnc.as_path() } else { Path::new(env!("CARGO_BIN_EXE_kilnc")) });
        if superuser {
            command.uid(65534).gid(65534);
        }
        command.arg("inspect").arg(folder).output().unwrap().into()
    };
    mode(folder, 0o755);
    inspect().expect(0);
    mode(&folder.join("config.json"), 0o000);
    let said = inspect().expect(5).stderr;
    assert!(said.starts_with("error: reading ") && said.contains("config.json: Permission denied"), "{said}");
    mode(&folder.join("config.json"), 0o644);
    mode(folder, 0o600);
    let said = inspect().expect(5).stderr;
    assert!(said.contains("Permission denied"), "{said}");
    mode(folder, 0o755);
}

#[test]
fn memory_that_is_refused_is_a_fault_of_the_machine_and_leaves_nothing() {
    let place = place();
    let out = place.path().join("sections.kiln");
    let build = arguments!["build", minilm(), "--target", "tract", "-o", out, "--quiet"];
    // It may run out anywhere: before the work, while files are mapped, in the middle of a tensor.
    let mut failed = 0;
    for megabytes in (100..600).step_by(50) {
        let ran = limited(&format!("ulimit -v {}", megabytes * 1024), &build);
        if ran.code != 0 {
            failed += 1;
            let said = ran.expect(5).stderr;
            assert!(said.contains("error: "), "{megabytes} MB: {said}");
            assert!(names(place.path()).is_empty(), "{megabytes} MB: {:?}", names(place.path()));
        } else {
            fs::remove_dir_all(&out).unwrap();
        }
    }
    assert!(failed > 0, "memory never ran out");
}

/// A library that is cut short crashes what loads it.
#[test]
fn a_runtime_that_was_cut_short_is_missing() {
    let place = place();
    let (onnx, cut) = (model(place.path()), place.path().join("libonnxruntime.so.1"));
    let out = place.path().join("tiny.kiln");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "-o", out, "--quiet"]).expect(0);
    let whole = fs::read(kilnc::runtime::library::ONNX_RUNTIME.find().unwrap()).unwrap();
    let with_cut = |arguments: &[std::ffi::OsString]| -> Ran {
        command(arguments).env("ORT_DYLIB_PATH", &cut).output().unwrap().into()
    };
    let tokenizer = fixture("tiny-bert").join("tokenizer.json");
    let labels = place.path().join("labels.json");
    fs::write(&labels, "[\"a\", \"b\", \"c\"]").unwrap();
    for share in [2, 3, 50] {
        fs::write(&cut, &whole[..whole.len() / share]).unwrap();
        for arguments in [
            arguments!["run", out, "--text", "a game"].to_vec(),
            arguments!["run", out, "--engine", "ort-cpu-fp32", "--text", "a game"].to_vec(),
            arguments!["run", onnx, "--tokenizer", tokenizer, "--labels", labels, "--text", "a game"].to_vec(),
            arguments!["bench", onnx, "--rounds", "1", "--seconds", "0.01", "--length", "8"].to_vec(),
            arguments!["build", fixture("tiny-bert"), "--target", "ort-cpu", "--strict", "-o", place.path().join("x")]
                .to_vec(),
        ] {
            let said = with_cut(&arguments).expect(4).stderr;
            assert!(said.contains("does not load") || said.contains("none of the bundle's engines"), "{said}");
        }
    }
    assert_eq!(names(place.path()), ["labels.json", "libonnxruntime.so.1", "model.onnx", "tiny.kiln"]);
}
