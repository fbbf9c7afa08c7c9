//! What a model says of texts of which it is known what it should say: more than it answers, as far as that is needed to
//! score it.

use std::ops::Range;

use super::batches::{Tokenized, mean};
use super::{
    Pipeline, Predicted, Prediction, TokenScore, UNWATCHED, Word, batches, check, classes, one, token_scores, tokens,
    vectors, words,
};
use crate::error::{Error, Result};
use crate::runtime::TextInput;
use crate::task::Task;

impl Pipeline {
    /// Every word of a text with its label, whether it is part of an entity or not: words at the places `given`, in
    /// characters and in order, each with the label of its first token; or those of the tokenizer, as the options'
    /// aggregation reads them. Fails where the model is not for token classification.
    pub fn words(&mut self, text: &str, given: Option<&[Range<usize>]>) -> Result<Predicted<Vec<Word>>> {
        let asked = self.asked(text.into(), Task::TokenClassification)?;
        let Pipeline { engine, encoder, model, options, .. } = self;
        let tokens = tokens::Head { encoder, model, settings: &options.settings };
        one(batches(encoder, model, options).run(&mut **engine, &[asked], &words::Head { tokens, given })?)
    }

    /// What the model thinks of the tokens that the masks of a text stand for, by their numbers in the vocabulary, which
    /// [`targets`](super::targets) finds. Fails where the model is not for masked tokens, or a mask has no token.
    pub fn token_scores(&mut self, text: &str, targets: &[u32]) -> Result<Predicted<Vec<TokenScore>>> {
        let asked = self.asked(text.into(), Task::FillMask)?;
        let Pipeline { engine, encoder, model, options, .. } = self;
        one(batches(encoder, model, options).run(&mut **engine, &[asked], &token_scores::Head { encoder, targets })?)
    }

    /// The logits of a text or a pair. One that is read in several windows has those whose scores are what the scores of
    /// its windows become; their sum is not known, which changes no score. Fails where the model is not for text
    /// classification.
    pub fn logits(&mut self, input: TextInput) -> Result<Predicted<Vec<f32>>> {
        let asked = self.asked(input, Task::TextClassification)?;
        let Pipeline { engine, encoder, model, options, .. } = self;
        let head = classes::Logits(classes::Head::new(model, &options.settings));
        one(batches(encoder, model, options).run(&mut **engine, &[asked], &head)?)
    }

    /// How alike two texts are by their vectors, as the settings have it: the vectors that a model for sentence
    /// similarity gives, or the means of those that a model for feature extraction gives to the tokens, those around the
    /// text too. Fails for models of other tasks.
    pub fn similarity(&mut self, text: &str, pair: &str) -> Result<f32> {
        let compared = match self.task() {
            Task::SentenceSimilarity => self.predict(TextInput { text, pair: Some(pair) })?,
            _ => {
                let how = self.options.settings.similarity.unwrap_or_default();
                vectors::similarity(how, &self.mean_of_tokens(text)?, &self.mean_of_tokens(pair)?)
            }
        };
        match compared.answer {
            Prediction::Similarity { score } => Ok(score),
            _ => Err(Error::bug("a pair was not compared")),
        }
    }

    fn mean_of_tokens(&mut self, text: &str) -> Result<Predicted> {
        let asked = self.asked(text.into(), Task::FeatureExtraction)?;
        let answered = one(self.predict_checked(&[asked.input], &UNWATCHED)?)?;
        Ok(match answered.answer {
            Prediction::Features { features, .. } => {
                let weighted: Vec<(Vec<f32>, usize)> = features.into_iter().map(|vector| (vector, 1)).collect();
                Predicted { answer: Prediction::Vector { embedding: mean(&weighted) }, ..answered }
            }
            _ => answered,
        })
    }

    fn asked<'a>(&self, input: TextInput<'a>, task: Task) -> Result<Tokenized<'a>> {
        if self.task() != task {
            return Err(Error::bad_input(format!("the model is for {}, not for {task}", self.task())));
        }
        check(task, input)?;
        one(self.encode(&[input], &UNWATCHED)?)
    }
}
