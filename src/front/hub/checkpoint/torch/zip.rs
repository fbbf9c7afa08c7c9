//! Finds the records of a zip archive that PyTorch wrote.
//!
//! The format: APPNOTE.TXT of PKWARE, of which PyTorch uses stored entries only. A reader of zips in general is lenient
//! where this one must not be: every entry's two headers agree, entries share no bytes, no name is a duplicate, all lie
//! in one folder, every checksum is right, and nothing follows the directory. A record is a range of the mapped file.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::cursor::Cursor;
use crate::error::{Error, Result, printable};

/// The first bytes of an archive.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

const ENTRY: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const END_LEN: usize = 22;
const END_64_LEN: usize = 56;
const LOCATOR_64_LEN: usize = 20;

/// Encrypted, patched, strongly encrypted, or with masked headers.
const REFUSED_FLAGS: u16 = 1 | 1 << 5 | 1 << 6 | 1 << 13;
/// Checksum and sizes follow the data.
const HAS_DESCRIPTOR: u16 = 1 << 3;

/// The records of an archive.
pub(super) struct Archive<'a> {
    /// The folder that holds them all.
    pub(super) top: &'a str,
    records: BTreeMap<&'a str, Range<usize>>,
}

impl<'a> Archive<'a> {
    /// Reads the directory of an archive, and checks it against the entries.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Archive<'a>> {
        let (directory, count) = directory(bytes)?;
        let mut cursor = Cursor::new(bytes.get(directory.clone()).unwrap_or_default());
        let mut entries = Vec::new();
        while cursor.left() > 0 {
            entries.push(Entry::read(&mut cursor).map_err(|e| e.at("the archive's directory"))?);
        }
        if entries.len() as u64 != count {
            let found = entries.len();
            return Err(Error::bad_input(format!("the archive's directory has {found} entries, its end says {count}")));
        }
        if entries.iter().any(Entry::is_script) {
            return Err(Error::unsupported("the file is a TorchScript program, expected a dict of tensors"));
        }
        entries.sort_by_key(|entry| entry.header);
        let records = locate(&entries, bytes, directory.start)?;
        entries.par_iter().zip(&records).try_for_each(|(entry, data)| entry.check_crc(bytes, data.clone()))?;
        Archive::of(&entries, records)
    }

    /// Where the record `name` of the top folder is.
    pub(super) fn record(&self, name: &str) -> Option<Range<usize>> {
        self.records.get(name).cloned()
    }

    fn of(entries: &[Entry<'a>], data: Vec<Range<usize>>) -> Result<Archive<'a>> {
        let mut archive = Archive { top: "", records: BTreeMap::new() };
        for (i, (entry, data)) in entries.iter().zip(data).enumerate() {
            let (top, name) = entry.name.split_once('/').ok_or_else(|| {
                Error::bad_input(format!("the entry `{}` is in no folder of the archive", printable(entry.name)))
            })?;
            if i == 0 {
                archive.top = top;
            }
            if top != archive.top {
                let [one, other] = [archive.top, top].map(printable);
                return Err(Error::bad_input(format!("the archive has two top folders, `{one}` and `{other}`")));
            }
            if archive.records.insert(name, data).is_some() {
                return Err(Error::bad_input(format!("duplicate entry `{}`", printable(entry.name))));
            }
        }
        Ok(archive)
    }
}

/// The range of the directory and the number of its entries, from the records at the end of the file.
fn directory(bytes: &[u8]) -> Result<(Range<usize>, u64)> {
    let cut = || Error::bad_input("the archive does not end with its end record");
    let end_at = bytes.len().checked_sub(END_LEN).ok_or_else(cut)?;
    let mut end = Cursor::at(bytes, end_at);
    if end.u32()? != END {
        return Err(cut());
    }
    let disks = end.u32()?;
    let (on_disk, count) = (u64::from(end.u16()?), u64::from(end.u16()?));
    let (size, start) = (u64::from(end.u32()?), u64::from(end.u32()?));
    if disks != 0 || end.u16()? != 0 {
        return Err(Error::bad_input("the archive has several disks or a comment"));
    }
    let narrow = [on_disk, count, size, start];
    let (stop, [on_disk, count, size, start]) = match end_64(bytes, end_at)? {
        Some((stop, wide)) => (stop, agreed(narrow, wide)?),
        None => (end_at, narrow),
    };
    let [start, size] = [start, size].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    if start.checked_add(size) != Some(stop) || on_disk != count {
        return Err(Error::bad_input(format!(
            "the archive's directory is {size} bytes at {start}, but its end record is at {stop}"
        )));
    }
    Ok((start..stop, count))
}

/// The offset of the 64-bit end record and its numbers of entries, size and start, where the archive has one.
fn end_64(bytes: &[u8], end_at: usize) -> Result<Option<(usize, [u64; 4])>> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR_64_LEN) else { return Ok(None) };
    let mut locator = Cursor::at(bytes, locator_at);
    if locator.u32()? != LOCATOR_64 {
        return Ok(None);
    }
    let (disk, place, disks) = (locator.u32()?, locator.u64()?, locator.u32()?);
    let wrong = || Error::bad_input("the archive's 64-bit end record is not where its locator says");
    let at = locator_at.checked_sub(END_64_LEN).ok_or_else(wrong)?;
    let mut end = Cursor::at(bytes, at);
    if disk != 0 || disks > 1 || place != at as u64 || end.u32()? != END_64 {
        return Err(wrong());
    }
    let (len, _versions, disks) = (end.u64()?, end.u32()?, end.u64()?);
    if len != END_64_LEN as u64 - 12 || disks != 0 {
        return Err(wrong());
    }
    Ok(Some((at, [end.u64()?, end.u64()?, end.u64()?, end.u64()?])))
}

/// The 64-bit numbers, which the narrow ones repeat where they can.
fn agreed(narrow: [u64; 4], wide: [u64; 4]) -> Result<[u64; 4]> {
    let most = [0xffff, 0xffff, 0xffff_ffff, 0xffff_ffff];
    let same = narrow.iter().zip(&wide).zip(most).all(|((narrow, wide), most)| *narrow == most || narrow == wide);
    if same { Ok(wide) } else { Err(Error::bad_input("the archive's two end records disagree")) }
}

/// One line of the directory.
struct Entry<'a> {
    name: &'a str,
    flags: u16,
    method: u16,
    crc: u32,
    stored: u64,
    size: u64,
    header: u64,
}

impl<'a> Entry<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Entry<'a>> {
        if cursor.u32()? != ENTRY {
            return Err(Error::bad_input("an entry does not begin as entries do"));
        }
        cursor.take(4)?;
        let (flags, method) = (cursor.u16()?, cursor.u16()?);
        cursor.take(4)?;
        let (crc, stored, size) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let (name_len, extra_len, comment_len) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
        let disk = cursor.u16()?;
        cursor.take(6)?;
        let header = cursor.u32()?;
        let name = cursor.take(name_len.into())?;
        let name = std::str::from_utf8(name).map_err(|_| Error::bad_input("the name of an entry is not UTF-8"))?;
        let extra = cursor.take(extra_len.into())?;
        cursor.take(comment_len.into())?;
        let mut wide = Wide::of(extra)?;
        let (size, stored, header) = (wide.field(size)?, wide.field(stored)?, wide.field(header)?);
        let entry = Entry { name, flags, method, crc, stored, size, header };
        if disk != 0 {
            return Err(entry.place(Error::bad_input("the entry is on another disk")));
        }
        Ok(entry)
    }

    /// Whether it is one of those that make an archive a program.
    fn is_script(&self) -> bool {
        let name = self.name.split_once('/').map_or("", |(_, name)| name);
        name == "constants.pkl" || name.starts_with("code/")
    }

    fn place(&self, error: Error) -> Error {
        error.at(printable(self.name))
    }

    fn check_form(&self) -> Result<()> {
        if self.flags & REFUSED_FLAGS != 0 {
            return Err(Error::unsupported("the entry is encrypted"));
        }
        match self.method {
            0 if self.stored == self.size => Ok(()),
            0 => Err(Error::bad_input(format!("{} bytes are stored, but the size is {}", self.stored, self.size))),
            8 => Err(Error::unsupported("the entry is compressed (deflate); PyTorch stores entries as they are")),
            other => Err(Error::unsupported(format!(
                "the entry is compressed (method {other}); PyTorch stores entries as they are"
            ))),
        }
    }

    /// Where the data of the entry is, by its own header, which must agree with this one, and where the entry ends.
    /// It must begin and end in `space`.
    fn locate(&self, bytes: &[u8], space: Range<usize>) -> Result<(Range<usize>, usize)> {
        self.check_form()?;
        let outside =
            || Error::bad_input(format!("the entry's {} bytes at {} leave the archive", self.size, self.header));
        let start = usize::try_from(self.header).map_err(|_| outside())?;
        let size = usize::try_from(self.size).map_err(|_| outside())?;
        if start < space.start {
            return Err(Error::bad_input("the entry overlaps another"));
        }
        let mut cursor = Cursor::at(bytes.get(..space.end).unwrap_or_default(), start);
        self.check_local(&mut cursor)?;
        let data_start = cursor.position();
        cursor.take(size).map_err(|_| outside())?;
        let data = data_start..cursor.position();
        if self.flags & HAS_DESCRIPTOR != 0 {
            self.skip_descriptor(&mut cursor)?;
        }
        Ok((data, cursor.position()))
    }

    fn check_local(&self, cursor: &mut Cursor<'_>) -> Result<()> {
        let disagree = |what: &str| Error::bad_input(format!("the entry's two headers disagree about its {what}"));
        if cursor.u32()? != LOCAL {
            return Err(Error::bad_input(format!("no entry begins at byte {}", self.header)));
        }
        cursor.take(2)?;
        if cursor.u16()? != self.flags {
            return Err(disagree("flags"));
        }
        if cursor.u16()? != self.method {
            return Err(disagree("method"));
        }
        cursor.take(4)?;
        let (crc, stored, size) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let (name_len, extra_len) = (cursor.u16()?, cursor.u16()?);
        if cursor.take(name_len.into())? != self.name.as_bytes() {
            return Err(disagree("name"));
        }
        let mut wide = Wide::of(cursor.take(extra_len.into())?)?;
        if self.flags & HAS_DESCRIPTOR != 0 && (crc, stored, size) == (0, 0, 0) {
            return Ok(());
        }
        let (size, stored) = (wide.field(size)?, wide.field(stored)?);
        if (size, stored) != (self.size, self.stored) {
            return Err(disagree("size"));
        }
        if crc == self.crc { Ok(()) } else { Err(disagree("checksum")) }
    }

    /// Reads the data descriptor: checksum and sizes once more, these in 32 or in 64 bits.
    fn skip_descriptor(&self, cursor: &mut Cursor<'_>) -> Result<()> {
        let wrong = || Error::bad_input("the size or checksum behind the entry's data disagrees with its header");
        if (cursor.u32()?, cursor.u32()?) != (DESCRIPTOR, self.crc) {
            return Err(wrong());
        }
        let [low, high] = [cursor.u32()?, cursor.u32()?];
        if [low, high].map(u64::from) == [self.stored, self.size] {
            return Ok(());
        }
        let stored = u64::from(low) | u64::from(high) << 32;
        if [stored, cursor.u64()?] == [self.stored, self.size] { Ok(()) } else { Err(wrong()) }
    }

    fn check_crc(&self, bytes: &[u8], data: Range<usize>) -> Result<()> {
        let found = crc32fast::hash(bytes.get(data).unwrap_or_default());
        if found == self.crc {
            return Ok(());
        }
        Err(self.place(match self.crc {
            0 => Error::unsupported("the entry has no checksum"),
            expected => Error::bad_input(format!("the entry's checksum is {found:08x}, expected {expected:08x}")),
        }))
    }
}

/// The 64-bit numbers of an extra field, for those that do not fit a header, in the header's order.
struct Wide<'a>(Cursor<'a>);

impl<'a> Wide<'a> {
    fn of(extra: &'a [u8]) -> Result<Wide<'a>> {
        let mut cursor = Cursor::new(extra);
        while cursor.left() >= 4 {
            let (id, len) = (cursor.u16()?, cursor.u16()?);
            let field = cursor.take(len.into())?;
            if id == 1 {
                return Ok(Wide(Cursor::new(field)));
            }
        }
        Ok(Wide(Cursor::new(&[])))
    }

    fn field(&mut self, narrow: u32) -> Result<u64> {
        if narrow == u32::MAX && self.0.left() > 0 { self.0.u64() } else { Ok(narrow.into()) }
    }
}

/// Where the data of each entry is. The entries come in the order of their headers and share no bytes; `end` is where
/// the last one must end.
fn locate(entries: &[Entry<'_>], bytes: &[u8], end: usize) -> Result<Vec<Range<usize>>> {
    let mut records = Vec::with_capacity(entries.len());
    let mut free = 0;
    for entry in entries {
        let (data, entry_end) = entry.locate(bytes, free..end).map_err(|e| entry.place(e))?;
        free = entry_end;
        records.push(data);
    }
    Ok(records)
}
