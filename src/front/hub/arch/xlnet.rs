//! XLNet (arXiv 1906.08237): scores by content, distance and token type, as Transformer-XL's, read in both directions.

use serde::Deserialize;

use super::blocks::{
    Activation, AttentionInputs, Blocks, EncoderLayer, LONGEST, LayerWeights, attention_scale, heads as heads_of,
};
use super::config::epsilon;
use super::family::ClassifierOf;
use super::family::Shared;
use super::{Context, Family, heads};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId, Weight};
use crate::ports::PortKind;
use crate::task::head::Head;

pub(super) const FAMILY: Family = Family {
    model_type: "xlnet",
    class: "XLNet",
    classes: &[
        ("Model", Head::HiddenStates),
        ("ForSequenceClassification", Head::TextLogits),
        ("ForTokenClassification", Head::TokenLogits),
        // The class without the last word searches beams.
        ("ForQuestionAnsweringSimple", Head::SpanLogits),
    ],
    prefix: "transformer",
    defaults: r#"{
        "vocab_size": 32000, "d_model": 1024, "n_layer": 24, "n_head": 16, "d_inner": 4096, "ff_activation": "gelu",
        "layer_norm_eps": 1e-12, "attn_type": "bi", "bi_data": false, "clamp_len": -1, "summary_type": "last",
        "summary_use_proj": true, "summary_proj_to_labels": false, "summary_activation": "tanh"
    }"#,
    renamed: &[
        ("n_token", "vocab_size"),
        ("hidden_size", "d_model"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
    classifier: ClassifierOf::Tokens,
    shared: &[Shared::one("transformer.word_embedding.weight", ["lm_loss.weight", "lm_loss.bias"])],
    restated: None,
    unread: &["mask_emb"],
    decoder: None,
    build,
};

#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    d_model: usize,
    n_layer: usize,
    n_head: usize,
    d_inner: usize,
    #[serde(default)]
    d_head: Option<usize>,
    ff_activation: Activation,
    layer_norm_eps: f32,
    attn_type: AttentionType,
    bi_data: bool,
    clamp_len: i64,
    summary_type: SummaryType,
    summary_use_proj: bool,
    summary_proj_to_labels: bool,
    summary_activation: Option<Activation>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AttentionType {
    Bi,
    Uni,
}

/// Which token a text is summed up by.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SummaryType {
    Last,
    First,
    Mean,
    /// The last one without an index, and there is none.
    ClsIndex,
    Attn,
}

/// The settings and inputs of the layers.
struct Model {
    layer: EncoderLayer,
    /// `[d_model, n_head, d_head]`
    projection: [Size; 3],
    inputs: Inputs,
}

struct Inputs {
    types: ValueId,
    mask: ValueId,
    sinusoids: ValueId,
}

fn build(context: &Context) -> Result<Graph> {
    let config: Config = context.config.get()?;
    config.check()?;
    let hidden = config.hidden();
    let mut blocks = Blocks::new("xlnet");
    let transformer = context.weights.sub("transformer");
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);
    let types = blocks.token_input(PortKind::TokenTypes);

    blocks.role(Part::Embedding);
    let vocabulary = Size { n: config.vocab_size, field: "vocab_size" };
    let mut x = blocks.words(&transformer.sub("word_embedding"), [vocabulary, hidden], ids)?;
    blocks.role(Part::Position);
    let clamp = usize::try_from(config.clamp_len).unwrap_or(0);
    let inputs = Inputs {
        types,
        mask: blocks.self_mask(LONGEST, mask)?,
        sinusoids: blocks.sinusoids(hidden, clamp, LONGEST, ids)?,
    };
    let model = Model { layer: config.layer()?, projection: config.projection()?, inputs };
    for i in 0..config.n_layer {
        x = layer(&mut blocks, &model, &transformer.item("layer", i), i, x)?;
    }

    match context.head {
        Head::HiddenStates => heads::features(&mut blocks, x, None)?,
        Head::Embedding => heads::sentence(&mut blocks, context, x, mask)?,
        Head::TextLogits => {
            let summary = summary(&mut blocks, &config, &context.weights.sub("sequence_summary"), x)?;
            heads::labelled(&mut blocks, context, &context.weights.sub("logits_proj"), hidden, summary)?;
        }
        Head::SpanLogits if context.weights.has("start_logits.dense.weight") => {
            return Err(Error::unsupported(
                "the head of XLNetForQuestionAnswering searches for spans, which is not built",
            )
            .hint("XLNetForQuestionAnsweringSimple's head is"));
        }
        Head::TokenLogits | Head::SpanLogits => heads::per_token(&mut blocks, context, hidden, x)?,
        Head::MaskedTokens => {
            return Err(Error::unsupported("XLNet predicts tokens in permuted order, which is not supported")
                .hint("choose --task feature-extraction"));
        }
        Head::NextToken => return Err(heads::no_decoder()),
    }
    Ok(blocks.finish())
}

impl Config {
    fn hidden(&self) -> Size {
        Size { n: self.d_model, field: "d_model" }
    }

    fn projection(&self) -> Result<[Size; 3]> {
        let heads = heads_of(self.n_head, self.d_model)? as usize;
        let size = Size { n: self.d_model / heads, field: "d_head" };
        Ok([self.hidden(), Size { n: heads, field: "n_head" }, size])
    }

    fn layer(&self) -> Result<EncoderLayer> {
        Ok(EncoderLayer {
            hidden: self.hidden(),
            inner: Size { n: self.d_inner, field: "d_inner" },
            heads: heads_of(self.n_head, self.d_model)?,
            activation: self.ff_activation,
            epsilon: self.layer_norm_eps,
        })
    }

    /// Refuses by name invalid values, and options that would change the outputs and are not supported.
    fn check(&self) -> Result<()> {
        epsilon(self.layer_norm_eps)?;
        let heads = heads_of(self.n_head, self.d_model)? as usize;
        let refused = |what: &str, field: &str| Err(Error::unsupported(what).at(format!("config.json: {field}")));
        match self {
            Config { d_head: Some(n), .. } if *n != self.d_model / heads => {
                refused("only `d_model` over `n_head` is supported", "d_head")
            }
            Config { attn_type: AttentionType::Uni, .. } => refused("only `bi` is supported", "attn_type"),
            Config { bi_data: true, .. } => {
                refused("a batch whose second half is read backwards is not built", "bi_data")
            }
            Config { summary_type: SummaryType::Mean | SummaryType::Attn, .. } => {
                refused("only `last`, `first` and `cls_index` are supported", "summary_type")
            }
            Config { summary_proj_to_labels: true, .. } => {
                refused("only `false` is supported", "summary_proj_to_labels")
            }
            _ => Ok(()),
        }
    }
}

fn layer(blocks: &mut Blocks, model: &Model, p: &Scope, i: usize, x: ValueId) -> Result<ValueId> {
    let (w, layer) = (layer_weights(p), &model.layer);
    let project = |blocks: &mut Blocks, part: Part, p: &Scope, x: ValueId| {
        blocks.role(Role::layer(part, i));
        blocks.multiply(&p.full("product"), p.path(), weight(p, model)?, None, x)
    };
    let query = project(blocks, Part::Query, &w.query, x)?;
    let key = project(blocks, Part::Key, &w.key, x)?;
    let value = project(blocks, Part::Value, &w.value, x)?;
    let rows = project(blocks, Part::Position, &w.attention.sub("r"), model.inputs.sinusoids)?;

    blocks.role(Role::layer(Part::Attention, i));
    let content = shifted(blocks, model, &w.attention, "r_w_bias", query)?;
    let bias = bias(blocks, model, &w.attention, query, rows)?;
    let scale = attention_scale(layer.hidden, layer.heads, 1);
    let inputs = AttentionInputs { mask: model.inputs.mask, bias: Some(bias) };
    let attended = blocks.attention(w.attention.path(), layer.heads, scale, [content, key, value], inputs)?;
    blocks.role(Role::layer(Part::AttentionOutput, i));
    let output = &w.attention_output;
    let transposed = weight(output, model)?.transpose()?;
    let attended = blocks.multiply(&output.full("product"), output.path(), transposed, None, attended)?;
    blocks.after_attention(&w, i, layer, attended, x)
}

/// The bias of the scores: by distances and by token types.
fn bias(blocks: &mut Blocks, model: &Model, p: &Scope, query: ValueId, rows: ValueId) -> Result<ValueId> {
    let (heads, scale) = (model.layer.heads, attention_scale(model.layer.hidden, model.layer.heads, 1));
    let [hidden, n_head, d_head] = model.projection;
    let distance = shifted(blocks, model, p, "r_r_bias", query)?;
    let distance = blocks.distance_scores(&p.full("distance"), heads, scale, false, [distance, rows])?;
    let segment = shifted(blocks, model, p, "r_s_bias", query)?;
    let two = Size { n: 2, field: "seg_embed" };
    let table = blocks.reshaped(p, "seg_embed", &[two, n_head, d_head], vec![2, hidden.n])?;
    let segment = blocks.segment_scores(&p.full("segment"), heads, scale, [segment, table, model.inputs.types])?;
    blocks.add(&p.full("bias"), distance, segment)
}

/// The queries plus one of the three vectors of a query without content.
fn shifted(blocks: &mut Blocks, model: &Model, p: &Scope, name: &str, query: ValueId) -> Result<ValueId> {
    let [hidden, n_head, d_head] = model.projection;
    let by = blocks.reshaped(p, name, &[n_head, d_head], vec![hidden.n])?;
    blocks.add(&p.full(&format!("{name}.sum")), query, by)
}

/// A projection that the checkpoint keeps as `[d_model, n_head, d_head]`, as a matrix of `d_model` rows.
fn weight(p: &Scope, model: &Model) -> Result<Weight> {
    let [hidden, ..] = model.projection;
    p.tensor("", &model.projection)?.reshape(vec![hidden.n, hidden.n])
}

/// The token of the text, through a dense layer and a non-linearity, where there are any.
fn summary(blocks: &mut Blocks, config: &Config, p: &Scope, x: ValueId) -> Result<ValueId> {
    blocks.role(Part::Pooler);
    let index = if let SummaryType::First = config.summary_type { 0 } else { -1 };
    let mut summary = blocks.select(&p.full("token"), x, 1, index)?;
    if config.summary_use_proj {
        summary = blocks.linear(&p.sub("summary"), config.hidden(), config.hidden(), summary)?;
    }
    match config.summary_activation {
        Some(activation) => blocks.activation(&p.full("activation"), activation, summary),
        None => Ok(summary),
    }
}

fn layer_weights<'a>(p: &Scope<'a>) -> LayerWeights<'a> {
    let (attention, ff) = (p.sub("rel_attn"), p.sub("ff"));
    LayerWeights {
        query: attention.sub("q"),
        key: attention.sub("k"),
        value: attention.sub("v"),
        attention_output: attention.sub("o"),
        attention_norm: attention.sub("layer_norm"),
        attention,
        ffn_in: ff.sub("layer_1"),
        ffn_out: ff.sub("layer_2"),
        ffn_norm: ff.sub("layer_norm"),
        adapters: None,
    }
}
