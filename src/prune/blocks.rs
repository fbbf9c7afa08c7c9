//! The blocks of a graph whose heads or neurons can go.

use crate::ir::{Graph, Part, Role, Weight};
use crate::passes::Prunable;

/// A block, by the layer that reads its channels.
#[derive(Clone, Debug)]
pub struct Block {
    /// The role by which it is called.
    pub role: Role,
    /// How many heads or neurons it has.
    pub units: usize,
    /// Channels of each.
    pub unit: usize,
    /// So many go at once: neurons in groups that kernels work on, heads one by one.
    pub grain: usize,
    /// `[units · unit, n]`: the weight of its reader.
    pub weight: Weight,
    /// `[n]`
    pub bias: Option<Weight>,
}

impl Block {
    /// Whether its units are heads.
    pub fn has_heads(&self) -> bool {
        self.role.part == Part::AttentionOutput
    }

    /// Its name in reports, e.g. `attention/3`.
    pub fn name(&self) -> String {
        let what = if self.has_heads() { "attention" } else { "ffn" };
        self.role.layer.map_or(what.to_owned(), |layer| format!("{what}/{layer}"))
    }

    /// Multiply-adds for a token that every unit takes: query, key, value and output for each
    /// channel of a head, in and out for a neuron.
    pub fn products_of_unit(&self) -> f64 {
        let hidden = self.weight.shape().get(1).copied().unwrap_or(0);
        (self.unit * hidden * if self.has_heads() { 4 } else { 2 }) as f64
    }

    /// The channels of some units.
    pub fn channels(&self, units: &[usize]) -> Vec<usize> {
        units.iter().flat_map(|u| u * self.unit..(u + 1) * self.unit).collect()
    }
}

/// The blocks in the order in which they run, and those that cannot be cut with the reason.
pub fn find(graph: &Graph) -> (Vec<Block>, Vec<String>) {
    let (mut blocks, mut left) = (Vec::<Block>::new(), Vec::new());
    for (_, node) in graph.nodes() {
        let prunable = match Prunable::of(graph, node) {
            None => continue,
            Some(Err(why)) => {
                left.push(format!("{}: {why}", graph.node_name(node)));
                continue;
            }
            Some(Ok(prunable)) => prunable,
        };
        let constant = |i: usize| node.operand(i).and_then(|id| graph.weight(id)).cloned();
        let Some(weight) = constant(1) else { continue };
        if blocks.iter().any(|block| block.role == prunable.role) {
            left.push(format!("{}: another layer has its role", graph.node_name(node)));
            continue;
        }
        blocks.push(Block {
            role: prunable.role,
            units: prunable.units,
            unit: prunable.unit,
            grain: grain(prunable.units, prunable.unit),
            weight,
            bias: constant(2),
        });
    }
    (blocks, left)
}

/// Neurons are removed in about fifty steps a block, in multiples of any machine's vector width.
fn grain(units: usize, unit: usize) -> usize {
    match units / 48 {
        _ if unit > 1 => 1,
        0 => 1,
        n if n < 16 => n,
        n => n / 16 * 16,
    }
}

#[cfg(test)]
mod tests {
    use super::grain;

    #[test]
    fn neurons_are_removed_in_groups_and_heads_alone() {
        assert_eq!([grain(12, 32), grain(8, 1), grain(96, 1), grain(1536, 1), grain(3072, 1)], [1, 1, 2, 32, 64]);
    }
}
