//! Chat templates: from messages to the text that a model continues, as `transformers` makes it
//! (`PreTrainedTokenizerBase.apply_chat_template`).
//!
//! A template is a program from outside, in Jinja. It runs in a thread of its own and within limits: of steps, of the text
//! that it makes, and of how deep it calls itself. It has no file, no network and no clock but `strftime_now`.

mod clock;
mod dumps;
mod environment;
mod failure;
mod limits;
mod messages;
mod printed;
mod special;
mod tags;
mod template;
mod templates;

pub use clock::Clock;
pub use messages::Chat;
pub use special::SpecialToken;
pub use template::{ChatTemplate, THREAD};
pub use templates::{ChatTemplates, NamedTemplate};
