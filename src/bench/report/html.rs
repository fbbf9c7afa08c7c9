//! The report as one page that needs nothing else: tables and plots.

use super::plot;
use super::tables::{Table, by_point, failures, how, others};
use crate::bench::Report;
use crate::svg::escape;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}\
h2{font-size:1.15em;margin-top:2.5em}.wide{overflow-x:auto}\
table{border-collapse:collapse;margin:.5em 0;font-size:14px;font-variant-numeric:tabular-nums}\
th,td{padding:.3em .6em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
th{white-space:normal;vertical-align:bottom;font-weight:600}th.name,td.name{text-align:left}\
td.name{white-space:normal;overflow-wrap:anywhere;min-width:10em}.warn{color:#a33;font-weight:600}\
.plots{display:flex;flex-wrap:wrap}svg{max-width:100%;height:auto}\
.legend{margin:1em 0 0}.legend span{margin-right:1.5em;overflow-wrap:anywhere}\
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em}";

/// The results as a page.
pub fn html(report: &Report) -> String {
    let mut about = vec![report.machine.line()];
    about.extend(how(report));
    let about: Vec<String> = about.iter().map(|line| escape(line)).collect();
    let mut body = format!("<h1>Engines side by side</h1>\n<p>{}</p>\n", about.join("<br>"));
    body.extend(report.warnings().iter().map(|warning| warn(warning)));
    for (table, rows) in by_point(report) {
        body += &section(&table);
        body += &plot::plots(report, &rows);
    }
    body.extend(others(report).map(|table| section(&table)));
    body.extend(failures(report).map(|failure| warn(&failure)));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Engines side by side</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n<body>\n{body}\
         <p>kilnc {}</p>\n</body>\n</html>\n",
        escape(&report.kilnc)
    )
}

fn warn(text: &str) -> String {
    format!("<p class=\"warn\">{}</p>\n", escape(text))
}

fn section(table: &Table) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        let cell = |(i, cell): (usize, &str)| {
            let class = if i == 0 { " class=\"name\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escape(cell))
        };
        format!("<tr>{}</tr>\n", cells.enumerate().map(cell).collect::<String>())
    };
    let head = cells("th", &mut table.header.iter().copied());
    let rows: String = table.rows.iter().map(|row| cells("td", &mut row.iter().map(String::as_str))).collect();
    format!("<h2>{}</h2>\n<div class=\"wide\"><table>\n{head}{rows}</table></div>\n", escape(&table.name))
}
