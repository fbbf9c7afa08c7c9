//! Which files of which packages run the engines of a bundle on a platform.
//!
//! OpenVINO's needed files for a processor were found by leaving files out until the provider did not load, and agree with
//! what the libraries declare as needed. Left out are its plugins for GPUs and NPUs, those that choose a device, its
//! readers of other formats, and the names under which wheels, which have no links, hold a library a second time.

use std::collections::BTreeSet;

use crate::runtime::library::{Library, ONNX_RUNTIME, OPENVINO};
use crate::runtime::{Platform, Runtime};

/// A package that libraries are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name on PyPI.
    pub name: &'static str,
    /// The one version that is taken.
    pub version: &'static str,
    /// The engines that its libraries are for.
    pub runtime: Runtime,
    /// The platform of the wheel.
    pub platform: Platform,
    /// The folder of the libraries in the wheel.
    pub(super) inside: &'static str,
    /// The wheel's platform tag for pip.
    pub(super) tag: &'static str,
    /// The beginnings of the libraries' names, each of one file; none where only the texts of licences are taken, which
    /// those of another package lack.
    pub(super) files: &'static [&'static str],
}

/// OpenVINO by itself, of the version that the provider is made for. The provider's wheel for Windows has none, and that
/// for Linux has no text of its licence.
const OPENVINO_ALONE: &str = "openvino==2025.4.1";

impl Package {
    /// The package as pip names it.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// Its name in that of a wheel.
    pub(super) fn distribution(&self) -> String {
        normalized(self.name)
    }

    /// The library that is found once its files are installed.
    pub(super) fn library(&self) -> &'static Library {
        match self.runtime {
            Runtime::OpenVino => &OPENVINO,
            _ => &ONNX_RUNTIME,
        }
    }

    fn of(requirement: &'static str, runtime: Runtime, platform: Platform) -> Package {
        let (name, version) = requirement.split_once("==").unwrap_or((requirement, ""));
        let (inside, tag, files) = ("onnxruntime/capi", platform.tag(), files(runtime, platform));
        Package { name, version, runtime, platform, inside, tag, files }
    }

    /// Whether a bundle can do without it.
    pub(super) fn is_optional(&self) -> bool {
        self.files.is_empty()
    }
}

/// The files of ONNX Runtime's own package, or of that with OpenVINO's provider.
fn files(runtime: Runtime, platform: Platform) -> &'static [&'static str] {
    match (runtime, platform) {
        (Runtime::OpenVino, Platform::LinuxX64) => &[
            "libonnxruntime.so.",
            "libonnxruntime_providers_shared.so",
            "libonnxruntime_providers_openvino.so",
            "libopenvino.so.2541",
            "libopenvino_onnx_frontend.so.2541",
            "libopenvino_intel_cpu_plugin.so",
            "libtbb.so.12",
        ],
        (Runtime::OpenVino, _) => {
            &["onnxruntime.dll", "onnxruntime_providers_shared.dll", "onnxruntime_providers_openvino.dll"]
        }
        (_, Platform::LinuxX64 | Platform::LinuxArm64) => &["libonnxruntime.so.", "libonnxruntime_providers_shared.so"],
        (_, Platform::WindowsX64) => &["onnxruntime.dll", "onnxruntime_providers_shared.dll"],
        (_, Platform::MacosArm64) => &["libonnxruntime."],
    }
}

/// The packages whose libraries open engines on a platform; none where the runtime has none there, or needs none.
pub fn packages(runtime: Runtime, platform: Platform) -> Vec<Package> {
    let of = |requirement| Package::of(requirement, runtime, platform);
    match (runtime, platform) {
        (Runtime::Ort, _) => vec![of(ONNX_RUNTIME.package)],
        (Runtime::OpenVino, Platform::LinuxX64) => {
            let texts = Package { tag: "manylinux2014_x86_64", files: &[], ..openvino_alone(of(OPENVINO_ALONE)) };
            vec![of(OPENVINO.package), texts]
        }
        (Runtime::OpenVino, Platform::WindowsX64) => vec![of(OPENVINO.package), openvino_alone(of(OPENVINO_ALONE))],
        _ => Vec::new(),
    }
}

fn openvino_alone(package: Package) -> Package {
    let files = &["openvino.dll", "openvino_onnx_frontend.dll", "openvino_intel_cpu_plugin.dll", "tbb12.dll"];
    Package { inside: "openvino/libs", files, ..package }
}

/// The planned libraries of a bundle.
#[derive(Clone, Debug, Default)]
pub struct RuntimePlan {
    /// Platform after platform.
    pub packages: Vec<Package>,
    /// Notes: what is left out and why.
    pub notes: Vec<String>,
}

impl RuntimePlan {
    /// The packages for engines of these runtimes on these platforms.
    pub fn new(runtimes: &[Runtime], platforms: &[Platform]) -> RuntimePlan {
        let mut plan = RuntimePlan::default();
        let has = |runtime| runtimes.contains(&runtime);
        for platform in BTreeSet::from_iter(platforms) {
            for runtime in [Runtime::Ort, Runtime::OpenVino].into_iter().filter(|runtime| has(*runtime)) {
                let packages = packages(runtime, *platform);
                if packages.is_empty() {
                    plan.notes.push(format!(
                        "no library is bundled for {runtime} on {platform}: {} has no wheels for it",
                        OPENVINO.package
                    ));
                }
                plan.packages.extend(packages);
            }
        }
        for runtime in Runtime::PLANS.into_iter().filter(|runtime| has(*runtime)) {
            plan.notes.push(format!("{runtime} is not bundled: NVIDIA's licence says who may pass it on"));
        }
        if plan.packages.is_empty() && has(Runtime::Tract) {
            plan.notes.push(format!("no library is bundled for {}: it is compiled into kilnc", Runtime::Tract));
        }
        plan
    }
}

/// The name of a package in that of a wheel: every run of other characters is one underscore.
pub fn normalized(name: &str) -> String {
    let words = name.split(['-', '_', '.']).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_get_the_libraries_that_they_need_and_no_others() {
        let planned = |runtimes: &[Runtime], platforms: &[Platform]| {
            let plan = RuntimePlan::new(runtimes, platforms);
            let named = |package: &Package| format!("{} {}", package.platform, package.name);
            (plan.packages.iter().map(named).collect::<Vec<_>>(), plan.notes)
        };
        let (packages, notes) = planned(&[Runtime::Ort, Runtime::Tract], &[Platform::MacosArm64, Platform::LinuxX64]);
        assert_eq!(packages, ["linux-x64 onnxruntime", "macos-arm64 onnxruntime"]);
        assert!(notes.is_empty(), "{notes:?}");

        let (packages, notes) = planned(&[Runtime::OpenVino], &[Platform::WindowsX64, Platform::LinuxArm64]);
        assert_eq!(packages, ["windows-x64 onnxruntime-openvino", "windows-x64 openvino"]);
        let without =
            "no library is bundled for OpenVINO on linux-arm64: onnxruntime-openvino==1.24.1 has no wheels for it";
        assert_eq!(notes, [without]);

        let (packages, notes) = planned(&[Runtime::Tract, Runtime::TensorRtRtx], &Platform::ALL);
        assert!(packages.is_empty());
        assert!(notes[0].starts_with("TensorRT for RTX is not bundled: "), "{notes:?}");
        assert_eq!(notes[1], "no library is bundled for tract: it is compiled into kilnc");
    }

    #[test]
    fn packages_are_those_that_kilnc_finds_where_it_runs() {
        let package = packages(Runtime::Ort, Platform::LinuxX64).remove(0);
        assert_eq!(package.requirement(), ONNX_RUNTIME.package);
        assert_eq!(package.inside, package.library().inside);
    }
}
