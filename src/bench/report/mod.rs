//! What was measured, for the eye: a table, Markdown, a page.

mod html;
mod markdown;
mod plot;
mod table;
mod tables;

pub use html::html;
pub use markdown::markdown;
pub use table::table;
