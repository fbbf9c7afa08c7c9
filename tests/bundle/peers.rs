//! Other programs read what kilnc writes: those whose packages are small. `scripts/setup.sh` installs them; where they are
//! missing, what needs them is skipped, loudly, and fails under `KILNC_TEST_STRICT`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use super::bundle;
use crate::common::{fixture, kilnc, place, repository};

/// The folder of a language's packages.
fn packages(test: &str, language: &str) -> Option<PathBuf> {
    let folder = repository("out/peers").join(language);
    if folder.join(".list").is_file() {
        return Some(folder);
    }
    assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{test}: run scripts/setup.sh");
    eprintln!("SKIPPED: {test}: {} is missing: run scripts/setup.sh", folder.display());
    None
}

/// Runs a script and returns its output.
#[track_caller]
fn said(command: &mut Command) -> String {
    let output = command.env("KILNC_CACHE", "off").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Runs a script in Python; gives nothing where its packages are missing.
#[track_caller]
fn python(script: &str, arguments: &[OsString]) -> Option<String> {
    let packages = packages(script, "python")?;
    let script = repository("scripts/peers").join(script);
    // The wheel whose library kilnc opens is a package of Python, too.
    let runtime =
        kilnc::runtime::library::ONNX_RUNTIME.find().ok().and_then(|path| path.ancestors().nth(3).map(PathBuf::from));
    let paths = std::env::join_paths([Some(packages), runtime].into_iter().flatten()).unwrap();
    Some(said(Command::new("python3").env("PYTHONPATH", paths).arg(script).args(arguments)))
}

#[test]
fn model_signing_verifies_what_kilnc_signs_and_the_other_way_round() {
    let Some(said) = python("signatures.py", &arguments![env!("CARGO_BIN_EXE_kilnc")]) else { return };
    assert_eq!(said.lines().count(), 3, "{said}");
}

#[test]
fn cyclonedx_accepts_the_bill_of_materials() {
    let place = place();
    let Some(said) = python("bill.py", &arguments![bundle(place.path())]) else { return };
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn triton_reads_the_configuration() {
    let place = place();
    let (bundle, out) = (bundle(place.path()), place.path().join("models"));
    kilnc(arguments!["bundle", "export", bundle, "--layout", "triton", "-o", out]).expect(0);
    let (decoder, sequences) = (place.path().join("lm.kiln"), place.path().join("sequences"));
    kilnc(arguments!["build", fixture("decoders/gpt2/lm"), "-o", decoder, "--quiet"]).expect(0);
    kilnc(arguments!["bundle", "export", decoder, "--layout", "triton", "-o", sequences]).expect(0);
    let Some(said) = python("triton_config.py", &arguments![out, sequences]) else { return };
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_page_predicts_with_the_engines_for_web() {
    let Some(packages) = packages("web_page.mjs", "node") else { return };
    let place = place();
    let out = place.path().join("tiny.kiln");
    let build = arguments![
        "build",
        fixture("tiny-bert"),
        "--target",
        "web",
        "--target",
        "ort-cpu",
        "--quantize",
        "int8",
        "-o",
        out,
        "--quiet"
    ];
    kilnc(build).expect(0);
    let script = repository("scripts/peers/web_page.mjs");
    let texts = ["the game is fast", "a mail server for the web", "print the library with that tool!"];
    let page = arguments![script, env!("CARGO_BIN_EXE_kilnc"), out, "wasm"];
    let said = said(Command::new("node").current_dir(packages).args(page).args(texts));
    let models: Vec<_> = said.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    assert_eq!(models, ["web/model.onnx", "web/model_quantized.onnx"], "{said}");
}
