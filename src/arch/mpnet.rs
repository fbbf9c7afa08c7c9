//! MPNet (arXiv 2004.09297): BERT's layers with positions that skip padding, and a bias by relative position that all
//! layers share.

use super::blocks::{Activation, AttentionInputs, Embeddings, LayerWeights, Positions, Segments};
use super::config::EncoderConfig;
use super::heads::{self, MaskedLm};
use super::{Drawing, Family};
use crate::checkpoint::Scope;
use crate::error::Result;
use crate::ir::{Graph, Part};
use crate::task::Task;

pub(super) const FAMILY: Family = Family { model_type: "mpnet", prefix: "mpnet", draw };

/// The code of `transformers` fixes it, whatever `pad_token_id` says.
const PAD: i64 = 1;

fn draw(drawing: &Drawing) -> Result<Graph> {
    let config = EncoderConfig::read(drawing.config)?;
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let mut blocks = drawing.blocks("mpnet");
    let mpnet = drawing.weights.sub("mpnet");
    let ids = blocks.token_input("input_ids");
    let mask = blocks.token_input("attention_mask");

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::SkipPadding { pad: PAD },
        segments: Segments::None,
        width: hidden,
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embeddings(&mpnet.sub("embeddings"), &embeddings, ids)?;
    let encoder = mpnet.sub("encoder");
    let bias = blocks.relative_bias(&encoder.sub("relative_attention_bias"), &layer, config.positions(), ids)?;
    for i in 0..config.num_hidden_layers {
        let weights = layer_weights(&encoder.item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, AttentionInputs { mask, bias: Some(bias) })?;
    }

    match drawing.task {
        Task::FeatureExtraction => {
            let pooled = heads::pooler(&mut blocks, &mpnet.sub("pooler.dense"), hidden, x)?;
            heads::features(&mut blocks, x, pooled)?;
        }
        Task::SentenceSimilarity => heads::sentence(&mut blocks, drawing, x, mask)?,
        Task::TextClassification => {
            let p = drawing.weights.sub("classifier");
            blocks.role(Part::Pooler);
            let first = heads::first_token_dense(&mut blocks, &p.sub("dense"), hidden, Activation::Tanh, x)?;
            heads::classification(&mut blocks, drawing, &p.sub("out_proj"), hidden, first)?;
        }
        Task::TokenClassification | Task::QuestionAnswering => heads::per_token(&mut blocks, drawing, hidden, x)?,
        Task::FillMask => {
            let weights = MaskedLm::roberta(drawing.weights.sub("lm_head"), &mpnet);
            let sizes = [hidden, hidden, config.vocabulary()];
            heads::masked_lm(&mut blocks, &weights, sizes, Activation::Gelu, config.layer_norm_eps, x)?;
        }
    }
    Ok(blocks.finish())
}

fn layer_weights<'a>(p: &Scope<'a>) -> LayerWeights<'a> {
    let attention = p.sub("attention.attn");
    LayerWeights {
        query: attention.sub("q"),
        key: attention.sub("k"),
        value: attention.sub("v"),
        attention_output: attention.sub("o"),
        attention,
        attention_norm: p.sub("attention.LayerNorm"),
        ffn_in: p.sub("intermediate.dense"),
        ffn_out: p.sub("output.dense"),
        ffn_norm: p.sub("output.LayerNorm"),
        adapters: None,
    }
}
