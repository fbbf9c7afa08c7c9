//! Which steps a second build repeats, with the same or with nearly the same inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::common::{Ran, TEXTS, command, copied, edit, fixture, jsonl, place};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with texts, and a cache in it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(place());
        jsonl(place.0.path());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command with the cache.
    fn kilnc<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        command(arguments).env("KILNC_CACHE", self.path("cache")).output().unwrap().into()
    }

    fn arguments(&self, source: &Path, texts: &Path, out: &str) -> Vec<std::ffi::OsString> {
        let texts_asked = self.path("texts.jsonl");
        let engines = arguments!["--target", "ort-cpu", "--target", "tract", "--quantize", "int8"];
        let texts = arguments!["--calibration", texts, "--texts", texts_asked, "-o", self.path(out)];
        arguments!["build", source].into_iter().chain(engines).chain(texts).collect()
    }

    /// A build's lines of the steps that it did not repeat.
    fn repeated(&self, source: &Path, texts: &Path, out: &str) -> Vec<String> {
        let said = self.kilnc(self.arguments(source, texts, out)).expect(0).stderr;
        let before = said.lines().filter(|line| line.contains("before"));
        before.map(|line| line.trim().split([':', ' ']).next().unwrap().to_owned()).collect()
    }

    fn build(&self, out: &str) -> Ran {
        self.kilnc(self.arguments(&fixture("tiny-bert"), &self.path("texts.jsonl"), out)).expect(0)
    }

    /// The entries of a kind, by their folders.
    fn entries(&self, kind: &str) -> Vec<PathBuf> {
        let shown = self.kilnc(["cache", "--json"]).expect(0).json();
        let entries = shown["entries"].as_array().unwrap().iter().filter(|entry| entry["kind"] == kind);
        entries.map(|entry| self.path("cache/entries").join(entry["key"].as_str().unwrap())).collect()
    }
}

/// The files of a bundle, without its name.
fn contents(bundle: &Path) -> Vec<(String, Vec<u8>)> {
    let manifest: Value = serde_json::from_slice(&fs::read(bundle.join("manifest.json")).unwrap()).unwrap();
    let files = manifest["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned());
    files
        .filter(|path| path != "bom.cdx.json")
        .map(|path| (path.clone(), fs::read(bundle.join(&path)).unwrap()))
        .collect()
}

/// The manifest's engines and texts.
fn summary(bundle: &Path) -> [Value; 2] {
    let manifest: Value = serde_json::from_slice(&fs::read(bundle.join("manifest.json")).unwrap()).unwrap();
    ["engines", "calibration"].map(|field| manifest[field].clone())
}

#[test]
fn the_second_build_of_the_same_makes_nothing_and_has_the_same_bytes() {
    let place = Place::new();
    let (source, texts) = (fixture("tiny-bert"), place.path("texts.jsonl"));
    assert_eq!(place.repeated(&source, &texts, "one"), [""; 0]);
    assert_eq!(place.repeated(&source, &texts, "two"), ["ort-cpu-fp32", "ort-cpu-int8", "tract-fp32"]);
    command(place.arguments(&source, &texts, "none")).output().unwrap();
    for other in ["two", "none"] {
        assert_eq!(contents(&place.path("one")), contents(&place.path(other)));
        assert_eq!(summary(&place.path("one")), summary(&place.path(other)));
    }
    // The name and the date of a checkpoint are nothing to go by.
    let copy = copied("tiny-bert");
    assert_eq!(place.repeated(copy.path(), &texts, "three"), ["ort-cpu-fp32", "ort-cpu-int8", "tract-fp32"]);
}

#[test]
fn other_texts_change_only_what_is_calibrated_on_them() {
    let place = Place::new();
    let source = fixture("tiny-bert");
    place.build("one");
    let fewer = place.path("fewer.jsonl");
    fs::write(&fewer, TEXTS[..3].iter().map(|(text, _)| format!("{{\"text\": {text:?}}}\n")).collect::<String>())
        .unwrap();
    assert_eq!(place.repeated(&source, &fewer, "two"), ["ort-cpu-fp32", "tract-fp32"]);
    assert_ne!(summary(&place.path("one"))[1], summary(&place.path("two"))[1]);
    // Back to the first ones: their statistics are still cached.
    assert_eq!(place.repeated(&source, &place.path("texts.jsonl"), "three").len(), 3);
    // A weight that changes, changes everything.
    let copy = copied("tiny-bert");
    let weights = copy.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert_eq!(place.repeated(copy.path(), &place.path("texts.jsonl"), "four"), [""; 0]);
}

#[test]
fn a_graph_is_pruned_once() {
    let place = Place::new();
    let recipe = place.path("recipe.toml");
    fs::write(&recipe, "calibration = \"texts.jsonl\"\n[prune]\nheads = 0.5\nffn = 0.5\n").unwrap();
    let build = |out: &str| arguments!["build", fixture("tiny-bert"), "--recipe", recipe, "-o", place.path(out)];
    assert!(!place.kilnc(build("one")).expect(0).stderr.contains("before"));
    assert!(place.kilnc(build("two")).expect(0).stderr.contains("pruned as it was before"));
    command(build("none")).output().unwrap();
    for other in ["two", "none"] {
        assert_eq!(contents(&place.path("one")), contents(&place.path(other)));
        assert_eq!(summary(&place.path("one")), summary(&place.path(other)));
    }
    assert_eq!(place.entries("pruned").len(), 1);
}

#[test]
fn damaged_cache_entries_are_made_again_with_a_warning() {
    let place = Place::new();
    place.build("one");
    for kind in ["engine", "comparison", "calibration"] {
        for entry in place.entries(kind) {
            let files = fs::read_dir(&entry).unwrap().map(|file| file.unwrap().path());
            let files = files.filter(|path| path.file_name().unwrap() != "entry.json");
            let file = files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
            let mut bytes = fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&file, bytes).unwrap();
        }
    }
    let said = place.build("two").stderr;
    assert!(said.contains("warning: damaged in the cache, and made again: engine of ort-cpu-int8 ("), "{said}");
    assert!(said.contains("warning: damaged in the cache, and made again: comparison of tract-fp32 ("), "{said}");
    assert_eq!(contents(&place.path("one")), contents(&place.path("two")));
    assert!(!place.build("three").stderr.contains("damaged"));
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_warning() {
    let place = Place::new();
    fs::write(place.path("cache"), "a file").unwrap();
    let said = place.build("one").stderr;
    assert!(said.contains("warning: the build goes on without a cache: "), "{said}");
    let place = Place::new();
    place.build("one");
    fs::remove_dir_all(place.path("cache/work")).unwrap();
    fs::write(place.path("cache/work"), "a file").unwrap();
    edit(&place.path("texts.jsonl"), "fast", "slow");
    let said = place.build("two").stderr;
    assert_eq!(said.matches("warning: the build goes on without the cache: ").count(), 1, "{said}");
    assert_eq!(fs::read_to_string(place.path("cache/work")).unwrap(), "a file");
}

#[test]
fn two_builds_at_once_share_a_cache() {
    let place = Place::new();
    let texts = place.path("texts.jsonl");
    let start = |out: &str| -> Child {
        let mut build = command(place.arguments(&fixture("tiny-bert"), &texts, out));
        build.env("KILNC_CACHE", place.path("cache")).arg("--quiet").spawn().unwrap()
    };
    let builds = ["one", "two", "three"].map(start);
    builds.into_iter().for_each(|mut build| assert!(build.wait().unwrap().success()));
    for other in ["two", "three"] {
        assert_eq!(contents(&place.path("one")), contents(&place.path(other)));
    }
    assert_eq!(place.repeated(&fixture("tiny-bert"), &texts, "four").len(), 3);
    assert_eq!(fs::read_dir(place.path("cache/work")).unwrap().count(), 0);
}

#[test]
fn the_cache_is_shown_and_pruned() {
    let place = Place::new();
    let empty = place.kilnc(["cache", "show"]).expect(0).stdout;
    assert!(empty.starts_with("0.0 kB in 0 entries of "), "{empty}");
    assert!(!place.path("cache").exists());
    place.build("one");
    let shown = place.kilnc(["cache"]).expect(0).stdout;
    assert_eq!(shown.lines().filter(|line| line.contains("  engine  ")).count(), 3, "{shown}");
    let kept = place.kilnc(["cache", "prune", "--unused", "1d", "--json"]).expect(0).json();
    assert_eq!(kept["entries"], 0);
    let pruned = place.kilnc(["cache", "prune", "--all", "--json"]).expect(0).json();
    assert_eq!((&pruned["left"], &pruned["bytes_left"]), (&0.into(), &0.into()));
    assert!(pruned["entries"].as_u64().unwrap() >= 7, "{pruned}");
    assert!(!place.build("two").stderr.contains("before"));
    let said = place.kilnc(["cache", "prune", "--max-size", "2TB"]).expect(2).stderr;
    assert!(said.contains("is no size, such as 500MB or 5GB"), "{said}");
    place.kilnc(["cache", "prune"]).expect(2);
    let off: Ran = command(["cache"]).output().unwrap().into();
    assert!(off.expect(2).stderr.contains("the cache is turned off by KILNC_CACHE"));
}
