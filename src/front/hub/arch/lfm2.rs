//! LFM2 of Liquid AI: short convolutions, with layers of attention among them whose heads of queries and keys are
//! normed.

use super::blocks::{Activation, Blocks, DecoderInputs, GatedNames, Memory, ShortConv};
use super::config::Fields;
use super::heads::decoder::Logits;
use super::llama::{self, Layer};
use super::rope::{self, Rope};
use super::stack::{LANGUAGE, Sizes, Stack, family};
use super::{Context, Family, Restated};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Graph, Part, Role, ValueId};

pub(super) const FAMILY: Family = Family {
    renamed: &[("block_ff_dim", "intermediate_size"), ("tie_embedding", "tie_word_embeddings")],
    ..family(
        ("lfm2", "Lfm2"),
        r#"{
            "pad_token_id": 0,
            "vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-5,
            "tie_word_embeddings": true, "conv_bias": false, "conv_L_cache": 3, "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": true
        }"#,
        LANGUAGE,
        build,
        restated,
    )
};

const ROPE: Rope = Rope::whole(1_000_000.0);

/// The feed-forward block's layers.
const FEED_FORWARD: GatedNames = GatedNames { gate: "w1", up: "w3", down: "w2" };

fn restated(fields: &Fields) -> Result<Restated> {
    rope::restated(fields, &ROPE)
}

/// What a layer mixes tokens by.
#[derive(Clone, Copy, PartialEq)]
enum Mixer {
    Attention,
    Conv,
}

impl Mixer {
    /// One for each layer: by `layer_types`, else attention in the layers of `full_attn_idxs`, else attention in all.
    fn of(fields: &Fields, layers: usize) -> Result<Vec<Mixer>> {
        let place = "config.json: layer_types";
        let mixers = match fields.field::<Option<Vec<String>>>("layer_types")? {
            Some(listed) if listed.len() != layers => {
                return Err(Error::bad_input(format!("{} kinds for {layers} layers", listed.len())).at(place));
            }
            Some(listed) => listed.iter().map(|name| Mixer::named(name, place)).collect::<Result<Vec<_>>>()?,
            None => {
                let attention = fields.field::<Option<Vec<usize>>>("full_attn_idxs")?;
                let of = |i: usize| match &attention {
                    Some(attention) if !attention.contains(&i) => Mixer::Conv,
                    _ => Mixer::Attention,
                };
                (0..layers).map(of).collect()
            }
        };
        match mixers.contains(&Mixer::Attention) {
            true => Ok(mixers),
            false => Err(Error::unsupported("models without a layer of attention are not built").at(place)),
        }
    }

    fn named(name: &str, place: &str) -> Result<Mixer> {
        match name {
            "full_attention" => Ok(Mixer::Attention),
            "conv" => Ok(Mixer::Conv),
            other => Err(Error::unsupported(format!("layers of the kind `{}` are not built", printable(other)))
                .at(place)
                .hint("known: full_attention and conv")),
        }
    }
}

/// The width of feed-forward blocks: that of the configuration, or two thirds of it times a factor, as a multiple of a
/// number.
fn inner(fields: &Fields, said: usize) -> Result<usize> {
    if !fields.field::<bool>("block_auto_adjust_ff_dim")? {
        return Ok(said);
    }
    let two_thirds = (2.0 * said as f64 / 3.0) as usize;
    let Some(factor) = fields.field::<Option<f64>>("block_ffn_dim_multiplier")? else { return Ok(two_thirds) };
    let of: usize = fields.field("block_multiple_of")?;
    match (factor * two_thirds as f64) as usize {
        _ if of == 0 => Err(Error::bad_input("expected 1 or more, found 0").at("config.json: block_multiple_of")),
        width => Ok(width.div_ceil(of).saturating_mul(of)),
    }
}

fn sizes(fields: &Fields) -> Result<Sizes> {
    let mut sizes = Sizes::with_activation(fields, Activation::Silu, "norm_eps")?;
    let width = &mut sizes.layer.sizes.inner;
    width.n = inner(fields, width.n)?;
    if fields.has("theta") {
        return Err(Error::unsupported("versions of transformers differ in whether they read this field")
            .at("config.json: theta")
            .hint("name it rope_theta"));
    }
    Ok(sizes)
}

fn short_conv(fields: &Fields, sizes: &Sizes) -> Result<ShortConv> {
    let kernel = Size { n: fields.field("conv_L_cache")?, field: "conv_L_cache" };
    if kernel.n < 2 {
        return Err(Error::bad_input(format!("expected a convolution over 2 tokens or more, found {}", kernel.n))
            .at("config.json: conv_L_cache"));
    }
    Ok(ShortConv { hidden: sizes.hidden(), kernel, bias: fields.field("conv_bias")? })
}

fn build(context: &Context) -> Result<Graph> {
    let sizes = sizes(&context.config)?;
    let mixers = Mixer::of(&context.config, sizes.layers)?;
    let conv = short_conv(&context.config, &sizes)?;
    let memory = |mixer: &Mixer| match mixer {
        Mixer::Attention => Memory::Attention,
        Mixer::Conv => Memory::Conv { width: conv.hidden.n, tokens: conv.kernel.n - 1 },
    };
    let mut stack = Stack::keeping(context, &sizes, &mixers.iter().map(memory).collect::<Vec<_>>())?;
    let rotation = llama::rotation(context, &ROPE, &sizes)?;
    let layer = Layer::new(&sizes.layer, &rotation);
    let real = stack.blocks.mask_of_new(&stack.inputs)?;
    let mut x = stack.words(sizes.hidden())?;
    for (i, mixer) in mixers.into_iter().enumerate() {
        let (p, blocks, inputs) = (stack.model.item("layers", i), &mut stack.blocks, &stack.inputs);
        let normed = blocks.attention_norm(layer.norm, &p.sub("operator_norm"), i, sizes.hidden(), x)?;
        let mixed = match mixer {
            Mixer::Attention => attention(blocks, &p.sub("self_attn"), i, &layer, normed, inputs)?,
            Mixer::Conv => blocks.short_conv(&p.sub("conv"), i, &conv, normed, (real, inputs))?,
        };
        x = blocks.add(&p.full("operator.residual"), x, mixed)?;
        let normed = blocks.feed_forward_norm(layer.norm, &p.sub("ffn_norm"), i, sizes.hidden(), x)?;
        let out = blocks.gated_by(FEED_FORWARD, &p.sub("feed_forward"), i, layer.sizes, normed)?;
        x = blocks.add(&p.full("feed_forward.residual"), x, out)?;
    }
    x = llama::last_norm(&mut stack, "embedding_norm", &sizes, layer.norm, x)?;
    stack.finish(sizes.hidden(), Logits::Plain, x)
}

/// Attention whose heads of queries and keys are normed before they are turned.
fn attention(
    blocks: &mut Blocks,
    p: &Scope,
    i: usize,
    layer: &Layer,
    x: ValueId,
    inputs: &DecoderInputs,
) -> Result<ValueId> {
    let names = ["q_proj", "k_proj", "v_proj"].map(|name| p.sub(name));
    let [query, key, value] = blocks.separate_projections(names.each_ref(), i, layer.sizes, false, x)?;
    let size = Size { n: layer.sizes.head_size, field: "head_dim" };
    blocks.role(Role::layer(Part::Attention, i));
    let query = blocks.normed_heads(layer.norm, &p.sub("q_layernorm"), layer.sizes.sizes.heads, size, query)?;
    let key = blocks.normed_heads(layer.norm, &p.sub("k_layernorm"), layer.sizes.kv_heads, size, key)?;
    let qkv = match layer.rotation {
        Some(rotation) => blocks.rotated(p, i, (layer.sizes, rotation), [query, key, value], inputs)?,
        None => [query, key, value],
    };
    let attended = blocks.attended(p, i, (layer.sizes, layer.scores), qkv, inputs)?;
    blocks.attention_output(&p.sub("out_proj"), i, layer.sizes, false, attended)
}
