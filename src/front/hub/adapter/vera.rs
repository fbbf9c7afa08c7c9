//! VeRA: `W + (λ_b ∘ B) (λ_d ∘ A)`, with random A and B that all modules share (arXiv 2310.11454).

use serde::Deserialize;

use super::file::{Adapter, Parts};
use super::kind::Kind;
use super::work::Work;
use crate::error::{Error, Result};
use crate::ir::Weight;

pub(super) const KIND: Kind = Kind {
    peft_type: "VERA",
    marker: "vera_",
    parts: &["vera_lambda_b", "vera_lambda_d"],
    idle: &[],
    options: &[&[
        "bias",
        "d_initial",
        "exclude_modules",
        "fan_in_fan_out",
        "init_weights",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",
        "projection_prng_key",
        "r",
        "save_projection",
        "vera_dropout",
    ]],
    scales: true,
    conv1d: true,
};

#[derive(Deserialize)]
struct Config {
    r: usize,
}

pub(super) fn merge(work: &mut Work, adapter: &Adapter) -> Result<()> {
    let config: Config = adapter.config()?;
    let shared = |name: &str| {
        adapter.shared.get(name).ok_or_else(|| {
            Error::unsupported(format!(
                "`base_model.{name}` is not in the file: it would have to be generated as PyTorch does"
            ))
            .at(adapter.file.clone())
            .hint("save the adapter with save_projection=True")
        })
    };
    let projections = (shared("vera_A")?, shared("vera_B")?);
    for (module, parts) in &adapter.modules {
        merge_module(work, &config, adapter.scale, projections, module, parts)
            .map_err(|e| e.at(adapter.location(module)))?;
    }
    Ok(())
}

fn merge_module(
    work: &mut Work,
    config: &Config,
    extra: f32,
    (a, b): (&Weight, &Weight),
    module: &str,
    parts: &Parts,
) -> Result<()> {
    let (of_outputs, of_ranks) = (parts.need("vera_lambda_b")?, parts.need("vera_lambda_d")?);
    if of_ranks.shape() != [config.r] {
        return Err(Error::bad_input(format!(
            "vera_lambda_d has shape {:?}, but the configuration says rank {}",
            of_ranks.shape(),
            config.r
        )));
    }
    work.change(module, |base| {
        // The projections are as large as the largest module needs; a smaller one uses their beginning.
        let [n, k] = <[usize; 2]>::try_from(base.shape())
            .map_err(|_| Error::bad_input(format!("VeRA needs a matrix, found {}", base.ty())))?;
        let a = a.slice(1, 0..k)?.scale(of_ranks, 0)?;
        let b = b.slice(0, 0..n)?.scale(of_outputs, 0)?;
        base.lora(&a, &b, extra)
    })
}
