//! Bottleneck adapters: Houlsby's (arXiv 1902.00751), Pfeiffer's (arXiv 2005.00247, 2005.00052), parallel ones
//! (arXiv 2110.04366), and the forms between.

use std::collections::BTreeSet;

use super::config::{Config, Hypercomplex, Place, Reduction, Residual, Scaling, at, positive};
use super::{Insertions, Saved, Tensors};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::StateDict;

/// How a bottleneck adapter computes, and where it is inserted. `x` is its input, `y` the output of attention or
/// feed-forward.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// Its name, by which its tensors are called.
    pub name: String,
    /// The parts of a layer after which it is inserted.
    pub places: Vec<Place>,
    /// Layers that have none.
    pub leave_out: BTreeSet<usize>,
    /// Name of the non-linearity, in the words of `transformers`.
    pub non_linearity: String,
    /// Whether `x` is the input of attention or feed-forward, rather than the output.
    pub parallel: bool,
    /// Whether the model's residual and norm come before it.
    pub norm_before: bool,
    /// Whether the model's residual and norm come after it.
    pub norm_after: bool,
    /// Whether it begins with its own norm.
    pub own_norm_before: bool,
    /// Whether it ends with its own norm.
    pub own_norm_after: bool,
    /// Where its residual begins; parallel ones add to `y`.
    pub residual: Residual,
    /// Whether its residual is added before its own norm at the end.
    pub residual_in_norm: bool,
    /// The factor of its output.
    pub scaling: Scaling,
    /// Whether its output is multiplied by a gate: the mean over the tokens of `σ(w · x + b)`.
    pub gated: bool,
    /// The path of its invertible part, which follows the embeddings, and how much narrower that is inside.
    pub invertible: Option<(String, f64)>,
    /// How its projections are put together, where they are not simply there.
    pub hypercomplex: Option<Hypercomplex>,
    /// The path of the tensors that all layers share.
    pub shared: String,
    reduction: Reduction,
}

/// `width // factor`, as Python divides.
fn narrowed(width: usize, factor: f64) -> usize {
    (width as f64 / factor).floor() as usize
}

impl Bottleneck {
    /// The inner size in a layer of a model that is `hidden` wide. Fails where the configuration has none for it.
    pub fn inner(&self, layer: usize, hidden: usize) -> Result<usize> {
        let factor = match &self.reduction {
            Reduction::Everywhere(factor) => *factor,
            Reduction::ByLayer(factors) => {
                let found = factors.get(&layer.to_string()).or_else(|| factors.get("default"));
                *found.ok_or_else(|| {
                    Error::bad_input(format!("layer {layer} has none, and there is no default"))
                        .at(at("reduction_factor"))
                })?
            }
        };
        let factor = positive(factor).map_err(|e| e.at(at("reduction_factor")))?;
        Ok(narrowed(hidden, factor).max(1))
    }

    /// The inner size of a part of the invertible block that takes `width` channels.
    pub fn inner_invertible(&self, width: usize) -> usize {
        self.invertible.as_ref().map_or(0, |(_, factor)| narrowed(width, *factor))
    }

    /// Whether there is an adapter after that part of that layer.
    pub fn stands(&self, place: Place, layer: usize) -> bool {
        self.places.contains(&place) && !self.leave_out.contains(&layer)
    }
}

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
        super::insert(state, insertions, name, weight, file, &saved.name);
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
