//! tract, which is compiled in.

use std::path::Path;
use std::sync::Arc;

use tract_onnx::prelude::*;

use super::{Elements, Engine, Named};
use crate::error::{Error, Result};
use crate::json::file_name;

/// An optimized model of tract; runs on one thread.
pub(super) struct TractEngine {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl TractEngine {
    pub(super) fn open(path: &Path) -> Result<TractEngine> {
        let refused =
            |e: TractError| Error::of_library(format!("tract does not load {}", file_name(path)), &format!("{e:#}"));
        let model = tract_onnx::onnx().model_for_path(path).map_err(refused)?;
        let name = |outlet: &OutletId| model.node(outlet.node).name.clone();
        let inputs = model.input_outlets().map_err(refused)?.iter().map(name).collect();
        let outputs = model
            .output_outlets()
            .map_err(refused)?
            .iter()
            .map(|outlet| model.outlet_label(*outlet).map_or_else(|| name(outlet), str::to_owned))
            .collect();
        let plan = model.into_optimized().and_then(|model| model.into_runnable()).map_err(refused)?;
        Ok(TractEngine { plan, inputs, outputs })
    }
}

impl Engine for TractEngine {
    fn describe(&self) -> String {
        "compiled in".to_owned()
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn run(&mut self, inputs: &Named) -> Result<Named> {
        let refused = |e: TractError| Error::of_library("tract", &format!("{e:#}"));
        let mut given = TVec::new();
        for name in &self.inputs {
            given.push(tensor(super::input(inputs, name)?).map_err(refused)?.into_tvalue());
        }
        let outputs = self.plan.run(given).map_err(refused)?;
        let named = self.outputs.iter().zip(&*outputs).map(|(name, value)| {
            let values = value.to_plain_array_view::<f32>().map_err(refused)?;
            let shape = values.shape().to_vec();
            Ok((name.clone(), super::Tensor { shape, elements: Elements::F32(values.iter().copied().collect()) }))
        });
        named.collect()
    }
}

fn tensor(tensor: &super::Tensor) -> TractResult<Tensor> {
    match &tensor.elements {
        Elements::I64(values) => Tensor::from_shape(&tensor.shape, values),
        Elements::F32(values) => Tensor::from_shape(&tensor.shape, values),
    }
}
