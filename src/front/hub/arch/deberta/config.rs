//! DeBERTa's configuration.

use serde::Deserialize;

use crate::error::{Error, Result, printable};
use crate::front::hub::arch::blocks::{Activation, EncoderLayer, LONGEST, heads};
use crate::front::hub::arch::config::{Fields, epsilon};
use crate::front::hub::checkpoint::Size;

/// The defaults of the class, and of its code where the class has none.
pub(super) const DEFAULTS: &str = r#"{
    "vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24,
    "intermediate_size": 6144, "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 0,
    "layer_norm_eps": 1e-7, "relative_attention": false, "max_relative_positions": -1, "position_biased_input": true,
    "pooler_hidden_act": "gelu", "legacy": true, "position_buckets": -1, "share_att_key": false,
    "conv_kernel_size": 0, "conv_groups": 1, "conv_act": "tanh"
}"#;

#[derive(Deserialize)]
pub(super) struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    pub hidden_act: Activation,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f32,
    #[serde(default)]
    embedding_size: Option<usize>,
    #[serde(default)]
    attention_head_size: Option<usize>,
    pub position_biased_input: bool,
    pub relative_attention: bool,
    position_buckets: i64,
    max_relative_positions: i64,
    #[serde(default)]
    pos_att_type: Option<Words>,
    pub share_att_key: bool,
    #[serde(default)]
    norm_rel_ebd: Option<Words>,
    conv_kernel_size: i64,
    pub conv_groups: usize,
    pub conv_act: Activation,
    #[serde(default)]
    pooler_hidden_size: Option<usize>,
    pub pooler_hidden_act: Activation,
    pub legacy: bool,
}

/// Words as a list, or in one string with `|` between them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Joined(String),
    Listed(Vec<String>),
}

impl Config {
    /// Reads the fields, and refuses by name invalid values, and options that would change the outputs and are not
    /// supported.
    pub fn read(fields: &Fields) -> Result<Config> {
        let config: Config = fields.get()?;
        epsilon(config.layer_norm_eps)?;
        let head_size = config.hidden_size / heads(config.num_attention_heads, config.hidden_size)? as usize;
        same(config.attention_head_size, head_size, "attention_head_size")?;
        same(config.pooler_hidden_size, config.hidden_size, "pooler_hidden_size")?;
        if config.relative_attention && config.buckets() == 1 {
            return Err(Error::bad_input("1 bucket holds no distances").at("config.json: position_buckets"));
        }
        config.terms()?;
        config.has_normed_positions()?;
        config.conv_fits().map(|()| config)
    }

    fn conv_fits(&self) -> Result<()> {
        let (kernel, groups) = (self.conv_kernel_size, self.conv_groups);
        if kernel <= 0 || kernel % 2 == 1 && groups > 0 && self.hidden_size.is_multiple_of(groups) {
            return Ok(());
        }
        let what = format!("a convolution over {kernel} tokens in {groups} groups does not keep the shape");
        Err(Error::bad_input(what).at("config.json: conv_kernel_size"))
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> Size {
        Size { n: self.hidden_size, field: "hidden_size" }
    }

    /// Width of the embeddings.
    pub fn width(&self) -> Size {
        self.embedding_size.map_or(self.hidden(), |n| Size { n, field: "embedding_size" })
    }

    /// Number of known tokens.
    pub fn vocabulary(&self) -> Size {
        Size { n: self.vocab_size, field: "vocab_size" }
    }

    /// The sizes of one layer.
    pub fn layer(&self) -> Result<EncoderLayer> {
        Ok(EncoderLayer {
            hidden: self.hidden(),
            inner: Size { n: self.intermediate_size, field: "intermediate_size" },
            heads: heads(self.num_attention_heads, self.hidden_size)?,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        })
    }

    /// How many tokens the convolution after the first layer spans, if there is one.
    pub fn kernel(&self) -> Option<Size> {
        let n = usize::try_from(self.conv_kernel_size).ok().filter(|n| *n > 0)?;
        Some(Size { n, field: "conv_kernel_size" })
    }

    /// Whether scores by content and position, and by position and content, are among the terms.
    pub fn terms(&self) -> Result<[bool; 2]> {
        let words = among(self.pos_att_type.as_ref(), "pos_att_type", &["c2p", "p2c"])?;
        Ok(["c2p", "p2c"].map(|term| words.iter().any(|word| word == term)))
    }

    /// Whether the table of relative positions is normed.
    pub fn has_normed_positions(&self) -> Result<bool> {
        let words = among(self.norm_rel_ebd.as_ref(), "norm_rel_ebd", &["none", "layer_norm"])?;
        Ok(words.iter().any(|word| word == "layer_norm"))
    }

    /// Number of buckets that distances to one side share, or 0.
    pub fn buckets(&self) -> usize {
        usize::try_from(self.position_buckets).unwrap_or(0)
    }

    /// The distance from which on all are one.
    pub fn largest(&self) -> usize {
        usize::try_from(self.max_relative_positions).ok().filter(|n| *n > 0).unwrap_or(self.max_position_embeddings)
    }

    /// Rows of the table of relative positions.
    pub fn relative_rows(&self) -> Size {
        match self.buckets() {
            0 => Size { n: self.largest().saturating_mul(2), field: "max_relative_positions" },
            n => Size { n: n.saturating_mul(2), field: "position_buckets" },
        }
    }

    /// Longest sequence whose distances have a row. Where the largest one is nearer than those that share buckets, the
    /// rule for sharing them means nothing.
    pub fn longest(&self) -> usize {
        let longest = if self.position_biased_input { self.max_position_embeddings } else { LONGEST };
        let near = self.buckets() / 2;
        if near > 0 && self.largest() <= near + 1 { longest.min(near + 1) } else { longest }
    }
}

fn same(n: Option<usize>, expected: usize, field: &str) -> Result<()> {
    match n {
        Some(n) if n != expected => {
            Err(Error::unsupported(format!("only {expected} is supported, found {n}"))
                .at(format!("config.json: {field}")))
        }
        _ => Ok(()),
    }
}

/// The words of a field, each of which must be known.
fn among(words: Option<&Words>, field: &str, known: &[&str]) -> Result<Vec<String>> {
    let words: Vec<String> = match words {
        None => Vec::new(),
        Some(Words::Joined(text)) => text.to_lowercase().split('|').map(|word| word.trim().to_owned()).collect(),
        Some(Words::Listed(words)) => words.clone(),
    };
    match words.iter().find(|word| !known.contains(&word.as_str())) {
        None => Ok(words),
        Some(other) => {
            let what = format!("`{}` is not supported; known: {}", printable(other), known.join(", "));
            Err(Error::unsupported(what).at(format!("config.json: {field}")))
        }
    }
}
