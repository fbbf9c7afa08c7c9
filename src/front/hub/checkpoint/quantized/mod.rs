//! Quantized checkpoints as they are published. The tensors of a quantized module become one weight under the name that the
//! float checkpoint has for it, so families, adapters and passes learn nothing of quantization.
//!
//! There is a file for each method, which reads its fields of `quantization_config` and finds its tensors by their names.
//! `docs/quantized-checkpoints.md` has the methods with their tensors.

mod awq;
mod bitsandbytes;
mod compressed;
mod fp8;
mod gptq;
mod module;
mod mxfp4;
mod settings;

use super::config::CommonConfig;
use super::state::StateDict;
use crate::error::{Error, Result, printable};
use module::{Method, Modules};
use settings::Settings;

pub use module::Quantized;

const METHODS: [Method; 7] =
    [gptq::METHOD, awq::METHOD, fp8::METHOD, fp8::FBGEMM, compressed::METHOD, mxfp4::METHOD, bitsandbytes::METHOD];

/// The tensors with those of quantized modules replaced by weights.
///
/// Fails where the method or one of its settings is not read, where a part of a module is missing or does not fit, and where
/// the configuration speaks of quantization and no tensor is quantized so.
pub fn read(config: &CommonConfig, state: StateDict) -> Result<(StateDict, Option<Quantized>)> {
    let (field, fields) = match (&config.quantization_config, &config.compression_config) {
        (Some(fields), None) => ("quantization_config", fields),
        (None, Some(fields)) => ("compression_config", fields),
        (None, None) => return Ok((state, None)),
        (Some(_), Some(_)) => {
            let error = Error::bad_input("both quantization_config and compression_config are there, expected one");
            return Err(error.at("config.json"));
        }
    };
    let settings = Settings::new(field, fields);
    let method = method(&settings)?;
    let mut modules = Modules::new(method.name, state);
    modules.warnings.extend(settings.unknown(method.fields));
    (method.read)(&settings, &mut modules)?;
    modules.expect_scaled()?;
    let (state, quantized) = modules.finish();
    if quantized.packings.is_empty() {
        return Err(Error::bad_input(format!("the model is quantized by {}, and no tensor is packed so", method.name))
            .at(settings.place("quant_method"))
            .hint(format!("if its weights are floats, take `{field}` out of config.json")));
    }
    Ok((state, Some(quantized)))
}

/// The method that the configuration names.
fn method(settings: &Settings) -> Result<&'static Method> {
    let find = |name: &str| METHODS.iter().find(|method| method.name == name);
    let named = settings.text("quant_method")?;
    // bitsandbytes had no name when it was the only one.
    let of_bits = || ["load_in_4bit", "load_in_8bit"].into_iter().any(|field| settings.has(field));
    let named = named.or_else(|| of_bits().then_some(bitsandbytes::METHOD.name));
    let known: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
    match named {
        None => Err(Error::bad_input("`quant_method` is missing")
            .at(settings.place("quant_method"))
            .hint(format!("known: {}", known.join(", ")))),
        Some(name) => find(name).ok_or_else(|| {
            Error::unsupported(format!("weights that are quantized by `{}` are not read", printable(name)))
                .at(settings.place("quant_method"))
                .hint(format!("known: {}; or give the checkpoint that it was quantized from", known.join(", ")))
        }),
    }
}
