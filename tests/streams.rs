//! Standard streams that fail: messages on closed streams are dropped, and a result that cannot be printed is an error; the work is
//! never lost.
#![cfg(unix)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Ran, command, fixture, jsonl, kilnc, names, place};

/// A pipe without a reader.
fn broken() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A disk that is full.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A terminal that was closed.
#[cfg(target_os = "linux")]
fn closed_terminal() -> Stdio {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let user = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    drop(terminal);
    user.into()
}

fn ended(mut command: Command) -> Ran {
    command.output().unwrap().into()
}

fn build(out: &std::path::Path) -> Command {
    command(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out])
}

#[test]
fn a_build_with_closed_streams_completes() {
    let mut streams = vec![("broken", broken()), ("full", full())];
    #[cfg(target_os = "linux")]
    streams.push(("closed", closed_terminal()));
    for (name, stream) in streams {
        let place = place();
        let out = place.path().join("tiny.kiln");
        let mut build = build(&out);
        build.stderr(stream);
        let ran = ended(build).expect(0);
        assert!(ran.stdout.contains("tiny.kiln"), "{name}: {}", ran.stdout);
        kilnc(arguments!["verify", out]).expect(0);
    }
}

#[test]
fn bad_input_has_its_exit_code_on_closed_streams() {
    for stream in [broken(), full()] {
        let mut wrong = command(arguments!["build", "/nowhere", "-o", "/nowhere/out", "--json"]);
        wrong.stderr(stream).stdout(full());
        ended(wrong).expect(2);
    }
    let mut usage = command(["build", "--nonsense"]);
    usage.stderr(broken());
    ended(usage).expect(2);
}

#[test]
fn a_result_that_cannot_be_printed_is_a_fault_of_the_machine() {
    let place = place();
    let (out, texts) = (place.path().join("tiny.kiln"), jsonl(place.path()));
    ended(build(&out)).expect(0);
    let prints: [Vec<OsString>; 9] = [
        arguments!["--help"].into(),
        arguments!["--version"].into(),
        arguments!["inspect", out].into(),
        arguments!["verify", out, "--json"].into(),
        arguments!["run", out, "--text", "a game"].into(),
        arguments!["run", out, "--text", "a game", "--json"].into(),
        arguments!["run", out, "--jsonl", texts].into(),
        arguments!["eval", out, "--data", texts].into(),
        arguments!["doctor"].into(),
    ];
    for arguments in prints {
        let mut to_disk = command(&arguments);
        to_disk.stdout(full());
        let said = ended(to_disk).expect(5).stderr;
        assert!(said.ends_with("No space left on device (os error 28)\n"), "{arguments:?}: {said}");
        assert!(said.contains("error: ") && !said.contains("panicked"), "{arguments:?}: {said}");
        // The reader has read enough, as `head` does.
        let mut to_nobody = command(&arguments);
        to_nobody.stdout(broken());
        let said = ended(to_nobody).expect(0).stderr;
        assert!(!said.contains("error: ") && !said.contains("panicked"), "{arguments:?}: {said}");
    }
    // The built output is there, whether it can be reported or not.
    let again = place.path().join("again.kiln");
    let mut untold = build(&again);
    untold.stdout(full());
    ended(untold).expect(5);
    kilnc(arguments!["verify", again]).expect(0);
    assert_eq!(names(place.path()), ["again.kiln", "texts.jsonl", "tiny.kiln"]);
}

/// What came of the texts so far is printed before the last of them is known.
#[test]
fn texts_are_run_as_they_come() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    ended(build(&out)).expect(0);
    for form in [&[][..], &["--json"], &["--jsonl", "-"]] {
        let mut run = command(arguments!["run", out, "--quiet"]);
        let mut run = run.args(form).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = run.stdin.take().unwrap();
        let mut output = BufReader::new(run.stdout.take().unwrap()).lines();
        let line = if form.contains(&"-") { "{\"text\": \"a game\"}\n" } else { "a game\n" };
        // More than are run together; standard input stays open.
        let written = std::thread::spawn(move || {
            input.write_all(line.repeat(5000).as_bytes()).unwrap();
            input
        });
        let (sender, first) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            sender.send(output.next().unwrap().unwrap()).unwrap();
            1 + output.map(Result::unwrap).filter(|line| !line.is_empty()).count()
        });
        let first = first.recv_timeout(Duration::from_secs(120)).expect("nothing is printed before the end");
        assert!(!first.is_empty());
        let mut input = written.join().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        drop(input);
        let lines = reader.join().unwrap();
        assert!(run.wait().unwrap().success());
        assert!(lines >= 5001, "{form:?}: {lines}");
    }
}

#[test]
fn a_list_of_predictions_is_whole_where_a_text_is_refused() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    ended(build(&out)).expect(0);
    let mut run = command(arguments!["run", out, "--quiet", "--json"]);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let long = "x".repeat(2 << 20);
    run.stdin.take().unwrap().write_all(format!("{}{long}\n", "a game\n".repeat(300)).as_bytes()).unwrap();
    let ran = Ran::from(run.wait_with_output().unwrap()).expect(2);
    let mut values = serde_json::Deserializer::from_str(&ran.stdout).into_iter::<serde_json::Value>();
    assert_eq!(values.next().unwrap().unwrap().as_array().unwrap().len(), 256);
    let error = values.next().unwrap().unwrap();
    assert_eq!(error["error"]["locations"][0], "standard input line 301", "{error}");
    assert!(values.next().is_none());
}

#[test]
fn an_id_comes_back_letter_by_letter() {
    let place = place();
    let out = place.path().join("tiny.kiln");
    ended(build(&out)).expect(0);
    let digits = "9".repeat(400);
    let numbers = ["12345678901234567890123", "1.10", "1e400", "-1.5E+999", "[1e400]", "-0", "1e-400", &digits];
    let others = ["{\"b\": 1, \"a\": [2,  3]}", "null", "\"\\u00e9\""];
    let ids = [&numbers[..], &others].concat();
    let texts = place.path().join("texts.jsonl");
    fs::write(&texts, ids.iter().map(|id| format!("{{\"id\": {id}, \"text\": \"a game\"}}\n")).collect::<String>())
        .unwrap();
    let answers = kilnc(arguments!["run", out, "--jsonl", texts, "--quiet"]).expect(0).stdout;
    for (line, id) in answers.lines().zip(&ids) {
        assert!(line.starts_with(&format!("{{\"id\":{id},\"label\":")), "{line}");
    }
    assert_eq!(answers.lines().count(), ids.len());
    // NaN stays NaN, and it has no prediction but an error.
    for id in ["1e", "01e400", "+1", "1e400 1"] {
        fs::write(&texts, format!("{{\"id\": {id}, \"text\": \"a game\"}}\n")).unwrap();
        kilnc(arguments!["run", out, "--jsonl", texts, "--quiet"]).expect(2);
    }
}
