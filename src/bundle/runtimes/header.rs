//! For which system and processor a native library is, by its first bytes.
//!
//! The formats: ELF (System V ABI), PE/COFF (Microsoft), Mach-O (Apple's `mach-o/loader.h`).

use crate::error::{Error, Result};
use crate::runtime::Platform;

/// Bytes of a library that are read for it.
pub const LENGTH: usize = 4096;

/// Fails where the first bytes of a file are not those of a shared library for a platform.
pub fn check(start: &[u8], platform: Platform) -> Result<()> {
    match of(start) {
        Some(Kind::Library(found)) if found == platform => Ok(()),
        Some(Kind::Library(found)) => {
            Err(Error::bad_input(format!("it is a library for {found}, expected one for {platform}")))
        }
        Some(Kind::Other(what)) => Err(Error::bad_input(format!("it is {what}, expected a library for {platform}"))),
        None => Err(Error::bad_input(format!("it is no shared library, expected one for {platform}"))),
    }
}

enum Kind {
    Library(Platform),
    Other(String),
}

fn of(start: &[u8]) -> Option<Kind> {
    match start.get(..4)? {
        [0x7f, b'E', b'L', b'F'] => elf(start),
        [b'M', b'Z', ..] => pe(start),
        [0xcf, 0xfa, 0xed, 0xfe] => macho(start),
        [0xca, 0xfe, 0xba, 0xbe] => Some(Kind::Other("a library for several processors".to_owned())),
        _ => None,
    }
}

fn elf(start: &[u8]) -> Option<Kind> {
    // 64 bits, little-endian; a shared object.
    let (class, kind, machine) = (start.get(4..6)?, u16_at(start, 16)?, u16_at(start, 18)?);
    Some(match (class, kind, machine) {
        ([2, 1], 3, 62) => Kind::Library(Platform::LinuxX64),
        ([2, 1], 3, 183) => Kind::Library(Platform::LinuxArm64),
        _ => Kind::Other(format!("an ELF file of type {kind} for the machine {machine}")),
    })
}

fn pe(start: &[u8]) -> Option<Kind> {
    let header = usize::try_from(u32_at(start, 0x3c)?).ok()?;
    let at = |offset: usize| header.checked_add(offset);
    if start.get(header..at(4)?)? != b"PE\0\0" {
        return None;
    }
    let (machine, characteristics) = (u16_at(start, at(4)?)?, u16_at(start, at(22)?)?);
    Some(match (machine, characteristics & 0x2000) {
        (0x8664, 0x2000) => Kind::Library(Platform::WindowsX64),
        (_, 0) => Kind::Other("a program for Windows".to_owned()),
        _ => Kind::Other(format!("a library for Windows on the machine {machine:#x}")),
    })
}

fn macho(start: &[u8]) -> Option<Kind> {
    let (processor, kind) = (u32_at(start, 4)?, u32_at(start, 12)?);
    Some(match (processor, kind) {
        (0x0100_000c, 6) => Kind::Library(Platform::MacosArm64),
        _ => Kind::Other(format!("a Mach-O file of type {kind} for the processor {processor:#x}")),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
