//! The tensors under the names of their family, with what llama.cpp's converters changed undone.

use std::sync::Arc;

use super::architectures::{Architecture, Changed};
use super::model::Model;
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{StateDict, Tensor};
use crate::ir::weight::{Expr, Packing};
use crate::ir::{DType, Weight};

/// How the names of layers begin.
const LAYER: &str = "blk";

/// Tensors that hold factors of rotary positions: the configuration reads them.
pub(super) const FACTORS: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// All tensors of a file, each as the family's files have it. Fails by name where a tensor is not one of the architecture.
pub(super) fn state(model: &Model, file: &Arc<str>) -> Result<StateDict> {
    let mut state = StateDict::default();
    for (name, weight) in &model.contents.tensors {
        if FACTORS.contains(&name.as_str()) {
            continue;
        }
        let place = |e: Error| e.at(format!("tensor `{}`", printable(name)));
        let known = model.architecture.known(name).ok_or_else(|| {
            Error::unsupported(format!("the architecture {} has no such tensor here", model.architecture.name))
        });
        let known = known.map_err(place)?;
        let weight = known.as_trained(model, weight).map_err(place)?;
        state.insert(known.name, Tensor { weight, file: file.clone() });
    }
    Ok(state)
}

/// A tensor of an architecture.
struct Known {
    /// The family's name of it.
    name: String,
    /// The file's name of its module, without layer.
    module: String,
    is_weight: bool,
}

impl Architecture {
    /// The tensor of that name in a file, `blk.3.attn_q.weight`.
    fn known(&self, name: &str) -> Option<Known> {
        let (path, end) = name.rsplit_once('.').filter(|(_, end)| ["weight", "bias"].contains(end))?;
        let of = |module: &str, pairs: &[super::architectures::Pair]| {
            pairs.iter().find(|(own, _)| *own == module).map(|(_, theirs)| *theirs)
        };
        let known = |module: &str, name: String| Known { name, module: module.to_owned(), is_weight: end == "weight" };
        if let Some(theirs) = of(path, self.others) {
            return Some(known(path, format!("{theirs}.{end}")));
        }
        let (layer, module) = path.strip_prefix(LAYER)?.strip_prefix('.')?.split_once('.')?;
        let number: usize = layer.parse().ok().filter(|number: &usize| number.to_string() == layer)?;
        let theirs = of(module, self.of_layer)?;
        Some(known(module, format!("{}.{number}.{theirs}.{end}", self.layers)))
    }
}

impl Known {
    /// The tensor as it was before conversion.
    fn as_trained(&self, model: &Model, weight: &Weight) -> Result<Weight> {
        let Changed { pairs, norm_plus_one, transposed } = model.architecture.changed;
        let heads = match self.module.as_str() {
            "attn_q" => Some("attention.head_count"),
            "attn_k" => Some("attention.head_count_kv"),
            _ => None,
        };
        if let (true, Some(key)) = (pairs, heads) {
            return halves(weight, model.heads(key)?);
        }
        if norm_plus_one && self.is_weight && self.module.ends_with("norm") {
            return less_one(weight);
        }
        match transposed && weight.shape().len() == 2 && !self.module.ends_with("_embd") && self.module != "output" {
            true => weight.transpose(),
            false => Ok(weight.clone()),
        }
    }
}

/// Rows with the two halves of each head after one another, as families turn them; files have element `j` of the first
/// beside element `j` of the second.
fn halves(weight: &Weight, heads: usize) -> Result<Weight> {
    let rows = weight.shape().first().copied().unwrap_or_default();
    let size = rows.checked_div(heads).filter(|size| size * heads == rows && size.is_multiple_of(2));
    let size = size.ok_or_else(|| Error::bad_input(format!("{rows} rows are not {heads} heads of pairs")))?;
    let row = |i: usize| {
        let (head, within) = (i / size, i % size);
        head * size + within % (size / 2) * 2 + within / (size / 2)
    };
    take_rows(weight, (0..rows).map(row).collect())
}

/// The rows in that order. Those of blocks stay in their blocks.
fn take_rows(weight: &Weight, order: Vec<usize>) -> Result<Weight> {
    match weight.expr() {
        Expr::Packed { packing: packing @ Packing::Ggml(_), parts } => {
            let parts = parts.iter().map(|part| part.take(0, order.clone())).collect::<Result<_>>()?;
            Weight::packed(*packing, parts)
        }
        _ => weight.take(0, order),
    }
}

/// The scale of a norm whose file has one added to it.
fn less_one(weight: &Weight) -> Result<Weight> {
    let ones = Weight::f32s(weight.shape().to_vec(), &vec![1.0; weight.shape().iter().product()])?;
    Weight::sum(vec![(1.0, weight.cast(DType::F32)), (-1.0, ones)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::weight::GgmlType;

    #[test]
    fn pairs_of_rows_become_halves_in_any_storage() {
        let rows: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let weight = Weight::f32s(vec![8, 1], &rows).unwrap();
        // What the converter does: (heads, 2, half) → (heads, half, 2).
        let order = |weight: &Weight| halves(weight, 2).unwrap().to_f32s().unwrap().into_owned();
        assert_eq!(order(&weight), [0., 2., 1., 3., 4., 6., 5., 7.]);
        let blocks: Vec<u8> = (0..8u8).flat_map(|i| [0, 0x3C].into_iter().chain([i; 32])).collect();
        let part = Weight::literal(DType::U8, vec![8, 34], blocks).unwrap();
        let packed = halves(&Weight::packed(Packing::Ggml(GgmlType::Q8_0), vec![part]).unwrap(), 2).unwrap();
        assert!(matches!(packed.expr(), Expr::Packed { .. }));
        let first: Vec<f32> = packed.to_f32s().unwrap().chunks(32).map(|row| row[0]).collect();
        assert_eq!(first, order(&weight));
        let error = halves(&weight, 3).unwrap_err();
        assert_eq!(error.message(), "8 rows are not 3 heads of pairs");
    }

    #[test]
    fn one_is_taken_from_norms_without_rounding() {
        let stored = [0.1f32, 1e-3, 0.3, 7.77, -0.123, 130.5];
        let norm = less_one(&Weight::f32s(vec![6], &stored).unwrap()).unwrap();
        let ones = Weight::f32s(vec![6], &[1.0; 6]).unwrap();
        // As families of such norms read them.
        let scale = Weight::sum(vec![(1.0, norm.clone()), (1.0, ones)]).unwrap();
        assert_eq!(*scale.to_f32s().unwrap(), stored);
        assert_eq!(norm.to_f32s().unwrap()[3], 7.77 - 1.0);
    }
}
