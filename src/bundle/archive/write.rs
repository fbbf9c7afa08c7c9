//! Packs a bundle.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use crate::bundle::{Bundle, FileEntry, MANIFEST};
use crate::error::{Error, Result, printable};

/// Writes a bundle to a file, and returns the file's length. The files are those of the manifest, or nothing is packed.
///
/// The manifest comes first and the others by their names, all with the same owner, time and mode, in the form of POSIX
/// 1988 (ustar): the same bundle gives the same bytes on every machine, at any time.
pub fn pack(bundle: &Bundle, archive: &Path) -> Result<u64> {
    let mut files = bundle.digests()?;
    bundle.check(&files)?;
    files.sort_by(|a, b| (a.path != MANIFEST, &a.path).cmp(&(b.path != MANIFEST, &b.path)));
    let failed = |e: std::io::Error| Error::io("writing", archive, &e);
    let mut builder = Builder::new(BufWriter::new(File::create(archive).map_err(failed)?));
    for file in &files {
        append(&mut builder, bundle, file, archive)?;
    }
    let mut writer = builder.into_inner().map_err(failed)?;
    writer.flush().map_err(failed)?;
    writer.get_ref().sync_all().map_err(failed)?;
    Ok(writer.get_ref().metadata().map_err(failed)?.len())
}

fn append(builder: &mut Builder<impl Write>, bundle: &Bundle, file: &FileEntry, archive: &Path) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(&file.path).map_err(|_| {
        Error::unsupported(format!("`{}` is too long a name for an archive", printable(&file.path)))
            .hint("give the bundle's engines shorter names")
    })?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(file.bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let failed = |e: std::io::Error| Error::io("writing", archive, &e);
    let to = builder.get_mut();
    to.write_all(header.as_bytes()).map_err(failed)?;
    // The packed bytes are digested again: they have to be those that were checked.
    bundle.again(file, |piece| to.write_all(piece).map_err(failed))?;
    let past = (file.bytes % BLOCK) as usize;
    let rest = if past == 0 { 0 } else { BLOCK as usize - past };
    to.write_all([0; BLOCK as usize].get(..rest).unwrap_or_default()).map_err(failed)
}

/// The block size that a file's content is padded to in an archive.
const BLOCK: u64 = 512;
