//! TensorRT for RTX 1.7: it compiles ahead of time, for GPUs that are named and need not be there.

use trtx::BuilderConfig;

use crate::back::tensorrt::names::NAME;
use crate::back::tensorrt::{CompileOptions, Journal, refused};
use crate::error::{Error, Result};
use crate::target::ComputeCapability;

/// Says the GPUs that the plan is for.
pub(crate) fn aim(config: &mut BuilderConfig, options: &CompileOptions) -> Result<()> {
    let capabilities = &options.capabilities;
    if capabilities.is_empty() {
        return Err(Error::bad_input("no compute capability to compile for"));
    }
    config.set_nb_compute_capabilities(capabilities.len() as i32).map_err(refused)?;
    for (index, capability) in capabilities.iter().enumerate() {
        if capabilities.iter().take(index).any(|other| other == capability) {
            return Err(Error::bad_input(format!("duplicate compute capability {capability}")));
        }
        config.set_compute_capability(native(*capability)?, index as i32).map_err(refused)?;
    }
    Ok(())
}

/// The source of the layers of the plan that was just compiled: the log, because an inspector would need the GPU.
pub(crate) fn layer_list(journal: &Journal, _plan: &[u8]) -> Result<String> {
    Ok(journal.read().layers.clone().unwrap_or_default())
}

/// The library's own name for a compute capability.
fn native(capability: ComputeCapability) -> Result<trtx::ComputeCapability> {
    Ok(match capability.number() {
        75 => trtx::ComputeCapability::kSM75,
        80 => trtx::ComputeCapability::kSM80,
        86 => trtx::ComputeCapability::kSM86,
        89 => trtx::ComputeCapability::kSM89,
        120 => trtx::ComputeCapability::kSM120,
        121 => trtx::ComputeCapability::kSM121,
        _ => return Err(Error::bug(format!("{NAME} has no name for {capability}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_capability_has_a_native_name() {
        for (number, _) in ComputeCapability::KNOWN {
            assert!(format!("sm{number}").parse().and_then(native).is_ok());
        }
    }
}
