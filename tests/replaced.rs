//! Bundles that change while they are read, and files that are no part of one: every use of a bundle checks
//! it as `verify` does.
#![cfg(unix)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Ran, command, copy_folder, fixture, jsonl, kilnc, names, place};

fn build(out: &Path, more: &[OsString]) {
    let build = arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"];
    kilnc([&build[..], more].concat()).expect(0);
}

fn run(bundle: &Path) -> Ran {
    kilnc(arguments!["run", bundle, "--text", "the game is fast", "--quiet"])
}

/// Two bundles that predict differently, by their labels, which the manifest has, and by their scores, which are the
/// engine's.
fn two(place: &Path) -> [PathBuf; 2] {
    let [one, two] = ["one.kiln", "two.kiln"].map(|name| place.join(name));
    build(&one, &[]);
    let labels = place.join("labels.json");
    fs::write(&labels, "[\"a\", \"b\", \"c\"]").unwrap();
    build(&two, &arguments!["--labels", labels, "--adapter", fixture("tiny-lora")]);
    [one, two]
}

/// While another thread does `change` over and over, every run uses one of the two bundles.
fn answers_of_one_or_the_other(bundle: &Path, expected: &[String; 2], change: impl Fn() + Sync) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                change();
            }
        });
        let mut observed = [0, 0];
        for _ in 0..60 {
            let ran = run(bundle);
            let which = expected.iter().position(|answer| *answer == ran.stdout);
            if ran.code != 0 || which.is_none() {
                done.store(true, Ordering::SeqCst);
            }
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            observed[which.unwrap_or_else(|| panic!("a mix of two bundles: {}", ran.stdout))] += 1;
        }
        done.store(true, Ordering::SeqCst);
        assert!(observed[0] > 0 && observed[1] > 0, "{observed:?}");
    });
}

#[test]
#[cfg(target_os = "linux")]
fn two_bundles_that_are_exchanged_are_never_mixed() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let place = place();
    let [one, two] = two(place.path());
    let expected = [&one, &two].map(|bundle| run(bundle).expect(0).stdout);
    assert_ne!(expected[0], expected[1]);
    answers_of_one_or_the_other(&one, &expected, || {
        renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_bundle_that_is_replaced_and_removed_is_read_again() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let place = place();
    let [one, two] = two(place.path());
    let begun = std::time::Instant::now();
    let expected = [&one, &two].map(|bundle| run(bundle).expect(0).stdout);
    // Seldom enough that a run ends, however slow the machine is.
    let pause = begun.elapsed() * 2;
    let live = place.path().join("live.kiln");
    copy_folder(&one, &live);
    let next = place.path().join("next.kiln");
    let turn = AtomicBool::new(false);
    answers_of_one_or_the_other(&live, &expected, || {
        // As a build renames its output.
        copy_folder(if turn.fetch_not(Ordering::SeqCst) { &one } else { &two }, &next);
        renameat_with(CWD, &next, CWD, &live, RenameFlags::EXCHANGE).unwrap();
        fs::remove_dir_all(&next).unwrap();
        std::thread::sleep(pause);
    });
}

#[test]
fn a_bundle_is_run_only_where_it_would_be_verified() {
    let place = place();
    let whole = place.path().join("whole.kiln");
    build(&whole, &[]);
    let texts = jsonl(place.path());
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("engines is no plain file", |bundle| {
            let aside = bundle.with_extension("engines");
            fs::rename(bundle.join("engines"), &aside).unwrap();
            symlink(&aside, bundle.join("engines")).unwrap();
        }),
        ("manifest.json is no plain file", |bundle| {
            let aside = bundle.with_extension("manifest");
            fs::rename(bundle.join("manifest.json"), &aside).unwrap();
            symlink(&aside, bundle.join("manifest.json")).unwrap();
        }),
        ("engines/tract-fp32.onnx is no plain file", |bundle| {
            let aside = bundle.with_extension("engine");
            fs::rename(bundle.join("engines/tract-fp32.onnx"), &aside).unwrap();
            symlink(&aside, bundle.join("engines/tract-fp32.onnx")).unwrap();
        }),
        ("hub is no plain file", |bundle| {
            let aside = bundle.with_extension("hub");
            fs::rename(bundle.join("hub"), &aside).unwrap();
            symlink(&aside, bundle.join("hub")).unwrap();
        }),
        // A file that an engine names, and no manifest lists.
        ("the manifest does not list `engines/weights.bin`", |bundle| {
            fs::write(bundle.join("engines/weights.bin"), "x").unwrap();
        }),
        ("the manifest does not list `extra`", |bundle| fs::write(bundle.join("extra"), "x").unwrap()),
        ("`hub/config.json` is missing, and the manifest lists it", |bundle| {
            fs::remove_file(bundle.join("hub/config.json")).unwrap();
        }),
    ];
    for (expected, change) in changes {
        let bundle = place.path().join("changed.kiln");
        copy_folder(&whole, &bundle);
        change(&bundle);
        let exported = place.path().join("exported");
        let commands: [Vec<OsString>; 6] = [
            arguments!["verify", bundle].into(),
            arguments!["run", bundle, "--text", "a game"].into(),
            arguments!["eval", bundle, "--data", texts].into(),
            arguments!["bench", bundle, "--rounds", "1", "--seconds", "0.01", "--length", "8"].into(),
            arguments!["bundle", "pack", bundle, "-o", exported].into(),
            arguments!["bundle", "export", bundle, "--layout", "hub", "-o", exported].into(),
        ];
        for arguments in commands {
            let said = kilnc(&arguments).expect(2).stderr;
            assert!(said.contains(expected), "{arguments:?}: {said}");
        }
        assert!(!exported.exists());
        for path in fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()) {
            match path.file_name().unwrap().to_str().unwrap() {
                name if !name.starts_with("changed") => {}
                _ if path.is_dir() => fs::remove_dir_all(&path).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
        }
    }
    run(&whole).expect(0);
}

/// A name that is not UTF-8 is as good as another.
#[test]
fn paths_that_are_not_utf_8_are_read_by_every_command() {
    use std::os::unix::ffi::OsStrExt;
    let place = place();
    let non_finite = place.path().join(std::ffi::OsStr::from_bytes(b"o\xffdd"));
    fs::create_dir(&non_finite).unwrap();
    let made = place.path().join("tiny.kiln");
    let targets = arguments!["--target", "ort-cpu", "--target", "tract"];
    kilnc([&arguments!["build", fixture("tiny-bert"), "-o", made, "--quiet"][..], &targets].concat()).expect(0);
    let (bundle, onnx) = (non_finite.join("tiny.kiln"), non_finite.join("model.onnx"));
    copy_folder(&made, &bundle);
    kilnc(arguments!["export", fixture("tiny-bert"), "-o", place.path().join("model.onnx")]).expect(0);
    fs::copy(place.path().join("model.onnx"), &onnx).unwrap();
    let (tokenizer, labels, texts) =
        (non_finite.join("tokenizer.json"), non_finite.join("labels.json"), non_finite.join("texts.jsonl"));
    fs::copy(fixture("tiny-bert").join("tokenizer.json"), &tokenizer).unwrap();
    fs::write(&labels, "[\"a\", \"b\", \"c\"]").unwrap();
    fs::rename(jsonl(place.path()), &texts).unwrap();
    let fast = ["--rounds", "1", "--seconds", "0.01", "--threads", "1"];
    let bench = |more: &[OsString]| [&arguments!["bench"][..], &fast.map(Into::into), more].concat();
    let commands: [Vec<OsString>; 10] = [
        arguments!["run", bundle, "--text", "a game", "--engine", "ort-cpu-fp32"].into(),
        arguments!["run", bundle, "--jsonl", texts, "--engine", "tract-fp32", "--json"].into(),
        arguments!["run", onnx, "--tokenizer", tokenizer, "--labels", labels, "--text", "a game"].into(),
        arguments!["eval", bundle, "--data", texts, "--json"].into(),
        arguments!["verify", bundle, "--json"].into(),
        arguments!["inspect", bundle, "--json"].into(),
        bench(&arguments![bundle, "--length", "8", "--json"]),
        bench(&arguments![onnx, "--length", "8", "--json"]),
        bench(&arguments![bundle, "--texts", texts, "--tokenize"]),
        arguments!["bundle", "export", bundle, "--layout", "hub", "-o", place.path().join("hub")].into(),
    ];
    for arguments in commands {
        let ran = kilnc(&arguments).expect(0);
        if arguments.iter().any(|argument| argument == "--json") && !arguments.iter().any(|a| a == "--jsonl") {
            ran.json();
        }
    }
    assert_eq!(names(&non_finite), ["labels.json", "model.onnx", "texts.jsonl", "tiny.kiln", "tokenizer.json"]);
    // Folders of models and adapters, with a factor too.
    let (base, lora) = (non_finite.join("base"), non_finite.join("lora"));
    copy_folder(&fixture("tiny-bert-base"), &base);
    copy_folder(&fixture("tiny-lora"), &lora);
    let merged = |adapter: &OsString| {
        let merge = arguments!["merge", base, "--adapter", adapter, "-o", place.path().join("merged"), "--json"];
        kilnc(merge).expect(0).json()["adapters"][0].clone()
    };
    let mut half = lora.clone().into_os_string();
    assert_eq!(merged(&half)["scale"], 1.0);
    half.push("@0.5");
    assert_eq!(merged(&half)["scale"], 0.5);
    // A recipe names its files, and is text: a path that cannot be in one is refused before the work.
    let tune = arguments![
        "tune",
        fixture("tiny-bert"),
        "--max-drop",
        "0.5",
        "--calibration",
        texts,
        "-o",
        non_finite.join("t")
    ];
    let said = kilnc(tune).expect(2).stderr;
    assert!(said.contains("is not UTF-8"), "{said}");
    let out = place.path().join("tuned");
    let tune = arguments!["tune", fixture("tiny-bert"), "--max-drop", "0.5", "--calibration", texts, "-o", out];
    let said = kilnc(tune).expect(2).stderr;
    assert!(
        said.starts_with("error: the path ") && said.contains("is not UTF-8, and a recipe could not name it"),
        "{said}"
    );
    assert!(!out.exists());
}

/// Other files in an output's folder are not kilnc's to remove.
#[test]
fn an_output_that_holds_files_of_the_user_is_not_replaced() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    let texts = jsonl(place.path());
    build(&at("tiny.kiln"), &[]);
    let made = kilnc(arguments!["bundle", "pack", at("tiny.kiln"), "-o", at("tiny.tar")]);
    made.expect(0);
    // A bundle's own files may be damaged, or signed.
    fs::write(at("tiny.kiln/model.sig"), "x").unwrap();
    fs::remove_file(at("tiny.kiln/tokenizer.json")).unwrap();
    build(&at("tiny.kiln"), &[]);
    for (folder, files) in [
        ("tiny.kiln", &[("mine.txt", "x")][..]),
        ("page", &[("manifest.json", "{\"name\": \"a page\", \"schema\": \"x\", \"files\": []}")]),
        ("report", &[("prune.json", "{}"), ("mine.txt", "x")]),
        ("tuned", &[("tune.json", "{}"), ("mine.txt", "x")]),
    ] {
        fs::create_dir_all(at(folder)).unwrap();
        files.iter().for_each(|(name, text)| fs::write(at(folder).join(name), text).unwrap());
        let out = at(folder);
        let given = arguments!["--target", "tract", "--calibration", texts, "--rounds", "1", "--shape", "1x8"];
        let commands: &[Vec<OsString>] = match folder {
            "report" => &[[
                &arguments!["prune", fixture("tiny-bert"), "--heads", "0.5", "--report", out, "-o", at("pruned")][..],
                &given,
            ]
            .concat()],
            "tuned" => {
                &[[&arguments!["tune", fixture("tiny-bert"), "--max-drop", "0.5", "-o", out][..], &given].concat()]
            }
            _ => &[
                arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out].into(),
                arguments!["bundle", "unpack", at("tiny.tar"), "-o", out].into(),
                [&arguments!["prune", fixture("tiny-bert"), "--heads", "0.5", "-o", out][..], &given].concat(),
            ],
        };
        for command in commands {
            let said = kilnc(command).expect(2).stderr;
            assert!(said.contains(&format!("{folder} is a folder that kilnc did not make")), "{command:?}: {said}");
        }
        for (name, text) in files {
            assert_eq!(fs::read_to_string(at(folder).join(name)).unwrap(), *text);
        }
        assert!(!at("pruned").exists());
    }
}

/// An empty variable names nothing, and above all not the current folder.
#[test]
fn libraries_are_never_searched_below_the_current_folder() {
    let here = place();
    for folder in ["", ".local/share/kilnc/runtimes", "runtimes", "relative"] {
        let inside = here.path().join(folder).join("onnxruntime/onnxruntime/capi");
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join("libonnxruntime.so.1.99.0"), "mine").unwrap();
    }
    let empty: [&[(&str, &str)]; 4] = [
        &[("HOME", "")],
        &[("HOME", ""), ("XDG_DATA_HOME", ""), ("KILNC_RUNTIMES", ""), ("ORT_DYLIB_PATH", "")],
        &[("HOME", "."), ("XDG_DATA_HOME", "relative")],
        &[("HOME", "relative"), ("XDG_CACHE_HOME", "relative")],
    ];
    for variables in empty {
        let mut doctor = command(["doctor"]);
        doctor
            .current_dir(here.path())
            .env_remove("KILNC_RUNTIMES")
            .env_remove("ORT_DYLIB_PATH")
            .env_remove("KILNC_CACHE");
        let ran: Ran = doctor.envs(variables.iter().copied()).output().unwrap().into();
        let said = ran.expect(0).stdout;
        assert!(!said.contains("1.99.0"), "{variables:?}: {said}");
        assert!(!said.contains("in .local") && !said.contains(" relative/"), "{variables:?}: {said}");
        // Nor is anything to be installed there.
        assert!(
            !said.contains("--target onnxruntime") && !said.contains("--target runtimes/"),
            "{variables:?}: {said}"
        );
    }
}
