//! Every file of the corpus that the fuzzer found (`fuzz/`, `scripts/fuzz.sh`), through the functions that it calls.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::entries;

fn corpus() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"))
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_input_of_the_corpus_is_read_or_refused() {
    entries::let_watched_threads_panic();
    for (name, target) in entries::TARGETS {
        let dir = corpus().join(name);
        let files = names(&dir);
        assert!(files.len() >= 10, "{name} has {} files", files.len());
        for file in files {
            let bytes = fs::read(dir.join(&file)).unwrap();
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "fuzz/corpus/{name}/{file}");
        }
    }
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let targets: BTreeSet<String> = entries::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(corpus()), targets);
    let programs = names(&corpus().with_file_name("fuzz_targets"));
    assert_eq!(programs, targets.iter().map(|name| format!("{name}.rs")).collect());
    let manifest = fs::read_to_string(corpus().with_file_name("Cargo.toml")).unwrap();
    for name in targets {
        assert!(
            manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")),
            "{name}"
        );
    }
}
