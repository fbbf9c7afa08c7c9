//! The chat templates of a bundle, or of any folder in the Hub's layout.

use super::{Bundle, HUB};
use crate::error::Result;
use crate::front::folder::Folder;
use crate::front::hub::checkpoint::{ChatFile, ChatFiles};
use crate::runtime::chat::{ChatTemplates, NamedTemplate, SpecialToken};

/// The chat templates of a folder in the Hub's layout, with the special tokens of its tokenizer; none where it has none.
pub fn chat_templates(folder: impl Into<Folder>) -> Result<ChatTemplates> {
    let ChatFiles { templates, special, more_special } = ChatFiles::read(folder)?;
    let named = |ChatFile { name, text, file }| NamedTemplate { name, text, file };
    let one = |(name, token)| SpecialToken { name, tokens: vec![token], list: false };
    let name = "additional_special_tokens".to_owned();
    let more = SpecialToken { name, tokens: more_special, list: true };
    let more = Some(more).filter(|more| !more.tokens.is_empty());
    Ok(ChatTemplates {
        templates: templates.into_iter().map(named).collect(),
        special: special.into_iter().map(one).chain(more).collect(),
    })
}

impl Bundle {
    /// Its chat templates, of files whose digests have been checked; none where its model has none.
    pub fn chat_templates(&self) -> Result<ChatTemplates> {
        let within = |path: &&str| path.strip_prefix(HUB).is_some_and(|rest| rest.starts_with('/'));
        for path in self.manifest.files.iter().map(|file| file.path.as_str()).filter(within) {
            self.file(path)?;
        }
        chat_templates(self.folder.root().join(HUB)).map_err(|e| self.named_error(e))
    }
}
