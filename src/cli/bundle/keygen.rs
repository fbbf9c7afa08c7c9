//! `kilnc bundle keygen`: a pair of keys.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::screen::shown;
use crate::cli::{Choice, Screen, one_of};
use kilnc::bundle::signing::{Curve, PrivateKey};
use kilnc::error::Result;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc bundle keygen -o release.pem
  kilnc bundle keygen --curve p384 -o release.pem

Writes the private key, which only its owner may read, and the public one beside it with .pub at the end. Both are in PEM
as OpenSSL reads it, and no file is ever replaced.")]
pub struct KeygenArgs {
    /// The curve.
    #[arg(long, default_value = "p256", value_parser = one_of(&CURVES))]
    curve: Curve,
    /// The private key.
    #[arg(short, long, value_name = "KEY")]
    output: PathBuf,
}

const CURVES: [Choice<Curve>; 3] = [
    (Curve::P256, "p256", "NIST's curve of 256 bits, with SHA-256"),
    (Curve::P384, "p384", "NIST's curve of 384 bits, with SHA-384"),
    (Curve::P521, "p521", "NIST's curve of 521 bits, with SHA-512"),
];

#[derive(Serialize)]
struct Made {
    #[serde(serialize_with = "shown")]
    private: PathBuf,
    #[serde(serialize_with = "shown")]
    public: PathBuf,
    /// The key's name in signatures: the SHA-256 of the public one.
    key: String,
}

pub fn run(args: KeygenArgs, screen: &Screen) -> Result<()> {
    let key = PrivateKey::generate(args.curve)?;
    let public = key.write(&args.output)?;
    let made = Made { private: args.output, public, key: key.public().hint()? };
    screen.result(&made, |made| {
        format!(
            "{} signs: keep it secret\n{} verifies: give it to those who get your bundles\n\
             next: kilnc bundle sign BUNDLE --key {}\n",
            made.private.display(),
            made.public.display(),
            made.private.display()
        )
    })
}
