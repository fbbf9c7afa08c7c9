//! `kilnc bundle sign`: a signature of all files of a bundle.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::Screen;
use crate::cli::screen::shown;
use kilnc::bundle::Bundle;
use kilnc::bundle::signing::{self, PrivateKey, SIGNATURE};
use kilnc::error::{Error, Result};
use kilnc::json;
use kilnc::output::Stage;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bundle sign sections.kiln --key release.pem
  kilnc bundle sign sections.kiln --key release.pem -o sections.sig

The signature is in the form of OpenSSF's model signing 1.0, which model_signing verify key reads as well. The same files
and the same key give the same signature.")]
pub struct SignArgs {
    /// The bundle.
    bundle: PathBuf,
    /// The private key, in PEM.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The signature; model.sig in the bundle by default.
    #[arg(short, long, value_name = "SIG")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
struct Made {
    #[serde(serialize_with = "shown")]
    bundle: PathBuf,
    #[serde(serialize_with = "shown")]
    signature: PathBuf,
    files: usize,
    /// The signature's name of the key: the SHA-256 of the public one.
    key: String,
}

pub fn run(args: SignArgs, screen: &Screen) -> Result<()> {
    let key = PrivateKey::read(&args.key)?;
    let bundle = Bundle::open(&args.bundle)?;
    let output = args.output.unwrap_or_else(|| args.bundle.join(SIGNATURE));
    let stage = Stage::new(&output, signing::is_signature)?;
    let found = bundle.digests()?;
    // The files of the manifest are signed, and no others in the folder.
    let files = bundle.check(&found)? + 1;
    let text = signing::sign(&bundle.manifest.name, &found, &key)?;
    let name = json::file_name(&output);
    let path = stage.path(&name);
    let written =
        File::create(&path).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|e| Error::io("writing", &path, &e))?;
    stage.commit_files(&[&name])?;
    let made = Made { bundle: args.bundle, signature: output, files, key: key.public().hint()? };
    screen.result(&made, |made| {
        format!("{}: {} files signed by the key {}\n", made.signature.display(), made.files, made.key)
    })
}
