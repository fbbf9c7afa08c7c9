//! ModernBERT (arXiv 2412.13663): pre-norm layers, rotary positions, gated feed-forward, and attention that is local in
//! most layers.

mod config;

use super::blocks::{AttentionInputs, Blocks, attention_scale};
use super::classes::ENCODER;
use super::family::ClassifierOf;
use super::family::Shared;
use super::{Context, Family, heads};
use crate::error::Result;
use crate::front::hub::checkpoint::{Pooling, Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};
use crate::ports::PortKind;
use crate::task::head::Head;
use config::{Attention, ClassifierPooling, Config};

pub(super) const FAMILY: Family = Family {
    model_type: "modernbert",
    class: "ModernBert",
    classes: ENCODER,
    prefix: "model",
    defaults: config::DEFAULTS,
    renamed: &[],
    classifier: ClassifierOf::Any,
    shared: &[Shared::one("model.embeddings.tok_embeddings.weight", ["decoder.weight", "decoder.bias"])],
    restated: Some(config::restated),
    unread: &[],
    decoder: None,
    build,
};

/// The sizes and inputs of a layer.
struct Layer<'c> {
    config: &'c Config,
    hidden: Size,
    heads: i64,
    theta: f32,
    inputs: AttentionInputs,
}

fn build(context: &Context) -> Result<Graph> {
    let config = Config::read(&context.config)?;
    let (hidden, vocabulary, heads) = (config.hidden(), config.vocabulary(), config.heads()?);
    let mut blocks = Blocks::new("modernbert");
    let model = context.weights.sub("model");
    config.check_biases(&model, &context.weights)?;
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);

    blocks.role(Part::Embedding);
    let embeddings = model.sub("embeddings");
    let words = blocks.words(&embeddings.sub("tok_embeddings"), [vocabulary, hidden], ids)?;
    let mut x = blocks.norm(&embeddings.sub("norm"), hidden, config.norm_eps, words)?;
    let window = blocks.local_bias("local_attention", config.window(), config.max_position_embeddings, ids)?;
    for i in 0..config.num_hidden_layers {
        let kind = config.attention(i)?;
        let (theta, bias) = (config.base(kind)?, (kind == Attention::Local).then_some(window));
        let inputs = AttentionInputs { mask, bias };
        x = layer(
            &mut blocks,
            &model.item("layers", i),
            i,
            &Layer { config: &config, hidden, heads, theta, inputs },
            x,
        )?;
    }
    // No part of the last layer, which may go alone.
    blocks.role(Part::Head);
    x = blocks.norm(&model.sub("final_norm"), hidden, config.norm_eps, x)?;

    match context.head {
        Head::HiddenStates => heads::features(&mut blocks, x, None)?,
        Head::Embedding => heads::sentence(&mut blocks, context, x, mask)?,
        Head::TextLogits => {
            blocks.role(Part::Pooler);
            let pooled = match config.classifier_pooling {
                ClassifierPooling::Cls => blocks.pool("pooled", Pooling::FirstToken, x, mask)?,
                ClassifierPooling::Mean => blocks.pool("pooled", Pooling::Mean, x, mask)?,
            };
            let summary = prediction(&mut blocks, context, &config, hidden, pooled)?;
            heads::labelled(&mut blocks, context, &context.weights.sub("classifier"), hidden, summary)?;
        }
        Head::TokenLogits => {
            let x = prediction(&mut blocks, context, &config, hidden, x)?;
            heads::per_token(&mut blocks, context, hidden, x)?;
        }
        Head::SpanLogits => {
            let x = prediction(&mut blocks, context, &config, hidden, x)?;
            heads::spans(&mut blocks, context, &context.weights.sub("classifier"), hidden, x)?;
        }
        Head::MaskedTokens => {
            let x = prediction(&mut blocks, context, &config, hidden, x)?;
            let (decoder, tied) = (context.weights.sub("decoder"), embeddings.sub("tok_embeddings"));
            heads::vocabulary(&mut blocks, &decoder, &tied, &decoder, [hidden, vocabulary], x)?;
        }
        Head::NextToken => return Err(heads::no_decoder()),
    }
    Ok(blocks.finish())
}

/// Pre-norm attention and gated feed-forward. The first layer has no norm before its attention: the embeddings' is.
fn layer(blocks: &mut Blocks, p: &Scope, i: usize, layer: &Layer, x: ValueId) -> Result<ValueId> {
    let (hidden, epsilon) = (layer.hidden, layer.config.norm_eps);
    let attn = p.sub("attn");
    blocks.role(Role::layer(Part::AttentionNorm, i));
    let normed = if i == 0 { x } else { blocks.norm(&p.sub("attn_norm"), hidden, epsilon, x)? };

    blocks.role(Role::layer(Part::Qkv, i));
    let qkv = blocks.linear(&attn.sub("Wqkv"), hidden, Size { n: hidden.n.saturating_mul(3), ..hidden }, normed)?;
    let [query, key, value] = blocks.split(&attn.full("split"), qkv)?;
    blocks.role(Role::layer(Part::Attention, i));
    let positions = layer.config.max_position_embeddings;
    let query = blocks.rotary(&attn.full("query"), layer.heads, layer.theta, positions, query)?;
    let key = blocks.rotary(&attn.full("key"), layer.heads, layer.theta, positions, key)?;
    let scale = attention_scale(hidden, layer.heads, 1);
    let attended = blocks.attention(attn.path(), layer.heads, scale, [query, key, value], layer.inputs)?;
    blocks.role(Role::layer(Part::AttentionOutput, i));
    let attended = blocks.linear(&attn.sub("Wo"), hidden, hidden, attended)?;
    let x = blocks.add(&p.full("attn.residual"), x, attended)?;

    let mlp = p.sub("mlp");
    let inner = layer.config.inner();
    blocks.role(Role::layer(Part::FeedForwardNorm, i));
    let normed = blocks.norm(&p.sub("mlp_norm"), hidden, epsilon, x)?;
    blocks.role(Role::layer(Part::FeedForwardIn, i));
    let both = blocks.linear(&mlp.sub("Wi"), hidden, Size { n: inner.n.saturating_mul(2), ..inner }, normed)?;
    blocks.role(Role::layer(Part::Activation, i));
    let [input, gate] = blocks.split(&mlp.full("split"), both)?;
    let active = blocks.activation(&mlp.full("activation"), layer.config.hidden_activation, input)?;
    let gated = blocks.mul(&mlp.full("gated"), active, gate)?;
    blocks.role(Role::layer(Part::FeedForwardOut, i));
    let out = blocks.linear(&mlp.sub("Wo"), inner, hidden, gated)?;
    blocks.add(&p.full("mlp.residual"), x, out)
}

/// The head before every task's last layer: dense, non-linearity, norm.
fn prediction(blocks: &mut Blocks, context: &Context, config: &Config, hidden: Size, x: ValueId) -> Result<ValueId> {
    let p = context.weights.sub("head");
    blocks.role(Part::Head);
    let x = blocks.linear(&p.sub("dense"), hidden, hidden, x)?;
    let x = blocks.activation(&p.full("activation"), config.classifier_activation, x)?;
    blocks.norm(&p.sub("norm"), hidden, config.norm_eps, x)
}
