//! GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel save it: `qweight`, `qzeros`, `scales` and `g_idx` of each linear layer.

use super::super::state::Tensor;
use super::module::{Method, Modules};
use super::settings::Settings;
use crate::error::{Error, Result, printable};
use crate::ir::weight::{Affine, Layout, Packing};
use crate::ir::{DType, Weight};

pub(super) const METHOD: Method = Method {
    name: "gptq",
    fields: &[
        "act_group_aware",
        "adapter",
        "backend",
        "batch_size",
        "bits",
        "block_name_to_quantize",
        "cache_block_outputs",
        "checkpoint_format",
        "damp_auto_increment",
        "damp_percent",
        "dataset",
        "desc_act",
        "device",
        "disable_exllama",
        "dynamic",
        "exllama_config",
        "format",
        "group_size",
        "hyb_act",
        "is_marlin_format",
        "lm_head",
        "max_input_length",
        "meta",
        "method",
        "model_file_base_name",
        "model_name_or_path",
        "model_seqlen",
        "module_name_preceding_first_block",
        "modules_in_block_to_quantize",
        "modules_to_not_convert",
        "mse",
        "pack_dtype",
        "pad_token_id",
        "rotation",
        "static_groups",
        "sym",
        "tokenizer",
        "true_sequential",
        "use_cuda_fp16",
        "use_exllama",
    ],
    read,
};

const BITS: [usize; 4] = [2, 3, 4, 8];

/// The ends of the names of a module's tensors.
const PARTS: [&str; 4] = [".qweight", ".qzeros", ".scales", ".g_idx"];

/// What the configuration says of every layer.
struct Said {
    layout: Layout,
    bits: usize,
    group: Option<usize>,
    /// Whether layers may have other bits and groups than these.
    varies: bool,
    symmetric: bool,
}

fn read(settings: &Settings, modules: &mut Modules) -> Result<()> {
    settings.refuse("is_marlin_format", "the layout of Marlin's kernels is")?;
    settings.refuse("rotation", "rotated weights are")?;
    settings.refuse("adapter", "an adapter inside a quantized checkpoint is")?;
    settings.one_of("pack_dtype", &["int32"], "int32")?;
    let format = if settings.has("checkpoint_format") { "checkpoint_format" } else { "format" };
    let said = Said {
        layout: match settings.one_of(format, &["gptq", "gptq_v2"], "gptq")? {
            "gptq" => Layout::Gptq,
            _ => Layout::GptqV2,
        },
        bits: settings.bits("bits", &BITS, 4)?,
        group: settings.group_size("group_size")?,
        varies: settings.has("dynamic"),
        symmetric: settings.flag("sym")?.unwrap_or(true),
    };
    let mut beyond = Vec::new();
    for stem in modules.stems(&PARTS) {
        let [codes, zeros, scales] = [".qweight", ".qzeros", ".scales"].map(|end| modules.part(&stem, end));
        let (codes, zeros, scales, order) = (codes?, zeros?, scales?, modules.optional(&stem, ".g_idx"));
        let groups = first(&scales);
        let (affine, order) = said.of(&codes, order.as_ref(), groups)?;
        if affine.layout == Layout::Gptq && !said.symmetric && has_full(&zeros.weight, affine.bits)? {
            beyond.push(stem.clone());
        }
        let parts = [codes.weight, scales.weight, zeros.weight].into_iter().chain(order).collect();
        modules.put(format!("{stem}.weight"), Packing::Affine(affine), parts, &codes.file)?;
    }
    if let Some(first) = beyond.first() {
        modules.warnings.push(format!(
            "{} tensors such as `{}.qzeros` store the largest code for a zero point, less one: it is read as one beyond, as \
             AutoGPTQ's kernels do, and not as 0",
            beyond.len(),
            printable(first)
        ));
    }
    Ok(())
}

impl Said {
    /// How a layer is packed, and the group of each column where columns are not in the order of their groups.
    fn of(&self, codes: &Tensor, order: Option<&Tensor>, groups: usize) -> Result<(Affine, Option<Weight>)> {
        let bits = order.map_or(Ok(self.bits), |order| self.bits_of(codes, first(order)))?;
        let affine = |group: usize| Affine { layout: self.layout, bits, group: group.max(1) };
        let Some(order) = order else {
            let columns = first(codes).saturating_mul(32) / bits;
            return Ok((affine(self.group.unwrap_or(columns)), None));
        };
        let groups_of = groups_of(order, groups)?;
        let columns = groups_of.len();
        let said = self.group.unwrap_or(columns).min(columns);
        let group = groups_of.iter().position(|group| *group == 1).unwrap_or(columns).max(1);
        let is_ordered = groups_of.iter().enumerate().all(|(column, of)| *of == column / group);
        match is_ordered {
            true if self.varies || group == said => Ok((affine(group), None)),
            true => Err(Error::bad_input(format!(
                "tensor `{}` has groups of {group} columns, and `group_size` says {said}",
                name(order)
            ))
            .at(order.file.to_string())),
            // Where layers vary, the number of groups shows their size.
            false if self.varies => Ok((affine(columns.div_ceil(groups)), Some(order.weight.clone()))),
            false => Ok((affine(said), Some(order.weight.clone()))),
        }
    }

    /// The bits of a layer's codes, which its columns show.
    fn bits_of(&self, codes: &Tensor, columns: usize) -> Result<usize> {
        let rows = first(codes);
        let bits = rows.saturating_mul(32).checked_div(columns).unwrap_or_default();
        let fits = rows.checked_mul(32) == bits.checked_mul(columns) && BITS.contains(&bits);
        match fits && (self.varies || bits == self.bits) {
            true => Ok(bits),
            false => Err(Error::bad_input(format!(
                "tensor `{}` has {rows} rows of words for {columns} columns, which are not values of {} bits",
                name(codes),
                self.bits
            ))
            .at(codes.file.to_string())),
        }
    }
}

fn name(tensor: &Tensor) -> String {
    printable(tensor.weight.source_name().unwrap_or_default())
}

/// The first dimension.
fn first(tensor: &Tensor) -> usize {
    tensor.weight.shape().first().copied().unwrap_or_default()
}

/// The group of each column, each one of `groups`.
pub(super) fn groups_of(order: &Tensor, groups: usize) -> Result<Vec<usize>> {
    let refused = |message: String| Err(Error::bad_input(message).at(order.file.to_string()));
    let weight = &order.weight;
    if weight.dtype() != DType::I32 || weight.shape().len() != 1 || weight.shape() == [0] {
        return refused(format!("tensor `{}` is {}, expected i32 of one dimension", name(order), weight.ty()));
    }
    let evaluated = weight.evaluate()?;
    let (words, _) = evaluated.as_bytes().as_chunks::<4>();
    let mut found = Vec::with_capacity(words.len());
    for (column, word) in words.iter().enumerate() {
        let group = i32::from_le_bytes(*word);
        match usize::try_from(group).ok().filter(|group| *group < groups) {
            Some(group) => found.push(group),
            None => {
                let name = name(order);
                return refused(format!(
                    "tensor `{name}` puts column {column} into group {group}, and there are {groups}"
                ));
            }
        }
    }
    Ok(found)
}

/// Whether a zero point is stored as the largest code.
fn has_full(zeros: &Weight, bits: usize) -> Result<bool> {
    let evaluated = zeros.evaluate()?;
    // Values of 3 bits fill three words.
    let words = if bits == 3 { 12 } else { 4 };
    let mut pieces = evaluated.as_bytes().chunks_exact(words);
    let mask = (1u128 << bits) - 1;
    Ok(pieces.any(|piece| {
        let piece = piece.iter().rev().fold(0u128, |word, byte| word << 8 | u128::from(*byte));
        (0..words * 8 / bits).any(|i| piece >> (bits * i) & mask == mask)
    }))
}
