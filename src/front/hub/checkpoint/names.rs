//! Names of tensors: paths of modules, joined by points.

use crate::error::nearest as nearest_word;

/// The prefix of data parallelism.
pub(super) const PARALLEL: &str = "module";

/// The prefixes that only wrappers put into names: `torch.compile`, FSDP,
/// checkpointed activations, Lightning's Fabric.
const WRAPPERS: [&str; 4] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

/// The wrappers' words in a name.
pub(super) fn wrappers(name: &str) -> impl Iterator<Item = &str> {
    name.split('.').filter(|part| WRAPPERS.contains(part))
}

/// A name without the wrappers' words.
pub(super) fn unwrapped(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    parts.join(".")
}

/// The modules that all of several names begin with, with the point after the last: `a.b.` of `a.b.c` and `a.b.d.e`.
/// None if they have nothing in common, or if there are fewer than two.
pub fn common<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut names = names.into_iter();
    let mut common: Vec<&str> = names.next()?.split('.').collect();
    common.pop();
    let mut more = false;
    for name in names {
        more = true;
        let same = common.iter().zip(name.split('.')).take_while(|(a, b)| *a == b).count();
        // The last part of a name is no module.
        common.truncate(same.min(name.matches('.').count()));
    }
    (more && !common.is_empty()).then(|| common.join(".") + ".")
}

/// The common prefix of all names before the encoder's `prefix`, if any of them continues with that: the longest such path, for
/// a model within a model may repeat its own name.
pub(super) fn outer<'a>(names: impl Iterator<Item = &'a str> + Clone, prefix: &str) -> Option<String> {
    let common = common(names.clone())?;
    let ends = common.match_indices('.').map(|(at, _)| at + 1);
    let goes_on = |end: &usize| {
        let mut rests = names.clone().filter_map(|name| name.get(*end..));
        rests.any(|rest| rest.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
    };
    ends.rev().find(goes_on).and_then(|end| common.get(..end)).map(str::to_owned)
}

/// The name that differs from `wanted` in one part only, and there by a slip.
pub(super) fn nearest<'a>(wanted: &str, names: &[&'a str]) -> Option<&'a str> {
    let parts: Vec<&str> = wanted.split('.').collect();
    // The index of the one part that differs, that part, and the name.
    let differing = |name: &&'a str| {
        let others: Vec<&'a str> = name.split('.').collect();
        let mut differing = (0..parts.len()).filter(|at| parts.get(*at) != others.get(*at));
        let at = differing.next().filter(|_| differing.next().is_none() && others.len() == parts.len())?;
        Some((at, *others.get(at)?, *name))
    };
    let candidates: Vec<_> = names.iter().filter_map(differing).collect();
    parts.iter().enumerate().find_map(|(place, part)| {
        let here = || candidates.iter().filter(move |(at, ..)| *at == place);
        let word = nearest_word(part, here().map(|(_, other, _)| *other))?;
        here().find(|(_, other, _)| *other == word).map(|(_, _, name)| *name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_prefix_ends_at_a_module() {
        assert_eq!(common(["a.b.c", "a.b.d.e"]).as_deref(), Some("a.b."));
        assert_eq!(common(["a.bc", "a.bd"]).as_deref(), Some("a."));
        assert_eq!(common(["a.b", "a.b.c"]).as_deref(), Some("a."));
        assert_eq!(common(["ab.c", "ac.d"]), None);
        assert_eq!(common(["a.b.c"]), None);
        assert_eq!(common([]), None);
    }

    #[test]
    fn a_model_within_another_is_found_by_the_encoders_prefix() {
        let outer = |names: &[&str], prefix| outer(names.iter().copied(), prefix);
        assert_eq!(outer(&["m.bert.x", "m.classifier.y"], "bert").as_deref(), Some("m."));
        assert_eq!(outer(&["net.m.bert.x", "net.m.cls.y"], "bert").as_deref(), Some("net.m."));
        assert_eq!(outer(&["bert.bert.x", "bert.classifier.y"], "bert").as_deref(), Some("bert."));
        assert_eq!(outer(&["model.model.x", "model.head.y"], "model").as_deref(), Some("model."));
        assert_eq!(outer(&["bert.x", "bert.y"], "bert"), None);
        assert_eq!(outer(&["model.x", "model.y"], "model"), None);
        assert_eq!(outer(&["encoder.x", "encoder.y"], "bert"), None);
        assert_eq!(outer(&["bert.x", "classifier.y"], "bert"), None);
    }

    #[test]
    fn the_nearest_name_differs_in_one_part() {
        let names = ["a.query.weight", "a.value.weight", "b.query.bias", "a.0.key.weight"];
        assert_eq!(nearest("a.qeury.weight", &names), Some("a.query.weight"));
        assert_eq!(nearest("a.1.key.weight", &names), Some("a.0.key.weight"));
        assert_eq!(nearest("a.word_embeddings.weight", &["a.position_embeddings.weight"]), None);
        assert_eq!(nearest("c.qeury.weight", &names), None);
    }

    #[test]
    fn wrappers_leave_no_trace() {
        assert_eq!(unwrapped("_orig_mod.bert._fsdp_wrapped_module.x"), "bert.x");
        assert_eq!(unwrapped("my_orig_mod.x"), "my_orig_mod.x");
        assert_eq!(wrappers("_orig_mod.a.b").next(), Some("_orig_mod"));
    }
}
