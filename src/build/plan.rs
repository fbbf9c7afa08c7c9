//! What a build makes, decided once: nothing is read or written for it.

use super::engines::computes_in_half;
use super::pruning;
use super::request::BuildRequest;
use crate::error::{Error, Result};
use crate::eval::Gate;
use crate::ir::weight::Int8Range;
use crate::json;
use crate::precision::Precision;
use crate::program::Component;
use crate::prune::Sparsity;
use crate::recipe::{BenchSpec, EngineSpec};
use crate::runtime::{Processor, Runtime};

/// The engines of a build and their files, and the machine that it runs on.
pub(super) struct BuildPlan<'a> {
    /// What was asked for.
    pub request: &'a BuildRequest,
    /// The name of the bundle.
    pub name: String,
    /// The name of the one model that is made, where the output is no bundle.
    pub model_file: Option<String>,
    /// The engines, in the order of the recipe.
    pub engines: Vec<EnginePlan>,
    /// The pattern that the zeros of weights have to keep.
    pub pattern: Option<Sparsity>,
    /// The processor here.
    pub processor: Processor,
}

/// An engine, its files in the stage, and how its outputs are checked here.
#[derive(Clone)]
pub(super) struct EnginePlan {
    /// The request.
    pub spec: EngineSpec,
    /// Its name, which no other engine has.
    pub name: String,
    /// What opens it where it is deployed.
    pub runtime: Runtime,
    /// Its ONNX file.
    pub onnx: String,
    /// The integers that weights of its 8-bit layers are rounded to.
    pub range: Int8Range,
    /// What runs it while it is compared.
    pub run_by: CheckedBy,
}

/// What runs an engine in gates. A plan needs its GPU, and a page its browser: their ONNX file runs the same operations
/// here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum CheckedBy {
    /// Its own runtime.
    Own(Runtime),
    /// ONNX Runtime, on the ONNX file that the plan is compiled from.
    PlansOnnx,
    /// ONNX Runtime, on the file that browsers open.
    BrowsersFile,
    /// The evaluator: ONNX Runtime computes half precision in 32 bits on a CPU, and a GPU rounds and overflows.
    Rounded,
    /// The evaluator: browsers add products of 8 bits exactly, and ONNX Runtime does not on this processor.
    Exact,
}

impl CheckedBy {
    fn of(spec: &EngineSpec, runtime: Runtime, processor: &Processor) -> CheckedBy {
        match runtime {
            _ if computes_in_half(&spec.target, spec.precision) => CheckedBy::Rounded,
            Runtime::Web if spec.precision.is_calibrated() && !processor.exact_8_bits() => CheckedBy::Exact,
            Runtime::Web => CheckedBy::BrowsersFile,
            plans if plans.runs_plans() => CheckedBy::PlansOnnx,
            own => CheckedBy::Own(own),
        }
    }

    /// The runtime; none for the evaluator.
    pub fn runtime(self) -> Option<Runtime> {
        match self {
            CheckedBy::Own(runtime) => Some(runtime),
            CheckedBy::PlansOnnx | CheckedBy::BrowsersFile => Some(Runtime::Ort),
            CheckedBy::Rounded | CheckedBy::Exact => None,
        }
    }
}

impl std::fmt::Display for CheckedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CheckedBy::Own(runtime) => write!(f, "{runtime}"),
            CheckedBy::PlansOnnx => write!(f, "the plan's ONNX on {}", Runtime::Ort),
            CheckedBy::BrowsersFile => write!(f, "the same file on {}", Runtime::Ort),
            CheckedBy::Rounded => f.write_str("kilnc's evaluator, every value rounded as on the GPU"),
            CheckedBy::Exact => f.write_str("kilnc's evaluator, products of 8 bits added exactly"),
        }
    }
}

impl EnginePlan {
    fn new(spec: EngineSpec, model_file: Option<&str>, processor: &Processor) -> EnginePlan {
        let (name, runtime) = (spec.name(), Runtime::of(&spec.target));
        let onnx = model_file.map_or_else(|| format!("engines/{name}.onnx"), str::to_owned);
        let run_by = CheckedBy::of(&spec, runtime, processor);
        EnginePlan { runtime, onnx, range: spec.range(), run_by, name, spec }
    }

    /// The ONNX file of a component: that of the engine, where the component is the whole model.
    pub fn file_of(&self, component: &Component) -> String {
        match component.name.as_str() {
            Component::MODEL => self.onnx.clone(),
            name => format!("engines/{}.{name}.onnx", self.name),
        }
    }

    /// Where a plan is put that is compiled of it.
    pub fn plan(&self) -> String {
        format!("engines/{}.plan", self.name)
    }

    /// Where the list of a plan's layers is put.
    pub fn layers(&self) -> String {
        layers_of(&self.name)
    }

    /// Whether the request has a gate of its own.
    pub fn is_gated(&self) -> bool {
        self.spec.gate != Gate::default()
    }

    /// Whether it is compared with golden outputs, where the recipe has them.
    pub fn is_golden(&self) -> bool {
        self.spec.precision == Precision::Fp32
    }
}

/// Where the list of a plan's layers is in a bundle.
pub(super) fn layers_of(engine: &str) -> String {
    format!("engines/{engine}.layers.json")
}

impl<'a> BuildPlan<'a> {
    /// The plan of a request.
    ///
    /// # Errors
    /// Bad input: outputs over inputs; several engines, or a plan, where the output is one model; two engines of one name;
    /// settings of the recipe that contradict each other.
    pub fn of(request: &'a BuildRequest) -> Result<BuildPlan<'a>> {
        request.check()?;
        let recipe = &request.recipe;
        pruning::check(recipe)?;
        recipe.bench.as_ref().map(BenchSpec::check).transpose()?;
        let model_file = request.makes_model().then(|| json::file_name(&request.output));
        let processor = Processor::here();
        let mut engines: Vec<EnginePlan> = Vec::new();
        for spec in recipe.engines_or_default() {
            let engine = EnginePlan::new(spec, model_file.as_deref(), &processor);
            if engines.iter().any(|other| other.name == engine.name) {
                return Err(Error::bad_input(format!("duplicate engine {}", engine.name)));
            }
            engines.push(engine);
        }
        let name = match &recipe.name {
            Some(name) => name.clone(),
            None => request.output.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let sparsity = recipe.prune.as_ref().and_then(|spec| spec.sparsity);
        let pattern = sparsity.filter(|sparsity| matches!(sparsity, Sparsity::Pattern { .. }));
        Ok(BuildPlan { request, name, model_file, engines, pattern, processor })
    }
}
