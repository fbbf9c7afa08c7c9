//! Plots of the page, as SVG.

use super::tables::Rows;
use crate::bench::{Measured, PointMeasured, Ratio, Report};
use crate::svg::{self, Area, COLOURS, escape};

const WIDTH: f64 = 540.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = HEIGHT - 52.0;

const AREA: Area = Area { left: LEFT, right: RIGHT, top: TOP, bottom: BOTTOM, grid: "#e5e5e5", gap: 9.0 };

/// Gaps between ticks, about.
const GAPS: f64 = 5.0;

/// The plots of engines at one point, under the names of their colours; nothing where nothing can be.
pub(super) fn plots(report: &Report, rows: &Rows) -> String {
    let plots = distribution(report, rows) + &speed_and_agreement(report, rows);
    match plots.is_empty() {
        true => plots,
        false => format!("{}<div class=\"plots\">\n{plots}</div>\n", legend(report, rows)),
    }
}

fn colour(report: &Report, engine: &Measured) -> &'static str {
    let at = report.engines.iter().position(|other| other.name == engine.name).unwrap_or_default();
    COLOURS.get(at % COLOURS.len()).copied().unwrap_or("#000000")
}

/// The names of engines beside their colours.
fn legend(report: &Report, rows: &Rows) -> String {
    let one = |(engine, _): &(&Measured, &PointMeasured)| {
        let fill = colour(report, engine);
        format!("<span><i style=\"background:{fill}\"></i>{}</span>\n", escape(&engine.name))
    };
    format!("<p class=\"legend\">{}</p>\n", rows.iter().map(one).collect::<String>())
}

/// An axis with ticks at round numbers, which lies between `from` and `to` on the page.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From the last round number below `low` to the first above `high`.
    fn over(low: f64, high: f64, from: f64, to: f64) -> Axis {
        let rough = ((high - low) / GAPS).max(high.abs() * 1e-3).max(1e-9);
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        // A range that ends on a tick, except for rounding, needs none beyond.
        let (first, last) = ((low / step + 1e-6).floor() * step, (high / step - 1e-6).ceil() * step);
        Axis { low: first, high: last.max(first + step), step, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// The positions of ticks, and their labels.
    fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count).map(move |i| self.low + self.step * i as f64).map(move |x| (self.at(x), format!("{x:.decimals$}")))
    }
}

/// A plot with its axes, their names, and the marks of `inside`.
fn plot(class: &str, title: &str, x: &Axis, y: &Axis, names: [&str; 2], inside: &str) -> String {
    let mut out = format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" font-size=\"12\" \
         font-family=\"system-ui,sans-serif\" role=\"img\"><title>{title}</title>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    out.extend(x.ticks().map(|(at, label)| AREA.column(at, &label)));
    out.extend(y.ticks().map(|(at, label)| AREA.row(at, &label)));
    let (middle, down) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
    out += &svg::names(names, [middle, BOTTOM + 42.0], [16.0, down]);
    out + inside + "</svg>\n"
}

/// The share of runs that were not slower, by milliseconds; the slowest hundredth is cut off; the tables have it.
fn distribution(report: &Report, rows: &Rows) -> String {
    let upto99 = |point: &PointMeasured| point.distribution_ms.iter().copied().take(100).collect::<Vec<f64>>();
    let all: Vec<f64> = rows.iter().flat_map(|(_, point)| upto99(point)).filter(|ms| ms.is_finite()).collect();
    let (low, high) = (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(0.0, f64::max));
    if all.is_empty() {
        return String::new();
    }
    let (x, y) = (Axis::over(low, high, LEFT, RIGHT), Axis::over(0.0, 1.0, BOTTOM, TOP));
    let line = |(engine, point): &(&Measured, &PointMeasured)| {
        let corners = upto99(point).into_iter().enumerate();
        let corners = corners.map(|(i, ms)| format!("{:.1},{:.1}", x.at(ms), y.at(i as f64 / 100.0)));
        format!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"><title>{}</title></polyline>\n",
            colour(report, engine),
            corners.collect::<Vec<_>>().join(" "),
            escape(&engine.name)
        )
    };
    let inside: String = rows.iter().map(line).collect();
    plot("distribution", "Latency of a query", &x, &y, ["milliseconds", "share of runs"], &inside)
}

/// Speed against agreement with the first engine.
fn speed_and_agreement(report: &Report, rows: &Rows) -> String {
    let found: Vec<_> = rows
        .iter()
        .filter_map(|(engine, point)| Some((*engine, point.speed?, point.parity.as_ref()?.agreement?)))
        .collect();
    if found.is_empty() {
        return String::new();
    }
    let fastest = found.iter().map(|(_, speed, _)| speed.high).fold(1.0, f64::max);
    let least = found.iter().map(|(_, _, agreement)| *agreement).fold(1.0, f64::min);
    // Marks at the ends of an axis stay whole.
    let x = Axis::over(0.0, fastest * 1.05, LEFT, RIGHT);
    let y = Axis::over((least - 0.05).max(0.0), 1.0, BOTTOM, TOP + 8.0);
    let mark = |(engine, speed, agreement): &(&Measured, Ratio, f64)| {
        let (fill, at) = (colour(report, engine), y.at(*agreement));
        format!(
            "<line class=\"interval\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"{fill}\" \
             stroke-width=\"2\"/><circle cx=\"{:.1}\" cy=\"{at:.1}\" r=\"5\" fill=\"{fill}\" fill-opacity=\"0.8\">\
             <title>{}: {:.3}x, agreement {agreement:.3}</title></circle>\n",
            x.at(speed.low),
            x.at(speed.high),
            x.at(speed.mean),
            escape(&engine.name),
            speed.mean
        )
    };
    let inside: String = found.iter().map(mark).collect();
    let names = ["speed, the first engine = 1", "agreement"];
    plot("speed-agreement", "Speed against agreement", &x, &y, names, &inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> Vec<String> {
        Axis::over(low, high, 0.0, 100.0).ticks().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers_around_the_data() {
        assert_eq!(labels(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(7.3, 19.2), ["5", "10", "15", "20"]);
        assert_eq!(labels(0.0213, 0.0238), ["0.021", "0.022", "0.023", "0.024"]);
        assert_eq!(labels(0.93, 1.0), ["0.92", "0.94", "0.96", "0.98", "1.00"]);
        // One number alone has room around it.
        assert!(labels(3.0, 3.0).len() >= 2, "{:?}", labels(3.0, 3.0));
        assert!(labels(0.0, 0.0).len() >= 2);
    }
}
