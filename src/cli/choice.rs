//! Arguments that are one of a few values.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use kilnc::error::Error;

/// A value of an argument, its name and what help says of it.
pub(super) type Choice<T> = (T, &'static str, &'static str);

/// Reads one of a few values by its name.
pub(super) fn one_of<T: Copy + Send + Sync>(choices: &'static [Choice<T>]) -> impl TypedValueParser<Value = T> {
    let names = choices.iter().map(|(_, name, help)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(names).try_map(|given| {
        let named = choices.iter().find(|(_, name, _)| *name == given);
        named
            .map(|(value, ..)| *value)
            .ok_or_else(|| Error::bug(format!("`{given}` is a possible value without a value")))
    })
}
