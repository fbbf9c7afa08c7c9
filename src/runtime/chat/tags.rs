//! The text of a template, as far as it is read here: the blocks `{% generation %}`, and which names occur.

/// The tags of `transformers` that mark what the model said, and tags that mean the same where nobody asks for that: a
/// block with names of its own.
const TAGS: [(&str, &str); 2] = [("generation", "with"), ("endgeneration", "endwith")];

/// The text with other tags in place of those of generation blocks. What they enclose, and lines and spaces around tags,
/// stay as they are.
pub(super) fn without_generation(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out += before;
        let end = match from.get(..2) {
            Some("{#") => from.find("#}").map_or(from.len(), |at| at + 2),
            Some("{{") => end_of(from, "}}"),
            Some("{%") => end_of(from, "%}"),
            _ => 1,
        };
        let (tag, after) = from.split_at(end);
        rest = after;
        match name_of(tag) {
            Some("raw") => {
                // Up to the tag that ends it nothing is a tag.
                let end = end_of_raw(rest);
                let (raw, after) = rest.split_at(end);
                out += tag;
                out += raw;
                rest = after;
            }
            Some(name) => match TAGS.iter().find(|(ours, _)| *ours == name) {
                Some((name, other)) => out += &tag.replacen(name, other, 1),
                None => out += tag,
            },
            None => out += tag,
        }
    }
    out + rest
}

/// Where a tag ends: after the delimiter, which does not count inside of a string.
fn end_of(from: &str, delimiter: &str) -> usize {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in from.char_indices().skip(2) {
        match quote {
            _ if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if from.get(at..).is_some_and(|rest| rest.starts_with(delimiter)) => return at + delimiter.len(),
            None => {}
        }
    }
    from.len()
}

/// Where the tag begins that ends a raw block.
fn end_of_raw(text: &str) -> usize {
    let ends = |(at, _): &(usize, &str)| {
        text.get(*at..).and_then(|from| name_of(from.get(..end_of(from, "%}"))?)) == Some("endraw")
    };
    text.match_indices("{%").find(ends).map_or(text.len(), |(at, _)| at)
}

/// The name of a block's tag.
fn name_of(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.trim_start_matches(['-', '+']).trim_start();
    inside.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Whether a name occurs in a template.
pub(super) fn names(text: &str, name: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + name.len()..).unwrap_or_default());
        !before.ends_with(part) && !after.starts_with(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_become_blocks_that_change_nothing() {
        for (text, expected) in [
            ("a{% generation %}b{% endgeneration %}c", "a{% with %}b{% endwith %}c"),
            ("{%- generation-%} x {%+endgeneration -%}", "{%- with-%} x {%+endwith -%}"),
            ("{{ '{% generation %}' }}{# {% generation %} #}", "{{ '{% generation %}' }}{# {% generation %} #}"),
            ("{% set x = \"%}{% generation %}\" %}", "{% set x = \"%}{% generation %}\" %}"),
            (
                "{% raw %}{% generation %}{%- endraw %}{% generation %}",
                "{% raw %}{% generation %}{%- endraw %}{% with %}",
            ),
            ("{% generations %}{{ generation }}", "{% generations %}{{ generation }}"),
            ("{% generation", "{% with"),
            ("{", "{"),
            ("{%", "{%"),
            ("{é", "{é"),
        ] {
            assert_eq!(without_generation(text), expected);
        }
    }

    #[test]
    fn a_name_is_a_whole_word() {
        assert!(names("{% if tools %}", "tools") && names("tools", "tools"));
        assert!(!names("{% if my_tools or tools2 %}", "tools"));
    }
}
