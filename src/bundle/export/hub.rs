//! The layout of Optimum and Transformers.js: the configuration and the tokenizer at the top, models in `onnx/`, and in
//! `web/` those for browsers where there are others.

use std::path::Path;

use super::folder::{Exported, Folder, engines_for, none_fits, without_libraries, without_prompt};
use crate::bundle::{Bundle, EngineEntry, HUB, TOKENIZER};
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::runtime::Runtime;

/// Files that Transformers.js does not do without.
const NEEDED: [&str; 2] = ["config.json", "tokenizer_config.json"];

/// The folder of models.
const MODELS: &str = "onnx";

/// Where those for browsers are, beside others.
const WEB: &str = "web";

/// Writes a bundle in the Hub's layout into an empty folder.
pub fn export(bundle: &Bundle, dir: &Path) -> Result<Exported> {
    let mut folder = Folder::new(dir);
    let engines = engines_for(bundle, &[Runtime::Ort, Runtime::Web], &mut folder.exported.notes);
    if engines.is_empty() {
        return Err(none_fits(bundle));
    }
    let kept: Vec<&str> = bundle.manifest.files.iter().filter_map(|file| within(&file.path)).collect();
    if !kept.contains(&"config.json") {
        return Err(Error::unsupported(format!("the bundle has no {HUB}/config.json, which the layout needs"))
            .hint("build it again: kilnc keeps the checkpoint's configuration since this version"));
    }
    for name in &kept {
        folder.copy(bundle, &format!("{HUB}/{name}"), name)?;
    }
    folder.copy(bundle, TOKENIZER, TOKENIZER)?;
    for name in NEEDED.iter().filter(|name| !kept.contains(name)) {
        folder
            .exported
            .notes
            .push(format!("there is no {name}: the checkpoint has none, and Transformers.js wants one"));
    }
    without_libraries(bundle, &mut folder.exported.notes);
    without_prompt(bundle, &mut folder.exported.notes);
    let (native, web): (Vec<_>, Vec<_>) = engines.into_iter().partition(|engine| engine.runtime == Runtime::Ort);
    let of_web = if native.is_empty() { MODELS } else { WEB };
    if of_web == WEB && !web.is_empty() {
        folder.exported.notes.push(format!("pages find their models with {{ subfolder: '{WEB}' }}"));
    }
    for (subfolder, engines) in [(MODELS, native), (of_web, web)] {
        for engine in in_order(engines) {
            let name = format!("{}.onnx", file_name(engine.precision));
            match folder.exported.files.iter().any(|file| *file == format!("{subfolder}/{name}")) {
                false => folder.engine(bundle, engine, subfolder, &name)?,
                true => {
                    folder.exported.notes.push(format!("{} is left out: {name} is the path of another", engine.name))
                }
            }
        }
    }
    Ok(folder.done())
}

/// The name of a file that is stored for this layout.
fn within(path: &str) -> Option<&str> {
    path.strip_prefix(HUB)?.strip_prefix('/')
}

/// Those first that have the better right to a name: several 8-bit formats have one between them.
fn in_order(mut engines: Vec<&EngineEntry>) -> Vec<&EngineEntry> {
    let place = |of| Precision::ALL.iter().position(|precision| *precision == of);
    engines.sort_by_key(|engine| (place(engine.precision), engine.reduced_range));
    engines
}

/// The name by which Transformers.js finds a precision (its `dtype`); Optimum takes the file's name.
fn file_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Fp32 => "model",
        Precision::Fp16 => "model_fp16",
        Precision::Bf16 => "model_bf16",
        Precision::Int4 => "model_q4",
        Precision::Int8 | Precision::Int8Fast | Precision::Int8Static | Precision::Int8Weights => "model_quantized",
    }
}
