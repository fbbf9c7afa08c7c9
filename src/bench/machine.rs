//! What a measurement was made on.

use serde::{Deserialize, Serialize};

/// The machine, as far as the system tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// What of the processor's instructions matters to engines.
    pub features: Vec<String>,
    /// Memory in bytes; 0 where it is not told.
    pub memory_bytes: u64,
    /// The operating system and its version.
    pub system: String,
    /// How the clock is governed, e.g. `performance`; none where it is not told, as in many virtual machines.
    pub governor: Option<String>,
    /// Whether the clock may go beyond its nominal speed.
    pub turbo: Option<bool>,
    /// How many processes wanted to run in the minute before.
    pub load: Option<f64>,
}

/// Instructions that decide how fast matrix products are.
const FEATURES: [&str; 12] = [
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
];

impl Machine {
    /// This machine, now.
    pub fn here() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let info = read("/proc/cpuinfo").unwrap_or_default();
        let field = |names: &[&str]| {
            info.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| names.contains(&name.trim()))
        };
        let flags: Vec<&str> =
            field(&["flags", "Features"]).map_or(Vec::new(), |(_, v)| v.split_whitespace().collect());
        let memory = read("/proc/meminfo").unwrap_or_default();
        let kilobytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
        let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
        let boost = read("/sys/devices/system/cpu/cpufreq/boost").map(|text| text.trim() == "1");
        let no_turbo = read("/sys/devices/system/cpu/intel_pstate/no_turbo").map(|text| text.trim() == "0");
        Machine {
            cpu: field(&["model name"]).map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, v)| v.trim().to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            features: FEATURES.iter().filter(|name| flags.contains(name)).map(|name| (*name).to_owned()).collect(),
            memory_bytes: kilobytes.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024,
            system: format!("{} {}", std::env::consts::OS, release.trim()).trim().to_owned(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").map(|text| text.trim().to_owned()),
            turbo: boost.or(no_turbo),
            load: read("/proc/loadavg").and_then(|text| text.split_whitespace().next()?.parse().ok()),
        }
    }

    /// One line for the eye.
    pub fn line(&self) -> String {
        let mut parts = vec![self.cpu.clone(), format!("{} CPUs", self.cpus)];
        parts.extend((!self.features.is_empty()).then(|| self.features.join(" ")));
        parts.extend((self.memory_bytes > 0).then(|| format!("{:.0} GB", self.memory_bytes as f64 / 1e9)));
        parts.push(self.system.clone());
        parts.extend(self.governor.as_ref().map(|governor| format!("governor {governor}")));
        parts.extend(self.turbo.map(|turbo| format!("turbo {}", if turbo { "on" } else { "off" })));
        parts.extend(self.load.map(|load| format!("load {load:.2}")));
        parts.join(" · ")
    }
}
