//! The report of the search: a table and a plot.

use super::{Point, Tuned};
use crate::precision::Precision;
use crate::svg::{self, Area};

/// The report as Markdown.
pub fn markdown(tuned: &Tuned) -> String {
    let [batch, length] = tuned.shape;
    let what = if tuned.labelled { "accuracy lost" } else { "changed predictions" };
    let mut out = format!(
        "# Precision by layer\n\n{} texts, batch {batch} × {length} tokens; at most {} {what}.\n\n\
         | target | engine | layers in FP32 | ms | speed | agreement | {what} | change of outputs | |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        tuned.texts, tuned.max_drop
    );
    for (i, p) in tuned.points.iter().enumerate() {
        let kept = if p.precision == Precision::Fp32 { "all".to_owned() } else { p.fp32_layers.to_string() };
        let mark = if i == tuned.chosen {
            "**chosen**"
        } else if p.fits {
            ""
        } else if p.non_finite > 0 {
            "NaN or infinite"
        } else {
            "loses too much"
        };
        out += &format!(
            "| {} | {} | {kept} | {:.2} | {:.2} × | {:.4} | {:.4} | {} | {mark} |\n",
            p.target,
            p.precision,
            p.ms,
            p.speed,
            p.agreement,
            p.drop,
            rms(p)
        );
    }
    for searched in &tuned.targets {
        out += &format!(
            "\n## Layers on {}\n\n| layer | sensitivity in 8 bits | ms in FP32 | ms in INT8 | chosen | why |\n\
             |---|---|---|---|---|---|\n",
            searched.target
        );
        for layer in &searched.layers {
            out += &format!(
                "| {} | {:.4} | {:.3} | {:.3} | {} | {} |\n",
                layer.name, layer.sensitivity, layer.ms_full, layer.ms_int8, layer.chosen, layer.why
            );
        }
    }
    out
}

fn rms(point: &Point) -> String {
    point.rms.map_or_else(|| "∞".to_owned(), |rms| format!("{rms:.4}"))
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const MARGIN: f64 = 72.0;
const AREA: Area =
    Area { left: MARGIN, right: WIDTH - MARGIN, top: MARGIN, bottom: HEIGHT - MARGIN, grid: "#ddd", gap: 8.0 };

/// The corners of the plotted area: speeds from left to right, changes from the bottom up.
struct Axes {
    slowest: f64,
    fastest: f64,
    largest: f64,
}

impl Axes {
    fn of(points: &[Point]) -> Axes {
        let speeds = || points.iter().map(|p| p.speed);
        Axes {
            slowest: speeds().fold(1.0, f64::min) * 0.95,
            fastest: speeds().fold(1.0, f64::max) * 1.05,
            largest: points.iter().filter_map(|p| p.rms).fold(1e-9, f64::max) * 1.1,
        }
    }

    fn x(&self, speed: f64) -> f64 {
        MARGIN + (speed - self.slowest) / (self.fastest - self.slowest) * (WIDTH - 2.0 * MARGIN)
    }

    fn y(&self, rms: f64) -> f64 {
        HEIGHT - MARGIN - rms / self.largest * (HEIGHT - 2.0 * MARGIN)
    }

    /// Lines with their numbers and labels.
    fn draw(&self) -> String {
        let mut out = String::new();
        for i in 0..=4 {
            let share = f64::from(i) / 4.0;
            let (speed, rms) = (self.slowest + (self.fastest - self.slowest) * share, self.largest * share);
            let (x, y) = (self.x(speed), self.y(rms));
            out += &AREA.column(x, &format!("{speed:.2} ×"));
            out += &AREA.row(y, &format!("{rms:.3}"));
        }
        let names = ["speed, FP32 = 1", "change of outputs (rms)"];
        out + &svg::names(names, [WIDTH / 2.0, HEIGHT - 18.0], [18.0, HEIGHT / 2.0])
    }
}

/// Speed against the change of the outputs, as an SVG: a colour for each scheme, a form for each target.
pub fn plot(tuned: &Tuned) -> String {
    let axes = Axes::of(&tuned.points);
    let targets: Vec<&str> = tuned.targets.iter().map(|searched| searched.target.as_str()).collect();
    let form = |target: &str| targets.iter().position(|other| *other == target).unwrap_or_default();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"30\" font-size=\"16\">Speed against what it costs ({} texts)</text>\n{}",
        tuned.texts,
        axes.draw()
    );
    for (i, p) in tuned.points.iter().enumerate() {
        let (x, y) = (axes.x(p.speed), axes.y(p.rms.unwrap_or(axes.largest)));
        if i == tuned.chosen {
            out += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"10\" fill=\"none\" stroke=\"black\"/>\n");
        }
        let title = format!(
            "{}, {}, {} layers in FP32: {:.2} ms, agreement {:.4}",
            p.target, p.precision, p.fp32_layers, p.ms, p.agreement
        );
        out += &mark(form(&p.target), [x, y], colour(p.precision), if p.fits { 1.0 } else { 0.35 }, &title);
    }
    let schemes = [Precision::Fp32, Precision::Int8, Precision::Int8Fast];
    let names = schemes.iter().map(|precision| (0, colour(*precision), precision.name()));
    let forms = targets.iter().enumerate().map(|(i, target)| (i, "#555555", *target));
    for (i, (form, fill, name)) in names.chain(forms.filter(|_| targets.len() > 1)).enumerate() {
        let y = MARGIN + 20.0 + 20.0 * i as f64;
        out += &mark(form, [MARGIN + 20.0, y], fill, 1.0, name);
        out += &format!("<text x=\"{}\" y=\"{}\">{name}</text>\n", MARGIN + 32.0, y + 4.0);
    }
    out += "</svg>\n";
    out
}

/// A circle for the first target, a square for the second, a diamond for any other.
fn mark(form: usize, [x, y]: [f64; 2], fill: &str, opacity: f64, title: &str) -> String {
    let shape = match form {
        0 => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\""),
        n => {
            let turn = if n == 1 { String::new() } else { format!(" transform=\"rotate(45 {x:.1} {y:.1})\"") };
            format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\"{turn}", x - 4.5, y - 4.5)
        }
    };
    let element = if form == 0 { "circle" } else { "rect" };
    format!("{shape} fill=\"{fill}\" fill-opacity=\"{opacity}\"><title>{title}</title></{element}>\n")
}

fn colour(precision: Precision) -> &'static str {
    match precision {
        Precision::Int8 => "#0072b2",
        Precision::Int8Fast => "#d55e00",
        _ => "#555555",
    }
}
