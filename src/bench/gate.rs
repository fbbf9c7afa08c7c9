//! Conditions on regressions: `p99>1.05x` fails where the 99th percentile is more than 1.05 times that of a
//! report that was saved.

use std::fmt;
use std::str::FromStr;

use super::{Measured, PointMeasured, Report};
use crate::error::{Error, Result, printable};

/// A bound, compared with a saved report.
#[derive(Clone, Debug)]
pub struct FailIf {
    measure: &'static Measure,
    /// Whether more is worse.
    more: bool,
    factor: f64,
}

#[derive(Debug)]
struct Measure {
    name: &'static str,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Engine(fn(&Measured) -> f64),
    Point(fn(&PointMeasured) -> f64),
}

static MEASURES: [Measure; 13] = [
    Measure { name: "p50", of: Of::Point(|point| point.p50_ms) },
    Measure { name: "p90", of: Of::Point(|point| point.p90_ms) },
    Measure { name: "p95", of: Of::Point(|point| point.p95_ms) },
    Measure { name: "p99", of: Of::Point(|point| point.p99_ms) },
    Measure { name: "p99.9", of: Of::Point(|point| point.p999_ms) },
    Measure { name: "max", of: Of::Point(|point| point.max_ms) },
    Measure { name: "mean", of: Of::Point(|point| point.mean_ms) },
    // Where it is not measured it is no number, and no condition holds.
    Measure { name: "energy", of: Of::Point(|point| point.joules_per_text.unwrap_or(f64::NAN)) },
    Measure { name: "throughput", of: Of::Point(|point| point.texts_per_second) },
    Measure { name: "load", of: Of::Engine(|engine| engine.load_ms) },
    Measure { name: "first", of: Of::Engine(|engine| engine.first_ms) },
    Measure { name: "memory", of: Of::Engine(|engine| engine.peak_bytes as f64) },
    Measure { name: "size", of: Of::Engine(|engine| engine.file_bytes as f64) },
];

impl FromStr for FailIf {
    type Err = Error;

    fn from_str(text: &str) -> Result<FailIf> {
        let wrong = || Error::bad_input(format!("`{}` is no condition; write one as p99>1.05x", printable(text)));
        let at = text.find(['<', '>']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(at);
        let more = rest.starts_with('>');
        let factor = rest.get(1..).and_then(|rest| rest.trim().strip_suffix('x')?.parse::<f64>().ok());
        let factor = factor.filter(|factor| factor.is_finite() && *factor > 0.0).ok_or_else(wrong)?;
        let names = || MEASURES.iter().map(|measure| measure.name);
        let measure = MEASURES.iter().find(|measure| measure.name == name.trim()).ok_or_else(|| {
            let known = names().collect::<Vec<_>>().join(", ");
            let error = Error::bad_input(format!("unknown measure `{}`; known: {known}", printable(name.trim())));
            error.hint_nearest(name.trim(), names())
        })?;
        Ok(FailIf { measure, more, factor })
    }
}

impl fmt::Display for FailIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}x", self.measure.name, if self.more { '>' } else { '<' }, self.factor)
    }
}

impl FailIf {
    /// The figures of a report that are worse than in another, engine by engine and point by point; those that are in one alone are
    /// left out. Fails where the two have nothing in common.
    pub fn against(&self, now: &Report, before: &Report) -> Result<Vec<String>> {
        same_texts(now, before)?;
        let mut worse = Vec::new();
        let mut compared = 0;
        for engine in &now.engines {
            let Some(old) = before.engines.iter().find(|old| old.name == engine.name) else { continue };
            let pairs: Vec<(String, f64, f64)> = match &self.measure.of {
                Of::Engine(of) => vec![(engine.name.clone(), of(engine), of(old))],
                Of::Point(of) => engine
                    .points
                    .iter()
                    .filter_map(|point| {
                        let old = old.points.iter().find(|old| old.key == point.key)?;
                        Some((format!("{} at {}", engine.name, point.key), of(point), of(old)))
                    })
                    .collect(),
            };
            compared += pairs.len();
            worse.extend(pairs.into_iter().filter_map(|(what, now, before)| {
                let ratio = now / before;
                let failed = if self.more { ratio > self.factor } else { ratio < self.factor };
                failed.then(|| format!("{what}: {} is {now:.2}, {ratio:.3} times {before:.2}", self.measure.name))
            }));
        }
        match compared {
            0 => Err(Error::bad_input("the baseline has none of these engines at these batches and lengths")),
            _ => Ok(worse),
        }
    }
}

/// Fails where the two were measured on different texts, regardless of the names of their files.
fn same_texts(now: &Report, before: &Report) -> Result<()> {
    let of = |report: &Report| match &report.texts {
        Some(texts) => format!(
            "{} texts of {} tokens, the longest of {}{}",
            texts.texts,
            texts.tokens,
            texts.longest,
            if texts.tokenized_in_latency { ", tokenized in each latency" } else { "" }
        ),
        None => "no texts".to_owned(),
    };
    let (before, now) = (of(before), of(now));
    match before == now {
        true => Ok(()),
        false => Err(Error::bad_input(format!("the baseline has other inputs: {before}, and this {now}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{PointKey, TextStats};

    fn report(p99_ms: f64, texts_per_second: f64) -> Report {
        let key = PointKey { batch: 1, length: Some(128), ..PointKey::default() };
        let point = PointMeasured { key, p99_ms, texts_per_second, ..PointMeasured::default() };
        let engine = Measured { name: "a".to_owned(), points: vec![point], ..Measured::default() };
        Report { engines: vec![engine], ..Report::default() }
    }

    fn worse(condition: &str, now: &Report, before: &Report) -> Vec<String> {
        condition.parse::<FailIf>().unwrap().against(now, before).unwrap()
    }

    #[test]
    fn a_worse_figure_is_reported_with_both_numbers() {
        let (before, now) = (report(10.0, 100.0), report(11.0, 95.0));
        assert_eq!(
            worse("p99>1.05x", &now, &before),
            ["a at single-stream · batch 1 · 128 tokens: p99 is 11.00, 1.100 times 10.00"]
        );
        assert_eq!(worse("p99>1.2x", &now, &before), [""; 0]);
        assert_eq!(
            worse("throughput < 0.98x", &now, &before),
            ["a at single-stream · batch 1 · 128 tokens: throughput is 95.00, 0.950 times 100.00"]
        );
        assert_eq!(worse("throughput<0.9x", &now, &before), [""; 0]);
    }

    #[test]
    fn conditions_are_read_and_printed_back() {
        assert_eq!("p99.9>1.05x".parse::<FailIf>().unwrap().to_string(), "p99.9>1.05x");
        let said = |text: &str| text.parse::<FailIf>().unwrap_err().message().to_owned();
        for text in ["p99", "p99>1.05", "p99>x", "p99>-1x", "p99=1x"] {
            assert_eq!(said(text), format!("`{text}` is no condition; write one as p99>1.05x"));
        }
        assert!(said("p98>1x").starts_with("unknown measure `p98`; known: p50, p90"));
    }

    #[test]
    fn reports_of_other_texts_are_not_compared() {
        let texts = Some(TextStats { texts: 2, tokens: 30, longest: 20, ..TextStats::default() });
        let now = Report { texts, ..report(1.0, 1.0) };
        let error = "p50>1x".parse::<FailIf>().unwrap().against(&now, &report(1.0, 1.0)).unwrap_err();
        let said = "the baseline has other inputs: no texts, and this 2 texts of 30 tokens, the longest of 20";
        assert_eq!(error.message(), said);
        let renamed = TextStats { file: "other.jsonl".to_owned(), ..now.texts.clone().unwrap() };
        let renamed = Report { texts: Some(renamed), ..report(1.0, 1.0) };
        assert_eq!(worse("p99>1.05x", &now, &renamed), [""; 0]);
    }

    #[test]
    fn reports_of_other_engines_are_not_compared() {
        let other =
            Report { engines: vec![Measured { name: "b".to_owned(), ..Measured::default() }], ..report(1.0, 1.0) };
        let error = "p50>1x".parse::<FailIf>().unwrap().against(&report(1.0, 1.0), &other).unwrap_err();
        assert_eq!(error.message(), "the baseline has none of these engines at these batches and lengths");
    }
}
