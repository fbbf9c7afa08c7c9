//! What of the processor decides which engine runs on it.

/// A processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// What its maker calls it; the architecture, where the system does not tell.
    pub name: String,
    /// Whether it multiplies in BF16.
    pub bf16: bool,
    /// Whether it adds up products of 8 bits in 32.
    ///
    /// Without VNNI, an x86 processor adds each two products in 16 bits, which saturate: ONNX Runtime and OpenVINO then
    /// answer otherwise than elsewhere. MiniLM's logits in `int8` were off by 0.16 (rms) instead of 0.06 on an emulated
    /// Haswell, by OpenVINO 0.17 instead of 0.08 (2026-11-25, `scripts/peers/saturation.py`).
    pub exact_8_bits: bool,
}

impl Processor {
    /// This one.
    pub fn here() -> Processor {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        let name = fields.find(|(name, _)| name.trim() == "model name").map(|(_, value)| value.trim().to_owned());
        Processor {
            name: name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            bf16: bf16(),
            exact_8_bits: exact_8_bits(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn bf16() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn bf16() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn exact_8_bits() -> bool {
    std::arch::is_x86_feature_detected!("avx512vnni") || std::arch::is_x86_feature_detected!("avxvnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn exact_8_bits() -> bool {
    true
}
