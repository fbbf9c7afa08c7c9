//! AWQ (arXiv 2306.00978) as AutoAWQ saves it: `qweight`, `qzeros` and `scales` of each linear layer, 4 bits.

use super::module::{Method, Modules};
use super::settings::Settings;
use crate::error::Result;
use crate::ir::weight::{Affine, Layout, Packing};

pub(super) const METHOD: Method = Method {
    name: "awq",
    fields: &[
        "backend",
        "bits",
        "do_fuse",
        "exllama_config",
        "fuse_max_seq_len",
        "group_size",
        "modules_to_fuse",
        "modules_to_not_convert",
        "q_group_size",
        "version",
        "w_bit",
        "zero_point",
    ],
    read,
};

/// The ends of the names of a module's tensors.
const PARTS: [&str; 3] = [".qweight", ".qzeros", ".scales"];

fn read(settings: &Settings, modules: &mut Modules) -> Result<()> {
    // AutoAWQ's own file has other names for the two.
    let either = |one: &'static str, other: &'static str| if settings.has(one) { one } else { other };
    let bits = settings.bits(either("bits", "w_bit"), &[4], 4)?;
    let group = settings.group_size(either("group_size", "q_group_size"))?;
    settings.one_of("backend", &["autoawq"], "autoawq")?;
    let version = settings.text("version")?.unwrap_or("gemm").to_ascii_lowercase();
    let layout = match version.as_str() {
        // The last two are kernels over the layout of the first.
        "gemm" | "exllama" | "ipex" => Layout::Awq,
        "gemv" => Layout::AwqGemv,
        _ => settings.one_of("version", &["gemm", "gemv", "exllama", "ipex"], "gemm").map(|_| Layout::Awq)?,
    };
    for stem in modules.stems(&PARTS) {
        let [codes, zeros, scales] = PARTS.map(|end| modules.part(&stem, end));
        let (codes, zeros, scales) = (codes?, zeros?, scales?);
        let columns = match (layout, codes.weight.shape()) {
            (Layout::Awq, [columns, _]) => *columns,
            (_, [_, words]) => words.saturating_mul(8),
            _ => 0,
        };
        let affine = Affine { layout, bits, group: group.unwrap_or(columns).max(1) };
        let parts = vec![codes.weight, scales.weight, zeros.weight];
        modules.put(format!("{stem}.weight"), Packing::Affine(affine), parts, &codes.file)?;
    }
    Ok(())
}
