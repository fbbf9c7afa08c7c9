//! One entry of the cache: the files of its folder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Component, Path};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::key::Key;
use crate::digest::{self, Digester};
use crate::error::{Error, Result, is_machine_fault, printable};

/// The file that describes an entry.
pub(super) const ENTRY: &str = "entry.json";

/// The file with the value.
pub(super) const VALUE: &str = "value.json";

/// The version of the form; entries of another are no entries.
const SCHEMA: &str = "kilnc.cache/1";

/// Longest `entry.json` and `value.json` that are read, in bytes.
const LONGEST: u64 = 64 << 20;

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// An entry, for people.
#[derive(Clone, Debug, Serialize)]
pub struct CachedEntry {
    /// Its key.
    pub key: String,
    /// Its kind, e.g. `engine`.
    pub kind: String,
    /// Its name for people.
    pub name: String,
    /// The length of its files.
    pub bytes: u64,
    /// When it was last used, in seconds since 1970.
    pub used: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    schema: String,
    kind: String,
    name: String,
    key: String,
    /// The text whose digest the key is, for readers.
    from: serde_json::Value,
    files: Vec<FileOf>,
}

#[derive(Serialize, Deserialize)]
struct FileOf {
    name: String,
    bytes: u64,
    sha256: String,
}

/// Why an entry was not taken: something is wrong with it, with the folder that its files are copied to, or with the
/// machine, which does not let it be read now.
pub(super) enum Lost {
    There(String),
    Here(Error),
    Unread(String),
}

impl Lost {
    fn reading(name: &str, error: &std::io::Error) -> Lost {
        let why = format!("{}: {error}", printable(name));
        if is_machine_fault(error) { Lost::Unread(why) } else { Lost::There(why) }
    }
}

impl Entry {
    pub fn of(key: &Key) -> Entry {
        Entry {
            schema: SCHEMA.to_owned(),
            kind: key.kind.to_owned(),
            name: key.name.clone(),
            key: key.digest.clone(),
            from: key.from.clone(),
            files: Vec::new(),
        }
    }

    /// Lists a file that is there.
    pub fn add(&mut self, path: &Path, name: &str) -> Result<()> {
        let (bytes, sha256) = digest::of_file(path)?;
        self.files.push(FileOf { name: name.to_owned(), bytes, sha256 });
        Ok(())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::bug(format!("an entry of the cache: {e}")))?;
        fs::write(path, text).map_err(|e| Error::io("writing", path, &e))
    }

    pub fn read(path: &Path, key: &Key) -> Result<Entry, Lost> {
        let entry: Entry = serde_json::from_slice(&read(path)?).map_err(|e| Lost::There(format!("{ENTRY}: {e}")))?;
        match entry.schema == SCHEMA && entry.key == key.digest {
            true => Ok(entry),
            false => Err(Lost::There(format!("{ENTRY} is of another entry"))),
        }
    }

    /// The value's bytes.
    pub fn value(&self, dir: &Path) -> Result<Vec<u8>, Lost> {
        let bytes = read(&dir.join(VALUE))?;
        let listed = self.files.iter().find(|file| file.name == VALUE);
        match listed.is_some_and(|file| file.sha256 == digest::of(&bytes)) {
            true => Ok(bytes),
            false => Err(Lost::There(format!("{VALUE} was changed after it was written"))),
        }
    }

    /// Copies all other files, and checks each on its way. A file that was changed is removed again.
    pub fn copy(&self, dir: &Path, into: &Path) -> Result<(), Lost> {
        let mut copied = Vec::new();
        for file in self.files.iter().filter(|file| file.name != VALUE) {
            let to = into.join(&file.name);
            let done = plain(&file.name).and_then(|name| {
                copied.push(to.clone());
                file.copy(&dir.join(name), &to)
            });
            if let Err(lost) = done {
                copied.iter().for_each(|path| drop(fs::remove_file(path)));
                return Err(lost);
            }
        }
        Ok(())
    }
}

impl FileOf {
    fn copy(&self, from: &Path, to: &Path) -> Result<(), Lost> {
        let there = |e: std::io::Error| Lost::reading(&self.name, &e);
        let here = |e: std::io::Error| Lost::Here(Error::io("writing", to, &e));
        let mut source = File::open(from).map_err(there)?;
        let mut copy = File::create(to).map_err(here)?;
        let (mut digester, mut piece, mut bytes) = (Digester::default(), vec![0; PIECE], 0u64);
        loop {
            let read = source.read(&mut piece).map_err(there)?;
            let part = piece.get(..read).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            digester.update(part);
            copy.write_all(part).map_err(here)?;
            bytes += read as u64;
        }
        match bytes == self.bytes && digester.finish() == self.sha256 {
            true => Ok(()),
            false => Err(Lost::There(format!("{} was changed after it was written", printable(&self.name)))),
        }
    }
}

/// The name of a file in the entry's own folder.
fn plain(name: &str) -> Result<&str, Lost> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(name),
        _ => Err(Lost::There(format!("`{}` is no name of a file", printable(name)))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Lost> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let failed = |e: std::io::Error| Lost::reading(&name, &e);
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST { Err(Lost::There(format!("{name} is too long"))) } else { Ok(bytes) }
}

/// The entry in a folder, for people; none where there is none. Fails where the machine does not let it be read: it is
/// not damaged then.
pub(super) fn cached(dir: &Path) -> Result<Option<CachedEntry>> {
    let path = dir.join(ENTRY);
    let Some(key) = dir.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { return Ok(None) };
    let modified = fs::metadata(&path).and_then(|found| found.modified()).ok();
    let used = modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default().as_secs();
    let entry = match read(&path) {
        Err(Lost::Unread(why)) => return Err(Error::machine_failed(why).at(dir.display().to_string())),
        text => text.ok().and_then(|text| serde_json::from_slice::<Entry>(&text).ok()),
    };
    // One that is damaged takes room, too, and goes first.
    let Some(entry) = entry else {
        // Another program may remove it meanwhile.
        let Ok(files) = fs::read_dir(dir) else { return Ok(None) };
        let bytes = files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum();
        return Ok(Some(CachedEntry { key, kind: "damaged".to_owned(), name: String::new(), bytes, used: 0 }));
    };
    let bytes = entry.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    Ok(Some(CachedEntry { key, kind: entry.kind, name: entry.name, bytes, used }))
}
