//! Every family, and which one a checkpoint is of.

use super::family::Family;
use super::{
    albert, bert, bloom, cohere, deberta, distilbert, electra, gemma, glm4, gpt_neox, gpt_oss, gpt2, granite, lfm2,
    llama, ministral, mistral, modernbert, mpnet, olmo2, openai_gpt, opt, phi, phi3, qwen, qwen_moe, roberta, smollm3,
    starcoder2, xlnet,
};
use crate::error::{Error, Result, by_nearness, nearest, printable};
use crate::front::hub::checkpoint::CommonConfig;

/// Every family there is.
pub static FAMILIES: &[Family] = &[
    albert::FAMILY,
    bert::FAMILY,
    bloom::FAMILY,
    roberta::CAMEMBERT,
    cohere::FAMILY,
    deberta::FAMILY,
    distilbert::FAMILY,
    electra::FAMILY,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    glm4::FAMILY,
    gpt2::FAMILY,
    gpt_neox::FAMILY,
    gpt_oss::FAMILY,
    granite::FAMILY,
    lfm2::FAMILY,
    llama::FAMILY,
    ministral::FAMILY,
    mistral::FAMILY,
    modernbert::FAMILY,
    mpnet::FAMILY,
    olmo2::FAMILY,
    openai_gpt::FAMILY,
    opt::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    qwen::QWEN2,
    qwen::QWEN3,
    qwen_moe::FAMILY,
    roberta::ROBERTA,
    smollm3::FAMILY,
    starcoder2::FAMILY,
    roberta::XLM_ROBERTA,
    xlnet::FAMILY,
];

/// The family of a checkpoint. Fails, naming the known ones, nearest first, where `model_type` is another.
pub fn family(common: &CommonConfig) -> Result<&'static Family> {
    let names = FAMILIES.iter().map(|family| family.model_type);
    let model_type = common.model_type.as_deref().unwrap_or_default();
    if let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) {
        return Ok(family);
    }
    let error = match &common.model_type {
        None => Error::bad_input("`model_type` is missing").at("config.json"),
        Some(other) => {
            Error::unsupported(format!("unknown model type `{}`", printable(other))).at("config.json: model_type")
        }
    };
    let near = nearest(model_type, names.clone()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    Err(error.hint(format!("{near}known, nearest first: {}", by_nearness(model_type, names).join(", "))))
}
