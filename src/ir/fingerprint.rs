//! The fingerprint of a graph: all that its outputs depend on, except the names of files.

use std::collections::HashMap;
use std::fmt::Write;

use rayon::prelude::*;

use super::Graph;
use super::weight::{Expr, Weight};
use crate::digest::{self, Digester};
use crate::error::{Error, Result};

impl Graph {
    /// SHA-256, in hexadecimal, of the graph's text and of the elements of every file tensor in it, in its order. Reads
    /// all weights once.
    pub fn fingerprint(&self) -> Result<String> {
        let mut sources: Vec<&Weight> = Vec::new();
        let defaults = self.defaults().map(|(_, weight)| weight);
        self.weights().map(|(_, _, weight)| weight).chain(defaults).for_each(|weight| weight.sources(&mut sources));
        // A table that two layers read is read once.
        let mut places: HashMap<(usize, usize), usize> = HashMap::new();
        let mut distinct: Vec<&[u8]> = Vec::new();
        let mut order = Vec::with_capacity(sources.len());
        for source in sources {
            let bytes = match source.expr() {
                Expr::Source { data: Some(blob), .. } => blob.bytes(),
                _ => &[],
            };
            let place = places.entry((bytes.as_ptr().addr(), bytes.len())).or_insert_with(|| {
                distinct.push(bytes);
                distinct.len() - 1
            });
            order.push(*place);
        }
        let digests: Vec<String> = distinct.par_iter().map(|bytes| digest::of(bytes)).collect();
        let mut all = Digester::default();
        let written = write!(all, "{self}")
            .and_then(|()| order.iter().try_for_each(|i| writeln!(all, "{}", digests.get(*i).map_or("", |d| d))));
        written.map_err(|e| Error::bug(format!("the fingerprint: {e}")))?;
        Ok(all.finish())
    }
}

/// What the elements of a weight follow from: two weights of one identity have the same elements. Their file tensors are
/// identified by where they are in memory, so it means nothing to another process, and nothing is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    text: String,
    sources: Vec<(usize, usize)>,
}

impl Identity {
    /// The identity of a weight; none where one of its tensors has no data.
    pub fn of(weight: &Weight) -> Option<Identity> {
        let mut sources = Vec::new();
        weight.sources(&mut sources);
        let address = |source: &&Weight| match source.expr() {
            Expr::Source { data: Some(blob), .. } => Some((blob.bytes().as_ptr().addr(), blob.len())),
            _ => None,
        };
        let sources = sources.iter().map(address).collect::<Option<_>>()?;
        Some(Identity { text: super::text::weight(weight), sources })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ir::weight::Blob;
    use crate::ir::{Builder, DType, Dim, Op, TensorType};

    fn graph(name: &str, values: [f32; 2], factor: f32) -> Graph {
        let bytes = bytemuck::cast_slice::<f32, u8>(&values).to_vec();
        let data = Blob::new(Arc::new(bytes), 0..8);
        let source = Weight::source(name, DType::F32, vec![2], data).unwrap();
        let weight = Weight::sum(vec![(factor, source.clone()), (1.0, source)]).unwrap();
        let mut builder = Builder::new("g");
        let x = builder.input("x", TensorType { dtype: DType::F32, shape: vec![Dim::Fixed(2)] });
        let w = builder.weight("w", weight);
        let y = builder.node("y", Op::Add, &[x, w]).unwrap();
        builder.output("y", y).unwrap();
        builder.finish()
    }

    #[test]
    fn elements_names_and_formulas_count() {
        let of = |name, values, factor| graph(name, values, factor).fingerprint().unwrap();
        let one = of("a", [1.0, 2.0], 1.0);
        assert_eq!(one, of("a", [1.0, 2.0], 1.0));
        let others = [of("b", [1.0, 2.0], 1.0), of("a", [1.0, 3.0], 1.0), of("a", [1.0, 2.0], 0.5)];
        assert!(others.iter().all(|other| *other != one));
    }
}
