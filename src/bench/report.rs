//! The table for the eye.

use super::Measured;

/// The results as a table: one line for each engine, the first one is what speed is measured against.
pub fn table(measured: &[Measured]) -> String {
    let header = [
        "engine",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "texts/s",
        "speed",
        "(rounds)",
        "same answer",
        "load ms",
        "memory MB",
        "file MB",
    ];
    let mut rows: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
    rows.extend(measured.iter().map(|m| match &m.failed {
        Some(why) => vec![m.name.clone(), format!("failed: {why}")],
        None => cells(m),
    }));
    let columns = header.len();
    let width = |i: usize| {
        rows.iter()
            .filter(|row| row.len() == columns)
            .filter_map(|row| row.get(i))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> =
            cells.map(|(i, (cell, w))| if i == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") }).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn cells(m: &Measured) -> Vec<String> {
    let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
    let [speed, slowest, fastest] = m.speedup;
    vec![
        m.name.clone(),
        format!("{:.2}", m.p50_ms),
        format!("{:.2}", m.p90_ms),
        format!("{:.2}", m.p99_ms),
        format!("{:.1}", m.texts_per_second),
        format!("{speed:.2}x"),
        format!("{slowest:.2}–{fastest:.2}"),
        m.parity.as_ref().and_then(|p| p.agreement).map_or_else(|| "?".to_owned(), |share| format!("{share:.3}")),
        format!("{:.0}", m.load_ms),
        megabytes(m.peak_bytes),
        megabytes(m.file_bytes),
    ]
}
