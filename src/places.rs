//! Folders that the environment names. A variable that is empty counts as not set, and one for the user's own folders
//! counts only with a whole path, as in the XDG Base Directory Specification: a relative one would be below the
//! current folder, which may hold anything.

use std::path::PathBuf;

/// The path that a variable holds, made whole.
pub fn named(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)?;
    Some(std::path::absolute(&path).unwrap_or(path))
}

/// The folder for the user's data.
pub fn data() -> Option<PathBuf> {
    own("XDG_DATA_HOME", ".local/share")
}

/// The folder for the user's caches.
pub fn caches() -> Option<PathBuf> {
    own("XDG_CACHE_HOME", ".cache")
}

fn own(variable: &str, below_home: &str) -> Option<PathBuf> {
    let whole = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    whole(variable).or_else(|| match cfg!(windows) {
        true => whole("LOCALAPPDATA"),
        false => Some(whole("HOME")?.join(below_home)),
    })
}
