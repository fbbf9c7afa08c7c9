//! What is said of a model whose weights were quantized.

use crate::front::hub::checkpoint::{Checkpoint, StateDict, Tensor};

/// Warnings about its numbers.
pub fn warnings(checkpoint: &Checkpoint) -> Vec<String> {
    let plain = checkpoint.state.iter().filter(|(_, tensor)| tensor.weight.packing().is_some());
    let plain = plain.filter(|(_, tensor)| !tensor.weight.is_quantized()).count();
    let plain = (plain > 0).then(|| format!("{plain} tensors are 8-bit floats without scales, and are read as such"));
    let known = checkpoint.quantized.iter().flat_map(|quantized| &quantized.warnings);
    known.cloned().chain(plain).collect()
}

/// What merging took from the packed weights: their size, and that another rounding follows in any smaller format.
pub fn merged_cost(checkpoint: &Checkpoint, base: &StateDict, state: &StateDict) -> Option<String> {
    let method = &checkpoint.quantized.as_ref()?.method;
    let was_packed = |(name, now): &(&str, &Tensor)| {
        base.get(name)
            .filter(|before| before.weight.is_quantized() && !before.weight.is(&now.weight))
            .map(|b| (b.weight.stored_len(), now.weight.byte_len()))
    };
    let changed: Vec<(usize, usize)> = state.iter().filter_map(|pair| was_packed(&pair)).collect();
    let (before, after) = changed.iter().fold((0, 0), |(before, after), (b, a)| (before + b, after + a));
    (!changed.is_empty()).then(|| {
        format!(
            "adapters are merged in FP32 into {} weights that {method} had packed: {:.1} MB become {:.1} MB, and a smaller \
             number format rounds them again",
            changed.len(),
            before as f64 / 1e6,
            after as f64 / 1e6
        )
    })
}
