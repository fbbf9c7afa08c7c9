//! Chooses texts from a corpus that is larger than calibration needs.
//!
//! [`uniform`] samples at random. [`near`] selects the texts that are similar to those of a domain: words are weighed by
//! TF-IDF (Spärck Jones, 1972), a text is as near as the mean of its cosines to the three texts of the domain that are
//! nearest to it, and a new choice must not repeat earlier ones: the next text is always that with the most
//! of `nearness · (1 − cosine to the nearest one chosen)`, as in maximal marginal relevance (Carbonell and Goldstein,
//! 1998).
//!
//! The corpus is read as a stream, by [`near`] twice. Memory holds a table of a fixed size for how common words are, and
//! a few times as many texts as are wanted.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, HashSet};

use unicode_segmentation::UnicodeSegmentation;

use crate::error::Result;
use crate::random;

/// How many texts are chosen, and the seed that decides ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// How many.
    pub samples: usize,
    /// Another seed gives another sample.
    pub seed: u64,
}

/// Texts of the domain to which a text is compared.
const NEIGHBOURS: usize = 3;

/// Counters of how many texts have a word. Two rare words that share one are weighed as a little more common.
const COUNTERS: usize = 1 << 20;

/// Samples texts, each with the same chance; all, where there are not more. They come in the order of the corpus.
pub fn uniform<T>(corpus: impl Iterator<Item = Result<T>>, sampling: Sampling) -> Result<Vec<T>> {
    let mut best = Best::new(sampling.samples);
    for (index, item) in corpus.enumerate() {
        best.offer(Scored::new(0.0, sampling.seed, index, item?));
    }
    let mut chosen = best.into_sorted();
    chosen.sort_by_key(|held| held.index);
    Ok(chosen.into_iter().map(|held| held.item).collect())
}

/// The texts of a corpus that are nearest to those of a domain, and different from each other; fewer than wanted, where
/// the corpus has not so many. Texts that differ in numbers alone count as one. They come in the order of the corpus.
pub fn near<T, I: Iterator<Item = Result<T>>>(
    corpus: impl Fn() -> Result<I>,
    text: impl Fn(&T) -> &str,
    domain: &[T],
    sampling: Sampling,
) -> Result<Vec<T>> {
    let mut weights = Weights::default();
    for item in corpus()? {
        weights.count(text(&item?));
    }
    let mut domain = Domain::new(domain.iter().map(|item| weights.vector(text(item))));
    let mut best = Best::new(8 * sampling.samples + 1024);
    let mut known = HashSet::new();
    for (index, item) in corpus()?.enumerate() {
        let item = item?;
        let vector = weights.vector(text(&item));
        let nearness = domain.nearness(&vector);
        let words = words_but_numbers(text(&item));
        if nearness > 0.0
            && known.insert(words)
            && let Some(dropped) = best.offer(Scored::new(nearness, sampling.seed, index, (item, vector, words)))
        {
            known.remove(&dropped.item.2);
        }
    }
    let mut chosen = spread(best.into_sorted(), sampling.samples);
    chosen.sort_by_key(|held| held.index);
    Ok(chosen.into_iter().map(|held| held.item.0).collect())
}

/// A candidate: a text, its vector, and its words but for numbers.
type Candidate<T> = (T, Vector, u64);

/// The best of the candidates that do not repeat each other. They come best first.
fn spread<T>(candidates: Vec<Scored<Candidate<T>>>, samples: usize) -> Vec<Scored<Candidate<T>>> {
    let mut left: Vec<_> = candidates.into_iter().map(|held| (0.0f32, held)).collect();
    let mut chosen: Vec<Scored<Candidate<T>>> = Vec::new();
    while chosen.len() < samples {
        let gain = |(repeats, held): &(f32, Scored<Candidate<T>>)| held.score * (1.0 - repeats);
        // Of those with the same gain the first, which came first by score and seed.
        let best = left.iter().map(gain).enumerate().rev().max_by(|a, b| a.1.total_cmp(&b.1));
        let Some((at, _)) = best.filter(|(_, gain)| *gain > 1e-6) else { break };
        let (_, next) = left.remove(at);
        for (repeats, held) in &mut left {
            *repeats = repeats.max(cosine(&held.item.1, &next.item.1)).min(1.0);
        }
        chosen.push(next);
    }
    chosen
}

/// The words of a text, in lower case, as numbers.
fn words(text: &str) -> impl Iterator<Item = u64> {
    text.unicode_words().map(|word| hash(word.to_lowercase().as_bytes()))
}

/// A number for the set of words, those with digits left out.
fn words_but_numbers(text: &str) -> u64 {
    let plain = text.unicode_words().filter(|word| !word.contains(|c: char| c.is_numeric()));
    let mut set: Vec<u64> = plain.map(|word| hash(word.to_lowercase().as_bytes())).collect();
    if set.is_empty() {
        set = words(text).collect();
    }
    set.sort_unstable();
    set.dedup();
    hash(bytemuck::cast_slice(&set))
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Words with their weights, ordered by word; of length 1.
type Vector = Vec<(u64, f32)>;

fn cosine(a: &Vector, b: &Vector) -> f32 {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut sum = 0.0;
    while let (Some((word, x)), Some((other, y))) = (a.peek(), b.peek()) {
        match word.cmp(other) {
            Ordering::Less => drop(a.next()),
            Ordering::Greater => drop(b.next()),
            Ordering::Equal => {
                sum += x * y;
                a.next();
                b.next();
            }
        }
    }
    sum
}

/// The inverse document frequency of words.
struct Weights {
    texts: u32,
    having: Vec<u32>,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { texts: 0, having: vec![0; COUNTERS] }
    }
}

impl Weights {
    fn count(&mut self, text: &str) {
        self.texts = self.texts.saturating_add(1);
        for word in words(text).collect::<HashSet<_>>() {
            if let Some(having) = self.having.get_mut(word as usize % COUNTERS) {
                *having = having.saturating_add(1);
            }
        }
    }

    /// `ln((1 + texts) / (1 + texts with the word)) + 1`
    fn of(&self, word: u64) -> f32 {
        let having = self.having.get(word as usize % COUNTERS).copied().unwrap_or_default();
        ((1.0 + f64::from(self.texts)) / (1.0 + f64::from(having))).ln() as f32 + 1.0
    }

    /// Every word by `1 + ln(times)` and its weight.
    fn vector(&self, text: &str) -> Vector {
        let mut all: Vec<u64> = words(text).collect();
        all.sort_unstable();
        let runs = all.chunk_by(|a, b| a == b).filter_map(|run| Some((*run.first()?, run.len())));
        let mut vector: Vector =
            runs.map(|(word, times)| (word, (1.0 + (times as f32).ln()) * self.of(word))).collect();
        let length = vector.iter().map(|(_, x)| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|(_, x)| *x /= length);
        vector
    }
}

/// The texts to be like, by word.
struct Domain {
    having: HashMap<u64, Vec<(usize, f32)>>,
    /// Of the current text: its cosine to every text of the domain.
    cosines: Vec<f32>,
}

impl Domain {
    fn new(vectors: impl Iterator<Item = Vector>) -> Domain {
        let mut domain = Domain { having: HashMap::new(), cosines: Vec::new() };
        for (i, vector) in vectors.enumerate() {
            domain.cosines.push(0.0);
            vector.into_iter().for_each(|(word, x)| domain.having.entry(word).or_default().push((i, x)));
        }
        domain
    }

    fn nearness(&mut self, vector: &Vector) -> f32 {
        self.cosines.fill(0.0);
        for (word, x) in vector {
            for (i, y) in self.having.get(word).into_iter().flatten() {
                if let Some(cosine) = self.cosines.get_mut(*i) {
                    *cosine += x * y;
                }
            }
        }
        let mut nearest = [0.0f32; NEIGHBOURS];
        for cosine in &self.cosines {
            // The least of the nearest makes room.
            if let Some(last) = nearest.last_mut()
                && cosine > last
            {
                *last = *cosine;
                nearest.sort_by(|a, b| b.total_cmp(a));
            }
        }
        nearest.iter().sum::<f32>() / NEIGHBOURS.min(self.cosines.len()).max(1) as f32
    }
}

/// Something with a score of at least 0, and a number that decides between equal scores.
struct Scored<T> {
    score: f32,
    lot: u64,
    index: usize,
    item: T,
}

impl<T> Scored<T> {
    fn new(score: f32, seed: u64, index: usize, item: T) -> Scored<T> {
        Scored { score, lot: random::at(seed, index as u64), index, item }
    }
}

impl<T> Ord for Scored<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.lot.cmp(&other.lot)).then(other.index.cmp(&self.index))
    }
}

impl<T> PartialOrd for Scored<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Scored<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Scored<T> {}

/// The best of the offered texts, up to a number.
struct Best<T> {
    size: usize,
    held: BinaryHeap<Reverse<Scored<T>>>,
}

impl<T> Best<T> {
    fn new(size: usize) -> Best<T> {
        Best { size, held: BinaryHeap::new() }
    }

    /// Takes one in, and returns the one that no longer fits.
    fn offer(&mut self, held: Scored<T>) -> Option<Scored<T>> {
        self.held.push(Reverse(held));
        if self.held.len() <= self.size { None } else { self.held.pop().map(|Reverse(worst)| worst) }
    }

    /// Best first.
    fn into_sorted(self) -> Vec<Scored<T>> {
        self.held.into_sorted_vec().into_iter().map(|Reverse(held)| held).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn sampling(samples: usize, seed: u64) -> Sampling {
        Sampling { samples, seed }
    }

    fn sampled(count: usize, sampling: Sampling) -> Vec<usize> {
        uniform((0..count).map(Ok), sampling).unwrap()
    }

    fn chosen<'a>(corpus: &[&'a str], domain: &[&'a str], sampling: Sampling) -> Vec<&'a str> {
        near(|| Ok(corpus.iter().map(|text| Ok(*text))), |text| text, domain, sampling).unwrap()
    }

    #[test]
    fn a_sample_follows_its_seed_in_order_and_without_repetition() {
        let first = sampled(1000, sampling(50, 7));
        assert_eq!(first.len(), 50);
        assert!(first.is_sorted() && first.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(first, sampled(1000, sampling(50, 7)));
        assert_ne!(first, sampled(1000, sampling(50, 8)));
        assert_eq!(sampled(3, sampling(50, 7)), [0, 1, 2]);
    }

    #[test]
    fn every_text_has_the_same_chance() {
        let mut times = [0usize; 40];
        for seed in 0..2000 {
            sampled(40, sampling(10, seed)).into_iter().for_each(|i| times[i] += 1);
        }
        // 500 on average, with a standard deviation of 19.
        assert!(times.iter().all(|n| (420..580).contains(n)), "{times:?}");
    }

    #[test]
    fn the_cosine_is_that_by_hand() {
        let mut weights = Weights::default();
        ["red apple", "red car", "blue car"].iter().for_each(|text| weights.count(text));
        let (common, rare) = ((4.0f32 / 3.0).ln() + 1.0, 2.0f32.ln() + 1.0);
        let expected = common * common / ((common * common + rare * rare).sqrt() * (2.0 * common * common).sqrt());
        let found = cosine(&weights.vector("Red APPLE!"), &weights.vector("red car"));
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn texts_similar_to_the_domain_are_found_and_rare_words_count_most() {
        let corpus =
            ["the mail server", "the chess engine", "the web server", "the chess clock", "the poem", "the spam filter"];
        assert_eq!(chosen(&corpus, &["the chess game"], sampling(2, 0)), ["the chess engine", "the chess clock"]);
        assert_eq!(chosen(&corpus, &["spam", "mail"], sampling(2, 0)), ["the mail server", "the spam filter"]);
    }

    #[test]
    fn texts_that_share_no_word_are_not_chosen_even_where_texts_are_missing() {
        assert_eq!(chosen(&["a b", "c d", "b c"], &["a"], sampling(3, 0)), ["a b"]);
        assert_eq!(chosen(&["x y"], &["a"], sampling(3, 0)), [""; 0]);
    }

    #[test]
    fn near_duplicates_make_room_for_others() {
        let corpus = ["red chess set now", "red chess set please", "red chess set today", "blue mail", "blue mail"];
        let found = chosen(&corpus, &["red chess set", "blue mail server"], sampling(2, 0));
        assert_eq!(found.iter().filter(|text| text.contains("chess")).count(), 1, "{found:?}");
        assert_eq!(found.iter().filter(|text| text.contains("mail")).count(), 1, "{found:?}");
        let found = chosen(&corpus, &["red chess set", "blue mail server"], sampling(5, 0));
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn texts_that_differ_in_numbers_alone_are_one() {
        let corpus = ["order 17 was sent", "order 18 was sent", "order 1,900 was sent", "the order came late"];
        assert_eq!(chosen(&corpus, &["my order"], sampling(4, 0)).len(), 2);
    }

    #[test]
    fn the_seed_decides_between_equals() {
        let corpus: Vec<String> = (0..200).map(|i| format!("chess w{}", "abcdefghij".repeat(i + 1))).collect();
        let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
        let found = |seed| chosen(&corpus, &["chess"], sampling(5, seed));
        assert_eq!(found(1), found(1));
        assert_ne!(found(1), found(2));
    }

    #[test]
    fn a_corpus_is_read_twice_and_its_errors_are_passed_on() {
        let opened = Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            Ok(["a b", "a c"].into_iter().map(Ok))
        };
        assert_eq!(near(open, |text| text, &["a"], sampling(9, 0)).unwrap().len(), 2);
        assert_eq!(opened.get(), 2);
        let broken = || Ok([Ok("a"), Err(crate::error::Error::bad_input("line 2"))].into_iter());
        assert_eq!(near(broken, |text| text, &["a"], sampling(9, 0)).unwrap_err().message(), "line 2");
    }

    /// The texts of the demo: three topics of fifteen are requested, by 16 texts each at most.
    #[test]
    fn of_real_texts_most_are_of_the_domains_topics() {
        #[derive(serde::Deserialize)]
        struct Line {
            text: String,
            label: String,
        }
        let read = |name: &str| -> Vec<(String, String)> {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).map(|l: Line| (l.text, l.label)).collect()
        };
        let topics = ["games", "mail", "sound"];
        let mut domain = read("sections-calib.jsonl");
        domain.retain(|(_, label)| topics.contains(&label.as_str()));
        let corpus = read("sections-eval.jsonl");
        let found = near(|| Ok(corpus.iter().cloned().map(Ok)), |(text, _)| text, &domain, sampling(30, 7)).unwrap();
        assert_eq!(found.len(), 30);
        let of = |label: &str| found.iter().filter(|(_, found)| found == label).count();
        let right: usize = topics.iter().map(|topic| of(topic)).sum();
        // A uniform sample would have 6 of them.
        assert!(right >= 18, "{right} of 30");
        assert!(topics.iter().all(|topic| of(topic) >= 3), "{:?}", topics.map(of));
    }
}
