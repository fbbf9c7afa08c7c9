//! tract, which is compiled in.

use std::path::Path;
use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::DimLike;

use super::session::{Executor, Input, Value, of_tract};
use super::{Elements, Port};
use crate::error::{Error, Result};
use crate::json::file_name;

/// An optimized model of tract; runs on one thread.
pub(super) struct TractEngine {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl TractEngine {
    pub(super) fn open(path: &Path) -> Result<TractEngine> {
        let refused =
            |e: TractError| Error::of_library(format!("tract does not load {}", file_name(path)), &format!("{e:#}"), e);
        let model = tract_onnx::onnx().model_for_path(path).map_err(refused)?;
        let name = |outlet: &OutletId| model.node(outlet.node).name.clone();
        let inputs: Vec<String> = model.input_outlets().map_err(refused)?.iter().map(name).collect();
        let label = |outlet: &OutletId| model.outlet_label(*outlet).map_or_else(|| name(outlet), str::to_owned);
        let outputs: Vec<String> = model.output_outlets().map_err(refused)?.iter().map(label).collect();
        let model = model.into_optimized().map_err(refused)?;
        let inputs = (0..inputs.len()).zip(inputs).map(|(i, name)| Ok(port(name, model.input_fact(i)?)));
        let inputs = inputs.collect::<TractResult<_>>().map_err(refused)?;
        let outputs = (0..outputs.len()).zip(outputs).map(|(i, name)| Ok(port(name, model.output_fact(i)?)));
        let outputs = outputs.collect::<TractResult<_>>().map_err(refused)?;
        Ok(TractEngine { plan: model.into_runnable().map_err(refused)?, inputs, outputs })
    }
}

impl Executor for TractEngine {
    fn describe(&self) -> String {
        "compiled in".to_owned()
    }

    fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    fn execute(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Value>> {
        let given = inputs.iter().map(|input| value(*input)).collect::<Result<_>>()?;
        Ok(self.plan.run(given).map_err(refused)?.into_iter().map(Value::Tract).collect())
    }
}

fn refused(error: TractError) -> Error {
    Error::of_library("tract", &format!("{error:#}"), error)
}

/// What a model declares of an input or output.
fn port(name: String, fact: &TypedFact) -> Port {
    Port {
        name,
        element: of_tract(fact.datum_type),
        type_name: format!("{:?}", fact.datum_type).to_lowercase(),
        shape: fact.shape.iter().map(|size| size.to_usize().ok()).collect(),
    }
}

/// What a run is given. tract's own values are shared, not copied.
fn value(input: Input<'_>) -> Result<TValue> {
    let tensor = match (input, input.host()) {
        (Input::Held(Value::Tract(value)), _) => return Ok(value.clone()),
        (_, Some(tensor)) => tensor,
        _ => return Err(Error::bug("a value of another runtime is given to tract")),
    };
    let shape = &tensor.shape;
    let copied = match &tensor.elements {
        Elements::I64(values) => Tensor::from_shape(shape, values),
        Elements::I32(values) => Tensor::from_shape(shape, values),
        Elements::F32(values) => Tensor::from_shape(shape, values),
        Elements::F16(values) => Tensor::from_shape(shape, values),
        Elements::Bool(values) => Tensor::from_shape(shape, values),
    };
    Ok(copied.map_err(refused)?.into_tvalue())
}
