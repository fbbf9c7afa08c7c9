//! The architectures of llama.cpp that are read: the family of each, its names of tensors, and what converters change in them.
//!
//! Names are those of `constants.py` of gguf; what is changed is in `modify_tensors` of the classes of llama.cpp's
//! `convert_hf_to_gguf.py`.

use super::keys::{Keys, missing};
use crate::error::{Error, Result, printable};

/// The key that names the architecture.
const KEY: &str = "general.architecture";

/// An architecture.
#[derive(Debug)]
pub(super) struct Architecture {
    /// Its name, which its keys begin with.
    pub name: &'static str,
    /// The `model_type` of its family.
    pub model_type: &'static str,
    /// The class of its models in `transformers`.
    pub class: &'static str,
    /// The list of layers in the family's names.
    pub layers: &'static str,
    /// The tensors of a layer: the name in the file, and the family's.
    pub of_layer: &'static [Pair],
    /// The tensors beside the layers.
    pub others: &'static [Pair],
    /// What converters change.
    pub changed: Changed,
    /// The options of its configuration.
    pub options: Options,
}

/// A module in the file, and the family's name of it.
pub(super) type Pair = (&'static str, &'static str);

/// What converters change in tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    /// Rows of queries and keys have the pairs of rotary positions side by side.
    pub pairs: bool,
    /// Scales of norms have 1 added.
    pub norm_plus_one: bool,
    /// Files of the family have matrices `[inputs, outputs]`.
    pub transposed: bool,
}

/// Which keys an architecture has beyond the sizes, and how its configuration says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// The family's field for the epsilon of norms, and the key of it.
    pub epsilon: Pair,
    /// Whether it has rotary positions.
    pub rotary: bool,
    /// Whether a part of each head may be turned.
    pub partial: bool,
    /// Whether the configuration has `attention_bias`, by whether queries have a bias.
    pub attention_bias: bool,
    /// Whether it has `mlp_bias`.
    pub mlp_bias: bool,
    /// What else there is.
    pub more: More,
}

/// What only some architectures have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Nothing,
    /// A window in all layers.
    Window,
    /// Gemma 2: a window in every other layer, bounded scores and logits. The number is that of layers for which
    /// `query_pre_attn_scalar` is the width by the heads.
    Gemma2,
    /// Gemma 3: a window in most layers, whose angles are others.
    Gemma3,
    /// Multipliers.
    Granite,
    /// Layers without positions.
    SmolLm3,
    /// A multiplier of logits, norms of heads.
    Cohere,
    /// GPT-2's names of sizes.
    Gpt2,
}

const PLAIN: Changed = Changed { pairs: false, norm_plus_one: false, transposed: false };
const PAIRS: Changed = Changed { pairs: true, ..PLAIN };
const NORMS: Changed = Changed { norm_plus_one: true, ..PLAIN };

const RMS: Pair = ("rms_norm_eps", "attention.layer_norm_rms_epsilon");

const OPTIONS: Options =
    Options { epsilon: RMS, rotary: true, partial: false, attention_bias: false, mlp_bias: false, more: More::Nothing };

const LLAMA: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Norms of heads.
const QWEN3: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Norms after each block too; those of heads are Gemma 3's.
const GEMMA: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const OLMO2: &[Pair] = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const PHI3: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const PHI: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.dense"),
    ("ffn_up", "mlp.fc1"),
    ("ffn_down", "mlp.fc2"),
];

const STARCODER2: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

const COHERE: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const GLM4: &[Pair] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_self_attn_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_mlp_layernorm"),
];

const GPT2: &[Pair] = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

const OTHERS: &[Pair] = &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const PHI_OTHERS: &[Pair] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.final_layernorm"), ("output", "lm_head")];

const GPT2_OTHERS: &[Pair] = &[
    ("token_embd", "transformer.wte"),
    ("position_embd", "transformer.wpe"),
    ("output_norm", "transformer.ln_f"),
    ("output", "lm_head"),
];

/// One by Llama's names.
const fn of(name: &'static str, family: Pair, of_layer: &'static [Pair], changed: Changed) -> Architecture {
    let (model_type, class) = family;
    Architecture {
        name,
        model_type,
        class,
        layers: "model.layers",
        of_layer,
        others: OTHERS,
        changed,
        options: OPTIONS,
    }
}

static ARCHITECTURES: &[Architecture] = &[
    Architecture {
        options: Options {
            epsilon: ("layer_norm_eps", "attention.layer_norm_epsilon"),
            more: More::Cohere,
            attention_bias: true,
            ..OPTIONS
        },
        ..of("command-r", ("cohere", "CohereForCausalLM"), COHERE, PLAIN)
    },
    of("gemma", ("gemma", "GemmaForCausalLM"), LLAMA, NORMS),
    Architecture {
        options: Options { more: More::Gemma2, ..OPTIONS },
        ..of("gemma2", ("gemma2", "Gemma2ForCausalLM"), GEMMA, NORMS)
    },
    Architecture {
        options: Options { more: More::Gemma3, ..OPTIONS },
        ..of("gemma3", ("gemma3_text", "Gemma3ForCausalLM"), GEMMA, NORMS)
    },
    Architecture {
        options: Options { partial: true, attention_bias: true, ..OPTIONS },
        ..of("glm4", ("glm4", "Glm4ForCausalLM"), GLM4, PLAIN)
    },
    Architecture {
        layers: "transformer.h",
        others: GPT2_OTHERS,
        options: Options {
            epsilon: ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
            rotary: false,
            more: More::Gpt2,
            ..OPTIONS
        },
        ..of("gpt2", ("gpt2", "GPT2LMHeadModel"), GPT2, Changed { transposed: true, ..PLAIN })
    },
    Architecture {
        options: Options { attention_bias: true, mlp_bias: true, more: More::Granite, ..OPTIONS },
        ..of("granite", ("granite", "GraniteForCausalLM"), LLAMA, PAIRS)
    },
    Architecture {
        options: Options { attention_bias: true, mlp_bias: true, ..OPTIONS },
        ..of("llama", ("llama", "LlamaForCausalLM"), LLAMA, PAIRS)
    },
    Architecture {
        options: Options { attention_bias: true, ..OPTIONS },
        ..of("olmo2", ("olmo2", "Olmo2ForCausalLM"), OLMO2, PLAIN)
    },
    Architecture {
        others: PHI_OTHERS,
        options: Options { epsilon: ("layer_norm_eps", "attention.layer_norm_epsilon"), partial: true, ..OPTIONS },
        ..of("phi2", ("phi", "PhiForCausalLM"), PHI, PLAIN)
    },
    Architecture {
        options: Options { partial: true, more: More::Window, ..OPTIONS },
        ..of("phi3", ("phi3", "Phi3ForCausalLM"), PHI3, PLAIN)
    },
    of("qwen2", ("qwen2", "Qwen2ForCausalLM"), LLAMA, PLAIN),
    Architecture {
        options: Options { attention_bias: true, ..OPTIONS },
        ..of("qwen3", ("qwen3", "Qwen3ForCausalLM"), QWEN3, PLAIN)
    },
    Architecture {
        options: Options { attention_bias: true, mlp_bias: true, more: More::SmolLm3, ..OPTIONS },
        ..of("smollm3", ("smollm3", "SmolLM3ForCausalLM"), LLAMA, PAIRS)
    },
    Architecture {
        options: Options { epsilon: ("norm_epsilon", "attention.layer_norm_epsilon"), more: More::Window, ..OPTIONS },
        ..of("starcoder2", ("starcoder2", "Starcoder2ForCausalLM"), STARCODER2, PLAIN)
    },
];

impl Architecture {
    /// The one that a file names. Fails by name where it is not read, and where the file is no whole model.
    pub fn of(keys: &Keys) -> Result<&'static Architecture> {
        if let Some(kind) = keys.text("general.type")?.filter(|kind| *kind != "model") {
            return Err(Error::unsupported(format!("the file is of the type `{}`, expected a model", printable(kind)))
                .at("key `general.type`"));
        }
        if let Some(parts) = keys.size("split.count")?.filter(|parts| *parts > 1) {
            return Err(Error::unsupported(format!("the model is split over {parts} files"))
                .at("key `split.count`")
                .hint("join them: llama-gguf-split --merge"));
        }
        let name = keys.text(KEY)?.ok_or_else(|| missing(KEY))?;
        let known = || ARCHITECTURES.iter().map(|architecture| architecture.name);
        ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
            let all = known().collect::<Vec<_>>().join(", ");
            Error::unsupported(format!("the architecture `{}` is not read", printable(name)))
                .at(format!("key `{KEY}`"))
                .hint(format!("known: {all}"))
        })
    }

    /// The full name of one of its keys.
    pub fn key(&self, end: &str) -> String {
        format!("{}.{end}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::hub::arch::FAMILIES;

    #[test]
    fn every_architecture_is_of_a_family_with_its_class() {
        for architecture in ARCHITECTURES {
            let family = FAMILIES.iter().find(|family| family.model_type == architecture.model_type).unwrap();
            assert!(family.generates(), "{}", architecture.name);
            let named = architecture.others.iter().map(|(_, name)| *name);
            assert!(named.clone().any(|name| name.starts_with(family.prefix)), "{}", architecture.name);
            assert!(architecture.class.ends_with("ForCausalLM") || architecture.class == "GPT2LMHeadModel");
        }
        let names: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
