//! The shapes that a compiled engine takes, in the words of recipes and of the command line.
//!
//! A profile is one or several ranges, `NAME=MIN..OPT..MAX` with sizes as in `1x8..8x128..32x512`, separated by commas.
//! A range without a name is that of every input that has none. `MIN..MAX` is fastest at its end, and one shape alone
//! is the only one. TensorRT takes several profiles, each with its own kernels.
//!
//! [`PAST`] is no input: it says how many tokens the cache of a decoder holds, as in `1x1..4x1..8x1,past=1..512..1024`. The
//! mask then covers these and the new tokens, and there may be none: `1x1..1x128..8x1024,past=0`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, printable};

/// The range of tokens in a cache, by the name that it has in profiles.
pub const PAST: &str = "past";

/// A profile: at least one range, no input twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Shapes(Vec<ShapeRange>);

/// The shapes of one input, or of every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeRange {
    /// The input; none for every one that no other range names.
    pub input: Option<String>,
    /// The smallest, size by size.
    pub min: Vec<i64>,
    /// The sizes that the engine is tuned for.
    pub opt: Vec<i64>,
    /// The largest.
    pub max: Vec<i64>,
}

/// Batches and lengths that NVIDIA publishes latencies of BERT on a T4 for.
const T4: [&str; 2] = ["1x128..8x128..64x128", "1x384..8x384..64x384"];

impl Shapes {
    /// Batches up to 32 of texts up to so many tokens.
    pub fn up_to(max_length: usize) -> Shapes {
        let shape = |batch: i64, length: usize| vec![batch, i64::try_from(length.min(max_length)).unwrap_or(i64::MAX)];
        Shapes(vec![ShapeRange { input: None, min: shape(1, 8), opt: shape(8, 128), max: shape(32, max_length) }])
    }

    /// A profile to begin texts of up to so many tokens with, and one to continue them token by token.
    pub fn decoding_up_to(max_length: usize) -> Vec<Shapes> {
        let most = i64::try_from(max_length).unwrap_or(i64::MAX).max(2);
        let tokens = |min: [i64; 2], opt: [i64; 2], max: [i64; 2]| ShapeRange {
            input: None,
            min: min.to_vec(),
            opt: opt.to_vec(),
            max: max.to_vec(),
        };
        let past = |min: i64, opt: i64, max: i64| ShapeRange {
            input: Some(PAST.to_owned()),
            min: vec![min],
            opt: vec![opt],
            max: vec![max],
        };
        let begin = vec![tokens([1, 1], [1, most.min(128)], [8, most]), past(0, 0, 0)];
        let go_on = vec![tokens([1, 1], [1, 1], [8, 1]), past(1, most / 2, most - 1)];
        vec![Shapes(begin), Shapes(go_on)]
    }

    /// The profiles that a text names: one, or those of the preset `t4`.
    pub fn profiles(text: &str) -> Result<Vec<Shapes>> {
        match text {
            "t4" => T4.iter().map(|profile| profile.parse()).collect(),
            profile => Ok(vec![profile.parse()?]),
        }
    }

    /// The ranges.
    pub fn ranges(&self) -> &[ShapeRange] {
        &self.0
    }
}

impl FromStr for Shapes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Shapes> {
        let wrong = |what: String| {
            Error::bad_input(format!("shapes `{}`: {what}", printable(text)))
                .hint("write batch and length as in 1x8..8x128..32x512, input_ids=8x128, or the preset t4")
        };
        let mut ranges: Vec<ShapeRange> = Vec::new();
        for part in text.split(',') {
            let range = range(part.trim()).map_err(wrong)?;
            if ranges.iter().any(|other| other.input == range.input) {
                let name = range.input.map_or_else(|| "range without a name".to_owned(), |name| format!("`{name}`"));
                return Err(wrong(format!("duplicate {name}")));
            }
            ranges.push(range);
        }
        Ok(Shapes(ranges))
    }
}

fn range(text: &str) -> Result<ShapeRange, String> {
    let (input, sizes) = match text.split_once('=') {
        Some(("", _)) => return Err("a name is missing before `=`".to_owned()),
        Some((name, sizes)) => (Some(name.to_owned()), sizes),
        None => (None, text),
    };
    let least = i64::from(input.as_deref() != Some(PAST));
    let shapes = sizes.split("..").map(|text| shape(text, least)).collect::<Result<Vec<_>, _>>()?;
    let (min, opt, max) = match shapes.as_slice() {
        [only] => (only, only, only),
        [min, max] => (min, max, max),
        [min, opt, max] => (min, opt, max),
        _ => return Err(format!("{} shapes, expected smallest, fastest at and largest", shapes.len())),
    };
    let ordered = |a: &[i64], b: &[i64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a <= b);
    if !ordered(min, opt) || !ordered(opt, max) {
        return Err("smallest, fastest at and largest must have as many sizes, and rise".to_owned());
    }
    Ok(ShapeRange { input, min: min.clone(), opt: opt.clone(), max: max.clone() })
}

fn shape(text: &str, least: i64) -> Result<Vec<i64>, String> {
    let size = |size: &str| size.parse::<i64>().ok().filter(|size| (least..=1 << 24).contains(size));
    text.split('x').map(size).collect::<Option<_>>().ok_or_else(|| format!("`{}` is no shape", printable(text)))
}

impl fmt::Display for Shapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = |shape: &[i64]| shape.iter().map(i64::to_string).collect::<Vec<_>>().join("x");
        for (i, ShapeRange { input, min, opt, max }) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            input.iter().try_for_each(|name| write!(f, "{name}="))?;
            match min == max {
                true => write!(f, "{}", sizes(min))?,
                false => write!(f, "{}..{}..{}", sizes(min), sizes(opt), sizes(max))?,
            }
        }
        Ok(())
    }
}

impl From<Shapes> for String {
    fn from(shapes: Shapes) -> String {
        shapes.to_string()
    }
}

impl TryFrom<String> for Shapes {
    type Error = Error;

    fn try_from(text: String) -> Result<Shapes> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_printed_as_they_are_read() {
        for text in [
            "1x1..4x1..8x1,past=0..512..1024",
            "1x8..8x128..32x512",
            "8x128",
            "input_ids=1x8..1x8..4x8,7",
            "a=1,b=2..3..4",
        ] {
            assert_eq!(text.parse::<Shapes>().unwrap().to_string(), text);
        }
        assert_eq!("1x8..4x8".parse::<Shapes>().unwrap().to_string(), "1x8..4x8..4x8");
        assert_eq!(Shapes::up_to(512).to_string(), "1x8..8x128..32x512");
        assert_eq!(Shapes::up_to(4).to_string(), "1x4..8x4..32x4");
        let decoding: Vec<String> = Shapes::decoding_up_to(64).iter().map(Shapes::to_string).collect();
        assert_eq!(decoding, ["1x1..1x64..8x64,past=0", "1x1..1x1..8x1,past=1..32..63"]);
        let t4: Vec<String> = Shapes::profiles("t4").unwrap().iter().map(Shapes::to_string).collect();
        assert_eq!(t4, T4);
    }

    #[test]
    fn invalid_profiles_have_a_reason() {
        let said = |text: &str| text.parse::<Shapes>().unwrap_err().message().to_owned();
        assert_eq!(said(""), "shapes ``: `` is no shape");
        assert_eq!(said("1xtwo"), "shapes `1xtwo`: `1xtwo` is no shape");
        assert_eq!(said("0x8"), "shapes `0x8`: `0x8` is no shape");
        let order = "smallest, fastest at and largest must have as many sizes, and rise";
        assert_eq!(said("8x128..1x8"), format!("shapes `8x128..1x8`: {order}"));
        assert_eq!(said("1x8..8"), format!("shapes `1x8..8`: {order}"));
        assert_eq!(said("a=1,a=2"), "shapes `a=1,a=2`: duplicate `a`");
        assert_eq!(said("1,2"), "shapes `1,2`: duplicate range without a name");
        assert_eq!(said("=1"), "shapes `=1`: a name is missing before `=`");
        assert!(said("1..2..3..4").ends_with("4 shapes, expected smallest, fastest at and largest"));
    }
}
