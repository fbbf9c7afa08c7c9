//! ModernBERT's configuration, in both of its forms: version 4 of `transformers` counts the layers with global attention
//! and has a base for the angles of either kind, version 5 lists the kind of every layer and has parameters for each.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result, printable};
use crate::front::hub::arch::Restated;
use crate::front::hub::arch::blocks::{Activation, heads};
use crate::front::hub::arch::config::{Fields, contradiction};
use crate::front::hub::checkpoint::{Scope, Size};

/// The defaults of the class. Fields that only one of the two forms has are not among them.
pub(super) const DEFAULTS: &str = r#"{
    "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
    "num_attention_heads": 12, "hidden_activation": "gelu", "max_position_embeddings": 8192, "norm_eps": 1e-5,
    "norm_bias": false, "attention_bias": false, "mlp_bias": false, "decoder_bias": true, "classifier_bias": false,
    "local_attention": 128, "classifier_pooling": "cls", "classifier_activation": "gelu"
}"#;

/// Longest sequence for which tables of angles are made; no tensor of the checkpoint bounds it.
const LONGEST: usize = 1 << 17;

/// Every how many layers attention is global, in the class of version 4.
const EVERY: usize = 3;

/// The attention of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attention {
    /// All tokens.
    Global,
    /// Those near by.
    Local,
}

impl Attention {
    /// The name that version 5 has for it.
    fn name(self) -> &'static str {
        match self {
            Attention::Global => "full_attention",
            Attention::Local => "sliding_attention",
        }
    }

    /// The field of version 4 with the base of its angles.
    fn old_field(self) -> &'static str {
        match self {
            Attention::Global => "global_rope_theta",
            Attention::Local => "local_rope_theta",
        }
    }

    /// The base of its angles in the class.
    fn default_base(self) -> f64 {
        match self {
            Attention::Global => 160_000.0,
            Attention::Local => 10_000.0,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    pub num_hidden_layers: usize,
    num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub hidden_activation: Activation,
    pub norm_eps: f32,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    decoder_bias: bool,
    classifier_bias: bool,
    local_attention: i64,
    #[serde(default)]
    sliding_window: Option<i64>,
    #[serde(default)]
    head_dim: Option<usize>,
    pub classifier_activation: Activation,
    pub classifier_pooling: ClassifierPooling,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    global_attn_every_n_layers: Option<usize>,
    #[serde(default)]
    rope_parameters: Option<Map<String, Value>>,
    #[serde(default)]
    rope_scaling: Option<Map<String, Value>>,
    #[serde(default)]
    global_rope_theta: Option<f64>,
    /// Where it is null, version 4 takes the other one.
    #[serde(default, deserialize_with = "even_null")]
    local_rope_theta: Option<Option<f64>>,
}

/// The value of a field, also null; none where it is missing.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClassifierPooling {
    Cls,
    Mean,
}

impl Config {
    /// Reads the fields, and refuses by name invalid values, contradictions, and options that would change the outputs
    /// and is not built.
    pub fn read(fields: &Fields) -> Result<Config> {
        let config: Config = fields.get()?;
        let (positions, local) = (config.max_position_embeddings, config.local_attention);
        if positions == 0 || positions > LONGEST {
            return Err(Error::bad_input(format!("expected 1 to {LONGEST} positions, found {positions}"))
                .at("config.json: max_position_embeddings"));
        }
        if config.global_attn_every_n_layers == Some(0) || local < 1 {
            return Err(Error::bad_input("`global_attn_every_n_layers` and `local_attention` must be 1 or more")
                .at("config.json"));
        }
        if let Some(window) = config.sliding_window.filter(|window| *window != local / 2) {
            return Err(contradiction("sliding_window", &json!(window), "local_attention", &json!(local)));
        }
        let head = config.hidden_size / usize::try_from(config.heads()?).unwrap_or(1).max(1);
        if let Some(n) = config.head_dim.filter(|n| *n != head) {
            return Err(Error::unsupported(format!("only {head} is built, found {n}")).at("config.json: head_dim"));
        }
        if config.rope_scaling.as_ref().is_some_and(|scaling| !is_plain(scaling)) {
            return Err(Error::unsupported("only plain rotary positions are built").at("config.json: rope_scaling"));
        }
        if let Some(flat) = config.rope_parameters.as_ref().filter(|parameters| is_flat(parameters)) {
            plain_parameters(flat, "config.json: rope_parameters")?;
            let bases = [Attention::Global, Attention::Local].map(|kind| config.base(kind));
            if let [Ok(global), Ok(local)] = bases {
                fields.warn(format!(
                    "config.json: `rope_parameters` names no kind of layer; as in transformers 5, bases are {global} in \
                     layers of full_attention and {local} in those of sliding_attention"
                ));
            }
        }
        Ok(config)
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> Size {
        Size { n: self.hidden_size, field: "hidden_size" }
    }

    /// Number of known tokens.
    pub fn vocabulary(&self) -> Size {
        Size { n: self.vocab_size, field: "vocab_size" }
    }

    /// Width of the feed-forward block.
    pub fn inner(&self) -> Size {
        Size { n: self.intermediate_size, field: "intermediate_size" }
    }

    /// Number of attention heads.
    pub fn heads(&self) -> Result<i64> {
        heads(self.num_attention_heads, self.hidden_size)
    }

    /// How many tokens to either side local attention covers.
    pub fn window(&self) -> i64 {
        self.local_attention / 2
    }

    /// The attention of a layer: as listed, or by counting.
    pub fn attention(&self, layer: usize) -> Result<Attention> {
        let counted = |every| counted(layer, every);
        let Some(listed) = &self.layer_types else {
            return Ok(counted(self.global_attn_every_n_layers.unwrap_or(EVERY)));
        };
        let place = "config.json: layer_types";
        if listed.len() != self.num_hidden_layers {
            let (found, layers) = (listed.len(), self.num_hidden_layers);
            return Err(Error::bad_input(format!("{found} kinds for {layers} layers")).at(place));
        }
        let name = listed.get(layer).map(String::as_str).unwrap_or_default();
        let kind = match name {
            "full_attention" | "attention" => Attention::Global,
            "sliding_attention" => Attention::Local,
            other => {
                return Err(Error::unsupported(format!("layers of the kind `{}` are not built", printable(other)))
                    .at(place)
                    .hint("known: full_attention and sliding_attention"));
            }
        };
        match self.global_attn_every_n_layers {
            Some(every) if counted(every) != kind => {
                Err(contradiction("global_attn_every_n_layers", &json!(every), "layer_types", &json!(listed)))
            }
            _ => Ok(kind),
        }
    }

    /// The base of the angles in layers of a kind.
    pub fn base(&self, kind: Attention) -> Result<f32> {
        self.exact_base(kind).map(|base| base as f32)
    }

    fn exact_base(&self, kind: Attention) -> Result<f64> {
        let old = self.old_base(kind);
        let new = self.rope_parameters.as_ref().and_then(|parameters| parameters.get(kind.name()));
        let place = format!("config.json: rope_parameters.{}", kind.name());
        let new = match new {
            None | Some(Value::Null) => None,
            Some(Value::Object(parameters)) => plain_parameters(parameters, &place)?,
            Some(_) => return Err(Error::bad_input("expected an object").at(place)),
        };
        let base = match (new, old) {
            (Some(new), Some(old)) if new != old => {
                let name = format!("rope_parameters.{}.rope_theta", kind.name());
                return Err(contradiction(kind.old_field(), &json!(old), &name, &json!(new)));
            }
            (new, old) => new.or(old).unwrap_or(kind.default_base()),
        };
        match base.is_finite() && base > 0.0 {
            true => Ok(base),
            false => Err(Error::bad_input(format!("expected a positive number, found {base}")).at(place)),
        }
    }

    /// The same in the fields of version 4.
    fn old_base(&self, kind: Attention) -> Option<f64> {
        match kind {
            Attention::Global => self.global_rope_theta,
            Attention::Local => match self.local_rope_theta? {
                Some(base) => Some(base),
                None => self.global_rope_theta.or(Some(Attention::Global.default_base())),
            },
        }
    }

    /// Fails where the weights have biases that the configuration denies, which `transformers` would drop, or lack those
    /// that it promises.
    pub fn check_biases(&self, model: &Scope, root: &Scope) -> Result<()> {
        let flags = [
            ("norm_bias", self.norm_bias, model.full("final_norm"), model),
            ("attention_bias", self.attention_bias, model.item("layers", 0).full("attn.Wo"), model),
            ("mlp_bias", self.mlp_bias, model.item("layers", 0).full("mlp.Wo"), model),
            ("classifier_bias", self.classifier_bias, "head.dense".to_owned(), root),
            ("decoder_bias", self.decoder_bias, "decoder".to_owned(), root),
        ];
        for (field, promised, layer, scope) in flags {
            let p = scope.elsewhere(&layer);
            let there = p.has("bias");
            // A tied decoder has no own weight, and its bias may be alone.
            let known = p.has("weight") || there;
            if known && there != promised {
                let bias = printable(&p.full("bias"));
                let there = if there { "is there" } else { "is missing" };
                return Err(Error::bad_input(format!("`{field}` is {promised}, but `{bias}` {there}"))
                    .at("config.json")
                    .hint("the weights and config.json look like different models"));
            }
        }
        Ok(())
    }
}

/// The attention of a layer where every so many are global.
fn counted(layer: usize, every: usize) -> Attention {
    match layer.checked_rem(every) {
        Some(0) => Attention::Global,
        _ => Attention::Local,
    }
}

/// Layers and angles in the fields of both versions.
pub(super) fn restated(fields: &Fields) -> Result<Restated> {
    let config = Config::read(fields)?;
    let kinds = (0..config.num_hidden_layers).map(|layer| config.attention(layer)).collect::<Result<Vec<_>>>()?;
    let (mut restated, mut parameters) = (Restated::default(), Map::new());
    for kind in [Attention::Global, Attention::Local] {
        let base = config.exact_base(kind)?;
        parameters.insert(kind.name().to_owned(), json!({"rope_theta": base, "rope_type": "default"}));
        restated.fields.insert(kind.old_field().to_owned(), base.into());
    }
    restated.fields.insert("rope_parameters".to_owned(), parameters.into());
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    restated.fields.insert("layer_types".to_owned(), json!(names));
    let fits = |every: &usize| kinds.iter().enumerate().all(|(layer, kind)| counted(layer, *every) == *kind);
    let said = config.global_attn_every_n_layers.into_iter();
    match said.chain([EVERY]).chain(1..=kinds.len()).find(fits) {
        Some(every) => drop(restated.fields.insert("global_attn_every_n_layers".to_owned(), every.into())),
        None => restated.warnings.push(
            "config.json: transformers 4 takes every so many layers for global, from the first on, and cannot read these \
             `layer_types`; version 5 can"
                .to_owned(),
        ),
    }
    Ok(restated)
}

/// Whether parameters are of no kind of layer.
fn is_flat(parameters: &Map<String, Value>) -> bool {
    let kinds = [Attention::Global, Attention::Local].map(Attention::name);
    !parameters.is_empty() && !kinds.iter().any(|kind| parameters.contains_key(*kind))
}

/// Whether the rotary positions are the usual ones.
fn is_plain(parameters: &Map<String, Value>) -> bool {
    plain_parameters(parameters, "").is_ok_and(|base| base.is_none())
}

/// The base of plain rotary positions, where it is set. Fails, naming it, at anything else that is set.
fn plain_parameters(parameters: &Map<String, Value>, place: &str) -> Result<Option<f64>> {
    let mut base = None;
    for (name, value) in parameters {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("rope_type" | "type", Value::String(kind)) if kind == "default" => {}
            ("rope_type" | "type", kind) => {
                let what = format!("rotary positions of the type {} are not built", printable(&kind.to_string()));
                return Err(Error::unsupported(what).at(format!("{place}.{name}")).hint("known: default"));
            }
            ("rope_theta", value) => {
                let found = value.as_f64().ok_or_else(|| {
                    let what = format!("expected a number, found {}", printable(&value.to_string()));
                    Error::bad_input(what).at(format!("{place}.rope_theta"))
                });
                base = Some(found?);
            }
            ("partial_rotary_factor", value) if value.as_f64() == Some(1.0) => {}
            (other, _) => {
                return Err(Error::unsupported(format!("`{}` is not built", printable(other))).at(place.to_owned()));
            }
        }
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::hub::arch::modernbert::FAMILY;

    const NEW: &str = r#""layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": {"rope_theta": 5.0, "rope_type": "default"},
                            "sliding_attention": {"rope_theta": 4, "rope_type": "default"}}"#;

    fn read(fields: &str) -> Result<(Config, Vec<String>)> {
        let fields = FAMILY.fields(&format!("{{\"num_hidden_layers\": 2, {fields}}}"))?;
        let config = Config::read(&fields)?;
        Ok((config, fields.into_warnings()))
    }

    /// The attention of layers, and their rotary base.
    fn layers(fields: &str) -> Result<Vec<(Attention, f32)>> {
        let (config, _) = read(fields)?;
        let of = |layer| config.attention(layer).and_then(|kind| Ok((kind, config.base(kind)?)));
        (0..config.num_hidden_layers).map(of).collect()
    }

    fn refusal(fields: &str) -> String {
        layers(fields).unwrap_err().to_string()
    }

    #[test]
    fn both_forms_give_the_same() {
        let expected = [(Attention::Global, 5.0), (Attention::Local, 4.0)];
        let old = r#""global_attn_every_n_layers": 2, "global_rope_theta": 5.0, "local_rope_theta": 4.0"#;
        for fields in [NEW, old, &format!("{NEW}, {old}")] {
            assert_eq!(layers(fields).unwrap(), expected, "{fields}");
        }
    }

    #[test]
    fn missing_fields_are_as_in_the_class() {
        let expected = [(Attention::Global, 160_000.0), (Attention::Local, 10_000.0), (Attention::Local, 10_000.0)];
        let of = |text: &str| {
            let fields = FAMILY.fields(text).unwrap();
            let config = Config::read(&fields).unwrap();
            (0..3)
                .map(|i| config.attention(i).and_then(|kind| Ok((kind, config.base(kind)?))).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(r#"{"num_hidden_layers": 3}"#), expected);
        assert_eq!(of(r#"{"num_hidden_layers": 3, "rope_parameters": {}}"#), expected);
        let partly = r#"{"num_hidden_layers": 3, "rope_parameters": {"full_attention": {"rope_type": "default"}}}"#;
        assert_eq!(of(partly), expected);
        // Version 4 takes the other base where this one is null.
        let null = of(r#"{"num_hidden_layers": 3, "global_rope_theta": 7, "local_rope_theta": null}"#);
        assert_eq!(null.iter().map(|(_, base)| *base).collect::<Vec<_>>(), [7.0; 3]);
    }

    #[test]
    fn parameters_of_no_kind_are_ignored_and_named() {
        let (config, warnings) = read(r#""rope_parameters": {"rope_theta": 3.0, "rope_type": "default"}"#).unwrap();
        assert_eq!(config.base(Attention::Global).unwrap(), 160_000.0);
        assert!(warnings[0].contains("`rope_parameters` names no kind of layer"), "{warnings:?}");
    }

    #[test]
    fn other_angles_are_refused_by_name() {
        for kind in ["linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "new"] {
            for name in ["rope_type", "type"] {
                let said = refusal(&format!(
                    r#""rope_parameters": {{"full_attention": {{"{name}": "{kind}", "factor": 2.0}}}}"#
                ));
                let expected = format!("rotary positions of the type \"{kind}\" are not built");
                assert!(said.starts_with(&expected) || said.starts_with("`factor` is not built"), "{said}");
            }
            let said = refusal(&format!(r#""rope_scaling": {{"type": "{kind}", "factor": 2.0}}"#));
            assert_eq!(said, "only plain rotary positions are built\n  in config.json: rope_scaling");
        }
        let said = refusal(r#""rope_parameters": {"sliding_attention": {"partial_rotary_factor": 0.5}}"#);
        assert!(said.starts_with("`partial_rotary_factor` is not built\n  in config.json: rope_parameters."), "{said}");
        let said = refusal(r#""rope_parameters": {"rope_type": "linear"}"#);
        assert!(said.starts_with("rotary positions of the type \"linear\" are not built"), "{said}");
    }

    #[test]
    fn contradictions_are_named() {
        let said = refusal(&format!(r#"{NEW}, "global_rope_theta": 6"#));
        let expected =
            "`global_rope_theta` 6.0 and `rope_parameters.full_attention.rope_theta` 5.0 contradict each other";
        assert!(said.starts_with(expected), "{said}");
        let said = refusal(&format!(r#"{NEW}, "global_attn_every_n_layers": 1"#));
        assert!(said.starts_with("`global_attn_every_n_layers` 1 and `layer_types` [\"full_attention\","), "{said}");
        let said = refusal(r#""local_attention": 8, "sliding_window": 8"#);
        assert!(said.starts_with("`sliding_window` 8 and `local_attention` 8 contradict each other"), "{said}");
        assert_eq!(layers(r#""local_attention": 8, "sliding_window": 4"#).unwrap().len(), 2);
    }

    #[test]
    fn every_form_is_written_in_both() {
        let of = |fields: &str| {
            let fields = FAMILY.fields(&format!("{{\"num_hidden_layers\": 2, {fields}}}")).unwrap();
            restated(&fields).unwrap()
        };
        let old = r#""global_attn_every_n_layers": 2, "global_rope_theta": 5.0, "local_rope_theta": 4.0"#;
        for form in [NEW, old] {
            let Restated { fields, warnings } = of(form);
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!(
                Value::Object(fields.clone()),
                json!({
                    "global_attn_every_n_layers": if form == NEW { 3 } else { 2 },
                    "global_rope_theta": 5.0, "local_rope_theta": 4.0,
                    "layer_types": ["full_attention", "sliding_attention"],
                    "rope_parameters": {"full_attention": {"rope_theta": 5.0, "rope_type": "default"},
                                        "sliding_attention": {"rope_theta": 4.0, "rope_type": "default"}},
                })
            );
            let both = serde_json::to_string(&fields).unwrap();
            assert_eq!(layers(&both[1..both.len() - 1]).unwrap(), layers(form).unwrap());
        }
        // Version 5 fails at null, and 4 takes the other.
        let null = of(r#""global_rope_theta": 7.0, "local_rope_theta": null"#).fields;
        assert_eq!(
            (&null["local_rope_theta"], &null["rope_parameters"]["sliding_attention"]["rope_theta"]),
            (&json!(7.0), &json!(7.0))
        );
        let non_finite = of(r#""layer_types": ["sliding_attention", "full_attention"]"#);
        assert!(non_finite.warnings[0].contains("cannot read these `layer_types`"), "{:?}", non_finite.warnings);
        assert!(!non_finite.fields.contains_key("global_attn_every_n_layers"));
    }

    #[test]
    fn kinds_of_layers_are_known_and_one_for_each() {
        let said = refusal(r#""layer_types": ["full_attention", "chunked_attention"]"#);
        assert!(said.starts_with("layers of the kind `chunked_attention` are not built\n"), "{said}");
        let said = refusal(r#""layer_types": ["full_attention"]"#);
        assert_eq!(said, "1 kinds for 2 layers\n  in config.json: layer_types");
    }
}
