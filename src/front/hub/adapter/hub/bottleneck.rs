//! Bottleneck adapters: Houlsby's (arXiv 1902.00751), Pfeiffer's (arXiv 2005.00247, 2005.00052), parallel ones
//! (arXiv 2110.04366), and the forms between.

use super::config::{Config, at};
use super::insertions::{Bottleneck, Insertions};
use super::saved::{Saved, Tensors};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::StateDict;

/// Puts an adapter's tensors into the model, and its description into `insertions`.
pub(super) fn insert(
    state: &mut StateDict,
    mut tensors: Tensors,
    saved: &Saved,
    text: &str,
    file: &str,
    insertions: &mut Insertions,
) -> Result<()> {
    let config = Config::read(text)?;
    if insertions.bottlenecks.iter().any(|other| other.name == saved.name) {
        return Err(Error::bad_input(format!("two adapters are called `{}`", printable(&saved.name)))
            .hint("save one of them under another name"));
    }
    one_name_for_each_norm(&mut tensors)?;
    let adapter = describe(&config, saved, &tensors, state, insertions)?;
    insertions.bottlenecks.push(adapter);
    for (name, weight) in tensors {
        insertions.insert(state, name, weight, file, &saved.name);
    }
    Ok(())
}

fn describe(
    config: &Config,
    saved: &Saved,
    tensors: &Tensors,
    state: &StateDict,
    insertions: &Insertions,
) -> Result<Bottleneck> {
    let path = state.within(&format!("invertible_adapters.{}", saved.name));
    let mut invertible = config.invertible()?.map(|factor| (path.clone(), factor));
    let saved_whole = tensors.keys().any(|name| name.starts_with(&format!("{path}.")));
    // Before 2.0, task adapters spoke of an invertible part that they did not have.
    if saved.kind.as_deref() == Some("text_task") && !saved_whole {
        invertible = None;
    }
    if invertible.is_some() && insertions.adapters > 0 {
        return Err(Error::unsupported("only the first adapter of a stack can have an invertible part")
            .at(at("inv_adapter"))
            .hint("give this adapter first"));
    }
    Ok(Bottleneck {
        name: saved.name.clone(),
        places: config.places()?,
        leave_out: config.leave_out.clone().unwrap_or_default(),
        non_linearity: non_linearity(&config.non_linearity, saved.version.is_some()),
        parallel: config.is_parallel,
        norm_before: config.original_ln_before,
        norm_after: config.original_ln_after,
        own_norm_before: config.ln_before,
        own_norm_after: config.ln_after,
        residual: config.residual()?,
        residual_in_norm: config.adapter_residual_before_ln,
        scaling: config.scaling()?,
        gated: config.use_gating,
        invertible,
        shared: state.within(&format!("shared_parameters.{}", saved.name)),
        hypercomplex: config.hypercomplex()?,
        reduction: config.reduction_factor.clone(),
    })
}

/// The name in the words of `transformers`; before versions were written down, `gelu` was the tanh approximation.
fn non_linearity(name: &str, versioned: bool) -> String {
    match name.to_lowercase().as_str() {
        "gelu" if !versioned => "gelu_new".to_owned(),
        "gelu_orig" if !versioned => "gelu".to_owned(),
        "leakyrelu" => "leaky_relu".to_owned(),
        other => other.to_owned(),
    }
}

/// A norm at an adapter's beginning is in the file under two names, or under either.
fn one_name_for_each_norm(tensors: &mut Tensors) -> Result<()> {
    let twins: Vec<(String, String)> = tensors
        .keys()
        .filter(|name| name.contains(".adapter_norm_before."))
        .map(|name| (name.clone(), name.replace(".adapter_norm_before.", ".adapter_down.0.")))
        .collect();
    for (twin, name) in twins {
        let Some(weight) = tensors.remove(&twin) else { continue };
        match tensors.get(&name) {
            None => {
                tensors.insert(name, weight);
            }
            Some(other) if other.to_f32s()? == weight.to_f32s()? => {}
            Some(_) => {
                return Err(Error::bad_input(format!(
                    "`{}` and `{}` are one norm, and differ",
                    printable(&twin),
                    printable(&name)
                )));
            }
        }
    }
    Ok(())
}
