//! `--key` and `--trust`: whether bundled runtimes are used.

use std::path::PathBuf;

use clap::Args;

use super::{Screen, verify};
use kilnc::build::Observer;
use kilnc::bundle::Bundle;
use kilnc::bundle::signing::PublicKey;
use kilnc::error::{Error, Result};

/// Whether the user trusts a bundle.
#[derive(Args)]
pub struct TrustArgs {
    /// The public key of who is to have signed the bundle, in PEM. The signature is verified first; then the native
    /// bundled runtimes are used.
    #[arg(long, value_name = "FILE", conflicts_with = "trust")]
    key: Option<PathBuf>,
    /// Use the bundled runtimes, though nothing proves who made them: they are programs, and can
    /// do all that you can do.
    #[arg(long)]
    trust: bool,
}

impl TrustArgs {
    /// Verifies a bundle by its key, and uses its runtimes where the user trusts them.
    pub fn check(&self, bundle: &Bundle, screen: &Screen) -> Result<()> {
        if let Some(key) = &self.key {
            let found = bundle.digests()?;
            verify::signed_by(bundle, &PublicKey::read(key)?, None, &found)?;
            bundle.check(&found)?;
        }
        if !self.trust && self.key.is_none() {
            return Ok(());
        }
        let bundles_runtimes = bundle.trust()?;
        if self.trust && !bundles_runtimes {
            screen.warn(&format!("--trust changes nothing: {} has no runtimes for this machine", bundle.dir.display()));
        }
        Ok(())
    }

    /// An ONNX model has no bundled runtimes, and is not signed.
    pub fn refuse(&self) -> Result<()> {
        match (self.trust, &self.key) {
            (false, None) => Ok(()),
            (trust, _) => {
                let flag = if trust { "--trust" } else { "--key" };
                Err(Error::bad_input(format!("{flag} is for a bundle, not for an ONNX model")))
            }
        }
    }
}
