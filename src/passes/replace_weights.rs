//! Replaces weights.
//!
//! `f(x, w) ≈ f(x, w′)`

use std::collections::BTreeMap;

use super::{Pass, Report};
use crate::ir::{Action, Graph, Weight, rewrite};

/// The pass. Constants are called by their names in the graph; one that several layers read is replaced for all.
pub struct ReplaceWeights<'a> {
    /// The new weight, of the same type.
    pub weights: &'a BTreeMap<String, Weight>,
}

impl Pass for ReplaceWeights<'_> {
    fn name(&self) -> &'static str {
        "replace-weights"
    }

    fn run(&self, graph: &Graph) -> crate::error::Result<(Graph, Report)> {
        let mut report = Report::default();
        let after = rewrite(graph, |rw, node| {
            for id in node.inputs.iter().flatten() {
                let name = &graph.value(*id).name;
                if let Some(weight) = self.weights.get(name).filter(|_| !rw.is_built(*id)) {
                    let new = rw.weight(name, weight.clone());
                    rw.replace(*id, new);
                    report.changed += 1;
                }
            }
            Ok(Action::Keep)
        })?;
        Ok((after, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::tests::run;

    #[test]
    fn a_weight_that_two_layers_read_is_replaced_for_both() {
        let text = r#"graph "g" {
  input %x: f32[b, 2]
  weight %w: f32[2, 2] = source "w"
  %a: f32[b, 2] = Linear(%x, %w)
  %y: f32[b, 2] = Linear(%a, %w)
  output %y
}
"#;
        let weights = BTreeMap::from([("w".to_owned(), Weight::f32s(vec![2, 2], &[0.0; 4]).unwrap())]);
        let (after, _) = run(&ReplaceWeights { weights: &weights }, text);
        assert!(after.contains("%w: f32[2, 2] = literal") && after.matches("(%").count() == 2, "{after}");
        assert!(after.contains("Linear(%x, %w)") && after.contains("Linear(%a, %w)"), "{after}");
    }
}
