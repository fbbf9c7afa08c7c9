//! Which module may import which, checked over the text of `src/`. The table is DESIGN.md's “directions”.

mod imports;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module, and what of kilnc it may import: whole modules, or parts of one.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("digest", &["error"]),
    ("places", &[]),
    ("presence", &["error"]),
    ("random", &[]),
    ("ports", &[]),
    ("file", &["error"]),
    ("json", &["error", "file"]),
    ("safetensors", &["error", "file", "ir", "json"]),
    ("cache", &["error", "digest", "json", "places", "presence"]),
    ("ir", &["error", "digest", "ports", "random"]),
    ("verify", &["error", "ir"]),
    ("program", &["error", "digest", "ir", "ports", "verify"]),
    ("evaluate", &["error", "ir", "verify"]),
    ("textfile", &["error"]),
    // What reads one kind of source.
    ("front", &[]),
    ("front::folder", &["error", "json", "presence"]),
    ("front::tokenizer", &["error", "front::folder", "json"]),
    ("front::gguf", &["error", "file", "front::folder", "front::hub::checkpoint", "front::tokenizer", "ir", "json"]),
    ("front::source", &["error", "file", "front::gguf", "front::hub::checkpoint", "presence"]),
    ("front::hub", &[]),
    (
        "front::hub::checkpoint",
        &[
            "error",
            "file",
            "front::folder",
            "front::tokenizer",
            "ir",
            "json",
            "presence",
            "safetensors",
            "settings",
            "textfile",
        ],
    ),
    (
        "front::hub::adapter",
        &["error", "ir", "json", "front::hub::checkpoint", "presence", "safetensors", "task::head"],
    ),
    (
        "front::hub::load",
        &[
            "error",
            "file",
            "front::folder",
            "front::hub::adapter",
            "front::hub::arch",
            "front::hub::checkpoint",
            "front::source",
            "ir",
            "json",
            "ports",
            "presence",
            "program",
            "runtime",
            "settings",
            "task::head",
            "task::id",
            "verify",
        ],
    ),
    ("task::head", &["ports"]),
    ("task::id", &["error", "task::head"]),
    ("target", &["error", "precision"]),
    ("precision", &["error"]),
    ("shapes", &["error"]),
    ("settings", &["error", "task::id"]),
    (
        // A family builds heads, and knows no task.
        "front::hub::arch",
        &["error", "ir", "json", "ports", "front::hub::checkpoint", "task::head", "front::hub::adapter::hub"],
    ),
    (
        "front::hub::arch::build",
        &["error", "ir", "ports", "front::hub::checkpoint", "front::hub::adapter::hub", "task::head", "task::id"],
    ),
    (
        "front::hub::arch::task",
        &["error", "ir", "front::hub::checkpoint", "front::hub::adapter::hub", "task::head", "task::id"],
    ),
    (
        "calibrate",
        &[
            "error",
            "ports",
            "digest",
            "ir",
            "verify",
            "target",
            "back",
            "runtime",
            "json",
            "safetensors",
            "presence",
            "random",
        ],
    ),
    ("passes", &["error", "ir", "ports", "verify", "calibrate"]),
    ("back", &["error", "ir", "json", "ports", "verify", "target", "shapes", "subprocess", "output"]),
    ("subprocess", &["error"]),
    ("output", &["error", "presence"]),
    ("interrupt", &[]),
    ("observer", &[]),
    ("prune", &["error", "digest", "ir", "verify", "calibrate", "passes", "runtime", "observer", "json"]),
    (
        "runtime",
        &[
            "error",
            "ports",
            "digest",
            "cache",
            "places",
            "presence",
            "random",
            "settings",
            "task::id",
            "target",
            "subprocess",
            "output",
            "json",
            "back::tensorrt",
        ],
    ),
    (
        "eval",
        &[
            "error",
            "ports",
            "runtime",
            "settings",
            "task::id",
            "textfile",
            "json",
            "safetensors",
            "ir::DType",
            "ir::Weight",
        ],
    ),
    ("vocabulary", &["error", "runtime", "settings", "json"]),
    (
        "bench",
        &[
            "error",
            "observer",
            "ports",
            "random",
            "runtime",
            "settings",
            "eval",
            "bundle",
            "task::id",
            "target",
            "subprocess",
            "svg",
        ],
    ),
    (
        "bundle",
        &[
            "error",
            "file",
            "json",
            "digest",
            "output",
            "presence",
            "front::folder",
            "front::hub::checkpoint",
            "task::id",
            "target",
            "precision",
            "shapes",
            "settings",
            "runtime",
            "eval::Accuracy",
            "eval::Check",
            "ports",
            "program",
            "eval::Greedy",
            "prune",
            "vocabulary::CutReport",
        ],
    ),
    (
        "task",
        &[
            "error",
            "observer",
            "eval",
            "json",
            "ports",
            "runtime",
            "bundle",
            "settings",
            "task::head",
            "task::id",
            "textfile",
        ],
    ),
    ("svg", &[]),
    (
        "recipe",
        &[
            "calibrate",
            "error",
            "eval",
            "front",
            "ir",
            "json",
            "precision",
            "prune",
            "runtime",
            "settings",
            "shapes",
            "target",
            "task",
        ],
    ),
    (
        "build",
        &[
            "back",
            "bench",
            "bundle",
            "cache",
            "calibrate",
            "digest",
            "error",
            "eval",
            "evaluate",
            "file",
            "front",
            "ir",
            "json",
            "observer",
            "output",
            "passes",
            "ports",
            "precision",
            "presence",
            "program",
            "prune",
            "recipe",
            "runtime",
            "safetensors",
            "settings",
            "shapes",
            "subprocess",
            "target",
            "task",
            "verify",
            "vocabulary",
        ],
    ),
    (
        "tune",
        &[
            "back",
            "bench",
            "build",
            "bundle",
            "calibrate",
            "error",
            "eval",
            "ir",
            "passes",
            "precision",
            "runtime",
            "svg",
            "target",
            "verify",
        ],
    ),
    (
        "cli",
        &[
            "back",
            "bench",
            "build",
            "bundle",
            "cache",
            "calibrate",
            "error",
            "eval",
            "file",
            "front",
            "interrupt",
            "ir",
            "json",
            "output",
            "passes",
            "precision",
            "presence",
            "prune",
            "recipe",
            "runtime",
            "settings",
            "shapes",
            "subprocess",
            "target",
            "task",
            "textfile",
            "tune",
            "vocabulary",
        ],
    ),
    ("lib", &["error", "build", "bundle", "task"]),
    ("main", &["cli", "error", "interrupt", "output", "runtime", "subprocess"]),
    ("memory", &["subprocess", "output"]),
];

/// The modules that may print, and those that speak with another process.
const MAY_PRINT: [&str; 4] = ["cli", "main", "memory", "subprocess"];

#[test]
fn modules_import_only_what_their_layer_allows() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(module, _)| *module == source.module()) else {
            wrong.push(format!("{}: add `{}` to MAY_IMPORT in {}", source.path, source.module(), file!()));
            continue;
        };
        let fits = |path: &str| {
            allowed.iter().any(|a| path == *a || path.strip_prefix(a).is_some_and(|p| p.starts_with("::")))
        };
        for path in source.crate_paths() {
            if module_of(&path) != source.module() && !fits(&path) {
                wrong.push(format!("{}: {} must not import {path}", source.path, source.module()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The pages that say where things are name no file that is gone.
#[test]
fn pages_on_the_code_name_files_that_exist() {
    let root = crate::common::repository("");
    let mut pages = vec![root.join("ARCHITECTURE.md")];
    pages.extend(fs::read_dir(root.join("docs/decisions")).unwrap().map(|entry| entry.unwrap().path()));
    let roots = ["src/", "tests/", "docs/", "scripts/", "models/", "fuzz/", "benches/", "examples/"];
    let (mut named, mut missing) = (0, Vec::new());
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        // Every second piece is between backticks.
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let is_path = |name: &&str| roots.iter().any(|root| name.starts_with(root)) && !name.contains([' ', '*', '<']);
        for name in quoted.filter(is_path) {
            named += 1;
            if !root.join(name).exists() {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.starts_with("http")) {
            let file = link.split('#').next().unwrap();
            if !page.parent().unwrap().join(file).exists() {
                missing.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(named > 200, "{named}");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn passes_know_no_family() {
    for source in sources().filter(|source| source.module() == "passes") {
        let text = source.text.to_lowercase();
        for family in kilnc::front::hub::arch::FAMILIES {
            // As a word: `opt` is part of many others.
            let ends = |side: Option<char>| side.is_none_or(|c| !c.is_alphanumeric());
            let known = text
                .match_indices(family.model_type)
                .any(|(at, name)| ends(text[..at].chars().next_back()) && ends(text[at + name.len()..].chars().next()));
            assert!(!known, "{} speaks of `{}`; a pass reads roles", source.path, family.model_type);
        }
    }
}

#[test]
fn only_the_command_line_prints() {
    let mut wrong = Vec::new();
    for source in sources().filter(|source| !MAY_PRINT.contains(&source.module().as_str())) {
        source.windows(&mut |tokens| {
            if let [TokenTree::Ident(io), TokenTree::Punct(a), TokenTree::Punct(b), TokenTree::Ident(stream), ..] =
                tokens
                && (io == "io" && a.as_char() == ':' && b.as_char() == ':')
                && ["stdout", "stderr"].iter().any(|printed| stream == printed)
            {
                wrong.push(format!("{}: {io}::{stream}", source.path));
            }
        });
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Where the reader of a stream is gone or its disk is full, these panic, and the work is lost.
#[test]
fn nothing_prints_by_a_macro_that_panics() {
    let mut wrong = Vec::new();
    for source in sources() {
        source.windows(&mut |tokens| {
            if let [TokenTree::Ident(name), TokenTree::Punct(bang), ..] = tokens
                && bang.as_char() == '!'
                && ["print", "println", "eprint", "eprintln", "dbg"].iter().any(|printing| name == printing)
            {
                wrong.push(format!("{}: {name}!; the command line has `screen::say` and `screen::print`", source.path));
            }
        });
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut wrong = Vec::new();
    for source in sources() {
        source.windows(&mut |tokens| {
            if let [TokenTree::Punct(dot), TokenTree::Ident(name), TokenTree::Group(arguments), ..] = tokens
                && dot.as_char() == '.'
                && panics(&name.to_string(), arguments.stream())
            {
                wrong.push(format!("{}: .{name}{arguments}", source.path));
            }
        });
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Parsers have an `expect` of their own; the one that panics takes a message.
fn panics(method: &str, arguments: TokenStream) -> bool {
    let message = || arguments.to_string().starts_with('"');
    matches!(method, "unwrap" | "unwrap_err") && arguments.is_empty() || method == "expect" && message()
}

/// The innermost module of the table that a path leads into; the first of the path, where none does.
fn module_of(path: &str) -> &str {
    let leads_into = |module: &&str| path == *module || path.strip_prefix(module).is_some_and(|p| p.starts_with("::"));
    let known = MAY_IMPORT.iter().map(|(module, _)| *module).filter(leads_into).max_by_key(|module| module.len());
    known.unwrap_or_else(|| path.split("::").next().unwrap_or_default())
}

/// A file of `src/` without its tests.
struct Source {
    /// From `src/` on, with `/`.
    path: String,
    text: String,
    tokens: Vec<TokenTree>,
}

fn sources() -> impl Iterator<Item = Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(!files.is_empty());
    files.into_iter().filter(|file| !file.ends_with("tests.rs")).map(move |file| {
        let text = fs::read_to_string(&file).unwrap();
        let tokens = text.parse::<TokenStream>().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parts = file.strip_prefix(&root).unwrap().iter().map(|part| part.to_str().unwrap());
        Source { path: parts.collect::<Vec<_>>().join("/"), text, tokens: without_tests(tokens) }
    })
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && path.ends_with("tests") {
            // Tests that are files of their own.
        } else if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// The tokens but for every item under `#[cfg(test)]`, which ends with its first block or semicolon.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut skipping = false;
    for token in tokens {
        if let TokenTree::Group(group) = &token
            && group.delimiter() == Delimiter::Bracket
            && group.stream().to_string().replace(' ', "") == "cfg(test)"
        {
            skipping = true;
        }
        let ends = match &token {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(punct) => punct.as_char() == ';',
            _ => false,
        };
        if !skipping {
            kept.push(token);
        } else if ends {
            skipping = false;
        }
    }
    kept
}

impl Source {
    /// The module of the table that the file belongs to.
    fn module(&self) -> String {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        module_of(&path).to_owned()
    }

    /// Whether it is a file of the program rather than of the library.
    fn is_of_binary(&self) -> bool {
        ["cli", "main", "memory"].iter().any(|module| *module == self.module())
    }

    /// How many `super` lead from the file to the crate's root.
    fn depth(&self) -> usize {
        let named = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        if ["lib", "main"].contains(&named) { 0 } else { named.split('/').count() }
    }

    /// Calls `see` with what follows each token, in every block.
    fn windows(&self, see: &mut dyn FnMut(&[TokenTree])) {
        walk(&self.tokens, see);
    }

    /// The paths from the crate's root that the file names, up to two names long.
    fn crate_paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        self.windows(&mut |tokens| {
            let supers = tokens.chunks(3).take_while(|step| steps_by("super", step)).count();
            if steps_by("crate", tokens) || steps_by("kilnc", tokens) {
                collect_paths("", &tokens[3..], &mut paths);
            } else if supers > 0 && supers == self.depth() {
                collect_paths("", &tokens[3 * supers..], &mut paths);
            }
        });
        paths
    }
}

fn walk(tokens: &[TokenTree], see: &mut dyn FnMut(&[TokenTree])) {
    for (i, token) in tokens.iter().enumerate() {
        see(&tokens[i..]);
        if let TokenTree::Group(group) = token {
            walk(&group.stream().into_iter().collect::<Vec<_>>(), see);
        }
    }
}

/// Whether the tokens begin with `word ::`.
fn steps_by(word: &str, tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Ident(name), TokenTree::Punct(a), TokenTree::Punct(b), ..]
        if name == word && a.as_char() == ':' && b.as_char() == ':')
}

/// The paths that the tokens after `prefix` name. What the root re-exports is the error module's.
fn collect_paths(prefix: &str, tokens: &[TokenTree], paths: &mut BTreeSet<String>) {
    match tokens {
        [TokenTree::Group(group), ..] => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
            inner.split(is_comma).for_each(|branch| collect_paths(prefix, branch, paths));
        }
        [TokenTree::Ident(name), ..] if prefix.is_empty() && (name == "Error" || name == "Result") => {
            paths.insert("error".to_owned());
        }
        [TokenTree::Ident(name), ..] => {
            let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}::{name}") };
            match steps_by(&name.to_string(), tokens) {
                true => collect_paths(&path, &tokens[3..], paths),
                false => drop(paths.insert(path)),
            }
        }
        _ => {}
    }
}
