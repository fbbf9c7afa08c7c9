//! Builds and times candidates.

use std::path::{Path, PathBuf};

use super::super::{Screen, tune};
use super::args::PruneArgs;
use super::report;
use kilnc::bench::{self, Candidate, TokenBatch, Workload};
use kilnc::build::{self, BuildRequest, Observer, Source};
use kilnc::bundle::{self, Manifest};
use kilnc::calibrate;
use kilnc::error::{Error, Result};
use kilnc::eval::Gate;
use kilnc::output::{self, Stage};
use kilnc::presence;
use kilnc::prune::Spec;
use kilnc::recipe::{EngineSpec, Recipe};
use kilnc::runtime::{self, Runtime};
use kilnc::tune::CutPoint;

/// The sources of candidates, and their folder.
pub struct Work<'a> {
    args: &'a PruneArgs,
    pub source: Source,
    recipe: Recipe,
    /// Batch and length for which time counts.
    pub shape: [usize; 2],
    /// The stage of the output, until the report is made too.
    pub place: Stage,
    /// A folder beside the output for engines that are only measured.
    scratch: Stage,
}

/// The outputs that may be replaced: those of kilnc.
fn replaceable(output: &Path) -> fn(&Path) -> Result<bool> {
    match output.extension().is_some_and(|extension| extension == "onnx") {
        true => presence::is_file,
        false => bundle::is_replaceable,
    }
}

impl<'a> Work<'a> {
    pub fn new(args: &'a PruneArgs, source: Source, calibration: calibrate::Spec) -> Result<Work<'a>> {
        let recipe = Recipe {
            calibration,
            texts: args.texts.texts.clone(),
            labels: args.texts.labels.clone(),
            max_length: args.texts.max_length,
            bounds_accuracy: args.max_drop.is_some(),
            ..Recipe::default()
        };
        let vocabulary = args.cut.vocab.as_deref();
        output::check_disjoint(&args.output, source.inputs().chain(recipe.inputs()).chain(vocabulary))?;
        let place = Stage::new(&args.output, replaceable(&args.output))?;
        let mut beside = args.output.clone().into_os_string();
        beside.push(".measured");
        let scratch = Stage::new(Path::new(&beside), |_| Ok(false))?;
        let longest = build::max_length(&recipe, &build::load(&source)?)?;
        let shape = tune::timed_at(args.shape, longest)?;
        Ok(Work { args, source, recipe, shape, place, scratch })
    }

    pub fn build(&self, spec: Option<&Spec>, gate: Gate, output: &Path, observer: &dyn Observer) -> Result<Manifest> {
        let reduce_range = self.args.calibration.reduce_range;
        let engine = EngineSpec { gate, reduce_range, ..EngineSpec::new(self.args.target.clone(), self.args.scheme) };
        let recipe = Recipe { prune: spec.cloned(), engines: vec![engine], ..self.recipe.clone() };
        let cache = self.args.cache.folder();
        let request =
            BuildRequest { source: self.source.clone(), recipe, output: output.to_owned(), strict: true, cache };
        build::build(&request, observer)
    }

    /// The engine of the trained model in the same format, made once; none, where it cannot be timed here.
    fn trained(&self, observer: &dyn Observer) -> Result<Option<PathBuf>> {
        let runtime = Runtime::of(&self.args.target);
        if self.args.rounds == 0 || runtime.runs_plans() || !runtime::is_available(runtime)? {
            return Ok(None);
        }
        let path = self.scratch.path("trained.onnx");
        if !presence::is_file(&path)? {
            self.build(None, Gate::default(), &path, observer)?;
        }
        Ok(Some(path))
    }

    pub fn point(&self, spec: &Spec, screen: &Screen) -> Result<CutPoint> {
        let path = self.scratch.path("candidate.onnx");
        let manifest = self.build(Some(spec), Gate::default(), &path, screen)?;
        let trained = self.trained(screen)?.ok_or_else(|| {
            Error::bad_input(format!("engines for {} cannot be timed here", self.args.target))
                .hint("say how much goes, with --heads and --ffn or --products")
        })?;
        let speed = self.faster(&trained, &path, screen)?.map_or(f64::NAN, |ratio| ratio.mean);
        let engine = manifest.engines.first().ok_or_else(|| Error::bug("one engine was requested"))?;
        let drop = engine.gates.iter().find_map(report::lost).ok_or_else(|| {
            Error::unsupported("the cut is chosen by the predictions it changes, and this model predicts numbers")
        })?;
        Ok(CutPoint { products: spec.products, speed, drop })
    }

    /// The speed of the result relative to the trained model's engine.
    pub fn speed(&self, manifest: &Manifest, output: &Path, screen: &Screen) -> Result<Option<bench::Ratio>> {
        let Some(trained) = self.trained(screen)? else { return Ok(None) };
        let engine = manifest.engines.first().ok_or_else(|| Error::bug("one engine was requested"))?;
        let made = if presence::is_file(output)? { output.to_owned() } else { output.join(&engine.model()?.file) };
        self.faster(&trained, &made, screen)
    }

    fn faster(&self, trained: &Path, made: &Path, screen: &Screen) -> Result<Option<bench::Ratio>> {
        let runtime = Runtime::of(&self.args.target);
        let candidates = [Candidate::new("trained", trained, runtime), Candidate::new("pruned", made, runtime)];
        let [rows, length] = self.shape;
        let rounds = self.args.rounds as usize;
        screen.begin("timing", Some(rounds as u64 * 2));
        let batch = Workload::full(TokenBatch::of_any_vocabulary(rows, length));
        let measured = bench::time(&candidates, &[batch], (rounds, 0.5), screen)?;
        if let Some((name, why)) = measured.engines.iter().find_map(|e| Some((&e.name, e.failed.as_ref()?))) {
            screen.warn(&format!("the {name} engine was not timed: {why}"));
            return Ok(None);
        }
        let ratio = measured.engines.last().and_then(|engine| engine.points.first()?.speed);
        screen.done(&format!("timed in {rounds} rounds"));
        Ok(ratio)
    }

    pub fn trained_bytes(&self) -> Option<u64> {
        let path = self.scratch.path("trained.onnx");
        let size = |path: &Path| std::fs::metadata(path).ok().map(|file| file.len());
        Some(size(&path)? + size(&path.with_extension("onnx_data")).unwrap_or(0))
    }
}
