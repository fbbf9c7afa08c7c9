//! What came of the search, for the eye: a table and a plot.

use super::{Point, Tuned};
use crate::precision::Precision;

/// The report as Markdown.
pub fn markdown(tuned: &Tuned) -> String {
    let [batch, length] = tuned.shape;
    let what = if tuned.labelled { "accuracy lost" } else { "other answers" };
    let mut out = format!(
        "# Precision by layer\n\n{} texts, {}, batch {batch} × {length} tokens; at most {} {what}.\n\n\
         | engine | layers in FP32 | ms | speed | same answer | {what} | change of outputs | |\n|---|---|---|---|---|---|---|---|\n",
        tuned.texts, tuned.target, tuned.max_drop
    );
    let full = tuned.points.iter().find(|p| p.precision == Precision::Fp32).map_or(1.0, |p| p.ms);
    for (i, p) in tuned.points.iter().enumerate() {
        let kept = if p.precision == Precision::Fp32 { "all".to_owned() } else { p.kept.to_string() };
        let mark = if i == tuned.chosen {
            "**chosen**"
        } else if p.fits {
            ""
        } else {
            "loses too much"
        };
        out += &format!(
            "| {} | {kept} | {:.2} | {:.2} × | {:.4} | {:.4} | {:.4} | {mark} |\n",
            p.precision,
            p.ms,
            full / p.ms,
            p.agreement,
            p.drop,
            p.rms
        );
    }
    out += "\n| layer | harm in 8 bits | ms in FP32 | ms in INT8 | chosen | why |\n|---|---|---|---|---|---|\n";
    for layer in &tuned.layers {
        out += &format!(
            "| {} | {:.4} | {:.3} | {:.3} | {} | {} |\n",
            layer.name, layer.harm, layer.ms_full, layer.ms_int8, layer.chosen, layer.why
        );
    }
    out
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const MARGIN: f64 = 64.0;

/// Speed against the change of the outputs, as an SVG.
pub fn plot(tuned: &Tuned) -> String {
    let full = tuned.points.iter().find(|p| p.precision == Precision::Fp32).map_or(1.0, |p| p.ms);
    let speeds: Vec<f64> = tuned.points.iter().map(|p| full / p.ms).collect();
    let fastest = speeds.iter().copied().fold(1.0, f64::max) * 1.05;
    let slowest = speeds.iter().copied().fold(1.0, f64::min) * 0.95;
    let largest = tuned.points.iter().map(|p| p.rms).fold(1e-9, f64::max) * 1.1;
    let x = |speed: f64| MARGIN + (speed - slowest) / (fastest - slowest) * (WIDTH - 2.0 * MARGIN);
    let y = |rms: f64| HEIGHT - MARGIN - rms / largest * (HEIGHT - 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"30\" font-size=\"16\">Speed against what it costs ({}, {} texts)</text>\n",
        tuned.target, tuned.texts
    );
    for i in 0..=4 {
        let (speed, rms) = (slowest + (fastest - slowest) * f64::from(i) / 4.0, largest * f64::from(i) / 4.0);
        out += &format!(
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{MARGIN}\" y2=\"{1}\" stroke=\"#ddd\"/>\
             <text x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\">{speed:.2} ×</text>\n",
            x(speed),
            HEIGHT - MARGIN,
            HEIGHT - MARGIN + 20.0
        );
        out += &format!(
            "<line x1=\"{MARGIN}\" x2=\"{1}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{rms:.3}</text>\n",
            y(rms),
            WIDTH - MARGIN,
            MARGIN - 8.0,
            y(rms) + 4.0
        );
    }
    out += &format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">speed, FP32 = 1</text>\n\
         <text x=\"16\" y=\"{1}\" transform=\"rotate(-90 16 {2})\" text-anchor=\"middle\">change of outputs (rms)</text>\n",
        WIDTH / 2.0,
        HEIGHT - 16.0,
        HEIGHT / 2.0
    )
    .replace(&format!("y=\"{}\" transform", HEIGHT - 16.0), &format!("y=\"{}\" transform", HEIGHT / 2.0));
    for (i, (p, speed)) in tuned.points.iter().zip(&speeds).enumerate() {
        let (cx, cy) = (x(*speed), y(p.rms));
        if i == tuned.chosen {
            out += &format!("<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"10\" fill=\"none\" stroke=\"black\"/>\n");
        }
        out += &format!(
            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"5\" fill=\"{}\" fill-opacity=\"{}\"><title>{}</title></circle>\n",
            colour(p),
            if p.fits { 1.0 } else { 0.35 },
            format_args!("{}, {} layers in FP32: {:.2} ms, same answer {:.4}", p.precision, p.kept, p.ms, p.agreement)
        );
    }
    for (i, (name, fill)) in [("fp32", "#555555"), ("int8", "#0072b2"), ("int8-fast", "#d55e00")].iter().enumerate() {
        let at = 60.0 + 20.0 * i as f64;
        out += &format!(
            "<circle cx=\"{}\" cy=\"{at}\" r=\"5\" fill=\"{fill}\"/><text x=\"{}\" y=\"{}\">{name}</text>\n",
            MARGIN + 20.0,
            MARGIN + 32.0,
            at + 4.0
        );
    }
    out += "</svg>\n";
    out
}

fn colour(point: &Point) -> &'static str {
    match point.precision {
        Precision::Int8 => "#0072b2",
        Precision::Int8Fast => "#d55e00",
        _ => "#555555",
    }
}
