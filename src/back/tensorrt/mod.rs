//! Plans of TensorRT for RTX, compiled ahead of time on a machine with no GPU; or, in a kilnc with the feature
//! `enterprise`, of TensorRT, on the GPU that is there.
//!
//! An ONNX file goes in and a plan comes out. The network is strongly typed: every element type is the one the file states,
//! and nothing is converted behind its back. The two shared libraries are opened while the program runs, from the paths
//! given, so kilnc itself links to neither.
//!
//! This runs native code on a file that may come from anywhere: call it in a child process.
//! A plan is native code too, and not bit-deterministic: record its digest, promise no bytes.
//!
//! The two products of NVIDIA's have one interface. The binding has one of them in a build, so kilnc has too; what
//! differs is in `product`.
//!
//! Source: NVIDIA TensorRT for RTX 1.7, `NvInfer.h` and `NvOnnxParser.h`.

mod binding;
mod journal;
mod layers;
pub(crate) mod names;
mod options;
pub(crate) mod product;
mod profile;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use libloading::Library;
use trtx::{Builder, BuilderConfig, BuilderFlag, MemoryPoolType, OnnxParser, ProfilingVerbosity, Severity};

use crate::error::{Error, Result};
use layers::LayerList;

pub(crate) use binding::{logger, refused};
pub(crate) use journal::Journal;
pub use layers::{Layer, LayerSummary, Port};
use names::{NAME, PACKAGE, PARSER, VERSION};
pub use options::CompileOptions;
pub use profile::InputProfile;

/// Where the two shared libraries are; found by the caller.
///
/// A process keeps the first pair it has opened; later calls of [`compile`] use that one.
#[derive(Debug, Clone)]
pub struct Libraries {
    /// `libtensorrt_rtx.so.1`, or `libnvinfer.so.11`
    pub tensorrt: PathBuf,
    /// `libtensorrt_onnxparser_rtx.so.1`, or `libnvonnxparser.so.11`
    pub onnx_parser: PathBuf,
}

impl Libraries {
    /// The library, and its parser in the same folder, as NVIDIA's packages unpack them. Opens nothing.
    pub fn beside(tensorrt: PathBuf) -> Libraries {
        let onnx_parser = tensorrt.with_file_name(PARSER);
        Libraries { tensorrt, onnx_parser }
    }
}

/// The came of a compile.
#[derive(Debug, Clone)]
pub struct CompileReport {
    /// The version of the library that compiled, e.g. `1.7.1.116`.
    pub library_version: String,
    /// The engine's layers in execution order, once over for each optimization profile.
    /// Several compute capabilities share one list, which the oldest of them limits.
    pub layers: Vec<Layer>,
    /// The library's warnings, and ours about its log.
    pub warnings: Vec<String>,
    /// Size of the plan in bytes.
    pub plan_bytes: u64,
    /// Device memory for weights in bytes, if the library logged it.
    pub weights_bytes: Option<u64>,
    /// Device memory for activations of the largest profile in bytes, if the library logged it.
    pub activation_bytes: Option<u64>,
    /// Time to read the ONNX file and to build the engine, without loading the libraries.
    pub elapsed: Duration,
}

impl CompileReport {
    /// Matrix multiplications by precision, and fused attention.
    pub fn summary(&self) -> LayerSummary {
        LayerSummary::of(&self.layers)
    }
}

/// The library keeps one logger and one list of target GPUs for the whole process: two
/// builders at once report to the wrong logger and fail on each other's targets.
static ALONE: Mutex<()> = Mutex::new(());

/// Compiles the file `onnx` and writes the plan to `plan`, to which nothing is written on failure.
///
/// Weights in external files are read from beside `onnx`. Calls in one process wait for each other.
///
/// # Errors
/// Runtime missing: a library is absent, does not load, or is not of the version that kilnc is bound to.
/// Bad input: the file is no ONNX model, an option or a profile does not fit it, `plan` refuses.
/// Unsupported: the parser refuses a node, or the builder the network; the message is the library's.
pub fn compile(
    libraries: &Libraries,
    onnx: &Path,
    options: &CompileOptions,
    plan: &mut dyn Write,
) -> Result<CompileReport> {
    let path = readable(onnx)?;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let library_version = load(libraries)?;
    let started = Instant::now();

    let (logger, journal) = logger()?;
    journal.clear();
    let mut builder = Builder::new(logger).map_err(|_| journal.read().start_error())?;
    let network = builder.create_network(0).map_err(refused)?;
    let mut parser = OnnxParser::new(network, logger).map_err(refused)?;
    parser.parse_from_file(path, Severity::Warning as i32).map_err(|_| journal.read().parse_error().at(path))?;
    let network = parser.network_mut();
    // The parser takes bytes that are no protobuf for a model with nothing in it.
    if network.nb_outputs() == 0 {
        return Err(Error::bad_input("not an ONNX model, or one with no outputs").at(path));
    }
    let inputs = profile::inputs(network).map_err(|error| error.at(path))?;

    let mut config = configure(&mut builder, options)?;
    profile::add(&options.profiles, &inputs, &mut builder, &mut config).map_err(|error| error.at(path))?;
    let built = builder.build_serialized_network(network, &mut config).map_err(|_| {
        let error = journal.read().build_error().at(path);
        match options.workspace_bytes {
            Some(bytes) => error.hint(format!("scratch memory is bounded to {bytes} bytes; it may need more")),
            None => error,
        }
    })?;
    let elapsed = started.elapsed();
    plan.write_all(&built).map_err(|error| Error::of_system("writing the plan", &error))?;

    let list = LayerList::parse(&product::layer_list(journal, &built)?);
    let journal = journal.read();
    let mut warnings = journal.warnings.clone();
    if list.layers.is_empty() || list.unread > 0 {
        warnings.push(format!(
            "{} layers read from TensorRT's log, {} lines not understood",
            list.layers.len(),
            list.unread
        ));
    }
    let bare = layers::bare_half_sums(&list.layers);
    if bare > 0 {
        warnings.push(format!(
            "{bare} INT8 products hold their sums in FP16 before the scale is applied and can overflow; give their scales in FP32"
        ));
    }
    Ok(CompileReport {
        library_version,
        layers: list.layers,
        warnings,
        plan_bytes: built.len() as u64,
        weights_bytes: journal.weights_bytes,
        activation_bytes: journal.activation_bytes,
        elapsed,
    })
}

/// The path as the parser takes it, once the file is known to open.
fn readable(onnx: &Path) -> Result<&str> {
    std::fs::File::open(onnx)
        .map_err(|error| Error::of_system("cannot open the model", &error).at(onnx.display().to_string()))?;
    onnx.to_str()
        .ok_or_else(|| Error::bad_input("TensorRT's parser takes a path in UTF-8").at(onnx.display().to_string()))
}

/// Opens both libraries, in this order: the parser's needs the other's. Returns the version.
fn load(libraries: &Libraries) -> Result<String> {
    let version = load_tensorrt(&libraries.tensorrt)?;
    trtx::dynamically_load_tensorrt_onnxparser(Some(&libraries.onnx_parser))
        .map_err(|error| missing(&libraries.onnx_parser, &error))?;
    Ok(version)
}

/// Opens the library that compiles and runs, of which a process keeps the first. Returns its version.
pub(crate) fn load_tensorrt(tensorrt: &Path) -> Result<String> {
    let version = version(tensorrt).map_err(|error| missing(tensorrt, &error))?;
    // The C++ interface is bound by vtable, so another minor version is another interface.
    if version.get(..2) != Some(&VERSION) {
        let (found, expected) = (dotted(&version), dotted(&VERSION));
        return Err(Error::runtime_missing(format!("{NAME} has version {found}, expected {expected}"))
            .at(tensorrt.display().to_string())
            .hint(format!("it is in the PyPI package {PACKAGE}")));
    }
    trtx::dynamically_load_tensorrt(Some(tensorrt)).map_err(|error| missing(tensorrt, &error))?;
    Ok(dotted(&version))
}

fn missing(path: &Path, error: &dyn fmt::Display) -> Error {
    Error::runtime_missing(format!("{NAME} does not load: {error}"))
        .at(path.display().to_string())
        .hint(format!("it is in the PyPI package {PACKAGE}"))
}

/// Major, minor, patch and build number, as the library itself reports them.
fn version(tensorrt: &Path) -> std::result::Result<Vec<i32>, libloading::Error> {
    const PARTS: [&[u8]; 4] = [
        b"getInferLibMajorVersion",
        b"getInferLibMinorVersion",
        b"getInferLibPatchVersion",
        b"getInferLibBuildVersion",
    ];
    // SAFETY: opening runs the library's initializers, which is what loading TensorRT means;
    // `NvInferRuntime.h` declares each of the four as `int32_t f() noexcept` with C linkage.
    unsafe {
        let library = Library::new(tensorrt)?;
        PARTS.into_iter().map(|name| Ok(library.get::<unsafe extern "C" fn() -> i32>(name)?())).collect()
    }
}

fn dotted(version: &[i32]) -> String {
    let parts: Vec<_> = version.iter().map(i32::to_string).collect();
    parts.join(".")
}

/// A builder's configuration for `options`, profiles excepted.
fn configure<'logger>(builder: &mut Builder<'logger>, options: &CompileOptions) -> Result<BuilderConfig<'logger>> {
    let mut config = builder.create_config().map_err(refused)?;
    // Only the detailed log lists the layers.
    config.set_profiling_verbosity(ProfilingVerbosity::kDETAILED);
    if let Some(bytes) = options.workspace_bytes {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        config.set_memory_pool_limit(MemoryPoolType::kWORKSPACE, bytes);
    }
    if let Some(level) = options.optimization_level {
        config.set_builder_optimization_level(i32::from(level));
    }
    if options.sparse_weights {
        config.set_flag(BuilderFlag::kSPARSE_WEIGHTS);
    }
    product::aim(&mut config, options)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_library_is_named() {
        let libraries = Libraries::beside("/nonexistent/libtensorrt".into());
        assert_eq!(libraries.onnx_parser, Path::new("/nonexistent").join(PARSER));
        let error = load(&libraries).map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("/nonexistent/libtensorrt")));
    }
}
