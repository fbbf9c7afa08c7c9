//! The properties of the processor that decide which engine runs on it, and how.

/// A processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    /// Its maker's name for it; the architecture, where the system does not report it. Hypervisors give one name to
    /// processors with different instructions.
    pub name: String,
    /// Its instructions that decide how matrix products are computed, by the names of `/proc/cpuinfo`.
    pub features: Vec<&'static str>,
}

impl Processor {
    /// This one.
    pub fn here() -> Processor {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        let name = fields.find(|(name, _)| name.trim() == "model name").map(|(_, value)| value.trim().to_owned());
        Processor { name: name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()), features: features() }
    }

    /// Whether it multiplies in BF16.
    pub fn bf16(&self) -> bool {
        self.has(&["avx512_bf16", "bf16"])
    }

    /// Whether it adds up products of 8 bits in 32.
    ///
    /// Without VNNI, an x86 processor adds each two products in 16 bits, which saturate: ONNX Runtime and OpenVINO then
    /// compute other sums than elsewhere. MiniLM's logits in `int8` were off by 0.16 (rms) instead of 0.06 on an emulated
    /// Haswell, by OpenVINO 0.17 instead of 0.08 (2026-11-25, `scripts/peers/saturation.py`).
    pub fn exact_8_bits(&self) -> bool {
        !cfg!(target_arch = "x86_64") || self.has(&["avx512_vnni", "avx_vnni"])
    }

    fn has(&self, any: &[&str]) -> bool {
        self.features.iter().any(|feature| any.contains(feature))
    }
}

/// Read from the processor itself: the kernel reports the host's where a processor is emulated.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // AMX is of leaf 7 and needs no state to be named.
    let amx = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
    let all = [
        ("avx2", has!("avx2")),
        ("fma", has!("fma")),
        ("avx512f", has!("avx512f")),
        ("avx512_vnni", has!("avx512vnni")),
        ("avx_vnni", has!("avxvnni")),
        ("avx512_bf16", has!("avx512bf16")),
        ("amx_int8", amx & (1 << 25) != 0),
        ("amx_bf16", amx & (1 << 22) != 0),
    ];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    let all = [("asimddp", has!("dotprod")), ("i8mm", has!("i8mm")), ("bf16", has!("bf16")), ("sve", has!("sve"))];
    all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}
