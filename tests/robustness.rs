//! `docs/robustness.md` names a test for every bad input, and its message. Both must be there.

use std::fs;
use std::path::Path;

/// A line of the tables: the message, by pieces, and the test of it.
struct Row {
    input: String,
    pieces: Vec<String>,
    test: String,
    file: String,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/robustness.md")).unwrap();
    text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Input")).map(row).collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [input, says, link] = cells[..] else { panic!("no row of three cells: {line}") };
    let (test, file) = link.strip_prefix('[').and_then(|l| l.strip_suffix(')')?.split_once("](../")).expect(line);
    let pieces = code(says).iter().flat_map(|span| span.split('…')).map(str::trim).map(str::to_owned).collect();
    Row { input: input.to_owned(), pieces, test: test.to_owned(), file: file.to_owned() }
}

/// The spans between single or double backticks.
fn code(cell: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    let mut rest = cell;
    while let Some(start) = rest.find('`') {
        let fence = if rest[start..].starts_with("``") { "``" } else { "`" };
        let inside = &rest[start + fence.len()..];
        let end = inside.find(fence).unwrap_or_else(|| panic!("a span does not end: {cell}"));
        spans.push(&inside[..end]);
        rest = &inside[end + fence.len()..];
    }
    spans
}

/// The source of a test, from its name to the brace that ends it, with literals as they mean.
fn body(source: &str, test: &str) -> Option<String> {
    let at = source.find(&format!("fn {test}("))?;
    let line = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let marked =
        source[..line].lines().rev().take_while(|line| line.trim().starts_with("#[")).any(|l| l.trim() == "#[test]");
    let end = source[at..].find(&format!("\n{}}}", &source[line..at]))?;
    marked.then(|| meaning(&source[at..at + end]))
}

/// Rust's text without the escapes that string literals have.
fn meaning(source: &str) -> String {
    let mut out = String::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
            ('\\', Some('"' | '\\')) => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

#[test]
fn every_row_names_a_test_with_its_message() {
    let rows = rows();
    assert!(rows.len() > 100, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for Row { input, pieces, test, file } in rows {
        let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).expect(&file);
        match body(&source, &test) {
            None => wrong.push(format!("{input}: {file} has no test {test}")),
            Some(body) => wrong.extend(
                pieces
                    .iter()
                    .filter(|piece| !body.contains(*piece))
                    .map(|p| format!("{input}: {test} does not say `{p}`")),
            ),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
