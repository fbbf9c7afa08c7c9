//! How much goes where: the share that is to go of all blocks, taken where it is missed least.

/// A block's loss as more and more of it is removed.
pub struct Curve {
    /// How many steps the block can be cut by.
    pub steps: usize,
    /// The saving of a step, in the unit of the budget.
    pub gain: f64,
    /// Loss after so many steps; the first is for none.
    pub losses: Vec<f64>,
}

/// Steps of every block that together save `budget`, by the lower convex hull of each curve: always the step that costs
/// least for its saving. Everything, where the budget is larger.
pub fn allocate(curves: &[Curve], budget: f64) -> Vec<usize> {
    let slopes: Vec<Vec<f64>> = curves.iter().map(hull_slopes).collect();
    let mut counts = vec![0; curves.len()];
    let mut saved = 0.0;
    loop {
        let next = |i: usize| slopes.get(i).and_then(|slopes| slopes.get(*counts.get(i)?)).copied();
        let cheapest = (0..curves.len()).filter_map(|i| Some((next(i)?, i))).min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, i)) = cheapest.filter(|_| saved < budget * (1.0 - 1e-9)) else { return counts };
        if let (Some(count), Some(curve)) = (counts.get_mut(i), curves.get(i)) {
            *count += 1;
            saved += curve.gain;
        }
    }
}

/// For every step its cost for its saving, on the lower convex hull of the curve, where they never fall.
fn hull_slopes(curve: &Curve) -> Vec<f64> {
    let points: Vec<f64> = curve.losses.iter().take(curve.steps + 1).copied().collect();
    let mut hull: Vec<usize> = Vec::new();
    let slope = |a: usize, b: usize| {
        let at = |i: usize| points.get(i).copied().unwrap_or(f64::INFINITY);
        (at(b) - at(a)) / (b - a) as f64
    };
    for i in 0..points.len() {
        while let [.., before, last] = hull.as_slice() {
            if slope(*before, *last) < slope(*last, i) {
                break;
            }
            hull.pop();
        }
        hull.push(i);
    }
    let edges = hull.windows(2).filter_map(|edge| Some((*edge.first()?, *edge.last()?)));
    edges.flat_map(|(a, b)| vec![slope(a, b) / curve.gain; b - a]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(losses: &[f64]) -> Curve {
        Curve { steps: losses.len() - 1, gain: 1.0, losses: losses.to_vec() }
    }

    #[test]
    fn steps_are_taken_where_they_cost_least() {
        let curves = [curve(&[0.0, 1.0, 4.0, 9.0]), curve(&[0.0, 0.1, 0.3, 5.0])];
        assert_eq!(allocate(&curves, 1.0), [0, 1]);
        assert_eq!(allocate(&curves, 2.0), [0, 2]);
        assert_eq!(allocate(&curves, 3.0), [1, 2]);
        assert_eq!(allocate(&curves, 99.0), [3, 3]);
        assert_eq!(allocate(&curves, 0.0), [0, 0]);
    }

    #[test]
    fn the_saving_of_a_step_counts() {
        let curves = [Curve { gain: 4.0, ..curve(&[0.0, 1.0]) }, curve(&[0.0, 0.5, 1.0])];
        assert_eq!(allocate(&curves, 4.0), [1, 0]);
    }

    #[test]
    fn a_dear_step_before_cheap_ones_counts_as_a_whole() {
        let curves = [curve(&[0.0, 3.0, 3.1, 3.2]), curve(&[0.0, 1.5, 3.0, 4.5])];
        assert_eq!(allocate(&curves, 1.0), [1, 0]);
    }
}
