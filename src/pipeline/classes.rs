//! What a classifier can answer, and how its logits are read.

use super::{Model, Observer};
use crate::checkpoint::{CommonConfig, ProblemType, labels};
use crate::error::{Error, Result, printable};
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
        Task::TextClassification => reading(recipe.problem_type, &model.checkpoint.common, logits)?,
        _ => Reading::OneLabel,
    };
    // Numbers are told without their names.
    let told = matches!(reading, Reading::OneLabel | Reading::ManyLabels);
    Ok(Classes { labels: labels(recipe, model, logits, told, observer)?, reading })
}

/// How a row of so many logits is read. A single logit is a cross-encoder's score unless something else is said, and
/// what a cross-encoder says of itself goes before what `transformers` says.
fn reading(asked: Option<ProblemType>, config: &CommonConfig, logits: usize) -> Result<Reading> {
    if let (None, 1, Some(class)) = (asked, logits, config.cross_encoder_activation()) {
        return match class.strip_prefix("torch.nn.").and_then(|path| path.rsplit('.').next()) {
            Some("Sigmoid") => Ok(Reading::Score),
            Some("Identity") => Ok(Reading::Numbers),
            _ => Err(Error::unsupported(format!(
                "the activation `{}` of a cross-encoder is not known",
                printable(class)
            ))
            .at("config.json: sentence_transformers.activation_fn")
            .hint("known: Sigmoid and Identity of torch.nn")),
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
    use crate::checkpoint::json;

    fn read(config: &str, logits: usize) -> Result<Reading> {
        reading(None, &json::parse(config, "config.json").unwrap(), logits)
    }

    #[test]
    fn the_configuration_and_the_number_of_logits_say_how_they_are_read() {
        let activation =
            |class: &str| format!(r#"{{"sentence_transformers": {{"activation_fn": "torch.nn.{class}"}}}}"#);
        let old = r#"{"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}"#;
        let regression = r#"{"problem_type": "regression"}"#;
        let cases = [
            ("{}", 3, Reading::OneLabel),
            ("{}", 1, Reading::Score),
            (r#"{"problem_type": "single_label_classification"}"#, 3, Reading::OneLabel),
            (r#"{"problem_type": "multi_label_classification"}"#, 3, Reading::ManyLabels),
            (regression, 1, Reading::Numbers),
            (regression, 2, Reading::Numbers),
            (&activation("modules.activation.Sigmoid"), 1, Reading::Score),
            (&activation("modules.linear.Identity"), 1, Reading::Numbers),
            // Where there are labels to choose from, the activation does not change the choice.
            (&activation("modules.linear.Identity"), 3, Reading::OneLabel),
            (old, 1, Reading::Numbers),
        ];
        for (config, logits, expected) in cases {
            assert_eq!(read(config, logits).unwrap(), expected, "{config} with {logits}");
        }
        let config = json::parse(&activation("modules.linear.Identity"), "config.json").unwrap();
        assert_eq!(reading(Some(ProblemType::MultiLabelClassification), &config, 1).unwrap(), Reading::ManyLabels);
    }

    #[test]
    fn an_activation_that_is_not_known_is_refused() {
        for class in ["torch.nn.modules.activation.Tanh", "evil.Sigmoid"] {
            let error = read(&format!(r#"{{"sbert_ce_default_activation_function": "{class}"}}"#), 1).unwrap_err();
            assert_eq!(error.message(), format!("the activation `{class}` of a cross-encoder is not known"));
        }
    }
}
