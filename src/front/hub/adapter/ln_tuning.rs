//! LN tuning: norms, trained whole (arXiv 2312.11420).

use super::file::Adapter;
use super::kind::Kind;
use super::work::Work;
use crate::error::{Error, Result, printable};

pub(super) const KIND: Kind = Kind {
    peft_type: "LN_TUNING",
    marker: "ln_tuning_",
    parts: &["ln_tuning_layers.weight", "ln_tuning_layers.bias"],
    idle: &[],
    options: &[&["exclude_modules", "modules_to_save"]],
    scales: false,
    conv1d: true,
};

pub(super) fn merge(work: &mut Work, adapter: &Adapter) -> Result<()> {
    for (module, parts) in &adapter.modules {
        for part in KIND.parts {
            let Some((_, parameter)) = part.split_once('.') else { continue };
            let name = work.name(module, parameter);
            let Some(weight) = parts.get(part) else {
                match work.base(&name) {
                    Ok(_) => return Err(Error::bad_input(format!("{part} is missing")).at(adapter.location(module))),
                    Err(_) => continue,
                }
            };
            let base = work.base(&name).map_err(|e| e.at(adapter.location(module)))?;
            if base.weight.shape() != work.turned(&name, weight)?.shape() {
                return Err(Error::bad_input(format!(
                    "`{}` has shape {:?}, the base model's {:?}",
                    printable(&name),
                    weight.shape(),
                    base.weight.shape()
                ))
                .at(adapter.location(module))
                .hint("the adapter was trained on another model"));
            }
            work.save(adapter, &name, weight).map_err(|e| e.at(adapter.location(module)))?;
        }
    }
    Ok(())
}
