//! The table for the eye.

use super::{COST_COLUMNS, POINT_COLUMNS, SERVER_COLUMNS, by_point, cost_cells, how, point_cells, served};
use crate::bench::Report;

/// The results as tables: one for each batch and length, one of what engines cost.
pub fn table(report: &Report) -> String {
    let mut out = format!("{}\n{}\n", report.machine.line(), how(report));
    for (point, rows) in by_point(report) {
        let rows = rows.iter().map(|(engine, point)| point_cells(engine, point)).collect();
        out += &format!("\n{point}\n{}", aligned(&POINT_COLUMNS, rows));
    }
    if let Some((name, rows)) = served(report) {
        out += &format!("\n{name}\n{}", aligned(&SERVER_COLUMNS, rows));
    }
    let measured = report.engines.iter().filter(|engine| !engine.points.is_empty());
    out += &format!("\n{}", aligned(&COST_COLUMNS, measured.map(cost_cells).collect()));
    for engine in &report.engines {
        out += &engine.failed.as_ref().map(|why| format!("{} failed: {why}\n", engine.name)).unwrap_or_default();
    }
    out
}

fn aligned(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut all = vec![header.iter().map(|cell| (*cell).to_owned()).collect()];
    all.extend(rows);
    let width = |i: usize| all.iter().filter_map(|row: &Vec<String>| row.get(i)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).map(|i| width(i).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &all {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> =
            cells.map(|(i, (cell, w))| if i == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") }).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}
