//! `kilnc bundle`: signs, packs and exports bundles; one file for each of its commands.

mod export;
mod keygen;
mod pack;
mod sign;
mod unpack;

use clap::{Args, Subcommand};

use super::{Screen, verify};
use kilnc::error::Result;

#[derive(Args)]
pub struct BundleArgs {
    #[command(subcommand)]
    command: BundleCommand,
}

#[derive(Subcommand)]
enum BundleCommand {
    /// Make a pair of keys that sign bundles and verify them.
    Keygen(keygen::KeygenArgs),
    /// Sign a bundle.
    Sign(sign::SignArgs),
    /// Make one file of a bundle.
    Pack(pack::PackArgs),
    /// Make a bundle of such a file.
    Unpack(unpack::UnpackArgs),
    /// Write a bundle in the layout of another program.
    Export(export::ExportArgs),
    /// Check a bundle against its manifest, and who signed it.
    Verify(verify::VerifyArgs),
}

pub fn run(args: BundleArgs, screen: &Screen) -> Result<()> {
    match args.command {
        BundleCommand::Keygen(args) => keygen::run(args, screen),
        BundleCommand::Sign(args) => sign::run(args, screen),
        BundleCommand::Pack(args) => pack::run(args, screen),
        BundleCommand::Unpack(args) => unpack::run(args, screen),
        BundleCommand::Export(args) => export::run(args, screen),
        BundleCommand::Verify(args) => verify::run(args, screen),
    }
}
