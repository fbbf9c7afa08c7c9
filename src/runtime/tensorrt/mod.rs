//! Plans of TensorRT, run on a GPU.
//!
//! A query's state stays as it is while its shapes stay: the profile, the memory of inputs and outputs, and a CUDA
//! graph, which is replayed. A plan is native code: it is opened only out of a bundle whose manifest has
//! its digest, and in an isolated process ([`super::open_isolated`]).
//!
//! Compiled, type-checked and refused where there is no GPU. No plan has run on one yet.
//!
//! Source: NVIDIA TensorRT for RTX 1.7 and TensorRT 11.4, `NvInferRuntime.h`, whose common part this is; `product` has
//! the rest.

mod buffers;
mod card;
mod failure;
mod product;
mod profiles;

use std::path::{Path, PathBuf};

use trtx::trtx_sys::Dims64;
use trtx::{CudaEngine, DataType, ExecutionContext, TensorIOMode, TensorLocation};

use super::session::{Executor, Input, Value};
use super::{Available, Device, Gpu, Port, Tensor};
use crate::back::tensorrt::{load_tensorrt, logger, refused};
use crate::error::{Error, Result};
use card::{Buffer, Card};
use failure::failure;
use product::{Launcher, RUNTIME};
use profiles::{Profiles, Shapes};

/// An open plan. Fields are in the order in which they are dropped.
struct PlanEngine {
    launcher: Launcher,
    context: ExecutionContext<'static>,
    _engine: CudaEngine<'static>,
    _runtime: trtx::Runtime<'static>,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    declared: (Vec<Port>, Vec<Port>),
    profiles: Profiles,
    bound: Option<Bound>,
    card: Card,
    description: String,
}

/// An input or output, with its memory on the GPU.
struct Slot {
    name: String,
    kind: DataType,
    /// -1 is any size.
    shape: Vec<i64>,
    buffer: Buffer,
}

/// The shapes that the context is set to, with memory for all tensors.
struct Bound {
    inputs: Shapes,
    outputs: Shapes,
}

/// Opens a plan on the GPU of that number.
///
/// # Errors
/// Runtime missing: the driver, the GPU or the library is not there, or the plan is for others.
/// Bad input: the file is no plan. Unsupported: the library does not open it.
pub(super) fn open(path: &Path, number: u32) -> Result<Box<dyn Executor>> {
    Ok(Box::new(PlanEngine::open(path, number)?))
}

impl PlanEngine {
    fn open(path: &Path, number: u32) -> Result<PlanEngine> {
        Device::Cuda(number).check_for(RUNTIME)?;
        let library = library()?;
        let version = load_tensorrt(&library)?;
        let plan = std::fs::read(path).map_err(|e| Error::io("reading", path, &e))?;
        let card = Card::open(number)?;
        let gpu = card.gpu()?;
        let place = path.display().to_string();
        let (logger, journal) = logger()?;
        journal.clear();
        let failed = |_| journal.read().run_error("open the plan").at(&place);
        let mut runtime = trtx::Runtime::new(logger).map_err(refused)?;
        product::check(&runtime, &plan, &gpu).map_err(|e| e.at(&place))?;
        let mut engine = runtime.deserialize_cuda_engine(&plan).map_err(failed)?;
        let (launcher, context) = Launcher::start(&mut engine, &plan, &version, &gpu).map_err(failed)?;
        let (inputs, outputs) = ports(&engine).map_err(|e| e.at(&place))?;
        Ok(PlanEngine {
            declared: (inputs.iter().map(declared).collect(), outputs.iter().map(declared).collect()),
            profiles: Profiles::new(engine.nb_optimization_profiles().map_err(failed)?),
            description: format!("{version} ({}) on {gpu}", library.display()),
            bound: None,
            launcher,
            context,
            _engine: engine,
            _runtime: runtime,
            inputs,
            outputs,
            card,
        })
    }

    /// Has the context take inputs of these shapes.
    fn bind(&mut self, inputs: Shapes) -> Result<Bound> {
        self.launcher.forget();
        self.choose_profile(&inputs)?;
        self.bind_inputs(&inputs)?;
        let outputs = self.bind_outputs()?;
        Ok(Bound { inputs, outputs })
    }

    /// Has the context take inputs of these shapes, by the first profile that does.
    fn choose_profile(&mut self, shapes: &Shapes) -> Result<()> {
        let PlanEngine { context, inputs, profiles, card, .. } = self;
        let takes = |profile| {
            if context.optimization_profile() != profile {
                // SAFETY: the stream is the card's own, which outlives the context.
                let switched =
                    unsafe { context.set_optimization_profile_async(profile, card.stream().cu_stream().cast()) };
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

    /// Reserves memory for the inputs and returns its addresses.
    fn bind_inputs(&mut self, shapes: &Shapes) -> Result<()> {
        for (port, shape) in self.inputs.iter_mut().zip(shapes) {
            self.card.reserve(buffers::bytes_of(&port.name, shape, port.kind)?, &mut port.buffer)?;
            let place = self.card.place(&port.buffer)?;
            // SAFETY: the buffer has room for the whole tensor in the plan's type, and lives as long as the context.
            let bound = unsafe { self.context.set_input_tensor_address(&port.name, place) };
            bound.map_err(|_| failure(&format!("take the input `{}`", port.name)))?;
        }
        Ok(())
    }

    /// Reserves memory for the outputs and returns its addresses and their shapes.
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

impl Executor for PlanEngine {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn inputs(&self) -> &[Port] {
        &self.declared.0
    }

    fn outputs(&self) -> &[Port] {
        &self.declared.1
    }

    fn execute(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Value>> {
        let (_, journal) = logger()?;
        journal.clear();
        self.card.bind()?;
        let of_others = || Error::bug("a value of another runtime is given to a plan");
        let given = inputs.iter().map(|input| input.host().ok_or_else(of_others)).collect::<Result<Vec<_>>>()?;
        let mut shapes = Shapes::with_capacity(given.len());
        for (port, tensor) in self.inputs.iter().zip(&given) {
            let shape: Vec<i64> = tensor.shape.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect();
            profiles::check(&port.name, &port.shape, &shape)?;
            shapes.push(shape);
        }
        // After a failure all is bound anew.
        let bound = match self.bound.take() {
            Some(bound) if bound.inputs == shapes => bound,
            _ => self.bind(shapes)?,
        };
        for ((port, shape), tensor) in self.inputs.iter_mut().zip(&bound.inputs).zip(&given) {
            let bytes = buffers::pack(&port.name, &tensor.elements, port.kind)?;
            buffers::check_fills(&port.name, shape, port.kind, &bytes)?;
            self.card.write(&bytes, &mut port.buffer)?;
        }
        // SAFETY: every tensor has its memory on this GPU, and all of it is used on this stream alone.
        unsafe { self.launcher.launch(&mut self.context, &self.card) }?;
        let mut found = Vec::with_capacity(self.outputs.len());
        for (port, shape) in self.outputs.iter().zip(&bound.outputs) {
            let bytes = self.card.read(buffers::bytes_of(&port.name, shape, port.kind)?, &port.buffer)?;
            let shape = shape.iter().map(|size| usize::try_from(*size).unwrap_or_default()).collect();
            let elements = buffers::unpack(&port.name, &bytes, port.kind)?;
            found.push(Value::Host(Tensor { shape, elements }));
        }
        self.bound = Some(bound);
        Ok(found)
    }
}

/// What a plan declares of an input or output. In our memory, floats have 32 bits and integers 64.
fn declared(slot: &Slot) -> Port {
    Port {
        name: slot.name.clone(),
        element: Some(buffers::host_type(slot.kind)),
        type_name: format!("{:?}", slot.kind),
        shape: slot.shape.iter().map(|size| usize::try_from(*size).ok()).collect(),
    }
}

/// The GPU of that number, as its driver reports it.
pub(super) fn gpu(number: u32) -> Result<Gpu> {
    Card::open(number)?.gpu()
}

/// Loads the library; returns its version and path.
pub(super) fn probe() -> Result<Available> {
    let library = library()?;
    Ok(Available { version: load_tensorrt(&library)?, path: Some(library.display().to_string()) })
}

fn library() -> Result<PathBuf> {
    RUNTIME.library().ok_or_else(|| Error::bug(format!("{RUNTIME} is no library")))?.find()
}

/// The inputs and outputs of a plan, in its order.
fn ports(engine: &CudaEngine) -> Result<(Vec<Slot>, Vec<Slot>)> {
    let non_finite = |e: trtx::Error| Error::unsupported(format!("the plan does not list its tensors: {e}"));
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for index in 0..engine.nb_io_tensors().map_err(non_finite)? {
        let name = engine.io_tensor_name(index).map_err(non_finite)?;
        if engine.tensor_location(&name).map_err(non_finite)? == TensorLocation::kHOST {
            let name = crate::error::printable(&name);
            return Err(Error::unsupported(format!("the plan's tensor `{name}` is a shape, which is not on the GPU")));
        }
        let kind = engine.tensor_data_type(&name).map_err(non_finite)?;
        buffers::size_of(&name, kind)?;
        let port =
            Slot { kind, shape: engine.tensor_shape(&name).map_err(non_finite)?, buffer: Buffer::default(), name };
        match engine.tensor_io_mode(&port.name).map_err(non_finite)? {
            TensorIOMode::kINPUT => inputs.push(port),
            _ => outputs.push(port),
        }
    }
    Ok((inputs, outputs))
}
