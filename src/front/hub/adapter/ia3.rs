//! IA³: activations times trained numbers (arXiv 2205.05638). The input of a feed-forward layer is scaled, and what
//! comes out of any other: so columns of the weight, or its rows and the bias.

use serde::Deserialize;

use super::file::{Adapter, Parts};
use super::kind::Kind;
use super::targets::{Names, is_match, pattern};
use super::work::Work;
use crate::error::{Error, Result};

pub(super) const KIND: Kind = Kind {
    peft_type: "IA3",
    marker: "ia3_",
    parts: &[L],
    idle: &[],
    options: &[&["exclude_modules", "fan_in_fan_out", "feedforward_modules", "init_ia3_weights", "modules_to_save"]],
    scales: false,
    conv1d: true,
};

const L: &str = "ia3_l";

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    feedforward_modules: Option<Names>,
}

impl Config {
    /// Whether the configuration names a module as feed-forward. Here, unlike elsewhere, an end need not be a whole name.
    fn is_feedforward(&self, module: &str) -> Result<bool> {
        match &self.feedforward_modules {
            None => Ok(false),
            Some(Names::Ends(ends)) => Ok(ends.iter().any(|end| module.ends_with(end.as_str()))),
            Some(Names::Pattern(text)) => {
                is_match(&pattern(&format!("^(?:{text})$"), text, "feedforward_modules")?, module)
            }
        }
    }
}

pub(super) fn merge(work: &mut Work, adapter: &Adapter) -> Result<()> {
    let config: Config = adapter.config()?;
    for (module, parts) in &adapter.modules {
        merge_module(work, &config, module, parts).map_err(|e| e.at(adapter.location(module)))?;
    }
    Ok(())
}

fn merge_module(work: &mut Work, config: &Config, module: &str, parts: &Parts) -> Result<()> {
    let numbers = parts.need(L)?;
    let feedforward = config.is_feedforward(module)?;
    let count = match (feedforward, numbers.shape()) {
        (true, [1, n]) | (false, [n, 1]) => *n,
        (_, found) => {
            let expected = if feedforward { "[1, n], for a feed-forward module" } else { "[n, 1]" };
            return Err(Error::bad_input(format!("{L} has shape {found:?}, expected {expected}")));
        }
    };
    let numbers = numbers.reshape(vec![count])?;
    work.change(module, |base| base.scale(&numbers, usize::from(feedforward)))?;
    let bias = work.name(module, "bias");
    if let (false, Ok(base)) = (feedforward, work.base(&bias)) {
        let scaled = base.weight.scale(&numbers, 0)?;
        work.put(&bias, scaled);
    }
    Ok(())
}
