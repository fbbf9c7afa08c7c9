//! MXFP4 of gpt-oss: `X_blocks` and `X_scales` of the experts' projections.

use super::module::{Method, Modules};
use super::settings::Settings;
use crate::error::Result;
use crate::ir::weight::{Microscaled, Packing};

pub(super) const METHOD: Method = Method { name: "mxfp4", fields: &["dequantize", "modules_to_not_convert"], read };

/// The ends of the names of a projection's tensors.
const PARTS: [&str; 2] = ["_blocks", "_scales"];

fn read(_: &Settings, modules: &mut Modules) -> Result<()> {
    for stem in modules.stems(&PARTS) {
        let [blocks, scales] = PARTS.map(|end| modules.part(&stem, end));
        let (blocks, scales) = (blocks?, scales?);
        modules.put(
            stem,
            Packing::Microscaled(Microscaled { flat: false }),
            vec![blocks.weight, scales.weight],
            &blocks.file,
        )?;
    }
    Ok(())
}
