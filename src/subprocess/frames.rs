//! Frames, in which requests and replies go over pipes: a length of 8 bytes, little-endian, and as many bytes.

use std::io::{ErrorKind, Read, Result, Write};

/// Writes a frame of those parts.
pub(super) fn write(to: &mut impl Write, parts: &[&[u8]]) -> Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    to.write_all(&(length as u64).to_le_bytes())?;
    parts.iter().try_for_each(|part| to.write_all(part))?;
    to.flush()
}

/// The next frame, or none where the other side has closed. Memory grows with the bytes that arrive, not with the
/// announced length.
pub(super) fn read(from: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    match from.read_exact(&mut length) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u64::from_le_bytes(length);
    let mut frame = Vec::new();
    from.take(length).read_to_end(&mut frame)?;
    if (frame.len() as u64) < length { Ok(None) } else { Ok(Some(frame)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_or_not_at_all() {
        let mut pipe = Vec::new();
        write(&mut pipe, &[b"one", b"two"]).unwrap();
        write(&mut pipe, &[]).unwrap();
        let mut from = pipe.as_slice();
        assert_eq!(read(&mut from).unwrap().as_deref(), Some(&b"onetwo"[..]));
        assert_eq!(read(&mut from).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(read(&mut from).unwrap(), None);
        let cut = &pipe[..10];
        assert_eq!(read(&mut { cut }).unwrap(), None);
        let announced = u64::MAX.to_le_bytes();
        assert_eq!(read(&mut announced.as_slice()).unwrap(), None);
    }
}
