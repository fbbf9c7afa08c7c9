//! A model that knows only the tokens of a corpus.

use crate::build::engines::hub_files;
use crate::build::pair_prompt;
use crate::error::{Error, Result};
use crate::front::hub::load::{Model, limits};
use crate::ir::{Graph, Op};
use crate::observer::Observer;
use crate::passes::{CutVocabulary, Manager};
use crate::runtime::TextInput;
use crate::task::Task;
use crate::verify::Verified;
use crate::vocabulary::{CutReport, CutTokenizer, Vocabulary};

/// A model's graph and its tokenizer after their vocabulary was cut. They belong together: neither fits the other
/// as it was.
pub struct CutModel {
    /// The graph, in composite operations.
    pub graph: Verified<Graph>,
    /// The tokenizer, and which tokens it has.
    pub cut: CutTokenizer,
    /// The report.
    pub report: CutReport,
}

/// Cuts the vocabulary of a model down to what a corpus uses, and the tokens `named`. The corpus is read twice: for its
/// tokens, and to check that every text still has them.
pub fn cut_vocabulary<T, C: Iterator<Item = Result<T>>>(
    model: &Model,
    corpus: impl Fn() -> Result<C>,
    named: &[&str],
    manager: &mut Manager,
    observer: &dyn Observer,
) -> Result<CutModel>
where
    for<'a> &'a T: Into<TextInput<'a>>,
{
    let rows =
        limits::rows(model.graph()).ok_or_else(|| Error::unsupported("the graph has no table of token embeddings"))?;
    let path = model.tokenizer.path();
    let location = |e: Error| e.at(path.display().to_string());
    let vocabulary = Vocabulary::parse(model.tokenizer.text()?.to_owned()).map_err(location)?;
    let vocabulary = vocabulary.with_prompt(model.prompt.as_ref().map(|prompt| prompt.text.as_str()));
    let vocabulary = vocabulary.with_pair_prompt(pair_prompt::of(model)?.as_ref());
    vocabulary.encoder().check_rows(rows).map_err(location)?;
    let counted = || Ok::<_, Error>(corpus()?.inspect(|_| observer.advance(1)));
    observer.begin("reading the corpus", None);
    let used = vocabulary.used(counted()?)?;
    let mut kept = named.to_vec();
    let mask = model
        .tokenizer
        .mask
        .as_deref()
        .filter(|mask| model.task == Task::FillMask && vocabulary.number(mask).is_some());
    kept.extend(mask);
    kept.extend(padding(model.graph()).and_then(|pad| vocabulary.token(pad)));
    if model.task == Task::TextGeneration {
        kept.extend(hub_files::generation_tokens(model)?.into_iter().filter_map(|id| vocabulary.token(id)));
    }
    let cut = vocabulary.cut(&used, &kept)?;
    observer.done(&format!("{} texts use {} of {} tokens", used.texts, used.counts.len(), cut.before));
    observer.begin_texts("checking their tokens", used.texts as u64);
    vocabulary.check(&cut, counted()?)?;
    let scores = model.task.is_over_vocabulary();
    let graph = manager.run(model.graph(), &CutVocabulary { kept: &cut.kept, scores })?;
    let report = CutReport {
        texts: used.texts,
        text_tokens: used.total,
        used: used.counts.len(),
        tokens_before: cut.before,
        tokens: cut.kept.len(),
        rows_before: rows,
        rows: cut.kept.len(),
        bytes_before: limits::table_bytes(model.graph()),
        bytes: limits::table_bytes(&graph),
    };
    observer.done(&format!(
        "{} of {rows} rows stay, {:.1} of {:.1} MB; every text has the tokens that it had",
        report.rows,
        report.bytes as f64 / 1e6,
        report.bytes_before as f64 / 1e6
    ));
    Ok(CutModel { graph, cut, report })
}

/// The number of padding, where positions skip it.
fn padding(graph: &Graph) -> Option<u32> {
    graph.nodes().find_map(|(_, node)| match node.op {
        Op::TokenPositions { pad, .. } => u32::try_from(pad).ok(),
        _ => None,
    })
}
