//! Rankings of units, each by itself.

use super::Importance;
use super::blocks::Block;
use super::eliminate::Order;
use super::normal::Problem;
use crate::error::Result;

/// The units by their own importance, the least first. A loss is the sum of the importance of the removed units.
pub fn ranked(importance: Importance, block: &Block, problem: &Problem) -> Result<Order> {
    let weight = block.weight.to_f32s()?;
    let n = block.weight.shape().get(1).copied().unwrap_or(1).max(1);
    let square = |c: usize| {
        let row = weight.get(c * n..(c + 1) * n).unwrap_or_default();
        row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
    };
    let of_channel = |c: usize| match importance {
        Importance::Magnitude => square(c),
        // ‖x‖ · ‖w‖ of a channel: its share of the outputs (Wanda, arXiv 2306.11695).
        _ => square(c) * problem.variance(c),
    };
    let of_unit = |u: usize| block.channels(&[u]).into_iter().map(of_channel).sum::<f64>() / n as f64;
    let mut units: Vec<(f64, usize)> = (0..block.units).map(|u| (of_unit(u), u)).collect();
    units.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut losses = vec![0.0];
    for (own, _) in &units {
        losses.push(losses.last().copied().unwrap_or_default() + own);
    }
    Ok(Order { units: units.into_iter().map(|(_, u)| u).collect(), losses })
}
