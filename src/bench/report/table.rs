//! The tables for the eye.

use super::tables::{Table, by_point, failures, how, others};
use crate::bench::Report;

/// The results as tables: one for each point, and those of the whole.
pub fn table(report: &Report) -> String {
    let mut out = format!("{}\n{}\n", report.machine.line(), how(report).join("\n"));
    out.extend(report.published.iter().filter_map(|published| Some(format!("\n{}\n", published.foreign.as_ref()?))));
    out.extend(by_point(report).into_iter().map(|(table, _)| aligned(&table)));
    out.extend(others(report).map(|table| aligned(&table)));
    out.extend(failures(report).map(|failure| failure + "\n"));
    out
}

fn aligned(table: &Table) -> String {
    let mut all: Vec<Vec<String>> = vec![table.header.iter().map(|cell| (*cell).to_owned()).collect()];
    all.extend(table.rows.iter().cloned());
    let width = |i: usize| all.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..table.header.len()).map(|i| width(i).unwrap_or(0)).collect();
    let mut out = format!("\n{}\n", table.name);
    for row in &all {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> =
            cells.map(|(i, (cell, w))| if i == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") }).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}
