//! Unreadable is not missing: a file that is there and cannot be read is an error by name, in every use
//! even where nothing depends on it.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::common::{Ran, command, copied, copy_folder, fixture, kilnc, names, place};

/// A link to itself in place of a file, or where none was.
fn make_loop(path: &Path) {
    let _ = fs::remove_file(path);
    symlink(path.file_name().unwrap(), path).unwrap();
}

const LOOP: &str = "Too many levels of symbolic links";

#[test]
fn a_checkpoint_is_read_whole_or_not_at_all() {
    let place = place();
    let out = place.path().join("out");
    for name in [
        "README.md",
        "LICENSE",
        "model.safetensors.index.json",
        "adapter_config.json",
        "modules.json",
        "tokenizer_config.json",
    ] {
        let model = copied("tiny-bert");
        if name == "model.safetensors.index.json" {
            fs::remove_file(model.path().join("model.safetensors")).unwrap();
        }
        let _ = fs::remove_file(model.path().join(name));
        make_loop(&model.path().join(name));
        let ran = kilnc(arguments!["build", model.path(), "--target", "tract", "-o", out]);
        let said = ran.expect(2).stderr;
        assert!(said.contains(&format!("{name}: {LOOP}")), "{name}: {said}");
        assert!(names(place.path()).is_empty(), "{name}");
    }
}

#[test]
fn a_dangling_link_and_a_folder_are_named_and_not_ignored() {
    let place = place();
    let out = place.path().join("out");
    let build = |model: &Path, more: &[std::ffi::OsString]| {
        let build = arguments!["build", model, "--target", "tract", "-o", out];
        kilnc([&build[..], more].concat()).expect(2).stderr
    };
    // The dangling link of an interrupted download in the Hub's cache.
    let model = copied("tiny-bert");
    let weights = model.path().join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    symlink("../../blobs/0123", &weights).unwrap();
    let said = build(model.path(), &[]);
    assert!(said.contains("model.safetensors is a link to nothing"), "{said}");
    let lora = copied("tiny-lora");
    fs::create_dir(lora.path().join("tokenizer.json")).unwrap();
    let said = build(&fixture("tiny-bert"), &arguments!["--adapter", lora.path()]);
    assert!(said.contains("tokenizer.json is no plain file"), "{said}");
    let lora = copied("tiny-lora");
    make_loop(&lora.path().join("adapter_config.json"));
    let said = build(&fixture("tiny-bert"), &arguments!["--adapter", lora.path()]);
    assert!(said.contains(&format!("adapter_config.json: {LOOP}")), "{said}");
    assert!(names(place.path()).is_empty());
}

#[test]
fn an_unreadable_path_is_not_empty() {
    let place = place();
    let knot = place.path().join("knot");
    make_loop(&knot);
    let out = place.path().join("out");
    let model = fixture("tiny-bert");
    for arguments in [
        arguments!["build", model, "--runtimes", "linux-x64", "--wheels", knot, "-o", out].to_vec(),
        arguments!["build", model, "-o", knot.join("out")].to_vec(),
        arguments!["build", knot, "-o", out].to_vec(),
        arguments!["inspect", knot].to_vec(),
        arguments!["run", knot, "--text", "a"].to_vec(),
        arguments!["bench", knot].to_vec(),
        arguments!["verify", knot].to_vec(),
        arguments!["bundle", "export", knot, "--layout", "hub", "-o", out].to_vec(),
        arguments!["bundle", "unpack", knot, "-o", out].to_vec(),
    ] {
        let said = kilnc(&arguments).expect(2).stderr;
        assert!(said.contains(LOOP), "{arguments:?}: {said}");
    }
    let mut cache = command(["cache"]);
    let said = Ran::from(cache.env("KILNC_CACHE", &knot).output().unwrap()).expect(2).stderr;
    assert!(said.contains(LOOP), "{said}");
    assert_eq!(names(place.path()), ["knot"]);
}

/// Somebody who is not the superuser, who may read everything, with a copy of the program that everybody may run.
#[test]
fn unreadable_files_are_a_fault_of_the_machine_even_where_nothing_depends_on_them() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let place = place();
    let at = |name: &str| place.path().join(name);
    copy_folder(&fixture("tiny-bert"), &at("model"));
    copy_folder(&fixture("tiny-lora"), &at("lora"));
    fs::create_dir(at("out")).unwrap();
    mode(place.path(), 0o755);
    mode(&at("out"), 0o777);
    let program = at("kilnc");
    fs::copy(env!("CARGO_BIN_EXE_kilnc"), &program).unwrap();
    let build = || -> Ran {
        let (model, lora, out) = (at("model"), at("lora"), at("out/tiny.kiln"));
        let mut build = Command::new(&program);
        build.args(arguments!["build", model, "--adapter", lora, "--target", "tract", "-o", out]);
        build.env("KILNC_CACHE", "off").env("HOME", at("out"));
        if rustix::process::geteuid().is_root() {
            build.uid(65534).gid(65534);
        }
        build.output().unwrap().into()
    };
    for file in ["model/README.md", "model/LICENSE", "lora/README.md", "lora/tokenizer.json"] {
        let file = at(file);
        fs::write(&file, "{}").unwrap();
        mode(&file, 0o000);
        // A file's presence can be checked without reading it.
        if !file.ends_with("LICENSE") {
            let said = build().expect(5).stderr;
            assert!(said.contains(&format!("{}: Permission denied", file.display())), "{said}");
        }
        fs::remove_file(&file).unwrap();
    }
    build().expect(0);
}
