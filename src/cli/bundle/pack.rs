//! `kilnc bundle pack`: a bundle becomes one file.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::Screen;
use kilnc::bundle::{Bundle, archive};
use kilnc::error::Result;
use kilnc::json;
use kilnc::output::{self, Stage};

#[derive(Args)]
#[command(after_help = "\
Example:
  kilnc bundle pack sections.kiln -o sections.tar

Owners, times and modes are left out, so that the same bundle always gives the same bytes. A signature goes with it.")]
pub struct PackArgs {
    /// The bundle.
    bundle: PathBuf,
    /// The archive.
    #[arg(short, long, value_name = "FILE.tar")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Packed {
    archive: PathBuf,
    bytes: u64,
    sha256: String,
}

pub fn run(args: PackArgs, screen: &Screen) -> Result<()> {
    output::check_disjoint(&args.output, [args.bundle.as_path()])?;
    let bundle = Bundle::open(&args.bundle)?;
    let stage = Stage::new(&args.output, archive::is_archive)?;
    let name = json::file_name(&args.output);
    let bytes = archive::pack(&bundle, &stage.path(&name))?;
    let sha256 = kilnc::bundle::digest(&stage.path(&name), &name)?.sha256;
    stage.commit_files(&[&name])?;
    screen.result(&Packed { archive: args.output, bytes, sha256 }, |packed| {
        format!("{} ({:.1} MB): sha256 {}\n", packed.archive.display(), packed.bytes as f64 / 1e6, packed.sha256)
    })
}
