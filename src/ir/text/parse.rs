//! Parses the text form of a graph.

use std::collections::HashMap;
use std::str::CharIndices;

use crate::error::{Error, Result, printable_sentence};
use crate::ir::{Attribute, Builder, DType, Dim, Graph, Op, Part, Role, TensorType, ValueId};

/// Parses a graph. Types are inferred again, and must be those of the text.
pub fn parse(text: &str) -> Result<Graph> {
    let mut parser = Parser { text, rest: text, builder: Builder::default(), named: HashMap::new() };
    parser.graph().map_err(|what| {
        let read = text.len().checked_sub(parser.rest.len()).and_then(|at| text.get(..at)).unwrap_or(text);
        let line = read.matches('\n').count() + 1;
        Error::bad_input(printable_sentence(&what)).at(format!("line {line} of the graph's text"))
    })?;
    Ok(parser.builder.finish())
}

/// Parses a type such as `f32[batch_size, 4]`.
pub fn parse_type(text: &str) -> Result<TensorType> {
    let mut parser = Parser { text, rest: text, builder: Builder::default(), named: HashMap::new() };
    parser.ty().map_err(|what| Error::bad_input(printable_sentence(&what)))
}

/// Whether a bare name can have this character.
pub(super) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')
}

pub(super) type Parsed<T> = std::result::Result<T, String>;

pub(super) struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    builder: Builder,
    named: HashMap<String, ValueId>,
}

impl<'a> Parser<'a> {
    fn graph(&mut self) -> Parsed<()> {
        self.word("graph")?;
        let name = self.string()?;
        self.builder = Builder::new(name);
        self.expect('{')?;
        while !self.eat("}") {
            match self.peek_word() {
                "input" => self.input()?,
                "weight" => self.weight()?,
                "output" => self.output()?,
                _ => self.node()?,
            }
        }
        self.skip();
        if self.rest.is_empty() { Ok(()) } else { Err("text follows the graph".to_owned()) }
    }

    fn input(&mut self) -> Parsed<()> {
        self.word("input")?;
        let (name, ty) = self.typed_name()?;
        let id = match self.eat("=") {
            true => {
                let default = self.expression(None, 0)?;
                self.builder.optional_input(&name, ty, default)
            }
            false => self.builder.input(&name, ty),
        };
        self.define(name, id)
    }

    fn weight(&mut self) -> Parsed<()> {
        self.word("weight")?;
        let (name, ty) = self.typed_name()?;
        self.expect('=')?;
        let weight = self.expression(Some(&ty), 0)?;
        if weight.ty() != ty {
            return Err(format!("%{name} is {}, not {ty}", weight.ty()));
        }
        let id = self.builder.weight(&name, weight);
        self.define(name, id)
    }

    fn output(&mut self) -> Parsed<()> {
        self.word("output")?;
        let (name, id) = self.used()?;
        self.builder.output(&name, id).map_err(|e| e.message().to_owned())
    }

    fn node(&mut self) -> Parsed<()> {
        let mut outputs = vec![self.typed_name()?];
        while self.eat(",") {
            outputs.push(self.typed_name()?);
        }
        self.expect('=')?;
        let op_name = self.bare()?.to_owned();
        let attributes = self.attributes()?;
        let op = Op::from_parts(&op_name, &attributes)?;
        let inputs = self.operands()?;
        let role = self.role()?;
        self.builder.set_role(role);
        let first = outputs.first().map_or("", |(name, _)| name).to_owned();
        let ids = self.builder.nodes(&first, op, &inputs).map_err(|e| e.message().to_owned())?;
        if ids.len() != outputs.len() {
            return Err(format!("{op_name} has {} outputs, found {} names", ids.len(), outputs.len()));
        }
        for ((name, ty), id) in outputs.into_iter().zip(ids) {
            if *self.builder.ty(id) != ty {
                return Err(format!("%{name} is {}, not {ty}", self.builder.ty(id)));
            }
            self.define(name, id)?;
        }
        Ok(())
    }

    fn define(&mut self, name: String, id: ValueId) -> Parsed<()> {
        if self.named.contains_key(&name) {
            return Err(format!("duplicate %{name}"));
        }
        self.builder.rename(id, &name);
        self.named.insert(name, id);
        Ok(())
    }

    fn used(&mut self) -> Parsed<(String, ValueId)> {
        let name = self.name()?;
        match self.named.get(&name) {
            Some(id) => Ok((name, *id)),
            None => Err(format!("%{name} is not defined")),
        }
    }

    fn operands(&mut self) -> Parsed<Vec<Option<ValueId>>> {
        self.expect('(')?;
        let mut inputs = Vec::new();
        while !self.eat(")") {
            if !inputs.is_empty() {
                self.expect(',')?;
            }
            inputs.push(if self.eat("_") { None } else { Some(self.used()?.1) });
        }
        Ok(inputs)
    }

    fn attributes(&mut self) -> Parsed<Vec<(String, Attribute)>> {
        let mut attributes = Vec::new();
        if self.eat("{") {
            while !self.eat("}") {
                if !attributes.is_empty() {
                    self.expect(',')?;
                }
                let name = self.bare()?.to_owned();
                self.expect('=')?;
                attributes.push((name, self.attribute()?));
            }
        }
        Ok(attributes)
    }

    fn attribute(&mut self) -> Parsed<Attribute> {
        if self.eat("[") {
            let mut ints = Vec::new();
            while !self.eat("]") {
                if !ints.is_empty() {
                    self.expect(',')?;
                }
                let word = self.bare()?;
                ints.push(word.parse().map_err(|_| format!("`{word}` is not an integer"))?);
            }
            return Ok(Attribute::Ints(ints));
        }
        let word = self.bare()?;
        Ok(match word {
            "true" | "false" => Attribute::Bool(word == "true"),
            "dim" => Attribute::Dim(self.dim()?),
            "dims" => Attribute::Dims(self.dims()?),
            _ => match (DType::from_name(word), word.parse::<i64>(), word.parse::<f32>()) {
                (Some(dtype), _, _) => Attribute::DType(dtype),
                (_, Ok(int), _) => Attribute::Int(int),
                (_, _, Ok(float)) => Attribute::Float(float),
                _ => return Err(format!("`{word}` is not a value")),
            },
        })
    }

    fn role(&mut self) -> Parsed<Option<Role>> {
        if !self.eat("@") {
            return Ok(None);
        }
        let word = self.bare()?;
        let (part, layer) = word.split_once('/').map_or((word, None), |(part, layer)| (part, Some(layer)));
        let part = Part::from_name(part).ok_or_else(|| format!("unknown role `{part}`"))?;
        let layer = layer.map(|l| l.parse().map_err(|_| format!("`{l}` is not a layer"))).transpose()?;
        Ok(Some(Role { part, layer }))
    }

    fn typed_name(&mut self) -> Parsed<(String, TensorType)> {
        let name = self.name()?;
        self.expect(':')?;
        Ok((name, self.ty()?))
    }

    pub(super) fn ty(&mut self) -> Parsed<TensorType> {
        let word = self.bare()?;
        let dtype = DType::from_name(word).ok_or_else(|| format!("unknown element type `{word}`"))?;
        Ok(TensorType { dtype, shape: self.dims()? })
    }

    fn dims(&mut self) -> Parsed<Vec<Dim>> {
        self.expect('[')?;
        let mut dims = Vec::new();
        while !self.eat("]") {
            if !dims.is_empty() {
                self.expect(',')?;
            }
            dims.push(self.dim()?);
        }
        Ok(dims)
    }

    pub(super) fn integer(&mut self) -> Parsed<usize> {
        let word = self.bare()?;
        word.parse().map_err(|_| format!("`{word}` is not a number"))
    }

    fn name(&mut self) -> Parsed<String> {
        self.expect('%')?;
        if self.rest.starts_with('"') { self.string() } else { Ok(self.bare()?.to_owned()) }
    }

    pub(super) fn bare(&mut self) -> Parsed<&'a str> {
        self.take_while(is_name_char)
    }

    /// The characters of a kind that come next, which must be some.
    pub(super) fn take_while(&mut self, kind: impl Fn(char) -> bool) -> Parsed<&'a str> {
        self.skip();
        let end = self.rest.find(|c| !kind(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() { Err(format!("expected a word, found {}", self.found())) } else { Ok(word) }
    }

    /// Whether that comes next.
    pub(super) fn at(&mut self, c: char) -> bool {
        self.skip();
        self.rest.starts_with(c)
    }

    fn peek_word(&mut self) -> &'a str {
        self.skip();
        self.rest.split(|c| !is_name_char(c)).next().unwrap_or_default()
    }

    /// A string in quotes, escaped as Rust's `{:?}` escapes.
    pub(super) fn string(&mut self) -> Parsed<String> {
        self.expect('"')?;
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = self.rest.get(i + 1..).unwrap_or_default();
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    Some((_, '0')) => out.push('\0'),
                    Some((_, 'u')) => out.push(code_point(&mut chars).ok_or("unknown code point in a string")?),
                    Some((_, c @ ('"' | '\\' | '\''))) => out.push(c),
                    _ => return Err("unknown escape in a string".to_owned()),
                },
                c => out.push(c),
            }
        }
        Err("a string does not end".to_owned())
    }

    pub(super) fn word(&mut self, word: &str) -> Parsed<()> {
        match self.bare()? {
            found if found == word => Ok(()),
            found => Err(format!("expected `{word}`, found `{found}`")),
        }
    }

    pub(super) fn expect(&mut self, c: char) -> Parsed<()> {
        self.skip();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(format!("expected `{c}`, found {}", self.found())),
        }
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn found(&self) -> String {
        match self.rest.chars().next() {
            Some(c) => format!("`{}`", c.escape_debug()),
            None => format!("the end after {} bytes", self.text.len()),
        }
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

/// The rest after `\u`: hexadecimal digits in braces.
fn code_point(chars: &mut CharIndices) -> Option<char> {
    let (_, '{') = chars.next()? else { return None };
    let digits: String = chars.map(|(_, c)| c).take_while(|c| *c != '}').collect();
    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use super::parse;

    const TEXT: &str = r#"graph "tiny" {
  input %ids: i64[batch_size, sequence_length]
  weight %table: f32[10, 4] = source "embed"
  %x: f32[batch_size, sequence_length, 4] = Embed(%table, %ids) @embedding
  weight %w: f32[4, 4] = transpose(lora(0.5, source "w" f32[4, 4], source "a" f32[2, 4], cast(f32, source "b" f16[4, 2])))
  weight %bias: f32[4] = literal x"0000803f000000400000404000008040"
  %"a b": f32[batch_size, sequence_length, 4] = Linear(%x, %w, %bias) @query/0
  %l: f32[batch_size, sequence_length, 1], %r: f32[batch_size, sequence_length, 3] = Split {axis=2, sizes=[1, 3]} (%"a b")
  %y: f32[batch_size, sequence_length, 3] = Softmax {axis=-1} (%r)
  output %y
}
"#;

    #[test]
    fn text_parses_and_prints_back() {
        assert_eq!(parse(TEXT).unwrap().to_string(), TEXT);
    }

    #[test]
    fn multiples_of_sizes_print_back() {
        let text = r#"graph "g" {
  input %x: f32[b, s, 2*s]
  input %sizes: i64[3]
  %y: f32[b, 2*s, s] = ReshapeTo {shape=dims [b, 2*s, s]} (%x, %sizes)
  weight %one: i64[1] = literal x"0100000000000000"
  %z: f32[b, 2*s - 1, s] = Slice {axis=1, length=dim 2*s - 1} (%y, %one, %one)
  output %z
}
"#;
        assert_eq!(parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn sizes_print_in_one_form() {
        let ty = |text: &str| super::parse_type(text).map(|ty| ty.to_string()).map_err(|e| e.message().to_owned());
        for (given, printed) in [
            ("f32[s*b + 1 + s*b]", "f32[2*b*s + 1]"),
            ("f32[ceil((s + 0)/512)*512, max(s, 3 + s, 16)]", "f32[512*ceil(s/512), max(13, s) + 3]"),
            ("f32[-3 + s, (a + b)*(a - b)]", "f32[s - 3, a*a - b*b]"),
            ("f32[floor((s + 1)/4), ?n, \"a-b/c\"]", "f32[floor((s + 1)/4), ?n, \"a-b/c\"]"),
            ("f32[sequence_length + past_sequence_length]", "f32[past_sequence_length + sequence_length]"),
        ] {
            assert_eq!(ty(given).as_deref(), Ok(printed));
            assert_eq!(ty(printed).as_deref(), Ok(printed));
        }
        for (given, why) in [
            ("f32[3 - 4]", "a size is negative"),
            ("f32[floor(s/0)]", "a size is divided by 0"),
            ("f32[9223372036854775807*s + s]", "a size is beyond 64 bits"),
            ("f32[99999999999999999999]", "`99999999999999999999` is not a size"),
            ("f32[floor(s/t)]", "`t` is not a number"),
            ("f32[2 s]", "expected `,`, found `s`"),
        ] {
            assert_eq!(ty(given), Err(why.to_owned()));
        }
        let sums = |n: usize| (0..n).map(|i| format!("s{i}")).collect::<Vec<_>>().join(" + ");
        assert_eq!(
            ty(&format!("f32[({}) * ({})]", sums(20), sums(20))),
            Err("a size has more than 256 parts".to_owned())
        );
        let nested = |open: &str| format!("f32[{}s", open.repeat(10_000));
        assert_eq!(ty(&nested("(")), Err("a size is nested too deeply".to_owned()));
        assert_eq!(ty(&nested("max(")), Err("a size is nested too deeply".to_owned()));
    }

    #[test]
    fn defaults_of_inputs_survive() {
        let given = "input %b: f32[r, 3] = literal x\"\" f32[0, 3]";
        let text = TEXT.replace("  %y:", &format!("  {given}\n  %y:"));
        let printed = parse(&text).unwrap().to_string();
        assert!(printed.contains(given), "{printed}");
        assert_eq!(parse(&printed).unwrap().to_string(), printed);
    }

    #[test]
    fn names_with_any_characters_survive() {
        let names = ["l.1", "a\u{1b}[2J", "\r\0\t\n\\\"'", "é\u{200b}\u{10ffff}", "%", "input", "0"];
        for name in names {
            let text = TEXT.replace("%r", &format!("%{name:?}")).replace("\"embed\"", &format!("{name:?}"));
            let printed = parse(&text).unwrap().to_string();
            assert_eq!(parse(&printed).unwrap().to_string(), printed);
            assert!(parse(&printed).unwrap().find(name).is_some(), "{printed}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(
            message(&TEXT.replace("(%table, %ids)", "(%table, %idz)")),
            "%idz is not defined\n  in line 4 of the graph's text"
        );
        assert_eq!(
            message(&TEXT.replace("Softmax {axis=-1}", "Softmax")),
            "missing attribute `axis`\n  in line 9 of the graph's text"
        );
        assert_eq!(
            message("graph \"x\" {\noutput %\"a\\nb\u{1b}\"\n}"),
            "%a\\nb\\u{1b} is not defined\n  in line 2 of the graph's text"
        );
        assert_eq!(message("graph \"x\" {\n}\nx"), "text follows the graph\n  in line 3 of the graph's text");
        assert_eq!(
            message("graph \"x\" {"),
            "expected `%`, found the end after 11 bytes\n  in line 1 of the graph's text"
        );
        let deep = format!("graph \"x\" {{ weight %w: f32[1] = {}", "cast(f16, ".repeat(10_000));
        assert!(message(&deep).starts_with("the expression is nested too deeply"));
    }
}
