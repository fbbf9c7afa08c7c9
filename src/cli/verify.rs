//! `kilnc verify`: checks that a bundle is what its manifest says.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Screen;
use crate::bundle::Bundle;
use crate::error::Result;

#[derive(Args)]
#[command(after_help = "\
Example:
  kilnc verify sections.kiln")]
pub struct VerifyArgs {
    /// The bundle.
    bundle: PathBuf,
}

#[derive(Serialize)]
struct Verified {
    bundle: PathBuf,
    files: usize,
}

pub fn run(args: VerifyArgs, screen: &Screen) -> Result<()> {
    let files = Bundle::open(&args.bundle)?.verify()?;
    let verified = Verified { bundle: args.bundle, files };
    screen.result(&verified, |v| format!("{}: {} files, all as the manifest says\n", v.bundle.display(), v.files))
}
