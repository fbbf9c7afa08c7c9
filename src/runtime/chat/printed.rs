//! Values as Python prints them, where the library prints them otherwise: floats with an exponent, alone and in lists.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::limits::NESTED;

/// A number, a list or an object.
pub(super) fn python(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    print(state, value, 0, &mut out)?;
    Ok(out)
}

fn print(state: &State, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > NESTED {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("values nest deeper than {NESTED}")));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Number => match float_of(value) {
            Some(number) if number.is_finite() => *out += &float(number),
            _ => *out += &value.to_string(),
        },
        ValueKind::Seq => {
            let items: Vec<Value> = value.try_iter()?.collect();
            *out += if value.is_tuple() { "(" } else { "[" };
            for (number, item) in items.iter().enumerate() {
                *out += if number > 0 { ", " } else { "" };
                print(state, item, depth + 1, out)?;
            }
            *out += match (value.is_tuple(), items.len()) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            };
        }
        ValueKind::Map => {
            *out += "{";
            for (number, key) in value.try_iter()?.enumerate() {
                *out += if number > 0 { ", " } else { "" };
                print(state, &key, depth + 1, out)?;
                *out += ": ";
                print(state, &value.get_item(&key)?, depth + 1, out)?;
            }
            *out += "}";
        }
        _ => {
            let text = format!("{value:?}");
            state.consume_fuel((text.len() / 64) as u64)?;
            *out += &text;
        }
    }
    Ok(())
}

/// The filter `escape`, with the entities of Python's `markupsafe`.
pub(super) fn escaped(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&#34;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

/// The number of a float; none for integers.
pub(super) fn float_of(value: &Value) -> Option<f64> {
    let float = value.is_number() && !value.is_integer();
    float.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// A finite number as Python prints it: the shortest that reads as the same, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_printed_as_python_does() {
        // Of `repr` in Python 3.
        for (number, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(float(number), expected);
        }
    }
}
