//! Which file of `src/` imports which.
//!
//! A file imports another where it names a path that leads to an item defined there; what is re-exported is followed to
//! where it is defined. `mod child;` and `pub use child::…` import nothing: they say what a room has. Tests are left out.
//! A method has no path, so a call of one that another file defines is not seen.
//!
//! No two files import each other. A parent and its child count like any two: what both need lies in a third file.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Group, TokenTree};

use super::{Source, sources, steps_by};

#[test]
fn no_two_files_import_each_other() {
    let files = Files::read();
    let imports: BTreeMap<&Path, BTreeSet<Path>> = files.0.keys().map(|path| (path, files.imports(path))).collect();
    let imports_of = |file: &Path| imports.get(file).into_iter().flatten();
    let mut wrong = Vec::new();
    for (file, imported) in &imports {
        for other in imported.iter().filter(|other| file < other && imports_of(other).any(|back| back == *file)) {
            let [one, two] = [file, other].map(|path| files.0[path].path.as_str());
            wrong.push(format!("{one} and {two} import each other"));
        }
    }
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 1000, "few imports were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A module by the names that lead to it, of the library (`kilnc`) or the binary (`main`).
type Path = Vec<String>;

/// What a file says of itself.
struct File {
    /// From `src/` on.
    path: String,
    /// Its children that are files.
    children: BTreeSet<String>,
    /// What it defines.
    items: BTreeSet<String>,
    /// What it names by `use`, under the name that it has here; `*` is all that there is.
    uses: Vec<(bool, String, Path)>,
    /// The other paths in it.
    paths: BTreeSet<Path>,
}

struct Files(BTreeMap<Path, File>);

impl Files {
    fn read() -> Files {
        Files(sources().map(|source| (module(&source), File::of(&source))).collect())
    }

    /// The files that a file imports.
    fn imports(&self, file: &Path) -> BTreeSet<Path> {
        let this = &self.0[file];
        let own = |path: &Path| path.first().is_some_and(|first| this.children.contains(first));
        let used = this.uses.iter().filter(|(public, _, path)| !(*public && own(path))).map(|(.., path)| path);
        let leads =
            |path: &&Path| path.len() > 1 && (own(path) || starts(path)) || this.used(&path[0]).next().is_some();
        let named = this.paths.iter().filter(leads);
        let mut found = BTreeSet::new();
        used.chain(named).for_each(|path| self.resolve(file, path, 0, &mut found));
        found.remove(file);
        found
    }

    /// Adds the files that define what a path leads to.
    fn resolve(&self, from: &[String], path: &[String], depth: usize, found: &mut BTreeSet<Path>) {
        let Some(file) = self.0.get(from).filter(|_| depth < 24) else { return };
        let Some((first, rest)) = path.split_first() else {
            found.insert(from.to_vec());
            return;
        };
        let mut go = |from: &[String], path: &[String]| self.resolve(from, path, depth + 1, found);
        match first.as_str() {
            "*" => go(from, &[]),
            "self" => go(from, rest),
            "super" => go(&from[..from.len() - 1], rest),
            "crate" => go(&from[..1], rest),
            "kilnc" => go(&["kilnc".to_owned()], rest),
            child if file.children.contains(child) => go(&[from, &[child.to_owned()]].concat(), rest),
            item if file.items.contains(item) => go(from, &[]),
            name => {
                let mut used = file.used(name).peekable();
                if used.peek().is_some() {
                    used.for_each(|path| go(from, &[path, rest].concat()));
                } else {
                    let all = file.used("*").filter(|all| starts(all) || file.children.contains(&all[0]));
                    all.for_each(|all| go(from, &[&all[..all.len() - 1], path].concat()));
                }
            }
        }
    }
}

/// Whether a path leads into kilnc by its first name.
fn starts(path: &Path) -> bool {
    ["crate", "super", "self", "kilnc"].contains(&path[0].as_str())
}

/// The module that a file is.
fn module(source: &Source) -> Path {
    let named = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
    let crate_name = if source.is_of_binary() { "main" } else { "kilnc" };
    let names = named.split('/').filter(|name| !["lib", "main"].contains(name));
    [crate_name].into_iter().chain(names).map(str::to_owned).collect()
}

const ITEMS: [&str; 8] = ["fn", "struct", "enum", "union", "trait", "type", "const", "static"];

impl File {
    fn of(source: &Source) -> File {
        let (children, items) = (BTreeSet::new(), BTreeSet::new());
        let mut file = File { path: source.path.clone(), children, items, uses: Vec::new(), paths: BTreeSet::new() };
        let mut rest = source.tokens.as_slice();
        let (mut public, mut body) = (false, Vec::new());
        while let Some((token, after)) = rest.split_first() {
            rest = after;
            // `'static` and `*const` define nothing.
            let defines = !body.last().is_some_and(|before| is_punct(before, '\'') || is_punct(before, '*'));
            body.push(token.clone());
            let TokenTree::Ident(word) = token else {
                public &= matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis);
                continue;
            };
            let word = word.to_string();
            match (word.as_str(), after) {
                ("pub", _) => {
                    public = true;
                    continue;
                }
                ("use", _) => {
                    let end = after.iter().position(|token| is_punct(token, ';')).unwrap_or(after.len());
                    expand(&[], &after[..end], &mut |name, path| file.uses.push((public, name, path)));
                    rest = &after[end..];
                    body.pop();
                }
                ("mod", [TokenTree::Ident(name), end, ..]) if is_punct(end, ';') => {
                    file.children.insert(name.to_string());
                }
                ("mod", [TokenTree::Ident(name), ..]) => {
                    file.items.insert(name.to_string());
                }
                ("macro_rules", [_, TokenTree::Ident(name), ..]) => {
                    file.items.insert(name.to_string());
                }
                (item, [TokenTree::Ident(name), ..]) if defines && ITEMS.contains(&item) => {
                    file.items.insert(name.to_string());
                }
                _ => {}
            }
            public = false;
        }
        file.add_paths(&body);
        file
    }

    /// Adds the paths that are named in blocks and signatures, `use` in them included.
    fn add_paths(&mut self, tokens: &[TokenTree]) {
        for (i, token) in tokens.iter().enumerate() {
            let is_method = matches!(&tokens[..i], [.., dot] if is_punct(dot, '.'));
            let goes_on = matches!(&tokens[..i], [.., a, b] if is_punct(a, ':') && is_punct(b, ':'));
            match token {
                // Who may see an item is not what it needs.
                TokenTree::Group(group) if i > 0 && is_word(&tokens[i - 1], "pub") && is_restriction(group) => {}
                TokenTree::Group(group) => self.add_paths(&group.stream().into_iter().collect::<Vec<_>>()),
                // A field has a name of its own.
                TokenTree::Ident(_) if !is_method && !goes_on && !is_field(&tokens[i..]) => {
                    expand(&[], &tokens[i..], &mut |_, path| {
                        self.paths.insert(path);
                    });
                }
                _ => {}
            }
        }
    }

    /// The paths that a name stands for by `use`.
    fn used<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Path> {
        self.uses.iter().filter(move |(_, known, _)| known == name).map(|(.., path)| path)
    }
}

fn is_word(token: &TokenTree, wanted: &str) -> bool {
    matches!(token, TokenTree::Ident(word) if word == wanted)
}

/// Whether it is what follows `pub`: `(crate)`, `(super)` or `(in …)`.
fn is_restriction(group: &Group) -> bool {
    group.stream().into_iter().next().is_some_and(|first| ["crate", "super", "in"].iter().any(|it| is_word(&first, it)))
}

/// Whether the tokens begin with a name and one colon.
fn is_field(tokens: &[TokenTree]) -> bool {
    let colon = |i: usize| tokens.get(i).is_some_and(|token| is_punct(token, ':'));
    colon(1) && !colon(2)
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

/// Calls `see` with every path that the tokens after `prefix` name, and with the name that it has where it is used.
fn expand(prefix: &[String], tokens: &[TokenTree], see: &mut dyn FnMut(String, Path)) {
    match tokens {
        [TokenTree::Group(group), ..] => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            inner.split(|token| is_punct(token, ',')).for_each(|branch| expand(prefix, branch, see));
        }
        [TokenTree::Punct(star), ..] if star.as_char() == '*' => {
            see("*".to_owned(), [prefix, &["*".to_owned()]].concat())
        }
        [TokenTree::Ident(name), ..] => {
            let name = name.to_string();
            let path = [prefix, std::slice::from_ref(&name)].concat();
            match (steps_by(&name, tokens), tokens) {
                (true, _) => match tokens.get(3) {
                    Some(TokenTree::Ident(_) | TokenTree::Group(_)) => expand(&path, &tokens[3..], see),
                    Some(star) if is_punct(star, '*') => expand(&path, &tokens[3..], see),
                    // Generic arguments: the path ends before them.
                    _ => see(name, path),
                },
                (false, [_, TokenTree::Ident(word), TokenTree::Ident(alias), ..]) if word == "as" => {
                    see(alias.to_string(), path)
                }
                (false, _) if name == "self" && !prefix.is_empty() => {
                    see(prefix[prefix.len() - 1].clone(), prefix.to_vec())
                }
                (false, _) => see(name, path),
            }
        }
        _ => {}
    }
}
