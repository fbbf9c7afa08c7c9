//! OpenAI GPT (Radford et al., 2018): GPT-2's layers with the norms after the residuals.

use serde::Deserialize;

use super::blocks::{
    Activation, Blocks, DecoderInputs, DecoderLayer, EncoderLayer, Memory, attention_scale, heads as heads_of,
};
use super::config::epsilon_of;
use super::family::ClassifierOf;
use super::family::Shared;
use super::gpt2::{self, BUFFERS, CONV1D, RENAMED};
use super::heads::decoder::{self, DecoderHeads};
use super::{Context, Decoder, Family};
use crate::error::Result;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};
use crate::task::head::Head;

pub(super) const FAMILY: Family = Family {
    model_type: "openai-gpt",
    class: "OpenAIGPT",
    classes: &[
        ("Model", Head::HiddenStates),
        ("LMHeadModel", Head::NextToken),
        ("DoubleHeadsModel", Head::NextToken),
        ("ForSequenceClassification", Head::TextLogits),
    ],
    prefix: "transformer",
    defaults: r#"{
        "vocab_size": 40478, "n_positions": 512, "n_embd": 768, "n_layer": 12, "n_head": 12, "afn": "gelu",
        "layer_norm_epsilon": 1e-5
    }"#,
    renamed: RENAMED,
    classifier: ClassifierOf::Tokens,
    shared: &[Shared::one("transformer.tokens_embed.weight", ["lm_head.weight", "lm_head.bias"])],
    restated: None,
    unread: &[],
    decoder: Some(&Decoder { buffers: BUFFERS, conv1d: CONV1D }),
    build,
};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    afn: Function,
    layer_norm_epsilon: f32,
}

/// A non-linearity by the names of this class: its `gelu` is the tanh approximation.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Function {
    Relu,
    Silu,
    Gelu,
    Swish,
}

impl From<Function> for Activation {
    fn from(function: Function) -> Activation {
        match function {
            Function::Relu => Activation::Relu,
            Function::Silu | Function::Swish => Activation::Silu,
            Function::Gelu => Activation::GeluNew,
        }
    }
}

fn build(context: &Context) -> Result<Graph> {
    let config: Config = context.config.get()?;
    let hidden = Size { n: config.n_embd, field: "n_embd" };
    let sizes = EncoderLayer {
        hidden,
        inner: Size { n: hidden.n.saturating_mul(4), ..hidden },
        heads: heads_of(config.n_head, config.n_embd)?,
        activation: config.afn.into(),
        epsilon: epsilon_of("layer_norm_epsilon", config.layer_norm_epsilon)?,
    };
    let layer = gpt2::gpt_layer(sizes, config.n_positions);
    let vocabulary = Size { n: config.vocab_size, field: "vocab_size" };
    let mut blocks = Blocks::new("openai-gpt");
    let transformer = context.weights.sub("transformer");
    let layers = gpt2::known_layers(&transformer, config.n_layer);
    let inputs = blocks.decoder_inputs(context.head, &vec![Memory::Attention; layers], &layer)?;

    let (tokens, places) = (transformer.sub("tokens_embed"), transformer.sub("positions_embed"));
    let mut x = gpt2::embeddings(&mut blocks, [&tokens, &places], [vocabulary, hidden], &layer, &inputs)?;
    for i in 0..config.n_layer {
        x = block(&mut blocks, &transformer.item("h", i), i, &layer, x, &inputs)?;
    }

    let projection = context.weights.sub("lm_head");
    decoder::build(&mut blocks, context, &DecoderHeads { hidden, vocabulary, projection, tied: tokens }, x, &inputs)?;
    Ok(blocks.finish())
}

/// Attention, residual, norm; feed-forward, residual, norm.
fn block(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &DecoderLayer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let sizes = &layer.sizes;
    let scale = attention_scale(sizes.hidden, sizes.heads, 1);
    let names = gpt2::attention(p);
    let attended = blocks.fused_causal_attention(names.each_ref(), i, (layer, scale), x, inputs)?;
    blocks.role(Role::layer(Part::AttentionNorm, i));
    let x = blocks.add_and_norm(&p.sub("ln_1"), sizes, x, attended)?;
    let mlp = p.sub("mlp");
    let out = blocks.feed_forward([&mlp.sub("c_fc"), &mlp.sub("c_proj")], i, sizes, x)?;
    blocks.role(Role::layer(Part::FeedForwardNorm, i));
    blocks.add_and_norm(&p.sub("ln_2"), sizes, x, out)
}
