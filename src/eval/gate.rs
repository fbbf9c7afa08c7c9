//! Bounds that a build has to keep.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::greedy::Greedy;
use super::parity::Parity;
use crate::error::{Error, Result, printable};
use crate::runtime::ProblemType;
use crate::task::id::Task;

/// The measure of the tokens that are generated.
const GREEDY: &str = "greedy";

/// The bounds for one engine. A bound that is not set is not checked; non-finite outputs never pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Smallest share of texts with the reference's prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Smallest cosine of any text's output to the reference's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Largest difference of any output element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_abs: Option<f64>,
    /// Largest loss of accuracy against the reference, e.g. 0.005 for half a point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy_drop: Option<f64>,
    /// Smallest share of greedy tokens that are the reference's, of a model that generates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greedy: Option<f64>,
}

/// One bound, and the measured value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The output that it was measured on, where an engine has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The measure.
    pub measure: String,
    /// The measured value.
    pub found: f64,
    /// The bound, where one was demanded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// Whether it holds.
    pub passed: bool,
}

impl Gate {
    /// Holds the tokens that a decoder generates against the bound.
    pub fn check_greedy(&self, greedy: Greedy) -> Check {
        let (found, bound) = (greedy.share(), self.greedy);
        let passed = bound.is_none_or(|bound| found >= bound);
        Check { output: None, measure: GREEDY.to_owned(), found, bound, passed }
    }

    /// Holds a parity, and a loss of accuracy where texts had labels, against the bounds.
    pub fn check(&self, parity: &Parity, accuracy_drop: Option<f64>) -> Vec<Check> {
        let at_least = |measure: &str, found: f64, bound: Option<f64>| Check {
            output: None,
            measure: measure.to_owned(),
            found,
            bound,
            passed: bound.is_none_or(|bound| found >= bound),
        };
        let at_most = |measure: &str, found: f64, bound: Option<f64>| Check {
            output: None,
            measure: measure.to_owned(),
            found,
            bound,
            passed: bound.is_none_or(|bound| found <= bound),
        };
        // Where texts have no labels, a changed prediction counts as a lost one.
        let kept = self.accuracy_drop.filter(|_| accuracy_drop.is_none()).map(|drop| 1.0 - drop);
        let agreement = [self.agreement, kept].into_iter().flatten().reduce(f64::max);
        let mut checks: Vec<Check> =
            parity.agreement.map(|found| at_least("agreement", found, agreement)).into_iter().collect();
        checks.push(at_least("cosine", parity.min_cosine, self.cosine));
        checks.push(at_most("max_abs", parity.max_abs, self.max_abs));
        checks.push(at_most("non_finite", parity.non_finite as f64, Some(0.0)));
        checks.extend(accuracy_drop.map(|drop| at_most("accuracy_drop", drop, self.accuracy_drop)));
        checks
    }

    /// The bounds, where each can be met and missed.
    pub fn in_range(self) -> Result<Gate> {
        let shares = [
            ("agreement", self.agreement),
            ("cosine", self.cosine),
            ("accuracy_drop", self.accuracy_drop),
            (GREEDY, self.greedy),
        ];
        let shares = shares.map(|(name, bound)| (name, bound, 1.0, "from 0 to 1"));
        let all = shares.into_iter().chain([("max_abs", self.max_abs, f64::MAX, "of 0 or more")]);
        for (name, bound, most, expected) in all {
            if let Some(bound) = bound.filter(|bound| !(0.0..=most).contains(bound)) {
                return Err(Error::bad_input(format!(
                    "the bound of `{name}` must be a number {expected}, found {bound}"
                )));
            }
        }
        Ok(self)
    }

    /// Refuses bounds that mean nothing for this problem type.
    pub fn check_problem_type(&self, problem_type: ProblemType) -> Result<()> {
        let bounds = [("agreement", self.agreement), ("accuracy_drop", self.accuracy_drop)];
        let is_regression = matches!(problem_type, ProblemType::Regression | ProblemType::Score);
        match bounds.iter().find(|(_, bound)| bound.is_some() && is_regression) {
            None => Ok(()),
            Some((measure, _)) => Err(Error::bad_input(format!("a bound on `{measure}` means nothing for regression"))
                .hint("bound max_abs, the largest difference of any number")),
        }
    }

    /// Refuses a bound on generated tokens for a model that generates none.
    pub fn check_task(&self, task: Task) -> Result<()> {
        match self.greedy {
            Some(_) if task != Task::TextGeneration => Err(Error::bad_input(format!(
                "a bound on `{GREEDY}` means nothing for {task}, which generates no tokens"
            ))),
            _ => Ok(()),
        }
    }

    /// Takes the bounds of `other` where it has any.
    pub fn overridden_by(self, other: Gate) -> Gate {
        Gate {
            agreement: other.agreement.or(self.agreement),
            cosine: other.cosine.or(self.cosine),
            max_abs: other.max_abs.or(self.max_abs),
            accuracy_drop: other.accuracy_drop.or(self.accuracy_drop),
            greedy: other.greedy.or(self.greedy),
        }
    }
}

impl std::str::FromStr for Gate {
    type Err = Error;

    /// Reads `agreement=0.985,accuracy_drop=0.005`.
    fn from_str(text: &str) -> Result<Gate> {
        const KNOWN: [&str; 5] = ["agreement", "cosine", "max_abs", "accuracy_drop", GREEDY];
        let mut gate = Gate::default();
        for part in text.split(',').map(str::trim) {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                Error::bad_input(format!("`{}` is no bound", printable(part)))
                    .hint("write agreement=0.985,accuracy_drop=0.005")
            })?;
            let bound: f64 = value.trim().parse().map_err(|_| {
                let (name, value) = (printable(name), printable(value));
                Error::bad_input(format!("the bound of `{name}` must be a number, found `{value}`"))
            })?;
            match name.trim() {
                "agreement" => gate.agreement = Some(bound),
                "cosine" => gate.cosine = Some(bound),
                "max_abs" => gate.max_abs = Some(bound),
                "accuracy_drop" => gate.accuracy_drop = Some(bound),
                GREEDY => gate.greedy = Some(bound),
                other => {
                    let error =
                        Error::bad_input(format!("unknown bound `{}`; known: {}", printable(other), KNOWN.join(", ")));
                    return Err(error.hint_nearest(other, KNOWN));
                }
            }
        }
        gate.in_range()
    }
}

impl Check {
    /// The measure, after the output that it was taken of, where there are several.
    pub fn name(&self) -> String {
        self.output.iter().map(String::as_str).chain([self.measure.as_str()]).collect::<Vec<_>>().join(" ")
    }

    /// The relation of the measured value to its bound.
    pub fn sign(&self) -> &'static str {
        if matches!(self.measure.as_str(), "agreement" | "cosine" | GREEDY) { "≥" } else { "≤" }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            None => write!(f, "{} {}", self.name(), short(self.found)),
            Some(bound) => {
                write!(f, "{} {} ({} {})", self.name(), short(self.found), self.sign(), short(bound))
            }
        }
    }
}

/// A number as people read it: four digits, or powers of ten where it is tiny.
pub fn short(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:.1e}") } else { format!("{}", (x * 1e4).round() / 1e4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_and_checked() {
        let gate: Gate = "agreement=0.985, accuracy_drop=0.005,cosine=0.95".parse().unwrap();
        let parity = Parity { rows: 100, agreement: Some(0.98), max_abs: 1.0, min_cosine: 0.9, non_finite: 0 };
        let failed: Vec<_> = gate.check(&parity, Some(0.001)).into_iter().filter(|c| !c.passed).collect();
        assert_eq!(failed.len(), 2);
        assert_eq!(failed[0].to_string(), "agreement 0.98 (≥ 0.985)");
        assert_eq!(failed[1].to_string(), "cosine 0.9 (≥ 0.95)");
    }

    #[test]
    fn outputs_that_are_not_finite_never_pass() {
        let parity = Parity { rows: 1, agreement: Some(1.0), max_abs: 0.0, min_cosine: 1.0, non_finite: 1 };
        assert!(Gate::default().check(&parity, None).iter().any(|c| !c.passed));
    }

    #[test]
    fn generated_tokens_are_bounded_where_there_are_any() {
        let gate: Gate = "greedy=0.9".parse().unwrap();
        let check = gate.check_greedy(Greedy { texts: 1, tokens: 8, equal: 7, ties: 0 });
        assert_eq!((check.to_string().as_str(), check.passed), ("greedy 0.875 (≥ 0.9)", false));
        assert!(Gate::default().check_greedy(Greedy::default()).passed);
        gate.check_task(Task::TextGeneration).unwrap();
        let error = gate.check_task(Task::FillMask).unwrap_err();
        assert_eq!(error.message(), "a bound on `greedy` means nothing for fill-mask, which generates no tokens");
    }

    #[test]
    fn bounds_that_mean_nothing_are_refused() {
        let gate: Gate = "agreement=0.9".parse().unwrap();
        gate.check_problem_type(ProblemType::MultiLabel).unwrap();
        let error = gate.check_problem_type(ProblemType::Regression).unwrap_err();
        assert_eq!(error.message(), "a bound on `agreement` means nothing for regression");
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| text.parse::<Gate>().unwrap_err().to_string();
        assert_eq!(
            message("agrement=1"),
            "unknown bound `agrement`; known: agreement, cosine, max_abs, accuracy_drop, greedy\n\nhint: did you mean agreement?"
        );
        assert!(message("agreement=high").contains("must be a number"));
        assert!(message("agreement").contains("is no bound"));
        for (text, expected) in [
            ("agreement=2", "the bound of `agreement` must be a number from 0 to 1, found 2"),
            ("accuracy_drop=5", "the bound of `accuracy_drop` must be a number from 0 to 1, found 5"),
            ("cosine=-0.1", "the bound of `cosine` must be a number from 0 to 1, found -0.1"),
            ("greedy=1.5", "the bound of `greedy` must be a number from 0 to 1, found 1.5"),
            ("agreement=nan", "the bound of `agreement` must be a number from 0 to 1, found NaN"),
            ("max_abs=inf", "the bound of `max_abs` must be a number of 0 or more, found inf"),
            ("max_abs=-1", "the bound of `max_abs` must be a number of 0 or more, found -1"),
        ] {
            assert_eq!(message(text), expected);
        }
    }
}
