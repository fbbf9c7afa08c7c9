//! `--key` and `--trust`: whether the native libraries that a bundle brings are used.

use std::path::PathBuf;

use clap::Args;

use super::{Screen, verify};
use kilnc::build::Observer;
use kilnc::bundle::Bundle;
use kilnc::bundle::signing::PublicKey;
use kilnc::error::{Error, Result};

/// What the user says of where a bundle comes from.
#[derive(Args)]
pub struct TrustArgs {
    /// The public key of who is to have signed the bundle, in PEM. The signature is verified first; then the native
    /// libraries that the bundle brings are used.
    #[arg(long, value_name = "FILE", conflicts_with = "trust")]
    key: Option<PathBuf>,
    /// Use the native libraries that the bundle brings, though nothing proves who made them: they are programs, and can
    /// do all that you can do.
    #[arg(long)]
    trust: bool,
}

impl TrustArgs {
    /// Verifies what is to be verified of a bundle, and has its libraries used where the user vouches for them.
    pub fn check(&self, bundle: &Bundle, screen: &Screen) -> Result<()> {
        if let Some(key) = &self.key {
            let found = bundle.digests()?;
            verify::signed_by(bundle, &PublicKey::read(key)?, None, &found)?;
            bundle.check(&found)?;
        }
        if !self.trust && self.key.is_none() {
            return Ok(());
        }
        let brings = bundle.trust()?;
        if self.trust && !brings {
            screen.warn(&format!(
                "--trust changes nothing: {} brings no libraries for this machine",
                bundle.dir.display()
            ));
        }
        Ok(())
    }

    /// An ONNX model brings nothing, and is not signed.
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
