//! `kilnc bundle unpack`: a file that `pack` made becomes a bundle.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::Screen;
use kilnc::bundle::signing::{self, PublicKey, SIGNATURE};
use kilnc::bundle::{self, archive};
use kilnc::error::{Error, Kind, Result};
use kilnc::output::{self, Stage};

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bundle unpack sections.tar -o sections.kiln
  kilnc bundle unpack sections.tar --key release.pem.pub -o sections.kiln

Every file has to be one that the manifest lists, with its digest. Nothing is written where one is not, or where the
archive holds anything but plain files.")]
pub struct UnpackArgs {
    /// The archive.
    archive: PathBuf,
    /// The public key of who is to have signed the bundle, in PEM.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The bundle, a folder.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Unpacked {
    bundle: PathBuf,
    files: usize,
    /// The SHA-256 of the key that signed it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

pub fn run(args: UnpackArgs, screen: &Screen) -> Result<()> {
    output::check_disjoint(&args.output, [args.archive.as_path()])?;
    let key = args.key.as_deref().map(PublicKey::read).transpose()?;
    let stage = Stage::new(&args.output, bundle::is_replaceable)?;
    let (bundle, files) = archive::unpack(&args.archive, stage.dir())?;
    if let Some(key) = &key {
        let unsigned = || Error::bad_input(format!("the bundle is not signed: it has no {SIGNATURE}"));
        let signature = bundle.signature().and_then(|found| found.ok_or_else(unsigned));
        let verified = signature.and_then(|path| signing::verify(&path, key, &files));
        let of_archive = |e: Error| match e.kind() {
            Kind::MachineFailed => e,
            _ => Error::bad_input(e.message()).at(args.archive.display().to_string()),
        };
        verified.map_err(of_archive)?;
    }
    stage.commit_dir()?;
    let key = key.map(|key| key.hint()).transpose()?;
    screen.result(&Unpacked { bundle: args.output, files: bundle.manifest.files.len(), key }, |unpacked| {
        let signed = unpacked.key.as_ref().map(|key| format!(", signed by the key {key}")).unwrap_or_default();
        format!("{}: {} files, all as the manifest says{signed}\n", unpacked.bundle.display(), unpacked.files)
    })
}
