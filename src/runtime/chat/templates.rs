//! The templates of a model: one, or several by name.

use super::messages::Chat;
use super::special::SpecialToken;
use super::template::ChatTemplate;
use crate::error::{Error, Result, printable};

/// The template of messages with tools, where there are several.
const WITH_TOOLS: &str = "tool_use";

/// The template of all others.
const DEFAULT: &str = "default";

/// A template as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// Its name; `default` where there is one alone.
    pub name: String,
    /// Its text.
    pub text: String,
    /// What messages call its file.
    pub file: String,
}

/// All templates of a model, and the special tokens that they may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    /// The templates, each of another name.
    pub templates: Vec<NamedTemplate>,
    /// The tokens.
    pub special: Vec<SpecialToken>,
}

impl ChatTemplates {
    /// The template for a chat, as `transformers` chooses: `tool_use` for one with tools where there is such a one, else
    /// `default`.
    ///
    /// # Errors
    /// Bad input: a model without a template, or without one of that name; a template that does not parse.
    pub fn of_chat(&self, chat: &Chat) -> Result<ChatTemplate> {
        let named = |name: &str| self.templates.iter().find(|template| template.name == name);
        let template = chat.has_tools().then(|| named(WITH_TOOLS)).flatten().or_else(|| named(DEFAULT));
        match template {
            Some(template) => self.parsed(template),
            None if self.templates.is_empty() => Err(Error::bad_input("the model has no chat template").hint(
                "models that are trained on chats have one, as chat_template.jinja or in tokenizer_config.json; \
                 --prompt continues a text",
            )),
            None => {
                let names: Vec<String> = self.templates.iter().map(|template| printable(&template.name)).collect();
                let what =
                    format!("no chat template of the model is named `{DEFAULT}`; there are {}", names.join(", "));
                Err(Error::bad_input(what))
            }
        }
    }

    /// The text that a chat becomes.
    ///
    /// # Errors
    /// Bad input: those of [`ChatTemplates::of_chat`] and [`ChatTemplate::render`]; no text at all.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        let text = self.of_chat(chat)?.render(chat)?;
        if text.is_empty() {
            return Err(Error::bad_input("the chat template makes no text of the messages"));
        }
        Ok(text)
    }

    /// What is wrong with each template that does not parse.
    pub fn malformed(&self) -> impl Iterator<Item = Error> {
        self.templates.iter().filter_map(|template| self.parsed(template).err())
    }

    fn parsed(&self, template: &NamedTemplate) -> Result<ChatTemplate> {
        ChatTemplate::parse(&template.text, &template.file, self.special.clone())
    }
}
