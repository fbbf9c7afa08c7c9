//! The report as one page that needs nothing else: tables and plots.

use super::{COST_COLUMNS, POINT_COLUMNS, SERVER_COLUMNS, by_point, cost_cells, how, point_cells, served};
use crate::bench::{Measured, PointMeasured, Report};

/// Colours that people with any eyes tell apart (Okabe and Ito).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a00"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0;font-variant-numeric:tabular-nums}\
th,td{padding:.3em .8em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}.warn{color:#a33}svg{max-width:100%;height:auto}";

/// The results as a page.
pub fn html(report: &Report) -> String {
    let mut body =
        format!("<h1>Engines side by side</h1>\n<p>{}<br>{}</p>\n", safe(&report.machine.line()), safe(&how(report)));
    if let Some(noise) = report.noise() {
        body += &format!("<p class=\"warn\">{}</p>\n", safe(&noise));
    }
    for (name, rows) in by_point(report) {
        body += &format!("<h2>{}</h2>\n", safe(&name));
        body += &table(&POINT_COLUMNS, rows.iter().map(|(engine, point)| point_cells(engine, point)));
        body += &distribution(report, &rows);
        body += &speed_and_answers(report, &rows);
    }
    if let Some((name, rows)) = served(report) {
        body += &format!("<h2>{}</h2>\n{}", safe(&name), table(&SERVER_COLUMNS, rows.into_iter()));
    }
    let measured = report.engines.iter().filter(|engine| !engine.points.is_empty());
    body += &format!("<h2>What they cost</h2>\n{}", table(&COST_COLUMNS, measured.map(cost_cells)));
    for engine in &report.engines {
        let told = |why: &String| format!("<p class=\"warn\">{} failed: {}</p>\n", safe(&engine.name), safe(why));
        body += &engine.failed.as_ref().map(told).unwrap_or_default();
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Engines side by side</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n<body>\n{body}\
         <p>kilnc {}</p>\n</body>\n</html>\n",
        safe(&report.kilnc)
    )
}

/// Text as it may stand between tags and in attributes: names come from files.
fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: String = header.iter().map(|cell| format!("<th>{}</th>", safe(cell))).collect();
    let row = |cells: Vec<String>| {
        format!("<tr>{}</tr>\n", cells.iter().map(|cell| format!("<td>{}</td>", safe(cell))).collect::<String>())
    };
    format!("<table>\n<tr>{head}</tr>\n{}</table>\n", rows.map(row).collect::<String>())
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 56.0;

type Rows<'a> = [(&'a Measured, &'a PointMeasured)];

fn colour(report: &Report, engine: &Measured) -> &'static str {
    let at = report.engines.iter().position(|other| other.name == engine.name).unwrap_or_default();
    COLOURS.get(at % COLOURS.len()).copied().unwrap_or("#000000")
}

/// An axis from `low` to `high` that is `from` to `to` on the page.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low).max(1e-12) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, step) = (self.low, (self.high - self.low) / 4.0);
        (0..=4).map(move |i| low + step * f64::from(i))
    }
}

/// A plot with its axes, their names, and what `inside` draws.
fn plot(class: &str, title: &str, x: &Axis, y: &Axis, [across, up]: [&str; 2], inside: &str) -> String {
    let mut out = format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" font-size=\"12\" role=\"img\">\
         <title>{title}</title>\n<text x=\"{MARGIN}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    for tick in x.ticks() {
        let at = x.at(tick);
        out += &format!(
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"#e5e5e5\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick:.2}</text>\n",
            y.to,
            y.from,
            y.from + 16.0
        );
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        out += &format!(
            "<line x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e5e5e5\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.2}</text>\n",
            x.from,
            x.to,
            x.from - 6.0,
            at + 4.0
        );
    }
    let (middle, down) = ((x.from + x.to) / 2.0, (y.from + y.to) / 2.0);
    out += &format!(
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{across}</text>\n\
         <text x=\"14\" y=\"{down}\" transform=\"rotate(-90 14 {down})\" text-anchor=\"middle\">{up}</text>\n{inside}</svg>\n",
        y.from + 36.0
    );
    out
}

/// The names of engines beside their colours.
fn legend(report: &Report, rows: &Rows) -> String {
    let line = |(i, (engine, _)): (usize, &(&Measured, &PointMeasured))| {
        let y = MARGIN + 12.0 + 16.0 * i as f64;
        let fill = colour(report, engine);
        format!(
            "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{fill}\"/><text x=\"{}\" y=\"{y}\">{}</text>\n",
            MARGIN + 8.0,
            y - 9.0,
            MARGIN + 24.0,
            safe(&engine.name)
        )
    };
    rows.iter().enumerate().map(line).collect()
}

/// The share of runs that were not slower, by milliseconds; the slowest hundredth is cut off, which tables tell.
fn distribution(report: &Report, rows: &Rows) -> String {
    let upto99 = |point: &PointMeasured| point.distribution_ms.iter().copied().take(100).collect::<Vec<f64>>();
    let all: Vec<f64> = rows.iter().flat_map(|(_, point)| upto99(point)).collect();
    let (low, high) = (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(0.0, f64::max));
    if !low.is_finite() {
        return String::new();
    }
    let x = Axis { low: low * 0.95, high: high * 1.05, from: MARGIN, to: WIDTH - 16.0 };
    let y = Axis { low: 0.0, high: 1.0, from: HEIGHT - MARGIN, to: 32.0 };
    let line = |(engine, point): &(&Measured, &PointMeasured)| {
        let corners = upto99(point).into_iter().enumerate();
        let corners = corners.map(|(i, ms)| format!("{:.1},{:.1}", x.at(ms), y.at(i as f64 / 100.0)));
        format!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"><title>{}</title></polyline>\n",
            colour(report, engine),
            corners.collect::<Vec<_>>().join(" "),
            safe(&engine.name)
        )
    };
    let inside: String = rows.iter().map(line).collect::<String>();
    plot("distribution", "Latency of a batch", &x, &y, ["milliseconds", "share of runs"], &inside)
}

/// Speed against the share of answers that are the first engine's.
fn speed_and_answers(report: &Report, rows: &Rows) -> String {
    let found: Vec<_> = rows
        .iter()
        .filter_map(|(engine, point)| Some((*engine, point.speed?, point.parity.as_ref()?.agreement?)))
        .collect();
    if found.is_empty() {
        return String::new();
    }
    let fastest = found.iter().map(|(_, speed, _)| speed.high).fold(1.0, f64::max);
    let least = found.iter().map(|(_, _, agreement)| *agreement).fold(1.0, f64::min);
    let x = Axis { low: 0.0, high: fastest * 1.1, from: MARGIN, to: WIDTH - 16.0 };
    let y = Axis { low: (least - 0.05).max(0.0), high: 1.02, from: HEIGHT - MARGIN, to: 32.0 };
    let mark = |(engine, speed, agreement): &(&Measured, crate::bench::Ratio, f64)| {
        let (fill, at) = (colour(report, engine), y.at(*agreement));
        format!(
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{fill}\" stroke-width=\"2\"/>\
             <circle cx=\"{:.1}\" cy=\"{at:.1}\" r=\"5\" fill=\"{fill}\"><title>{}: {:.3}x, same answer {agreement:.3}</title>\
             </circle>\n",
            x.at(speed.low),
            x.at(speed.high),
            x.at(speed.mean),
            safe(&engine.name),
            speed.mean
        )
    };
    let inside = found.iter().map(mark).collect::<String>() + &legend(report, rows);
    let names = ["speed, the first engine = 1", "share of same answers"];
    plot("speed-answers", "Speed against answers", &x, &y, names, &inside)
}
