//! Which optimization profile of a plan takes inputs of given shapes.
//!
//! The ranges of a plan's profiles are known to the library, and its binding does not expose them; so profiles are tried
//! in the plan's own order, which is the recipe's: the first that takes the shapes is the one. The result is cached.

use std::collections::BTreeMap;

use crate::error::{Error, Result, printable};

/// The shapes of all inputs, in the plan's order.
pub(super) type Shapes = Vec<Vec<i64>>;

/// Shapes that are remembered at most.
const REMEMBERED: usize = 4096;

/// The profiles of a plan, and which was found to take which shapes.
pub(super) struct Profiles {
    count: i32,
    known: BTreeMap<Shapes, i32>,
}

impl Profiles {
    pub fn new(count: i32) -> Profiles {
        Profiles { count, known: BTreeMap::new() }
    }

    /// How many there are.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// The first profile that takes the shapes, which is then the one that `takes` was last called with. None takes them:
    /// `None`.
    pub fn choose(&mut self, shapes: &Shapes, mut takes: impl FnMut(i32) -> Result<bool>) -> Result<Option<i32>> {
        if let Some(profile) = self.known.get(shapes).copied()
            && takes(profile)?
        {
            return Ok(Some(profile));
        }
        for profile in 0..self.count {
            if takes(profile)? {
                self.remember(shapes, profile);
                return Ok(Some(profile));
            }
        }
        Ok(None)
    }

    fn remember(&mut self, shapes: &Shapes, profile: i32) {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(shapes.clone(), profile);
    }
}

/// Checks an input's shape against the plan's, in which -1 is any size.
pub(super) fn check(name: &str, wanted: &[i64], given: &[i64]) -> Result<()> {
    let fits = |(wanted, given): (&i64, &i64)| *given > 0 && (*wanted == -1 || wanted == given);
    match wanted.len() == given.len() && wanted.iter().zip(given).all(fits) {
        true => Ok(()),
        false => Err(Error::bad_input(format!(
            "the plan's input `{}` has the shape {}, found {}",
            printable(name),
            format_shape(wanted),
            format_shape(given)
        ))),
    }
}

/// The error for shapes that no profile takes.
pub(super) fn none_takes(names: &[&str], shapes: &Shapes, count: i32) -> Error {
    let asked: Vec<_> =
        names.iter().zip(shapes).map(|(name, shape)| format!("{}={}", printable(name), format_shape(shape))).collect();
    let profiles = if count == 1 { "the plan's profile takes no" } else { "none of the plan's profiles takes" };
    Error::bad_input(format!("{profiles} {}", asked.join(",")))
        .hint("the engine's `shapes` in the manifest list what it was compiled for; a recipe's `shapes` set it")
}

/// A shape as a recipe writes it; `*` is any size.
fn format_shape(shape: &[i64]) -> String {
    let size = |size: &i64| if *size == -1 { "*".to_owned() } else { size.to_string() };
    shape.iter().map(size).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches and lengths that a profile takes.
    const RANGES: [([i64; 2], [i64; 2]); 3] = [([1, 8], [1, 512]), ([1, 8], [32, 128]), ([1, 129], [32, 512])];

    fn chosen(profiles: &mut Profiles, shape: [i64; 2]) -> (Option<i32>, Vec<i32>) {
        let mut tried = Vec::new();
        let takes = |profile: i32| {
            tried.push(profile);
            let (min, max) = RANGES[profile as usize];
            Ok((0..2).all(|i| min[i] <= shape[i] && shape[i] <= max[i]))
        };
        let found = profiles.choose(&vec![shape.to_vec(); 3], takes).unwrap();
        (found, tried)
    }

    #[test]
    fn the_first_profile_that_takes_the_shapes_is_chosen_and_remembered() {
        let mut profiles = Profiles::new(3);
        assert_eq!(chosen(&mut profiles, [8, 384]), (Some(2), vec![0, 1, 2]));
        assert_eq!(chosen(&mut profiles, [8, 384]), (Some(2), vec![2]));
        // Another batch of one is not left to the profile that ran last.
        assert_eq!(chosen(&mut profiles, [1, 384]), (Some(0), vec![0]));
        assert_eq!(chosen(&mut profiles, [8, 128]), (Some(1), vec![0, 1]));
        assert_eq!(chosen(&mut profiles, [33, 128]), (None, vec![0, 1, 2]));
        assert_eq!(chosen(&mut profiles, [33, 128]), (None, vec![0, 1, 2]));
    }

    #[test]
    fn the_cached_shapes_are_bounded() {
        let mut profiles = Profiles::new(1);
        for n in 0..=REMEMBERED as i64 {
            assert_eq!(profiles.choose(&vec![vec![1, n]], |_| Ok(true)).unwrap(), Some(0));
        }
        assert_eq!(profiles.known.len(), 1);
    }

    #[test]
    fn a_failure_while_trying_is_no_refusal() {
        let mut profiles = Profiles::new(2);
        let failed = profiles.choose(&vec![vec![1, 8]], |_| Err(Error::bug("the stream is gone")));
        assert_eq!(failed.unwrap_err().message(), "the stream is gone");
    }

    #[test]
    fn shapes_are_compared_with_the_plans_own() {
        assert!(check("input_ids", &[-1, -1], &[2, 16]).is_ok());
        let said = |wanted: &[i64], given: &[i64]| check("pixels", wanted, given).unwrap_err().to_string();
        assert_eq!(said(&[-1, 3], &[2, 4]), "the plan's input `pixels` has the shape *x3, found 2x4");
        assert_eq!(said(&[-1, -1], &[2]), "the plan's input `pixels` has the shape *x*, found 2");
        assert_eq!(said(&[-1, -1], &[0, 8]), "the plan's input `pixels` has the shape *x*, found 0x8");
        let none = none_takes(&["input_ids", "attention_mask"], &vec![vec![64, 600]; 2], 2);
        assert_eq!(none.message(), "none of the plan's profiles takes input_ids=64x600,attention_mask=64x600");
        assert!(none_takes(&["x"], &vec![vec![1]], 1).message().starts_with("the plan's profile takes no x=1"));
    }
}
