//! The measurements for reading: a table, Markdown, an HTML page.

mod html;
mod markdown;
mod plot;
mod table;
mod tables;

pub use html::html;
pub use markdown::markdown;
pub use table::table;
