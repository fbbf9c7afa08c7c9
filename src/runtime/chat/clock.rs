//! The time that templates may print.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

/// The variable that fixes the time, as reproducible builds have it (<https://reproducible-builds.org/specs/source-date-epoch/>).
const FIXED: &str = "SOURCE_DATE_EPOCH";

/// What `strftime_now` takes for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The seconds since 1970 of `SOURCE_DATE_EPOCH`, in UTC; where that is not set, this machine's time in its zone.
    Environment,
    /// Seconds since 1970, in UTC.
    At(i64),
}

impl Clock {
    /// The time in a format of `strftime`; else what is wrong with the format, or with the variable.
    pub(super) fn formatted(self, format: &str) -> Result<String, String> {
        let now = match self {
            Clock::At(seconds) => utc(seconds)?,
            Clock::Environment => match std::env::var_os(FIXED) {
                None => ZonedDateTime::now(),
                Some(value) => {
                    let seconds = value.to_str().and_then(|value| value.parse().ok());
                    let wrong = || format!("{FIXED}: expected seconds since 1970, found {}", value.display());
                    utc(seconds.ok_or_else(wrong)?)?
                }
            },
        };
        jiff::fmt::strtime::format(format, &now).map_err(|e| format!("strftime_now: {e}"))
    }
}

fn utc(seconds: i64) -> Result<ZonedDateTime, String> {
    let time = Timestamp::from_second(seconds).map_err(|e| format!("{seconds} seconds since 1970: {e}"))?;
    Ok(time.to_zoned_datetime(TimeZone::UTC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_time_is_printed_in_every_format() {
        let at = |format: &str| Clock::At(1_722_470_400).formatted(format);
        assert_eq!(at("%d %b %Y").unwrap(), "01 Aug 2024");
        assert_eq!(at("%A, %-d %B %Y, %H:%M:%S").unwrap(), "Thursday, 1 August 2024, 00:00:00");
        assert!(at("%").unwrap_err().starts_with("strftime_now: "));
        assert!(Clock::At(i64::MAX).formatted("%Y").is_err());
    }
}
