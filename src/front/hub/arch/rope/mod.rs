//! Rotary positions in configurations: version 4 of `transformers` has `rope_theta` and `rope_scaling`, version 5 has all in
//! `rope_parameters`, or in one object of it for each kind of layer.

mod kinds;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Restated;
use super::blocks::{Angles, Longer};
use super::config::{Fields, contradiction};
use super::layer_types::LayerType;
use crate::error::{Error, Result, printable};
use kinds::{Kind, PARAMETERS, Parameters, Request};

/// What a family's class has where its configuration is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rope {
    /// Base of the angles.
    pub theta: f64,
    /// The share of a head's channels that is turned, where the family may turn a part.
    pub partial: Option<f64>,
    /// Base of the angles in layers with a window, where it is another.
    pub local_theta: Option<f64>,
    /// Other names of kinds.
    pub renamed: &'static [(&'static str, &'static str)],
    /// Whether its class throws a cache away once a text has the factors for long ones.
    pub restarts: bool,
    /// Parameters beside those of kinds, which the family reads itself or whose class ignores them.
    pub others: &'static [&'static str],
}

impl Rope {
    /// Whole heads, by one base for all layers.
    pub const fn whole(theta: f64) -> Rope {
        Rope { theta, partial: None, local_theta: None, renamed: &[], restarts: false, others: &[] }
    }

    /// A share of each head's channels, by one base for all layers.
    pub const fn partial(theta: f64, share: f64) -> Rope {
        Rope { partial: Some(share), ..Rope::whole(theta) }
    }
}

/// The fields of both versions.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rotary_emb_base: Option<f64>,
    #[serde(default)]
    rope_local_base_freq: Option<f64>,
    #[serde(default)]
    partial_rotary_factor: Option<f64>,
    #[serde(default)]
    rotary_pct: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<Map<String, Value>>,
    #[serde(default)]
    rope_parameters: Option<Map<String, Value>>,
    #[serde(default)]
    original_max_position_embeddings: Option<usize>,
}

/// The rotary positions of some layers.
struct Settings {
    kind: Kind,
    parameters: Parameters,
    /// As they were found, without kind, base and share.
    rest: Map<String, Value>,
    theta: f64,
    partial: f64,
    place: String,
    original: Option<usize>,
}

/// How many times as many positions as the configuration says the angles of its kind are for: the factor of a dynamic
/// base, which grows with texts longer than trained; 1 of other kinds.
pub(super) fn growth(fields: &Fields) -> Result<f64> {
    let found: Found = fields.get()?;
    let of = |parameters: &Option<Map<String, Value>>| {
        let parameters = parameters.as_ref()?;
        let kind = parameters.get("rope_type").or_else(|| parameters.get("type"))?;
        let factor = parameters.get("factor")?.as_f64().filter(|factor| factor.is_finite());
        factor.filter(|_| kind.as_str() == Some(Kind::Dynamic.name()))
    };
    Ok(of(&found.rope_parameters).or_else(|| of(&found.rope_scaling)).unwrap_or(1.0).max(1.0))
}

/// A parameter of rotary positions that is a number, where there is one.
pub(super) fn parameter(fields: &Fields, rope: &Rope, name: &str) -> Result<Option<f64>> {
    let settings = Settings::read(fields, rope, LayerType::Full)?;
    match settings.rest.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::bad_input("expected a number").at(format!("{}.{name}", settings.place))),
        },
    }
}

/// Most positions in training, where the parameters or the field beside them say it.
pub(super) fn original(fields: &Fields, rope: &Rope) -> Result<Option<usize>> {
    Ok(Settings::read(fields, rope, LayerType::Full)?.original)
}

/// The angles of heads of that size in layers of a kind, for so many positions.
pub(super) fn angles(
    fields: &Fields,
    rope: &Rope,
    layers: LayerType,
    [head_size, positions]: [usize; 2],
) -> Result<Angles> {
    let settings = Settings::read(fields, rope, layers)?;
    let turned = (head_size as f64 * settings.partial) as usize;
    if turned == 0 || turned > head_size || !turned.is_multiple_of(2) {
        return Err(Error::bad_input(format!(
            "{turned} of a head's {head_size} channels would be turned, expected pairs of them"
        ))
        .at("config.json"));
    }
    let Settings { kind, parameters, theta, place, original, .. } = &settings;
    let said = fields.size("max_position_embeddings").unwrap_or(positions);
    let request = Request {
        kind: *kind,
        parameters,
        theta: *theta,
        turned,
        positions: said,
        original: *original,
        restarts: rope.restarts,
        place,
    };
    let (frequencies, factor) = request.frequencies()?;
    let longer = request.longer(positions)?;
    let others = match &longer {
        Longer::Same => Vec::new(),
        Longer::Others { frequencies, .. } => frequencies.clone(),
        Longer::Growing(base) => base.frequencies(positions),
    };
    if positions == 0 || !factor.is_finite() || frequencies.iter().chain(&others).any(|each| !each.is_finite()) {
        return Err(Error::bad_input("these parameters give angles that are no numbers").at(place.clone()));
    }
    Ok(Angles { frequencies, factor, positions, longer })
}

impl Settings {
    fn read(fields: &Fields, rope: &Rope, layers: LayerType) -> Result<Settings> {
        let found: Found = fields.get()?;
        let local = rope.local_theta.filter(|_| layers == LayerType::Sliding);
        let (mut rest, place) = found.parameters(rope, layers)?;
        let kind = match rest.remove("rope_type").or(rest.remove("type")) {
            None | Some(Value::Null) => Kind::Default,
            Some(Value::String(name)) => {
                let known = rope.renamed.iter().find(|(old, _)| *old == name).map(|(_, new)| *new);
                Kind::named(known.unwrap_or(&name), &place)?
            }
            Some(_) => return Err(Error::bad_input("expected the name of a kind").at(format!("{place}.rope_type"))),
        };
        rest.remove("type");
        let fields_theta = match local {
            Some(_) => [("rope_local_base_freq", found.rope_local_base_freq); 2],
            None => [("rope_theta", found.rope_theta), ("rotary_emb_base", found.rotary_emb_base)],
        };
        let theta = one(rest.remove("rope_theta"), &place, "rope_theta", fields_theta)?;
        let theta = theta.unwrap_or(local.unwrap_or(rope.theta));
        // A base of 1 or less turns no pair slower than another.
        if !(theta.is_finite() && theta > 1.0) {
            return Err(Error::bad_input(format!("expected a base of more than 1, found {theta}")).at(place));
        }
        let shares = [("partial_rotary_factor", found.partial_rotary_factor), ("rotary_pct", found.rotary_pct)];
        let share = one(rest.remove("partial_rotary_factor"), &place, "partial_rotary_factor", shares)?;
        let partial = match (share, rope.partial) {
            (Some(share), Some(_)) if share > 0.0 && share <= 1.0 => share,
            (Some(share), Some(_)) => {
                return Err(Error::bad_input(format!("expected a share of a head's channels, found {share}"))
                    .at("config.json: partial_rotary_factor"));
            }
            (Some(share), None) if share != 1.0 => {
                return Err(Error::unsupported("models of this family turn whole heads")
                    .at("config.json: partial_rotary_factor"));
            }
            (_, usual) => usual.unwrap_or(1.0),
        };
        let known = |name: &str| PARAMETERS.contains(&name) || rope.others.contains(&name);
        for unknown in rest.keys().filter(|name| !known(name)) {
            fields.warn(format!("{place}: `{}` is not read", printable(unknown)));
        }
        let parameters: Parameters = crate::json::from_fields(&rest, &place)?;
        let original = found.original_max_position_embeddings.or(parameters.original_max_position_embeddings);
        Ok(Settings { kind, parameters, rest, theta, partial, place, original })
    }
}

impl Found {
    /// The parameters of layers of a kind besides those with fields of their own, and where they are.
    fn parameters(&self, rope: &Rope, layers: LayerType) -> Result<(Map<String, Value>, String)> {
        let old = match (rope.local_theta, layers) {
            (Some(_), LayerType::Sliding) => None,
            _ => self.rope_scaling.as_ref().filter(|scaling| !scaling.is_empty()),
        };
        let place = "config.json: rope_parameters";
        let Some(new) = self.rope_parameters.as_ref().filter(|parameters| !parameters.is_empty()) else {
            return Ok((old.cloned().unwrap_or_default(), "config.json: rope_scaling".to_owned()));
        };
        let nested = [LayerType::Full, LayerType::Sliding].iter().any(|kind| new.contains_key(kind.name()));
        let (new, place) = match nested {
            true => match new.get(layers.name()) {
                None | Some(Value::Null) => (Map::new(), format!("{place}.{}", layers.name())),
                Some(Value::Object(parameters)) => (parameters.clone(), format!("{place}.{}", layers.name())),
                Some(_) => return Err(Error::bad_input("expected an object").at(format!("{place}.{}", layers.name()))),
            },
            false if rope.local_theta.is_some() => {
                return Err(Error::unsupported("expected one object for full_attention and one for sliding_attention")
                    .at(place));
            }
            false => (new.clone(), place.to_owned()),
        };
        if let Some(old) = old.filter(|old| of_kind(old) != of_kind(&new)) {
            return Err(contradiction("rope_scaling", &json!(old), "rope_parameters", &json!(new)));
        }
        Ok((new, place))
    }
}

/// Parameters as both versions have them: the kind under its newer name, without what has fields of its own in version 4.
fn of_kind(parameters: &Map<String, Value>) -> Map<String, Value> {
    let mut plain = parameters.clone();
    let old = plain.remove("type");
    let kind = plain.remove("rope_type").or(old).unwrap_or(json!("default"));
    plain.retain(|_, value| !value.is_null());
    for field in ["rope_theta", "partial_rotary_factor", "original_max_position_embeddings"] {
        plain.remove(field);
    }
    plain.insert("rope_type".to_owned(), kind);
    plain
}

/// The one value of a parameter and of the fields that it has in version 4.
fn one(
    parameter: Option<Value>,
    place: &str,
    name: &str,
    fields: [(&'static str, Option<f64>); 2],
) -> Result<Option<f64>> {
    let parameter = match parameter {
        None | Some(Value::Null) => None,
        Some(value) => {
            Some(value.as_f64().ok_or_else(|| Error::bad_input("expected a number").at(format!("{place}.{name}")))?)
        }
    };
    let mut found = parameter.map(|value| (name, value));
    for (field, value) in fields {
        match (found, value) {
            (Some((name, one)), Some(other)) if one != other => {
                return Err(contradiction(field, &json!(other), name, &json!(one)));
            }
            (None, Some(value)) => found = Some((field, value)),
            _ => {}
        }
    }
    Ok(found.map(|(_, value)| value))
}

/// The fields of version 4 for a configuration that has those of version 5 alone. Version 5 reads both.
pub(super) fn restated(fields: &Fields, rope: &Rope) -> Result<Restated> {
    let found: Found = fields.get()?;
    let mut restated = Restated::default();
    if found.rope_parameters.is_none() {
        return Ok(restated);
    }
    let settings = Settings::read(fields, rope, LayerType::Full)?;
    let mut put = |name: &str, value: Value| drop(restated.fields.insert(name.to_owned(), value));
    put("rope_theta", json!(settings.theta));
    if rope.partial.is_some() {
        put("partial_rotary_factor", json!(settings.partial));
    }
    if rope.local_theta.is_some() {
        put("rope_local_base_freq", json!(Settings::read(fields, rope, LayerType::Sliding)?.theta));
    }
    if settings.kind != Kind::Default {
        let mut scaling = settings.rest;
        scaling.insert("rope_type".to_owned(), json!(settings.kind.name()));
        put("rope_scaling", Value::Object(scaling));
    }
    Ok(restated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::hub::arch::FAMILIES;

    fn fields(model_type: &str, config: &Value) -> Fields {
        let family = FAMILIES.iter().find(|family| family.model_type == model_type).unwrap();
        family.fields(&config.to_string()).unwrap()
    }

    #[test]
    fn version_4_gets_the_fields_that_it_reads() {
        let llama = Rope::whole(10_000.0);
        let phi = Rope::partial(10_000.0, 0.5);
        let gemma = Rope { local_theta: Some(10_000.0), ..Rope::whole(1_000_000.0) };
        let scaled = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0});
        let cases = [
            ("llama", llama, json!({"rope_theta": 20.0}), json!({})),
            (
                "llama",
                llama,
                json!({ "rope_parameters": scaled }),
                json!({"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
            ),
            (
                "phi",
                phi,
                json!({"rope_parameters": {"rope_type": "default", "rope_theta": 20.0, "partial_rotary_factor": 0.25}}),
                json!({"rope_theta": 20.0, "partial_rotary_factor": 0.25}),
            ),
            (
                "gemma3_text",
                gemma,
                json!({"rope_parameters": {"full_attention": scaled, "sliding_attention": {"rope_theta": 20.0}}}),
                json!({
                    "rope_theta": 500.0, "rope_local_base_freq": 20.0,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0}
                }),
            ),
        ];
        for (model_type, rope, config, expected) in cases {
            let found = restated(&fields(model_type, &config), &rope).unwrap();
            assert_eq!(Value::Object(found.fields.clone()), expected, "{config}");
            let old = match found.fields.is_empty() {
                true => config.clone(),
                false => Value::Object(found.fields),
            };
            for layers in [LayerType::Full, LayerType::Sliding] {
                let of = |config: &Value| angles(&fields(model_type, config), &rope, layers, [8, 16]).unwrap();
                let (new, old) = (of(&config), of(&old));
                assert_eq!((new.frequencies, new.factor), (old.frequencies, old.factor), "{config}");
            }
        }
    }

    #[test]
    fn parameters_that_are_not_read_are_warned_of() {
        let config = json!({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3.0}});
        let fields = fields("llama", &config);
        angles(&fields, &Rope::whole(10_000.0), LayerType::Full, [8, 16]).unwrap();
        assert_eq!(fields.into_warnings(), ["config.json: rope_scaling: `alpha` is not read"]);
    }
}
