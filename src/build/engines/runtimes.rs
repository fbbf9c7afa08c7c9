//! Bundled runtimes: the native libraries in a bundle.

use crate::build::plan::BuildPlan;
use crate::bundle::runtimes::{self, BundledRuntimes, RuntimePlan};
use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::output::{self, Stage};
use crate::runtime::{Runtime, library};

/// Takes the libraries of the recipe's platforms into the stage. Done before all else: missing libraries are reported
/// at once.
pub(in crate::build) fn bundle_runtimes(
    plan: &BuildPlan,
    stage: &Stage,
    observer: &dyn Observer,
) -> Result<BundledRuntimes> {
    let recipe = &plan.request.recipe;
    if recipe.runtimes.is_empty() {
        return Ok(BundledRuntimes::default());
    }
    if plan.model_file.is_some() {
        return Err(Error::bad_input("a model has no bundled runtimes").hint("give a folder with -o"));
    }
    let opened_by: Vec<Runtime> = plan.engines.iter().map(|engine| engine.runtime).collect();
    let packages = RuntimePlan::new(&opened_by, &recipe.runtimes);
    let folder = recipe.wheels.clone().map_or_else(library::wheels, Ok)?;
    let (all, notes) = runtimes::find(&packages.packages, &folder)?;
    output::check_disjoint(&plan.request.output, all.iter().map(|found| found.wheel.as_path()))?;
    let mut bundled = BundledRuntimes { libraries: Vec::new(), notes: [packages.notes, notes].concat() };
    for found in all {
        let name = format!("{} for {}", found.package.requirement(), found.package.platform);
        observer.begin(&name, None);
        let entry = runtimes::take(&found, stage.dir())?;
        observer.done(&format!("{name}: {} files of {}", entry.files.len() + entry.notices.len(), entry.wheel.path));
        bundled.libraries.push(entry);
    }
    bundled.notes.iter().for_each(|note| observer.warn(note));
    Ok(bundled)
}
