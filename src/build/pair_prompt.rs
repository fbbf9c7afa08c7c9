//! The prompt of rerankers that are language models: what a chat template puts around a query and a document.

use serde_json::{Map, Value, json};

use crate::bundle;
use crate::error::{Error, Result};
use crate::front::hub::checkpoint::Messages;
use crate::front::hub::load::Model;
use crate::front::hub::load::tokenizer;
use crate::json::sorted;
use crate::runtime::chat::{Chat, ChatTemplates};
use crate::settings::{PairPrompt, Settings};

/// The two texts of a pair that the template is rendered with. The second pair shows whether it looks into them.
const FILLERS: [[&str; 2]; 2] = [["<query>", "<document>"], [" A \u{201c}query\u{201d}.\n ", "\n the document, "]];

/// The prompt of a model's pairs; none where they are read without messages. Fails where the template does more than to put
/// text around the two.
pub(super) fn of(model: &Model) -> Result<Option<PairPrompt>> {
    let Some(modules) = tokenizer::sentence(&model.checkpoint, model.task) else { return Ok(None) };
    let Some(messages) = &modules.encoder_config.messages else { return Ok(None) };
    let templates = bundle::chat_templates(&model.tokenizer.folder)?;
    let system = modules.model.prompt()?.map(|prompt| prompt.text);
    let rendered = |fillers| around(&templates, messages, system.as_deref(), fillers);
    let [first, second] = [rendered(FILLERS[0])?, rendered(FILLERS[1])?];
    let fixed = first.filter(|first| Some(first) == second.as_ref());
    fixed.map(Some).ok_or_else(|| {
        Error::unsupported("the chat template does not have query and document as they are, once and in this order")
            .hint("messages have the roles `query` and `document`; a template that changes their texts is not built")
    })
}

/// The settings of a bundle with such a prompt: a document that is too long loses its end, unless windows are asked for.
pub(super) fn settings(pipeline: Settings, prompt: Option<&PairPrompt>) -> Settings {
    let Settings { window, stride, truncate, join, .. } = pipeline;
    match prompt.is_some() && (window, stride, truncate, join) == (None, None, None, None) {
        true => Settings { truncate: Some(true), ..pipeline },
        false => pipeline,
    }
}

/// What is around two texts in a rendered chat; none where it does not have them as they are, once and in this order.
fn around(
    templates: &ChatTemplates,
    messages: &Messages,
    system: Option<&str>,
    [query, document]: [&str; 2],
) -> Result<Option<PairPrompt>> {
    let content = |text: &str| match messages.structured {
        true => json!([{"type": "text", "text": text}]),
        false => json!(text),
    };
    let message = |(role, text)| json!({"role": role, "content": content(text)});
    let roles = system.map(|text| ("system", text)).into_iter().chain([("query", query), ("document", document)]);
    let mut chat = Map::from_iter([("add_generation_prompt".to_owned(), Value::Bool(false))]);
    chat.extend(messages.arguments.clone());
    chat.insert("messages".to_owned(), roles.map(message).collect());
    let text = templates.render(&Chat::parse(&sorted(chat).to_string(), "the chat of a pair")?)?;
    if [query, document].iter().any(|filler| text.matches(filler).count() != 1) {
        return Ok(None);
    }
    let parts = text.split_once(query).and_then(|(before, rest)| Some((before, rest.split_once(document)?)));
    let prompt = |(before, (between, after)): (&str, (&str, &str))| PairPrompt {
        before: before.to_owned(),
        between: between.to_owned(),
        after: after.to_owned(),
    };
    Ok(parts.map(prompt))
}
