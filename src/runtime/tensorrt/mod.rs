//! Plans of TensorRT for RTX, run on a GPU.
//!
//! The library compiles the last part of a plan's kernels for the GPU when it opens it, and specializes them for shapes
//! behind the caller's back; it captures a CUDA graph for each shape once they are there, and replays that. Memory of
//! inputs and outputs stays in place for it. A plan is native code: it is opened only out of a bundle whose manifest has
//! its digest, and in a process of its own ([`super::open_apart`]).
//!
//! Compiled, type-checked and refused where there is no GPU. No plan has run on one yet.
//!
//! Source: NVIDIA TensorRT for RTX 1.7, `NvInferRuntime.h`.

mod buffers;
mod card;
mod profiles;

use std::path::Path;
use std::rc::Rc;
use std::sync::OnceLock;

use trtx::trtx_sys::Dims64;
use trtx::{
    CudaEngine, CudaGraphStrategy, DataType, EngineInvalidityDiagnostics, EngineValidity, ExecutionContext, Logger,
    TensorIOMode, TensorLocation,
};

use super::library::TENSORRT_RTX;
use super::{Device, Engine, Gpu, Named, Runtime, Tensor};
use crate::back::tensorrt::{Journal, load_tensorrt, refused};
use crate::error::{Error, Result};
use card::{Buffer, Card};
use profiles::{Profiles, Shapes};

/// A plan that is open. What is dropped first stands first.
pub(super) struct PlanEngine {
    context: ExecutionContext<'static>,
    _engine: CudaEngine<'static>,
    _runtime: trtx::Runtime<'static>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    names: Vec<String>,
    profiles: Profiles,
    card: Card,
    description: String,
}

/// An input or output, with its memory on the GPU.
struct Port {
    name: String,
    kind: DataType,
    /// -1 is any size.
    shape: Vec<i64>,
    buffer: Buffer,
}

impl PlanEngine {
    /// Opens a plan on the GPU of that number.
    ///
    /// # Errors
    /// Runtime missing: the driver, the GPU or the library is not there, or the plan is for others.
    /// Bad input: the file is no plan. Unsupported: the library does not open it.
    pub fn open(path: &Path, number: u32) -> Result<PlanEngine> {
        Device::Cuda(number).check_for(Runtime::TensorRtRtx)?;
        let library = TENSORRT_RTX.find()?;
        let version = load_tensorrt(&library)?;
        let plan = std::fs::read(path).map_err(|e| Error::io("reading", path, &e))?;
        let card = Card::open(number)?;
        let gpu = card.told()?;
        let place = path.display().to_string();
        let (logger, journal) = logger()?;
        *journal.read() = Default::default();
        let failed = |_| journal.read().run_error("open the plan").at(&place);
        let mut runtime = trtx::Runtime::new(logger).map_err(refused)?;
        check(&runtime, &plan, &gpu).map_err(|e| e.at(&place))?;
        let mut engine = runtime.deserialize_cuda_engine(&plan).map_err(failed)?;
        let mut config = engine.create_runtime_config().map_err(failed)?;
        config.set_cuda_graph_strategy(CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE).map_err(failed)?;
        let context = engine.create_execution_context_with_config(Rc::new(config)).map_err(failed)?;
        let (inputs, outputs) = ports(&engine).map_err(|e| e.at(&place))?;
        Ok(PlanEngine {
            names: inputs.iter().map(|port| port.name.clone()).collect(),
            profiles: Profiles::new(engine.nb_optimization_profiles().map_err(failed)?),
            description: format!("{version} ({}) on {gpu}", library.display()),
            context,
            _engine: engine,
            _runtime: runtime,
            inputs,
            outputs,
            card,
        })
    }

    /// Has the context take inputs of these shapes, by the first profile that does.
    fn shape(&mut self, shapes: &Shapes) -> Result<()> {
        let PlanEngine { context, inputs, profiles, card, .. } = self;
        let takes = |profile| {
            if context.optimization_profile() != profile {
                // SAFETY: the stream is the card's own, which outlives the context.
                let switched = unsafe { context.set_optimization_profile_async(profile, card.stream()) };
                if !switched {
                    return Err(failure(&format!("switch to profile {profile}")));
                }
            }
            let mut pairs = inputs.iter().zip(shapes);
            Ok(pairs.all(|(port, shape)| context.set_input_shape(&port.name, &Dims64::from_slice(shape)).is_ok()))
        };
        match profiles.choose(shapes, takes)? {
            Some(_) => Ok(()),
            None => {
                let names: Vec<&str> = inputs.iter().map(|port| port.name.as_str()).collect();
                Err(profiles::none_takes(&names, shapes, profiles.count()))
            }
        }
    }

    /// Copies the inputs to the GPU and says where they are.
    fn bind_inputs(&mut self, tensors: &[&Tensor]) -> Result<()> {
        for (port, tensor) in self.inputs.iter_mut().zip(tensors) {
            self.card.write(&buffers::pack(&port.name, &tensor.elements, port.kind)?, &mut port.buffer)?;
            let place = self.card.place(&port.buffer)?;
            // SAFETY: the buffer holds the whole tensor in the plan's type, and lives as long as the context.
            let bound = unsafe { self.context.set_input_tensor_address(&port.name, place) };
            bound.map_err(|_| failure(&format!("take the input `{}`", port.name)))?;
        }
        Ok(())
    }

    /// Reserves memory for the outputs and says where it is. Gives their shapes.
    fn bind_outputs(&mut self) -> Result<Shapes> {
        let mut shapes = Vec::with_capacity(self.outputs.len());
        for port in &mut self.outputs {
            let unbound = || failure(&format!("give the output `{}`", port.name));
            let shape = self.context.tensor_shape(&port.name).map_err(|_| unbound())?;
            let rank = usize::try_from(shape.nbDims).unwrap_or_default();
            let shape = shape.d.get(..rank).ok_or_else(unbound)?.to_vec();
            self.card.reserve(buffers::bytes_of(&port.name, &shape, port.kind)?, &mut port.buffer)?;
            let place = self.card.place(&port.buffer)?;
            // SAFETY: the buffer has room for the whole tensor, and lives as long as the context.
            let bound = unsafe { self.context.set_output_tensor_address(&port.name, place) };
            bound.map_err(|_| unbound())?;
            shapes.push(shape);
        }
        Ok(shapes)
    }
}

impl Engine for PlanEngine {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn inputs(&self) -> &[String] {
        &self.names
    }

    fn run(&mut self, inputs: &Named) -> Result<Named> {
        let (_, journal) = logger()?;
        *journal.read() = Default::default();
        self.card.bind()?;
        let given = self.names.iter().map(|name| super::input(inputs, name)).collect::<Result<Vec<_>>>()?;
        let mut shapes = Shapes::with_capacity(given.len());
        for (port, tensor) in self.inputs.iter().zip(&given) {
            let shape: Vec<i64> = tensor.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
            profiles::check(&port.name, &port.shape, &shape)?;
            shapes.push(shape);
        }
        self.shape(&shapes)?;
        self.bind_inputs(&given)?;
        let shapes = self.bind_outputs()?;
        // SAFETY: every tensor has its memory on this GPU, and all of it is used on this stream alone.
        unsafe { self.context.enqueue_v3(self.card.stream()) }.map_err(|_| failure("run the plan"))?;
        let mut outputs = Named::with_capacity(shapes.len());
        for (port, shape) in self.outputs.iter().zip(shapes) {
            let bytes = self.card.read(buffers::bytes_of(&port.name, &shape, port.kind)?, &port.buffer)?;
            let shape = shape.iter().map(|size| usize::try_from(*size).unwrap_or_default()).collect();
            let elements = buffers::unpack(&port.name, &bytes, port.kind)?;
            outputs.push((port.name.clone(), Tensor { shape, elements }));
        }
        Ok(outputs)
    }
}

/// The GPU of that number, as its driver tells.
pub(super) fn gpu(number: u32) -> Result<Gpu> {
    Card::open(number)?.told()
}

/// Loads the library; gives its version and place.
pub(super) fn probe() -> Result<String> {
    let library = TENSORRT_RTX.find()?;
    Ok(format!("{} ({})", load_tensorrt(&library)?, library.display()))
}

/// The logger of this process, of which the library keeps one, and what it wrote down.
fn logger() -> Result<(&'static Logger, &'static Journal)> {
    static LOGGER: OnceLock<(Result<Logger, String>, Journal)> = OnceLock::new();
    let (logger, journal) = LOGGER.get_or_init(|| {
        let journal = Journal::default();
        (Logger::new(journal.clone()).map_err(|e| e.to_string()), journal)
    });
    match logger {
        Ok(logger) => Ok((logger, journal)),
        Err(e) => Err(Error::runtime_missing(format!("TensorRT for RTX does not start: {e}"))),
    }
}

/// What the library complained of since it was last asked for something.
fn failure(what: &str) -> Error {
    match logger() {
        Ok((_, journal)) => journal.read().run_error(what),
        Err(e) => e,
    }
}

/// Fails where the header of a plan says that it cannot run here.
fn check(runtime: &trtx::Runtime, plan: &[u8], gpu: &Gpu) -> Result<()> {
    let (validity, why) = runtime.engine_validity(plan).map_err(|_| Error::bad_input("too short for a plan"))?;
    match validity {
        // Without a reason of these, the library has said why: it could not ask CUDA, for one.
        EngineValidity::kINVALID if why.is_empty() => Err(failure("tell whether the plan can run here")),
        EngineValidity::kINVALID => Err(invalid(why, gpu)),
        EngineValidity::kVALID | EngineValidity::kSUBOPTIMAL => Ok(()),
    }
}

/// The error for a plan that the library holds for invalid, with all of its reasons.
fn invalid(why: EngineInvalidityDiagnostics, gpu: &Gpu) -> Error {
    type Why = EngineInvalidityDiagnostics;
    if why.contains(Why::MALFORMED_ENGINE) {
        return Error::bad_input("not a plan of TensorRT for RTX");
    }
    let reasons = [
        (Why::VERSION_MISMATCH, "another version of the library compiled it"),
        (Why::UNSUPPORTED_CC, "it is for other GPUs"),
        (Why::OLD_CUDA_DRIVER, "the driver is older than what it was compiled for"),
        (Why::OLD_CUDA_RUNTIME, "CUDA is older than what it was compiled for"),
        (Why::INSUFFICIENT_GPU_MEMORY, "its weights do not fit the GPU's memory"),
        (Why::CUDA_ERROR, "CUDA is not installed as it should be"),
    ];
    let said: Vec<&str> = reasons.into_iter().filter(|(reason, _)| why.contains(*reason)).map(|(_, it)| it).collect();
    let said = if said.is_empty() { format!("reasons {:#x}", why.bits()) } else { said.join(", ") };
    Error::runtime_missing(format!("the plan cannot run on {gpu}: {said}"))
        .hint(format!("build it for this GPU with this library: --target tensorrt-rtx:sm{}", gpu.capability))
}

/// The inputs and outputs of a plan, in its order.
fn ports(engine: &CudaEngine) -> Result<(Vec<Port>, Vec<Port>)> {
    let odd = |e: trtx::Error| Error::unsupported(format!("the plan does not tell its tensors: {e}"));
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for index in 0..engine.nb_io_tensors().map_err(odd)? {
        let name = engine.io_tensor_name(index).map_err(odd)?;
        if engine.tensor_location(&name).map_err(odd)? == TensorLocation::kHOST {
            let name = crate::error::printable(&name);
            return Err(Error::unsupported(format!("the plan's tensor `{name}` is a shape, which is not on the GPU")));
        }
        let kind = engine.tensor_data_type(&name).map_err(odd)?;
        buffers::size_of(&name, kind)?;
        let port = Port { kind, shape: engine.tensor_shape(&name).map_err(odd)?, buffer: Buffer::default(), name };
        match engine.tensor_io_mode(&port.name).map_err(odd)? {
            TensorIOMode::kINPUT => inputs.push(port),
            _ => outputs.push(port),
        }
    }
    Ok((inputs, outputs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_cannot_run_here_says_all_that_is_against_it() {
        let gpu = Gpu { name: "NVIDIA L4".to_owned(), capability: 89 };
        let why = EngineInvalidityDiagnostics::UNSUPPORTED_CC | EngineInvalidityDiagnostics::OLD_CUDA_DRIVER;
        let said = invalid(why, &gpu);
        assert_eq!(
            said.to_string(),
            "the plan cannot run on NVIDIA L4 (sm89): it is for other GPUs, the driver is older than what it was \
             compiled for\n\nhint: build it for this GPU with this library: --target tensorrt-rtx:sm89"
        );
        assert_eq!(said.exit_code(), 4);
        assert_eq!(invalid(EngineInvalidityDiagnostics::MALFORMED_ENGINE, &gpu).exit_code(), 2);
        let unknown = invalid(EngineInvalidityDiagnostics::from_bits_retain(1 << 40), &gpu);
        assert!(unknown.message().ends_with("reasons 0x10000000000"), "{unknown}");
    }

    /// The library reads headers where there is no GPU too.
    #[test]
    fn what_is_no_plan_is_known_by_its_header() {
        let library = match TENSORRT_RTX.find() {
            Ok(library) => library,
            Err(e) => {
                assert!(std::env::var_os("KILNC_TEST_STRICT").is_none(), "{e}");
                eprintln!("SKIPPED: headers of plans: {}", e.message());
                return;
            }
        };
        assert!(load_tensorrt(&library).unwrap().starts_with("1.7"));
        let runtime = trtx::Runtime::new(logger().unwrap().0).unwrap();
        let gpu = Gpu { name: "NVIDIA L4".to_owned(), capability: 89 };
        let said = |bytes: &[u8]| check(&runtime, bytes, &gpu).unwrap_err();
        assert_eq!((said(b"vtrt").message(), said(b"vtrt").exit_code()), ("too short for a plan", 2));
        assert_eq!((said(&[7; 4096]).message(), said(&[7; 4096]).exit_code()), ("not a plan of TensorRT for RTX", 2));
    }
}
