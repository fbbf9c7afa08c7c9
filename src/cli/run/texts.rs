//! `kilnc run`: runs the texts of its arguments, or the lines of standard input, one after another as they come.

use std::io::{self, IsTerminal, Write};

use super::super::Screen;
use super::summary::{self, Line};
use kilnc::build::Observer;
use kilnc::error::{Error, Result, visible};
use kilnc::runtime::TextInput;
use kilnc::task::{Pipeline, Predicted, Query};
use kilnc::textfile::Lines;

/// Most texts whose predictions are printed together, in columns of one width.
const TOGETHER: usize = 256;

/// Its name in messages.
const STANDARD_INPUT: &str = "standard input";

/// A text that is run alone, as one of a pair, or with a question.
struct TextQuery {
    location: Option<String>,
    question: Option<String>,
    text: String,
    pair: Option<String>,
}

impl Query for TextQuery {
    fn input(&self) -> TextInput<'_> {
        match &self.question {
            Some(question) => TextInput::question(question, &self.text),
            None => TextInput { text: &self.text, pair: self.pair.as_deref() },
        }
    }

    fn location(&self) -> Option<String> {
        self.location.clone()
    }
}

/// Runs the texts, each with its pair or question; without a text, the lines of standard input.
pub(super) fn run(
    texts: Vec<String>,
    pairs: Vec<String>,
    questions: Vec<String>,
    model: &mut Pipeline,
    screen: &Screen,
) -> Result<()> {
    let lines = texts.is_empty();
    let mut asked = match lines {
        true => from_lines(pairs, questions)?,
        false => from_arguments(texts, pairs, questions)?,
    };
    // A user who types lines wants the prediction of each.
    let together = if lines && io::stdin().is_terminal() { 1 } else { TOGETHER };
    let mut cut = Truncated::default();
    let printed = screen.results(|to| {
        let mut printer = Printer { to, json: screen.is_json(), table: summary::Table::default(), printed: 0 };
        let mut tell = |predictions: Vec<(TextQuery, Predicted)>| {
            predictions.iter().for_each(|(_, predicted)| cut.count(predicted));
            printer.print(predictions.into_iter().map(line).collect())
        };
        let predicted = model.predict_each(together, &mut || asked.next().transpose(), &|| (), &mut tell);
        // The printed text is whole JSON, also where an error follows.
        printer.end().and(predicted)
    })?;
    if printed.is_some() {
        cut.tell(model, screen);
    }
    Ok(())
}

fn line((TextQuery { question, text, pair, .. }, predicted): (TextQuery, Predicted)) -> Line {
    Line { question, text, pair, predicted }
}

/// Texts that were cut.
#[derive(Default)]
struct Truncated {
    all: usize,
    texts: usize,
    tokens: usize,
}

impl Truncated {
    fn count(&mut self, predicted: &Predicted) {
        self.all += 1;
        self.texts += usize::from(predicted.tokens_cut > 0);
        self.tokens += predicted.tokens_cut;
    }

    /// Warns where a text was cut: the rest did not count in the prediction.
    fn tell(&self, model: &Pipeline, screen: &Screen) {
        let Truncated { all, texts, tokens } = self;
        if *texts > 0 {
            let window = model.lengths().window;
            screen.warn(&format!(
                "{texts} of {all} texts cut to {window} tokens; {tokens} tokens did not count in the predictions"
            ));
        }
    }
}

/// Prints predictions as they come: a table, or the elements of one JSON list.
struct Printer<'a> {
    to: &'a mut dyn Write,
    json: bool,
    table: summary::Table,
    printed: usize,
}

impl Printer<'_> {
    fn print(&mut self, lines: Vec<Line>) -> Result<()> {
        let text = if self.json { self.elements(&lines)? } else { visible(&self.table.lines(&lines)) };
        self.printed += lines.len();
        self.write(&text)
    }

    fn elements(&self, lines: &[Line]) -> Result<String> {
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            text += if self.printed + number == 0 { "[\n" } else { ",\n" };
            let element = serde_json::to_string_pretty(line)
                .map_err(|e| Error::bug(format!("a prediction cannot be printed: {e}")))?;
            text += "  ";
            text += &element.replace('\n', "\n  ");
        }
        Ok(text)
    }

    fn end(&mut self) -> Result<()> {
        if self.json && self.printed > 0 { self.write("\n]\n") } else { Ok(()) }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = self.to.write_all(text.as_bytes()).and_then(|()| self.to.flush());
        written.map_err(|e| Error::of_system("standard output", &e))
    }
}

type Questions = Box<dyn Iterator<Item = Result<TextQuery>>>;

/// Each text with the second of its pair, or one text with each of the pairs; or with its question.
fn from_arguments(texts: Vec<String>, pairs: Vec<String>, questions: Vec<String>) -> Result<Questions> {
    let all = if questions.is_empty() { paired(texts, pairs)? } else { questioned(questions, texts)? };
    let many = all.len() > 1;
    let located = all
        .into_iter()
        .enumerate()
        .map(move |(number, asked)| Ok(TextQuery { location: many.then(|| format!("text {}", number + 1)), ..asked }));
    Ok(Box::new(located))
}

/// The same for the lines of standard input, of which any number is read where each is run alone or with one question.
fn from_lines(pairs: Vec<String>, mut questions: Vec<String>) -> Result<Questions> {
    let mut lines = Lines::of(io::stdin());
    let mut next = move || lines.read(STANDARD_INPUT);
    let most = pairs.len().max(questions.len());
    if !pairs.is_empty() || questions.len() > 1 {
        let mut texts = Vec::new();
        while texts.len() < most
            && let Some((_, text)) = next()?
        {
            texts.push(text);
        }
        check_any(texts.len())?;
        let mut more: usize = 0;
        while next()?.is_some() {
            more += 1;
        }
        if more > 0 {
            let flag = if questions.is_empty() { "--pair" } else { "--question" };
            return Err(misfit(flag, most, texts.len() + more));
        }
        return from_arguments(texts, pairs, questions);
    }
    let question = questions.pop();
    // An empty input is an error before anything is printed.
    let mut first = next()?;
    check_any(usize::from(first.is_some()))?;
    Ok(Box::new(std::iter::from_fn(move || {
        let line = match first.take() {
            Some(line) => Ok(Some(line)),
            None => next(),
        };
        let asked =
            |(location, text)| TextQuery { location: Some(location), question: question.clone(), text, pair: None };
        line.map(|line| line.map(asked)).transpose()
    })))
}

fn check_any(texts: usize) -> Result<()> {
    match texts {
        0 => Err(Error::bad_input("there is no text").hint("give --text \"…\", or lines on standard input")),
        _ => Ok(()),
    }
}

fn misfit(flag: &str, given: usize, texts: usize) -> Error {
    let hint = match flag {
        "--pair" => "give one --pair for each --text, or one --text for all",
        _ => "give one --question for each --text, or one of either",
    };
    Error::bad_input(format!("{given} times {flag} for {texts} texts")).hint(hint)
}

/// Each text with the second of its pair, or one text with each of the pairs.
fn paired(texts: Vec<String>, pairs: Vec<String>) -> Result<Vec<TextQuery>> {
    let asked = |(text, pair)| TextQuery { location: None, question: None, text, pair };
    match (texts.as_slice(), pairs.len()) {
        (_, 0) => Ok(texts.into_iter().map(|text| asked((text, None))).collect()),
        ([one], _) => Ok(pairs.into_iter().map(|pair| asked((one.clone(), Some(pair)))).collect()),
        (many, n) if many.len() == n => Ok(texts.into_iter().zip(pairs.into_iter().map(Some)).map(asked).collect()),
        (many, n) => Err(misfit("--pair", n, many.len())),
    }
}

/// Each question with its text, one question to all texts, or all questions to one text.
fn questioned(questions: Vec<String>, texts: Vec<String>) -> Result<Vec<TextQuery>> {
    let asked = |(question, text)| TextQuery { location: None, question: Some(question), text, pair: None };
    match (questions.as_slice(), texts.as_slice()) {
        ([one], _) => Ok(texts.into_iter().map(|text| asked((one.clone(), text))).collect()),
        (_, [one]) => Ok(questions.into_iter().map(|question| asked((question, one.clone()))).collect()),
        (a, b) if a.len() == b.len() => Ok(questions.into_iter().zip(texts).map(asked).collect()),
        (a, b) => Err(misfit("--question", a.len(), b.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilnc::task::Prediction;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn pairs_go_with_their_text_or_all_with_one() {
        let found = |texts: &[&str], pairs: &[&str]| paired(owned(texts), owned(pairs)).map(|all| all.len());
        assert_eq!(found(&["a", "b"], &[]).unwrap(), 2);
        assert_eq!(found(&["a", "b"], &["c", "d"]).unwrap(), 2);
        assert_eq!(found(&["a"], &["b", "c", "d"]).unwrap(), 3);
        let error = found(&["a", "b"], &["c"]).err().unwrap();
        assert_eq!(error.message(), "1 times --pair for 2 texts");
    }

    #[test]
    fn questions_go_with_their_text_or_one_with_all() {
        let found = |asked: &[&str], texts: &[&str]| questioned(owned(asked), owned(texts)).map(|all| all.len());
        assert_eq!(found(&["a", "b"], &["c", "d"]).unwrap(), 2);
        assert_eq!(found(&["a"], &["c", "d", "e"]).unwrap(), 3);
        assert_eq!(found(&["a", "b"], &["c"]).unwrap(), 2);
        let error = found(&["a", "b"], &["c", "d", "e"]).err().unwrap();
        assert_eq!(error.message(), "2 times --question for 3 texts");
    }

    #[test]
    fn a_list_that_is_printed_piece_by_piece_is_that_which_is_printed_at_once() {
        let line = |text: &str| {
            let predicted =
                Predicted { prediction: Prediction::Vector { embedding: vec![0.5, 1.0] }, windows: 2, tokens_cut: 0 };
            Line { question: None, text: text.to_owned(), pair: None, predicted }
        };
        let mut printed = Vec::new();
        let mut printer = Printer { to: &mut printed, json: true, table: summary::Table::default(), printed: 0 };
        printer.print(vec![line("a\nb")]).unwrap();
        printer.print(vec![line("c"), line("d")]).unwrap();
        printer.end().unwrap();
        let at_once = serde_json::to_string_pretty(&["a\nb", "c", "d"].map(line)).unwrap() + "\n";
        assert_eq!(String::from_utf8(printed).unwrap(), at_once);
    }
}
