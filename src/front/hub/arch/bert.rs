//! BERT (arXiv 1810.04805), as `transformers` saves it: post-norm encoder, learned positions, two token types.

use super::blocks::{Embeddings, LayerWeights, Positions, TokenTypes};
use super::classes::ENCODER;
use super::config::EncoderConfig;
use super::family::ClassifierOf;
use super::family::Shared;
use super::heads::{self, Classifier, Heads, MaskedLm};
use super::{Context, Family};
use crate::error::Result;
use crate::ir::Graph;
use crate::ports::PortKind;

pub(super) const FAMILY: Family = Family {
    model_type: "bert",
    class: "Bert",
    classes: ENCODER,
    prefix: "bert",
    defaults: r#"{
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12
    }"#,
    renamed: &[],
    classifier: ClassifierOf::TextsWith("bert.pooler.dense.weight"),
    shared: &[Shared::two(
        "bert.embeddings.word_embeddings.weight",
        ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
        "cls.predictions.bias",
    )],
    restated: None,
    unread: &[],
    decoder: None,
    build,
};

fn build(context: &Context) -> Result<Graph> {
    let config = EncoderConfig::read(&context.config)?;
    let (hidden, layer) = (config.hidden(), config.layer()?);
    let mut blocks = context.blocks("bert");
    let bert = context.weights.sub("bert");
    let ids = blocks.token_input(PortKind::TokenIds);
    let mask = blocks.token_input(PortKind::AttentionMask);
    let types = blocks.token_input(PortKind::TokenTypes);

    let embeddings = Embeddings {
        vocabulary: config.vocabulary(),
        positions: config.positions(),
        counted: Positions::Absolute,
        token_types: TokenTypes::Input(types, config.token_types()),
        width: hidden,
        epsilon: config.layer_norm_eps,
    };
    let mut x = blocks.embeddings(&bert.sub("embeddings"), &embeddings, ids)?;
    for i in 0..config.num_hidden_layers {
        let weights = LayerWeights::bert(&bert.sub("encoder").item("layer", i));
        x = blocks.encoder_layer(&weights, i, &layer, x, mask)?;
    }

    let p = context.weights.sub("cls.predictions");
    let heads = Heads {
        encoder: bert.clone(),
        hidden,
        embedding: hidden,
        vocabulary: config.vocabulary(),
        epsilon: config.layer_norm_eps,
        pooler: Some(bert.sub("pooler.dense")),
        classifier: Classifier::Pooled(context.weights.sub("classifier")),
        masked_lm: MaskedLm {
            dense: p.sub("transform.dense"),
            norm: p.sub("transform.LayerNorm"),
            decoder: p.sub("decoder"),
            tied: bert.sub("embeddings.word_embeddings"),
            bias: p,
        },
        masked_lm_activation: config.hidden_act,
    };
    heads::build(&mut blocks, context, &heads, x, mask)?;
    Ok(blocks.finish())
}
