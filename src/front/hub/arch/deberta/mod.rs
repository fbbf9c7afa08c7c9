//! DeBERTa-v2 and v3 (arXiv 2006.03654, 2111.09543): BERT's layers with separate scores by content and position, and a
//! convolution after the first layer in some.

mod config;

use super::blocks::{
    AttentionInputs, Blocks, Embeddings, EncoderLayer, LayerWeights, Positions, TokenTypes, attention_scale,
};
use super::classes::ENCODER;
use super::family::ClassifierOf;
use super::family::Shared;
use super::flexible::{self, Encoded};
use super::heads::{self, MaskedLm};
use super::{Context, Family};
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};
use crate::ports::PortKind;
use crate::task::head::Head;
use config::Config;

pub(super) const FAMILY: Family = Family {
    model_type: "deberta-v2",
    class: "DebertaV2",
    classes: ENCODER,
    prefix: "deberta",
    defaults: config::DEFAULTS,
    renamed: &[],
    classifier: ClassifierOf::TextsWith("pooler.dense.weight"),
    shared: &[
        Shared::two(
            "deberta.embeddings.word_embeddings.weight",
            ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
            "cls.predictions.bias",
        ),
        Shared::always(
            "deberta.embeddings.word_embeddings.weight",
            ["lm_predictions.lm_head.weight", "lm_predictions.lm_head.bias"],
        ),
    ],
    restated: None,
    unread: &[],
    decoder: None,
    build,
};

/// The settings and inputs of the layers.
struct Model {
    layer: EncoderLayer,
    mask: ValueId,
    /// Factor of every score.
    scale: f32,
    relative: Option<Relative>,
}

/// Scores by relative position.
struct Relative {
    /// A row for each distance from `−span` on.
    table: ValueId,
    /// The rows for queries that attend to the positions of keys.
    c2p: Option<ValueId>,
    /// The rows for keys that attend to the positions of queries.
    p2c: Option<ValueId>,
    /// Whether positions go through the projections of the content.
    shared: bool,
}

fn build(context: &Context) -> Result<Graph> {
    let config = Config::read(&context.config)?;
    let hidden = config.hidden();
    let mut blocks = context.blocks("deberta-v2");
    let deberta = context.weights.sub("deberta");
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);

    let (embedded, encoder) =
        (embeddings(&mut blocks, &config, &deberta.sub("embeddings"), ids)?, deberta.sub("encoder"));
    let model = model(&mut blocks, &config, &encoder, ids, mask)?;
    let mut x = embedded;
    for i in 0..config.num_hidden_layers {
        x = layer(&mut blocks, &model, &encoder.item("layer", i), i, x)?;
        if let (0, Some(kernel)) = (i, config.kernel()) {
            x = convolution(&mut blocks, &config, &model, &encoder.sub("conv"), kernel, [embedded, x])?;
        }
    }

    if let Some(head) = context.flexible_head() {
        let epsilon = config.layer_norm_eps;
        let given = Encoded { encoder: &deberta, hidden, embedding: config.width(), epsilon, x, pooled: None };
        flexible::build(&mut blocks, context, head, &given)?;
        return Ok(blocks.finish());
    }
    match context.head {
        Head::HiddenStates => heads::features(&mut blocks, x, None)?,
        Head::Embedding => heads::sentence(&mut blocks, context, x, mask)?,
        Head::TextLogits => {
            blocks.role(Part::Pooler);
            let p = context.weights.sub("pooler.dense");
            let first = heads::first_token_dense(&mut blocks, &p, hidden, config.pooler_hidden_act, x)?;
            heads::labelled(&mut blocks, context, &context.weights.sub("classifier"), hidden, first)?;
        }
        Head::TokenLogits | Head::SpanLogits => heads::per_token(&mut blocks, context, hidden, x)?,
        Head::MaskedTokens => masked_lm(&mut blocks, context, &config, &deberta, x)?,
        Head::NextToken => return Err(heads::no_decoder()),
    }
    Ok(blocks.finish())
}

/// Rows for tokens, and for positions and token types where there are any, in the width of the layers and normed.
fn embeddings(blocks: &mut Blocks, config: &Config, p: &Scope, ids: ValueId) -> Result<ValueId> {
    let token_types = match config.type_vocab_size {
        0 => TokenTypes::None,
        n => TokenTypes::Input(blocks.token_input(PortKind::TokenTypes), Size { n, field: "type_vocab_size" }),
    };
    let parts = Embeddings {
        vocabulary: config.vocabulary(),
        positions: Size { n: config.max_position_embeddings, field: "max_position_embeddings" },
        counted: if config.position_biased_input { Positions::Absolute } else { Positions::None },
        token_types,
        width: config.width(),
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embedded(p, &parts, ids)?;
    if config.width().n != config.hidden_size {
        x = blocks.linear(&p.sub("embed_proj"), config.width(), config.hidden(), x)?;
    }
    let x = blocks.layer_norm(&p.sub("LayerNorm"), config.hidden(), config.layer_norm_eps, x)?;
    blocks.invertible(p, config.hidden(), x)
}

fn model(blocks: &mut Blocks, config: &Config, encoder: &Scope, ids: ValueId, mask: ValueId) -> Result<Model> {
    let (layer, [c2p, p2c]) = (config.layer()?, config.terms()?);
    let relative = match config.relative_attention {
        true => Some(relative(blocks, config, encoder, [c2p, p2c], ids)?),
        false => None,
    };
    // The terms count where there is no relative attention, too.
    let scale = attention_scale(layer.hidden, layer.heads, 1 + usize::from(c2p) + usize::from(p2c));
    Ok(Model { layer, mask, scale, relative })
}

/// The table of relative positions, and its rows for the distances in a text.
fn relative(blocks: &mut Blocks, config: &Config, p: &Scope, [c2p, p2c]: [bool; 2], ids: ValueId) -> Result<Relative> {
    let hidden = config.hidden();
    blocks.role(Part::Position);
    let mut table = blocks.weight(&p.sub("rel_embeddings"), "weight", &[config.relative_rows(), hidden])?;
    if config.has_normed_positions()? {
        table = blocks.layer_norm(&p.sub("LayerNorm"), hidden, config.layer_norm_eps, table)?;
    }
    let mut of = |name: &str, opposite: bool| {
        blocks.distance_rows(&p.full(name), [config.buckets(), config.largest(), config.longest()], opposite, ids)
    };
    let c2p = c2p.then(|| of("distances", false)).transpose()?;
    let p2c = p2c.then(|| of("distances.opposite", true)).transpose()?;
    Ok(Relative { table, c2p, p2c, shared: config.share_att_key })
}

fn layer(blocks: &mut Blocks, model: &Model, p: &Scope, i: usize, x: ValueId) -> Result<ValueId> {
    let (w, layer) = (layer_weights(p), &model.layer);
    let projected = blocks.projections(&w, i, layer, x)?;
    let bias = match &model.relative {
        Some(relative) => bias(blocks, model, relative, &w, i, projected)?,
        None => None,
    };
    blocks.role(Role::layer(Part::Attention, i));
    let inputs = AttentionInputs { mask: model.mask, bias };
    let attended = blocks.attention(w.attention.path(), layer.heads, model.scale, projected, inputs)?;
    blocks.role(Role::layer(Part::AttentionOutput, i));
    let attended = blocks.linear(&w.attention_output, layer.hidden, layer.hidden, attended)?;
    blocks.after_attention(&w, i, layer, attended, x)
}

/// The bias of the scores: content by position, and position by content.
fn bias(
    blocks: &mut Blocks,
    model: &Model,
    relative: &Relative,
    w: &LayerWeights,
    i: usize,
    [query, key, _]: [ValueId; 3],
) -> Result<Option<ValueId>> {
    let (hidden, heads) = (model.layer.hidden, model.layer.heads);
    let mut term = |name: &str, content: &Scope, own: &str, rows: ValueId, x: ValueId, keys: bool| {
        let own = w.attention.sub(own);
        let projection = if relative.shared { content } else { &own };
        blocks.role(Role::layer(Part::Position, i));
        let table = blocks.linear_of(own.path(), projection, [hidden, hidden], relative.table)?;
        let rows = blocks.rows_of(&w.attention.full(&format!("{name}.rows")), table, rows)?;
        blocks.role(Role::layer(Part::Attention, i));
        blocks.distance_scores(&w.attention.full(name), heads, model.scale, keys, [x, rows])
    };
    let c2p = relative.c2p.map(|rows| term("c2p", &w.key, "pos_key_proj", rows, query, false)).transpose()?;
    let p2c = relative.p2c.map(|rows| term("p2c", &w.query, "pos_query_proj", rows, key, true)).transpose()?;
    match (c2p, p2c) {
        (Some(c2p), Some(p2c)) => blocks.add(&w.attention.full("bias"), c2p, p2c).map(Some),
        (one, other) => Ok(one.or(other)),
    }
}

/// Each token's embedding with those around it, added to the first layer's output. Padding counts as 0; the
/// outputs of padding itself are never read.
fn convolution(
    blocks: &mut Blocks,
    config: &Config,
    model: &Model,
    p: &Scope,
    kernel: Size,
    [embedded, x]: [ValueId; 2],
) -> Result<ValueId> {
    let (hidden, groups) = (config.hidden(), config.conv_groups);
    let inputs = Size { n: config.hidden_size / groups.max(1), field: "conv_groups" };
    blocks.role(Role::layer(Part::FeedForwardNorm, 0));
    let real = blocks.zero_padding(&p.full("real"), embedded, model.mask)?;
    let around = blocks.token_conv(&p.sub("conv"), groups as i64, [hidden, inputs, kernel], real)?;
    let active = blocks.activation(&p.full("activation"), config.conv_act, around)?;
    blocks.add_and_norm(&p.sub("LayerNorm"), &model.layer, active, x)
}

fn masked_lm(blocks: &mut Blocks, context: &Context, config: &Config, deberta: &Scope, x: ValueId) -> Result<()> {
    let tied = deberta.sub("embeddings.word_embeddings");
    let (hidden, vocabulary) = (config.hidden(), config.vocabulary());
    let (weights, width) = if config.legacy {
        let p = context.weights.sub("cls.predictions");
        let dense = p.sub("transform.dense");
        let norm = p.sub("transform.LayerNorm");
        (MaskedLm { dense, norm, decoder: p.sub("decoder"), tied, bias: p }, config.width())
    } else {
        let p = context.weights.sub("lm_predictions.lm_head");
        (MaskedLm { dense: p.sub("dense"), norm: p.sub("LayerNorm"), decoder: p.clone(), tied, bias: p }, hidden)
    };
    if config.legacy && !weights.dense.has("weight") && context.weights.has("lm_predictions.lm_head.dense.weight") {
        return Err(Error::bad_input("the head is `lm_predictions`, the configuration names `cls.predictions`")
            .at("config.json: legacy")
            .hint("`\"legacy\": false` in config.json takes the head that is there"));
    }
    heads::masked_lm(
        blocks,
        context,
        &weights,
        [hidden, width, vocabulary],
        config.hidden_act,
        config.layer_norm_eps,
        x,
    )
}

fn layer_weights<'a>(p: &Scope<'a>) -> LayerWeights<'a> {
    let bert = LayerWeights::bert(p);
    LayerWeights {
        query: bert.attention.sub("query_proj"),
        key: bert.attention.sub("key_proj"),
        value: bert.attention.sub("value_proj"),
        ..bert
    }
}
