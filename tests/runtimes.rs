//! Bundled runtimes: native libraries of engines, taken from wheels, and used where the user trusts them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, command, fixture, kilnc, names, place};
use kilnc::runtime::Platform;
use serde_json::Value;

/// A bundle with engines for those targets and their libraries.
fn build(targets: &[&str], platforms: &str, wheels: &Path, out: &Path) -> Ran {
    let mut all: Vec<OsString> = arguments!["build", fixture("tiny-bert"), "-o", out, "--wheels", wheels].into();
    all.extend(targets.iter().flat_map(|target| ["--target", *target]).map(Into::into));
    kilnc(all.into_iter().chain(arguments!["--runtimes", platforms]))
}

/// A run where no native library is installed.
fn bare(home: &Path, arguments: impl IntoIterator<Item = OsString>) -> Ran {
    let mut command = command(arguments);
    command.env("HOME", home).env("XDG_DATA_HOME", home).env("LOCALAPPDATA", home);
    command.env_remove("KILNC_RUNTIMES").env_remove("ORT_DYLIB_PATH").output().unwrap().into()
}

/// The bundle's file of that name's beginning.
fn library(bundle: &Path, begins: &str) -> PathBuf {
    let folder = bundle.join(format!("runtimes/{}/onnxruntime/onnxruntime/capi", Platform::here().unwrap()));
    let name = names(&folder).into_iter().find(|name| name.starts_with(begins)).unwrap();
    folder.join(name)
}

#[test]
fn bundled_runtimes_are_used_only_where_the_user_trusts_the_bundle() {
    let Some(platform) = Platform::here() else { return };
    let Some(wheels) = crate::common::wheels("libraries of a bundle", &[platform]) else { return };
    let place = place();
    let (home, out) = (place.path().join("home"), place.path().join("out"));
    build(&["ort-cpu", "tract"], platform.name(), &wheels, &out).expect(0);
    let run = |more: &[&str]| {
        let more: Vec<OsString> = more.iter().map(Into::into).collect();
        bare(&home, arguments!["run", out, "--text", "the movie"].into_iter().chain(more))
    };
    let on_tract = run(&[]).expect(0);
    assert!(on_tract.stderr.contains("engine tract-fp32 on tract"), "{}", on_tract.stderr);
    let reason = "the bundle holds onnxruntime 1.32.0, which is used under --trust";
    assert!(on_tract.stderr.contains(reason), "{}", on_tract.stderr);
    let named = run(&["--engine", "ort-cpu-fp32"]).expect(4);
    assert!(named.stderr.contains(reason), "{}", named.stderr);

    let trusted = run(&["--trust"]).expect(0);
    assert!(trusted.stderr.contains("engine ort-cpu-fp32 on ONNX Runtime, the fastest of"), "{}", trusted.stderr);
    assert_eq!(trusted.stdout, on_tract.stdout);
    let unsigned = run(&["--key", "nobody.pem.pub"]).expect(2);
    assert!(unsigned.stderr.contains("nobody.pem.pub"), "{}", unsigned.stderr);

    let key = |name: &str| place.path().join(name);
    for name in ["key.pem", "other.pem"] {
        kilnc(arguments!["bundle", "keygen", "-o", key(name)]).expect(0);
    }
    let public = key("key.pem.pub");
    let signed = run(&["--key", public.to_str().unwrap()]).expect(2);
    assert!(signed.stderr.contains("is not signed: it has no model.sig"), "{}", signed.stderr);
    kilnc(arguments!["bundle", "sign", out, "--key", key("key.pem")]).expect(0);
    let verified = run(&["--key", public.to_str().unwrap()]).expect(0);
    assert!(verified.stderr.contains("engine ort-cpu-fp32 on ONNX Runtime"), "{}", verified.stderr);
    let summary = run(&[]).expect(0);
    assert!(
        summary.stderr.contains("under --key FILE, which verifies who signed it, or --trust"),
        "{}",
        summary.stderr
    );
    let other = run(&["--key", key("other.pem.pub").to_str().unwrap()]).expect(2);
    assert!(other.stdout.is_empty(), "{}", other.stdout);

    // A variable goes first.
    let mut nowhere = command(arguments!["run", out, "--trust", "--engine", "ort-cpu-fp32", "--text", "x"]);
    let nowhere = Ran::from(nowhere.env("ORT_DYLIB_PATH", place.path().join("none")).output().unwrap()).expect(4);
    assert!(nowhere.stderr.contains("ORT_DYLIB_PATH names "), "{}", nowhere.stderr);
}

#[test]
fn eval_and_bench_use_them_too() {
    let Some(platform) = Platform::here() else { return };
    let Some(wheels) = crate::common::wheels("libraries of a bundle", &[platform]) else { return };
    let place = place();
    let (home, out) = (place.path().join("home"), place.path().join("out"));
    build(&["ort-cpu", "tract"], platform.name(), &wheels, &out).expect(0);
    let data = crate::common::jsonl(place.path());
    let engines = |ran: &Ran, list: Option<&str>| -> Vec<String> {
        let summary = ran.json();
        let engines = list.map_or(&summary, |list| &summary[list]).as_array().unwrap();
        let name = |engine: &Value| engine["engine"].as_str().or(engine["name"].as_str()).unwrap().to_owned();
        engines.iter().map(name).collect()
    };
    let eval = |more: &[&str]| {
        let more: Vec<OsString> = more.iter().map(Into::into).collect();
        bare(&home, arguments!["eval", out, "--data", data, "--json"].into_iter().chain(more)).expect(0)
    };
    let without = eval(&[]);
    assert_eq!(engines(&without, None), ["tract-fp32"]);
    assert!(without.stderr.contains("which is used under --trust"), "{}", without.stderr);
    assert_eq!(engines(&eval(&["--trust"]), None), ["ort-cpu-fp32", "tract-fp32"]);
    let bench = ["--trust", "--json", "--rounds", "1", "--seconds", "0.01", "--length", "8", "--threads", "1"];
    let measured = bare(&home, arguments!["bench", out].into_iter().chain(bench.map(Into::into))).expect(0);
    assert_eq!(engines(&measured, Some("engines")), ["ort-cpu-fp32", "tract-fp32"]);
    assert_eq!(measured.json()["engines"][0]["failed"], Value::Null);
}

#[test]
fn libraries_that_were_changed_are_refused() {
    let Some(platform) = Platform::here() else { return };
    let Some(wheels) = crate::common::wheels("libraries of a bundle", &[platform]) else { return };
    let place = place();
    let (home, out) = (place.path().join("home"), place.path().join("out"));
    build(&["ort-cpu", "tract"], platform.name(), &wheels, &out).expect(0);
    let refused = |alone: i32| {
        let ran = bare(&home, arguments!["run", out, "--trust", "--text", "x"]).expect(2);
        assert!(ran.stdout.is_empty(), "{}", ran.stdout);
        bare(&home, arguments!["run", out, "--text", "x"]).expect(alone);
        ran.stderr
    };
    // The loader would take the newest of them, with any bytes.
    let own = library(&out, "libonnxruntime");
    let newer = own.with_file_name("libonnxruntime.so.9");
    fs::write(&newer, "x").unwrap();
    // A file that is not listed is in no bundle, for any command.
    let said = refused(2);
    assert!(said.contains("the manifest does not list `runtimes/") && said.contains("libonnxruntime.so.9`"), "{said}");
    fs::remove_file(newer).unwrap();

    let mut bytes = fs::read(&own).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&own, &bytes).unwrap();
    // Without the libraries the rest can be used.
    let said = refused(0);
    assert!(said.contains("is not the file that the manifest describes"), "{said}");
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&own, &bytes).unwrap();
    bare(&home, arguments!["run", out, "--trust", "--text", "x"]).expect(0);

    #[cfg(unix)]
    {
        let (runtimes, aside) = (out.join("runtimes"), place.path().join("aside"));
        fs::rename(&runtimes, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &runtimes).unwrap();
        let said = refused(2);
        assert!(said.contains("runtimes is no plain file"), "{said}");
    }
}

#[test]
fn openvino_runs_from_the_libraries_of_a_bundle() {
    use kilnc::runtime::library::OPENVINO;
    if Platform::here() != Some(Platform::LinuxX64) || !crate::common::openvino("libraries of a bundle") {
        return;
    }
    let place = place();
    let (home, out, wheels) = (place.path().join("home"), place.path().join("out"), place.path().join("wheels"));
    // What pip unpacked, as the wheel that it was.
    let library = OPENVINO.find().unwrap();
    let package = library.ancestors().nth(3).unwrap();
    fs::create_dir(&wheels).unwrap();
    rewheel(package, "onnxruntime_openvino-1.24.1", &wheels);
    let built = build(&["openvino", "tract"], "linux-x64,linux-arm64", &wheels, &out).expect(0);
    let note = "no library is bundled for OpenVINO on linux-arm64: onnxruntime-openvino==1.24.1 has no wheels for it";
    assert!(built.stderr.contains(note), "{}", built.stderr);
    let note = "openvino for linux-x64 comes without the text of its licence";
    assert!(built.stderr.contains(note), "{}", built.stderr);
    let predicted = bare(&home, arguments!["run", out, "--trust", "--text", "the movie"]).expect(0);
    assert!(predicted.stderr.contains("engine openvino-fp32 on OpenVINO, the fastest"), "{}", predicted.stderr);
    let on_tract = bare(&home, arguments!["run", out, "--text", "the movie"]).expect(0);
    assert!(on_tract.stderr.contains("the bundle holds onnxruntime-openvino 1.24.1"), "{}", on_tract.stderr);
    assert_eq!(predicted.stdout, on_tract.stdout);
}

/// Packs a bundle's part of a package that was unpacked.
fn rewheel(package: &Path, named: &str, to: &Path) {
    use std::io::Write;
    use zip::write::{SimpleFileOptions, ZipWriter};
    let name = format!("{named}-cp312-cp312-manylinux_2_28_x86_64.whl");
    let mut zip = ZipWriter::new(fs::File::create(to.join(name)).unwrap());
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for folder in ["onnxruntime", "onnxruntime/capi", &format!("{named}.dist-info")] {
        for file in names(&package.join(folder)).into_iter().map(|file| format!("{folder}/{file}")) {
            if package.join(&file).is_file() && !file.contains("pybind11_state") {
                zip.start_file(&file, options).unwrap();
                zip.write_all(&fs::read(package.join(&file)).unwrap()).unwrap();
            }
        }
    }
    zip.finish().unwrap();
}

#[test]
fn a_bundle_has_runtimes_for_every_platform_and_lists_them() {
    let Some(wheels) = crate::common::wheels("libraries for every platform", &Platform::ALL) else { return };
    let place = place();
    let [out, again] = ["out.kiln", "again/out.kiln"].map(|name| place.path().join(name));
    let all = Platform::ALL.map(Platform::name).join(",");
    for out in [&out, &again] {
        build(&["ort-cpu", "tract"], &all, &wheels, out).expect(0);
    }
    let manifest = fs::read_to_string(out.join("manifest.json")).unwrap();
    assert_eq!(manifest, fs::read_to_string(again.join("manifest.json")).unwrap());
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let entries = manifest["runtimes"]["libraries"].as_array().unwrap();
    let platforms: Vec<&str> = entries.iter().map(|entry| entry["platform"].as_str().unwrap()).collect();
    assert_eq!(platforms.join(","), all);
    for entry in entries {
        assert_eq!((&entry["package"], &entry["version"]), (&"onnxruntime".into(), &"1.32.0".into()));
        assert_eq!(entry["licence"], "MIT License");
        let wheel = wheels.join(entry["wheel"]["path"].as_str().unwrap());
        assert_eq!(entry["wheel"]["bytes"], fs::metadata(wheel).unwrap().len());
        let paths = |key: &str| entry[key].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
        let (files, notices): (Vec<&str>, Vec<&str>) = (paths("files"), paths("notices"));
        assert!(notices.iter().any(|path| path.ends_with("/LICENSE")), "{notices:?}");
        assert!(notices.iter().any(|path| path.ends_with("/ThirdPartyNotices.txt")), "{notices:?}");
        assert!(files.iter().all(|path| fs::metadata(out.join(path)).unwrap().len() > 10_000), "{files:?}");
    }
    let summary = kilnc(arguments!["inspect", out]).expect(0).stdout;
    assert!(summary.contains("runtime  macos-arm64: onnxruntime 1.32.0, 1 library, "), "{summary}");
    assert!(
        summary.contains("licence: MIT License; 2 texts in runtimes/macos-arm64/onnxruntime/onnxruntime\n"),
        "{summary}"
    );

    let bill: Value = serde_json::from_slice(&fs::read(out.join("bom.cdx.json")).unwrap()).unwrap();
    let components = bill["components"].as_array().unwrap();
    let of_pypi = components.iter().filter(|component| component["purl"] == "pkg:pypi/onnxruntime@1.32.0");
    let licences: Vec<&Value> = of_pypi.map(|component| &component["licenses"][0]["license"]["id"]).collect();
    assert_eq!(licences, ["MIT"; 4]);

    let (archive, unpacked) = (place.path().join("out.tar"), place.path().join("unpacked.kiln"));
    kilnc(arguments!["bundle", "pack", out, "-o", archive]).expect(0);
    kilnc(arguments!["bundle", "unpack", archive, "-o", unpacked]).expect(0);
    kilnc(arguments!["verify", unpacked]).expect(0);
    let exported = |layout: &str| {
        let to = place.path().join(layout);
        let summary =
            kilnc(arguments!["bundle", "export", out, "--layout", layout, "-o", to, "--json"]).expect(0).json();
        (summary["files"].to_string(), summary["notes"].to_string(), to)
    };
    for layout in ["hub", "triton"] {
        let (files, notes, _) = exported(layout);
        assert!(!files.contains("runtimes") && notes.contains("the libraries in runtimes/ are left out"), "{notes}");
    }
    let (blobs, _, _) = exported("oci");
    for file in manifest["files"].as_array().unwrap() {
        assert!(blobs.contains(file["sha256"].as_str().unwrap()), "{file}");
    }
}

#[test]
fn a_missing_wheel_is_reported_with_its_command_before_anything_is_made() {
    let place = place();
    let out = place.path().join("out");
    let ran = build(&["ort-cpu"], "linux-x64,windows-x64", place.path(), &out).expect(4);
    assert!(ran.stderr.contains("no wheel of onnxruntime==1.32.0 for linux-x64 and 1 more in "), "{}", ran.stderr);
    assert!(ran.stderr.contains("--platform win_amd64 --python-version 3.12 -d "), "{}", ran.stderr);
    assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));

    // A recipe says the same, with paths from its own folder.
    let recipe = place.path().join("r.toml");
    fs::write(&recipe, "runtimes = [\"linux-x64\"]\nwheels = \"none\"\n").unwrap();
    let ran = kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out]).expect(4);
    assert!(ran.stderr.contains(&format!("in {}", place.path().join("none").display())), "{}", ran.stderr);
    fs::write(&recipe, "runtimes = [\"linux-x65\"]\n").unwrap();
    let ran = kilnc(arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", out]).expect(2);
    assert!(ran.stderr.contains("r.toml line 1: unknown platform `linux-x65`; known: linux-x64, "), "{}", ran.stderr);

    // Engines that need none have none, and no wheel is searched.
    let ran = build(&["tract"], "linux-x64", place.path(), &out).expect(0);
    assert!(ran.stderr.contains("no library is bundled for tract: it is compiled into kilnc"), "{}", ran.stderr);
    assert!(!out.join("runtimes").exists());
    let model = place.path().join("model.onnx");
    let ran = build(&["ort-cpu"], "linux-x64", place.path(), &model).expect(2);
    assert!(ran.stderr.contains("a model has no bundled runtimes"), "{}", ran.stderr);
}

#[test]
fn a_bad_wheel_leaves_nothing_behind() {
    let place = place();
    let (wheels, out) = (place.path().join("wheels"), place.path().join("out"));
    fs::create_dir(&wheels).unwrap();
    fs::write(wheels.join("onnxruntime-1.32.0-cp312-cp312-win_amd64.whl"), "PK\x03\x04").unwrap();
    let ran = build(&["ort-cpu"], "windows-x64", &wheels, &out).expect(2);
    assert!(ran.stderr.contains("this is no wheel, or a damaged one: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("in onnxruntime-1.32.0-cp312-cp312-win_amd64.whl"), "{}", ran.stderr);
    assert_eq!(names(place.path()), ["wheels"]);
}

#[test]
fn trust_without_bundled_runtimes_is_warned_of() {
    let place = place();
    let out = place.path().join("out");
    kilnc(arguments!["build", fixture("tiny-bert"), "--target", "tract", "-o", out, "--quiet"]).expect(0);
    let ran = kilnc(arguments!["run", out, "--trust", "--text", "x"]).expect(0);
    assert!(ran.stderr.contains("--trust changes nothing: "), "{}", ran.stderr);
    let model = out.join("engines/tract-fp32.onnx");
    for flag in [vec!["--trust"], vec!["--key", "k.pem.pub"]] {
        let flags: Vec<OsString> = flag.iter().map(Into::into).collect();
        let ran = kilnc(arguments!["run", model, "--text", "x"].into_iter().chain(flags.clone())).expect(2);
        assert!(ran.stderr.contains(&format!("{} is for a bundle, not for an ONNX model", flag[0])), "{}", ran.stderr);
        kilnc(arguments!["bench", model].into_iter().chain(flags)).expect(2);
    }
}
