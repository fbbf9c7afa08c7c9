//! FP8: `weight` in 8-bit floats with `weight_scale_inv` (DeepSeek-V3, Qwen3) or `weight_scale` (AutoFP8, FBGEMM), which multiplies a
//! tensor, a row or a block.

use std::sync::Arc;

use super::super::state::Tensor;
use super::module::{Method, Modules};
use super::settings::Settings;
use crate::error::{Error, Result, printable};
use crate::ir::Weight;
use crate::ir::weight::{Element, Packing, Scaled};

pub(super) const METHOD: Method = Method {
    name: "fp8",
    fields: &[
        "activation_scheme",
        "dequantize",
        "fmt",
        "ignored_layers",
        "kv_cache_scheme",
        "modules_to_not_convert",
        "scale_fmt",
        "weight_block_size",
    ],
    read: read_fp8,
};

pub(super) const FBGEMM: Method =
    Method { name: "fbgemm_fp8", fields: &["activation_scale_ub", "modules_to_not_convert"], read: read_fbgemm };

/// The ends of the names of scales.
const SCALES: [&str; 2] = [".weight_scale_inv", ".weight_scale"];

/// The ends of the names of what only quantized activations need.
const ACTIVATIONS: [&str; 7] = [
    ".input_scale",
    ".input_scale_ub",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    ".output_scale",
    ".output_zero_point",
];

/// The same for quantized keys and values.
const CACHE: [&str; 3] = [".q_scale", ".k_scale", ".v_scale"];

fn read_fp8(settings: &Settings, modules: &mut Modules) -> Result<()> {
    settings.one_of("fmt", &["e4m3", "e5m2"], "e4m3")?;
    let block = settings.pair("weight_block_size")?;
    let scheme = settings.one_of("activation_scheme", &["dynamic", "static"], "dynamic")?;
    read(block, modules)?;
    modules.warnings.push(activations(&format!("{scheme} scales")));
    Ok(())
}

fn read_fbgemm(_: &Settings, modules: &mut Modules) -> Result<()> {
    read(None, modules)?;
    modules.warnings.push(activations("dynamic scales"));
    Ok(())
}

/// What engines do not do of a method that quantizes activations as well.
pub(super) fn activations(scales: &str) -> String {
    format!(
        "the method quantizes activations with {scales} where its own kernels run; an engine has them in floating point"
    )
}

fn read(block: Option<[usize; 2]>, modules: &mut Modules) -> Result<()> {
    for stem in modules.stems(&SCALES) {
        let found = SCALES.map(|end| modules.optional(&stem, end));
        let scales = match found {
            [Some(scales), None] | [None, Some(scales)] => scales,
            found => {
                let files = found.iter().flatten().map(|tensor| tensor.file.to_string()).next();
                let error = Error::bad_input(format!("`{}` has two scales, expected one", printable(&stem)));
                return Err(error.at(files.unwrap_or_default()));
            }
        };
        let weight = modules.part(&stem, ".weight")?;
        put(modules, &stem, &weight, &scales.weight, block)?;
    }
    drop_activations(modules, false);
    modules.expect_none(&SCALES)
}

/// Takes out what only quantized activations need, and warns of a quantized cache, which tensors or the configuration show.
pub(super) fn drop_activations(modules: &mut Modules, cache: bool) {
    modules.drop(&ACTIVATIONS);
    if modules.drop(&CACHE) > 0 || cache {
        let warning = "the method keeps keys and values in few bits; an engine has them in floating point";
        modules.warnings.push(warning.to_owned());
    }
}

/// Adds an FP8 weight with its scales, whose shape says what they are of; `block` is what the configuration says.
pub(super) fn put(
    modules: &mut Modules,
    stem: &str,
    weight: &Tensor,
    scales: &Weight,
    block: Option<[usize; 2]>,
) -> Result<()> {
    let file: &Arc<str> = &weight.file;
    let (Some((Packing::Scaled(Scaled { element, block: None }), [bytes])), [n, k]) =
        (weight.weight.packing(), weight.weight.shape())
    else {
        return Err(Error::bad_input(format!(
            "tensor `{}.weight` is {}, expected a matrix of 8-bit floats",
            printable(stem),
            weight.weight.ty()
        ))
        .at(file.to_string())
        .hint(format!("its scales are there: `{}`", printable(scales.source_name().unwrap_or_default()))));
    };
    let (block, scales) = scaled_by(scales, [*n, *k], block).map_err(|e| e.at(file.to_string()))?;
    modules.put(format!("{stem}.weight"), scaled(element, block), vec![bytes.clone(), scales], file)
}

pub(super) fn scaled(element: Element, block: [usize; 2]) -> Packing {
    Packing::Scaled(Scaled { element, block: Some(block) })
}

/// The rows and columns that a scale is for, and the scales as a matrix. Dimensions of 1 are left out of some files.
pub(super) fn scaled_by(
    scales: &Weight,
    [n, k]: [usize; 2],
    block: Option<[usize; 2]>,
) -> Result<([usize; 2], Weight)> {
    let count: usize = scales.shape().iter().product();
    let reshaped = |block: [usize; 2]| -> Result<([usize; 2], Weight)> {
        let shape = vec![n.div_ceil(block[0]), k.div_ceil(block[1])];
        Ok((block, scales.reshape(shape)?))
    };
    let squeezed = |shape: &[usize]| -> Vec<usize> { shape.iter().copied().filter(|size| *size != 1).collect() };
    if let Some(block @ [height, width]) = block
        && squeezed(scales.shape()) == squeezed(&[n.div_ceil(height), k.div_ceil(width)])
    {
        return reshaped(block);
    }
    match scales.shape() {
        _ if block.is_some() => {}
        _ if count == 1 => return reshaped([n.max(1), k.max(1)]),
        [rows] | [rows, 1] if *rows == n => return reshaped([1, k.max(1)]),
        _ => {}
    }
    let expected = match block {
        Some([height, width]) => format!("one scale for each block of [{height}, {width}]"),
        None => "one scale for the tensor or for each row".to_owned(),
    };
    Err(Error::bad_input(format!(
        "tensor `{}` has shape {:?}, expected {expected} of [{n}, {k}]",
        printable(scales.source_name().unwrap_or_default()),
        scales.shape()
    )))
}
