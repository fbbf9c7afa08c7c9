//! One vector for each text, by the modules that sentence-transformers puts after an encoder (arXiv 1908.10084).

use super::Context;
use super::blocks::{Activation, Blocks};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{Dense, ModuleKind, Pooling, Scope, SentenceModule, Size};
use crate::ir::{Part, ValueId};
use crate::ports::PortKind;

/// The default epsilon of PyTorch's norms.
const EPSILON: f32 = 1e-5;

/// The vector of each text, and the hidden states that it comes from.
pub(super) fn sentence(blocks: &mut Blocks, context: &Context, x: ValueId, mask: ValueId) -> Result<()> {
    let Some((sentence, weights)) = &context.sentence else {
        return Err(Error::bad_input("sentence similarity needs modules.json, which the checkpoint does not have")
            .hint("save the model with sentence-transformers, or choose --task feature-extraction"));
    };
    blocks.role(Part::Head);
    let prompt = sentence.model.prompt()?;
    let mut vector = None;
    for SentenceModule { path, kind } in &sentence.modules {
        let built = match (kind, vector) {
            (ModuleKind::Pooling { modes, include_prompt: false }, _) if prompt.is_some() => {
                match sentence.prompt_tokens {
                    Some(left_out) => pool(blocks, modes, left_out, x, mask),
                    None => Err(Error::bad_input(
                        "there is no tokenizer to count the tokens of the prompt, which are left out",
                    )),
                }
            }
            (ModuleKind::Pooling { modes, .. }, _) => pool(blocks, modes, 0, x, mask),
            (ModuleKind::Other(class), _) => Err(not_built(&format!("the module `{}`", printable(class)))),
            (_, None) => Err(Error::bad_input("there is no vector yet: the pooling has to come first")),
            (kind, Some(vector)) => change(blocks, &weights.sub(path), kind, vector),
        };
        vector = Some(built.map_err(|e| e.at(format!("modules.json: {}", printable(path))))?);
    }
    let vector = vector.ok_or_else(|| Error::bad_input("no module makes a vector").at("modules.json"))?;
    let vector = match sentence.model.truncate_dim()? {
        Some(kept) if blocks.width(vector).is_some_and(|width| kept < width) => blocks.first(vector, kept)?,
        _ => vector,
    };
    blocks.output(PortKind::TokenEmbeddings, x)?;
    blocks.output(PortKind::Embedding, vector)
}

fn not_built(what: &str) -> Error {
    Error::unsupported(format!("{what} is not built")).hint("--task feature-extraction builds the encoder alone")
}

/// One vector for each mode, side by side, of all tokens but the first `left_out`.
fn pool(blocks: &mut Blocks, modes: &[Pooling], left_out: usize, x: ValueId, mask: ValueId) -> Result<ValueId> {
    let mask = if left_out > 0 { blocks.without_first(mask, left_out)? } else { mask };
    let mut one = |name: &str, mode: Pooling| match mode {
        Pooling::FirstToken if left_out > 0 => blocks.token_after(name, 0, x, mask),
        mode => blocks.pool(name, mode, x, mask),
    };
    if let [mode] = modes {
        return one("pooling", *mode);
    }
    let mut vectors: Vec<ValueId> = Vec::with_capacity(modes.len());
    for (i, mode) in modes.iter().enumerate() {
        // A repeated mode gives the same vector.
        let before = modes.iter().take(i).position(|other| other == mode).and_then(|at| vectors.get(at).copied());
        vectors.push(before.map_or_else(|| one(&format!("pooling.{}", mode.name()), *mode), Ok)?);
    }
    blocks.concat("pooling", &vectors)
}

/// A module that makes a vector of another.
fn change(blocks: &mut Blocks, p: &Scope, kind: &ModuleKind, x: ValueId) -> Result<ValueId> {
    match kind {
        ModuleKind::Dense(config) => dense(blocks, p, config, x),
        ModuleKind::LayerNorm { dimension } => {
            let dimension = Size { n: *dimension, field: "dimension" };
            blocks.layer_norm(&p.sub("norm"), dimension, EPSILON, x)
        }
        ModuleKind::Normalize => blocks.normalize("normalize", x),
        // Purposes refuse it beside vectors.
        ModuleKind::LogitScore(_) => Err(not_built("a LogitScore of a vector")),
        ModuleKind::Dropout | ModuleKind::Pooling { .. } | ModuleKind::Other(_) => Ok(x),
    }
}

/// A linear layer and a non-linearity.
fn dense(blocks: &mut Blocks, p: &Scope, config: &Dense, x: ValueId) -> Result<ValueId> {
    let given = blocks.width(x).unwrap_or_default();
    if given != config.in_features {
        let expected = config.in_features;
        return Err(Error::bad_input(format!(
            "`in_features` is {expected}, but the module before has {given} outputs"
        )));
    }
    let linear = p.sub("linear");
    if linear.has("bias") != config.bias {
        return Err(Error::bad_input(format!("`bias` is {}, but the weights say otherwise", config.bias)));
    }
    let inputs = Size { n: config.in_features, field: "in_features" };
    let outputs = Size { n: config.out_features, field: "out_features" };
    let x = blocks.linear(&linear, inputs, outputs, x)?;
    match function(&config.activation_function)? {
        Some(function) => blocks.activation(&p.full("activation"), function, x),
        None => Ok(x),
    }
}

/// The function of a class of `torch.nn` that is made without arguments; none for the identity.
fn function(class: &str) -> Result<Option<Activation>> {
    match class.strip_prefix("torch.nn.").and_then(|path| path.rsplit('.').next()) {
        Some("Identity") => Ok(None),
        Some("Tanh") => Ok(Some(Activation::Tanh)),
        Some("ReLU") => Ok(Some(Activation::Relu)),
        Some("GELU") => Ok(Some(Activation::Gelu)),
        _ => Err(not_built(&format!("the `activation_function` `{}`", printable(class)))),
    }
}
