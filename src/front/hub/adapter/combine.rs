//! One change of several adapters', by the ways of PEFT's `add_weighted_adapter`.
//!
//! Without any of these, adapters are merged one after another, which adds their changes up. That equals `cat`,
//! too. `linear` adds up the factors instead of their products; `ties` and `magnitude_prune` first drop the smallest
//! elements and `dare_…` random ones; `ties` and `dare_ties` leave out those whose sign is not the majority's. `svd`
//! and `…_svd` work on the products, and keep their largest singular values.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::begin::begin;
use super::file::Adapter;
use super::lora::{self, Change, Changes};
use super::work::Work;
use super::{AdapterSource, Merged};
use crate::error::{Error, Result, printable};
use crate::ir::{Majority, Weight};

/// How several changes of one weight become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Join {
    /// The sum of the products.
    Cat,
    /// The sum.
    Sum,
    /// The election of TIES.
    Elect,
}

/// What is dropped before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drop {
    Nothing,
    Smallest,
    Random,
}

/// A way to combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    name: &'static str,
    join: Join,
    drop: Drop,
    /// Whether the products are combined, and cut to a rank, rather than their factors.
    svd: bool,
}

const fn method(name: &'static str, join: Join, drop: Drop, svd: bool) -> Method {
    Method { name, join, drop, svd }
}

/// Every way there is, by PEFT's names.
pub static METHODS: [Method; 11] = [
    method("linear", Join::Sum, Drop::Nothing, false),
    method("cat", Join::Cat, Drop::Nothing, false),
    method("svd", Join::Sum, Drop::Nothing, true),
    method("ties", Join::Elect, Drop::Smallest, false),
    method("ties_svd", Join::Elect, Drop::Smallest, true),
    method("dare_linear", Join::Sum, Drop::Random, false),
    method("dare_linear_svd", Join::Sum, Drop::Random, true),
    method("dare_ties", Join::Elect, Drop::Random, false),
    method("dare_ties_svd", Join::Elect, Drop::Random, true),
    method("magnitude_prune", Join::Sum, Drop::Smallest, false),
    method("magnitude_prune_svd", Join::Sum, Drop::Smallest, true),
];

impl Method {
    /// Whether elements are dropped at random.
    pub fn is_random(&self) -> bool {
        self.drop == Drop::Random
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Method> {
        METHODS.into_iter().find(|method| method.name == text).ok_or_else(|| {
            let names = METHODS.map(|method| method.name);
            let error =
                Error::bad_input(format!("unknown combination `{}`; known: {}", printable(text), names.join(", ")));
            error.hint_nearest(text, names)
        })
    }
}

/// A way to combine, and its options.
#[derive(Clone, Debug, PartialEq)]
pub struct Combine {
    method: Method,
    density: f64,
    majority: Majority,
    rank: Option<usize>,
    seed: u64,
}

/// The options as the user set them; each belongs to some methods only.
#[derive(Clone, Copy, Debug, Default)]
pub struct CombineOptions {
    /// The share of elements that stays.
    pub density: Option<f64>,
    /// How the sign of the majority is found.
    pub majority: Option<Majority>,
    /// The rank of the result; the largest of the adapters', if not set.
    pub rank: Option<usize>,
    /// The seed of random elements; 0, if not set.
    pub seed: Option<u64>,
}

impl Combine {
    /// Fails where an option that the method needs is missing, or one is set that it does not have.
    pub fn new(method: Method, options: CombineOptions) -> Result<Combine> {
        let drops = method.drop != Drop::Nothing;
        let given = [
            ("--density", options.density.is_some(), drops),
            ("--majority", options.majority.is_some(), method.join == Join::Elect),
            ("--rank", options.rank.is_some(), method.svd),
            ("--seed", options.seed.is_some(), method.is_random()),
        ];
        if let Some((option, ..)) = given.iter().find(|(_, given, belongs)| *given && !belongs) {
            return Err(Error::bad_input(format!("{option} does not belong to --combine {method}")));
        }
        let density = options.density.unwrap_or(1.0);
        if drops && options.density.is_none() {
            return Err(Error::bad_input(format!("--combine {method} needs --density"))
                .hint("the share of elements to keep, e.g. --density 0.5"));
        }
        if !(density > 0.0 && density <= 1.0) {
            return Err(Error::bad_input(format!("--density is a share above 0 and up to 1, found {density}")));
        }
        if options.rank == Some(0) {
            return Err(Error::bad_input("--rank must be 1 or more, found 0"));
        }
        Ok(Combine {
            method,
            density,
            majority: options.majority.unwrap_or(Majority::Total),
            rank: options.rank,
            seed: options.seed.unwrap_or(0),
        })
    }

    /// Merges the combination of the adapters' changes, and the tensors that each of them saved whole.
    pub(super) fn merge(
        &self,
        work: &mut Work,
        adapters: &[Adapter],
        sources: &[AdapterSource],
    ) -> Result<Vec<Merged>> {
        if adapters.len() < 2 {
            return Err(Error::bad_input(format!("--combine {} needs two adapters or more", self.method)));
        }
        let (mut merged, mut changes) = (Vec::new(), Vec::new());
        for (adapter, source) in adapters.iter().zip(sources) {
            let read = combinable(adapter).and_then(|read| begin(work, adapter).map(|()| read));
            let read = read.map_err(|e| e.at(source.dir.display().to_string()))?;
            work.merged.changed = read.modules.len();
            merged.push(std::mem::take(&mut work.merged));
            changes.push(read);
        }
        let rank = self.rank.or(changes.iter().map(|read| read.largest_rank).max()).unwrap_or_default();
        for (module, parts) in by_module(work, &changes) {
            let location = format!("--combine {}: {}", self.method, printable(&module));
            self.merge_module(work, &module, &parts, rank).map_err(|e| e.at(location))?;
        }
        Ok(merged)
    }

    fn merge_module(&self, work: &mut Work, module: &str, parts: &[(usize, &Change)], rank: usize) -> Result<()> {
        let Some((_, first)) = parts.first() else { return Ok(()) };
        if self.method.join == Join::Cat {
            return parts.iter().try_for_each(|(_, change)| lora::merge_module(work, module, change));
        }
        if self.method.svd {
            let products = parts.iter().map(|(i, change)| {
                let product = Weight::sum(vec![(change.own, change.left()?.product(&change.right()?)?)])?;
                Ok((change.given, product, self.seed_of(*i, module)))
            });
            let joined = self.join(products.collect::<Result<_>>()?)?.low_rank(rank)?;
            return work.change(module, |base| Weight::sum(vec![(1.0, base.clone()), (1.0, joined)]));
        }
        let (a, b) = if first.embedding { ("lora_embedding_A", "lora_embedding_B") } else { ("lora_A", "lora_B") };
        // Each factor takes the root of the strength, and A its sign.
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        for (i, change) in parts {
            let strength = f64::from(change.given) * f64::from(change.own);
            let (root, sign) = (strength.abs().sqrt() as f32, if strength < 0.0 { -1.0 } else { 1.0 });
            of_a.push((root * sign, change.a.clone(), self.seed_of(*i, &format!("{module}.{a}"))));
            of_b.push((root, change.b.clone(), self.seed_of(*i, &format!("{module}.{b}"))));
        }
        let (a, b) = (self.join(of_a).map_err(one_rank)?, self.join(of_b).map_err(one_rank)?);
        let joined = Change { a, b, own: 1.0, given: 1.0, embedding: first.embedding, magnitude: None, bias: None };
        lora::merge_module(work, module, &joined)
    }

    /// Joins terms, each with its factor and the seed of its dropped elements.
    fn join(&self, terms: Vec<(f32, Weight, u64)>) -> Result<Weight> {
        let terms = terms.into_iter().map(|(c, weight, seed)| {
            Ok(match self.method.drop {
                Drop::Nothing => (c, weight),
                Drop::Smallest => (c, weight.prune(self.density, None)?),
                // The rest is scaled up for the dropped elements.
                Drop::Random => (c / self.density as f32, weight.prune(self.density, Some(seed))?),
            })
        });
        let terms = terms.collect::<Result<_>>()?;
        if self.method.join == Join::Elect { Weight::elect(self.majority, terms) } else { Weight::sum(terms) }
    }

    /// The seed of one tensor: FNV-1a over `SEED:POSITION:NAME`, so that no two tensors drop the same elements.
    fn seed_of(&self, position: usize, name: &str) -> u64 {
        let text = format!("{}:{position}:{name}", self.seed);
        text.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }
}

impl fmt::Display for Combine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        if self.method.drop != Drop::Nothing {
            write!(f, ", density {}", self.density)?;
        }
        if self.method.join == Join::Elect {
            write!(f, ", majority by {}", self.majority)?;
        }
        if let Some(rank) = self.rank {
            write!(f, ", rank {rank}")?;
        }
        if self.method.drop == Drop::Random {
            write!(f, ", seed {}", self.seed)?;
        }
        Ok(())
    }
}

/// The changes of an adapter, if they can be combined with others'.
fn combinable(adapter: &Adapter) -> Result<Changes> {
    if adapter.kind.peft_type != lora::KIND.peft_type {
        return Err(Error::unsupported(format!("an adapter of type {} cannot be combined", adapter.kind.peft_type))
            .hint("without --combine, adapters are merged one after another"));
    }
    let changes = lora::changes(adapter)?;
    for (module, change) in &changes.modules {
        let what = match (&change.magnitude, &change.bias) {
            (Some(_), _) => "DoRA",
            (_, Some(_)) => "lora_bias",
            _ => continue,
        };
        return Err(Error::unsupported(format!("{what} cannot be combined"))
            .at(adapter.location(module))
            .hint("without --combine, adapters are merged one after another"));
    }
    Ok(changes)
}

/// The changes of every module, with the positions of the adapters that have one.
fn by_module<'a>(work: &Work, changes: &'a [Changes]) -> BTreeMap<String, Vec<(usize, &'a Change)>> {
    let mut modules: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (i, read) in changes.iter().enumerate() {
        for (module, change) in &read.modules {
            let name = work.name(module, "weight");
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            modules.entry(module.to_owned()).or_default().push((i, change));
        }
    }
    modules
}

fn one_rank(error: Error) -> Error {
    error.hint("this way of combining needs adapters of one rank; cat and svd take any")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(method: &str, options: CombineOptions) -> String {
        let made = method.parse().and_then(|method| Combine::new(method, options));
        made.map_or_else(|e| e.message().to_owned(), |made| made.to_string())
    }

    #[test]
    fn options_belong_to_the_methods_that_have_them() {
        let none = CombineOptions::default();
        assert_eq!(made("linear", none), "linear");
        assert_eq!(made("ties", none), "--combine ties needs --density");
        let density = CombineOptions { density: Some(0.5), ..none };
        assert_eq!(made("ties", density), "ties, density 0.5, majority by total");
        assert_eq!(made("dare_linear", density), "dare_linear, density 0.5, seed 0");
        assert_eq!(made("cat", density), "--density does not belong to --combine cat");
        assert_eq!(made("svd", CombineOptions { rank: Some(4), ..none }), "svd, rank 4");
        assert_eq!(made("svd", CombineOptions { rank: Some(0), ..none }), "--rank must be 1 or more, found 0");
        assert_eq!(
            made("linear", CombineOptions { seed: Some(1), ..none }),
            "--seed does not belong to --combine linear"
        );
        let majority = CombineOptions { majority: Some(Majority::Frequency), ..density };
        assert_eq!(made("magnitude_prune", majority), "--majority does not belong to --combine magnitude_prune");
        for wrong in [0.0, -0.5, 1.5, f64::NAN] {
            let said = made("ties", CombineOptions { density: Some(wrong), ..none });
            assert_eq!(said, format!("--density is a share above 0 and up to 1, found {wrong}"));
        }
        assert!(made("tise", none).starts_with("unknown combination `tise`; known: linear, cat, svd, ties, "));
    }
}
