//! Whether a file is there. A path that cannot be read is not missing: a folder without permission, a link to itself,
//! a disk that fails. Nor is a dangling link, which an interrupted download leaves.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The target of a path, through links; none where nothing is there. Fails where it cannot be read, and where it is
/// a link to nothing.
pub fn find(path: &Path) -> Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if is_missing(&e) => match fs::symlink_metadata(path) {
            Ok(_) => Err(Error::bad_input(format!("{} is a link to nothing", path.display()))
                .hint("get the file that it should lead to, or remove the link")),
            Err(_) => Ok(None),
        },
        Err(e) => Err(Error::io("reading", path, &e)),
    }
}

/// Whether an operating system's error means that nothing is there.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Whether a path leads to a plain file. Fails as [`find`] does.
pub fn is_file(path: &Path) -> Result<bool> {
    Ok(find(path)?.is_some_and(|found| found.is_file()))
}

/// Whether a path leads to a folder. Fails as [`find`] does.
pub fn is_dir(path: &Path) -> Result<bool> {
    Ok(find(path)?.is_some_and(|found| found.is_dir()))
}

/// Whether a plain file is there, of a name that means nothing else. Fails as [`find`] does, and where something else
/// is there.
pub fn has_file(path: &Path) -> Result<bool> {
    match find(path)? {
        None => Ok(false),
        Some(found) if found.is_file() => Ok(true),
        Some(_) => Err(Error::bad_input(format!("{} is no plain file", path.display()))),
    }
}

/// The first of several paths at which a plain file is. Fails as [`has_file`] does.
pub fn first_file(paths: impl IntoIterator<Item = PathBuf>) -> Result<Option<PathBuf>> {
    for path in paths {
        if has_file(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Those of several names for which a folder has a plain file, in their order. Fails as [`has_file`] does.
pub fn files_of<'a>(dir: &Path, names: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut found = Vec::new();
    for name in names {
        if has_file(&dir.join(name))? {
            found.push(*name);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::error::Kind;

    #[test]
    fn missing_files_are_distinguished_from_unreadable_ones() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["file", "link"] {
            assert!(has_file(&at(name)).unwrap() && is_file(&at(name)).unwrap(), "{name}");
        }
        for name in ["none", "none/inside", "file/inside"] {
            assert!(find(&at(name)).unwrap().is_none(), "{name}");
        }
        assert!(!is_file(&at("folder")).unwrap() && is_dir(&at("folder")).unwrap());
        let said = |name: &str| {
            let error = has_file(&at(name)).unwrap_err();
            assert_eq!(error.kind(), Kind::BadInput);
            error.message().replace(dir.path().to_str().unwrap(), "DIR")
        };
        assert_eq!(said("folder"), "DIR/folder is no plain file");
        assert_eq!(said("dangling"), "DIR/dangling is a link to nothing");
        assert!(said("loop").starts_with("reading DIR/loop: Too many levels of symbolic links"));
        assert!(said(&"x".repeat(300)).contains(": File name too long"));
    }

    #[test]
    fn the_first_that_is_there_is_taken_and_none_is_passed_over_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let paths = || ["a", "b", "c"].map(|name| dir.path().join(name));
        assert_eq!(first_file(paths()).unwrap(), None);
        fs::write(dir.path().join("b"), "").unwrap();
        fs::write(dir.path().join("c"), "").unwrap();
        assert_eq!(first_file(paths()).unwrap(), Some(dir.path().join("b")));
        assert_eq!(files_of(dir.path(), &["a", "b", "c"]).unwrap(), ["b", "c"]);
        symlink("a", dir.path().join("a")).unwrap();
        assert!(first_file(paths()).is_err() && files_of(dir.path(), &["c", "a"]).is_err());
    }
}
