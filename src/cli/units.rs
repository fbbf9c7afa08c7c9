//! Sizes and times as arguments spell them.

use std::time::Duration;

use crate::error::{Error, Result, printable};

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
    fn times_have_units() {
        let times = ["12h", "2 min", "30d"].map(|text| time(text).unwrap().as_secs());
        assert_eq!(times, [43_200, 120, 2_592_000]);
        for text in ["", "30", "d", "-1d", "1.5h", "99999999999999999d"] {
            assert_eq!(time(text).unwrap_err().message(), format!("`{text}` is no time, such as 12h or 30d"));
        }
    }
}
