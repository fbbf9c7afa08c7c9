//! A classifier's labels, and how its logits are read.

use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{CommonConfig, StatedProblem, labels};
use crate::front::hub::load::Model;
use crate::front::hub::load::tokenizer;
use crate::observer::Observer;
use crate::recipe::Recipe;
use crate::runtime::{Classes, ProblemType};
use crate::task::Task;

/// The labels and the reading of a model's logits; no labels where the task has none.
pub(super) fn of(recipe: &Recipe, model: &Model, observer: &dyn Observer) -> Result<Classes> {
    if !model.task.has_labels() {
        return Ok(Classes::default());
    }
    let logits = model.graph().outputs().first().and_then(|id| model.graph().value(*id).ty.shape.last()?.fixed());
    let logits = logits.ok_or_else(|| Error::bug("a classifier's number of labels is not known"))?;
    let problem_type = match model.task {
        Task::TextClassification => {
            problem_type(recipe.problem_type, &model.checkpoint.common, activation(model), logits)?
        }
        _ => ProblemType::SingleLabel,
    };
    // Numbers are returned without names.
    let summary = matches!(problem_type, ProblemType::SingleLabel | ProblemType::MultiLabel);
    Ok(Classes { labels: labels(recipe, model, logits, summary, observer)?, problem_type })
}

/// A cross-encoder's activation, as a class of `torch.nn`.
#[derive(Clone, Copy)]
struct Activation<'a> {
    class: &'a str,
    /// The file and the field of it.
    location: &'static str,
}

/// A model's activation, where sentence-transformers sets it: since version 5.4 in a separate file, before
/// that in `config.json`.
fn activation(model: &Model) -> Option<Activation<'_>> {
    let modules = tokenizer::sentence(&model.checkpoint, model.task);
    let own = modules.and_then(|modules| modules.model.activation_fn.as_deref());
    own.map(|class| Activation { class, location: "config_sentence_transformers.json: activation_fn" }).or_else(|| {
        let class = model.checkpoint.common.cross_encoder_activation()?;
        Some(Activation { class, location: "config.json: sentence_transformers.activation_fn" })
    })
}

/// How a row of so many logits is read. A single logit is a cross-encoder's score unless something else is said, and
/// a cross-encoder's own fields override those of `transformers`.
fn problem_type(
    asked: Option<StatedProblem>,
    config: &CommonConfig,
    activation: Option<Activation>,
    logits: usize,
) -> Result<ProblemType> {
    if let (None, Some(Activation { class, location })) = (asked, activation) {
        let known = class.strip_prefix("torch.nn.").and_then(|path| path.rsplit('.').next());
        return match (known, logits) {
            (Some("Sigmoid"), 1) => Ok(ProblemType::Score),
            (Some("Sigmoid"), _) => Ok(ProblemType::MultiLabel),
            (Some("Identity"), 1) => Ok(ProblemType::Regression),
            (Some("Identity"), _) => Ok(ProblemType::Logits),
            (Some("Softmax"), 2..) => Ok(ProblemType::SingleLabel),
            (Some("Softmax"), _) => Err(Error::bad_input("the softmax of a single number is always 1").at(location)),
            _ => Err(Error::unsupported(format!(
                "the activation `{}` of a cross-encoder is not known",
                printable(class)
            ))
            .at(location)
            .hint("known: Sigmoid, Identity and Softmax of torch.nn; with `problem_type` in a recipe it is not read")),
        };
    }
    Ok(match (asked.or(config.problem_type), logits) {
        (Some(StatedProblem::MultiLabelClassification), _) => ProblemType::MultiLabel,
        (Some(StatedProblem::Regression), _) => ProblemType::Regression,
        (_, 1) => ProblemType::Score,
        _ => ProblemType::SingleLabel,
    })
}

/// The labels: the recipe's, or the checkpoint's where their number is right.
fn labels(
    recipe: &Recipe,
    model: &Model,
    logits: usize,
    summary: bool,
    observer: &dyn Observer,
) -> Result<Vec<String>> {
    let Some(path) = &recipe.labels else {
        let (labels, warnings) = model.checkpoint.common.labels_of(logits);
        warnings.iter().filter(|_| summary).for_each(|warning| observer.warn(warning));
        return Ok(labels);
    };
    let labels = labels::read(path)?;
    match labels.len() == logits {
        true => Ok(labels),
        false => {
            let what = format!("{} labels, but the classifier has {logits} classes", labels.len());
            Err(Error::bad_input(what).at(path.display().to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn read(config: &str, class: Option<&str>, logits: usize) -> Result<ProblemType> {
        let activation = class.map(|class| Activation { class, location: "a.json: activation_fn" });
        problem_type(None, &json::parse(config, "config.json").unwrap(), activation, logits)
    }

    #[test]
    fn the_configuration_and_the_number_of_logits_decide_the_problem_type() {
        let regression = r#"{"problem_type": "regression"}"#;
        let many = r#"{"problem_type": "multi_label_classification"}"#;
        let cases = [
            ("{}", 3, ProblemType::SingleLabel),
            ("{}", 1, ProblemType::Score),
            (r#"{"problem_type": "single_label_classification"}"#, 3, ProblemType::SingleLabel),
            (many, 3, ProblemType::MultiLabel),
            (regression, 1, ProblemType::Regression),
            (regression, 2, ProblemType::Regression),
        ];
        for (config, logits, expected) in cases {
            assert_eq!(read(config, None, logits).unwrap(), expected, "{config} with {logits}");
        }
    }

    #[test]
    fn a_cross_encoders_activation_overrides_the_configuration() {
        let cases = [
            ("torch.nn.modules.activation.Sigmoid", 1, ProblemType::Score),
            ("torch.nn.modules.activation.Sigmoid", 3, ProblemType::MultiLabel),
            ("torch.nn.modules.linear.Identity", 1, ProblemType::Regression),
            ("torch.nn.modules.linear.Identity", 3, ProblemType::Logits),
            ("torch.nn.modules.activation.Softmax", 3, ProblemType::SingleLabel),
        ];
        let regression = r#"{"problem_type": "regression"}"#;
        for (class, logits, expected) in cases {
            assert_eq!(read(regression, Some(class), logits).unwrap(), expected, "{class} of {logits}");
        }
        let asked = Some(StatedProblem::MultiLabelClassification);
        let identity = Activation { class: "torch.nn.Identity", location: "" };
        let config = json::parse("{}", "config.json").unwrap();
        assert_eq!(problem_type(asked, &config, Some(identity), 1).unwrap(), ProblemType::MultiLabel);
    }

    #[test]
    fn an_activation_that_is_not_known_is_refused_by_name() {
        for class in ["torch.nn.modules.activation.Tanh", "evil.Sigmoid"] {
            let error = read("{}", Some(class), 1).unwrap_err();
            assert_eq!(error.message(), format!("the activation `{class}` of a cross-encoder is not known"));
            assert_eq!(error.locations(), ["a.json: activation_fn"]);
        }
        let error = read("{}", Some("torch.nn.modules.activation.Softmax"), 1).unwrap_err();
        assert_eq!(error.message(), "the softmax of a single number is always 1");
    }
}
