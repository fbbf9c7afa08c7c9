//! Files made byte by byte: every malformation has its message.

use std::path::Path;
use std::sync::Arc;

use super::parse;
use crate::error::Result;
use crate::front::hub::checkpoint::Checkpoint;

/// A value as files have it: its type and its bytes.
type Bytes = (u32, Vec<u8>);

fn u32_(value: u32) -> Bytes {
    (4, value.to_le_bytes().to_vec())
}

fn f32_(value: f32) -> Bytes {
    (6, value.to_le_bytes().to_vec())
}

fn flag(value: u8) -> Bytes {
    (7, vec![value])
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn text(text: &str) -> Bytes {
    (8, string(text))
}

fn list(ty: u32, count: u64, elements: Vec<u8>) -> Bytes {
    (9, [ty.to_le_bytes().to_vec(), count.to_le_bytes().to_vec(), elements].concat())
}

fn texts(all: &[&str]) -> Bytes {
    list(8, all.len() as u64, all.iter().flat_map(|text| string(text)).collect())
}

/// A tensor: its name, its sizes innermost first, its type, its offset, and how many bytes of data it has.
#[derive(Clone)]
struct Tensor(&'static str, Vec<u64>, u32, u64, usize);

/// A file of one layer of Llama, width 4.
#[derive(Clone)]
struct Made {
    version: u32,
    counts: Option<[u64; 2]>,
    keys: Vec<(&'static str, Bytes)>,
    tensors: Vec<Tensor>,
}

impl Made {
    fn sound() -> Made {
        let keys = vec![
            ("general.architecture", text("llama")),
            ("llama.embedding_length", u32_(4)),
            ("llama.block_count", u32_(1)),
            ("llama.context_length", u32_(16)),
            ("llama.feed_forward_length", u32_(4)),
            ("llama.attention.head_count", u32_(2)),
            ("llama.attention.layer_norm_rms_epsilon", f32_(1e-5)),
        ];
        let (matrix, vector) = (vec![4, 4], vec![4]);
        let tensors = vec![
            Tensor("token_embd.weight", matrix.clone(), 0, 0, 64),
            Tensor("output_norm.weight", vector, 0, 64, 16),
            Tensor("blk.0.attn_q.weight", matrix, 0, 96, 64),
        ];
        Made { version: 3, counts: None, keys, tensors }
    }

    /// With a key, in place of one of that name.
    fn key(mut self, name: &'static str, value: Bytes) -> Made {
        self.keys.retain(|(other, _)| *other != name);
        self.keys.push((name, value));
        self
    }

    fn without(mut self, name: &str) -> Made {
        self.keys.retain(|(other, _)| *other != name);
        self
    }

    fn tensor(mut self, tensor: Tensor) -> Made {
        self.tensors.retain(|other| other.0 != tensor.0);
        self.tensors.push(tensor);
        self
    }

    /// With a tokenizer of three tokens.
    fn tokens(self) -> Made {
        self.key("tokenizer.ggml.model", text("gpt2"))
            .key("tokenizer.ggml.pre", text("gpt-2"))
            .key("tokenizer.ggml.tokens", texts(&["a", "b", "ab"]))
            .key("tokenizer.ggml.merges", texts(&["a b"]))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        let [tensors, keys] = self.counts.unwrap_or([self.tensors.len() as u64, self.keys.len() as u64]);
        bytes.extend(tensors.to_le_bytes().into_iter().chain(keys.to_le_bytes()));
        for (name, (ty, value)) in &self.keys {
            bytes.extend(string(name).into_iter().chain(ty.to_le_bytes()).chain(value.iter().copied()));
        }
        for Tensor(name, sizes, ty, offset, _) in &self.tensors {
            bytes.extend(string(name).into_iter().chain((sizes.len() as u32).to_le_bytes()));
            bytes.extend(sizes.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(ty.to_le_bytes().into_iter().chain(offset.to_le_bytes()));
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        let start = bytes.len();
        let end = self.tensors.iter().map(|tensor| tensor.3.min(1 << 20) as usize + tensor.4).max().unwrap_or(0);
        bytes.resize(start + end, 0);
        bytes
    }
}

fn read(bytes: Vec<u8>) -> Result<Checkpoint> {
    parse(Arc::new(bytes), Path::new("model.gguf"))
}

/// The message and where it is from.
fn refusal(made: &Made) -> String {
    refusal_of(made.bytes())
}

fn refusal_of(bytes: Vec<u8>) -> String {
    let error = read(bytes)
        .err()
        .map(|e| format!("{}{}", e.message(), e.locations().iter().map(|l| format!(" in {l}")).collect::<String>()));
    error.unwrap_or_else(|| "read".to_owned())
}

#[test]
fn headers_that_lie_are_refused() {
    let sound = Made::sound();
    assert_eq!(refusal(&sound), "read");
    let mut other = sound.bytes();
    other[..4].copy_from_slice(b"GGML");
    assert_eq!(refusal_of(other), "the file does not begin with `GGUF`");
    assert_eq!(refusal_of(b"GG".to_vec()), "the file does not begin with `GGUF`");
    assert_eq!(refusal_of(b"GGUF\x03".to_vec()), "4 bytes are announced at byte 4, 1 are left");
    let version = |version| refusal(&Made { version, ..sound.clone() });
    assert_eq!(version(1), "version 1 of the format is not read");
    assert_eq!(version(4), "version 4 of the format is not read");
    assert_eq!(version(3 << 24), "a file for big-endian machines is not read");
    assert_eq!(version(2), "read");
    let counts = |tensors, keys| refusal(&Made { counts: Some([tensors, keys]), ..sound.clone() });
    assert!(counts(u64::MAX, 7).starts_with("18446744073709551615 tensors are announced, more than "));
    assert!(counts(3, 1 << 63).starts_with("9223372036854775808 keys are announced, more than "));
    assert!(counts(3, 8).contains("are announced"), "{}", counts(3, 8));
}

#[test]
fn keys_that_are_malformed_are_named() {
    let sound = Made::sound();
    let key = |value: Bytes| refusal(&sound.clone().key("x.y", value));
    assert_eq!(key((13, vec![])), "13 is no type of values in key `x.y`");
    assert_eq!(key(flag(2)), "expected a flag, 0 or 1, found 2 in key `x.y`");
    assert_eq!(key(list(9, 1, list(4, 0, vec![]).1)), "a list of lists is not read in key `x.y`");
    let lies = key(list(8, 1 << 63, vec![]));
    assert!(
        lies.starts_with("9223372036854775808 values are announced, more than ") && lies.ends_with(" in key `x.y`"),
        "{lies}"
    );
    let long = key((8, u64::MAX.to_le_bytes().to_vec()));
    assert!(long.starts_with("18446744073709551615 bytes are announced at byte "), "{long}");
    let bytes = [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat();
    assert!(key((8, bytes)).ends_with("is not UTF-8 in key `x.y`"));
    let mut twice = sound.clone();
    twice.keys.push(("llama.block_count", u32_(1)));
    assert_eq!(refusal(&twice), "duplicate key `llama.block_count`");
    let other = |name, value| refusal(&sound.clone().key(name, value));
    let place = "in key `llama.block_count`";
    assert_eq!(other("llama.block_count", text("1")), format!("expected a whole number, found `1` {place}"));
    assert_eq!(
        other("llama.block_count", (5, (-1i32).to_le_bytes().into())),
        format!("expected a number of 0 or more, found -1 {place}")
    );
    let differ = list(4, 2, [1u32.to_le_bytes(), 2u32.to_le_bytes()].concat());
    assert_eq!(other("llama.block_count", differ), format!("layers that differ in their sizes are not built {place}"));
    let same = list(4, 2, [1u32.to_le_bytes(), 1u32.to_le_bytes()].concat());
    assert_eq!(other("llama.block_count", same), "read");
    let epsilon = other("llama.attention.layer_norm_rms_epsilon", f32_(f32::NAN));
    assert_eq!(epsilon, "expected a finite number, found NaN in key `llama.attention.layer_norm_rms_epsilon`");
    assert_eq!(refusal(&sound.clone().without("llama.block_count")), "key `llama.block_count` is missing");
    let alignment = other("general.alignment", u32_(24));
    assert_eq!(alignment, "expected a power of two up to 2^20, found 24 in key `general.alignment`");
    assert_eq!(
        other("general.alignment", u32_(0)),
        "expected a power of two up to 2^20, found 0 in key `general.alignment`"
    );
}

#[test]
fn tensors_that_are_malformed_are_named() {
    let sound = Made::sound();
    let norm = |sizes: &[u64], ty, offset| {
        refusal(&sound.clone().tensor(Tensor("output_norm.weight", sizes.to_vec(), ty, offset, 16)))
    };
    let place = "in tensor `output_norm.weight`";
    assert_eq!(norm(&[0], 0, 64), format!("a dimension of 0 {place}"));
    assert_eq!(norm(&[1 << 32, 1 << 31], 0, 64), format!("its size overflows {place}"));
    assert_eq!(norm(&[1, 1, 1, 1, 1], 0, 64), format!("5 dimensions, at most 4 are admitted {place}"));
    assert_eq!(norm(&[4], 99, 64), format!("the type 99 is not read {place}"));
    assert_eq!(norm(&[4], 20, 64), format!("the type IQ4_NL 20 is not read {place}"));
    assert_eq!(norm(&[4], 2, 64), format!("rows of 4 elements are no multiple of the 32 of a Q4_0 block {place}"));
    assert_eq!(norm(&[32], 2, 64), format!("1 dimensions in Q4_0 blocks, expected 2 {place}"));
    assert_eq!(norm(&[4], 0, 65), format!("it begins at 65, no multiple of 32 {place}"));
    let far = norm(&[4], 0, 1 << 40);
    assert!(
        far.starts_with("it begins at 1099511627776 of the data and ends past the ") && far.ends_with(place),
        "{far}"
    );
    assert_eq!(norm(&[4], 0, 32), "tensors `token_embd.weight` and `output_norm.weight` overlap");
    let mut twice = sound.clone();
    twice.tensors.push(Tensor("output_norm.weight", vec![4], 0, 160, 16));
    assert_eq!(refusal(&twice), "duplicate tensor `output_norm.weight`");
    for name in ["blk.0.attn_sinks.weight", "blk.00.attn_q.weight", "blk.0.attn_q.scale", "v.weight"] {
        let strange = sound.clone().tensor(Tensor(name, vec![4], 0, 160, 16));
        assert_eq!(refusal(&strange), format!("the architecture llama has no such tensor here in tensor `{name}`"));
    }
    let mut none = sound.clone();
    none.tensors.retain(|tensor| tensor.0 != "token_embd.weight");
    assert_eq!(refusal(&none), "tensor `token_embd.weight` is missing");
    let heads = refusal(&sound.key("llama.attention.head_count", u32_(3)));
    assert_eq!(heads, "4 rows are not 3 heads of pairs in tensor `blk.0.attn_q.weight`");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let sound = Made::sound();
    let key = |name, value| refusal(&sound.clone().key(name, value));
    let architecture = key("general.architecture", text("mamba"));
    assert_eq!(architecture, "the architecture `mamba` is not read in key `general.architecture`");
    assert_eq!(
        key("general.type", text("adapter")),
        "the file is of the type `adapter`, expected a model in key `general.type`"
    );
    assert_eq!(key("split.count", u32_(3)), "the model is split over 3 files in key `split.count`");
    let experts = key("llama.expert_count", u32_(8));
    assert_eq!(experts, "experts are not built for this architecture in key `llama.expert_count`");
    let causal = key("llama.attention.causal", flag(0));
    assert_eq!(causal, "attention to the tokens after is not built in key `llama.attention.causal`");
    let turned = key("llama.rope.dimension_count", u32_(1));
    assert!(turned.starts_with("1 of a head's 2 channels are turned"), "{turned}");
    let kind = key("llama.rope.scaling.type", text("ntk"));
    assert_eq!(kind, "rotary positions of the kind `ntk` are not built in key `llama.rope.scaling.type`");
    let values = key("llama.attention.value_length", u32_(4));
    assert_eq!(values, "heads of 4 values beside 2 keys are not built in key `llama.attention.value_length`");
    let extrapolated = key("llama.rope.scaling.yarn_ext_factor", f32_(0.5));
    assert_eq!(extrapolated, "expected 1, found 0.5 in key `llama.rope.scaling.yarn_ext_factor`");
    let long = key("llama.rope.scaling.type", text("longrope"));
    assert_eq!(long, "tensor `rope_factors_short.weight` is missing");
    let factors = sound.clone().tensor(Tensor("rope_freqs.weight", vec![3], 0, 160, 16));
    assert_eq!(refusal(&factors), "3 factors, expected 1: one for each pair of channels in tensor `rope_freqs.weight`");
    let both = factors.key("llama.rope.scaling.type", text("linear"));
    let said = refusal(&both);
    assert_eq!(
        said,
        "factors of frequencies beside another kind of scaling are not built in tensor `rope_freqs.weight`"
    );
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let sound = Made::sound().tokens();
    assert_eq!(refusal(&sound), "read");
    let key = |name, value| refusal(&sound.clone().key(name, value));
    assert_eq!(
        key("tokenizer.ggml.model", text("rwkv")),
        "the tokenizer `rwkv` is not read in key `tokenizer.ggml.model`"
    );
    let place = "in keys `tokenizer.ggml.…`";
    assert_eq!(key("tokenizer.ggml.pre", text("gpt-9")), format!("the pre-tokenizer `gpt-9` is not known {place}"));
    let kinds = key("tokenizer.ggml.token_type", list(5, 2, vec![0; 8]));
    assert_eq!(kinds, "expected one value for each of 3 tokens, found 2 in key `tokenizer.ggml.token_type`");
    let id = key("tokenizer.ggml.bos_token_id", u32_(3));
    assert_eq!(id, "expected one of 3 tokens, found 3 in key `tokenizer.ggml.bos_token_id`");
    let twice = key("tokenizer.ggml.tokens", texts(&["a", "b", "a"]));
    assert_eq!(twice, format!("the token `a` has two ids {place}"));
    let merges = key("tokenizer.ggml.merges", texts(&["a x"]));
    assert_eq!(merges, format!("the merge `a x` needs `x`, which is no token {place}"));
    assert_eq!(refusal(&sound.clone().without("tokenizer.ggml.merges")), "key `tokenizer.ggml.merges` is missing");
    assert_eq!(refusal(&sound.clone().without("tokenizer.ggml.tokens")), "key `tokenizer.ggml.tokens` is missing");
    assert_eq!(
        key("tokenizer.ggml.tokens", list(4, 1, vec![0; 4])),
        "expected a list of texts, found one of a whole numbers in key `tokenizer.ggml.tokens`"
    );
    let spaces = key("tokenizer.ggml.add_space_prefix", flag(1));
    assert_eq!(spaces, "the option is not built in key `tokenizer.ggml.add_space_prefix`");
    let scores =
        sound.clone().key("tokenizer.ggml.model", text("llama")).key("tokenizer.ggml.scores", list(6, 1, vec![0; 4]));
    assert_eq!(refusal(&scores), "expected one value for each of 3 tokens, found 1 in key `tokenizer.ggml.scores`");
    let template = key("tokenizer.chat_template", text(&"x".repeat((1 << 20) + 1)));
    assert_eq!(
        template,
        "the chat template has 1048577 bytes, at most 1048576 are read in key `tokenizer.chat_template`"
    );
    let named = key("tokenizer.chat_template.../x", text("t"));
    assert_eq!(named, "expected a name of letters, digits, `_` and `-` in key `tokenizer.chat_template.../x`");
}

#[test]
fn added_tokens_of_phi_3_take_the_spaces_after_them() {
    let strips = |name: &str| {
        let kinds = list(5, 3, [4i32, 1, 1].iter().flat_map(|kind| kind.to_le_bytes()).collect());
        let made = Made::sound().tokens().key("tokenizer.ggml.token_type", kinds).key("general.name", text(name));
        let file: serde_json::Value = read(made.bytes()).unwrap().encoder.read("tokenizer.json").unwrap();
        let token = &file["added_tokens"][0];
        assert_eq!((&token["content"], &token["special"]), (&"a".into(), &false.into()));
        token["rstrip"].as_bool().unwrap()
    };
    assert!(strips("Phi-3 mini 4k instruct") && !strips("Phi 4 mini"));
}

#[test]
fn keys_that_are_not_read_are_warned_of_by_name() {
    let notes = |made: &Made| read(made.bytes()).unwrap().notes;
    let sound = Made::sound().tokens();
    assert_eq!(notes(&sound), [""; 0]);
    let harmless = sound.clone().key("general.name", text("x")).key("quantize.imatrix.file", text("y"));
    assert_eq!(notes(&harmless), [""; 0]);
    let strange = sound.clone().key("llama.attention.clamp_kqv", f32_(8.0)).key("general.sampling.mirostat", u32_(2));
    let expected = "keys of the file that are not read, and may change outputs of a llama: `general.sampling.mirostat`, \
                    `llama.attention.clamp_kqv`";
    assert_eq!(notes(&strange), [expected]);
    let silent = sound.without("tokenizer.ggml.pre");
    let expected = "`tokenizer.ggml.pre` is missing: texts are cut as llama.cpp's `default` does, which few models are trained with";
    assert_eq!(notes(&silent), [expected]);
}

#[test]
fn a_file_that_ends_anywhere_is_refused_or_read() {
    let whole = Made::sound().tokens().bytes();
    for end in 0..whole.len() {
        assert!(read(whole[..end].to_vec()).is_err(), "{end}");
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut other = whole.clone();
            other[at] = value;
            if let Err(error) = read(other) {
                assert_ne!(error.kind(), crate::error::Kind::Bug, "{at} {value}: {error}");
            }
        }
    }
}

#[test]
fn the_configuration_says_what_the_keys_do() {
    let checkpoint = read(
        Made::sound()
            .tokens()
            .key("tokenizer.ggml.eos_token_id", u32_(1))
            .key("tokenizer.ggml.eot_token_id", u32_(2))
            .key("general.license", text("mit"))
            .key("general.sampling.temp", f32_(0.5))
            .key("tokenizer.chat_template", text("t"))
            .key("tokenizer.chat_template.tool_use", text("u"))
            .key("tokenizer.chat_templates", texts(&["tool_use"]))
            .bytes(),
    )
    .unwrap();
    let config: serde_json::Value = serde_json::from_str(&checkpoint.config).unwrap();
    let expected = serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 4, "hidden_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 2,
        "max_position_embeddings": 16, "intermediate_size": 4, "rms_norm_eps": f64::from(1e-5f32),
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "rope_theta": 10000.0,
        "bos_token_id": null, "eos_token_id": 1, "pad_token_id": null, "license": "mit"
    });
    assert_eq!(config, expected);
    let generation: serde_json::Value = checkpoint.encoder.read("generation_config.json").unwrap();
    assert_eq!(generation["eos_token_id"], serde_json::json!([1, 2]));
    assert_eq!((&generation["temperature"], &generation["do_sample"]), (&0.5.into(), &true.into()));
    assert_eq!(checkpoint.encoder.text("chat_template.jinja").unwrap(), "t");
    assert_eq!(checkpoint.encoder.text("additional_chat_templates/tool_use.jinja").unwrap(), "u");
    assert_eq!(checkpoint.files, [Path::new("model.gguf")]);
}
