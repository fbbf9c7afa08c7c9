//! Sizes, times, shares and counts as arguments write them, and their ranges.

use std::ops::RangeInclusive;
use std::time::Duration;

use kilnc::error::{Error, Result, printable};

/// A number of bytes, with or without a unit of a thousand.
pub fn size(text: &str) -> Result<u64> {
    let units = [("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("", 1)];
    number(text, &units)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| Error::bad_input(format!("`{}` is no size, such as 500MB or 5GB", printable(text))))
}

/// A time, with a unit from seconds to days.
pub fn time(text: &str) -> Result<Duration> {
    let units = [("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)];
    let seconds = number(text, &units);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| Error::bad_input(format!("`{}` is no time, such as 12h or 30d", printable(text))))
}

/// A share of a whole.
pub fn share(text: &str) -> Result<f64> {
    within(text, 0.0..=1.0, "a share from 0 to 1, such as 0.01")
}

/// How many times as fast something is to be.
pub fn speedup(text: &str) -> Result<f64> {
    let faster = within(text, 1.0..=100.0, SPEEDUP)?;
    if faster > 1.0 { Ok(faster) } else { Err(out_of(text, SPEEDUP)) }
}

const SPEEDUP: &str = "a factor above 1 and up to 100, such as 1.5";

/// Threads of an engine.
pub fn threads(text: &str) -> Result<usize> {
    count(text, 1..=1024)
}

/// Texts or windows that are run together.
pub fn batch(text: &str) -> Result<usize> {
    count(text, 1..=4096)
}

/// How many of something are wanted; one at least.
pub fn some(text: &str) -> Result<usize> {
    count(text, 1..=u32::MAX as usize)
}

/// Longest text in tokens. Below three there is no room beside the tokens around a text.
pub fn length(text: &str) -> Result<usize> {
    count(text, 3..=65536)
}

fn count(text: &str, range: RangeInclusive<usize>) -> Result<usize> {
    let expected = || format!("a whole number from {} to {}", range.start(), range.end());
    text.trim().parse().ok().filter(|n| range.contains(n)).ok_or_else(|| out_of(text, &expected()))
}

fn within(text: &str, range: RangeInclusive<f64>, expected: &str) -> Result<f64> {
    text.trim().parse().ok().filter(|x| range.contains(x)).ok_or_else(|| out_of(text, expected))
}

fn out_of(text: &str, expected: &str) -> Error {
    Error::bad_input(format!("`{}` is not {expected}", printable(text)))
}

/// A number with one of those units.
fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(*factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_a_thousand() {
        let sizes = ["5GB", "500 MB", "7KB", "123"].map(|text| size(text).unwrap());
        assert_eq!(sizes, [5_000_000_000, 500_000_000, 7_000, 123]);
        for text in ["", "GB", "0", "-1", "5TB", "1.5GB", "99999999999999GB"] {
            assert_eq!(size(text).unwrap_err().message(), format!("`{text}` is no size, such as 500MB or 5GB"));
        }
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        assert_eq!((share("0").unwrap(), share("1").unwrap(), speedup("1.5").unwrap()), (0.0, 1.0, 1.5));
        assert_eq!((threads("1").unwrap(), batch("4096").unwrap(), length("3").unwrap()), (1, 4096, 3));
        for text in ["-0.1", "2", "nan", "inf", "", "x"] {
            let said = share(text).unwrap_err();
            assert_eq!(said.message(), format!("`{text}` is not a share from 0 to 1, such as 0.01"));
        }
        for text in ["0", "1", "0.5", "101", "nan"] {
            let said = speedup(text).unwrap_err();
            assert_eq!(said.message(), format!("`{text}` is not a factor above 1 and up to 100, such as 1.5"));
        }
        for text in ["0", "1000000", "-1", "1.5", ""] {
            let said = threads(text).unwrap_err();
            assert_eq!(said.message(), format!("`{text}` is not a whole number from 1 to 1024"));
        }
        assert_eq!(length("2").unwrap_err().message(), "`2` is not a whole number from 3 to 65536");
        assert!(batch("0").is_err() && some("0").is_err() && some("1").is_ok());
    }

    #[test]
    fn times_have_units() {
        let times = ["12h", "2 min", "30d"].map(|text| time(text).unwrap().as_secs());
        assert_eq!(times, [43_200, 120, 2_592_000]);
        for text in ["", "30", "d", "-1d", "1.5h", "99999999999999999d"] {
            assert_eq!(time(text).unwrap_err().message(), format!("`{text}` is no time, such as 12h or 30d"));
        }
    }
}
