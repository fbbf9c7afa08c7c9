//! The report of a cut: lines, a page and a plot.

use std::path::Path;

use serde::Serialize;

use kilnc::bench;
use kilnc::bundle::{FileEntry, GateEntry, ZerosEntry};
use kilnc::error::{Error, Result};
use kilnc::eval::{self, short};
use kilnc::output::{Stage, write_json};
use kilnc::precision::Precision;
use kilnc::prune::{BlockEntry, Report};
use kilnc::tune::CutPoint;
use kilnc::vocabulary::CutReport;

/// The version of the form of [`JSON`].
pub const SCHEMA: &str = "kilnc.prune/1";

/// The file for programs.
pub const JSON: &str = "prune.json";

/// The engine and its comparison.
#[derive(Serialize)]
pub struct Pruned {
    pub schema: &'static str,
    pub target: String,
    pub scheme: Precision,
    pub pruning: Option<Report>,
    pub vocabulary: Option<CutReport>,
    pub files: Vec<FileEntry>,
    pub bytes: u64,
    /// Of the same engine of the trained model.
    pub trained_bytes: Option<u64>,
    /// Batch and length for which time was measured.
    pub shape: [usize; 2],
    /// How many times as fast as the same engine of the trained model, with its interval.
    pub speed: Option<bench::Ratio>,
    /// Against the trained model in FP32.
    pub gates: Vec<GateEntry>,
    /// The measurements of the search.
    pub searched: Vec<CutPoint>,
    /// The zeros in the file that was written, where they make a pattern.
    pub zeros: Option<ZerosEntry>,
}

/// Loss of accuracy, or the share of changed predictions where texts have no labels.
pub fn lost(gate: &GateEntry) -> Option<f64> {
    let agreements = gate.checks.iter().filter(|check| check.measure == "agreement");
    eval::lost(gate.accuracy, agreements.map(|check| check.found))
}

/// Whether a file of that name is of a report.
pub fn is_own(name: &str) -> bool {
    [JSON, "prune.md", "prune.svg"].contains(&name)
}

/// Writes the report into a folder.
pub fn write(stage: &Stage, pruned: &Pruned) -> Result<()> {
    write_json(&stage.path(JSON), pruned)?;
    for (name, text) in [("prune.md", markdown(pruned)), ("prune.svg", plot(pruned))] {
        let path = stage.path(name);
        std::fs::write(&path, text).map_err(|e| Error::io("writing", &path, &e))?;
    }
    Ok(())
}

/// The summary, line by line.
fn facts(pruned: &Pruned) -> Vec<String> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let before = pruned.trained_bytes.map(|bytes| format!(" of {:.1}", megabytes(bytes))).unwrap_or_default();
    let mut lines = vec![format!("engine: {:.1}{before} MB", megabytes(pruned.bytes))];
    if let Some(report) = &pruned.pruning {
        let millions = |n: usize| n as f64 / 1e6;
        let (after, before) = (millions(report.parameters_after), millions(report.parameters_before));
        lines.push(format!("parameters: {after:.1} of {before:.1} M"));
        if !report.dropped_layers.is_empty() {
            lines.push(format!("layers that went: {:?}", report.dropped_layers));
        }
        if let Some(share) = mean(report.sparse.iter().map(|layer| layer.zeros)) {
            lines.push(format!("zeros: {:.1} % of the weights of {} layers", share * 100.0, report.sparse.len()));
        }
        lines.extend(report.left.iter().map(|left| format!("left: {left}")));
    }
    if let Some(zeros) = &pruned.zeros {
        let (pattern, holding) = (&zeros.pattern, zeros.holding);
        lines.push(format!("{pattern} in the file that was written: {holding} of {} matrices", zeros.matrices));
    }
    if let Some(cut) = &pruned.vocabulary {
        lines.push(format!(
            "vocabulary: {} of {} rows, {:.1} of {:.1} MB; {} texts keep their tokens",
            cut.rows,
            cut.rows_before,
            cut.bytes as f64 / 1e6,
            cut.bytes_before as f64 / 1e6,
            cut.texts
        ));
    }
    if let Some(speed) = pruned.speed {
        let [batch, length] = pruned.shape;
        lines.push(format!(
            "speed at {batch}x{length}: {:.2} × the trained model's engine ({:.2} … {:.2})",
            speed.mean, speed.low, speed.high
        ));
    }
    for gate in &pruned.gates {
        let checks: Vec<_> = gate.checks.iter().map(ToString::to_string).collect();
        lines.push(format!("against {} on {} texts of {}: {}", gate.against, gate.rows, gate.on, checks.join(", ")));
        if let Some(accuracy) = gate.accuracy {
            lines.push(format!("accuracy: {} → {}", short(accuracy.reference), short(accuracy.found)));
        }
    }
    lines
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

fn blocks(pruned: &Pruned) -> &[BlockEntry] {
    pruned.pruning.as_ref().map_or(&[], |report| report.blocks.as_slice())
}

/// The result on the screen.
pub fn text(pruned: &Pruned, output: &Path, seconds: f64) -> String {
    let mut out = format!("{}: {} for {}, in {seconds:.1} s\n", output.display(), pruned.scheme, pruned.target);
    if !blocks(pruned).is_empty() {
        out += &format!("  {:<14} {:>12} {:>10}\n", "block", "stay", "sensitivity");
    }
    for block in blocks(pruned) {
        let sensitivity = block.sensitivity.map(|sensitivity| format!("{sensitivity:.5}")).unwrap_or_default();
        out += format!("  {:<14} {:>12} {sensitivity:>10}", block.name, format!("{} of {}", block.after, block.before))
            .trim_end();
        out.push('\n');
    }
    for point in &pruned.searched {
        out += &format!(
            "tried without {:.0} % of the products: {:.2} × as fast, {:.4} lost\n",
            point.products * 100.0,
            point.speed,
            point.drop
        );
    }
    for line in facts(pruned) {
        out += &format!("{line}\n");
    }
    out
}

/// The report as Markdown.
fn markdown(pruned: &Pruned) -> String {
    let mut out = format!("# Cut\n\n{} for {}\n\n", pruned.scheme, pruned.target);
    facts(pruned).iter().for_each(|line| out += &format!("- {line}\n"));
    if !blocks(pruned).is_empty() {
        out += "\n| block | before | after | sensitivity |\n|---|---|---|---|\n";
    }
    for block in blocks(pruned) {
        let sensitivity = block.sensitivity.map(|sensitivity| format!("{sensitivity:.5}")).unwrap_or_default();
        out += &format!("| {} | {} | {} | {sensitivity} |\n", block.name, block.before, block.after);
    }
    let sparse = pruned.pruning.as_ref().map_or(&[][..], |report| report.sparse.as_slice());
    if !sparse.is_empty() {
        out += "\n| layer | zeros |\n|---|---|\n";
        sparse.iter().for_each(|layer| out += &format!("| {} | {:.1} % |\n", layer.name, layer.zeros * 100.0));
    }
    if !pruned.searched.is_empty() {
        out += "\n| products gone | speed | lost |\n|---|---|---|\n";
    }
    for point in &pruned.searched {
        out += &format!("| {:.0} % | {:.2} × | {:.4} |\n", point.products * 100.0, point.speed, point.drop);
    }
    out
}

const BAR: f64 = 22.0;
const LEFT: f64 = 120.0;
const WIDE: f64 = 480.0;

/// The rest of every block, or the share of weights that are not 0 of every layer, as bars.
fn plot(pruned: &Pruned) -> String {
    let mut bars: Vec<(String, f64, String)> = blocks(pruned)
        .iter()
        .map(|b| (b.name.clone(), b.after as f64 / b.before.max(1) as f64, format!("{} of {}", b.after, b.before)))
        .collect();
    if let Some(report) = &pruned.pruning {
        let kept = |zeros: f64| format!("{:.1} %", (1.0 - zeros) * 100.0);
        bars.extend(report.sparse.iter().map(|l| (l.name.clone(), 1.0 - l.zeros, kept(l.zeros))));
    }
    if let Some(cut) = &pruned.vocabulary {
        let share = cut.rows as f64 / cut.rows_before.max(1) as f64;
        bars.push(("vocabulary".to_owned(), share, format!("{} of {}", cut.rows, cut.rows_before)));
    }
    let height = 56.0 + BAR * bars.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"720\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"14\">What stays</text>\n"
    );
    for (i, (name, share, label)) in bars.iter().enumerate() {
        let y = 40.0 + BAR * i as f64;
        let fill = if name.starts_with("ffn") { "#c8642b" } else { "#33658a" };
        out += &format!(
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{WIDE}\" height=\"16\" fill=\"#eee\"/>\
             <rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"16\" fill=\"{fill}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\">{label}</text>\n",
            LEFT - 8.0,
            y + 12.0,
            share * WIDE,
            LEFT + WIDE + 8.0,
            y + 12.0
        );
    }
    out + "</svg>\n"
}
