//! What a build is asked for.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::front::hub::load::Source;
use crate::output;
use crate::recipe::Recipe;

/// A request: the sources of a bundle or of one model.
pub struct BuildRequest {
    /// The model.
    pub source: Source,
    /// The recipe: engines, labels and gates.
    pub recipe: Recipe,
    /// Where the bundle goes; a name that ends in `.onnx` is that of a model with the one engine of the recipe.
    pub output: PathBuf,
    /// Whether an engine that cannot be made or checked here is an error.
    pub strict: bool,
    /// The folder of the cache, if it is used.
    pub cache: Option<PathBuf>,
}

impl BuildRequest {
    /// Whether the output is a model and no bundle.
    pub fn makes_model(&self) -> bool {
        self.output.extension().is_some_and(|extension| extension == "onnx")
    }

    /// Fails where input and output overlap, or one file cannot hold the request.
    pub fn check(&self) -> Result<()> {
        output::check_disjoint(&self.output, self.source.inputs().chain(self.recipe.inputs()))?;
        match self.recipe.engines_or_default().as_slice() {
            [engine] if self.makes_model() && engine.target.wants_plan() => {
                Err(Error::unsupported(format!("an engine for {} is no ONNX model", engine.target))
                    .hint("give a folder with -o, or export its ONNX file with kilnc export"))
            }
            [_] => Ok(()),
            engines if self.makes_model() => {
                Err(Error::bad_input(format!("a model is one engine, the recipe has {}", engines.len()))
                    .hint("give a folder with -o"))
            }
            _ => Ok(()),
        }
    }
}
