//! Unpacks a bundle, entry by entry: an archive from outside names files, and its other fields are ignored.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use tar::{Archive, Entry, EntryType};

use crate::bundle::{Bundle, FileEntry, MANIFEST, inside};
use crate::digest::Digester;
use crate::error::{Error, Kind, Result, is_machine_fault, printable, printable_sentence};

/// Most entries that are read; a bundle has a dozen.
const MOST: usize = 1 << 16;

/// Unpacks an archive into an empty folder and returns the bundle, with the digests of its files: those that its
/// manifest lists, with the digests that it says, and no others.
pub fn unpack(archive: &Path, dir: &Path) -> Result<(Bundle, Vec<FileEntry>)> {
    let unpacked = entries(archive, dir).and_then(|files| {
        if files.iter().all(|file| file.path != MANIFEST) {
            return Err(Error::bad_input(format!("the archive has no {MANIFEST}: it is no bundle")));
        }
        let bundle = Bundle::read(dir).map_err(|e| without(e, dir))?;
        agree(&bundle, &files)?;
        Ok((bundle, files))
    });
    unpacked.map_err(|e| e.at(archive.display().to_string()))
}

/// The same error without the folder's name, which the user does not know.
fn without(error: Error, dir: &Path) -> Error {
    if error.kind() == Kind::MachineFailed {
        return error;
    }
    let said = Error::bad_input(error.message().replace(&format!("{}/", dir.display()), ""));
    error.hints().iter().fold(said, |said, hint| said.hint(hint.as_str()))
}

/// Fails where the files are not those that the manifest lists.
fn agree(bundle: &Bundle, files: &[FileEntry]) -> Result<()> {
    bundle.check(files).map(drop).map_err(|e| Error::bad_input(e.message()).hint("fetch the archive again"))
}

/// Writes the files of an archive into a folder.
fn entries(archive: &Path, dir: &Path) -> Result<Vec<FileEntry>> {
    let failed = |e: std::io::Error| Error::io("reading", archive, &e);
    if !std::fs::metadata(archive).map_err(failed)?.is_file() {
        return Err(Error::bad_input(format!("{} is no plain file", archive.display())));
    }
    let file = File::open(archive).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    check_kind(archive)?;
    let mut reader = Archive::new(BufReader::new(file));
    let (mut names, mut files) = (Names::default(), Vec::new());
    // Raw: extensions that give an entry another name, another size or holes are entries of a kind that is refused.
    for entry in reader.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let name = name(&entry)?;
        match entry.header().entry_type() {
            EntryType::Regular => {}
            EntryType::Directory => continue,
            kind => return Err(refused(&name, kind)),
        }
        let left = length.saturating_sub(entry.raw_file_position());
        if entry.size() > left {
            return Err(Error::bad_input(format!(
                "`{}` has {} bytes announced, {left} are left in the archive",
                printable(&name),
                entry.size()
            )));
        }
        names.add(&name)?;
        if files.len() == MOST {
            return Err(Error::bad_input(format!("over {MOST} files")));
        }
        files.push(extract(&mut entry, name, dir)?);
    }
    Ok(files)
}

/// Compressed archives are recognised: they are no tar archives until they are decompressed.
fn check_kind(archive: &Path) -> Result<()> {
    let mut start = [0; 4];
    let read = File::open(archive).and_then(|mut file| file.read(&mut start)).unwrap_or(0);
    let by = match start.get(..read).unwrap_or_default() {
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0xfd, b'7', b'z', b'X'] => "xz",
        [b'P', b'K', ..] => return Err(Error::unsupported("this is a ZIP archive; bundles are packed by tar")),
        _ => return Ok(()),
    };
    Err(Error::unsupported(format!("the archive is compressed by {by}")).hint(format!("unpack it with {by} first")))
}

fn broken(error: std::io::Error) -> Error {
    if is_machine_fault(&error) {
        return Error::of_system("reading the archive", &error);
    }
    let error = printable_sentence(&error.to_string());
    Error::bad_input(format!("this is no tar archive, or a damaged one: {error}"))
}

fn refused(name: &str, kind: EntryType) -> Error {
    let what = match kind {
        EntryType::Symlink => "a symbolic link".to_owned(),
        EntryType::Link => "a hard link".to_owned(),
        EntryType::Char | EntryType::Block => "a device".to_owned(),
        EntryType::Fifo => "a pipe".to_owned(),
        other => format!("an extension of tar (type {:?})", char::from(other.as_byte())),
    };
    Error::bad_input(format!("`{}` is {what}; a bundle has plain files only", printable(name)))
        .hint("archives are packed by kilnc bundle pack")
}

/// The path of an entry in the bundle. The `./` that `tar` itself puts before a name is left out.
fn name<R: Read>(entry: &Entry<R>) -> Result<String> {
    let bytes = entry.path_bytes();
    let printed = || printable(&String::from_utf8_lossy(&bytes));
    let name = std::str::from_utf8(&bytes)
        .map_err(|_| Error::bad_input(format!("the file name `{}` is not UTF-8", printed())))?;
    let name = name.strip_prefix("./").unwrap_or(name);
    if name.is_empty() || name == "." {
        return Ok(String::new());
    }
    // On Windows a backslash parts folders and a colon ends the name of a drive.
    let path = inside(name).ok().filter(|_| !name.contains(['\\', ':', '\0']));
    let path = path.ok_or_else(|| Error::bad_input(format!("`{}` leads out of the bundle", printed())))?;
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    Ok(parts.join("/"))
}

/// The names so far, and those of the folders around them, in small letters: on many file systems `A` is `a`.
#[derive(Default)]
struct Names(HashMap<String, (String, bool)>);

impl Names {
    fn add(&mut self, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::bad_input("a file without a name"));
        }
        let folders = name.match_indices('/').filter_map(|(at, _)| name.get(..at));
        for (path, is_file) in folders.map(|folder| (folder, false)).chain([(name, true)]) {
            let printed = printable(path);
            match self.0.get(&path.to_lowercase()) {
                None => drop(self.0.insert(path.to_lowercase(), (path.to_owned(), is_file))),
                Some((known, _)) if known != path => {
                    let known = printable(known);
                    return Err(Error::bad_input(format!("`{known}` and `{printed}` are one name on many systems")));
                }
                Some((_, true)) if is_file => {
                    return Err(Error::bad_input(format!("duplicate `{printed}` in the archive")));
                }
                Some((_, was_file)) if *was_file != is_file => {
                    return Err(Error::bad_input(format!("`{printed}` is a file and a folder")));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Writes one entry, and digests it.
fn extract<R: Read>(entry: &mut Entry<R>, path: String, dir: &Path) -> Result<FileEntry> {
    let to = dir.join(&path);
    let failed = |e: std::io::Error| Error::io("writing", &to, &e);
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = File::create_new(&to).map_err(failed)?;
    let (mut digester, mut buffer, mut bytes) = (Digester::default(), vec![0; 1 << 18], 0);
    loop {
        let read = entry.read(&mut buffer).map_err(broken)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        digester.update(part);
        file.write_all(part).map_err(failed)?;
        bytes += read as u64;
    }
    match bytes == entry.size() {
        true => Ok(FileEntry { path, bytes, sha256: digester.finish() }),
        false => Err(Error::bad_input(format!("`{}` is cut short", printable(&path)))),
    }
}
