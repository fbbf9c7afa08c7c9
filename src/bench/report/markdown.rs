//! The report as Markdown.

use super::{COST_COLUMNS, POINT_COLUMNS, SERVER_COLUMNS, by_point, cost_cells, how, point_cells, served};
use crate::bench::Report;

/// The results as tables that a page or a review shows.
pub fn markdown(report: &Report) -> String {
    let mut out = format!("# Engines side by side\n\n{}; {}.\n", report.machine.line(), how(report));
    if let Some(noise) = report.noise() {
        out += &format!("\n**{noise}.**\n");
    }
    for (point, rows) in by_point(report) {
        out += &format!("\n## {point}\n\n");
        out += &rows_of(&POINT_COLUMNS, rows.iter().map(|(engine, point)| point_cells(engine, point)));
    }
    if let Some((name, rows)) = served(report) {
        out += &format!("\n## {name}\n\n{}", rows_of(&SERVER_COLUMNS, rows.into_iter()));
    }
    let measured = report.engines.iter().filter(|engine| !engine.points.is_empty());
    out += &format!("\n## What they cost\n\n{}", rows_of(&COST_COLUMNS, measured.map(cost_cells)));
    for engine in &report.engines {
        out += &engine.failed.as_ref().map(|why| format!("\n{} failed: {why}\n", engine.name)).unwrap_or_default();
    }
    out
}

fn rows_of(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let rule: Vec<String> = header.iter().map(|_| "---".to_owned()).collect();
    let rows: String =
        rows.map(|row| line(&row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>())).collect();
    line(&header) + &line(&rule) + &rows
}
