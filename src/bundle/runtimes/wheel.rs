//! Reads PyPA's wheels: zip archives of a package, with a record of the digests of its files.
//!
//! They are read by entry and never unpacked whole. A record shows damage, not who made the wheel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use zip::ZipArchive;
use zip::result::{ZipError, ZipResult};

use super::find::{self, Found};
use super::parts::{Package, normalized};
use super::record::{self, Recorded};
use crate::digest::Digester;
use crate::error::{Error, Result, is_machine_fault, printable, printable_sentence};
use crate::json::file_name;

/// Most files that a wheel may have; ONNX Runtime's has 354.
const MOST: usize = 1 << 14;

/// Longest text that is read, in bytes.
const LONGEST_TEXT: u64 = 8 << 20;

/// Largest file that is taken, in bytes; OpenVINO's plugin for processors has 67 MB.
pub const LARGEST: u64 = 512 << 20;

/// A wheel whose name, metadata and record agree.
pub struct Wheel {
    archive: ZipArchive<File>,
    record: BTreeMap<String, Recorded>,
    /// The folder with the wheel's metadata.
    pub info: String,
    /// The names of its files.
    pub names: BTreeSet<String>,
    /// The licence's name, where its metadata has one.
    pub licence: Option<String>,
    refusal: Refusal,
}

/// How a wheel is refused.
struct Refusal {
    file: String,
    again: String,
}

impl Refusal {
    fn of(&self, message: impl Into<String>) -> Error {
        Error::bad_input(message).at(self.file.as_str()).hint(self.again.as_str())
    }

    fn malformed(&self, e: &ZipError) -> Error {
        if let ZipError::Io(e) = e
            && is_machine_fault(e)
        {
            return Error::of_system(format!("reading {}", self.file), e);
        }
        self.of(format!("this is no wheel, or a damaged one: {}", printable_sentence(&e.to_string())))
    }
}

impl Wheel {
    /// Opens a package's wheel. Fails where it is none, or one of another package, version or platform.
    pub fn open(found: &Found) -> Result<Wheel> {
        let Found { package, wheel: path } = found;
        let again = find::command(package, path.parent().unwrap_or(path));
        let refusal = Refusal { file: file_name(path), again: format!("remove it, and get it again with: {again}") };
        let archive = ZipArchive::new(open_plain(path)?).map_err(|e| refusal.malformed(&e))?;
        let names = names(&archive, &refusal)?;
        let info = format!("{}-{}.dist-info", package.distribution(), package.version);
        let mut wheel = Wheel { archive, record: BTreeMap::new(), info, names, licence: None, refusal };
        wheel.read_record()?;
        wheel.check_package(package)?;
        wheel.check_platform(package)?;
        Ok(wheel)
    }

    /// Writes a file of the wheel, of no more than `largest` bytes. Fails where it does not match the record.
    pub fn copy(&mut self, name: &str, largest: u64, to: &mut impl Write) -> Result<()> {
        let message = printable(name);
        let refused = |what: String| self.refusal.of(format!("`{message}` {what}"));
        let recorded = self.record.get(name).ok_or_else(|| refused("is not in the wheel's RECORD".to_owned()))?;
        if recorded.bytes > largest {
            return Err(refused(format!("has {} bytes, at most {largest} are read", recorded.bytes)));
        }
        let unread = |e: ZipError| match e {
            ZipError::Io(e) if is_machine_fault(&e) => Error::of_system(format!("reading `{message}`"), &e),
            e => refused(format!("cannot be read: {}", printable_sentence(&e.to_string()))),
        };
        let entry = self.archive.by_name(name).map_err(unread)?;
        if entry.is_symlink() {
            return Err(refused("is a link, expected a file".to_owned()));
        }
        let damaged = |e: std::io::Error| match is_machine_fault(&e) {
            true => Error::of_system(format!("reading `{message}`"), &e),
            false => refused(format!("is damaged: {}", printable_sentence(&e.to_string()))),
        };
        let mut from = entry.take(recorded.bytes + 1);
        let (mut digester, mut buffer, mut bytes) = (Digester::default(), vec![0; 1 << 18], 0);
        loop {
            let read = from.read(&mut buffer).map_err(damaged)?;
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            digester.update(piece);
            to.write_all(piece).map_err(|e| Error::of_system(format!("writing `{message}`"), &e))?;
            bytes += read as u64;
        }
        if bytes != recorded.bytes {
            let more = if bytes > recorded.bytes { "more" } else { "fewer" };
            return Err(refused(format!("has {more} bytes than the {} that RECORD says", recorded.bytes)));
        }
        match digester.finish() == recorded.sha256 {
            true => Ok(()),
            false => Err(refused("is not the file that RECORD describes".to_owned())),
        }
    }

    /// Refuses the wheel, with the command that gets it again.
    pub fn refuse(&self, message: impl Into<String>) -> Error {
        self.refusal.of(message)
    }

    fn read_record(&mut self) -> Result<()> {
        let name = format!("{}/RECORD", self.info);
        if !self.names.contains(&name) {
            return Err(self.refuse(format!("this is no wheel of that name: it has no {name}")));
        }
        let entry = self.archive.by_name(&name).map_err(|e| self.refusal.malformed(&e))?;
        let mut text = String::new();
        let read = entry.take(LONGEST_TEXT + 1).read_to_string(&mut text);
        if read.map_err(|e| self.refusal.malformed(&ZipError::Io(e)))? as u64 > LONGEST_TEXT {
            return Err(self.refuse(format!("RECORD has over {LONGEST_TEXT} bytes")));
        }
        self.record = record::parse(&text).map_err(|e| self.refuse(format!("RECORD: {}", e.message())))?;
        Ok(())
    }

    fn check_package(&mut self, package: &Package) -> Result<()> {
        let text = self.text("METADATA")?;
        let field = |name| record::fields(&text, name).next().unwrap_or_default();
        let (name, version) = (field("Name"), field("Version"));
        if normalized(name) != package.distribution() || version != package.version {
            let found = format!("{} {}", printable(name), printable(version));
            return Err(self.refuse(format!("the wheel is of {found}, expected {}", package.requirement())));
        }
        let licence = ["License-Expression", "License"].into_iter().map(field).find(|licence| !licence.is_empty());
        self.licence = licence.map(printable_sentence);
        Ok(())
    }

    fn check_platform(&mut self, package: &Package) -> Result<()> {
        let text = self.text("WHEEL")?;
        let tags: Vec<&str> = record::fields(&text, "Tag").collect();
        let platforms = || tags.iter().map(|tag| tag.rsplit('-').next().unwrap_or_default());
        match platforms().any(|tags| find::admits(package.platform, tags)) {
            true => Ok(()),
            false => {
                let found = printable(&platforms().collect::<Vec<_>>().join(", "));
                Err(self.refuse(format!("the wheel is for {found}, expected one for {}", package.platform)))
            }
        }
    }

    fn text(&mut self, name: &str) -> Result<String> {
        let name = format!("{}/{name}", self.info);
        let mut bytes = Vec::new();
        self.copy(&name, LONGEST_TEXT, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.refuse(format!("{name} is not UTF-8")))
    }
}

fn open_plain(path: &Path) -> Result<File> {
    let failed = |e: std::io::Error| Error::io("reading", path, &e);
    // Opening a pipe would wait for ever.
    match std::fs::metadata(path).map_err(failed)?.is_file() {
        true => File::open(path).map_err(failed),
        false => Err(Error::bad_input(format!("{} is no plain file", path.display()))),
    }
}

/// The names of all files, none of which leads out of the folder that they would be unpacked to.
fn names(archive: &ZipArchive<File>, refusal: &Refusal) -> Result<BTreeSet<String>> {
    if archive.len() > MOST {
        return Err(refusal.of(format!("the wheel has {} files, at most {MOST} are read", archive.len())));
    }
    if archive.has_duplicate_names() {
        return Err(refusal.of("duplicate file in the wheel"));
    }
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names = names.collect::<ZipResult<BTreeSet<String>>>().map_err(|e| refusal.malformed(&e))?;
    match names.iter().find(|name| !stays(name)) {
        None => Ok(names),
        Some(name) => Err(refusal.of(format!("`{}` leads out of the wheel", printable(name)))),
    }
}

/// Whether a name stays where it is unpacked, on every system.
fn stays(name: &str) -> bool {
    let path = name.strip_suffix('/').unwrap_or(name);
    path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !name.contains(['\\', ':', '\0'])
}
