//! ModernBERT (arXiv 2412.13663): pre-norm layers, rotary positions, gated feed-forward, and attention that is local in
//! most layers.

use serde::Deserialize;

use super::blocks::{Activation, AttentionInputs, Blocks, attention_scale, heads as heads_of};
use super::shared::Shared;
use super::{Drawing, Family, heads};
use crate::checkpoint::{Pooling, Scope, Size, json};
use crate::error::{Error, Result};
use crate::ir::{Graph, Part, Role, ValueId};
use crate::task::Task;

pub(super) const FAMILY: Family = Family {
    model_type: "modernbert",
    prefix: "model",
    shared: &[Shared::one("model.embeddings.tok_embeddings.weight", ["decoder.weight", "decoder.bias"])],
    draw,
};

/// Longest sequence for which tables of angles are made; no tensor of the checkpoint bounds it.
const LONGEST: usize = 1 << 17;

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default)]
    hidden_activation: Activation,
    norm_eps: f32,
    global_attn_every_n_layers: usize,
    local_attention: i64,
    global_rope_theta: f32,
    #[serde(default)]
    local_rope_theta: Option<f32>,
    #[serde(default)]
    classifier_activation: Activation,
    #[serde(default)]
    classifier_pooling: ClassifierPooling,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClassifierPooling {
    #[default]
    Cls,
    Mean,
}

/// Where the sizes of a layer come from, and what it is given.
struct Layer<'c> {
    config: &'c Config,
    hidden: Size,
    heads: i64,
    theta: f32,
    inputs: AttentionInputs,
}

fn draw(drawing: &Drawing) -> Result<Graph> {
    let config: Config = json::parse(drawing.config, "config.json")?;
    if config.global_attn_every_n_layers == 0 || config.local_attention < 1 {
        return Err(
            Error::bad_input("`global_attn_every_n_layers` and `local_attention` must be 1 or more").at("config.json")
        );
    }
    if config.max_position_embeddings == 0 || config.max_position_embeddings > LONGEST {
        return Err(Error::bad_input(format!(
            "expected 1 to {LONGEST} positions, found {}",
            config.max_position_embeddings
        ))
        .at("config.json: max_position_embeddings"));
    }
    let hidden = Size { n: config.hidden_size, field: "hidden_size" };
    let vocabulary = Size { n: config.vocab_size, field: "vocab_size" };
    let heads = heads_of(config.num_attention_heads, config.hidden_size)?;
    let mut blocks = Blocks::new("modernbert");
    let model = drawing.weights.sub("model");
    let ids = blocks.token_input("input_ids");
    let mask = blocks.token_input("attention_mask");

    blocks.role(Part::Embedding);
    let embeddings = model.sub("embeddings");
    let words = blocks.words(&embeddings.sub("tok_embeddings"), [vocabulary, hidden], ids)?;
    let mut x = blocks.norm(&embeddings.sub("norm"), hidden, config.norm_eps, words)?;
    let window =
        blocks.local_bias("local_attention", config.local_attention / 2, config.max_position_embeddings, ids)?;
    for i in 0..config.num_hidden_layers {
        let global = i % config.global_attn_every_n_layers == 0;
        let theta =
            if global { config.global_rope_theta } else { config.local_rope_theta.unwrap_or(config.global_rope_theta) };
        let inputs = AttentionInputs { mask, bias: (!global).then_some(window) };
        x = layer(
            &mut blocks,
            &model.item("layers", i),
            i,
            &Layer { config: &config, hidden, heads, theta, inputs },
            x,
        )?;
    }
    x = blocks.norm(&model.sub("final_norm"), hidden, config.norm_eps, x)?;

    match drawing.task {
        Task::FeatureExtraction => heads::features(&mut blocks, x, None)?,
        Task::SentenceSimilarity => heads::sentence(&mut blocks, drawing, x, mask)?,
        Task::TextClassification => {
            blocks.role(Part::Pooler);
            let pooled = match config.classifier_pooling {
                ClassifierPooling::Cls => blocks.pool("pooled", Pooling::FirstToken, x, mask)?,
                ClassifierPooling::Mean => blocks.pool("pooled", Pooling::Mean, x, mask)?,
            };
            let summary = prediction(&mut blocks, drawing, &config, hidden, pooled)?;
            heads::classification(&mut blocks, drawing, &drawing.weights.sub("classifier"), hidden, summary)?;
        }
        Task::TokenClassification => {
            let x = prediction(&mut blocks, drawing, &config, hidden, x)?;
            heads::per_token(&mut blocks, drawing, hidden, x)?;
        }
        Task::QuestionAnswering => {
            let x = prediction(&mut blocks, drawing, &config, hidden, x)?;
            heads::spans(&mut blocks, &drawing.weights.sub("classifier"), hidden, x)?;
        }
        Task::FillMask => {
            let x = prediction(&mut blocks, drawing, &config, hidden, x)?;
            let (decoder, tied) = (drawing.weights.sub("decoder"), embeddings.sub("tok_embeddings"));
            heads::vocabulary(&mut blocks, &decoder, &tied, &decoder, [hidden, vocabulary], x)?;
        }
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
    let inner = Size { n: layer.config.intermediate_size, field: "intermediate_size" };
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

/// What stands before every task's last layer: dense, non-linearity, norm.
fn prediction(blocks: &mut Blocks, drawing: &Drawing, config: &Config, hidden: Size, x: ValueId) -> Result<ValueId> {
    let p = drawing.weights.sub("head");
    blocks.role(Part::Head);
    let x = blocks.linear(&p.sub("dense"), hidden, hidden, x)?;
    let x = blocks.activation(&p.full("activation"), config.classifier_activation, x)?;
    blocks.norm(&p.sub("norm"), hidden, config.norm_eps, x)
}
