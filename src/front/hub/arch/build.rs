//! Builds the graph of a checkpoint: its family's, with the head of a task.

use super::canonical::canonical_state;
use super::complete;
use super::families::family;
use super::family::{Context, Family};
use super::shared;
use super::task::Sources;
use crate::error::{Error, Result, printable};
use crate::front::hub::adapter::hub::Insertions;
use crate::front::hub::checkpoint::{Checkpoint, Scope, StateDict};
use crate::ir::Graph;
use crate::ports::PortKind;
use crate::task::head::Head;
use crate::task::id::Task;

/// A graph, its task, and the unused tensors.
#[derive(Debug)]
pub struct Built {
    /// The graph.
    pub graph: Graph,
    /// Its task.
    pub task: Task,
    /// Tensors of the checkpoint that no part of the graph reads.
    pub unused: Vec<String>,
    /// Warnings about the configuration.
    pub warnings: Vec<String>,
}

/// Builds the graph of `task` from a checkpoint's configuration and the given tensors (the checkpoint's own, or with
/// adapters merged). Without a task, the checkpoint decides it: by its modules, its class or the tensors of its head.
pub fn build(checkpoint: &Checkpoint, state: &StateDict, task: Option<Task>) -> Result<Built> {
    let inserted = &Insertions::default();
    let task = match task {
        Some(task) => task,
        None => {
            let base = &canonical_state(checkpoint)?;
            Sources { requested: None, peft: &[], inserted, checkpoint, base, state }.task()?
        }
    };
    build_with(checkpoint, state, inserted, task)
}

/// Like [`build`], with bottleneck adapters and heads that are not the family's own.
pub fn build_with(checkpoint: &Checkpoint, state: &StateDict, inserted: &Insertions, task: Task) -> Result<Built> {
    complete::check(&checkpoint.state)?;
    let family = family(&checkpoint.common)?;
    let config = family.fields(&checkpoint.config)?;
    if let Some(class) = checkpoint.common.own_classes().next() {
        config.warn(format!(
            "config.json names its own code (auto_map: {}), which is never run; the model is built as a {}",
            printable(class),
            family.model_type
        ));
    }
    let context = Context {
        family,
        config,
        sentence: checkpoint.sentence.as_ref().map(|modules| (modules, Scope::root(&modules.state))),
        head: task.head(),
        task_name: task.name(),
        weights: Scope::root(state),
        inserted,
    };
    if task.is_over_vocabulary() && inserted.flexible().is_none() {
        shared::check(state, family, &checkpoint.config)?;
    }
    let graph = (family.build)(&context)?;
    check_outputs(&graph, family, context.head)?;
    let scopes = context.sentence.iter().map(|(_, scope)| scope).chain([&context.weights]);
    let unused: Vec<&str> = scopes.flat_map(Scope::unread).collect();
    if let Some((tensor, adapter)) = inserted.left_over(unused.iter().copied()) {
        return Err(Error::unsupported(format!(
            "tensor `{}` of the adapter `{}` belongs to no part of a {} model by its configuration",
            printable(tensor),
            printable(adapter),
            family.model_type
        ))
        .at("adapter_config.json")
        .hint(
            "bottleneck adapters are supported in albert, bert, deberta-v2, distilbert, electra, roberta, xlm-roberta",
        ));
    }
    let unused = unused.into_iter().map(str::to_owned).collect();
    Ok(Built { graph, task, unused, warnings: context.config.into_warnings() })
}

/// Fails where the outputs are others than those of the head: a family has built another one.
fn check_outputs(graph: &Graph, family: &Family, head: Head) -> Result<()> {
    let kinds: Vec<Option<PortKind>> = graph.outputs().iter().map(|output| graph.kind(*output)).collect();
    let complete = head.outputs().iter().all(|kind| kinds.contains(&Some(*kind)));
    match complete && kinds.iter().all(|kind| kind.is_some_and(|kind| head.may_output(kind))) {
        true => Ok(()),
        false => Err(Error::bug(format!("{} has built {kinds:?} for the head {head:?}", family.model_type))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::hub::arch::FAMILIES;
    use crate::ir::{Builder, DType, Dim, Op, TensorType};

    #[test]
    fn a_head_with_other_outputs_is_our_fault() {
        let graph = |outputs: &[PortKind]| {
            let mut builder = Builder::new("graph");
            let x = builder.input("x", TensorType::new(DType::F32, [Dim::from("batch_size"), Dim::from(4)]));
            for kind in outputs {
                let value = builder.node(&format!("{kind:?}"), Op::Relu, &[x]).unwrap();
                builder.output(&kind.name(), value).unwrap();
            }
            builder.finish()
        };
        let said = |outputs: &[PortKind], head| {
            check_outputs(&graph(outputs), &FAMILIES[0], head).map_err(|e| e.message().to_owned())
        };
        assert!(said(&[PortKind::Hidden, PortKind::Pooled], Head::HiddenStates).is_ok());
        assert!(said(&[PortKind::Logits, PortKind::PresentKey(0), PortKind::PresentValue(0)], Head::NextToken).is_ok());
        let missing = said(&[PortKind::StartLogits], Head::SpanLogits).unwrap_err();
        assert_eq!(missing, "albert has built [Some(StartLogits)] for the head SpanLogits");
        assert!(said(&[PortKind::Logits, PortKind::Hidden], Head::TokenLogits).is_err());
    }
}
