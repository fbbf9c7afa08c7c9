//! bitsandbytes: NF4 and FP4 of QLoRA (arXiv 2305.14314), whose state is in tensors beside `weight`, and LLM.int8 (arXiv
//! 2208.07339), whose scales are in `SCB`.

use serde::Deserialize;

use super::super::state::Tensor;
use super::fp8;
use super::module::{Method, Modules};
use super::settings::Settings;
use crate::error::{Error, Result, printable};
use crate::ir::weight::{Codebook, Element, Expr, Packing};
use crate::ir::{DType, Weight};
use crate::json;

pub(super) const METHOD: Method = Method {
    name: "bitsandbytes",
    fields: &[
        "_load_in_4bit",
        "_load_in_8bit",
        "bnb_4bit_compute_dtype",
        "bnb_4bit_quant_storage",
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "llm_int8_enable_fp32_cpu_offload",
        "llm_int8_has_fp16_weight",
        "llm_int8_skip_modules",
        "llm_int8_threshold",
        "load_in_4bit",
        "load_in_8bit",
    ],
    read,
};

/// The ends of the names of a weight's state, by its type.
const STATES: [&str; 2] = [".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"];

/// The ends of the names of the tensors that belong to a state.
const PARTS: [&str; 4] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];

/// The state of a weight that is no tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    quant_type: String,
    blocksize: usize,
    #[serde(rename = "dtype")]
    _dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    #[serde(rename = "nested_dtype")]
    _nested_dtype: Option<String>,
    nested_offset: Option<f32>,
}

fn read(settings: &Settings, modules: &mut Modules) -> Result<()> {
    settings.refuse("llm_int8_has_fp16_weight", "weights of two types are")?;
    for end in STATES {
        for name in modules.stems(&[end]) {
            read_four_bits(modules, &name, end)?;
        }
    }
    let eight = modules.stems(&[".SCB"]);
    for stem in &eight {
        read_eight_bits(modules, stem)?;
    }
    if !eight.is_empty() {
        modules.warnings.push(fp8::activations("dynamic scales, but for outliers,"));
    }
    modules.expect_none(&PARTS)
}

/// NF4 and FP4: the tensor `name` with its state.
fn read_four_bits(modules: &mut Modules, name: &str, end: &str) -> Result<()> {
    let packed = modules.part(name, end)?;
    let state = state(&packed, end).map_err(|e| e.at(packed.file.to_string()))?;
    let weight = modules.part(name, "")?;
    let refused = |message: String| Err(Error::bad_input(message).at(weight.file.to_string()));
    let [n, k] = state.shape[..] else {
        return refused(format!("tensor `{}{end}`: shape {:?}, expected two dimensions", printable(name), state.shape));
    };
    if !k.is_multiple_of(2) || state.blocksize == 0 || state.nested_blocksize == Some(0) {
        return refused(format!(
            "tensor `{}{end}`: rows of {k} in blocks of {}, expected an even number and blocks from 1",
            printable(name),
            state.blocksize
        ));
    }
    let mut parts = vec![bytes(&weight, [n, k / 2]).map_err(|e| e.at(weight.file.to_string()))?];
    for end in [".quant_map", ".absmax"] {
        parts.push(modules.part(name, end)?.weight);
    }
    if let Some(offset) = state.nested_offset {
        for end in [".nested_quant_map", ".nested_absmax"] {
            parts.push(modules.part(name, end)?.weight);
        }
        parts.push(Weight::f32s(Vec::new(), &[offset])?);
    }
    let nested = state.nested_blocksize.filter(|_| state.nested_offset.is_some());
    let codebook = Codebook { block: state.blocksize, nested };
    modules.put(name.to_owned(), Packing::Codebook(codebook), parts, &weight.file)
}

/// The state, which is JSON in the bytes of a tensor.
fn state(packed: &Tensor, end: &str) -> Result<State> {
    let name = printable(packed.weight.source_name().unwrap_or_default());
    if packed.weight.dtype() != DType::U8 {
        return Err(Error::bad_input(format!("tensor `{name}` holds {}, expected u8", packed.weight.dtype())));
    }
    let evaluated = packed.weight.evaluate()?;
    let text = std::str::from_utf8(evaluated.as_bytes())
        .map_err(|_| Error::bad_input(format!("tensor `{name}` is not UTF-8")))?;
    let state: State = json::parse(text, &format!("tensor `{name}`"))?;
    if !end.ends_with(&state.quant_type) || state.nested_blocksize.is_some() != state.nested_offset.is_some() {
        return Err(Error::bad_input(format!("tensor `{name}` contradicts itself or its name")));
    }
    Ok(state)
}

/// The codes as bytes of that shape, whatever type they are stored as (`bnb_4bit_quant_storage`).
fn bytes(weight: &Tensor, shape: [usize; 2]) -> Result<Weight> {
    let Expr::Source { name, data } = weight.weight.expr() else {
        let name = printable(weight.weight.source_name().unwrap_or_default());
        return Err(Error::unsupported(format!("tensor `{name}` holds 8-bit floats, expected bytes")));
    };
    Weight::source(name.clone(), DType::U8, shape.to_vec(), data.clone())
}

/// LLM.int8: rows of integers, each with its largest magnitude.
fn read_eight_bits(modules: &mut Modules, stem: &str) -> Result<()> {
    let scales = modules.part(stem, ".SCB")?;
    let weight = modules.part(stem, ".weight")?;
    if let Some(format) = modules.optional(stem, ".weight_format") {
        check_format(&format).map_err(|e| e.at(format.file.to_string()))?;
    }
    let [n, k] = match weight.weight.shape() {
        [n, k] if weight.weight.dtype() == DType::I8 => [*n, *k],
        _ => {
            return Err(Error::bad_input(format!(
                "tensor `{}.weight` is {}, expected i8 of two dimensions",
                printable(stem),
                weight.weight.ty()
            ))
            .at(weight.file.to_string()));
        }
    };
    let scales = match scales.weight.shape() == [n] {
        true => scales.weight.reshape(vec![n, 1])?,
        // What puts the parts together has the message.
        false => scales.weight,
    };
    let packing = fp8::scaled(Element::I8By127, [1, k.max(1)]);
    modules.put(format!("{stem}.weight"), packing, vec![weight.weight, scales], &weight.file)
}

/// Fails where the integers are in the order of a kernel.
fn check_format(format: &Tensor) -> Result<()> {
    let evaluated = format.weight.evaluate()?;
    match evaluated.as_bytes().first() {
        Some(0) => Ok(()),
        _ => Err(Error::unsupported(format!(
            "tensor `{}` says another order than by rows, which is not read",
            printable(format.weight.source_name().unwrap_or_default())
        ))),
    }
}
