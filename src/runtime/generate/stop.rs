//! Texts that end generation, which may begin in one token and end in another.

use crate::error::{Error, Result};

/// The texts.
#[derive(Clone, Debug, Default)]
pub(super) struct StopStrings(Vec<String>);

impl StopStrings {
    /// Fails where one is empty: it would end every text before it begins.
    pub fn new(texts: &[String]) -> Result<StopStrings> {
        match texts.iter().any(String::is_empty) {
            true => Err(Error::bad_input("a stop string is empty")),
            false => Ok(StopStrings(texts.to_vec())),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where in a text the first stop string to end begins; of two that end together, the longer.
    fn find(&self, text: &str) -> Option<usize> {
        let found = self.0.iter().filter_map(|stop| text.find(stop.as_str()).map(|start| (start + stop.len(), start)));
        found.min().map(|(_, start)| start)
    }

    /// How many bytes at the end of a text may begin a stop string.
    fn held(&self, text: &str) -> usize {
        let begins = |at: &usize| text.get(*at..).is_some_and(|end| self.0.iter().any(|stop| stop.starts_with(end)));
        let longest = self.0.iter().map(String::len).max().unwrap_or_default();
        let from = text.len().saturating_sub(longest);
        (from..text.len()).find(begins).map_or(0, |at| text.len() - at)
    }
}

/// A text on its way out, of which what may begin a stop string waits.
#[derive(Default)]
pub(super) struct Waiting {
    text: String,
}

impl Waiting {
    /// Takes more of the text. Gives what may go out, and whether a stop string has ended it.
    pub fn push(&mut self, text: &str, stops: &StopStrings) -> (String, bool) {
        self.text.push_str(text);
        if let Some(start) = stops.find(&self.text) {
            self.text.truncate(start);
            return (std::mem::take(&mut self.text), true);
        }
        let rest = self.text.split_off(self.text.len() - stops.held(&self.text));
        (std::mem::replace(&mut self.text, rest), false)
    }

    /// What has waited for nothing.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes out of pieces of a text, and whether it was stopped.
    fn out(pieces: &[&str], stops: &[&str]) -> (Vec<String>, bool) {
        let stops = StopStrings::new(&stops.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>()).unwrap();
        let (mut waiting, mut out) = (Waiting::default(), Vec::new());
        for piece in pieces {
            let (text, stopped) = waiting.push(piece, &stops);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        out.push(waiting.rest());
        (out, false)
    }

    #[test]
    fn a_stop_string_may_span_pieces_and_nothing_of_it_goes_out() {
        assert_eq!(out(&["ab\n", "\n", "c"], &["\n\n"]), (vec!["ab".to_owned(), String::new()], true));
        assert_eq!(out(&["ab\n", "c"], &["\n\n"]).0, ["ab", "\nc", ""]);
        assert_eq!(out(&["xaab", "c"], &["aac", "abc"]).0, ["xa", ""]);
        assert_eq!(out(&["x", "END"], &["END"]), (vec!["x".to_owned(), String::new()], true));
        // What only began is given out at the end.
        assert_eq!(out(&["so E", "N"], &["END"]).0, ["so ", "", "EN"]);
        assert_eq!(out(&["prix: 5 €", "€", "!"], &["€€!"]), (vec!["prix: 5 ".into(), "".into(), "".into()], true));
    }

    #[test]
    fn the_stop_string_that_ends_first_counts_however_the_text_is_cut() {
        for pieces in [&["xabc"][..], &["xa", "bc"], &["x", "a", "b", "c"]] {
            let (texts, stopped) = out(pieces, &["abc", "b"]);
            assert!(stopped);
            assert_eq!(texts.concat(), "xa", "{pieces:?}");
        }
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        assert_eq!(StopStrings::new(&[String::new()]).unwrap_err().message(), "a stop string is empty");
    }
}
