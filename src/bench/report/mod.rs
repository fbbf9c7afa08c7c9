//! What was measured, for the eye: a table, Markdown, a page.

mod html;
mod markdown;
mod table;

use super::{Measured, PointMeasured, Report};

pub use html::html;
pub use markdown::markdown;
pub use table::table;

/// The batches and lengths that were measured, with what each engine has of them.
fn by_point(report: &Report) -> Vec<(String, Vec<(&Measured, &PointMeasured)>)> {
    let shapes: Vec<(usize, usize)> = report
        .engines
        .iter()
        .find(|engine| !engine.points.is_empty())
        .map(|engine| engine.points.iter().map(|point| (point.batch, point.length)).collect())
        .unwrap_or_default();
    let rows = |(batch, length): (usize, usize)| {
        let of = |engine: &'_ Measured| engine.points.iter().position(|p| (p.batch, p.length) == (batch, length));
        report.engines.iter().filter_map(|engine| Some((engine, engine.points.get(of(engine)?)?))).collect()
    };
    shapes.into_iter().map(|shape| (format!("batch {} · {} tokens", shape.0, shape.1), rows(shape))).collect()
}

/// The header of what is told of a point.
const POINT_COLUMNS: [&str; 10] =
    ["engine", "p50 ms", "p90 ms", "p99 ms", "max ms", "texts/s", "tokens/s", "speed", "95 % interval", "same answer"];

fn point_cells(engine: &Measured, point: &PointMeasured) -> Vec<String> {
    let (speed, interval) = match point.speed {
        Some(ratio) if ratio.low < ratio.high => {
            (format!("{:.3}x", ratio.mean), format!("{:.3}–{:.3}", ratio.low, ratio.high))
        }
        Some(ratio) => (format!("{:.3}x", ratio.mean), "-".to_owned()),
        None => ("?".to_owned(), "-".to_owned()),
    };
    let agreement = point.parity.as_ref().and_then(|parity| parity.agreement);
    vec![
        engine.name.clone(),
        format!("{:.2}", point.p50_ms),
        format!("{:.2}", point.p90_ms),
        format!("{:.2}", point.p99_ms),
        format!("{:.2}", point.max_ms),
        format!("{:.1}", point.texts_per_second),
        format!("{:.0}", point.tokens_per_second),
        speed,
        interval,
        agreement.map_or_else(|| "?".to_owned(), |share| format!("{share:.3}")),
    ]
}

/// The header of what is told of an engine.
const COST_COLUMNS: [&str; 6] = ["engine", "runtime", "load ms", "first answer ms", "memory MB", "file MB"];

fn cost_cells(engine: &Measured) -> Vec<String> {
    let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    vec![
        engine.name.clone(),
        engine.runtime.clone(),
        format!("{:.0}", engine.load_ms),
        format!("{:.2}", engine.first_ms),
        megabytes(engine.peak_bytes),
        megabytes(engine.file_bytes),
    ]
}

/// The header of what is told of the server scenario.
const SERVER_COLUMNS: [&str; 5] = ["engine", "texts/s", "p50 ms", "p99 ms", "texts asked"];

/// What the server scenario is called, and its rows; none where it was not measured.
fn served(report: &Report) -> Option<(String, Vec<Vec<String>>)> {
    let bound = report.settings.server_p99_ms?;
    let row = |engine: &Measured| {
        let served = engine.server?;
        Some(vec![
            engine.name.clone(),
            format!("{:.1}", served.texts_per_second),
            format!("{:.2}", served.p50_ms),
            format!("{:.2}", served.p99_ms),
            served.texts.to_string(),
        ])
    };
    let name = format!("texts that arrive at random, 99 % answered within {bound} ms");
    Some((name, report.engines.iter().filter_map(row).collect()))
}

fn how(report: &Report) -> String {
    format!(
        "{} threads, {} rounds of {} s; speed is against {}, round by round",
        report.settings.threads,
        report.rounds,
        report.settings.seconds,
        report.engines.first().map_or("nothing", |engine| engine.name.as_str())
    )
}
