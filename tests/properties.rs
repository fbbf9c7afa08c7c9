//! What holds for every input: readers refuse and never panic, and lazy weights compute what their algebra says.

use half::{bf16, f16};
use kilnc::ir::weight::Int8Range;
use kilnc::ir::{DType, Weight};
use ndarray::{Array2, Axis, concatenate};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use crate::entries;

/// One change to a file.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Copies a piece over another one.
    Copy(Index, Index, usize),
    CutAt(Index),
}

/// Numbers and words on which readers of such files have stumbled.
const TOKENS: [&str; 14] = [
    "0",
    "-1",
    "1e300",
    "2147483648",
    "9223372036854775807",
    "18446744073709551615",
    "[",
    "{",
    "\"",
    "}",
    ",",
    "null",
    "\\u{d800}",
    "é",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    let token = proptest::sample::select(&TOKENS[..]).prop_map(|token| token.as_bytes().to_vec());
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<Index>(), token).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (any::<Index>(), 1..8usize).prop_map(|(at, n)| Mutation::Remove(at, n)),
        (any::<Index>(), any::<Index>(), 1..40usize).prop_map(|(from, to, n)| Mutation::Copy(from, to, n)),
        any::<Index>().prop_map(Mutation::CutAt),
    ]
}

fn mutated(bytes: &[u8], mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for mutation in mutations {
        let len = bytes.len();
        let end = |at: usize, n: usize| (at + n).min(len);
        match mutation {
            _ if len == 0 => {}
            Mutation::Set(at, byte) => bytes[at.index(len)] = *byte,
            Mutation::Insert(at, token) => drop(bytes.splice(at.index(len)..at.index(len), token.iter().copied())),
            Mutation::Remove(at, n) => drop(bytes.drain(at.index(len)..end(at.index(len), *n))),
            Mutation::Copy(from, to, n) => {
                let piece = bytes[from.index(len)..end(from.index(len), *n)].to_vec();
                bytes.splice(to.index(len)..end(to.index(len), *n), piece);
            }
            Mutation::CutAt(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

/// A file of that header.
fn safetensors_file(header: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(0..24u8);
    bytes
}

const HEADER: &str = concat!(
    r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"#,
    r#""b":{"dtype":"F16","shape":[0,3],"data_offsets":[16,16]},"c":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}"#
);

/// A file of a fuzz target's corpus, by its number in the order of names.
fn seed(target: &str, which: usize) -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    std::fs::read(&files[which % files.len()]).unwrap()
}

const GRAPH: &str = r#"graph "tiny" {
  input %ids: i64[b, s]
  input %mask: i64[b, s]
  weight %table: f32[10, 4] = source "embed"
  %x: f32[b, s, 4] = Embed(%table, %ids) @embedding
  weight %w: f32[4, 4] = transpose(lora(0.5, source "w" f32[4, 4], source "a" f32[2, 4], cast(f32, source "b" f16[4, 2])))
  weight %m: f32[4, 4] = renorm(1, rows([3, 1], lowrank(2, source "w" f32[4, 4]), source "r" f32[2, 4]), source "w" f32[4, 4], source "n" f32[4])
  weight %e: f32[4, 4] = elect(total, 0.5, prune(0.25, kron(source "k" f32[2, 2], source "k" f32[2, 2])), -1.0, drop(0.5, 7, product(source "p" f32[4, 1], slice(0, 1, 2, source "w" f32[4, 4]))))
  weight %d: f32[4, 4] = sum(1.0, times(source "w" f32[4, 4], source "w" f32[4, 4]), 0.5, scale(0, source "w" f32[4, 4], source "n" f32[4]))
  %mm: f32[b, s, 4] = Linear(%x, %m)
  %ee: f32[b, s, 4] = Linear(%mm, %e)
  %dd: f32[b, s, 4] = Linear(%ee, %d)
  weight %bias: f32[4] = literal x"0000803f000000400000404000008040"
  %y: f32[b, s, 4] = Linear(%x, %w, %bias) @query/0
  %z: f32[b, s, 4] = Attention {heads=2, scale=0.5} (%y, %y, %x, %mask)
  weight %v.int8: i8[4, 4] = quantized(1, concat(0, source "v" f32[1, 4], source "v" f32[3, 4]))
  weight %v.scale: f32[4] = scales(1, concat(0, source "v" f32[1, 4], source "v" f32[3, 4]))
  %q: f32[b, s, 4] = DynamicQuantLinear(%z, %v.int8, %v.scale, _)
  weight %r.int8: i8[4, 4] = quantized7(1, source "v" f32[4, 4])
  weight %r.scale: f32[4] = scales7(1, source "v" f32[4, 4])
  %rr: f32[b, s, 4] = DynamicQuantLinear(%q, %r.int8, %r.scale, _)
  %l: f32[b, s, 1], %"r s": f32[b, s, 3] = Split {axis=2, sizes=[1, 3]} (%q)
  %t: f32[b, s, 3, 1] = Reshape {shape=[0, 0, 3, 1]} (%"r s")
  %u: f32[b, 3, s, 1] = Transpose {perm=[0, 2, 1, 3]} (%t)
  weight %one: i64[1] = literal x"0100000000000000"
  %p: f32[b, s, 1] = Slice {axis=1, length=dim s} (%l, %one, %one)
  %o: f32[b, s, 1] = Softmax {axis=-1} (%p)
  output %o
  output %u
  output %dd
}
"#;

/// Labelled texts of every task.
const LABELLED: [&str; 6] = [
    r#"{"tokens": ["EU", "é", "x"], "tags": ["B-PER", "O", "I-LOC"]}"#,
    r#"{"tokens": ["EU", "é"], "ner_tags": [1, 0]}"#,
    r#"{"text": "é 東 EU", "entities": [{"start": 0, "end": 1, "label": "LOC"}, {"start": 2, "end": 6, "label": "PER"}]}"#,
    r#"{"question": "who?", "context": "é", "answers": {"text": ["é"], "answer_start": [0]}}"#,
    r#"{"text": "a [MASK] é", "labels": ["b"]}"#,
    r#"{"sentence1": "a", "sentence2": "é", "score": 2.5}"#,
];

/// The tokenizer's library may panic in a separate thread.
static QUIET: std::sync::Once = std::sync::Once::new();

/// Tokenizers of every kind.
const TOKENIZERS: [&str; 5] = [
    include_str!("fixtures/tiny-bert/tokenizer.json"),
    include_str!("fixtures/tokenizers/bpe-modernbert.json"),
    include_str!("fixtures/tokenizers/bpe-roberta.json"),
    include_str!("fixtures/tokenizers/unigram-albert.json"),
    include_str!("fixtures/tokenizers/unigram-roberta.json"),
];

proptest! {
    // Each makes a folder, and most a graph.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_beside_a_tokenizer_are_read_or_refused(
        mutations in prop::collection::vec(mutation(), 0..4),
        which in 0..14usize,
    ) {
        QUIET.call_once(entries::let_watched_threads_panic);
        entries::tokenizer_files(&mutated(&seed("tokenizer_files", which), &mutations));
    }

    #[test]
    fn damaged_files_of_sentence_transformers_are_read_or_refused(
        mutations in prop::collection::vec(mutation(), 0..4),
        which in 0..13usize,
    ) {
        QUIET.call_once(entries::let_watched_threads_panic);
        entries::sentence(&mutated(&seed("sentence", which), &mutations));
    }

    #[test]
    fn a_damaged_configuration_of_an_adapter_is_read_or_refused(
        mutations in prop::collection::vec(mutation(), 0..4),
        which in 0..15usize,
    ) {
        entries::adapter_config(&mutated(&seed("adapter_config", which), &mutations));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_safetensors_file_is_read_or_refused(mutations in prop::collection::vec(mutation(), 0..6)) {
        entries::safetensors(&mutated(&safetensors_file(HEADER.as_bytes()), &mutations));
    }

    #[test]
    fn a_damaged_safetensors_header_is_read_or_refused(mutations in prop::collection::vec(mutation(), 0..6)) {
        entries::safetensors(&safetensors_file(&mutated(HEADER.as_bytes(), &mutations)));
    }

    #[test]
    fn a_damaged_quantized_checkpoint_is_read_or_refused(
        mutations in prop::collection::vec(mutation(), 0..6),
        which in 0..22usize,
    ) {
        entries::quantized(&mutated(&seed("quantized", which), &mutations));
    }

    #[test]
    fn a_damaged_tokenizer_is_cut_or_refused(
        which in prop::sample::select(&TOKENIZERS[..]),
        mutations in prop::collection::vec(mutation(), 0..4),
    ) {
        QUIET.call_once(entries::let_watched_threads_panic);
        entries::tokenizer(&mutated(which.as_bytes(), &mutations));
    }

    #[test]
    fn a_damaged_graph_text_is_parsed_or_refused(mutations in prop::collection::vec(mutation(), 0..6)) {
        entries::graph(&mutated(GRAPH.as_bytes(), &mutations));
    }

    #[test]
    fn a_damaged_signature_is_refused(mutations in prop::collection::vec(mutation(), 0..6), which in 0..4usize) {
        entries::signature(&mutated(&seed("signature", which), &mutations));
    }

    #[test]
    fn a_damaged_front_matter_is_read_or_refused(mutations in prop::collection::vec(mutation(), 0..6), which in 0..12usize) {
        entries::front_matter(&mutated(&seed("front_matter", which), &mutations));
    }

    #[test]
    fn a_damaged_line_of_labelled_texts_is_read_or_refused(
        which in prop::sample::select(&LABELLED[..]),
        mutations in prop::collection::vec(mutation(), 0..6),
    ) {
        entries::texts(&mutated(which.as_bytes(), &mutations));
    }

    #[test]
    fn a_damaged_file_of_text_or_of_labels_is_read_or_refused(
        mutations in prop::collection::vec(mutation(), 0..6),
        which in 0..16usize,
    ) {
        entries::textfile(&mutated(&seed("textfile", which), &mutations));
        entries::labels(&mutated(&seed("labels", which), &mutations));
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(mutations in prop::collection::vec(mutation(), 0..6), which in 0..16usize) {
        entries::bundle_archive(&mutated(&seed("bundle_archive", which), &mutations));
    }

    #[test]
    fn a_weight_evaluates_to_its_expression(
        tape in prop::collection::vec(any::<u8>(), 0..200),
        rows in 1..7usize,
        columns in 1..7usize,
    ) {
        let (weight, expected) = Tape(tape.into_iter()).expression(rows, columns, 4);
        prop_assert_eq!(weight.shape(), [rows, columns]);
        prop_assert_eq!(array(&weight), expected);
    }

    #[test]
    fn quantized_values_times_their_steps_are_the_weight_rounded(
        tape in prop::collection::vec(any::<u8>(), 0..200),
        rows in 1..7usize,
        columns in 1..7usize,
        axis in 0..2usize,
    ) {
        let (weight, numbers) = Tape(tape.into_iter()).expression(rows, columns, 3);
        let (values, scales) = weight.quantize(axis, Int8Range::Full).unwrap();
        let largest = numbers.map_axis(Axis(1 - axis), |channel| channel.fold(0f32, |m, v| m.max(v.abs())));
        let steps = largest.mapv(|m| if m > 0.0 { m / 127.0 } else { 1.0 });
        prop_assert_eq!(&*scales.to_f32s().unwrap(), steps.as_slice().unwrap());
        let expected: Vec<i8> =
            numbers.indexed_iter().map(|((r, c), v)| (v / steps[[r, c][axis]]).round_ties_even() as i8).collect();
        let found: Vec<i8> = values.evaluate().unwrap().as_bytes().iter().map(|byte| *byte as i8).collect();
        prop_assert_eq!(found, expected);
    }
}

fn array(weight: &Weight) -> Array2<f32> {
    Array2::from_shape_vec((weight.shape()[0], weight.shape()[1]), weight.to_f32s().unwrap().into_owned()).unwrap()
}

/// Chooses an expression by the bytes of a tape; an empty tape chooses the simplest.
struct Tape(std::vec::IntoIter<u8>);

impl Tape {
    fn choose(&mut self, n: usize) -> usize {
        self.0.next().unwrap_or(0) as usize % n
    }

    /// Small integers, so that no order of summation rounds.
    fn leaf(&mut self, rows: usize, columns: usize) -> (Weight, Array2<f32>) {
        let numbers = Array2::from_shape_fn((rows, columns), |_| self.choose(17) as f32 - 8.0);
        let weight = Weight::f32s(vec![rows, columns], numbers.as_slice().unwrap()).unwrap();
        (weight, numbers)
    }

    /// A lazy expression of that shape, and the same computed at once by ndarray.
    fn expression(&mut self, rows: usize, columns: usize, depth: usize) -> (Weight, Array2<f32>) {
        match self.choose(if depth == 0 { 1 } else { 13 }) {
            1 | 2 => {
                let (weight, numbers) = self.expression(columns, rows, depth - 1);
                (weight.transpose().unwrap(), numbers.t().as_standard_layout().into_owned())
            }
            3 | 4 => {
                let axis = self.choose(2);
                let total = [rows, columns][axis];
                let first = 1 + self.choose(total);
                let mut parts = Vec::new();
                for size in [first, total - first].into_iter().filter(|size| *size > 0) {
                    let (rows, columns) = if axis == 0 { (size, columns) } else { (rows, size) };
                    parts.push(self.expression(rows, columns, depth - 1));
                }
                let views: Vec<_> = parts.iter().map(|(_, numbers)| numbers.view()).collect();
                let joined = concatenate(Axis(axis), &views).unwrap().as_standard_layout().into_owned();
                (Weight::concat(axis, parts.into_iter().map(|(weight, _)| weight).collect()).unwrap(), joined)
            }
            5 => {
                let (weight, numbers) = self.expression(rows, columns, depth - 1);
                let (dtype, round): (_, fn(f32) -> f32) = match self.choose(2) {
                    0 => (DType::F16, |v| f16::from_f32(v).to_f32()),
                    _ => (DType::BF16, |v| bf16::from_f32(v).to_f32()),
                };
                (weight.cast(dtype).cast(DType::F32), numbers.mapv(round))
            }
            6 => {
                let (base, numbers) = self.expression(rows, columns, depth - 1);
                let rank = 1 + self.choose(3);
                let ((a, a_numbers), (b, b_numbers)) = (self.leaf(rank, columns), self.leaf(rows, rank));
                let scale = [1.0, -2.0, 0.5][self.choose(3)];
                (base.lora(&a, &b, scale).unwrap(), numbers + scale * b_numbers.dot(&a_numbers))
            }
            7 => {
                let inner = 1 + self.choose(3);
                let ((l, l_numbers), (r, r_numbers)) =
                    (self.leaf(rows, inner), self.expression(inner, columns, depth - 1));
                (l.product(&r).unwrap(), l_numbers.dot(&r_numbers))
            }
            8 => {
                let ((l, l_numbers), (r, r_numbers)) =
                    (self.expression(rows, columns, depth - 1), self.leaf(rows, columns));
                let sum = Weight::sum(vec![(0.5, l), (-2.0, r)]).unwrap();
                (sum, 0.5 * l_numbers - 2.0 * r_numbers)
            }
            9 => {
                let ((l, l_numbers), (r, r_numbers)) =
                    (self.expression(rows, columns, depth - 1), self.leaf(rows, columns));
                (l.times(&r).unwrap(), l_numbers * r_numbers)
            }
            10 => {
                let ((of, numbers), axis) = (self.expression(rows, columns, depth - 1), self.choose(2));
                let n = [rows, columns][axis];
                let (by, by_numbers) = self.leaf(1, n);
                let scaled = of.scale(&by.reshape(vec![n]).unwrap(), axis).unwrap();
                let by_numbers = if axis == 0 { by_numbers.t().into_owned() } else { by_numbers };
                (scaled, numbers * by_numbers)
            }
            11 => {
                let (of, mut numbers) = self.expression(rows, columns, depth - 1);
                let ((new, new_numbers), row) = (self.leaf(1, columns), self.choose(rows));
                numbers.row_mut(row).assign(&new_numbers.row(0));
                (of.replace_rows(vec![row], &new).unwrap(), numbers)
            }
            12 => {
                let (axis, before, after) = (self.choose(2), self.choose(3), self.choose(3));
                let n = [rows, columns][axis];
                let whole = before + n + after;
                let (rows, columns) = if axis == 0 { (whole, columns) } else { (rows, whole) };
                let (of, numbers) = self.expression(rows, columns, depth - 1);
                let cut = numbers.slice_axis(Axis(axis), (before..before + n).into()).as_standard_layout().into_owned();
                (of.slice(axis, before..before + n).unwrap(), cut)
            }
            _ => self.leaf(rows, columns),
        }
    }
}
