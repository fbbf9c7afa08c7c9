//! The messages of a chat, as JSON has them, and what a template reads beside them.

use std::collections::BTreeMap;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, printable};
use crate::json;

/// What messages must be.
const FORM: &str = "a chat is a list of messages such as {\"role\": \"user\", \"content\": \"…\"}, or an object with such a \
                    list as `messages`, and `tools` and `documents` as the template reads them";

/// Kinds of content that are no text.
const NO_TEXT: [&str; 6] = ["image", "image_url", "input_image", "video", "audio", "input_audio"];

/// Arguments of `apply_chat_template` that are no variables of a template.
const ARGUMENTS: [&str; 4] = ["chat_template", "continue_final_message", "return_assistant_tokens_mask", "tokenize"];

/// Messages that a model replies to, and the variables of its template beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct Chat {
    messages: Vec<Value>,
    tools: Option<Value>,
    documents: Option<Value>,
    generation_prompt: bool,
    more: BTreeMap<String, Value>,
}

/// A chat as a file has it.
enum Form {
    Messages(Vec<Value>),
    Fields(Vec<(String, Value)>),
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Form, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Form;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of messages, or an object with one")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Form, A::Error> {
                let mut messages = Vec::new();
                while let Some(message) = seq.next_element()? {
                    messages.push(message);
                }
                Ok(Form::Messages(messages))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Form, A::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        // The name of a line, which is no variable.
                        "id" => drop(map.next_value::<IgnoredAny>()?),
                        _ => fields.push((name, map.next_value()?)),
                    }
                }
                Ok(Form::Fields(fields))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Chat {
    /// Reads a chat of JSON: a list of messages, or an object with `messages` and what a template reads beside them
    /// (`tools`, `documents`, and variables of its own). `file` is what errors call it.
    ///
    /// # Errors
    /// Bad input: JSON that is none of these; a message without `role`, or without anything to read.
    pub fn parse(text: &str, file: &str) -> Result<Chat> {
        let chat = match json::parse(text, file)? {
            Form::Messages(messages) => Chat::new(messages),
            Form::Fields(fields) => Chat::of_fields(fields),
        };
        chat.map_err(|e| e.at(file.to_owned()))
    }

    /// Of messages alone.
    fn new(messages: Vec<Value>) -> Result<Chat> {
        let chat = Chat { messages, tools: None, documents: None, generation_prompt: true, more: BTreeMap::new() };
        chat.check()?;
        Ok(chat)
    }

    fn of_fields(fields: Vec<(String, Value)>) -> Result<Chat> {
        let mut more: BTreeMap<String, Value> = fields.into_iter().collect();
        let mut take = |name: &str| more.remove(name).filter(|value| !value.is_none());
        let messages = take("messages").ok_or_else(|| Error::bad_input("there is no `messages`").hint(FORM))?;
        let messages = list_of("messages", &messages)?;
        let (tools, documents) = (take("tools"), take("documents"));
        for (name, list) in [("tools", &tools), ("documents", &documents)] {
            let of_objects = list.as_ref().map(|list| list_of(name, list)).transpose()?.unwrap_or_default();
            check_objects(name, &of_objects)?;
            of_objects.iter().try_for_each(|item| check_numbers(item).map_err(|e| e.at(name.to_owned())))?;
        }
        let generation_prompt = match take("add_generation_prompt") {
            None => true,
            Some(value) if value.kind() == ValueKind::Bool => value.is_true(),
            Some(other) => {
                return Err(Error::bad_input(format!("`add_generation_prompt` is {}, no true or false", a(&other))));
            }
        };
        if let Some(name) = ARGUMENTS.iter().find(|name| more.contains_key(**name)) {
            return Err(Error::unsupported(format!("`{name}` is not done: the model replies to whole messages")));
        }
        more.iter().try_for_each(|(name, value)| check_numbers(value).map_err(|e| e.at(printable(name))))?;
        let chat = Chat { messages, tools, documents, generation_prompt, more };
        chat.check()?;
        Ok(chat)
    }

    /// Puts a message of the system before the others.
    ///
    /// # Errors
    /// Bad input: the messages begin with one already.
    pub fn with_system(mut self, text: &str) -> Result<Chat> {
        let first = self.messages.first().and_then(|first| first.get_attr("role").ok());
        if let Some(role) = first.as_ref().and_then(Value::as_str).filter(|role| ["system", "developer"].contains(role))
        {
            return Err(Error::bad_input(format!("the messages begin with one of the role `{role}` already"))
                .hint("leave --system or that message out"));
        }
        self.messages.insert(0, Value::from_pairs([("role", "system"), ("content", text)]));
        Ok(self)
    }

    /// Whether it has tools.
    pub fn has_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// The text of the last message; nothing where that is no text.
    pub fn last(&self) -> String {
        let content = self.messages.last().and_then(|last| last.get_attr("content").ok());
        content.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Names that a template has to read: without that they would count for nothing.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        let tools = self.tools.as_ref().map(|_| "tools");
        let documents = self.documents.as_ref().map(|_| "documents");
        tools.into_iter().chain(documents).chain(self.more.keys().map(String::as_str))
    }

    /// Its variables for a template.
    pub(super) fn context(&self) -> Vec<(String, Value)> {
        let or_none = |value: &Option<Value>| value.clone().unwrap_or_else(|| Value::from(()));
        let own = [
            ("messages", self.messages.iter().cloned().collect::<Value>()),
            ("tools", or_none(&self.tools)),
            ("documents", or_none(&self.documents)),
            ("add_generation_prompt", self.generation_prompt.into()),
        ];
        let more = self.more.iter().map(|(name, value)| (name.clone(), value.clone()));
        more.chain(own.map(|(name, value)| (name.to_owned(), value))).collect()
    }

    fn check(&self) -> Result<()> {
        if self.messages.is_empty() {
            return Err(Error::bad_input("there are no messages").hint(FORM));
        }
        let check = |(number, message): (usize, &Value)| {
            let checked = check_message(message).and_then(|()| check_numbers(message));
            checked.map_err(|e| e.at(format!("message {}", number + 1)))
        };
        self.messages.iter().enumerate().try_for_each(check)
    }
}

/// A kind of value, with its article.
fn a(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => "null".to_owned(),
        ValueKind::Bool => "a truth value".to_owned(),
        ValueKind::Number => "a number".to_owned(),
        ValueKind::String => "a text".to_owned(),
        ValueKind::Seq => "a list".to_owned(),
        ValueKind::Map => "an object".to_owned(),
        other => format!("a value of kind {other}"),
    }
}

fn list_of(name: &str, value: &Value) -> Result<Vec<Value>> {
    match (value.kind(), value.try_iter()) {
        (ValueKind::Seq, Ok(items)) => Ok(items.collect()),
        _ => Err(Error::bad_input(format!("`{name}` is {}, not a list", a(value))).hint(FORM)),
    }
}

fn check_objects(name: &str, items: &[Value]) -> Result<()> {
    match items.iter().position(|item| item.kind() != ValueKind::Map) {
        None => Ok(()),
        Some(number) => Err(Error::bad_input(format!("`{name}` has an item that is no object, number {}", number + 1))),
    }
}

/// A field of an object; none where it is missing or null.
fn field(object: &Value, name: &str) -> Option<Value> {
    object.get_attr(name).ok().filter(|value| !value.is_none() && !value.is_undefined())
}

fn check_message(message: &Value) -> Result<()> {
    if message.kind() != ValueKind::Map {
        return Err(Error::bad_input(format!("a message is {}, not an object", a(message))).hint(FORM));
    }
    match field(message, "role") {
        Some(role) if role.as_str().is_some() => {}
        Some(role) => return Err(Error::bad_input(format!("the message's `role` is {}, not a text", a(&role)))),
        None => return Err(Error::bad_input("the message has no `role`").hint(FORM)),
    }
    let Some(content) = field(message, "content") else {
        // A message may call tools and say nothing.
        let calls =
            ["tool_calls", "function_call"].iter().any(|name| field(message, name).is_some_and(|v| v.is_true()));
        return if calls { Ok(()) } else { Err(Error::bad_input("the message has no `content`").hint(FORM)) };
    };
    match content.kind() {
        ValueKind::String | ValueKind::Map => Ok(()),
        ValueKind::Seq => list_of("content", &content)?.iter().try_for_each(check_part),
        _ => Err(Error::bad_input(format!("the message's `content` is {}, not a text or a list", a(&content)))),
    }
}

/// A part of a message's content. A model of texts reads no pictures, whatever a template writes for them.
fn check_part(part: &Value) -> Result<()> {
    let kind = field(part, "type");
    match kind.as_ref().and_then(Value::as_str).filter(|kind| NO_TEXT.contains(kind)) {
        Some(kind) => Err(Error::unsupported(format!(
            "the message's `content` has a part of type `{kind}`; the model reads texts"
        ))),
        None => Ok(()),
    }
}

/// Whole numbers past 64 bits were rounded when they were read, which Python does not.
fn check_numbers(value: &Value) -> Result<()> {
    match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone()).unwrap_or_default();
            match number.fract() == 0.0 && number.abs() >= 9_223_372_036_854_775_808.0 {
                true => Err(Error::unsupported(format!("the number {number:e} is beyond 64 bits"))),
                false => Ok(()),
            }
        }
        ValueKind::Seq => list_of("list", value)?.iter().try_for_each(check_numbers),
        ValueKind::Map => {
            let keys = value.try_iter().map_err(|e| Error::bug(format!("an object has no keys: {e}")))?;
            keys.into_iter().filter_map(|key| value.get_item(&key).ok()).try_for_each(|item| check_numbers(&item))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_that_no_template_can_read_are_refused_by_message() {
        for (text, expected) in [
            ("7", "chat.json: invalid type: integer `7`, expected a list of messages, or an object with one"),
            ("[]", "there are no messages\n  in chat.json"),
            ("{}", "there is no `messages`\n  in chat.json"),
            (r#"{"messages": "hi"}"#, "`messages` is a text, not a list\n  in chat.json"),
            (r#"["hi"]"#, "a message is a text, not an object\n  in message 1\n  in chat.json"),
            (r#"[{"content": "hi"}]"#, "the message has no `role`\n  in message 1"),
            (r#"[{"role": 1, "content": "hi"}]"#, "the message's `role` is a number, not a text"),
            (
                r#"[{"role": "user", "content": "hi"}, {"role": "user", "content": null}]"#,
                "the message has no `content`\n  in message 2",
            ),
            (r#"[{"role": "user"}]"#, "the message has no `content`"),
            (r#"[{"role": "user", "content": true}]"#, "`content` is a truth value, not a text or a list"),
            (
                r#"[{"role": "user", "content": [{"type": "image", "url": "x"}]}]"#,
                "`content` has a part of type `image`; the model reads texts",
            ),
            (r#"[{"role": "user", "content": "", "n": 18446744073709551616}]"#, "is beyond 64 bits\n  in message 1"),
            (r#"{"messages": [{"role": "user", "content": ""}], "tools": {}}"#, "`tools` is an object, not a list"),
            (
                r#"{"messages": [{"role": "user", "content": ""}], "tools": [1]}"#,
                "`tools` has an item that is no object",
            ),
            (
                r#"{"messages": [{"role": "user", "content": ""}], "continue_final_message": true}"#,
                "`continue_final_message` is not done",
            ),
            (
                r#"{"messages": [{"role": "user", "content": ""}], "add_generation_prompt": 1}"#,
                "`add_generation_prompt` is a number, no true or false",
            ),
            (r#"[{"role": "user", "role": "user", "content": ""}]"#, "duplicate `role`"),
        ] {
            let error = Chat::parse(text, "chat.json").unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
        let calls = r#"[{"role": "assistant", "content": null, "tool_calls": [{"id": 1}]}]"#;
        assert!(Chat::parse(calls, "chat.json").is_ok());
    }

    #[test]
    fn a_system_message_comes_first_and_once() {
        let chat = Chat::parse(r#"[{"role": "user", "content": "hi"}]"#, "chat.json").unwrap();
        let chat = chat.with_system("be kind").unwrap();
        let roles: Vec<String> = chat.messages.iter().map(|m| m.get_attr("role").unwrap().to_string()).collect();
        assert_eq!((roles, chat.last()), (vec!["system".to_owned(), "user".to_owned()], "hi".to_owned()));
        let said = chat.with_system("again").unwrap_err().message().to_owned();
        assert_eq!(said, "the messages begin with one of the role `system` already");
    }
}
