//! Which kind of source a path is: the one place that decides.

use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::file;
use crate::front::gguf;
use crate::front::hub::checkpoint::Checkpoint;
use crate::presence;

/// Opens a folder in the Hub's layout, or a file of llama.cpp.
///
/// # Errors
/// Bad input: what [`Checkpoint::open`] and [`gguf::open`] refuse; a file of another kind.
pub fn open(path: &Path) -> Result<Checkpoint> {
    match is_file_of_model(path)? {
        true => gguf::open(path),
        false => Checkpoint::open(path),
    }
}

/// Fails where a path is a file that holds a model, and an engine is wanted.
pub fn refuse(path: &Path) -> Result<()> {
    match is_file_of_model(path)? {
        false => Ok(()),
        true => Err(Error::bad_input(format!("{} is a model, and has no engines yet", path.display()))
            .hint(format!("kilnc build {} -o OUT.kiln", path.display()))),
    }
}

/// Whether a path is a file that holds a whole model: by its name, or by its first bytes.
pub fn is_file_of_model(path: &Path) -> Result<bool> {
    if !presence::is_file(path)? {
        return Ok(false);
    }
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(gguf::EXTENSION));
    if named {
        return Ok(true);
    }
    let mut first = Vec::new();
    let read = file::open(path)?.take(gguf::MAGIC.len() as u64).read_to_end(&mut first);
    read.map_err(|e| Error::io("reading", path, &e))?;
    Ok(first == gguf::MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_model_by_its_name_or_its_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let is_model = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            is_file_of_model(&path).unwrap()
        };
        assert!(is_model("a.gguf", b"") && is_model("b.GGUF", b"x") && is_model("blob", b"GGUF\x03"));
        assert!(!is_model("model.safetensors", b"\0") && !is_model("short", b"GG"));
        assert!(!is_file_of_model(dir.path()).unwrap() && !is_file_of_model(&dir.path().join("none")).unwrap());
    }
}
