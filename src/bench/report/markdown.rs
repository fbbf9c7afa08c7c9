//! The report as Markdown.

use super::tables::{Table, by_point, failures, how, others};
use crate::bench::Report;

/// The results as tables that a page or a review shows.
pub fn markdown(report: &Report) -> String {
    let mut out = format!("# Engines side by side\n\n{}; {}.\n", report.machine.line(), how(report).join("; "));
    out.extend(report.warnings().into_iter().map(|warning| format!("\n**{warning}.**\n")));
    out.extend(by_point(report).into_iter().map(|(table, _)| section(&table)));
    out.extend(others(report).map(|table| section(&table)));
    out.extend(failures(report).map(|failure| format!("\n{failure}\n")));
    out
}

fn section(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let header: Vec<String> = table.header.iter().map(|cell| (*cell).to_owned()).collect();
    let rule: Vec<String> = header.iter().map(|_| "---".to_owned()).collect();
    let cells = |row: &Vec<String>| line(&row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>());
    let rows: String = table.rows.iter().map(cells).collect();
    format!("\n## {}\n\n{}{}{rows}", table.name, line(&header), line(&rule))
}
