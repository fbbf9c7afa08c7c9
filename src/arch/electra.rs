//! ELECTRA (arXiv 2003.10555): BERT's layers over embeddings that may be narrower, and no pooler.

use serde::Deserialize;

use super::blocks::{Activation, Embeddings, LayerWeights, Positions, Segments};
use super::config::EncoderConfig;
use super::flexible::{self, Encoded};
use super::heads::{self, MaskedLm};
use super::{Drawing, Family};
use crate::checkpoint::{Size, json};
use crate::error::Result;
use crate::ir::{Graph, Part};
use crate::task::Task;

pub(super) const FAMILY: Family = Family { model_type: "electra", prefix: "electra", draw };

#[derive(Deserialize)]
struct Config {
    embedding_size: usize,
}

fn draw(drawing: &Drawing) -> Result<Graph> {
    let config = EncoderConfig::read(drawing.config)?;
    let own: Config = json::parse(drawing.config, "config.json")?;
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let width = Size { n: own.embedding_size, field: "embedding_size" };
    let mut blocks = drawing.blocks("electra");
    let electra = drawing.weights.sub("electra");
    let ids = blocks.token_input("input_ids");
    let mask = blocks.token_input("attention_mask");
    let types = blocks.token_input("token_type_ids");

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::Absolute,
        segments: Segments::Input(types, config.segments()),
        width,
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embeddings(&electra.sub("embeddings"), &embeddings, ids)?;
    if width.n != hidden.n {
        x = blocks.linear(&electra.sub("embeddings_project"), width, hidden, x)?;
    }
    for i in 0..config.num_hidden_layers {
        let weights = LayerWeights::bert(&electra.sub("encoder").item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, mask)?;
    }

    if let Some(head) = drawing.flexible_head() {
        let given =
            Encoded { encoder: &electra, hidden, embedding: width, epsilon: config.layer_norm_eps, x, pooled: None };
        flexible::draw(&mut blocks, drawing, head, &given)?;
        return Ok(blocks.finish());
    }
    match drawing.task {
        Task::FeatureExtraction => heads::features(&mut blocks, x, None)?,
        Task::SentenceSimilarity => heads::sentence(&mut blocks, drawing, x, mask)?,
        Task::TextClassification => {
            let p = drawing.weights.sub("classifier");
            blocks.role(Part::Pooler);
            let first = heads::first_token_dense(&mut blocks, &p.sub("dense"), hidden, Activation::Gelu, x)?;
            heads::classification(&mut blocks, drawing, &p.sub("out_proj"), hidden, first)?;
        }
        Task::TokenClassification | Task::QuestionAnswering => heads::per_token(&mut blocks, drawing, hidden, x)?,
        Task::FillMask => {
            let p = drawing.weights.sub("generator_predictions");
            let decoder = drawing.weights.sub("generator_lm_head");
            let weights = MaskedLm {
                dense: p.sub("dense"),
                norm: p.sub("LayerNorm"),
                bias: decoder.clone(),
                decoder,
                tied: electra.sub("embeddings.word_embeddings"),
            };
            let sizes = [hidden, width, config.vocabulary()];
            heads::masked_lm(&mut blocks, &weights, sizes, Activation::Gelu, config.layer_norm_eps, x)?;
        }
    }
    Ok(blocks.finish())
}
