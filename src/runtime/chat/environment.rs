//! What templates find: the settings, filters, functions and methods that `transformers` gives them.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Tuple, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, escape_formatter};

use super::clock::Clock;
use super::failure::Raised;
use super::limits::{DEEPEST, STEPS};
use super::{dumps, printed};

pub(super) fn new(clock: Clock) -> Environment<'static> {
    let mut environment = Environment::new();
    // The delimiters are those of Jinja, which are no error.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_debug(false);
    environment.set_fuel(Some(STEPS));
    environment.set_recursion_limit(DEEPEST);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    // The name of a template is a file's, which says nothing of what it makes.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map => Ok(out.write_str(&printed::python(state, value)?)?),
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("e", printed::escaped);
    environment.add_filter("escape", printed::escaped);
    environment.set_unknown_method_callback(method);
    environment
        .add_filter("tojson", |state: &mut State, args: Rest<ValueOrKwargs>| dumps::tojson(state, &args.into_values()));
    environment.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let message = message.to_string();
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    add_clock(&mut environment, clock);
    environment
}

pub(super) fn add_clock(environment: &mut Environment, clock: Clock) {
    environment.add_function("strftime_now", move |format: &str| {
        clock.formatted(format).map_err(|what| Error::new(ErrorKind::InvalidOperation, what))
    });
}

/// Python's methods that templates call and the library lacks; the others are the library's.
fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let tuple = |texts: [&str; 3]| Ok(Tuple::from(texts.map(Value::from)).into());
    match (value.as_str(), method) {
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        (Some(text), "partition") => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            tuple([before, if text.contains(separator) { separator } else { "" }, after])
        }
        (Some(text), "rpartition") => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
            tuple([before, if text.contains(separator) { separator } else { "" }, after])
        }
        (Some(text), "rsplit") if !args.is_empty() => {
            let (separator, most): (&str, Option<i64>) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: the separator is empty"));
            }
            let most =
                most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
            let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        (None, "index") if value.kind() == ValueKind::Seq => {
            let (item,): (&Value,) = from_args(args)?;
            let found = value.try_iter()?.position(|other| other == *item);
            found
                .map(Value::from)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "index: the item is not there"))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}
