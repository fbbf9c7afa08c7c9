//! The nearest matrix of a rank, in factors.
//!
//! A pivoted QR decomposition finds the rank that the matrix really has, which for a sum of low-rank changes is small;
//! one-sided Jacobi rotations then find the singular vectors within it (Drmač and Veselić, SIAM J. Matrix Anal. 29:4).

/// Columns whose rest is shorter than this, against the longest column there was, count as spanned: the rounding of
/// 32-bit products leaves about a tenth of it.
const SPANNED: f64 = 2e-6;

/// Cosine below which two columns count as orthogonal.
const ORTHOGONAL: f64 = 1e-12;

/// Sweeps over all pairs of columns; after a pivoted decomposition a few suffice.
const SWEEPS: usize = 30;

/// Two factors whose product is the matrix.
#[derive(Debug)]
pub struct Factors {
    /// `[n, rank]`, row after row.
    pub(super) left: Vec<f32>,
    /// `[rank, k]`, row after row.
    pub(super) right: Vec<f32>,
    /// The rank: the requested one, or less where the matrix has less.
    pub(super) rank: usize,
}

/// The factors of the nearest matrix of at most `rank` to `values`, `[n, k]` row after row.
pub(super) fn nearest(values: &[f32], [n, k]: [usize; 2], rank: usize) -> Factors {
    let rows = |values: &[f32]| values.chunks(k.max(1)).map(widened).collect();
    // The columns of the matrix, or of its transpose where that has fewer.
    let wide = k > n;
    let columns: Vec<Vec<f64>> = if wide { rows(values) } else { transposed(&rows(values), k) };
    let count = columns.len();
    let (basis, mut rest) = decompose(columns);
    let mut turned: Vec<Vec<f64>> = (0..basis.len()).map(|i| unit(i, basis.len())).collect();
    orthogonalize(&mut rest, &mut turned);
    let mut order: Vec<(f64, usize)> = rest.iter().map(|w| dot(w, w)).zip(0..).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    order.truncate(rank);
    // matrix = Σ (basis · turnedᵢ) · restᵢᵀ
    let height = basis.first().map_or(if wide { k } else { n }, Vec::len);
    let tall: Vec<Vec<f64>> =
        order.iter().filter_map(|(_, i)| turned.get(*i)).map(|v| combination(&basis, v, height)).collect();
    let flat: Vec<Vec<f64>> = order.iter().filter_map(|(_, i)| rest.get(*i)).cloned().collect();
    let (left, right) = if wide { (transposed(&flat, count), tall) } else { (transposed(&tall, height), flat) };
    Factors { left: narrowed(&left), right: narrowed(&right), rank: order.len() }
}

fn widened(row: &[f32]) -> Vec<f64> {
    row.iter().map(|value| f64::from(*value)).collect()
}

fn narrowed(rows: &[Vec<f64>]) -> Vec<f32> {
    rows.iter().flatten().map(|value| *value as f32).collect()
}

/// The columns of rows of length `width`.
fn transposed(rows: &[Vec<f64>], width: usize) -> Vec<Vec<f64>> {
    (0..width).map(|i| rows.iter().filter_map(|row| row.get(i)).copied().collect()).collect()
}

fn unit(i: usize, n: usize) -> Vec<f64> {
    (0..n).map(|j| f64::from(u8::from(i == j))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Eight sums at a time, because one sum after another would wait for each addition.
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f64>() + a1.iter().zip(b1).map(|(a, b)| a * b).sum::<f64>()
}

/// `y + c · x`
fn add(y: &mut [f64], c: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += c * x);
}

fn combination(basis: &[Vec<f64>], coefficients: &[f64], height: usize) -> Vec<f64> {
    let mut sum = vec![0.0; height];
    basis.iter().zip(coefficients).for_each(|(column, c)| add(&mut sum, *c, column));
    sum
}

/// An orthonormal basis of the columns, and for each of its vectors its products with all columns.
fn decompose(mut columns: Vec<Vec<f64>>) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let longest = columns.iter().map(|c| dot(c, c)).fold(0.0, f64::max);
    let (mut basis, mut products): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    while basis.len() < columns.len() {
        let lengths = columns.iter().map(|c| dot(c, c));
        let Some((length, pivot)) = lengths.zip(0..).max_by(|a: &(f64, usize), b| a.0.total_cmp(&b.0)) else { break };
        if length <= longest * SPANNED * SPANNED {
            break;
        }
        let mut q = columns.get(pivot).cloned().unwrap_or_default();
        for earlier in &basis {
            let along = dot(&q, earlier);
            add(&mut q, -along, earlier);
        }
        let length = dot(&q, &q).sqrt();
        if length == 0.0 {
            break;
        }
        q.iter_mut().for_each(|x| *x /= length);
        let product = columns.iter_mut().map(|column| {
            let along = dot(column, &q);
            add(column, -along, &q);
            along
        });
        products.push(product.collect());
        basis.push(q);
    }
    (basis, products)
}

/// Turns pairs of `columns` until all are orthogonal; `turned` gathers the rotations.
fn orthogonalize(columns: &mut [Vec<f64>], turned: &mut [Vec<f64>]) {
    for _ in 0..SWEEPS {
        let mut done = true;
        for j in 1..columns.len() {
            for i in 0..j {
                if let (Some(pair), Some(turns)) = (two(columns, i, j), two(turned, i, j)) {
                    done &= !rotate(pair, turns);
                }
            }
        }
        if done {
            return;
        }
    }
}

/// Elements `i < j`, both mutable.
fn two<T>(items: &mut [T], i: usize, j: usize) -> Option<(&mut T, &mut T)> {
    let (head, tail) = items.split_at_mut_checked(j)?;
    Some((head.get_mut(i)?, tail.first_mut()?))
}

type Pair<'a> = (&'a mut Vec<f64>, &'a mut Vec<f64>);

/// Makes two columns orthogonal. Returns whether they were not.
fn rotate((a, b): Pair, turns: Pair) -> bool {
    let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
    if ab.abs() <= ORTHOGONAL * (aa * bb).sqrt() || ab == 0.0 {
        return false;
    }
    let zeta = (bb - aa) / (2.0 * ab);
    let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let cosine = (1.0 + tangent * tangent).sqrt().recip();
    let sine = cosine * tangent;
    for (a, b) in [(a, b), turns] {
        for (x, y) in a.iter_mut().zip(b.iter_mut()) {
            (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(factors: &Factors, [n, k]: [usize; 2]) -> Vec<f32> {
        let entry = |r: usize, c: usize| {
            (0..factors.rank).map(|i| factors.left[r * factors.rank + i] * factors.right[i * k + c]).sum()
        };
        (0..n).flat_map(|r| (0..k).map(move |c| (r, c))).map(|(r, c)| entry(r, c)).collect()
    }

    /// A matrix with the singular values 8, 4, 2, 1, by two orthogonal matrices of Hadamard.
    fn known() -> [[f32; 4]; 4] {
        let h = |r: usize, c: usize| if (r & c).count_ones().is_multiple_of(2) { 0.5 } else { -0.5 };
        let entry = |r: usize, c: usize| (0..4).map(|i| h(r, i) * [2.0, 8.0, 1.0, 4.0][i] * h(i, (c + 1) % 4)).sum();
        std::array::from_fn(|r| std::array::from_fn(|c| entry(r, c)))
    }

    #[test]
    fn the_smallest_singular_values_are_left_out() {
        let matrix = known().concat();
        for (rank, left_out) in [(1, 21.0), (2, 5.0), (3, 1.0), (4, 0.0), (9, 0.0)] {
            let factors = nearest(&matrix, [4, 4], rank);
            assert_eq!(factors.rank, rank.min(4));
            let error: f32 = product(&factors, [4, 4]).iter().zip(&matrix).map(|(a, b)| (a - b).powi(2)).sum();
            assert!((error - left_out).abs() < 1e-4, "rank {rank}: {error}");
        }
    }

    #[test]
    fn a_matrix_of_low_rank_is_exact_in_any_shape() {
        for [n, k] in [[3, 7], [7, 3], [5, 5]] {
            let values: Vec<f32> = (0..n * k).map(|i| ((i / k) as f32 - 1.5) * ((i % k) as f32 + 0.5)).collect();
            let factors = nearest(&values, [n, k], 3);
            assert_eq!(factors.rank, 1);
            let again = product(&factors, [n, k]);
            assert!(again.iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-4), "{again:?}");
        }
        assert_eq!(nearest(&[0.0; 6], [2, 3], 2).rank, 0);
    }
}
