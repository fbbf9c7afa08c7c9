//! Sizes keep their value in every form.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{LARGEST, SizeError};
use crate::ir::Dim;
use crate::ir::text::parse_type;

/// An expression as it is written, and its value.
#[derive(Clone, Debug)]
enum Written {
    Number(i64),
    Symbol(usize),
    Plus(Box<Written>, Box<Written>),
    Minus(Box<Written>, Box<Written>),
    Times(Box<Written>, Box<Written>),
    Floor(Box<Written>, i64),
    Ceil(Box<Written>, i64),
    Max(Box<Written>, Box<Written>),
}

const NAMES: [&str; 3] = ["past_length", "b", "s"];

impl Written {
    fn text(&self) -> String {
        match self {
            Written::Number(n) => format!("({n})"),
            Written::Symbol(i) => NAMES[*i].to_owned(),
            Written::Plus(a, b) => format!("({} + {})", a.text(), b.text()),
            Written::Minus(a, b) => format!("({} - {})", a.text(), b.text()),
            Written::Times(a, b) => format!("({} * {})", a.text(), b.text()),
            Written::Floor(a, d) => format!("floor({}/{d})", a.text()),
            Written::Ceil(a, d) => format!("ceil({}/{d})", a.text()),
            Written::Max(a, b) => format!("max({}, {})", a.text(), b.text()),
        }
    }

    fn value(&self, symbols: [usize; 3]) -> i128 {
        let of = |x: &Written| x.value(symbols);
        match self {
            Written::Number(n) => i128::from(*n),
            Written::Symbol(i) => symbols[*i] as i128,
            Written::Plus(a, b) => of(a) + of(b),
            Written::Minus(a, b) => of(a) - of(b),
            Written::Times(a, b) => of(a) * of(b),
            Written::Floor(a, d) => of(a).div_euclid(i128::from(*d)),
            Written::Ceil(a, d) => -(-of(a)).div_euclid(i128::from(*d)),
            Written::Max(a, b) => of(a).max(of(b)),
        }
    }
}

fn written() -> impl Strategy<Value = Written> {
    let leaf = prop_oneof![(-20i64..20).prop_map(Written::Number), (0usize..3).prop_map(Written::Symbol)];
    leaf.prop_recursive(4, 16, 2, |inner| {
        let pair = || (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        let divided = || (inner.clone().prop_map(Box::new), 1i64..9);
        prop_oneof![
            pair().prop_map(|(a, b)| Written::Plus(a, b)),
            pair().prop_map(|(a, b)| Written::Minus(a, b)),
            pair().prop_map(|(a, b)| Written::Times(a, b)),
            divided().prop_map(|(a, d)| Written::Floor(a, d)),
            divided().prop_map(|(a, d)| Written::Ceil(a, d)),
            pair().prop_map(|(a, b)| Written::Max(a, b)),
        ]
    })
}

fn read(text: &str) -> Result<Dim, String> {
    let ty = parse_type(&format!("f32[{text}]")).map_err(|e| e.message().to_owned())?;
    Ok(ty.shape[0].clone())
}

/// Whether two expressions have one form. A product that no other has keeps them from being negative numbers.
fn one_form(a: &str, b: &str) -> Result<(), TestCaseError> {
    let more = "past_length*past_length*past_length*b*b*b*s*s*s*s*s*s*s";
    let [a, b] = [a, b].map(|text| read(&format!("{text} + {more}")));
    if let (Ok(a), Ok(b)) = (&a, &b) {
        prop_assert_eq!(a, b);
    }
    let limit = SizeError::TooLarge.to_string();
    prop_assert!([a, b].iter().all(|read| read.as_ref().err().is_none_or(|why| *why == limit)));
    Ok(())
}

/// Products, symbol by symbol, with their coefficients: a polynomial has one such table.
fn polynomial() -> impl Strategy<Value = Vec<([u32; 3], i64)>> {
    proptest::collection::vec(([0u32..2, 0u32..2, 0u32..3], -9i64..9), 1..4)
}

fn written_terms(terms: &[([u32; 3], i64)]) -> String {
    let term = |(powers, c): &([u32; 3], i64)| {
        let factors = NAMES.iter().zip(powers).flat_map(|(name, n)| vec![(*name).to_owned(); *n as usize]);
        std::iter::once(format!("({c})")).chain(factors).collect::<Vec<_>>().join("*")
    };
    terms.iter().map(term).collect::<Vec<_>>().join(" + ")
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn an_expression_keeps_its_value(
        expression in written(),
        runs in proptest::collection::vec([0usize..40, 0usize..40, 0usize..40], 8),
    ) {
        match read(&expression.text()) {
            Ok(dim) => {
                prop_assert_eq!(&read(&dim.to_string()), &Ok(dim.clone()), "{}", dim);
                for run in runs {
                    let place = |name: &str| NAMES.iter().position(|other| *other == name);
                    let found = dim.value(&|name| place(name).map(|i| run[i]));
                    prop_assert_eq!(found, usize::try_from(expression.value(run)).ok(), "{} at {:?}", dim, run);
                }
            }
            Err(why) if why == SizeError::Negative.to_string() => {
                prop_assert!(runs.iter().all(|run| expression.value(*run) < 0), "{}", expression.text());
            }
            Err(why) => {
                let limits = [SizeError::TooLarge, SizeError::Overflow].map(|limit| limit.to_string());
                prop_assert!(limits.contains(&why), "{}", why);
            }
        }
    }

    #[test]
    fn equal_polynomials_have_one_form(a in polynomial(), b in polynomial(), c in polynomial()) {
        let [a, b, c] = [a, b, c].map(|terms| written_terms(&terms));
        one_form(&format!("(({a}) + ({b}))*({c})"), &format!("({c})*({b}) + ({a})*({c})"))?;
        one_form(&format!("({a})*(({b})*({c}))"), &format!("(({a})*({b}))*({c})"))?;
    }

    #[test]
    fn divisions_and_maxima_that_are_equal_have_one_form(a in polynomial(), b in polynomial(), d in 1i64..9, e in 1i64..9) {
        let [a, b] = [a, b].map(|terms| written_terms(&terms));
        let both = d * e;
        for (one, other) in [
            (format!("floor((({a})*{d} + ({b}))/{d})"), format!("({a}) + floor(({b})/{d})")),
            (format!("floor((({a})*{e})/{both})"), format!("floor(({a})/{d})")),
            (format!("floor(floor(({a})/{d})/{e})"), format!("floor(({a})/{both})")),
            (format!("floor((floor(({a})/{d}) + ({b}))/{e})"), format!("floor(({a} + ({b})*{d})/{both})")),
            (format!("0 - ceil(({a})/{d})"), format!("floor((0 - ({a}))/{d})")),
            (format!("max(({a}) + ({b}), ({b}))"), format!("({b}) + max(0, {a})")),
            (format!("max(({a})*{d}, ({b})*{d})"), format!("max({b}, {a})*{d}")),
            (format!("max({a}, max({b}, {a}, s))"), format!("max(s, {a}, {b})")),
        ] {
            one_form(&one, &other)?;
        }
    }
}

#[test]
fn shapes_can_be_written() {
    let (past, s, b) = (Dim::from("past_sequence_length"), Dim::from("sequence_length"), Dim::from("b"));
    let all = s.plus(&past).unwrap();
    assert_eq!(all.to_string(), "past_sequence_length + sequence_length");
    assert_eq!((all.minus(&past).unwrap(), all.minus(&all).unwrap()), (s.clone(), Dim::Fixed(0)));
    let mut names = all.symbols().into_iter().map(|name| name.to_string()).collect::<Vec<_>>();
    names.sort();
    assert_eq!(names, ["past_sequence_length", "sequence_length"]);
    let decoder = Dim::from("decoder_sequence_length").plus("past_decoder_sequence_length").unwrap();
    assert_eq!(decoder.to_string(), "past_decoder_sequence_length + decoder_sequence_length");
    let windows = Dim::from("s").ceil_div(512).unwrap();
    assert_eq!(windows.times(512).unwrap().to_string(), "512*ceil(s/512)");
    assert_eq!(windows.value(&|_| Some(513)), Some(2));
    assert_eq!(Dim::from("s").min(512).unwrap().value(&|_| Some(600)), Some(512));
    assert_eq!(Dim::from("s").max(512).unwrap().value(&|_| Some(600)), Some(600));
    assert_eq!(Dim::product(&[b.clone(), s.clone(), 4.into()]).unwrap().to_string(), "4*b*sequence_length");
    assert_eq!(Dim::product(&[b.clone(), s.clone()]).unwrap().quotient(&b), Some(s.clone()));
    assert_eq!(s.quotient(&b), None);
    assert_eq!((Dim::Fixed(7).floor_div(2), Dim::Fixed(7).ceil_div(2)), (Ok(Dim::Fixed(3)), Ok(Dim::Fixed(4))));
}

#[test]
fn sizes_end_before_they_grow_without_bound() {
    assert_eq!(Dim::Fixed(usize::MAX).plus(1), Err(SizeError::Overflow));
    assert_eq!(Dim::Fixed(1 << 40).times(1 << 40), Err(SizeError::Overflow));
    assert_eq!(Dim::Fixed(2).minus(3), Err(SizeError::Negative));
    assert_eq!(Dim::from("s").floor_div(0), Err(SizeError::Zero));
    let mut size = Dim::from("s");
    let grown = (0..LARGEST).try_for_each(|i| {
        size = size.times(&size)?.plus(&*format!("s{i}"))?.floor_div(7)?;
        Ok(())
    });
    assert_eq!(grown, Err(SizeError::TooLarge));
}
