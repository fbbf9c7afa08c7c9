//! Cuts a model down before engines are made of it.

mod cut_vocabulary;
mod saved_graph;

use crate::build::calibration::Calibrator;
use crate::build::step_cache::{self, Step, StepCache};
use crate::calibrate::Kind;
use crate::error::{Error, Result};
use crate::eval;
use crate::front::hub::load::Model;
use crate::ir::Graph;
use crate::json::file_name;
use crate::observer::Observer;
use crate::output::Stage;
use crate::passes::Manager;
use crate::prune::{self, Report, Request, Spec};
use crate::recipe::Recipe;
use crate::runtime::Classes;
use crate::verify::Verified;
use crate::vocabulary::CutReport;
pub use cut_vocabulary::{CutModel, cut_vocabulary};

/// The folder of the stage for a graph that was pruned.
const PRUNED: &str = "pruned";

/// Fails where a recipe's pruning is impossible.
pub(in crate::build) fn check(recipe: &Recipe) -> Result<()> {
    let Some(spec) = &recipe.prune else { return Ok(()) };
    spec.check()?;
    let kind = recipe.calibration.file.as_deref().map(Kind::of);
    if spec.needs_texts() && recipe.calibration.file.is_none() {
        return Err(Error::bad_input("pruning is calibrated on texts of the task, and there are none")
            .hint("give some with --calibration FILE"));
    }
    if kind == Some(Kind::Saved) {
        return Err(Error::bad_input("pruning runs the model on texts, and there are only saved statistics of them")
            .hint("calibrate with texts, or with inputs that were tokenized elsewhere"));
    }
    if spec.vocabulary.is_some() && kind == Some(Kind::Inputs) {
        return Err(Error::bad_input("inputs that were tokenized elsewhere have the numbers of the whole vocabulary")
            .hint("calibrate with texts, or leave out prune.vocabulary"));
    }
    if recipe.golden.is_some() {
        return Err(Error::bad_input(
            "a pruned engine cannot give the outputs of the trained model, as `golden` demands",
        )
        .hint("leave out golden, and bound agreement or accuracy_drop with gate"));
    }
    Ok(())
}

/// Cuts the vocabulary, if the recipe says so: the model then has the cut tokenizer.
pub(in crate::build) fn vocabulary(
    model: &mut Model,
    recipe: &Recipe,
    observer: &dyn Observer,
) -> Result<Option<CutReport>> {
    let Some(path) = recipe.prune.as_ref().and_then(|spec| spec.vocabulary.as_ref()) else { return Ok(None) };
    let column = recipe.calibration.text_column.as_deref();
    // Labels of texts that no prediction is compared with are ignored.
    let classes = Classes::default();
    let corpus = || eval::examples(path, column, &classes);
    let cut = cut_vocabulary(model, corpus, &[], &mut Manager::default(), observer)
        .map_err(|e| e.at(format!("vocabulary of {}", file_name(path))))?;
    model.renumbered = Some(cut.cut.ids());
    model.tokenizer.json = Some(cut.cut.json);
    model.program = cut.graph.into();
    Ok(Some(cut.report))
}

/// Prunes the model's graph by `spec`, or takes the cached pruned graph; the trained one stays beside it,
/// as the reference.
pub(in crate::build) fn prune(
    model: &mut Model,
    spec: &Spec,
    calibrator: &Calibrator,
    step_cache: &StepCache,
    stage: &Stage,
    observer: &dyn Observer,
) -> Result<Option<Report>> {
    if !spec.needs_texts() {
        return Ok(None);
    }
    let inputs = calibrator.inputs().ok_or_else(|| Error::bad_input("pruning needs texts"))?;
    let request = Request { graph: model.graph(), spec, inputs, scratch: stage.dir(), observer };
    let (graph, report) = match step_cache.is_on() && model.graph().defaults().next().is_none() {
        true => prune_once(&request, step_cache, stage)?,
        false => prune::prune(&request)?,
    };
    model.trained = Some(std::mem::replace(&mut model.program, graph.into()));
    Ok(Some(report))
}

/// The pruned graph. It is read from the cache even if it was made just now, so that what
/// follows from it is the same in both cases.
fn prune_once(request: &Request, step_cache: &StepCache, stage: &Stage) -> Result<(Verified<Graph>, Report)> {
    let dir = stage.path(PRUNED);
    std::fs::create_dir_all(&dir).map_err(|e| Error::io("writing to", &dir, &e))?;
    let from = || {
        let spec = serde_json::to_value(request.spec).map_err(|e| Error::bug(format!("the cut: {e}")))?;
        Ok((
            request.graph.fingerprint()?,
            spec,
            step_cache::inputs_digest(request.inputs),
            step_cache::collected_with()?,
        ))
    };
    let step = Step { kind: "pruned", name: request.graph.name(), into: &dir };
    let (report, before) = step_cache.made(step, from, || {
        let (graph, report) = prune::prune(request)?;
        Ok((report, saved_graph::write(&graph, &dir)?))
    })?;
    if before {
        request.observer.done("pruned as it was before");
    }
    let graph = saved_graph::read(&dir)?;
    std::fs::remove_dir_all(&dir).map_err(|e| Error::io("removing", &dir, &e))?;
    Ok((graph, report))
}
