//! Rotary positions: keys and tensors of factors, as the configuration says them.

use serde_json::json;

use super::keys::missing;
use super::model::{Fields, Model};
use crate::error::{Error, Result, printable};

/// Base of angles where the file is silent.
const THETA: f64 = 10_000.0;

/// Parameters that llama.cpp has, with the only value that is built.
const FIXED: [(&str, f64); 4] = [
    ("rope.scaling.yarn_ext_factor", 1.0),
    ("rope.scaling.yarn_attn_factor", 1.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("rope.scaling.alpha", 0.0),
];

/// Adds base, share and kind to the fields of a configuration.
pub(super) fn add(model: &Model, fields: &mut Fields, [head_size, positions]: [usize; 2]) -> Result<()> {
    let (keys, architecture) = (&model.contents.keys, model.architecture);
    let number = |end: &str| keys.number(&architecture.key(end));
    let turned = keys.size(&architecture.key("rope.dimension_count"))?.unwrap_or(head_size);
    if architecture.options.partial {
        fields.insert("partial_rotary_factor".to_owned(), json!(share(turned, head_size)));
    } else if turned != head_size {
        return Err(Error::unsupported(format!(
            "{turned} of a head's {head_size} channels are turned, and models of this family turn whole heads"
        ))
        .at(format!("key `{}`", architecture.key("rope.dimension_count"))));
    }
    fields.insert("rope_theta".to_owned(), json!(number("rope.freq_base")?.unwrap_or(THETA)));
    for (end, usual) in FIXED {
        if let Some(other) = number(end)?.filter(|found| *found != usual) {
            return Err(Error::unsupported(format!("expected {usual}, found {other}"))
                .at(format!("key `{}`", architecture.key(end))));
        }
    }
    keys.pass_over(&architecture.key("rope.scaling.finetuned"));
    let original = keys.size(&architecture.key("rope.scaling.original_context_length"))?;
    let factor = number("rope.scaling.factor")?.or(number("rope.scale_linear")?);
    let factor = factor.filter(|factor| *factor != 0.0);
    let kind = keys.text(&architecture.key("rope.scaling.type"))?;
    let usual = if factor.is_some_and(|factor| factor != 1.0) { "linear" } else { "none" };
    let scaling = Scaling { model, turned, positions, original };
    let found = match (kind.unwrap_or(usual), model.factors("rope_freqs.weight")?) {
        ("none", Some(factors)) => Some(scaling.by_frequency(&factors)?),
        (_, Some(_)) => {
            return Err(Error::unsupported("factors of frequencies beside another kind of scaling are not built")
                .at("tensor `rope_freqs.weight`"));
        }
        ("none", None) => None,
        ("linear", None) => {
            factor.filter(|factor| *factor != 1.0).map(|factor| json!({"rope_type": "linear", "factor": factor}))
        }
        ("yarn", None) => Some(scaling.yarn(factor)?),
        ("longrope", None) => scaling.long(fields)?,
        (other, None) => {
            return Err(Error::unsupported(format!(
                "rotary positions of the kind `{}` are not built",
                printable(other)
            ))
            .at(format!("key `{}`", architecture.key("rope.scaling.type")))
            .hint("known: none, linear, yarn, longrope"));
        }
    };
    if let Some(found) = found {
        fields.insert("rope_scaling".to_owned(), found);
    }
    Ok(())
}

/// The share of channels, of which the number is found again by rounding down.
fn share(turned: usize, head_size: usize) -> f64 {
    let share = turned as f64 / head_size.max(1) as f64;
    match (head_size as f64 * share) as usize == turned {
        true => share,
        false => (turned as f64 + 0.25) / head_size.max(1) as f64,
    }
}

struct Scaling<'a> {
    model: &'a Model<'a>,
    turned: usize,
    positions: usize,
    original: Option<usize>,
}

impl Scaling<'_> {
    /// Each frequency divided by its factor, at every length: Llama 3.1 and later, whose converter has computed them.
    fn by_frequency(&self, factors: &[f32]) -> Result<serde_json::Value> {
        self.check("rope_freqs.weight", factors)?;
        Ok(json!({
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 1.0,
            "attention_factor": 1.0, "original_max_position_embeddings": self.positions
        }))
    }

    fn yarn(&self, factor: Option<f64>) -> Result<serde_json::Value> {
        let architecture = self.model.architecture;
        let key = |end: &str| architecture.key(end);
        let factor = factor.ok_or_else(|| missing(&key("rope.scaling.factor")))?;
        let number = |end: &str| self.model.contents.keys.number(&key(end));
        let mut yarn = json!({"rope_type": "yarn", "factor": factor});
        let mut put = |name: &str, value: serde_json::Value| {
            if let Some(yarn) = yarn.as_object_mut() {
                yarn.insert(name.to_owned(), value);
            }
        };
        if let Some(original) = self.original {
            put("original_max_position_embeddings", json!(original));
        }
        for (end, name) in [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")]
        {
            if let Some(turns) = number(end)? {
                put(name, json!(turns));
            }
        }
        // llama.cpp's factor of scores is beside that of the paper.
        if let Some(attention) = number("rope.scaling.attn_factor")?.filter(|attention| *attention != 1.0) {
            put("attention_factor", json!(attention * (0.1 * factor.ln() + 1.0)));
        }
        Ok(yarn)
    }

    /// A factor for each frequency, of short texts and of long ones; none where the file has no such tensors.
    fn long(&self, fields: &mut Fields) -> Result<Option<serde_json::Value>> {
        let needed = |name: &str| match self.model.factors(name)? {
            Some(factors) => self.check(name, &factors).map(|()| factors),
            None => Err(Error::bad_input(format!("tensor `{name}` is missing"))),
        };
        let (short, long) = (needed("rope_factors_short.weight")?, needed("rope_factors_long.weight")?);
        let original = self.original.unwrap_or(self.positions);
        fields.insert("original_max_position_embeddings".to_owned(), json!(original));
        let mut scaling = json!({"rope_type": "longrope", "short_factor": short, "long_factor": long});
        let share = self.positions as f64 / original.max(1) as f64;
        let usual = if share <= 1.0 { 1.0 } else { (1.0 + share.ln() / (original as f64).ln()).sqrt() };
        let key = self.model.architecture.key("rope.scaling.attn_factor");
        let found = self.model.contents.keys.number(&key)?.unwrap_or(1.0);
        if (found - usual).abs() > 1e-6
            && let Some(scaling) = scaling.as_object_mut()
        {
            scaling.insert("attention_factor".to_owned(), json!(found));
        }
        Ok(Some(scaling))
    }

    fn check(&self, name: &str, factors: &[f32]) -> Result<()> {
        match factors.len() == self.turned / 2 {
            true => Ok(()),
            false => Err(Error::bad_input(format!(
                "{} factors, expected {}: one for each pair of channels",
                factors.len(),
                self.turned / 2
            ))
            .at(format!("tensor `{name}`"))),
        }
    }
}

impl Model<'_> {
    /// The numbers of a tensor of factors.
    fn factors(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(weight) = self.contents.tensors.get(name) else { return Ok(None) };
        weight.to_f32s().map(|factors| Some(factors.into_owned())).map_err(|e| e.at(format!("tensor `{name}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_gives_its_number_of_channels_again() {
        for size in 1..200usize {
            for turned in 1..=size {
                assert_eq!((size as f64 * share(turned, size)) as usize, turned, "{turned} of {size}");
            }
        }
    }
}
