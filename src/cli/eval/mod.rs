//! `kilnc eval`: scores a bundle on labelled texts. What is measured is the task's own (`kilnc::task::scoring`).

mod args;

use super::Screen;
use kilnc::build::Observer;
use kilnc::bundle::Bundle;
use kilnc::error::{Error, Kind, Result};
use kilnc::task::{self, Agreement, EngineScore, ScoringRequest};

pub use args::EvalArgs;

pub fn run(args: EvalArgs, screen: &Screen) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    args.trust.check(&bundle, screen)?;
    args.check(bundle.manifest.task)?;
    let mut scoring = task::scoring(&ScoringRequest {
        bundle: &bundle,
        data: &args.data,
        settings: args.settings(),
        prompt: args.prompt_name.as_deref().map(|name| bundle.prompt_named(name)).transpose()?,
    })?;
    let mut scored = Vec::new();
    for name in engines(&bundle, &args.engine, screen)? {
        let (engine, _) = bundle.choose(Some(&name))?;
        scored.push(scoring.score(&bundle, engine, screen)?);
    }
    if scored.is_empty() {
        return Err(Error::runtime_missing("none of the bundle's engines can run here")
            .hint("kilnc doctor says what is missing"));
    }
    screen.result(&scored, |scored| table(scored))
}

/// The requested engines, or all that run here; those that do not are named. Fails where the machine does.
fn engines(bundle: &Bundle, asked: &[String], screen: &Screen) -> Result<Vec<String>> {
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    let mut names = Vec::new();
    for engine in &bundle.manifest.engines {
        match bundle.available(engine) {
            Ok(_) => names.push(engine.name.clone()),
            Err(e) if e.kind() == Kind::MachineFailed => return Err(e.at(format!("engine {}", engine.name))),
            Err(e) => screen.warn(&format!("{} is left out: {}", engine.name, e.message())),
        }
    }
    Ok(names)
}

/// The measures, one line for each engine.
fn table(scored: &[EngineScore]) -> String {
    let width = scored.iter().map(|s| s.engine.len()).max().unwrap_or(0);
    let mut out = String::new();
    for s in scored {
        let mut cells = s.measures.clone();
        cells.push(match s.agreement {
            Agreement { agreement: Some(share), .. } => ("agreement", format!("{share:.4}")),
            Agreement { max_abs, .. } => ("max_abs", format!("{max_abs:.1e}")),
        });
        cells.push(("texts/s", format!("{:.1}", s.texts_per_second)));
        if out.is_empty() {
            out += &line("engine", width, cells.iter().map(|(name, _)| (*name, *name)));
        }
        out += &line(&s.engine, width, cells.iter().map(|(name, cell)| (*name, cell.as_str())));
    }
    out
}

/// Cells below the names of their columns.
fn line<'a>(engine: &str, width: usize, cells: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let aligned = cells.map(|(name, cell)| format!("  {cell:>0$}", name.chars().count().max(7)));
    format!("{engine:width$}{}\n", aligned.collect::<String>())
}
