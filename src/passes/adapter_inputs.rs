//! Adapters' tensors as inputs of the graph.
//!
//! `x · W + b = x · W + b + (x · A) · B`, where A and B have rank 0 by default
//!
//! One engine then serves every adapter of its base: a low-rank change costs its own two products, and what adapters
//! save whole (`modules_to_save`) is an input with the base's own tensor as its default.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Pass, Report};
use crate::error::{Error, Result, printable};
use crate::ir::{Action, DType, Dim, Graph, Node, Op, Part, Rewriter, Role, TensorType, ValueId, Weight, reshape};

/// The pass. Constants are called by their names in the graph, which are those of the checkpoint's tensors.
#[derive(Debug, Default)]
pub struct AdapterInputs {
    /// Weights of linear layers that get a low-rank change.
    pub low_rank: BTreeSet<String>,
    /// Those of them that change alone, though another constant has the same elements.
    pub alone: BTreeSet<String>,
    /// Constants that become optional inputs.
    pub whole: BTreeMap<String, Whole>,
}

/// A constant that becomes an optional input.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its replacement; its own elements, if there is none.
    pub default: Option<Weight>,
    /// The dimension whose size the caller decides, and the name of that size.
    pub open: Option<(usize, &'static str)>,
}

impl Pass for AdapterInputs {
    fn name(&self) -> &'static str {
        "adapter-inputs"
    }

    fn run(&self, graph: &Graph) -> Result<(Graph, Report)> {
        self.check(graph)?;
        let mut rewriting = Rewriting { pass: self, factors: HashMap::new(), report: Report::default() };
        let changed = reshape(graph, |rw, node| rewriting.node(rw, node))?;
        Ok((changed, rewriting.report))
    }
}

impl AdapterInputs {
    /// Every weight that changes must be there, and be read by linear layers only.
    fn check(&self, graph: &Graph) -> Result<()> {
        for name in &self.low_rank {
            let refused = |why: String| {
                Err(Error::unsupported(format!("the change of `{}` cannot be an input: {why}", printable(name))))
            };
            let Some((id, weight)) = graph.find(name).and_then(|id| Some((id, graph.weight(id)?))) else {
                return refused("the graph has no such constant".to_owned());
            };
            let elsewhere = |node: &&Node| node.op != Op::Linear || node.inputs.get(1) != Some(&Some(id));
            if let Some(node) = graph.consumers(id).find(elsewhere) {
                return refused(format!(
                    "it is read by `{}`, which is no linear layer",
                    printable(graph.node_name(node))
                ));
            }
            let tied =
                |(other, _, of): &(ValueId, _, &Weight)| *other != id && of.source_name() == weight.source_name();
            if let Some((_, value, _)) = graph.weights().find(tied).filter(|_| !self.alone.contains(name)) {
                return refused(format!("`{}` is tied to it", printable(&value.name)));
            }
        }
        Ok(())
    }
}

struct Rewriting<'a> {
    pass: &'a AdapterInputs,
    /// The factors of a weight, built once where layers share it.
    factors: HashMap<ValueId, [ValueId; 2]>,
    report: Report,
}

impl Rewriting<'_> {
    fn node(&mut self, rw: &mut Rewriter, node: &Node) -> Result<Action> {
        for id in node.inputs.iter().flatten() {
            self.whole(rw, *id)?;
        }
        let weight = node.operand(1).filter(|_| node.op == Op::Linear);
        match weight.filter(|id| self.pass.low_rank.contains(&rw.old().value(*id).name)) {
            Some(weight) => self.low_rank(rw, node, weight),
            None => Ok(Action::Keep),
        }
    }

    /// Makes a constant an input, if it is one of these.
    fn whole(&mut self, rw: &mut Rewriter, id: ValueId) -> Result<()> {
        let value = rw.old().value(id);
        let (Some(weight), Some(whole)) = (rw.old().weight(id), self.pass.whole.get(&value.name)) else {
            return Ok(());
        };
        if rw.is_built(id) {
            return Ok(());
        }
        let mut ty = value.ty.clone();
        if let Some((axis, size)) = whole.open
            && let Some(dim) = ty.shape.get_mut(axis)
        {
            *dim = Dim::from(size);
        }
        let default = whole.default.clone().unwrap_or_else(|| weight.clone());
        let input = rw.optional_input(&value.name, ty, default);
        rw.replace(id, input);
        self.report.changed += 1;
        Ok(())
    }

    fn low_rank(&mut self, rw: &mut Rewriter, node: &Node, weight: ValueId) -> Result<Action> {
        let name = rw.name(node);
        let [a, b] = self.factors(rw, weight)?;
        let operands =
            (0..node.inputs.len()).filter_map(|i| rw.operand(node, i).transpose()).collect::<Result<Vec<_>>>()?;
        let x = rw.required(node, 0)?;
        let base = rw.node(&format!("{name}.base"), Op::Linear, &operands)?;
        let part = |part| node.role.map(|role| Role { part, ..role });
        rw.set_role(part(Part::AdapterDown));
        let down = rw.node(&format!("{name}.down"), Op::Linear, &[x, a])?;
        rw.set_role(part(Part::AdapterUp));
        let up = rw.node(&format!("{name}.up"), Op::Linear, &[down, b])?;
        rw.set_role(part(Part::Adapter));
        self.report.changed += 1;
        rw.node(name, Op::Add, &[base, up]).map(|sum| Action::Replace(vec![sum]))
    }

    /// The inputs A `[k, r]` and B `[r, n]` of a weight `[k, n]`; each weight has its own rank.
    fn factors(&mut self, rw: &mut Rewriter, weight: ValueId) -> Result<[ValueId; 2]> {
        if let Some(built) = self.factors.get(&weight) {
            return Ok(*built);
        }
        let value = rw.old().value(weight);
        let [k, n] = <[usize; 2]>::try_from(value.ty.fixed_shape().unwrap_or_default())
            .map_err(|_| Error::bug(format!("`{}` is no matrix of known sizes", value.name)))?;
        let [a, b] = factor_names(&value.name);
        let rank = Dim::from(format!("{}.rank", module(&value.name)).as_str());
        let empty = |shape: [usize; 2]| Weight::literal(DType::F32, shape.to_vec(), Vec::new());
        let a = rw.optional_input(&a, TensorType::new(DType::F32, [Dim::Fixed(k), rank.clone()]), empty([k, 0])?);
        let b = rw.optional_input(&b, TensorType::new(DType::F32, [rank, Dim::Fixed(n)]), empty([0, n])?);
        self.factors.insert(weight, [a, b]);
        Ok([a, b])
    }
}

/// The names of the inputs that change a weight.
pub fn factor_names(weight: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("{}.{factor}", module(weight)))
}

fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

#[cfg(test)]
mod tests {
    use super::{AdapterInputs, Whole};
    use crate::ir::text::parse;
    use crate::ir::{DType, Weight};
    use crate::passes::tests::run;
    use crate::passes::{FuseQkv, Pass, QuantizeDynamic};

    const BEFORE: &str = r#"graph "g" {
  input %x: f32[b, s, 4]
  weight %q.weight: f32[4, 4] = transpose(source "q.weight" f32[4, 4])
  weight %q.bias: f32[4] = source "q.bias"
  %q: f32[b, s, 4] = Linear(%x, %q.weight, %q.bias) @query/3
  weight %k.weight: f32[4, 4] = transpose(source "k.weight" f32[4, 4])
  weight %k.bias: f32[4] = source "k.bias"
  %k: f32[b, s, 4] = Linear(%x, %k.weight, %k.bias) @key/3
  %y: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%q, %k, %k) @attention/3
  weight %head.weight: f32[4, 2] = transpose(source "head.weight" f32[2, 4])
  %logits: f32[b, s, 2] = Linear(%y, %head.weight) @head
  output %logits
}
"#;

    fn query() -> AdapterInputs {
        AdapterInputs { low_rank: ["q.weight".to_owned()].into(), ..AdapterInputs::default() }
    }

    #[test]
    fn a_change_and_a_head_become_inputs() {
        let whole = Whole { default: None, open: Some((1, "num_labels")) };
        let pass = AdapterInputs { whole: [("head.weight".to_owned(), whole)].into(), ..query() };
        assert_eq!(
            run(&pass, BEFORE).0,
            r#"graph "g" {
  input %x: f32[b, s, 4]
  input %q.lora_A: f32[4, q.rank] = literal x"" f32[4, 0]
  input %q.lora_B: f32[q.rank, 4] = literal x"" f32[0, 4]
  input %head.weight: f32[4, num_labels] = transpose(source "head.weight" f32[2, 4])
  weight %q.weight: f32[4, 4] = transpose(source "q.weight" f32[4, 4])
  weight %q.bias: f32[4] = source "q.bias"
  %q.base: f32[b, s, 4] = Linear(%x, %q.weight, %q.bias) @query/3
  %q.down: f32[b, s, q.rank] = Linear(%x, %q.lora_A) @adapter-down/3
  %q.up: f32[b, s, 4] = Linear(%q.down, %q.lora_B) @adapter-up/3
  %q: f32[b, s, 4] = Add(%q.base, %q.up) @adapter/3
  weight %k.weight: f32[4, 4] = transpose(source "k.weight" f32[4, 4])
  weight %k.bias: f32[4] = source "k.bias"
  %k: f32[b, s, 4] = Linear(%x, %k.weight, %k.bias) @key/3
  %y: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%q, %k, %k) @attention/3
  %logits: f32[b, s, num_labels] = Linear(%y, %head.weight) @head
  output %logits
}
"#
        );
    }

    #[test]
    fn eight_bits_are_for_the_base_only() {
        let (changed, _) = run(&query(), BEFORE);
        let (after, left) = run(&QuantizeDynamic::default(), &changed);
        assert!(after.contains("%q.base: f32[b, s, 4] = DynamicQuantLinear(%x, "), "{after}");
        assert!(after.contains("%q.down: f32[b, s, q.rank] = Linear(%x, %q.lora_A)"), "{after}");
        assert!(left.contains(&"q.up: adapters keep full precision".to_owned()), "{left:?}");
    }

    #[test]
    fn tensors_that_cannot_be_inputs_are_named() {
        let said = |text: &str| {
            let graph = parse(text).unwrap();
            query().run(&graph).unwrap_err().message().to_owned()
        };
        let change = "the change of `q.weight` cannot be an input: ";
        assert_eq!(
            said(&BEFORE.replace("q.weight:", "p.weight:").replace("%q.weight,", "%p.weight,")),
            format!("{change}the graph has no such constant")
        );
        let tied = BEFORE.replace("source \"head.weight\" f32[2, 4]", "source \"q.weight\" f32[2, 4]");
        assert_eq!(said(&tied), format!("{change}`head.weight` is tied to it"));
        let read =
            BEFORE.replace("%y: f32[b, s, 4] =", "%t: f32[4, 4] = Tanh(%q.weight)\noutput %t\n%y: f32[b, s, 4] =");
        assert_eq!(said(&read), format!("{change}it is read by `t`, which is no linear layer"));
    }

    #[test]
    fn defaults_may_be_others_than_the_constant() {
        let empty = Weight::literal(DType::F32, vec![4, 0], Vec::new()).unwrap();
        let whole = Whole { default: Some(empty), open: Some((1, "num_labels")) };
        let pass = AdapterInputs { whole: [("head.weight".to_owned(), whole)].into(), ..AdapterInputs::default() };
        let (after, _) = run(&pass, BEFORE);
        assert!(after.contains("input %head.weight: f32[4, num_labels] = literal x\"\" f32[4, 0]\n"), "{after}");
        assert!(run(&FuseQkv, &after).0.contains("input %head.weight: f32[4, num_labels] = literal x\"\" f32[4, 0]\n"));
    }
}
