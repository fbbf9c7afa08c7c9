//! Operations that move elements and compute nothing: as ONNX defines them.

use ndarray::{Axis, IxDyn, Slice};

use super::array::{Array, Shared, broadcast, elements, for_each_type, misfit, shared, standard, stretched};
use crate::error::{Error, Result};

/// A dimension counted from the front, of a shape of that rank.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_front)
        .ok()
        .filter(|axis| *axis < rank)
        .ok_or_else(|| Error::bug(format!("dimension {axis} is outside rank {rank}")))
}

/// Slices of `data` along a dimension; a negative index counts from the end.
pub(super) fn gather(data: Array, indices: &[i64], shape: &[usize], along: i64) -> Result<Array> {
    let along = axis(along, data.shape().len())?;
    for_each_type!(data, data => gathered(&standard(data), indices, shape, along).map(Array::from))
}

fn gathered<T: Copy>(data: &Shared<T>, indices: &[i64], shape: &[usize], along: usize) -> Result<Shared<T>> {
    let (before, after) = data.shape().split_at(along);
    let (count, after) = after.split_first().ok_or_else(|| Error::bug("a scalar is indexed"))?;
    let inner: usize = after.iter().product();
    let out: Vec<usize> = before.iter().chain(shape).chain(after).copied().collect();
    let values = elements(data)?;
    let mut taken = Vec::with_capacity(out.iter().product());
    for outer in 0..before.iter().product() {
        for index in indices {
            let from = (outer * count + place(*index, *count)?) * inner;
            taken.extend_from_slice(values.get(from..from + inner).unwrap_or_default());
        }
    }
    shared(&out, taken)
}

/// An index counted from the front.
pub(super) fn place(index: i64, count: usize) -> Result<usize> {
    let from_front = if index < 0 { index.saturating_add(count as i64) } else { index };
    usize::try_from(from_front)
        .ok()
        .filter(|place| *place < count)
        .ok_or_else(|| Error::bad_input(format!("index {index} is outside the {count} rows of a table")))
}

/// The same elements in another shape: 0 keeps a size, −1 is the rest.
pub(super) fn reshape(x: Array, sizes: &[i64]) -> Result<Array> {
    let from = x.shape().to_vec();
    let count: usize = from.iter().product();
    let mut shape = Vec::with_capacity(sizes.len());
    let mut rest = None;
    for (i, size) in sizes.iter().enumerate() {
        shape.push(match size {
            0 => from.get(i).copied().unwrap_or(0),
            -1 => {
                rest = Some(i);
                1
            }
            size => usize::try_from(*size).map_err(|_| Error::bad_input(format!("{size} is no size")))?,
        });
    }
    let known: usize = shape.iter().product();
    if let Some(size) = rest.and_then(|i| shape.get_mut(i)) {
        *size = count.checked_div(known).unwrap_or(0);
    }
    for_each_type!(x, x => {
        let shaped = standard(x).into_shape_with_order(IxDyn(&shape)).map_err(|_| misfit(&from, &shape))?;
        Ok(shaped.into())
    })
}

/// The same elements repeated along dimensions of size 1, by the rule of NumPy.
pub(super) fn expand(x: Array, sizes: &[i64]) -> Result<Array> {
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
    let shape = broadcast(x.shape(), &sizes)?;
    for_each_type!(x, x => Ok(stretched(&x, &shape)?.to_owned().into_shared().into()))
}

/// The dimensions in another order.
pub(super) fn transpose(x: Array, perm: &[i64]) -> Result<Array> {
    let perm: Vec<usize> = perm.iter().map(|place| axis(*place, x.shape().len())).collect::<Result<_>>()?;
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..x.shape().len()) {
        return Err(Error::bug(format!("{perm:?} does not order the dimensions of {:?}", x.shape())));
    }
    for_each_type!(x, x => Ok(x.permuted_axes(IxDyn(&perm)).into()))
}

/// New dimensions of size 1 at `axes` of the result.
pub(super) fn unsqueeze(x: Array, axes: &[i64]) -> Result<Array> {
    let rank = x.shape().len() + axes.len();
    let mut axes: Vec<usize> = axes.iter().map(|place| axis(*place, rank)).collect::<Result<_>>()?;
    axes.sort_unstable();
    for_each_type!(x, x => Ok(axes.into_iter().fold(x, |x, place| x.insert_axis(Axis(place))).into()))
}

/// Arrays of one type side by side.
pub(super) fn concat(parts: &[Array], along: i64) -> Result<Array> {
    let first = parts.first().ok_or_else(|| Error::bug("nothing is joined"))?;
    let along = Axis(axis(along, first.shape().len())?);
    macro_rules! joined {
        ($($variant:ident),*) => {
            match first {
                $(Array::$variant(_) => {
                    let views: Vec<_> = parts
                        .iter()
                        .filter_map(|part| match part {
                            Array::$variant(part) => Some(part.view()),
                            _ => None,
                        })
                        .collect();
                    let joined = ndarray::concatenate(along, &views);
                    let joined = joined.ok().filter(|_| views.len() == parts.len());
                    Ok(Array::$variant(joined.ok_or_else(|| Error::bad_input("arrays do not follow each other"))?.into_shared()))
                })*
            }
        };
    }
    joined!(F32, I64, I32, U8, I8, Bool)
}

/// Consecutive pieces of those sizes.
pub(super) fn split(x: Array, along: i64, sizes: &[i64]) -> Result<Vec<Array>> {
    let mut start = 0;
    sizes
        .iter()
        .map(|size| {
            let piece = slice(x.clone(), along, start, start.saturating_add(*size));
            start = start.saturating_add(*size);
            piece
        })
        .collect()
}

/// The elements of a vector of integers with each update at its index.
pub(super) fn scatter(data: Array, indices: &[i64], updates: &Array, along: i64) -> Result<Array> {
    let (Array::I32(data), Array::I32(updates)) = (data, updates) else {
        return Err(Error::unsupported("the evaluator scatters i32 alone"));
    };
    if data.ndim() != 1 || axis(along, 1)? != 0 || updates.shape() != data.shape() || indices.len() != data.len() {
        return Err(misfit(data.shape(), updates.shape()));
    }
    let mut values: Vec<i32> = data.iter().copied().collect();
    for (index, update) in indices.iter().zip(updates) {
        let at = place(*index, values.len())?;
        if let Some(value) = values.get_mut(at) {
            *value = *update;
        }
    }
    Ok(Array::I32(shared(&[values.len()], values)?))
}

/// So many of the largest elements of the last dimension, or of the smallest, in their order and of equal ones the
/// first; and where they are.
pub(super) fn top_k(x: &Array, count: &[i64], largest: bool) -> Result<[Array; 2]> {
    let count = match count {
        &[count] => usize::try_from(count).unwrap_or(0),
        _ => return Err(Error::bug("a number of elements is one number")),
    };
    match x {
        Array::F32(x) => {
            let (shape, values, indices) =
                top_rows(x, count, |a, b| if largest { b.total_cmp(a) } else { a.total_cmp(b) })?;
            Ok([Array::F32(shared(&shape, values)?), Array::I64(shared(&shape, indices)?)])
        }
        Array::I32(x) => {
            let (shape, values, indices) = top_rows(x, count, |a, b| if largest { b.cmp(a) } else { a.cmp(b) })?;
            Ok([Array::I32(shared(&shape, values)?), Array::I64(shared(&shape, indices)?)])
        }
        _ => Err(Error::unsupported("the evaluator orders floats and i32 alone")),
    }
}

/// The shape, the elements and their indices.
type Ordered<T> = (Vec<usize>, Vec<T>, Vec<i64>);

fn top_rows<T: Copy>(x: &Shared<T>, count: usize, order: impl Fn(&T, &T) -> std::cmp::Ordering) -> Result<Ordered<T>> {
    let x = standard(x.clone());
    let mut shape = x.shape().to_vec();
    let width = shape.last_mut().ok_or_else(|| Error::bug("a number has no largest ones"))?;
    let row_length = std::mem::replace(width, count);
    if count > row_length {
        return Err(Error::bad_input(format!("{count} of {row_length} elements are asked for")));
    }
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in elements(&x)?.chunks(row_length.max(1)) {
        let mut places: Vec<usize> = (0..row.len()).collect();
        places.sort_by(|a, b| match (row.get(*a), row.get(*b)) {
            (Some(a), Some(b)) => order(a, b),
            _ => std::cmp::Ordering::Equal,
        });
        let first = places.iter().take(count);
        values.extend(first.clone().filter_map(|place| row.get(*place).copied()));
        indices.extend(first.map(|place| *place as i64));
    }
    Ok((shape, values, indices))
}

/// The range `start…end` of a dimension; negative ends count from its end, and ends beyond it stop there.
pub(super) fn slice(x: Array, along: i64, start: i64, end: i64) -> Result<Array> {
    let along = axis(along, x.shape().len())?;
    let count = x.shape().get(along).copied().unwrap_or(0) as i64;
    let within = |end: i64| (if end < 0 { end.saturating_add(count) } else { end }).clamp(0, count) as isize;
    let (start, end) = (within(start), within(end));
    for_each_type!(x, x => {
        let mut x = x;
        x.slice_axis_inplace(Axis(along), Slice::from(start..end.max(start)));
        Ok(x.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[usize], values: &[f32]) -> Array {
        Array::f32s(shape, values.to_vec()).unwrap()
    }

    fn counted(shape: &[usize]) -> Array {
        let count: usize = shape.iter().product();
        floats(shape, &(0..count).map(|i| i as f32).collect::<Vec<_>>())
    }

    #[test]
    fn rows_and_columns_are_gathered() {
        let table = counted(&[3, 2]);
        assert_eq!(
            gather(table.clone(), &[2, 0, -1], &[3, 1], 0).unwrap(),
            floats(&[3, 1, 2], &[4., 5., 0., 1., 4., 5.])
        );
        assert_eq!(gather(table.clone(), &[1], &[], 1).unwrap(), floats(&[3], &[1., 3., 5.]));
        let said = gather(table, &[3], &[], 0).unwrap_err();
        assert_eq!(said.message(), "index 3 is outside the 3 rows of a table");
    }

    #[test]
    fn shapes_change_by_onnx_s_rules() {
        let x = counted(&[2, 6]);
        assert_eq!(reshape(x.clone(), &[0, 2, -1]).unwrap(), counted(&[2, 2, 3]));
        assert_eq!(reshape(x.clone(), &[3, 4]).unwrap(), counted(&[3, 4]));
        assert!(reshape(x.clone(), &[5, -1]).is_err());
        assert_eq!(unsqueeze(x.clone(), &[0, -1]).unwrap(), counted(&[1, 2, 6, 1]));
        assert_eq!(expand(floats(&[2, 1], &[1., 2.]), &[1, 3]).unwrap(), floats(&[2, 3], &[1., 1., 1., 2., 2., 2.]));
        let turned = transpose(counted(&[2, 3]), &[1, 0]).unwrap();
        assert_eq!(turned, floats(&[3, 2], &[0., 3., 1., 4., 2., 5.]));
        assert_eq!(reshape(turned, &[-1]).unwrap(), floats(&[6], &[0., 3., 1., 4., 2., 5.]));
    }

    #[test]
    fn the_largest_come_first_and_of_equal_ones_the_first() {
        let x = floats(&[2, 4], &[1., 3., 3., 2., 0., -1., 5., 4.]);
        let [values, indices] = top_k(&x, &[2], true).unwrap();
        assert_eq!(values, floats(&[2, 2], &[3., 3., 5., 4.]));
        assert_eq!(indices, Array::i64s(&[2, 2], vec![1, 2, 2, 3]).unwrap());
        let [_, order] = top_k(&Array::I32(shared(&[3], vec![2, 0, 1]).unwrap()), &[3], false).unwrap();
        assert_eq!(order, Array::i64s(&[3], vec![1, 2, 0]).unwrap());
        assert!(top_k(&x, &[5], true).is_err());
        let vector = |values: &[i32]| Array::I32(shared(&[values.len()], values.to_vec()).unwrap());
        let inverse = scatter(vector(&[0; 3]), &[2, 0, 1], &vector(&[0, 1, 2]), 0).unwrap();
        assert_eq!(inverse, vector(&[1, 2, 0]));
        assert!(scatter(vector(&[0; 3]), &[3, 0, 1], &vector(&[0, 1, 2]), 0).is_err());
    }

    #[test]
    fn ranges_end_where_the_dimension_does() {
        let x = counted(&[5]);
        assert_eq!(slice(x.clone(), 0, 1, i64::MAX).unwrap(), floats(&[4], &[1., 2., 3., 4.]));
        assert_eq!(slice(x.clone(), -1, -2, 9).unwrap(), floats(&[2], &[3., 4.]));
        assert_eq!(slice(x.clone(), 0, 4, 2).unwrap().shape(), [0]);
        let pieces = split(counted(&[2, 3]), -1, &[1, 2]).unwrap();
        assert_eq!(pieces, [floats(&[2, 1], &[0., 3.]), floats(&[2, 2], &[1., 2., 4., 5.])]);
        assert_eq!(concat(&pieces, 1).unwrap(), counted(&[2, 3]));
        assert!(concat(&[x, Array::i64s(&[1], vec![1]).unwrap()], 0).is_err());
    }
}
