//! The device that an engine runs on, and whether it is there.

use std::cell::OnceCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Runtime;
use super::library::{Library, ONNX_RUNTIME_GPU};
use crate::error::{Error, Kind, Result, is_machine_fault, printable};
use crate::target::{ComputeCapability, Target};

/// The library of NVIDIA's driver.
const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// Folders of the system that may hold it, from the root on.
const DRIVER_FOLDERS: [&str; 7] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
    "usr/local/cuda/compat",
];

/// A processor or a GPU: `cpu`, `cuda:0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU, by CUDA's number.
    Cuda(u32),
}

impl Device {
    /// Fails where the device, its driver or every library that drives it is missing, with a hint.
    pub fn check(self) -> Result<()> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(number) => {
                let found = Nvidia::here();
                let here = |library: &Library| found.drives(number) && library.find().is_ok();
                let plans = Runtime::PLANS
                    .into_iter()
                    .any(|runtime| runtime.check_built_in().is_ok() && runtime.library().is_some_and(here));
                cuda(number, &found, ONNX_RUNTIME_GPU.find().err().filter(|_| !plans))
            }
        }
    }

    /// Like [`Device::check`], for engines of one runtime.
    pub fn check_for(self, runtime: Runtime) -> Result<()> {
        match (self, runtime) {
            (Device::Cuda(number), Runtime::Ort) => cuda(number, &Nvidia::here(), ONNX_RUNTIME_GPU.find().err()),
            (Device::Cuda(number), plans) if plans.runs_plans() => {
                cuda(number, &Nvidia::here(), plans.library().and_then(|library| library.find().err()))
            }
            (Device::Cuda(_), _) => Err(Error::unsupported(format!("{runtime} does not run it on {self}"))),
            (Device::Cpu, plans) if plans.runs_plans() => {
                Err(Error::unsupported("it runs on a GPU, as with --device cuda:0"))
            }
            (Device::Cpu, _) => Ok(()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Device> {
        let cuda = |text: &str| text.strip_prefix("cuda:")?.parse().ok().filter(|number| *number < 64);
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            other => cuda(other).map(Device::Cuda).ok_or_else(|| {
                Error::bad_input(format!("`{}` is no device; known: cpu, cuda:0, cuda:1, …", printable(other)))
            }),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.to_string()
    }
}

impl TryFrom<String> for Device {
    type Error = Error;

    fn try_from(text: String) -> Result<Device> {
        text.parse()
    }
}

/// A GPU, as its driver reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its name, e.g. `Tesla T4`.
    pub name: String,
    /// Its compute capability, e.g. 75.
    pub capability: u32,
}

impl Gpu {
    /// Fails where a plan is for other GPUs: for those of the target, or for such as it was compiled on.
    pub fn check(&self, target: &Target, compiled_on: Option<&Gpu>) -> Result<()> {
        let made_for = match (target, compiled_on) {
            (Target::TensorRtRtx(capability), _) => (capability.number(), capability.to_string()),
            (_, Some(gpu)) => (gpu.capability, gpu.to_string()),
            _ => return Ok(()),
        };
        if made_for.0 == self.capability {
            return Ok(());
        }
        let error = Error::runtime_missing(format!("it is compiled for {}, and the GPU is {self}", made_for.1));
        Err(match target {
            Target::TensorRt => error.hint("build one on this machine: --target tensorrt"),
            _ if ComputeCapability::KNOWN.iter().any(|(known, _)| *known == self.capability) => {
                error.hint(format!("build one for it: --target tensorrt-rtx:sm{}", self.capability))
            }
            _ => error.hint("TensorRT for RTX does not know this GPU; ONNX Runtime does: bench --device cuda:0"),
        })
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (sm{})", printable(&self.name), self.capability)
    }
}

/// NVIDIA's GPUs by files alone: no library is loaded and no program started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nvidia {
    /// Names of the GPUs, in the order of the bus; none under WSL, where the driver does not report it.
    pub gpus: Vec<String>,
    /// The driver's version.
    pub driver: Option<String>,
    /// Device nodes of GPUs.
    nodes: Vec<PathBuf>,
    /// The driver's library.
    library: Option<PathBuf>,
    /// Where that was searched.
    searched: Vec<PathBuf>,
    /// Why device nodes could not be searched, where they could not.
    unseen_nodes: Option<String>,
    /// Why the library could not be searched in one of the folders.
    unseen_library: Option<String>,
}

impl Nvidia {
    /// On this machine.
    pub fn here() -> Nvidia {
        let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        Nvidia::under(Path::new("/"), std::env::split_paths(&named).filter(|folder| folder.is_absolute()).collect())
    }

    /// In a system below `root`; `first` are folders of libraries that come before the system's.
    fn under(root: &Path, first: Vec<PathBuf>) -> Nvidia {
        let (unseen_nodes, unseen_library, unseen) = (Unseen::default(), Unseen::default(), Unseen::default());
        let read = |path: &Path| unseen.noted(path, std::fs::read_to_string(path));
        let proc = root.join("proc/driver/nvidia");
        let version = read(&proc.join("version")).unwrap_or_default();
        let model = |dir: &PathBuf| {
            let text = read(&dir.join("information"))?;
            text.lines().find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_owned()))
        };
        let numbered = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("nvidia"));
            name.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        let mut nodes: Vec<PathBuf> = unseen_nodes.entries(&root.join("dev")).into_iter().filter(numbered).collect();
        // WSL has one node for all.
        nodes.extend(Some(root.join("dev/dxg")).filter(|path| unseen_nodes.has(path)));
        let searched: Vec<PathBuf> = first.into_iter().chain(DRIVER_FOLDERS.map(|folder| root.join(folder))).collect();
        Nvidia {
            gpus: unseen.entries(&proc.join("gpus")).iter().filter_map(model).collect(),
            // “NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue …”
            driver: version
                .lines()
                .find(|line| line.starts_with("NVRM version:"))
                .and_then(|line| line.split_whitespace().find(|word| is_version(word)))
                .map(str::to_owned),
            nodes,
            library: searched.iter().map(|folder| folder.join(DRIVER_LIBRARY)).find(|path| unseen_library.has(path)),
            searched,
            unseen_nodes: unseen_nodes.0.into_inner(),
            unseen_library: unseen_library.0.into_inner(),
        }
    }

    /// Whether there is a device node of any GPU.
    pub fn is_there(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Fails where it could not be found out whether there is a device node.
    pub fn check_nodes(&self) -> Result<()> {
        match self.unseen_nodes.as_ref().filter(|_| self.nodes.is_empty()) {
            Some(fault) => Err(Error::machine_failed(fault.as_str()).at("looking for GPUs")),
            None => Ok(()),
        }
    }

    /// Fails where the driver or the GPU of that number is missing.
    pub fn check(&self, number: u32) -> Result<()> {
        cuda(number, self, None)
    }

    /// Whether the driver and the GPU of that number are there.
    fn drives(&self, number: u32) -> bool {
        self.has(number) && self.library.is_some()
    }

    fn has(&self, number: u32) -> bool {
        let named = |node: &PathBuf| node.file_name().is_some_and(|name| name == "dxg");
        self.nodes.len() > number as usize || self.nodes.iter().any(named)
    }
}

fn is_version(word: &str) -> bool {
    word.contains('.') && word.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// The first path that could not be read, as text.
#[derive(Default)]
struct Unseen(OnceCell<String>);

impl Unseen {
    /// The metadata of a path; a fault of the machine is noted.
    fn noted<T>(&self, path: &Path, searched: std::io::Result<T>) -> Option<T> {
        if let Err(e) = &searched
            && is_machine_fault(e)
        {
            self.0.get_or_init(|| format!("reading {}: {e}", path.display()));
        }
        searched.ok()
    }

    fn has(&self, path: &Path) -> bool {
        self.noted(path, path.try_exists()).unwrap_or(false)
    }

    fn entries(&self, dir: &Path) -> Vec<PathBuf> {
        let entries = self.noted(dir, std::fs::read_dir(dir)).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(self.noted(dir, entry)?.path())).collect();
        paths.sort();
        paths
    }
}

/// The missing parts of a GPU, all at once; `without` is why the library is not found.
fn cuda(number: u32, found: &Nvidia, without: Option<Error>) -> Result<()> {
    let nodes = found.unseen_nodes.as_ref().filter(|_| !found.has(number));
    // Without a GPU the library does not matter.
    let library = found.unseen_library.as_ref().filter(|_| found.has(number) && found.library.is_none());
    if let Some(fault) = nodes.or(library) {
        return Err(Error::machine_failed(fault.as_str()).at(format!("looking for cuda:{number}")));
    }
    if let Some(fault) = without.as_ref().filter(|error| error.kind() == Kind::MachineFailed) {
        return Err(fault
            .locations()
            .iter()
            .fold(Error::machine_failed(fault.message()), |e, location| e.at(location.as_str())));
    }
    let mut missing = Vec::new();
    if !found.has(number) {
        missing.push(format!("no device node /dev/nvidia{number} or /dev/dxg"));
    }
    if found.library.is_none() {
        let searched: Vec<_> = found.searched.iter().map(|folder| folder.display().to_string()).collect();
        missing.push(format!("no {DRIVER_LIBRARY}, the driver's library, in {}", searched.join(", ")));
    }
    let driver = missing.is_empty();
    missing.extend(without.iter().map(|error| error.message().to_owned()));
    if missing.is_empty() {
        return Ok(());
    }
    let mut error = Error::runtime_missing(format!("cuda:{number} cannot be used: {}", missing.join("; ")));
    if !driver {
        error = error
            .hint("get NVIDIA's driver with: apt-get install nvidia-driver; then `nvidia-smi` lists the GPUs")
            .hint("in a container, hand the GPU in: docker run --gpus all");
    }
    Err(without.iter().flat_map(Error::hints).fold(error, |error, hint| error.hint(hint.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system of those files.
    fn system(files: &[(&str, &str)]) -> (tempfile::TempDir, Nvidia) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = Nvidia::under(root.path(), vec![root.path().join("first")]);
        (root, found)
    }

    const VERSION: &str = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\n\
                           GCC version:  gcc version 11.3.0\n";

    #[test]
    fn devices_are_read_as_they_are_printed() {
        for text in ["cpu", "cuda:0", "cuda:7"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["gpu", "cuda:-1", "cuda:x", "cuda:64", ""] {
            let said = text.parse::<Device>().unwrap_err();
            assert_eq!(said.message(), format!("`{text}` is no device; known: cpu, cuda:0, cuda:1, …"));
        }
    }

    #[test]
    fn gpus_and_their_driver_are_read_from_the_system() {
        let (_root, found) = system(&[
            ("proc/driver/nvidia/version", VERSION),
            ("proc/driver/nvidia/gpus/0000:00:1e.0/information", "Model: \t\t Tesla T4\nIRQ:   \t\t 10\n"),
            ("dev/nvidia0", ""),
            ("dev/nvidiactl", ""),
            ("usr/lib64/libcuda.so.1", ""),
        ]);
        assert_eq!((found.gpus.as_slice(), found.driver.as_deref()), (&["Tesla T4".to_owned()][..], Some("535.54.03")));
        assert!(cuda(0, &found, None).is_ok());
        let second = cuda(1, &found, None).unwrap_err();
        assert_eq!(second.message(), "cuda:1 cannot be used: no device node /dev/nvidia1 or /dev/dxg");
    }

    #[test]
    fn missing_parts_are_listed_together_with_their_commands() {
        let (root, found) = system(&[]);
        let without = Error::runtime_missing("the provider is not found").hint("get the provider");
        let error = cuda(0, &found, Some(without)).unwrap_err();
        let first = root.path().join("first").display().to_string();
        assert!(error.message().starts_with(&format!(
            "cuda:0 cannot be used: no device node /dev/nvidia0 or /dev/dxg; no libcuda.so.1, the driver's library, in {first}, "
        )));
        assert!(error.message().ends_with("; the provider is not found"), "{error}");
        assert_eq!((error.exit_code(), error.hints().len()), (4, 3));
        assert!(error.hints()[0].contains("apt-get install nvidia-driver"), "{error}");
        assert_eq!(error.hints()[2], "get the provider");
    }

    #[test]
    fn a_plan_for_other_gpus_says_what_to_build() {
        let (t4, l4) = (Gpu { name: "Tesla T4".to_owned(), capability: 75 }, "tensorrt-rtx:sm89".parse().unwrap());
        assert!(t4.check(&"tensorrt-rtx:sm75".parse().unwrap(), None).is_ok());
        assert!(t4.check(&Target::OrtCpu, None).is_ok() && t4.check(&Target::TensorRt, Some(&t4)).is_ok());
        let said = t4.check(&l4, None).unwrap_err();
        assert_eq!(said.message(), "it is compiled for sm89, and the GPU is Tesla T4 (sm75)");
        assert_eq!(
            (said.exit_code(), said.hints()),
            (4, &["build one for it: --target tensorrt-rtx:sm75".to_owned()][..])
        );
        let h100 = Gpu { name: "NVIDIA H100".to_owned(), capability: 90 };
        assert!(h100.check(&l4, None).unwrap_err().hints()[0].starts_with("TensorRT for RTX does not know"));
        let said = t4.check(&Target::TensorRt, Some(&h100)).unwrap_err();
        assert_eq!(said.message(), "it is compiled for NVIDIA H100 (sm90), and the GPU is Tesla T4 (sm75)");
        assert_eq!(said.hints(), ["build one on this machine: --target tensorrt"]);
    }

    #[test]
    fn a_runtime_runs_on_its_own_devices() {
        let said = |device: Device, runtime| device.check_for(runtime).unwrap_err().message().to_owned();
        assert_eq!(said(Device::Cuda(0), Runtime::Tract), "tract does not run it on cuda:0");
        for plans in Runtime::PLANS {
            assert_eq!(said(Device::Cpu, plans), "it runs on a GPU, as with --device cuda:0");
        }
        assert!(Device::Cpu.check_for(Runtime::Ort).is_ok());
    }

    #[test]
    fn unreadable_paths_are_not_missing() {
        let unseen = Unseen::default();
        let refused = |code: i32| Err::<(), _>(std::io::Error::from_raw_os_error(code));
        assert_eq!(unseen.noted("/dev".as_ref(), refused(2)), None);
        assert_eq!(unseen.0.get(), None);
        // Too many open files.
        assert_eq!(unseen.noted("/dev".as_ref(), refused(24)), None);
        assert!(unseen.0.get().unwrap().starts_with("reading /dev: "));
        let found = Nvidia { unseen_nodes: unseen.0.into_inner(), ..Nvidia::default() };
        let error = cuda(0, &found, None).unwrap_err();
        assert_eq!((error.exit_code(), error.locations()), (5, &["looking for cuda:0".to_owned()][..]));
        // A path that is there counts, even where others could not be read.
        let (_root, whole) = system(&[("dev/nvidia0", ""), ("usr/lib64/libcuda.so.1", "")]);
        assert!(cuda(0, &Nvidia { unseen_nodes: found.unseen_nodes.clone(), ..whole.clone() }, None).is_ok());
        // Without a GPU it does not matter that a folder of libraries could not be read.
        let unread = Some("reading /opt/lib: permission denied".to_owned());
        let no_gpu = Nvidia { unseen_library: unread.clone(), ..Nvidia::default() };
        assert!(no_gpu.check_nodes().is_ok() && found.check_nodes().is_err());
        assert_eq!(cuda(0, &no_gpu, None).unwrap_err().exit_code(), 4);
        let no_library = Nvidia { unseen_library: unread, library: None, ..whole.clone() };
        assert_eq!(cuda(0, &no_library, None).unwrap_err().exit_code(), 5);
        let error = cuda(0, &whole, Some(Error::machine_failed("too many"))).unwrap_err();
        assert_eq!(error.exit_code(), 5);
    }

    #[test]
    fn windows_subsystem_for_linux_has_one_node_for_all() {
        let (_root, found) = system(&[("dev/dxg", ""), ("usr/lib/wsl/lib/libcuda.so.1", "")]);
        assert!(cuda(0, &found, None).is_ok());
        assert!(found.gpus.is_empty());
    }
}
