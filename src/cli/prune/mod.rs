//! `kilnc prune`: a smaller model, its agreement and its speed.

mod args;
mod report;
mod work;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::Screen;
use kilnc::bench;
use kilnc::build;
use kilnc::bundle::{FileEntry, Manifest};
use kilnc::calibrate;
use kilnc::error::Result;
use kilnc::json::file_name;
use kilnc::output::{self, Stage};
use kilnc::presence;
use kilnc::prune::Spec;
use kilnc::tune::{Aim, CutPoint, search};

pub use args::PruneArgs;
use report::Pruned;
use work::Work;

/// The result, its path, and the time.
#[derive(Serialize)]
struct Done {
    output: PathBuf,
    seconds: f64,
    #[serde(flatten)]
    pruned: Pruned,
}

pub fn run(args: PruneArgs, screen: &Screen) -> Result<()> {
    let start = Instant::now();
    let mut spec = args.cut.spec();
    spec.check_shares()?;
    let calibration = args.calibration.over(calibrate::Spec::default(), args.source.seed);
    let source = args.source.source_beside(None, &calibration)?;
    let work = Work::new(&args, source, calibration)?;
    let stage = args
        .report
        .as_ref()
        .map(|dir| Stage::new(dir, |dir| output::holds_only(dir, report::JSON, report::is_own)))
        .transpose()?;
    let aim = Aim { speed: args.speedup, drop: args.max_drop };
    let searches = args.speedup.is_some() || (args.max_drop.is_some() && !spec.needs_texts());
    let mut searched = Vec::new();
    screen.note(format!("pruning {}", work.source.checkpoint.display()));
    if searches {
        searched = search(aim, |products| {
            screen.note(format!("trying without {:.0} % of the products", products * 100.0));
            work.point(&Spec { products, ..spec.clone() }, screen)
        })?;
        spec.products = searched.last().map_or(0.0, |point| point.products);
    }
    let mut gate = args.gate.unwrap_or_default();
    gate.accuracy_drop = [gate.accuracy_drop, args.max_drop].into_iter().flatten().reduce(f64::min);
    // The output is not renamed before its report is on the disk, too.
    let name = file_name(&args.output);
    let made = work.place.path(&name);
    let manifest = work.build(Some(&spec), gate, &made, screen)?;
    let speed = work.speed(&manifest, &made, screen)?;
    let pruned = pruned(manifest, &args, &work, speed, searched);
    if let Some(stage) = stage {
        report::write(&stage, &pruned)?;
        work.place.sync()?;
        stage.commit_dir()?;
    }
    let Work { place, .. } = work;
    match presence::is_dir(&made)? {
        true => place.commit_folder(&name)?,
        false => place.commit_files(&build::model_files(&pruned.files, &name))?,
    }
    let done = Done { output: args.output, seconds: start.elapsed().as_secs_f64(), pruned };
    screen.result(&done, |done| report::text(&done.pruned, &done.output, done.seconds))
}

fn pruned(
    manifest: Manifest,
    args: &PruneArgs,
    work: &Work,
    speed: Option<bench::Ratio>,
    searched: Vec<CutPoint>,
) -> Pruned {
    let zeros = manifest.engines.iter().find_map(|engine| engine.zeros.clone());
    let engine = |file: &&FileEntry| file.path.contains(".onnx") || file.path.ends_with(".plan");
    Pruned {
        schema: report::SCHEMA,
        target: args.target.to_string(),
        scheme: args.scheme,
        bytes: manifest.files.iter().filter(engine).map(|file| file.bytes).sum(),
        pruning: manifest.pruning,
        vocabulary: manifest.vocabulary,
        files: manifest.files,
        trained_bytes: work.trained_bytes(),
        shape: work.shape,
        speed,
        gates: manifest.engines.into_iter().flat_map(|engine| engine.gates).collect(),
        searched,
        zeros,
    }
}
