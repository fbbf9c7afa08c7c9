//! The patterns of a tokenizer: their cost.
//!
//! The library matches patterns without look-around, back-reference or word boundary in linear time. The rest
//! backtracks, up to a number of steps at which it silently stops splitting, so that the tokens would change. Patterns
//! in use backtrack over one repetition at most, such as GPT-2's `\s+(?!\S)`; others are refused.

use fancy_regex::{Assertion, Expr, Regex};
use serde_json::Value;

use crate::error::{Error, Result, printable};

/// Fails where a pattern below `part` can backtrack without bound.
pub(super) fn check(part: &Value) -> Result<()> {
    match part {
        Value::Array(items) => items.iter().try_for_each(check),
        Value::Object(fields) => match fields.get("Regex").and_then(Value::as_str) {
            Some(pattern) if !is_bounded(pattern) => Err(Error::unsupported(format!(
                "tokenizer.json: the pattern `{}` can take time without bound on some texts",
                printable(pattern)
            ))
            .hint("look-around and word boundaries are supported beside one plain repetition")),
            _ => fields.values().try_for_each(check),
        },
        _ => Ok(()),
    }
}

/// How many times longer a text can get by the replacements below `part`, which follow each other.
pub(super) fn growth(part: &Value) -> usize {
    match part {
        Value::Array(items) => items.iter().map(growth).fold(1, usize::saturating_mul),
        Value::Object(fields) => match (fields.get("pattern"), fields.get("content")) {
            (Some(pattern), Some(Value::String(content))) => replacement_growth(pattern, content),
            _ => fields.values().map(growth).fold(1, usize::saturating_mul),
        },
        _ => 1,
    }
}

fn replacement_growth(pattern: &Value, content: &str) -> usize {
    match (pattern.get("String").and_then(Value::as_str), pattern.get("Regex").and_then(Value::as_str)) {
        (Some(text), _) if !text.is_empty() => content.len().div_ceil(text.len()).max(1),
        (_, Some(pattern)) if never_empty(pattern) => content.len().max(1),
        // Where nothing is matched, it is put before every character.
        _ => content.len().saturating_add(1),
    }
}

/// Whether every match has a character. A pattern with look-around may match nothing in some places only.
fn never_empty(pattern: &str) -> bool {
    let plain = Expr::parse_tree(pattern).is_ok_and(|tree| is_plain(&tree.expr));
    plain && Regex::new(pattern).is_ok_and(|regex| !regex.is_match("").unwrap_or(true))
}

/// Whether a pattern is matched in linear time, or backtracks over one plain repetition. An invalid pattern is left
/// to the library, which reports why.
fn is_bounded(pattern: &str) -> bool {
    Expr::parse_tree(pattern).map_or(true, |tree| cost(&tree.expr).is_some_and(|repetitions| repetitions <= 1))
}

/// Over how many repetitions an expression can backtrack; `None` where repetitions are nested or the repeated part can
/// match in several ways.
fn cost(expr: &Expr) -> Option<usize> {
    match expr {
        expr if is_plain(expr) => Some(0),
        Expr::Alt(branches) => branches.iter().map(cost).try_fold(0, |most, cost| Some(most.max(cost?))),
        Expr::Group(inner) => cost(inner),
        _ => backtracking(expr),
    }
}

/// The same for an expression that is not matched by itself but beside look-around.
fn backtracking(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Concat(parts) => parts.iter().try_fold(0, |sum, part| match part {
            // Nothing before it can make it match again, and its match is kept.
            Expr::AtomicGroup(inner) if sum == 0 => backtracking(inner).filter(|cost| *cost <= 1).map(|_| 0),
            part => Some(sum + backtracking(part)?),
        }),
        Expr::Alt(branches) => branches.iter().map(backtracking).try_fold(0, |most, cost| Some(most.max(cost?))),
        Expr::Group(inner) | Expr::AtomicGroup(inner) | Expr::LookAround(inner, _) => backtracking(inner),
        Expr::Repeat { child, hi: 0 | 1, .. } => backtracking(child),
        Expr::Repeat { child, hi, .. } if is_single(child) => Some(usize::from(*hi == usize::MAX)),
        expr if is_leaf(expr) => Some(0),
        _ => None,
    }
}

/// Whether the library matches an expression without backtracking.
fn is_plain(expr: &Expr) -> bool {
    match expr {
        Expr::Concat(parts) | Expr::Alt(parts) => parts.iter().all(is_plain),
        Expr::Group(inner) => is_plain(inner),
        Expr::Repeat { child, .. } => is_plain(child),
        Expr::Assertion(assertion) => matches!(
            assertion,
            Assertion::StartText | Assertion::EndText | Assertion::StartLine { .. } | Assertion::EndLine { .. }
        ),
        expr => is_leaf(expr),
    }
}

fn is_leaf(expr: &Expr) -> bool {
    matches!(expr, Expr::Empty | Expr::Assertion(_)) || is_single(expr)
}

/// Whether an expression matches in one way only.
fn is_single(expr: &Expr) -> bool {
    matches!(expr, Expr::Any { .. } | Expr::Literal { .. } | Expr::Delegate { .. })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The patterns of GPT-2, GPT-4 (with possessive repetitions), GPT-4o and BLOOM.
    const IN_USE: [&str; 4] = [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
    ];

    #[test]
    fn patterns_in_use_are_admitted() {
        for pattern in IN_USE {
            assert!(is_bounded(pattern), "{pattern}");
        }
        for linear in [r"(x+x+)+y", r"(a|a)*b", r"(\w+\s?)*$", r"\b\w+\b", "((("] {
            assert!(is_bounded(linear), "{linear}");
        }
    }

    #[test]
    fn patterns_that_backtrack_without_bound_are_refused() {
        let refused = [
            r"(x+x+)+(?!y)",
            r"(?:a|a)*(?!b)",
            r"(?:a|ab)(?:c|bcd)*(?=d)",
            r"\s*[\r\n]*(?!x)",
            r"x|(?=(y+)+z)",
            r"(a*)\1",
            r"(?>(a+)+)b",
            r"a*(?>b*)c",
            r"(?:(?!a)x){9}",
            r"(\w+\b)+$",
        ];
        for pattern in refused {
            let part = json!({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": pattern}}]});
            let error = check(&part).expect_err(pattern);
            let said = format!("tokenizer.json: the pattern `{pattern}` can take time without bound on some texts");
            assert_eq!(error.message(), said);
        }
    }

    #[test]
    fn replacements_multiply() {
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let cases = [
            (replace(json!({"String": "``"}), "\""), 1),
            (replace(json!({"String": " "}), "▁"), 3),
            (replace(json!({"Regex": " {2,}"}), " "), 1),
            (replace(json!({"Regex": "x*"}), "ab"), 3),
            (replace(json!({"Regex": "(?=a)"}), "ab"), 3),
            (replace(json!({"String": ""}), "ab"), 3),
        ];
        for (normalizer, expected) in &cases {
            assert_eq!(growth(normalizer), *expected, "{normalizer}");
        }
        let bomb = json!({"type": "Sequence", "normalizers": vec![replace(json!({"String": "a"}), "aa"); 100]});
        assert_eq!(growth(&bomb), usize::MAX);
        assert_eq!(growth(&json!({"type": "Prepend", "prepend": "▁"})), 1);
        assert_eq!(growth(&Value::Null), 1);
    }
}
