//! The machine of a measurement.

use serde::{Deserialize, Serialize};

use crate::runtime::library::{self, Library};
use crate::runtime::{Nvidia, Processor};

/// The machine, as far as the system reports it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Cores of all processors; several CPUs may be threads of one. None where the system does not report it.
    pub cores: Option<usize>,
    /// Whether it is a virtual machine, whose neighbours make noise.
    pub virtual_machine: bool,
    /// The processor's instructions that matter to engines.
    pub features: Vec<String>,
    /// Memory in bytes; 0 where the system does not report it.
    pub memory_bytes: u64,
    /// The operating system and its version.
    pub system: String,
    /// How the clock is governed, e.g. `performance`; none where the system does not report it, as in many virtual
    /// machines.
    pub governor: Option<String>,
    /// Whether the clock may go beyond its nominal speed.
    pub turbo: Option<bool>,
    /// How many processes wanted to run in the minute before.
    pub load: Option<f64>,
    /// NVIDIA's GPUs by name.
    pub gpus: Vec<String>,
    /// The version of their driver.
    pub driver: Option<String>,
    /// The native libraries that are found, whether they were used or not.
    pub libraries: Vec<LibraryFound>,
}

/// A native library and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryFound {
    /// Its name for people.
    pub name: String,
    /// The version, from the file's name.
    pub version: String,
}

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
        let nvidia = Nvidia::here();
        let processor = Processor::here();
        let found = |library: &&Library| {
            let version = Library::version(&library.find().ok()?)?;
            Some(LibraryFound { name: library.name.to_owned(), version })
        };
        Machine {
            cores: cores(&info),
            virtual_machine: flags.contains(&"hypervisor"),
            gpus: nvidia.gpus,
            driver: nvidia.driver,
            libraries: library::ALL.iter().filter_map(found).collect(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: processor.name.clone(),
            features: processor.features.iter().map(|name| (*name).to_owned()).collect(),
            memory_bytes: kilobytes.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024,
            system: format!("{} {}", std::env::consts::OS, release.trim()).trim().to_owned(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").map(|text| text.trim().to_owned()),
            turbo: boost.or(no_turbo),
            load: read("/proc/loadavg").and_then(|text| text.split_whitespace().next()?.parse().ok()),
        }
    }

    /// The differences of this machine from that of an earlier measurement, as far as times and outputs depend on it.
    pub fn differences(&self, earlier: &Machine) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, here: &str, there: &str| {
            if here != there {
                found.push(format!("{what} {}, here {here}", if there.is_empty() { "none" } else { there }));
            }
        };
        compare("processor", &self.cpu, &earlier.cpu);
        compare("instructions", &self.features.join(" "), &earlier.features.join(" "));
        compare("CPUs", &self.cpus.to_string(), &earlier.cpus.to_string());
        compare("GPUs", &self.gpus.join(", "), &earlier.gpus.join(", "));
        let driver = |machine: &Machine| machine.driver.clone().unwrap_or_default();
        compare("NVIDIA driver", &driver(self), &driver(earlier));
        for library in &self.libraries {
            if let Some(there) = earlier.libraries.iter().find(|there| there.name == library.name) {
                compare(&library.name, &library.version, &there.version);
            }
        }
        found
    }

    /// One line for the eye.
    pub fn line(&self) -> String {
        let mut parts = vec![self.cpu.clone(), format!("{} CPUs", self.cpus)];
        parts.extend(self.cores.filter(|cores| *cores < self.cpus).map(|cores| format!("{cores} cores")));
        parts.extend(self.virtual_machine.then(|| "virtual machine".to_owned()));
        parts.extend((!self.features.is_empty()).then(|| self.features.join(" ")));
        parts.extend((self.memory_bytes > 0).then(|| format!("{:.0} GB", self.memory_bytes as f64 / 1e9)));
        parts.push(self.system.clone());
        parts.extend(self.governor.as_ref().map(|governor| format!("governor {governor}")));
        parts.extend(self.turbo.map(|turbo| format!("turbo {}", if turbo { "on" } else { "off" })));
        parts.extend(self.load.map(|load| format!("load {load:.2}")));
        parts.extend(self.gpus.iter().cloned());
        parts.extend(self.driver.as_ref().map(|driver| format!("NVIDIA driver {driver}")));
        parts.join(" · ")
    }

    /// The libraries for the eye.
    pub fn libraries(&self) -> String {
        let each = |library: &LibraryFound| format!("{} {}", library.name, library.version);
        self.libraries.iter().map(each).collect::<Vec<_>>().join(" · ")
    }
}

/// How many cores `/proc/cpuinfo` lists: pairs of a socket and a core in it.
fn cores(info: &str) -> Option<usize> {
    let mut cores = std::collections::BTreeSet::new();
    let mut socket = "";
    for (name, value) in info.lines().filter_map(|line| line.split_once(':')) {
        match name.trim() {
            "physical id" => socket = value.trim(),
            "core id" => drop(cores.insert((socket, value.trim()))),
            _ => {}
        }
    }
    Some(cores.len()).filter(|cores| *cores > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_and_not_their_threads() {
        let cpu = |socket, core| format!("processor\t: 0\nphysical id\t: {socket}\ncore id\t\t: {core}\n\n");
        let info = [cpu(0, 0), cpu(0, 0), cpu(0, 1), cpu(1, 0), cpu(1, 0)].concat();
        assert_eq!(cores(&info), Some(3));
        assert_eq!(cores("processor\t: 0\nBogoMIPS\t: 50\n"), None);
    }

    #[test]
    fn another_processor_or_version_is_a_difference() {
        let library = |version: &str| LibraryFound { name: "ONNX Runtime".to_owned(), version: version.to_owned() };
        let with = |features: &[&str], version| Machine {
            cpu: "AMD EPYC".to_owned(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            libraries: vec![library(version)],
            load: Some(1.0),
            ..Machine::default()
        };
        let here = with(&["avx2", "avx512_vnni"], "1.32.0");
        assert!(here.differences(&Machine { load: None, ..here.clone() }).is_empty());
        assert_eq!(
            here.differences(&with(&["avx2"], "1.30.0")),
            ["instructions avx2, here avx2 avx512_vnni", "ONNX Runtime 1.30.0, here 1.32.0"]
        );
    }

    #[test]
    fn a_machine_is_one_line() {
        let machine = Machine {
            cpu: "a processor".to_owned(),
            cpus: 4,
            cores: Some(2),
            virtual_machine: true,
            features: vec!["avx2".to_owned()],
            system: "linux 6".to_owned(),
            gpus: vec!["Tesla T4".to_owned()],
            driver: Some("535.54.03".to_owned()),
            ..Machine::default()
        };
        let line =
            "a processor · 4 CPUs · 2 cores · virtual machine · avx2 · linux 6 · Tesla T4 · NVIDIA driver 535.54.03";
        assert_eq!(machine.line(), line);
    }
}
