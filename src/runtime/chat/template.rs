//! A template that was parsed, and what it makes of messages.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use minijinja::{Environment, Value};

use super::clock::Clock;
use super::messages::Chat;
use super::special::SpecialToken;
use super::{environment, failure, tags};
use crate::error::{Error, Result, printable};
use crate::runtime::LONGEST_TEXT;

/// The stack of the thread: values that a template puts into one another are dropped one inside the other.
const STACK: usize = 256 << 20;

/// How long a template may take. Steps are counted, but one of them may double a list.
const LONGEST: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 20 });

/// The name of the threads in which templates run. If the library panics there, that is reported as an error.
pub const THREAD: &str = "chat template";

/// A template that was parsed, with the special tokens that it may name.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    text: String,
    file: String,
    special: Vec<SpecialToken>,
}

impl ChatTemplate {
    /// Parses the text of a template; `file` is what messages call it.
    ///
    /// # Errors
    /// Bad input: a template that is no Jinja, with the line.
    pub fn parse(text: &str, file: &str, special: Vec<SpecialToken>) -> Result<ChatTemplate> {
        // Jinja knows one end of a line.
        let text = tags::without_generation(&text.replace("\r\n", "\n").replace('\r', "\n"));
        let mut environment = environment::new(Clock::Environment);
        environment.add_template_owned(file.to_owned(), text.clone()).map_err(|e| failure::of(&e, file))?;
        Ok(ChatTemplate { environment: Arc::new(environment), text, file: file.to_owned(), special })
    }

    /// Gives the template another clock than the machine's.
    pub fn with_clock(mut self, clock: Clock) -> ChatTemplate {
        environment::add_clock(Arc::make_mut(&mut self.environment), clock);
        self
    }

    /// The text for some messages.
    ///
    /// # Errors
    /// Bad input: a template that raises an exception for them, fails, or exceeds its limits; a variable beside the messages
    /// that it does not read.
    pub fn render(&self, chat: &Chat) -> Result<String> {
        for name in chat.variables() {
            if !tags::names(&self.text, name) {
                let what = format!("there is `{}`, which the chat template does not read", printable(name));
                return Err(Error::bad_input(what)
                    .at(self.file.clone())
                    .hint("leave it out: what a template does not read changes nothing"));
            }
        }
        let (environment, file, context) = (Arc::clone(&self.environment), self.file.clone(), self.context(chat));
        let (sender, receiver) = mpsc::channel();
        let run = move || {
            let rendered = environment.get_template(&file).and_then(|template| {
                let mut out = Bounded(Vec::new());
                template.render_captured_to(context, &mut out).map(drop)?;
                Ok(out.0)
            });
            // Nobody waits any more where time is up.
            drop(sender.send(rendered));
        };
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK);
        thread.spawn(run).map_err(|e| Error::of_system("a thread did not start", &e))?;
        let refused = |what: String| Error::bad_input(what).at(self.file.clone());
        let ran = receiver.recv_timeout(LONGEST).map_err(|e| match e {
            RecvTimeoutError::Disconnected => refused("the library for chat templates fails on this one".to_owned()),
            RecvTimeoutError::Timeout => {
                refused(format!("the chat template does not end within {} seconds", LONGEST.as_secs()))
            }
        })?;
        let text = ran.map_err(|e| failure::of(&e, &self.file))?;
        String::from_utf8(text).map_err(|e| Error::bug(format!("a chat template made no text: {e}")))
    }

    /// The variables of a template: the special tokens, and over them those of the chat.
    fn context(&self, chat: &Chat) -> Value {
        let special = self.special.iter().map(|token| (token.name.clone(), token.value()));
        Value::from_pairs(special.chain(chat.context()))
    }
}

/// What a template has written, up to the longest text that a tokenizer reads.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len().saturating_add(bytes.len()) > LONGEST_TEXT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A comparison of lists that hold one another is one step, and takes time that doubles with each of them.
    #[test]
    fn a_step_without_end_is_bounded_in_time() {
        let text = "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}\
                    {% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}";
        let template = ChatTemplate::parse(text, "chat_template.jinja", Vec::new()).unwrap();
        let chat = Chat::parse(r#"[{"role": "user", "content": "a kiln"}]"#, "chat.json").unwrap();
        let error = template.render(&chat).unwrap_err();
        let seconds = LONGEST.as_secs();
        assert_eq!(error.message(), format!("the chat template does not end within {seconds} seconds"));
    }
}
