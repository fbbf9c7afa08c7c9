//! compressed-tensors, which LLM Compressor writes: `weight` in 8-bit floats or integers with `weight_scale`, and `weight_packed` with
//! `weight_shape` for integers of fewer bits. Groups of the configuration say by names or classes which modules they are for.

use fancy_regex::RegexBuilder;

use super::super::state::Tensor;
use super::fp8;
use super::gptq;
use super::module::{Method, Modules};
use super::settings::Settings;
use crate::error::{Error, Result, printable};
use crate::ir::weight::{Affine, Element, Layout, Packing};
use crate::ir::{DType, Weight};

pub(super) const METHOD: Method = Method {
    name: "compressed-tensors",
    fields: &[
        "config_groups",
        "format",
        "global_compression_ratio",
        "ignore",
        "kv_cache_scheme",
        "quantization_status",
        "run_compressed",
        "sparsity_config",
        "transform_config",
        "version",
    ],
    read,
};

/// The fields of a group.
const GROUP: &[&str] = &["format", "input_activations", "output_activations", "targets", "weights"];

/// The fields of a group's weights.
const WEIGHTS: &[&str] = &[
    "actorder",
    "block_structure",
    "dynamic",
    "group_size",
    "num_bits",
    "observer",
    "observer_kwargs",
    "scale_dtype",
    "strategy",
    "symmetric",
    "type",
    "zp_dtype",
];

/// Steps of a search for a pattern in a name.
const LONGEST_SEARCH: usize = 100_000;

const FORMATS: &[&str] = &["float-quantized", "int-quantized", "naive-quantized", "pack-quantized"];

/// How a group of modules is quantized.
struct Group<'a> {
    targets: Vec<&'a str>,
    bits: usize,
    is_float: bool,
    symmetric: bool,
    strategy: &'a str,
    size: Option<usize>,
    block: Option<[usize; 2]>,
}

fn read(settings: &Settings, modules: &mut Modules) -> Result<()> {
    settings.refuse("transform_config", "rotations of weights and activations are")?;
    if let Some(sparsity) = settings.below("sparsity_config")? {
        sparsity.one_of("format", &["dense"], "dense")?;
    }
    let mixed = settings.text("format")? == Some("mixed-precision");
    if !mixed {
        settings.one_of("format", FORMATS, "dense")?;
    }
    let groups = groups(settings, mixed, modules)?;
    for stem in modules.stems(&[".weight_packed"]) {
        read_packed(modules, &stem, of(&groups, &stem, settings)?)?;
    }
    for stem in modules.stems(&[".weight_scale"]) {
        read_whole(modules, &stem, of(&groups, &stem, settings)?)?;
    }
    fp8::drop_activations(modules, settings.has("kv_cache_scheme"));
    modules.expect_none(&[
        ".weight_scale",
        ".weight_zero_point",
        ".weight_shape",
        ".weight_g_idx",
        ".weight_global_scale",
    ])
}

/// The groups, in the order of their names.
fn groups<'a>(settings: &Settings<'a>, mixed: bool, modules: &mut Modules) -> Result<Vec<Group<'a>>> {
    let Some(all) = settings.below("config_groups")? else {
        return Err(Error::bad_input("`config_groups` is missing").at(settings.place("config_groups")));
    };
    let mut groups = Vec::new();
    let mut scales = None;
    for name in all.names() {
        let Some(group) = all.below(name)? else { continue };
        modules.warnings.extend(group.unknown(GROUP));
        if mixed || group.has("format") {
            group.one_of("format", FORMATS, "dense")?;
        }
        if let Some(inputs) = group.below("input_activations")? {
            scales = Some(if inputs.has("dynamic") { "dynamic scales" } else { "static scales" });
        }
        if let Some(weights) = group.below("weights")? {
            modules.warnings.extend(weights.unknown(WEIGHTS));
            groups.push(Group::read(&weights, group.texts("targets")?)?);
        }
    }
    modules.warnings.extend(scales.map(fp8::activations));
    Ok(groups)
}

impl<'a> Group<'a> {
    fn read(weights: &Settings<'a>, targets: Vec<&'a str>) -> Result<Group<'a>> {
        let is_float = weights.one_of("type", &["int", "float"], "int")? == "float";
        let bits = weights.bits("num_bits", if is_float { &[8] } else { &[4, 8] }, 8)?;
        let size = weights.group_size("group_size")?;
        let or = if size.is_some() { "group" } else { "tensor" };
        Ok(Group {
            targets,
            bits,
            is_float,
            symmetric: weights.flag("symmetric")?.unwrap_or(true),
            strategy: weights.one_of("strategy", &["tensor", "channel", "group", "block"], or)?,
            size,
            block: weights.pair("block_structure")?,
        })
    }

    /// How well a module is meant: by its own name, by a pattern, by its class.
    fn rank(&self, stem: &str) -> Result<Option<usize>> {
        let mut best = None;
        for target in &self.targets {
            let rank = match target.strip_prefix("re:") {
                None if *target == stem => Some(0),
                None => (*target == "Linear").then_some(2),
                Some(pattern) => is_match(pattern, stem)?.then_some(1),
            };
            best = [best, rank].into_iter().flatten().min();
        }
        Ok(best)
    }

    /// Rows and columns that share a scale, of a weight `[n, k]`.
    fn block(&self, [n, k]: [usize; 2]) -> Result<[usize; 2]> {
        match (self.strategy, self.size, self.block) {
            ("tensor", ..) => Ok([n.max(1), k.max(1)]),
            ("channel", ..) => Ok([1, k.max(1)]),
            ("group", Some(size), _) => Ok([1, size]),
            ("block", _, Some(block)) => Ok(block),
            (strategy, ..) => Err(Error::bad_input(format!("weights by `{strategy}` have no size of theirs"))
                .at("config.json: quantization_config.config_groups")),
        }
    }
}

/// Whether a pattern matches a name from its beginning, as Python's `re.match` does.
fn is_match(pattern: &str, name: &str) -> Result<bool> {
    let refused = |e: fancy_regex::Error| {
        Error::bad_input(format!("the pattern `{}` cannot be used: {e}", printable(pattern)))
            .at("config.json: quantization_config.config_groups")
    };
    let anchored = format!("^(?:{pattern})");
    let regex = RegexBuilder::new(&anchored).backtrack_limit(LONGEST_SEARCH).build().map_err(refused)?;
    regex.is_match(name).map_err(refused)
}

/// The group of a module.
fn of<'g, 'a>(groups: &'g [Group<'a>], stem: &str, settings: &Settings) -> Result<&'g Group<'a>> {
    let mut best: Option<(usize, &Group)> = None;
    for group in groups {
        if let Some(rank) = group.rank(stem)?
            && best.is_none_or(|(other, _)| rank < other)
        {
            best = Some((rank, group));
        }
    }
    best.map(|(_, group)| group).ok_or_else(|| {
        Error::bad_input(format!("`{}` is quantized, and no group of `config_groups` is for it", printable(stem)))
            .at(settings.place("config_groups"))
    })
}

/// Integers in words.
fn read_packed(modules: &mut Modules, stem: &str, group: &Group) -> Result<()> {
    let [codes, scales, shape] =
        [".weight_packed", ".weight_scale", ".weight_shape"].map(|end| modules.part(stem, end));
    let (codes, scales, shape) = (codes?, scales?, shape?);
    let at = |e: Error| e.at(codes.file.to_string());
    let [n, k] = stated(&shape).map_err(at)?;
    let zeros = match group.symmetric {
        true => None,
        false => Some(modules.part(stem, ".weight_zero_point")?.weight),
    };
    let order = modules.optional(stem, ".weight_g_idx");
    let words = k.checked_mul(group.bits).filter(|bits| bits.is_multiple_of(32)).map(|bits| bits / 32);
    if group.is_float || words.is_none_or(|words| codes.weight.shape() != [n, words]) {
        return Err(at(Error::bad_input(format!(
            "tensor `{}.weight_packed` is {}, expected [{n}, {k}] of {} bits in whole words",
            printable(stem),
            codes.weight.ty(),
            group.bits
        ))));
    }
    let [height, width] = group.block([n, k])?;
    if height != 1 {
        let what = format!("`{}`: packed integers that share a scale with other rows are not read", printable(stem));
        return Err(at(Error::unsupported(what)));
    }
    let scales = fp8::scaled_by(&scales.weight, [n, k], Some([1, width])).map_err(at)?.1;
    let affine = Affine { layout: Layout::Rows, bits: group.bits, group: width };
    let order = order.map(|order| in_another_order(order, k.div_ceil(width), width)).transpose()?.flatten();
    let parts = [codes.weight, scales].into_iter().chain(zeros).chain(order).collect();
    modules.put(format!("{stem}.weight"), Packing::Affine(affine), parts, &codes.file)
}

/// The group of each column, where columns are not in the order of their groups. Groups of −1 were never set: they are in order.
fn in_another_order(order: Tensor, groups: usize, width: usize) -> Result<Option<Weight>> {
    let evaluated = order.weight.evaluate()?;
    let unset = evaluated.as_bytes().as_chunks::<4>().0.iter().any(|word| i32::from_le_bytes(*word) == -1);
    if unset && order.weight.dtype() == DType::I32 {
        return Ok(None);
    }
    let found = gptq::groups_of(&order, groups)?;
    let is_ordered = found.iter().enumerate().all(|(column, group)| *group == column / width);
    Ok((!is_ordered).then(|| order.weight.clone()))
}

/// The shape of a weight, which is a tensor of two numbers.
fn stated(shape: &Tensor) -> Result<[usize; 2]> {
    let refused = || {
        let name = printable(shape.weight.source_name().unwrap_or_default());
        Error::bad_input(format!("tensor `{name}` is {}, expected two sizes as i64", shape.weight.ty()))
    };
    if !matches!(shape.weight.dtype(), DType::I64 | DType::I32) || shape.weight.shape() != [2] {
        return Err(refused());
    }
    let evaluated = shape.weight.evaluate()?;
    let size = |bytes: &[u8]| {
        let number = bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).ok().filter(|size| *size > 0 && *size < 1 << 40)
    };
    let sizes: Option<Vec<usize>> = evaluated.as_bytes().chunks(shape.weight.dtype().size()).map(size).collect();
    sizes.and_then(|sizes| sizes.try_into().ok()).ok_or_else(refused)
}

/// 8-bit floats or integers, one in a byte.
fn read_whole(modules: &mut Modules, stem: &str, group: &Group) -> Result<()> {
    let [weight, scales] = [".weight", ".weight_scale"].map(|end| modules.part(stem, end));
    let (weight, scales) = (weight?, scales?);
    let zeros = modules.optional(stem, ".weight_zero_point");
    let at = |e: Error| e.at(weight.file.to_string());
    let sizes = <[usize; 2]>::try_from(weight.weight.shape()).map_err(|_| {
        at(Error::bad_input(format!(
            "tensor `{}.weight` is {}, expected two dimensions",
            printable(stem),
            weight.weight.ty()
        )))
    })?;
    let block = group.block(sizes)?;
    if let Some(zeros) = zeros.as_ref().filter(|_| group.is_float || group.symmetric) {
        expect_zeros(zeros)?;
    }
    if group.is_float {
        return fp8::put(modules, stem, &weight, &scales.weight, Some(block));
    }
    let shaped = |part: &Weight| fp8::scaled_by(part, sizes, Some(block)).map(|(_, part)| part).map_err(at);
    let mut parts = vec![weight.weight.clone(), shaped(&scales.weight)?];
    if !group.symmetric {
        let zeros = zeros.ok_or_else(|| {
            at(Error::bad_input(format!("tensor `{}.weight_zero_point` is missing", printable(stem))))
        })?;
        parts.push(shaped(&zeros.weight)?);
    }
    modules.put(format!("{stem}.weight"), fp8::scaled(Element::I8, block), parts, &weight.file)
}

/// Fails where the zero points of symmetric or floating-point values are not 0.
fn expect_zeros(zeros: &Tensor) -> Result<()> {
    let stored = zeros.weight.packing().and_then(|(_, parts)| parts.first()).unwrap_or(&zeros.weight);
    match stored.evaluate()?.as_bytes().iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "tensor `{}` holds zero points, and its group says that there are none",
            printable(stored.source_name().unwrap_or_default())
        ))
        .at(zeros.file.to_string())),
    }
}
