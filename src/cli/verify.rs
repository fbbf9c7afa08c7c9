//! `kilnc verify` and `kilnc bundle verify`: checks a bundle against its manifest, and who signed it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Screen;
use super::screen::shown;
use kilnc::bundle::signing::{self, PublicKey, SIGNATURE};
use kilnc::bundle::{Bundle, FileEntry};
use kilnc::error::{Error, Result};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bundle verify sections.kiln
  kilnc bundle verify sections.kiln --key release.pem.pub
  kilnc bundle verify sections.kiln --key release.pem.pub --signature sections.sig

Without --key only the manifest's digests are checked: they show damage, and not who made the bundle.")]
pub struct VerifyArgs {
    /// The bundle.
    bundle: PathBuf,
    /// The public key of who is to have signed it, in PEM.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The signature, where it is not the bundle's model.sig.
    #[arg(long, value_name = "FILE", requires = "key")]
    signature: Option<PathBuf>,
}

/// The state of a bundle's signature.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Signed {
    /// There is no signature.
    No,
    /// There is one, and there is no key to check it.
    Unchecked,
    /// It is the key's.
    Yes,
}

#[derive(Serialize)]
struct Verified {
    #[serde(serialize_with = "shown")]
    bundle: PathBuf,
    files: usize,
    signed: Signed,
    /// The key's SHA-256, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

pub fn run(args: VerifyArgs, screen: &Screen) -> Result<()> {
    let key = args.key.as_deref().map(PublicKey::read).transpose()?;
    // Only the manifest is read before the signature is verified.
    let bundle = Bundle::read(&args.bundle)?;
    let found = bundle.digests()?;
    let signed = match &key {
        Some(key) => {
            signed_by(&bundle, key, args.signature, &found)?;
            Signed::Yes
        }
        None if bundle.signature()?.is_some() => Signed::Unchecked,
        None => Signed::No,
    };
    let files = bundle.check(&found)?;
    let key = key.map(|key| key.hint()).transpose()?;
    screen.result(&Verified { bundle: args.bundle, files, signed, key }, summary)
}

/// Checks that the files of a bundle, with the digests that were found, are those that the key has signed.
pub(super) fn signed_by(
    bundle: &Bundle,
    key: &PublicKey,
    signature: Option<PathBuf>,
    found: &[FileEntry],
) -> Result<()> {
    let found_beside = if signature.is_none() { bundle.signature()? } else { None };
    let signature = signature.or(found_beside).ok_or_else(|| {
        Error::bad_input(format!("{} is not signed: it has no {SIGNATURE}", bundle.dir.display()))
            .hint("kilnc verify takes a signature that is elsewhere by --signature")
    })?;
    signing::verify(&signature, key, found).map_err(|e| bundle.named_error(e))
}

fn summary(verified: &Verified) -> String {
    let signed = match (verified.signed, verified.key.as_deref()) {
        (Signed::No, _) => "not signed: nothing proves who made it\n".to_owned(),
        (Signed::Unchecked, _) => {
            "signed, and not checked by whom: without --key nothing proves who made it\n".to_owned()
        }
        (Signed::Yes, key) => format!("signed by the key {}\n", key.unwrap_or_default()),
    };
    format!("{}: {} files, all as the manifest says\n{signed}", verified.bundle.display(), verified.files)
}
