//! Where the native libraries are.
//!
//! They are searched in this order: the folder or file that a variable names, the folders of bundles that the user
//! trusts ([`add_bundled`]), the folders `runtimes` beside this program, the user's own folder of runtimes, the system's
//! folders. Never in the current folder, which may hold anything.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result, is_machine_fault};
use crate::{places, subprocess};

/// Names another folder of runtimes.
pub const RUNTIMES: &str = "KILNC_RUNTIMES";

/// Passes the folders of bundled runtimes to children.
const BUNDLED: &str = "KILNC_BUNDLE_RUNTIMES";

/// The folders of bundled runtimes, in the order in which they were added.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A native library that kilnc can use.
#[derive(Debug)]
pub struct Library {
    /// Its name for people.
    pub name: &'static str,
    /// The consequence of its absence.
    pub purpose: &'static str,
    /// The variable that names the file itself.
    pub variable: Option<&'static str>,
    /// The PyPI package that contains it, with its version.
    pub package: &'static str,
    /// The folder it has below a folder of runtimes.
    pub folder: &'static str,
    /// Where it is inside the unpacked package.
    pub inside: &'static str,
    /// The beginning of its file name.
    file: &'static str,
    /// The beginning of the name of another file that has to lie beside it.
    beside: Option<&'static str>,
}

/// The beginning of the file name of ONNX Runtime.
const ONNX_RUNTIME_FILE: &str = if cfg!(windows) {
    "onnxruntime.dll"
} else if cfg!(target_os = "macos") {
    "libonnxruntime"
} else {
    "libonnxruntime.so"
};

/// ONNX Runtime.
pub static ONNX_RUNTIME: Library = Library {
    name: "ONNX Runtime",
    purpose: "checks and runs engines for ort-cpu",
    variable: Some("ORT_DYLIB_PATH"),
    package: "onnxruntime==1.32.0",
    folder: "onnxruntime",
    inside: "onnxruntime/capi",
    file: ONNX_RUNTIME_FILE,
    beside: None,
};

/// ONNX Runtime with the OpenVINO provider.
pub static OPENVINO: Library = Library {
    name: "ONNX Runtime with OpenVINO",
    purpose: "checks and runs engines for openvino",
    variable: None,
    package: "onnxruntime-openvino==1.24.1",
    folder: "onnxruntime-openvino",
    inside: "onnxruntime/capi",
    file: ONNX_RUNTIME_FILE,
    beside: Some(if cfg!(windows) { "onnxruntime_providers_openvino" } else { "libonnxruntime_providers_openvino" }),
};

/// ONNX Runtime with the CUDA provider.
pub static ONNX_RUNTIME_GPU: Library = Library {
    name: "ONNX Runtime with CUDA",
    purpose: "measures engines for ort-cpu on NVIDIA GPUs",
    variable: None,
    package: "onnxruntime-gpu[cuda,cudnn]==1.31.1",
    folder: "onnxruntime-gpu",
    inside: "onnxruntime/capi",
    file: ONNX_RUNTIME_FILE,
    beside: Some(if cfg!(windows) { "onnxruntime_providers_cuda" } else { "libonnxruntime_providers_cuda" }),
};

/// TensorRT for RTX.
pub static TENSORRT_RTX: Library = Library {
    name: "TensorRT for RTX",
    purpose: "compiles engines for GPUs, without one, and runs them on one",
    variable: None,
    package: "tensorrt-rtx-cu12-libs==1.7.1.116",
    folder: "tensorrt-rtx",
    inside: "tensorrt_rtx_libs",
    file: if cfg!(windows) { "tensorrt_rtx" } else { "libtensorrt_rtx.so" },
    beside: None,
};

/// TensorRT, as the system or NVIDIA's package has it.
pub static TENSORRT: Library = Library {
    name: "TensorRT",
    purpose: "compiles engines on the GPU that they are for, and runs them",
    variable: None,
    package: "tensorrt-cu12-libs==11.4.0.106",
    folder: "tensorrt",
    inside: "tensorrt_libs",
    file: if cfg!(windows) { "nvinfer" } else { "libnvinfer.so" },
    beside: Some(if cfg!(windows) { "nvonnxparser" } else { "libnvonnxparser.so" }),
};

/// All that a build of kilnc can use: it is bound to one of NVIDIA's two products.
pub static ALL: [&Library; 4] =
    [&ONNX_RUNTIME, &OPENVINO, &ONNX_RUNTIME_GPU, if cfg!(feature = "enterprise") { &TENSORRT } else { &TENSORRT_RTX }];

impl Library {
    /// The library's file, or the searched name and folders, and the command that installs it.
    pub fn find(&self) -> Result<PathBuf> {
        if let Some((variable, path)) = self.variable.and_then(|variable| Some((variable, places::named(variable)?))) {
            return match std::fs::metadata(&path) {
                Ok(found) if found.is_file() => Ok(path),
                Err(e) if is_machine_fault(&e) => Err(Error::io("reading", &path, &e).at(variable)),
                _ => Err(Error::runtime_missing(format!("{variable} names no file: {}", path.display()))),
            };
        }
        let folders = self.folders();
        let mut unseen = None;
        for folder in &folders {
            match self.in_folder(folder) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(e) => drop(unseen.get_or_insert(e)),
            }
        }
        if let Some(fault) = unseen {
            return Err(fault.at(format!("looking for {}", self.name)));
        }
        let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let beside = self.beside.map(|beside| format!(" beside {beside}*")).unwrap_or_default();
        let searched = format!("searched for {}*{beside} in {}", self.file, searched.join(", "));
        let error = Error::runtime_missing(format!("{} is not found: {searched}", self.name))
            .hint(format!("get it with: {}", self.command()));
        match folder() {
            Some(_) => Err(error),
            None => Err(error.hint(NO_FOLDER)),
        }
    }

    /// The command that installs the library where it is searched.
    pub fn command(&self) -> String {
        let place = match folder() {
            Some(folder) => folder.join(self.folder).display().to_string(),
            None => format!("\"${RUNTIMES}/{}\"", self.folder),
        };
        // A package's extras are other packages.
        match self.package.contains('[') {
            true => format!("python3 -m pip install --target {place} '{}'", self.package),
            false => format!("python3 -m pip install --no-deps --target {place} {}", self.package),
        }
    }

    /// The version of a library's file, from its name.
    pub fn version(path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?;
        Some(name.split(".so.").nth(1)?.to_owned())
    }

    fn folders(&self) -> Vec<PathBuf> {
        let unpacked = |root: PathBuf| root.join(self.folder).join(self.inside);
        let mut folders = Vec::new();
        let named = places::named(RUNTIMES);
        folders.extend(named.iter().cloned().map(unpacked));
        folders.extend(bundled().into_iter().map(unpacked));
        if named.is_some() {
            return folders;
        }
        if let Some(beside) = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())) {
            folders.push(unpacked(beside.join("runtimes")));
        }
        folders.extend(user_folder().map(unpacked));
        if cfg!(target_os = "linux") {
            let triple =
                if cfg!(target_arch = "aarch64") { "/usr/lib/aarch64-linux-gnu" } else { "/usr/lib/x86_64-linux-gnu" };
            folders.extend(["/usr/local/lib", triple, "/usr/lib"].map(PathBuf::from));
        }
        folders
    }

    /// The newest file of that name in a folder.
    fn in_folder(&self, folder: &Path) -> Result<Option<PathBuf>> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // A path that cannot be read is not missing.
            Err(e) if is_machine_fault(&e) => return Err(Error::io("reading", folder, &e)),
            Err(_) => return Ok(None),
        };
        let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        let paths = paths.map_err(|e| Error::io("reading", folder, &e))?;
        let begins = |path: &Path, with: &str| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(with))
        };
        if !self.beside.is_none_or(|beside| paths.iter().any(|path| begins(path, beside))) {
            return Ok(None);
        }
        let wanted = |path: &PathBuf| begins(path, self.file) && !path.to_string_lossy().contains("providers");
        Ok(paths.into_iter().filter(wanted).max())
    }
}

/// Searches libraries in a folder of bundled runtimes too, here and in children. Its files are run:
/// the caller has checked them and trusts them. Fails where the path cannot be passed to children.
pub fn add_bundled(folder: PathBuf) -> Result<()> {
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let all = || folders.iter().chain([&folder]);
    let paths = std::env::join_paths(all()).map_err(|e| {
        Error::unsupported(format!("libraries cannot be used in {}: {e}", folder.display()))
            .hint("move the bundle to a folder without that character in its path")
    })?;
    if !folders.contains(&folder) {
        subprocess::pass_on(BUNDLED, paths);
        folders.push(folder);
    }
    Ok(())
}

/// The folders of bundled runtimes, of this process or of its parent.
pub fn bundled() -> Vec<PathBuf> {
    let paths = std::env::var_os(BUNDLED).unwrap_or_default();
    let parents = std::env::split_paths(&paths).filter(|folder| folder.is_absolute());
    let own = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    own.iter().cloned().chain(parents).collect()
}

/// The folder of wheels that bundles take libraries from, where no other is named. Fails where there is none.
pub fn wheels() -> Result<PathBuf> {
    let folder = folder().ok_or_else(|| {
        Error::bad_input("the user has no home folder that could hold wheels").hint("name a folder with --wheels")
    })?;
    Ok(folder.join("wheels"))
}

/// The hint where no folder for libraries is known.
const NO_FOLDER: &str = "HOME is not set: first set KILNC_RUNTIMES to a folder for libraries";

/// The folder of runtimes that things are installed in.
fn folder() -> Option<PathBuf> {
    places::named(RUNTIMES).or_else(user_folder)
}

/// The user's own folder of runtimes.
fn user_folder() -> Option<PathBuf> {
    Some(places::data()?.join("kilnc").join("runtimes"))
}
