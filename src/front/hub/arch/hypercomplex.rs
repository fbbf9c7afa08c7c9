//! The projections of hypercomplex adapters (arXiv 2106.04647): `H = Σᵢ ruleᵢ ⊗ Wᵢ`.
//!
//! The sum is a lazy weight like any other, so the node is a linear layer.

use crate::error::{Error, Result};
use crate::front::hub::adapter::hub::Hypercomplex;
use crate::front::hub::checkpoint::{Scope, Size};
use crate::ir::Weight;

const TERMS: &str = "adapter_config.json: config.phm_dim";
const RANK: &str = "adapter_config.json: config.phm_rank";

/// Most elements of one projection: the factors of a larger one can be small, and would need any amount of memory.
const LARGEST: usize = 1 << 26;

/// The weight `[to, from]` of the projection `p`, of which all layers may share parts below `shared`.
pub(super) fn weight(h: &Hypercomplex, p: &Scope, shared: &Scope, way: &str, from: Size, to: Size) -> Result<Weight> {
    if !from.n.is_multiple_of(h.terms) || !to.n.is_multiple_of(h.terms) {
        return Err(Error::bad_input(format!("{} does not divide {} and {}", h.terms, from.n, to.n)).at(TERMS));
    }
    if from.n.checked_mul(to.n).is_none_or(|n| n > LARGEST) {
        return Err(Error::unsupported(format!("a product of {} × {} numbers is too large", from.n, to.n)).at(TERMS));
    }
    let terms = Size { n: h.terms, field: TERMS };
    let part = |size: Size| Size { n: size.n / h.terms, ..size };
    let rule = Factors { in_two: h.rule_in_two, rank: Size { n: 1, field: TERMS } };
    let rule = rule.read(if h.rule_shared { shared } else { p }, "phm_rule", [terms; 3])?;
    let weights = Factors { in_two: h.weights_in_two, rank: Size { n: h.rank, field: RANK } };
    let weights = match h.weights_shared {
        true => weights.read(shared, &format!("W_{way}"), [terms, part(from), part(to)])?,
        false => weights.read(p, "W", [terms, part(from), part(to)])?,
    };
    let terms = (0..h.terms).map(|i| Ok((1.0, rule.term(i)?.kron(&weights.term(i)?)?)));
    Weight::sum(terms.collect::<Result<_>>()?)?.transpose()
}

/// How a stack of matrices is stored: as one tensor, or as two of which it is the product.
struct Factors {
    in_two: bool,
    rank: Size,
}

impl Factors {
    fn read(&self, p: &Scope, name: &str, shape: [Size; 3]) -> Result<Stack> {
        let [terms, rows, columns] = shape;
        if !self.in_two {
            return Ok(Stack { first: matrices(p, name, shape)?, second: None });
        }
        let first = matrices(p, &format!("{name}_left"), [terms, rows, self.rank])?;
        let second = matrices(p, &format!("{name}_right"), [terms, self.rank, columns])?;
        Ok(Stack { first, second: Some(second) })
    }
}

/// Matrices under each other, and the factor of each.
struct Stack {
    first: (Weight, usize),
    second: Option<(Weight, usize)>,
}

impl Stack {
    fn term(&self, i: usize) -> Result<Weight> {
        let one = |(all, rows): &(Weight, usize)| all.slice(0, i * rows..(i + 1) * rows);
        let first = one(&self.first)?;
        match &self.second {
            None => Ok(first),
            Some(second) => first.product(&one(second)?),
        }
    }
}

/// A tensor `[terms, rows, columns]` as one matrix, and the number of rows of each term.
fn matrices(p: &Scope, name: &str, shape: [Size; 3]) -> Result<(Weight, usize)> {
    let [terms, rows, columns] = shape;
    let all = p.tensor(name, &shape)?.reshape(vec![terms.n * rows.n, columns.n])?;
    Ok((all, rows.n))
}
