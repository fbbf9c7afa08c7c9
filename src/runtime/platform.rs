//! The platforms that native libraries are taken along for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};

/// An operating system and a kind of processor, such as `linux-x64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// Linux with glibc, on x86-64.
    LinuxX64,
    /// Linux with glibc, on 64-bit ARM.
    LinuxArm64,
    /// Windows on x86-64.
    WindowsX64,
    /// macOS on Apple's processors.
    MacosArm64,
}

impl Platform {
    /// All of them.
    pub const ALL: [Platform; 4] =
        [Platform::LinuxX64, Platform::LinuxArm64, Platform::WindowsX64, Platform::MacosArm64];

    /// The one that this program was compiled for, if it is one of them.
    pub fn here() -> Option<Platform> {
        if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")) {
            Some(Platform::LinuxX64)
        } else if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "aarch64")) {
            Some(Platform::LinuxArm64)
        } else if cfg!(all(windows, target_arch = "x86_64")) {
            Some(Platform::WindowsX64)
        } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
            Some(Platform::MacosArm64)
        } else {
            None
        }
    }

    /// Its name, in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Platform::LinuxX64 => "linux-x64",
            Platform::LinuxArm64 => "linux-arm64",
            Platform::WindowsX64 => "windows-x64",
            Platform::MacosArm64 => "macos-arm64",
        }
    }

    /// The wheel's platform tag for pip: the newest that the packages of runtimes need.
    pub fn tag(self) -> &'static str {
        match self {
            Platform::LinuxX64 => "manylinux_2_28_x86_64",
            Platform::LinuxArm64 => "manylinux_2_28_aarch64",
            Platform::WindowsX64 => "win_amd64",
            Platform::MacosArm64 => "macosx_14_0_arm64",
        }
    }

    /// Whether a platform's tag of a wheel is of it (PyPA's platform compatibility tags).
    pub fn admits(self, tag: &str) -> bool {
        let (begins, ends) = match self {
            Platform::LinuxX64 => ("manylinux", "_x86_64"),
            Platform::LinuxArm64 => ("manylinux", "_aarch64"),
            Platform::WindowsX64 => return tag == "win_amd64",
            Platform::MacosArm64 => ("macosx_", "_arm64"),
        };
        tag.starts_with(begins) && tag.ends_with(ends)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Platform> {
        let names = Platform::ALL.map(Platform::name);
        Platform::ALL.into_iter().find(|platform| platform.name() == text).ok_or_else(|| {
            let error =
                Error::bad_input(format!("unknown platform `{}`; known: {}", printable(text), names.join(", ")));
            error.hint_nearest(text, names)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_they_are_printed() {
        for platform in Platform::ALL {
            assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
            assert_eq!(serde_json::to_value(platform).unwrap(), platform.name());
            assert!(platform.admits(platform.tag()));
        }
        let error = "linux-x86".parse::<Platform>().unwrap_err();
        assert_eq!(
            error.message(),
            "unknown platform `linux-x86`; known: linux-x64, linux-arm64, windows-x64, macos-arm64"
        );
        assert_eq!(error.hints(), ["did you mean linux-x64?"]);
    }

    #[test]
    fn a_tag_is_of_one_platform_or_of_none() {
        let of =
            |tag: &str| Platform::ALL.into_iter().filter(|p| p.admits(tag)).map(Platform::name).collect::<Vec<_>>();
        for (tag, platform) in [
            ("manylinux2014_x86_64", "linux-x64"),
            ("manylinux_2_17_aarch64", "linux-arm64"),
            ("win_amd64", "windows-x64"),
            ("macosx_11_0_arm64", "macos-arm64"),
        ] {
            assert_eq!(of(tag), [platform]);
        }
        for tag in ["musllinux_1_2_x86_64", "win_arm64", "win32", "macosx_10_15_x86_64", "manylinux_2_28_i686", "any"] {
            assert!(of(tag).is_empty(), "{tag}");
        }
    }
}
