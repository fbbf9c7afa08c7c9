//! Takes libraries and the texts of their licences out of a wheel into a bundle.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::find::Found;
use super::parts::Package;
use super::wheel::{LARGEST, Wheel};
use super::{LibraryEntry, folder, header};
use crate::bundle::digest_source;
use crate::error::{Error, Result, printable};

/// Beginnings of the names of files that state a licence or name third parties, in capitals.
const NOTICES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "THIRDPARTYNOTICE"];

/// Largest text of a licence that is taken, in bytes; that of ONNX Runtime's third parties has 335 kB.
const LARGEST_NOTICE: u64 = 16 << 20;

/// Most such texts of a wheel.
const MOST_NOTICES: usize = 256;

/// Copies the needed files of a wheel into the bundle's folder.
///
/// Fails where a library is missing, is not the one that the wheel's record describes or is for another platform, and
/// where the wheel has no text of a licence: its files could not be passed on.
pub fn take(found: &Found, dir: &Path) -> Result<LibraryEntry> {
    let Found { package, wheel: path } = found;
    let mut wheel = Wheel::open(found)?;
    let root = format!("{}/{}", folder(package.platform), package.library().folder);
    let (libraries, notices) = (libraries(&wheel, package)?, notices(&wheel, package)?);
    let mut entry = LibraryEntry {
        platform: package.platform,
        runtime: package.runtime,
        package: package.name.to_owned(),
        version: package.version.to_owned(),
        wheel: digest_source(path, path.parent().unwrap_or(path))?,
        licence: wheel.licence.clone(),
        notices: Vec::new(),
        files: Vec::new(),
    };
    for name in libraries {
        let to = format!("{root}/{}/{}", package.library().inside, last(&name));
        write(&mut wheel, &name, LARGEST, &dir.join(&to))?;
        let kind = header::check(&start(&dir.join(&to))?, package.platform);
        kind.map_err(|e| wheel.refuse(format!("`{}`: {}", printable(&name), e.message())))?;
        entry.files.push(to);
    }
    for name in notices {
        let to = format!("{root}/{name}");
        write(&mut wheel, &name, LARGEST_NOTICE, &dir.join(&to))?;
        entry.notices.push(to);
    }
    Ok(entry)
}

/// The libraries of the package in its wheel, each found by the beginning of its name.
fn libraries(wheel: &Wheel, package: &Package) -> Result<Vec<String>> {
    let one = |begins: &&str| {
        let wanted = format!("{}/{begins}", package.inside);
        let fits = |name: &&String| name.strip_prefix(&wanted).is_some_and(|rest| !rest.contains('/'));
        let mut fitting = wheel.names.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(name), None) => Ok(name.clone()),
            (None, _) => Err(wheel.refuse(format!("the wheel has no `{wanted}…`"))),
            (Some(one), Some(other)) => {
                Err(wheel.refuse(format!("the wheel has `{}` and `{}`", printable(one), printable(other))))
            }
        }
    };
    package.files.iter().map(one).collect()
}

/// The texts of licences: those beside the package's own files, and those beside the wheel's metadata.
fn notices(wheel: &Wheel, package: &Package) -> Result<Vec<String>> {
    let top = package.inside.split('/').next().unwrap_or_default();
    let is_notice = |name: &&String| {
        let named = NOTICES.iter().any(|begins| last(name).to_uppercase().starts_with(begins));
        let beside = |folder: &str| name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        let own = [top, &wheel.info].into_iter().any(|folder| beside(folder).is_some_and(|rest| !rest.contains('/')));
        !name.ends_with('/') && (named && own || beside(&format!("{}/licenses", wheel.info)).is_some())
    };
    let notices: Vec<String> = wheel.names.iter().filter(is_notice).cloned().collect();
    let distinct: BTreeSet<String> = notices.iter().map(|name| name.to_lowercase()).collect();
    match notices.len() {
        0 => Err(wheel.refuse("the wheel has no text of a licence, without which its libraries cannot be passed on")),
        n if n > MOST_NOTICES => Err(wheel.refuse(format!("the wheel has {n} texts of licences"))),
        n if n > distinct.len() => Err(wheel.refuse("the names of two texts of licences differ by capitals only")),
        _ => Ok(notices),
    }
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn write(wheel: &mut Wheel, name: &str, largest: u64, to: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("writing", to, &e);
    std::fs::create_dir_all(to.parent().unwrap_or(to)).map_err(failed)?;
    wheel.copy(name, largest, &mut File::create_new(to).map_err(failed)?)
}

/// The first bytes of a file.
fn start(path: &Path) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(header::LENGTH as u64).read_to_end(&mut start));
    read.map(|_| start).map_err(|e| Error::io("reading", path, &e))
}
