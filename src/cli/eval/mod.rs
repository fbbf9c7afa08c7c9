//! `kilnc eval`: scores a bundle on labelled texts.

mod args;
mod classes;
mod engines;
mod entities;
mod masks;
mod pairs;
mod perplexity;
mod questions;

use super::Screen;
use kilnc::bundle::Bundle;
use kilnc::error::Result;
use kilnc::task::Task;

pub use args::EvalArgs;

pub fn run(args: EvalArgs, screen: &Screen) -> Result<()> {
    let bundle = Bundle::open(&args.bundle)?;
    args.trust.check(&bundle, screen)?;
    args.check(bundle.manifest.task)?;
    match bundle.manifest.task {
        Task::TextClassification => engines::score(&classes::Data::read(&args, &bundle)?, &args, &bundle, screen),
        Task::TokenClassification => engines::score(&entities::Data::read(&args, &bundle)?, &args, &bundle, screen),
        Task::QuestionAnswering => engines::score(&questions::Data::read(&args, &bundle)?, &args, &bundle, screen),
        Task::FillMask => engines::score(&masks::Data::read(&args, &bundle)?, &args, &bundle, screen),
        Task::TextGeneration => engines::score(&perplexity::Data::read(&args, &bundle)?, &args, &bundle, screen),
        Task::SentenceSimilarity | Task::FeatureExtraction => {
            engines::score(&pairs::Data::read(&args, &bundle)?, &args, &bundle, screen)
        }
    }
}
