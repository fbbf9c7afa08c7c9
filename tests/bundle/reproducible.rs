//! The same checkpoint gives the same bytes in any folder, at any time.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{bundle, contents};
use crate::common::{copied, edit, fixture, kilnc, place};

#[test]
fn two_builds_in_two_folders_have_the_same_bytes() {
    let places = [place(), place()];
    let built: Vec<_> = places
        .iter()
        .enumerate()
        .map(|(i, place)| {
            let dir = place.path().join(["a", "another folder/within"][i]);
            let checkpoint = dir.join("tiny-bert");
            fs::create_dir_all(&checkpoint).unwrap();
            for (name, bytes) in contents(&fixture("tiny-bert")) {
                let path = checkpoint.join(name);
                fs::write(&path, bytes).unwrap();
                let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 * (i as u64 + 1));
                fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
            }
            let (out, archive) = (dir.join("tiny.kiln"), dir.join("tiny.tar"));
            let build = ["build", "--target", "ort-cpu", "--target", "tract", "--quantize", "int8", "--quiet"];
            let mut all: Vec<std::ffi::OsString> = build.map(Into::into).to_vec();
            all.extend(arguments![checkpoint, "-o", out]);
            kilnc(all).expect(0);
            kilnc(arguments!["bundle", "pack", out, "-o", archive]).expect(0);
            let image = dir.join("image");
            kilnc(arguments!["bundle", "export", out, "--layout", "oci", "-o", image]).expect(0);
            for (name, bytes) in contents(&out) {
                let place = place.path().to_str().unwrap();
                let held = bytes.windows(place.len()).any(|window| window == place.as_bytes());
                assert!(!held, "{name} names the folder that it was built in");
            }
            [contents(&out), contents(&image), vec![(String::new(), fs::read(&archive).unwrap())]].concat()
        })
        .collect();
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&built[0]), names(&built[1]));
    for ((name, one), (_, other)) in built[0].iter().zip(&built[1]) {
        assert!(one == other, "{name} differs");
    }
}

#[test]
fn licences_are_listed_as_far_as_they_are_stated() {
    let place = place();
    let checkpoint = copied("tiny-bert");
    let out = place.path().join("out");
    let built = || {
        let build = arguments!["build", checkpoint.path(), "--target", "tract", "-o", out, "--quiet", "--json"];
        let manifest = kilnc(build).expect(0).json();
        let bill: Value = serde_json::from_slice(&fs::read(out.join("bom.cdx.json")).unwrap()).unwrap();
        let summary = kilnc(arguments!["inspect", out]).expect(0).stdout;
        let line =
            summary.lines().find(|line| line.starts_with("licence")).unwrap().rsplit(": ").next().unwrap().to_owned();
        (manifest["licences"][0].clone(), bill["components"][0]["licenses"].clone(), line)
    };
    let (stated, billed, summary) = built();
    assert_eq!((stated["licence"].clone(), billed, summary.as_str()), (Value::Null, Value::Null, "not stated"));
    fs::write(checkpoint.path().join("LICENSE"), "The MIT License").unwrap();
    assert_eq!(built().2, "not named; its text is in LICENSE");
    fs::write(checkpoint.path().join("README.md"), "---\nlicense: apache-2.0\n---\n").unwrap();
    let (stated, billed, summary) = built();
    assert_eq!((stated["licence"].as_str(), stated["from"].as_str()), (Some("apache-2.0"), Some("README.md")));
    assert_eq!(billed[0]["license"]["id"], "Apache-2.0");
    assert_eq!(summary, "apache-2.0 (README.md)");
    edit(&checkpoint.path().join("README.md"), "apache-2.0", "our-own");
    assert_eq!(built().1[0]["license"]["name"], "our-own");
}

#[test]
fn the_bill_names_the_parts_of_the_bundle() {
    let place = place();
    let out = bundle(place.path());
    let bill: Value = serde_json::from_slice(&fs::read(out.join("bom.cdx.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    assert!(bill.get("serialNumber").is_none() && bill["metadata"].get("timestamp").is_none());
    let card = &bill["metadata"]["component"]["modelCard"];
    assert_eq!(card["modelParameters"]["task"], "text-classification");
    let metrics = card["quantitativeAnalysis"]["performanceMetrics"].as_array().unwrap();
    assert!(metrics.iter().any(|metric| metric["slice"] == "ort-cpu-int8"));
    let components = bill["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name).unwrap();
    let sources = manifest["sources"].as_array().unwrap();
    assert_eq!(named("tiny-bert")["components"].as_array().unwrap().len(), sources.len());
    assert_eq!(named("tiny-bert")["components"][1]["hashes"][0]["content"], sources[1]["sha256"]);
    let file = manifest["files"].as_array().unwrap().iter().find(|file| file["path"] == "engines/ort-cpu-int8.onnx");
    assert_eq!(named("ort-cpu-int8")["hashes"][0]["content"], file.unwrap()["sha256"]);
    assert_eq!(named("ONNX Runtime")["type"], "library");
}
