//! The tables that every form of the report has.

use crate::bench::{Measured, PointKey, PointMeasured, Report, Scenario};

/// Engines and their measurements at one point.
pub(super) type Rows<'a> = Vec<(&'a Measured, &'a PointMeasured)>;

/// A table under its name.
pub(super) struct Table {
    pub name: String,
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// The measured points, with each engine's figures.
pub(super) fn by_point(report: &Report) -> Vec<(Table, Rows<'_>)> {
    let first = report.engines.iter().find(|engine| !engine.points.is_empty());
    let keys: Vec<PointKey> = first.map_or(Vec::new(), |engine| engine.points.iter().map(|point| point.key).collect());
    let rows = |key: PointKey| -> Rows {
        let of = |engine: &'_ Measured| engine.points.iter().position(|point| point.key == key);
        report.engines.iter().filter_map(|engine| Some((engine, engine.points.get(of(engine)?)?))).collect()
    };
    keys.into_iter().map(|key| (of_point(key, &rows(key)), rows(key))).collect()
}

/// The columns for engines at one point: padding and energy only where there are.
fn of_point(key: PointKey, rows: &Rows) -> Table {
    let padded = rows.iter().any(|(_, point)| padding(point) > 0.0);
    let energy = rows.iter().any(|(_, point)| point.joules_per_text.is_some());
    let mut header =
        vec!["engine", "mean ms", "p50 ms", "p90 ms", "p99 ms", "max ms", "texts/s", "texts/s/core", "tokens/s"];
    header.extend(padded.then_some("with padding"));
    header.extend(energy.then_some("J/text"));
    header.extend(["speed", "95 % interval", "agreement"]);
    let cells = |(engine, point): &(&Measured, &PointMeasured)| {
        let mut cells = vec![engine.name.clone()];
        let times = [point.mean_ms, point.p50_ms, point.p90_ms, point.p99_ms, point.max_ms];
        cells.extend(times.map(|ms| format!("{ms:.2}")));
        cells.extend([point.texts_per_second, point.texts_per_second_per_core].map(|rate| format!("{rate:.1}")));
        cells.push(format!("{:.0}", point.tokens_per_second));
        cells.extend(padded.then(|| format!("{:.0}", point.padded_tokens_per_second)));
        cells.extend(energy.then(|| point.joules_per_text.map_or_else(unknown, |joules| format!("{joules:.3}"))));
        cells.extend(against_first(point));
        cells
    };
    Table { name: name(key), header, rows: rows.iter().map(cells).collect() }
}

/// A point's name, and which of its figures MLPerf takes.
fn name(key: PointKey) -> String {
    let counts = match key.scenario {
        Scenario::SingleStream => "p90",
        Scenario::MultiStream => "p99",
        Scenario::Offline => "texts/s",
        Scenario::FirstToken | Scenario::NextToken => "p50",
    };
    format!("{key} · {counts} counts")
}

fn unknown() -> String {
    "?".to_owned()
}

fn padding(point: &PointMeasured) -> f64 {
    point.padded_tokens_per_second - point.tokens_per_second
}

/// Speed, its interval, and the agreement with the first engine.
fn against_first(point: &PointMeasured) -> [String; 3] {
    let (speed, interval) = match point.speed {
        Some(ratio) if ratio.low < ratio.high => {
            (format!("{:.3}x", ratio.mean), format!("{:.3}–{:.3}", ratio.low, ratio.high))
        }
        Some(ratio) => (format!("{:.3}x", ratio.mean), "-".to_owned()),
        None => (unknown(), "-".to_owned()),
    };
    let agreement = point.parity.as_ref().and_then(|parity| parity.agreement);
    [speed, interval, agreement.map_or_else(unknown, |share| format!("{share:.3}"))]
}

/// The results of the server scenario; none where it was not measured.
fn served(report: &Report) -> Option<Table> {
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
    Some(Table {
        name: format!("server · texts arrive at random, 99 % done within {bound} ms · texts/s counts"),
        header: vec!["engine", "texts/s", "p50 ms", "p99 ms", "texts run"],
        rows: report.engines.iter().filter_map(row).collect(),
    })
}

/// Figures of others beside ours, shape by shape; none where there are none.
fn published(report: &Report) -> Option<Table> {
    let published = report.published.as_ref()?;
    let ours = |(engine, point): (&Measured, &PointMeasured)| {
        let length = point.key.length?;
        let theirs = ["BERT-base", "BERT-large"].into_iter().flat_map(|model| ["INT8", "FP16"].map(|it| (model, it)));
        let theirs = theirs.map(|(model, precision)| {
            let same = published.latencies.iter().find(|latency| {
                (latency.model.as_str(), latency.precision.as_str()) == (model, precision)
                    && (latency.batch, latency.length) == (point.key.batch, length)
            });
            same.map_or_else(|| "-".to_owned(), |latency| format!("{:.2}", latency.mean_ms))
        });
        let shape = format!("{}x{length}", point.key.batch);
        let mut cells = vec![engine.name.clone(), shape, format!("{:.2}", point.mean_ms)];
        cells.extend(theirs);
        Some(cells)
    };
    let rows = by_point(report).into_iter().flat_map(|(_, rows)| rows).filter_map(ours).collect();
    Some(Table {
        name: format!("mean ms beside {}: {}; {}", published.device, published.source, published.measured),
        header: vec![
            "engine",
            "shape",
            "ours",
            "NVIDIA T4 base INT8",
            "NVIDIA T4 base FP16",
            "NVIDIA T4 large INT8",
            "NVIDIA T4 large FP16",
        ],
        rows,
    })
}

/// The costs of engines beside time.
fn costs(report: &Report) -> Table {
    let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    let row = |engine: &Measured| {
        vec![
            engine.name.clone(),
            engine.runtime.clone(),
            format!("{:.0}", engine.load_ms),
            format!("{:.2}", engine.first_ms),
            megabytes(engine.peak_bytes),
            megabytes(engine.file_bytes),
        ]
    };
    Table {
        name: "What they cost".to_owned(),
        header: vec!["engine", "runtime", "load ms", "first run ms", "memory MB", "file MB"],
        rows: report.engines.iter().filter(|engine| !engine.points.is_empty()).map(row).collect(),
    }
}

/// The tables that follow those of the points.
pub(super) fn others(report: &Report) -> impl Iterator<Item = Table> {
    served(report).into_iter().chain(published(report)).chain([costs(report)])
}

/// How it was measured, a sentence each.
pub(super) fn how(report: &Report) -> Vec<String> {
    let Report { settings, texts, .. } = report;
    let first = report.engines.first().map_or("nothing", |engine| engine.name.as_str());
    let mut lines = vec![format!(
        "{} threads on {}, {} rounds of {} s; speed is against {first}, round by round",
        settings.threads, settings.device, report.rounds, settings.seconds,
    )];
    lines.extend(texts.as_ref().map(|texts| {
        let part = if texts.tokenized_in_latency { "is part of each latency" } else { "was done before" };
        format!(
            "texts of {}: {} of {} tokens in all, the longest of {}; tokenizing {part}",
            texts.file, texts.texts, texts.tokens, texts.longest
        )
    }));
    lines.extend(report.energy_not_measured.as_ref().map(|why| format!("energy is not measured: {why}")));
    let libraries = report.machine.libraries();
    lines.extend((!libraries.is_empty()).then(|| format!("libraries here: {libraries}")));
    lines
}

/// Engines that could not be measured, and why.
pub(super) fn failures(report: &Report) -> impl Iterator<Item = String> {
    report.engines.iter().filter_map(|engine| Some(format!("{} failed: {}", engine.name, engine.failed.as_ref()?)))
}
