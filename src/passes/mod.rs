//! Changes to the graph, one file per pass.
//!
//! A pass knows operations and roles, never a family. The [`Manager`] verifies before and after each, times it, and
//! names the pass when an invariant breaks.

mod adapter_inputs;
mod cut_vocabulary;
mod drop_layers;
mod first_token;
mod fuse_qkv;
mod group_neurons;
mod half;
mod prune_channels;
mod quantize;
mod replace_weights;
mod smooth;
mod stored;

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result, printable};
use crate::ir::Graph;
use crate::verify::{Verified, verify};

pub use adapter_inputs::{AdapterInputs, Whole, factor_names};
pub use cut_vocabulary::CutVocabulary;
pub use drop_layers::DropLayers;
pub use first_token::FirstToken;
pub use fuse_qkv::FuseQkv;
pub use group_neurons::GroupNeurons;
pub use half::{Half, Magnitudes, Wide};
pub use prune_channels::{ChannelCut, Prunable, PruneChannels};
pub use quantize::{ActivationType, QuantizeDynamic, QuantizeEmbeddings, QuantizeStatic, QuantizeWeights};
pub use replace_weights::ReplaceWeights;
pub use smooth::Smooth;
pub use stored::Stored;

/// One change to the graph.
pub trait Pass {
    /// The name in reports, in manifests and for `--dump-after`.
    fn name(&self) -> &'static str;

    /// The graph after the change, and the report.
    fn run(&self, graph: &Graph) -> Result<(Graph, Report)>;
}

/// The report of a pass.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many matches were changed.
    pub changed: usize,
    /// Near matches that were left unchanged, with the reason.
    pub left: Vec<String>,
}

/// A pass that ran.
#[derive(Clone, Debug, Serialize)]
pub struct Ran {
    /// Its name.
    pub name: &'static str,
    /// Its report.
    #[serde(flatten)]
    pub report: Report,
    /// How long it took.
    #[serde(skip)]
    pub time: Duration,
}

/// Runs passes in order.
#[derive(Default)]
pub struct Manager {
    /// The pass after which the graph's text is saved.
    pub dump_after: Option<String>,
    /// The passes that ran.
    pub ran: Vec<Ran>,
    /// The saved text.
    pub dump: Option<String>,
}

impl Manager {
    /// Runs one pass and verifies the result.
    pub fn run(&mut self, graph: &Verified<Graph>, pass: &dyn Pass) -> Result<Verified<Graph>> {
        let start = Instant::now();
        let in_pass = |e: Error| e.at(format!("pass {}", pass.name()));
        let (changed, report) = pass.run(graph).map_err(in_pass)?;
        let verified = verify(changed).map_err(in_pass)?;
        self.ran.push(Ran { name: pass.name(), report, time: start.elapsed() });
        if self.dump_after.as_deref() == Some(pass.name()) {
            self.dump = Some(verified.to_string());
        }
        Ok(verified)
    }
}

/// The names of all passes.
pub const NAMES: [&str; 15] = [
    "prune-channels",
    "replace-weights",
    "drop-layers",
    "adapter-inputs",
    "cut-vocabulary",
    "first-token",
    "fuse-qkv",
    "smooth",
    "group-neurons",
    "quantize-dynamic",
    "quantize-static",
    "quantize-weights",
    "quantize-embeddings",
    "half",
    "stored",
];

/// Checks that there is a pass of that name.
pub fn known(name: &str) -> Result<()> {
    if NAMES.contains(&name) {
        return Ok(());
    }
    let error = Error::bad_input(format!("no pass is called `{}`; known: {}", printable(name), NAMES.join(", ")));
    Err(error.hint_nearest(name, NAMES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use crate::calibrate::Ranges;
    use crate::ir::text;
    use crate::ir::weight::Int8Range;

    /// Runs a pass over the text of a graph. Returns the text after it, and the matches that were left with the reasons.
    pub(super) fn run(pass: &dyn Pass, text: &str) -> (String, Vec<String>) {
        let graph = verify(text::parse(text).unwrap()).unwrap();
        let mut manager = Manager::default();
        let after = manager.run(&graph, pass).unwrap();
        (after.to_string(), manager.ran.remove(0).report.left)
    }

    #[test]
    fn a_pass_that_breaks_the_graph_is_named() {
        struct Breaks;
        impl Pass for Breaks {
            fn name(&self) -> &'static str {
                "breaks"
            }
            fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
                let mut graph = graph.clone();
                graph.parts_mut().1.clear();
                Ok((graph, Report::default()))
            }
        }
        let text = "graph \"g\" { input %x: f32[b] %y: f32[b] = Tanh(%x) output %y }";
        let graph = verify(text::parse(text).unwrap()).unwrap();
        let error = Manager::default().run(&graph, &Breaks).unwrap_err();
        assert_eq!(error.to_string(), "the graph is broken: `y` is an output that nothing makes\n  in pass breaks");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn the_text_after_one_pass_is_saved_on_demand() {
        let text = "graph \"g\" { input %x: f32[b] %y: f32[b] = Tanh(%x) output %y }";
        let graph = verify(text::parse(text).unwrap()).unwrap();
        let mut manager = Manager { dump_after: Some("half".to_owned()), ..Manager::default() };
        let after = manager.run(&graph, &Half::to(crate::ir::DType::F16)).unwrap();
        manager.run(&after, &FuseQkv).unwrap();
        assert_eq!(manager.dump, Some(after.to_string()));
    }

    #[test]
    fn every_pass_is_known_by_its_name() {
        let calibration = &RefCell::default();
        let (ranges, range) = (&Ranges::new(), Int8Range::Full);
        let fixed = QuantizeStatic { ranges, calibration: None, activations: ActivationType::U8, keep: &[], range };
        let all: [&dyn Pass; NAMES.len()] = [
            &PruneChannels { cuts: &BTreeMap::new() },
            &ReplaceWeights { weights: &BTreeMap::new() },
            &DropLayers { layers: &[] },
            &AdapterInputs::default(),
            &CutVocabulary { kept: &[], scores: false },
            &FirstToken,
            &FuseQkv,
            &Smooth { calibration, keep: &[], range },
            &GroupNeurons { calibration, groups: 1, keep: &[] },
            &QuantizeDynamic::default(),
            &fixed,
            &QuantizeWeights { blocks: None, keep: &[] },
            &QuantizeEmbeddings { keep: &[] },
            &Half::to(crate::ir::DType::F16),
            &Stored::to(crate::ir::DType::F16),
        ];
        assert_eq!(all.map(Pass::name), NAMES);
        all.iter().for_each(|pass| known(pass.name()).unwrap());
        let error = known("fuse-qvk").unwrap_err().to_string();
        assert_eq!(
            error,
            format!("no pass is called `fuse-qvk`; known: {}\n\nhint: did you mean fuse-qkv?", NAMES.join(", "))
        );
    }
}
