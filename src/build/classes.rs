//! What a classifier can answer, and how its logits are read.

use super::{Model, Observer, tokenizer};
use crate::error::{Error, Result, printable};
use crate::front::hub::checkpoint::{CommonConfig, ProblemType, labels};
use crate::recipe::Recipe;
use crate::runtime::{Classes, Reading};
use crate::task::Task;

/// The labels and the reading of a model's logits; no labels where the task has none.
pub(super) fn of(recipe: &Recipe, model: &Model, observer: &dyn Observer) -> Result<Classes> {
    if !model.task.has_labels() {
        return Ok(Classes::default());
    }
    let logits = model.graph.outputs().first().and_then(|id| model.graph.value(*id).ty.shape.last()?.fixed());
    let logits = logits.ok_or_else(|| Error::bug("a classifier's number of labels is not known"))?;
    let reading = match model.task {
        Task::TextClassification => reading(recipe.problem_type, &model.checkpoint.common, activation(model), logits)?,
        _ => Reading::OneLabel,
    };
    // Numbers are told without their names.
    let told = matches!(reading, Reading::OneLabel | Reading::ManyLabels);
    Ok(Classes { labels: labels(recipe, model, logits, told, observer)?, reading })
}

/// What a cross-encoder does to its logits, as a class of `torch.nn`.
#[derive(Clone, Copy)]
struct Activation<'a> {
    class: &'a str,
    /// The file and the field that say it.
    place: &'static str,
}

/// What is done to a model's logits, where sentence-transformers says it: since version 5.4 in a file of its own, before
/// that in `config.json`.
fn activation(model: &Model) -> Option<Activation<'_>> {
    let modules = tokenizer::sentence(&model.checkpoint, model.task);
    let own = modules.and_then(|modules| modules.model.activation_fn.as_deref());
    own.map(|class| Activation { class, place: "config_sentence_transformers.json: activation_fn" }).or_else(|| {
        let class = model.checkpoint.common.cross_encoder_activation()?;
        Some(Activation { class, place: "config.json: sentence_transformers.activation_fn" })
    })
}

/// How a row of so many logits is read. A single logit is a cross-encoder's score unless something else is said, and
/// what a cross-encoder says of itself goes before what `transformers` says.
fn reading(
    asked: Option<ProblemType>,
    config: &CommonConfig,
    activation: Option<Activation>,
    logits: usize,
) -> Result<Reading> {
    if let (None, Some(Activation { class, place })) = (asked, activation) {
        let known = class.strip_prefix("torch.nn.").and_then(|path| path.rsplit('.').next());
        return match (known, logits) {
            (Some("Sigmoid"), 1) => Ok(Reading::Score),
            (Some("Sigmoid"), _) => Ok(Reading::ManyLabels),
            (Some("Identity"), 1) => Ok(Reading::Numbers),
            (Some("Identity"), _) => Ok(Reading::Logits),
            (Some("Softmax"), 2..) => Ok(Reading::OneLabel),
            (Some("Softmax"), _) => Err(Error::bad_input("the softmax of a single number is always 1").at(place)),
            _ => Err(Error::unsupported(format!(
                "the activation `{}` of a cross-encoder is not known",
                printable(class)
            ))
            .at(place)
            .hint("known: Sigmoid, Identity and Softmax of torch.nn; with `problem_type` in a recipe it is not asked")),
        };
    }
    Ok(match (asked.or(config.problem_type), logits) {
        (Some(ProblemType::MultiLabelClassification), _) => Reading::ManyLabels,
        (Some(ProblemType::Regression), _) => Reading::Numbers,
        (_, 1) => Reading::Score,
        _ => Reading::OneLabel,
    })
}

/// The labels: the recipe's, or the checkpoint's where their number is right.
fn labels(recipe: &Recipe, model: &Model, logits: usize, told: bool, observer: &dyn Observer) -> Result<Vec<String>> {
    let Some(path) = &recipe.labels else {
        let (labels, warnings) = model.checkpoint.common.labels_of(logits);
        warnings.iter().filter(|_| told).for_each(|warning| observer.warn(warning));
        return Ok(labels);
    };
    let labels = labels::read(path)?;
    match labels.len() == logits {
        true => Ok(labels),
        false => {
            let what = format!("{} labels, but the classifier has {logits} answers", labels.len());
            Err(Error::bad_input(what).at(path.display().to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::hub::checkpoint::json;

    fn read(config: &str, class: Option<&str>, logits: usize) -> Result<Reading> {
        let activation = class.map(|class| Activation { class, place: "a.json: activation_fn" });
        reading(None, &json::parse(config, "config.json").unwrap(), activation, logits)
    }

    #[test]
    fn the_configuration_and_the_number_of_logits_say_how_they_are_read() {
        let regression = r#"{"problem_type": "regression"}"#;
        let many = r#"{"problem_type": "multi_label_classification"}"#;
        let cases = [
            ("{}", 3, Reading::OneLabel),
            ("{}", 1, Reading::Score),
            (r#"{"problem_type": "single_label_classification"}"#, 3, Reading::OneLabel),
            (many, 3, Reading::ManyLabels),
            (regression, 1, Reading::Numbers),
            (regression, 2, Reading::Numbers),
        ];
        for (config, logits, expected) in cases {
            assert_eq!(read(config, None, logits).unwrap(), expected, "{config} with {logits}");
        }
    }

    #[test]
    fn a_cross_encoders_activation_goes_before_the_configuration() {
        let cases = [
            ("torch.nn.modules.activation.Sigmoid", 1, Reading::Score),
            ("torch.nn.modules.activation.Sigmoid", 3, Reading::ManyLabels),
            ("torch.nn.modules.linear.Identity", 1, Reading::Numbers),
            ("torch.nn.modules.linear.Identity", 3, Reading::Logits),
            ("torch.nn.modules.activation.Softmax", 3, Reading::OneLabel),
        ];
        let regression = r#"{"problem_type": "regression"}"#;
        for (class, logits, expected) in cases {
            assert_eq!(read(regression, Some(class), logits).unwrap(), expected, "{class} of {logits}");
        }
        let asked = Some(ProblemType::MultiLabelClassification);
        let identity = Activation { class: "torch.nn.Identity", place: "" };
        let config = json::parse("{}", "config.json").unwrap();
        assert_eq!(reading(asked, &config, Some(identity), 1).unwrap(), Reading::ManyLabels);
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
