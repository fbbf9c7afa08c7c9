//! The filter `tojson`, which is Python's `json.dumps` in `transformers`: no HTML is escaped, spaces follow `,` and `:`.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::limits::NESTED;
use super::printed::{float, float_of};

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &mut State, args: &[Value]) -> Result<String, Error> {
    let (by_place, named): (&[Value], Kwargs) = from_args(args)?;
    let [value, by_place @ ..] = by_place else { return Err(ErrorKind::MissingArgument.into()) };
    if by_place.len() > 4 {
        return Err(ErrorKind::TooManyArguments.into());
    }
    let argument = |number: usize, name: &str| -> Result<Option<Value>, Error> {
        let value = match by_place.get(number) {
            Some(value) => Some(value.clone()),
            None => named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let (ensure_ascii, indent) = (argument(0, "ensure_ascii")?, argument(1, "indent")?);
    let (separators, sort_keys) = (argument(2, "separators")?, argument(3, "sort_keys")?);
    named.assert_all_used()?;
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let indent = indent.map(|indent| indentation(state, &indent)).transpose()?;
    let separators = match separators {
        Some(pair) => pair_of(&pair)?,
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let (ensure_ascii, sort_keys) = (is_true(ensure_ascii), is_true(sort_keys));
    let mut dumper = Dumper { state, out: String::new(), ensure_ascii, sort_keys, indent, separators };
    dumper.value(value, 0)?;
    Ok(dumper.out)
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", what.into()))
}

/// A number of spaces, or a text.
fn indentation(state: &State, indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let spaces = indent.as_i64().ok_or_else(|| wrong("indent is neither a number nor a text"))?;
    let spaces = usize::try_from(spaces).unwrap_or(0);
    state.consume_fuel(spaces as u64)?;
    Ok(" ".repeat(spaces))
}

fn pair_of(separators: &Value) -> Result<(String, String), Error> {
    let texts: Vec<String> = separators.try_iter()?.filter_map(|text| text.as_str().map(str::to_owned)).collect();
    <[String; 2]>::try_from(texts).map(|[item, key]| (item, key)).map_err(|_| wrong("separators are two texts"))
}

struct Dumper<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    /// Between items, and after keys.
    separators: (String, String),
}

impl Dumper<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > NESTED {
            return Err(wrong(format!("values nest deeper than {NESTED}")));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => self.out += "null",
            ValueKind::Bool => self.out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number => self.out += &number(value),
            ValueKind::String => self.text(value.as_str().unwrap_or_default())?,
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items('[', ']', &items, depth, |dumper, item| dumper.value(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    items.push((key_of(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    items.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.items('{', '}', &items, depth, |dumper, (key, item)| {
                    dumper.text(key)?;
                    dumper.out += &dumper.separators.1;
                    dumper.value(item, depth + 1)
                })?;
            }
            other => return Err(wrong(format!("a value of kind {other} is not JSON"))),
        }
        Ok(())
    }

    fn items<T>(
        &mut self,
        open: char,
        close: char,
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (number, item) in items.iter().enumerate() {
            if number > 0 {
                self.charge(self.separators.0.len())?;
                self.out += &self.separators.0;
            }
            self.line(depth + 1)?;
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth)?;
        }
        self.out.push(close);
        Ok(())
    }

    /// A line feed and the indentation, where there is any.
    fn line(&mut self, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        self.charge(indent.len().saturating_mul(depth))?;
        self.out.push('\n');
        (0..depth).for_each(|_| self.out += indent);
        Ok(())
    }

    /// A text is paid for before it is made.
    fn charge(&self, bytes: usize) -> Result<(), Error> {
        self.state.consume_fuel((bytes / 64) as u64)
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        self.charge(text.len())?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                c if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a text does not fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// A key as a text, as Python makes one of it.
fn key_of(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number(key)),
        other => Err(wrong(format!("a key of kind {other} is not JSON"))),
    }
}

fn number(value: &Value) -> String {
    match float_of(value) {
        Some(number) if number.is_nan() => "NaN".to_owned(),
        Some(number) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Some(number) => float(number),
        None => value.to_string(),
    }
}
