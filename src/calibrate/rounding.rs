//! Rounds a weight to 8 bits so that the layer's outputs change least.
//!
//! The nearest integer is best for each weight alone, not for their sum: the error of one input channel can be made
//! good by the rounding of those that go with it. With `H` the second moments of the inputs, the error of a column `e`
//! is `eᵀ H e`. Channel after channel is rounded, and its error is carried over to the channels that are still to come,
//! by the rows of `L` in `H = L Lᵀ`: GPTQ (arXiv 2210.17323) in the form of Babai's nearest plane (arXiv 2507.18553).

use ndarray::{Array2, ArrayView2, Axis, linalg::general_mat_mul, s};

use crate::ir::weight::Int8Range;

/// Channels that are rounded between two matrix products.
const BLOCK: usize = 64;

/// A matrix `[k, n]` in 8 bits, with a scale for each column.
pub struct Rounded {
    /// `[k, n]`, in the requested range.
    pub values: Vec<i8>,
    /// `[n]`
    pub scales: Vec<f32>,
}

/// Rounds `weight [k, n]` for inputs with the second moments `moments [k, k]`, to each of which rounding the inputs
/// adds noise of the mean square `noise`.
pub fn round(weight: ArrayView2<f32>, moments: &Array2<f32>, noise: f32, range: Int8Range) -> Rounded {
    let (k, n) = weight.dim();
    let scales: Vec<f32> = weight
        .axis_iter(Axis(1))
        .map(|column| column.iter().fold(0.0f32, |most, w| most.max(w.abs())))
        .map(|most| range.step(most))
        .collect();
    // The channels at the end are rounded first: the channels with the most to lose.
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|a, b| moments[[*a, *a]].total_cmp(&moments[[*b, *b]]).then(a.cmp(b)));
    let lower = factor(moments, &order, noise);
    let mut values = vec![0i8; k * n];
    let mut errors = Array2::<f32>::zeros((k, n));
    let mut end = k;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        // The error that the channels that were rounded before pass on to these.
        let mut owed = Array2::<f32>::zeros((end - start, n));
        if end < k {
            let (later, carried) = (errors.slice(s![end.., ..]), lower.slice(s![end.., start..end]));
            general_mat_mul(1.0, &carried.t(), &later, 0.0, &mut owed);
        }
        for j in (start..end).rev() {
            let channel = order[j];
            let diagonal = lower[[j, j]];
            let row = weight.row(channel);
            let mut missed = vec![0.0f32; n];
            for (((w, debt), scale), (value, miss)) in row
                .iter()
                .zip(owed.row(j - start))
                .zip(&scales)
                .zip(values[channel * n..(channel + 1) * n].iter_mut().zip(&mut missed))
            {
                // A zero was made on purpose, and kernels may skip it.
                let wanted = if *w == 0.0 { 0.0 } else { w - debt / diagonal };
                let rounded = (wanted / scale).round().clamp(-range.largest(), range.largest());
                *value = rounded as i8;
                *miss = rounded * scale - w;
            }
            for earlier in start..j {
                let share = lower[[j, earlier]];
                owed.row_mut(earlier - start).iter_mut().zip(&missed).for_each(|(debt, miss)| *debt += share * miss);
            }
            errors.row_mut(j).iter_mut().zip(missed).for_each(|(error, miss)| *error = miss);
        }
        end = start;
    }
    Rounded { values, scales }
}

/// The lower factor of the moments in that order. The noise and a little of the mean keep it positive.
fn factor(moments: &Array2<f32>, order: &[usize], noise: f32) -> Array2<f32> {
    let k = order.len();
    let mean = moments.diag().sum() / k.max(1) as f32;
    let mut damping = noise + 1e-3 * mean + f32::MIN_POSITIVE;
    loop {
        let mut matrix = Array2::from_shape_fn((k, k), |(i, j)| moments[[order[i], order[j]]]);
        matrix.diag_mut().iter_mut().for_each(|d| *d += damping);
        if cholesky(&mut matrix) {
            return matrix;
        }
        damping = damping * 10.0 + f32::MIN_POSITIVE;
        if !damping.is_finite() {
            return Array2::eye(k);
        }
    }
}

/// Replaces a symmetric matrix by its lower factor; the part above the diagonal is left. False where it has none.
pub(super) fn cholesky(matrix: &mut Array2<f32>) -> bool {
    let n = matrix.nrows();
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        for j in start..end {
            let taken: f32 = matrix.slice(s![j, start..j]).iter().map(|x| x * x).sum();
            let pivot = matrix[[j, j]] - taken;
            if pivot.is_nan() || pivot <= 0.0 {
                return false;
            }
            let root = pivot.sqrt();
            matrix[[j, j]] = root;
            for i in j + 1..n {
                let dot: f32 =
                    matrix.slice(s![i, start..j]).iter().zip(matrix.slice(s![j, start..j])).map(|(a, b)| a * b).sum();
                matrix[[i, j]] = (matrix[[i, j]] - dot) / root;
            }
        }
        let panel = matrix.slice(s![end.., start..end]).to_owned();
        general_mat_mul(-1.0, &panel, &panel.t(), 1.0, &mut matrix.slice_mut(s![end.., end..]));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random numbers, the same every time.
    fn noise(count: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn the_factor_multiplies_back() {
        let x = Array2::from_shape_vec((300, 150), noise(300 * 150)).unwrap();
        let h = x.t().dot(&x);
        let mut lower = h.clone();
        assert!(cholesky(&mut lower));
        for i in 0..150 {
            for j in i + 1..150 {
                lower[[i, j]] = 0.0;
            }
        }
        let back = lower.dot(&lower.t());
        assert!(back.iter().zip(&h).all(|(a, b)| (a - b).abs() < 1e-2), "{back:?}");
        assert!(!cholesky(&mut Array2::from_shape_vec((2, 2), vec![1.0, 2.0, 2.0, 1.0]).unwrap()));
    }

    #[test]
    fn correlated_channels_compensate_each_other() {
        // Both channels always have the same value: only the sum of their weights counts.
        let weight = Array2::from_shape_vec((3, 1), vec![127.0, 0.4, 0.4]).unwrap();
        let moments = Array2::from_shape_vec((3, 3), vec![1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]).unwrap();
        let rounded = round(weight.view(), &moments, 0.0, Int8Range::Full);
        assert_eq!(rounded.scales, [1.0]);
        assert_eq!(rounded.values[0], 127);
        assert_eq!(rounded.values[1] + rounded.values[2], 1);
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut values = noise(64 * 8);
        values.iter_mut().step_by(2).for_each(|w| *w = 0.0);
        let weight = Array2::from_shape_vec((64, 8), values).unwrap();
        let x = Array2::from_shape_vec((200, 64), noise(200 * 64)).unwrap();
        let rounded = round(weight.view(), &x.t().dot(&x), 0.0, Int8Range::Full);
        assert!(weight.iter().zip(&rounded.values).all(|(w, value)| *w != 0.0 || *value == 0));
        assert!(rounded.values.iter().any(|value| *value != 0));
    }

    #[test]
    fn outputs_change_less_than_by_the_nearest_integers() {
        let (tokens, k, n) = (400, 96, 20);
        let mixing = Array2::from_shape_vec((k, k), noise(k * k)).unwrap();
        let x = Array2::from_shape_vec((tokens, k), noise(tokens * k)).unwrap().dot(&mixing);
        let weight = Array2::from_shape_vec((k, n), noise(k * n)).unwrap();
        let moments = x.t().dot(&x) / tokens as f32;
        let error = |rounded: &Rounded| {
            let values = Array2::from_shape_fn((k, n), |(i, j)| {
                f32::from(rounded.values[i * n + j]) * rounded.scales[j] - weight[[i, j]]
            });
            x.dot(&values).iter().map(|e| e * e).sum::<f32>()
        };
        let with = error(&round(weight.view(), &moments, 0.0, Int8Range::Full));
        let without = error(&round(weight.view(), &Array2::eye(k), 0.0, Int8Range::Full));
        assert!(with < 0.5 * without, "{with} is not below half of {without}");
    }
}
