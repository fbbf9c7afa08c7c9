//! Bottleneck adapters in the graph, where their tensors are beside those of a layer.

use super::blocks::{Activation, Blocks, Ending};
use super::hypercomplex;
use crate::error::{Error, Result, printable};
use crate::front::hub::adapter::hub::{Bottleneck, Residual, Scaling};
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::{Part, Role, ValueId};

/// The default epsilon of PyTorch's norms, which adapters' own norms have.
const EPSILON: f32 = 1e-5;

impl Blocks {
    /// Residual, norm and adapters after `y`, which attention or feed-forward made of `x`.
    pub(super) fn end(&mut self, end: &Ending, y: ValueId, x: ValueId) -> Result<ValueId> {
        let Some(scope) = end.adapters else { return self.residual_and_norm(end, y, x) };
        let standing = self.adapters().iter().filter(|adapter| adapter.stands(end.place, end.number));
        let standing: Vec<Bottleneck> = standing.cloned().collect();
        let mut h = y;
        for adapter in &standing {
            h = self.bottleneck(end, adapter, &scope.sub(&adapter.name), h, x)?;
        }
        match standing.last() {
            None => self.residual_and_norm(end, h, x),
            Some(last) => {
                if last.parallel {
                    h = self.add(&scope.sub(&last.name).full("parallel"), h, y)?;
                }
                if last.norm_after { self.residual_and_norm(end, h, x) } else { Ok(h) }
            }
        }
    }

    fn residual_and_norm(&mut self, end: &Ending, y: ValueId, x: ValueId) -> Result<ValueId> {
        self.role(Role::layer(end.part, end.layer));
        self.add_and_norm(end.norm, end.sizes, y, x)
    }

    /// One adapter after `y`, in the half of a layer that began with `x`.
    fn bottleneck(&mut self, end: &Ending, a: &Bottleneck, p: &Scope, y: ValueId, x: ValueId) -> Result<ValueId> {
        let (input, residual) = match a.parallel {
            true => (x, None),
            false => {
                let (input, residual) = self.before(end, a, y, x)?;
                (input, Some(residual))
            }
        };
        let hidden = end.sizes.hidden;
        let mut out = self.down_and_up(end, a, p, input)?;
        self.role(Role::layer(Part::Adapter, end.layer));
        out = self.scaled(a, p, hidden, out)?;
        if a.gated {
            out = self.gate(&p.sub("gate"), hidden, input, out)?;
        }
        let residuals = match residual {
            Some(residual) if a.residual_in_norm => [Some(residual), None],
            other => [None, other],
        };
        if let Some(residual) = residuals[0] {
            out = self.add(&p.full("residual"), out, residual)?;
        }
        if a.own_norm_after {
            out = self.layer_norm(&p.sub("adapter_norm_after"), hidden, EPSILON, out)?;
        }
        match residuals[1] {
            Some(residual) => self.add(&p.full("residual"), out, residual),
            None => Ok(out),
        }
    }

    /// The input of a sequential adapter, and its residual.
    fn before(&mut self, end: &Ending, a: &Bottleneck, y: ValueId, x: ValueId) -> Result<(ValueId, ValueId)> {
        if !a.norm_before {
            return Ok((y, y));
        }
        self.role(Role::layer(end.part, end.layer));
        let sum = self.add(&end.norm.full("residual"), y, x)?;
        let normed = self.layer_norm(end.norm, end.sizes.hidden, end.sizes.epsilon, sum)?;
        let residual = match a.residual {
            Residual::BeforeSum => y,
            Residual::AfterSum => sum,
            Residual::AfterNorm => normed,
        };
        Ok((normed, residual))
    }

    /// Norm, projection down, non-linearity, projection up.
    fn down_and_up(&mut self, end: &Ending, a: &Bottleneck, p: &Scope, x: ValueId) -> Result<ValueId> {
        let hidden = end.sizes.hidden;
        let inner = a.inner(end.number, hidden.n)?;
        let inner = Size { n: inner, field: "adapter_config.json: config.reduction_factor" };
        let down = p.item("adapter_down", usize::from(a.own_norm_before));
        let mut x = x;
        if a.own_norm_before {
            self.role(Role::layer(Part::Adapter, end.layer));
            x = self.layer_norm(&p.item("adapter_down", 0), hidden, EPSILON, x)?;
        }
        self.role(Role::layer(Part::AdapterDown, end.layer));
        x = self.projection(a, &down, "down", hidden, inner, x)?;
        self.role(Role::layer(Part::Adapter, end.layer));
        x = self.non_linearity(&down.full("activation"), &a.non_linearity, x)?;
        self.role(Role::layer(Part::AdapterUp, end.layer));
        self.projection(a, &p.sub("adapter_up"), "up", inner, hidden, x)
    }

    fn projection(
        &mut self,
        a: &Bottleneck,
        p: &Scope,
        way: &str,
        from: Size,
        to: Size,
        x: ValueId,
    ) -> Result<ValueId> {
        match &a.hypercomplex {
            None => self.linear(p, from, to, x),
            Some(rule) => {
                let weight = hypercomplex::weight(rule, p, &p.elsewhere(&a.shared), way, from, to)?;
                let bias = if p.has("b") { Some(self.weight(p, "b", &[to])?) } else { None };
                self.project(p, &weight, bias, x)
            }
        }
    }

    fn scaled(&mut self, a: &Bottleneck, p: &Scope, hidden: Size, x: ValueId) -> Result<ValueId> {
        let factor = match a.scaling {
            Scaling::Constant(1.0) => return Ok(x),
            Scaling::Constant(factor) => self.number(&p.full("scaling"), factor)?,
            Scaling::Learned => {
                self.weight(p, "scaling", &[Size { n: 1, field: "adapter_config.json: config.scaling" }])?
            }
            Scaling::Channel => self.weight(p, "scaling", &[hidden])?,
        };
        self.mul(&p.full("scaled"), x, factor)
    }

    /// `y · mean(σ(w · x + b))`, the mean over all tokens, padding too: so it was trained.
    fn gate(&mut self, p: &Scope, hidden: Size, x: ValueId, y: ValueId) -> Result<ValueId> {
        let logit = self.linear(p, hidden, Size { n: 1, field: "adapter_config.json: config.use_gating" }, x)?;
        let open = self.activation(&p.full("open"), Activation::Sigmoid, logit)?;
        let mean = self.mean_over_tokens(&p.full("mean"), open)?;
        self.mul(&p.full("gated"), y, mean)
    }

    /// The first adapter's invertible part over the embeddings, `width` wide (NICE, arXiv 1410.8516).
    pub(super) fn invertible(&mut self, p: &Scope, width: Size, x: ValueId) -> Result<ValueId> {
        let Some(block) = self.invertible_block(p, width) else { return Ok(x) };
        let [first, second] = self.halves(&block, x)?;
        let change = self.coupled(&block, "F", second)?;
        let first = self.add(&block.p.full("first"), first, change)?;
        let change = self.coupled(&block, "G", first)?;
        let second = self.add(&block.p.full("second"), second, change)?;
        self.concat(block.p.path(), &[first, second])
    }

    /// The inverse of [`Blocks::invertible`], before the projection to the vocabulary.
    pub(super) fn inverse(&mut self, p: &Scope, width: Size, x: ValueId) -> Result<ValueId> {
        let Some(block) = self.invertible_block(p, width) else { return Ok(x) };
        let [first, second] = self.halves(&block, x)?;
        let change = self.coupled(&block, "G", first)?;
        let second = self.sub(&block.p.full("second"), second, change)?;
        let change = self.coupled(&block, "F", second)?;
        let first = self.sub(&block.p.full("first"), first, change)?;
        self.concat(block.p.path(), &[first, second])
    }

    fn invertible_block<'a>(&self, p: &Scope<'a>, width: Size) -> Option<Coupling<'a>> {
        let adapter = self.adapters().first()?;
        let (path, _) = adapter.invertible.as_ref()?;
        let second = width.n - width.n / 2;
        Some(Coupling {
            p: p.elsewhere(path),
            widths: [width.n / 2, second],
            inner: [adapter.inner_invertible(second), adapter.inner_invertible(width.n / 2)],
            non_linearity: adapter.non_linearity.clone(),
        })
    }

    fn halves(&mut self, block: &Coupling, x: ValueId) -> Result<[ValueId; 2]> {
        self.role(Part::Adapter);
        let sizes = block.widths.map(|n| n as i64).to_vec();
        let pieces = self.pieces(&block.p.full("halves"), x, sizes)?;
        pieces.try_into().map_err(|_| Error::bug("a split in two has two pieces"))
    }

    /// The change of one half by the other: `F` reads the second, `G` the first.
    fn coupled(&mut self, block: &Coupling, which: &str, x: ValueId) -> Result<ValueId> {
        let [first, second] = block.widths;
        let (from, to, inner) =
            if which == "F" { (second, first, block.inner[0]) } else { (first, second, block.inner[1]) };
        let size = |n| Size { n, field: "hidden_size" };
        let p = block.p.sub(which);
        let x = self.linear(&p.sub("0"), size(from), size(inner), x)?;
        let x = self.non_linearity(&p.full("activation"), &block.non_linearity, x)?;
        self.linear(&p.sub("2"), size(inner), size(to), x)
    }

    /// The non-linearity of an adapter or of a flexible head, by its name.
    pub(super) fn non_linearity(&mut self, name: &str, function: &str, x: ValueId) -> Result<ValueId> {
        match Activation::named(function) {
            _ if function == "linear" => Ok(x),
            Some(activation) => self.activation(name, activation, x),
            None => Err(Error::unsupported(format!("the non-linearity `{}` is not supported", printable(function)))
                .at("adapter_config.json: config.non_linearity, or head_config.json: config.activation_function")),
        }
    }
}

/// An invertible block of two halves.
struct Coupling<'a> {
    p: Scope<'a>,
    widths: [usize; 2],
    inner: [usize; 2],
    non_linearity: String,
}
