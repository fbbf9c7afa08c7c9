//! Saved calibration (`.kcal`): a second build need not run the texts again.
//!
//! The file is a safetensors file. Of every value `NAME` of a graph whose text has a digest that begins with `GRAPH`
//! it holds
//!
//! | tensor | elements | |
//! |---|---|---|
//! | `GRAPH/NAME/lowest`, `…/highest` | f32 `[k]` | the range of every channel |
//! | `GRAPH/NAME/by_text` | f32 `[t, 2, k]` | lowest and highest in single texts |
//! | `GRAPH/NAME/moments` | f32 `[k (k + 1) / 2]` | the lower triangle of the second moments, row after row |
//! | `GRAPH/NAME/counts` | i64 `[bins]` | the histogram |
//! | `GRAPH/NAME/span` | f32 `[5]` | its width, lowest, highest, mean lowest, mean highest |
//!
//! and as metadata the digests of the graphs' texts and of the weights, so that no file is taken for the calibration of
//! another model. Floats are saved to the bit: engines made from the file equal those made without it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ndarray::Array2;
use safetensors::{Dtype, SafeTensorError, View};
use serde::{Deserialize, Serialize};

use super::collect::linear_inputs;
use super::histogram::{Histogram, Span};
use super::{Activations, Calibration, Extremes};
use crate::digest;
use crate::error::{Error, Result, printable};
use crate::ir::{DType, Graph, Weight};
use crate::json;
use crate::safetensors as reader;

/// How such files end.
pub const EXTENSION: &str = "kcal";

const FORMAT: &str = "kilnc.calibration/1";

/// The key of the metadata. There is one, because the `safetensors` crate writes several in any order.
const KEY: &str = "kilnc";

#[derive(Serialize, Deserialize)]
struct Metadata {
    format: String,
    weights: String,
    graphs: Vec<Observed>,
}

#[derive(Serialize, Deserialize)]
struct Observed {
    digest: String,
    texts: usize,
    tokens: usize,
}

impl Observed {
    /// The prefix of its tensors' names.
    fn prefix(&self) -> &str {
        self.digest.get(..12).unwrap_or(&self.digest)
    }
}

/// A file of saved calibration. The tensors are mapped, not read.
pub struct Saved {
    metadata: Metadata,
    tensors: HashMap<String, Weight>,
}

/// Writes the statistics of graphs, each with its text. `weights` is the digest of the weights' source.
///
/// The file is complete and synced when this returns; the caller renames it safely.
pub fn save(path: &Path, weights: &str, graphs: &[(String, Calibration)]) -> Result<()> {
    let mut metadata = Metadata { format: FORMAT.to_owned(), weights: weights.to_owned(), graphs: Vec::new() };
    let mut tensors = Vec::new();
    for (text, calibration) in graphs {
        let observed =
            Observed { digest: digest::of(text.as_bytes()), texts: calibration.texts, tokens: calibration.tokens };
        for (name, activations) in calibration.values() {
            let named = |(part, tensor)| (format!("{}/{name}/{part}", observed.prefix()), tensor);
            tensors.extend(parts(activations).into_iter().map(named));
        }
        metadata.graphs.push(observed);
    }
    let metadata = serde_json::to_string(&metadata).map_err(|e| Error::bug(format!("the metadata: {e}")))?;
    safetensors::serialize_to_file(tensors, Some(HashMap::from([(KEY.to_owned(), metadata)])), path).map_err(|e| {
        match e {
            SafeTensorError::IoError(e) => Error::io("writing", path, &e),
            other => Error::bug(format!("writing {}: {other}", path.display())),
        }
    })?;
    std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::io("syncing", path, &e))
}

fn parts(observed: &Activations) -> Vec<(&'static str, Part<'_>)> {
    let k = observed.channels();
    let Span { width, lowest, highest, mean, texts: _ } = observed.histogram.span();
    let by_text = |text: &Extremes| [text.lowest.clone(), text.highest.clone()].concat();
    let triangle = move |i| observed.moments.row(i).into_iter().take(i + 1).copied();
    vec![
        ("lowest", Part::f32s(vec![k], || observed.extremes.lowest.clone())),
        ("highest", Part::f32s(vec![k], || observed.extremes.highest.clone())),
        (
            "by_text",
            Part::f32s(vec![observed.by_text.len(), 2, k], move || observed.by_text.iter().flat_map(by_text).collect()),
        ),
        ("moments", Part::f32s(vec![k * (k + 1) / 2], move || (0..k).flat_map(triangle).collect())),
        ("span", Part::f32s(vec![5], move || vec![width, lowest, highest, mean.0, mean.1])),
        ("counts", Part::counts(observed.histogram.counts())),
    ]
}

/// A tensor on its way into the file, made when it is written.
struct Part<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    make: Box<dyn Fn() -> Vec<u8> + 'a>,
}

impl<'a> Part<'a> {
    fn f32s(shape: Vec<usize>, make: impl Fn() -> Vec<f32> + 'a) -> Part<'a> {
        Part { dtype: Dtype::F32, shape, make: Box::new(move || bytemuck::cast_slice(&make()).to_vec()) }
    }

    fn counts(counts: &'a [u64]) -> Part<'a> {
        let make = || counts.iter().flat_map(|n| i64::try_from(*n).unwrap_or(i64::MAX).to_le_bytes()).collect();
        Part { dtype: Dtype::I64, shape: vec![counts.len()], make: Box::new(make) }
    }
}

impl View for Part<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.make)().into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

impl Saved {
    /// Opens a file. `weights` is the digest of the source of the model's weights; fails where the file was made with
    /// others, or is no such file.
    pub fn open(path: &Path, weights: &str) -> Result<Saved> {
        let at = |e: Error| e.at(path.display().to_string());
        let reader::Contents { tensors, metadata } = reader::read_with_metadata(path)?;
        let metadata = metadata.get(KEY).ok_or_else(|| at(Error::bad_input("it holds no calibration")))?;
        let metadata: Metadata = json::parse(metadata, "metadata").map_err(at)?;
        if metadata.format != FORMAT {
            let found = printable(&metadata.format);
            return Err(at(Error::unsupported(format!(
                "the file has the form `{found}`, this kilnc reads `{FORMAT}`"
            ))));
        }
        if metadata.weights != weights {
            return Err(at(other_model("weights", [&metadata.weights], weights)));
        }
        Ok(Saved { metadata, tensors: tensors.into_iter().collect() })
    }

    /// The statistics of `graph`. Fails where they are of another graph, or where the file has other values than its
    /// linear layers read, or numbers that are not finite.
    pub fn of(&self, graph: &Graph) -> Result<Calibration> {
        let own = digest::of(graph.to_string().as_bytes());
        let found = self.metadata.graphs.iter().find(|observed| observed.digest == own);
        let found = found
            .ok_or_else(|| other_model("graph", self.metadata.graphs.iter().map(|observed| &observed.digest), &own))?;
        let mut values = BTreeMap::new();
        for id in linear_inputs(graph) {
            let value = graph.value(id);
            let channels = value.ty.shape.last().and_then(|dim| dim.fixed());
            let channels = channels.ok_or_else(|| Error::bug(format!("`{}` has no channels", value.name)))?;
            let entry =
                Entry { tensors: &self.tensors, prefix: format!("{}/{}", found.prefix(), value.name), channels };
            values.insert(value.name.clone(), entry.read(found.texts)?.into());
        }
        Ok(Calibration { texts: found.texts, tokens: found.tokens, values })
    }
}

fn other_model<'a>(what: &str, found: impl IntoIterator<Item = &'a String>, expected: &str) -> Error {
    let short = |digest: &str| printable(digest).chars().take(12).collect::<String>();
    let found: Vec<_> = found.into_iter().map(|digest| short(digest)).collect();
    let (found, expected) = (found.join(", "), short(expected));
    Error::bad_input(format!(
        "this calibration is of another model: its {what} has the digest {found}…, this one's {expected}…"
    ))
    .hint("calibrate on texts again, and save the statistics with --save-calibration")
}

/// The tensors of one value.
struct Entry<'a> {
    tensors: &'a HashMap<String, Weight>,
    prefix: String,
    channels: usize,
}

impl Entry<'_> {
    fn read(&self, texts: usize) -> Result<Activations> {
        let k = self.channels;
        let [lowest, highest] = [self.f32s("lowest", &[k])?, self.f32s("highest", &[k])?];
        let by_text = match self.tensor("by_text")?.shape() {
            &[t, 2, n] if n == k => self.f32s("by_text", &[t, 2, k])?,
            other => return Err(self.wrong("by_text", format!("has shape {other:?}, expected [texts, 2, {k}]"))),
        };
        let triangle = self.f32s("moments", &[k * (k + 1) / 2])?;
        let at =
            |i: usize, j: usize| triangle.get(i.max(j) * (i.max(j) + 1) / 2 + i.min(j)).copied().unwrap_or_default();
        let [width, low, high, mean_low, mean_high] =
            <[f32; 5]>::try_from(self.f32s("span", &[5])?).map_err(|_| Error::bug("five elements are five"))?;
        let span = Span { width, lowest: low, highest: high, mean: (mean_low, mean_high), texts };
        let histogram = Histogram::of(span, self.counts()?);
        let extremes = |ends: &[f32]| {
            let (lowest, highest) = ends.split_at(k);
            Extremes { lowest: lowest.to_vec(), highest: highest.to_vec() }
        };
        Ok(Activations {
            extremes: Extremes { lowest, highest },
            by_text: by_text.chunks(2 * k).map(extremes).collect(),
            moments: Array2::from_shape_fn((k, k), |(i, j)| at(i, j)),
            histogram: histogram.ok_or_else(|| self.wrong("counts", "is no histogram".to_owned()))?,
        })
    }

    fn wrong(&self, part: &str, what: String) -> Error {
        Error::bad_input(format!("tensor `{}` {what}", printable(&format!("{}/{part}", self.prefix))))
            .hint("the file is damaged; calibrate on texts again")
    }

    fn tensor(&self, part: &str) -> Result<&Weight> {
        let name = format!("{}/{part}", self.prefix);
        self.tensors.get(&name).ok_or_else(|| self.wrong(part, "is missing".to_owned()))
    }

    fn f32s(&self, part: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.tensor(part)?;
        if (tensor.dtype(), tensor.shape()) != (DType::F32, shape) {
            return Err(self.wrong(part, format!("is {}, expected f32{shape:?}", tensor.ty())));
        }
        let values = tensor.to_f32s()?.into_owned();
        match values.iter().find(|x| !x.is_finite()) {
            Some(x) => Err(self.wrong(part, format!("holds {x}"))),
            None => Ok(values),
        }
    }

    fn counts(&self) -> Result<Vec<u64>> {
        let tensor = self.tensor("counts")?;
        if (tensor.dtype(), tensor.shape().len()) != (DType::I64, 1) {
            return Err(self.wrong("counts", format!("is {}, expected a row of i64", tensor.ty())));
        }
        let bytes = tensor.evaluate()?;
        let counts = bytes.as_bytes().as_chunks::<8>().0.iter().map(|b| u64::try_from(i64::from_le_bytes(*b)).ok());
        counts.collect::<Option<_>>().ok_or_else(|| self.wrong("counts", "holds negative numbers".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use safetensors::SafeTensors;
    use tempfile::TempDir;

    use super::*;
    use crate::ir::text;
    use crate::verify::{Verified, verify};

    fn graph(k: usize) -> Verified<Graph> {
        let text = format!(
            "graph \"g\" {{ input %x: f32[b, {k}] %y: f32[b, {k}] = Tanh(%x) weight %w: f32[{k}, 2] = source \"w\" \
             %z: f32[b, 2] = Linear(%y, %w) output %z }}"
        );
        verify(text::parse(&text).unwrap()).unwrap()
    }

    fn observed() -> Calibration {
        let mut histogram = Histogram::default();
        histogram.add(&[0.1, -0.7, 0.3], -0.7, 0.3);
        histogram.add(&[0.2, 0.9, -0.25], -0.25, 0.9);
        let extremes =
            |lowest: [f32; 3], highest: [f32; 3]| Extremes { lowest: lowest.into(), highest: highest.into() };
        let moments = [[1.5, 0.25, -0.5], [0.25, 2.0, 1.0 / 3.0], [-0.5, 1.0 / 3.0, 0.1]];
        let activations = Activations {
            extremes: extremes([0.1, -0.7, -0.25], [0.2, 0.9, 0.3]),
            by_text: vec![extremes([0.1, -0.7, 0.3], [0.1, -0.7, 0.3]), extremes([0.2, 0.9, -0.25], [0.2, 0.9, -0.25])],
            moments: ndarray::arr2(&moments),
            histogram,
        };
        let mut calibration = Calibration { texts: 2, tokens: 5, ..Calibration::default() };
        calibration.insert("y", activations);
        calibration
    }

    fn saved() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seen.kcal");
        save(&path, "weights", &[(graph(3).to_string(), observed())]).unwrap();
        (dir, path)
    }

    /// The error for the file after one tensor was changed.
    fn damaged(part: &str, shape: &[usize], bytes: &[u8]) -> String {
        let (_dir, path) = saved();
        let whole = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&whole).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&whole).unwrap();
        let tensors: Vec<_> = file.tensors();
        let changed = tensors.iter().map(|(name, view)| match name.ends_with(part) {
            true => (name, safetensors::tensor::TensorView::new(view.dtype(), shape.to_vec(), bytes).unwrap()),
            false => (name, view.clone()),
        });
        std::fs::write(&path, safetensors::serialize(changed, metadata.metadata().clone()).unwrap()).unwrap();
        let error = Saved::open(&path, "weights").unwrap().of(&graph(3)).err().unwrap();
        assert_eq!(error.hints(), ["the file is damaged; calibrate on texts again"]);
        error.message().split_once(' ').unwrap().1.split_once(' ').unwrap().1.to_owned()
    }

    #[test]
    fn saved_statistics_are_exact_to_the_bit() {
        let (dir, path) = saved();
        let found = Saved::open(&path, "weights").unwrap().of(&graph(3)).unwrap();
        assert_eq!((found.texts, found.tokens), (2, 5));
        let ((name, found), observed) = (found.values().next().unwrap(), observed());
        let observed = observed.get("y").unwrap();
        assert_eq!(name, "y");
        assert_eq!(
            (&found.extremes, &found.by_text, &found.moments),
            (&observed.extremes, &observed.by_text, &observed.moments)
        );
        assert_eq!(found.histogram.span(), observed.histogram.span());
        assert_eq!(found.histogram.counts(), observed.histogram.counts());
        // And the same is written again.
        let again = dir.path().join("again.kcal");
        save(&again, "weights", &[(graph(3).to_string(), self::observed())]).unwrap();
        assert_eq!(std::fs::read(again).unwrap(), std::fs::read(path).unwrap());
    }

    #[test]
    fn calibration_of_another_model_is_refused() {
        let (_dir, path) = saved();
        let error = Saved::open(&path, "others").err().unwrap();
        assert_eq!(
            error.message(),
            "this calibration is of another model: its weights has the digest weights…, this one's others…"
        );
        assert!(error.hints()[0].starts_with("calibrate on texts again"));
        let error = Saved::open(&path, "weights").unwrap().of(&graph(4)).unwrap_err();
        assert!(
            error.message().starts_with("this calibration is of another model: its graph has the digest "),
            "{error}"
        );
    }

    #[test]
    fn another_file_is_refused() {
        let (_dir, path) = saved();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(Saved::open(&path, "weights").err().unwrap().message().contains("outside the file's"));
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        std::fs::write(&path, safetensors::serialize([("w", &view)], None).unwrap()).unwrap();
        let error = Saved::open(&path, "weights").err().unwrap();
        assert_eq!(error.message(), "it holds no calibration");
        let metadata = HashMap::from([(KEY.to_owned(), r#"{"format":"x/2","weights":"w","graphs":[]}"#.to_owned())]);
        std::fs::write(&path, safetensors::serialize([("w", &view)], Some(metadata)).unwrap()).unwrap();
        let error = Saved::open(&path, "w").err().unwrap();
        assert_eq!(error.message(), "the file has the form `x/2`, this kilnc reads `kilnc.calibration/1`");
    }

    #[test]
    fn numbers_that_are_not_finite_and_other_sizes_are_refused() {
        let floats = |values: &[f32]| bytemuck::cast_slice(values).to_vec();
        assert_eq!(damaged("highest", &[3], &floats(&[0.0, f32::NAN, 0.0])), "holds NaN");
        assert_eq!(damaged("moments", &[6], &floats(&[f32::INFINITY; 6])), "holds inf");
        assert_eq!(damaged("lowest", &[2], &floats(&[0.0; 2])), "is f32[2], expected f32[3]");
        assert_eq!(damaged("by_text", &[1, 3], &floats(&[0.0; 3])), "has shape [1, 3], expected [texts, 2, 3]");
        assert_eq!(damaged("counts", &[1], &(-1i64).to_le_bytes()), "holds negative numbers");
        assert_eq!(damaged("counts", &[1], &1i64.to_le_bytes()), "is no histogram");
    }
}
