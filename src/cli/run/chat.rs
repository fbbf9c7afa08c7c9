//! The flags of chats: files with messages that a model replies to.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use kilnc::error::{Error, Result};
use kilnc::json::{self, file_name};
use kilnc::runtime::chat::Chat;
use kilnc::textfile;

/// What messages call it.
pub(super) const STANDARD_INPUT: &str = "standard input";

/// Longest chat of standard input, in bytes. What a template makes of it has to be a lot shorter.
const LONGEST: usize = 16 << 20;

#[derive(Args)]
pub(super) struct ChatArgs {
    /// Messages that the model replies to, by its chat template: a JSON list of {"role": …, "content": …}, or an object with
    /// such `messages` and what the template reads beside them (`tools`, `documents`). `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "pair", "question", "prompt"])]
    chat: Vec<PathBuf>,
    /// A message of the system, before those of --chat.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
}

impl ChatArgs {
    /// Whether there is a chat.
    pub fn given(&self) -> bool {
        !self.chat.is_empty()
    }

    /// The chats, each with its name in messages.
    pub fn read(&self) -> Result<Vec<(String, Chat)>> {
        let is_input = |path: &&PathBuf| path.as_os_str() == "-";
        if self.chat.iter().filter(is_input).count() > 1 {
            return Err(Error::bad_input("--chat - is given more than once, and standard input has one chat"));
        }
        let chat = |path: &PathBuf| {
            let (name, text) = text_of(path)?;
            let chat = Chat::parse(&text, &name)?;
            let chat = match &self.system {
                Some(system) => chat.with_system(system).map_err(|e| e.at(name.clone()))?,
                None => chat,
            };
            Ok((name, chat))
        };
        self.chat.iter().map(chat).collect()
    }
}

fn text_of(path: &Path) -> Result<(String, String)> {
    if path.as_os_str() == "-" {
        let name = STANDARD_INPUT;
        return Ok((name.to_owned(), textfile::read(io::stdin(), name, LONGEST)?));
    }
    Ok((file_name(path), json::read_text(path)?))
}
