//! Cuts a `tokenizer.json` down to the tokens that texts use:
//!
//!     cargo run --release --example cut_tokenizer -- tokenizer.json texts.jsonl cut.json

use kilnc::eval::read_examples;
use kilnc::json;
use kilnc::runtime::Classes;
use kilnc::vocabulary::Vocabulary;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [tokenizer, texts, out] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "three files")?;
    let vocabulary = Vocabulary::parse(json::read_text(tokenizer.as_ref())?)?;
    let corpus = read_examples(texts.as_ref(), &Classes::default())?;
    let used = vocabulary.used(corpus.iter().cloned().map(Ok))?;
    let cut = vocabulary.cut(&used, &[])?;
    vocabulary.check(&cut, corpus.into_iter().map(Ok))?;
    println!("{} of {} tokens stay, {} texts use {}", cut.kept.len(), cut.before, used.texts, used.counts.len());
    std::fs::write(out, cut.json)?;
    Ok(())
}
