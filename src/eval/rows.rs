//! Files of texts, row by row: JSON lines, CSV and plain text, chosen by their extension.

use std::fs::File;
use std::io::{self, Chain, Cursor, Read};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result, printable, printable_sentence};
use crate::json::{self, file_name};
use crate::textfile::{self, LONGEST_LINE, Lines, check_text, location, too_long};

/// Bytes of a CSV file that are read at once.
const BLOCK: usize = 1 << 16;

/// The default field or column of the text.
const TEXT: &str = "text";

/// The default form of a JSON line.
pub(super) const LINE: &str = "each line is an object such as {\"text\": \"…\", \"label\": \"…\"}";

/// The rows of a file, each as a `T` with fields such as `text`, and with its location for messages. Blank lines are
/// passed over. Memory holds one row.
pub(super) struct Rows<R, T> {
    form: Form<R>,
    file: String,
    text: String,
    line: &'static str,
    row: PhantomData<T>,
}

enum Form<R> {
    /// A JSON object on each line.
    Json(Lines<R>),
    /// A text on each line.
    Plain(Lines<R>),
    Table(Box<Table<R>>),
}

impl<T: DeserializeOwned> Rows<File, T> {
    /// Opens a file; `text` is the field or column that holds the texts, if it is not called so. Fails where the
    /// extension is not known, or a table has no such column.
    pub fn open(path: &Path, text: Option<&str>) -> Result<Rows<File, T>> {
        Rows::of(open(path)?, &file_name(path), text)
    }
}

/// Opens a file of texts.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::io("reading", path, &e))
}

impl<R: Read, T: DeserializeOwned> Rows<R, T> {
    /// The rows of a reader, with `file` as its name in messages.
    pub fn of(reader: R, file: &str, text: Option<&str>) -> Result<Rows<R, T>> {
        let extension = Path::new(file).extension().and_then(|extension| extension.to_str());
        let form = match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("jsonl" | "ndjson" | "json") => Form::Json(Lines::of(reader)),
            Some("txt") if text.is_some() => {
                return Err(Error::bad_input(format!("{file} has no columns: each line is a text"))
                    .hint("leave the text column out"));
            }
            Some("txt") => Form::Plain(Lines::of(reader)),
            Some("csv") => Form::Table(Box::new(Table::of(reader, file, b',', text.unwrap_or(TEXT))?)),
            Some("tsv") => Form::Table(Box::new(Table::of(reader, file, b'\t', text.unwrap_or(TEXT))?)),
            _ => {
                let what = format!("{} is no kind of text file that kilnc knows by its extension", printable(file));
                return Err(Error::bad_input(what).hint("texts are read from .jsonl, .ndjson, .csv, .tsv and .txt"));
            }
        };
        Ok(Rows { form, file: file.to_owned(), text: text.unwrap_or(TEXT).to_owned(), line: LINE, row: PhantomData })
    }

    /// The form of lines, where it is not that of `LINE`.
    pub fn of_lines(self, line: &'static str) -> Rows<R, T> {
        Rows { line, ..self }
    }

    fn read(&mut self) -> Result<Option<(String, T)>> {
        match &mut self.form {
            Form::Json(lines) => {
                let Some((location, line)) = lines.read(&self.file)? else { return Ok(None) };
                let row = if self.text == TEXT {
                    json::parse(&line, &location)
                } else {
                    renamed(&line, &location, &self.text)
                };
                let row = row.map_err(|e| if line.starts_with('{') { e } else { e.hint(self.line) })?;
                Ok(Some((location, row)))
            }
            Form::Plain(lines) => {
                let Some((location, line)) = lines.read(&self.file)? else { return Ok(None) };
                let fields = Map::from_iter([(TEXT.to_owned(), line.into())]);
                json::from_value(fields.into(), &location).map(|row| Some((location, row)))
            }
            Form::Table(table) => {
                let Some((location, fields)) = table.read(&self.file)? else { return Ok(None) };
                json::from_value(fields.into(), &location).map(|row| Some((location, row)))
            }
        }
    }
}

impl<R: Read, T: DeserializeOwned> Iterator for Rows<R, T> {
    type Item = Result<(String, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// An object whose text is in the field `text`.
fn renamed<T: DeserializeOwned>(line: &str, location: &str, text: &str) -> Result<T> {
    let mut fields: Map<String, Value> = json::parse(line, location)?;
    let found = fields.remove(text).ok_or_else(|| {
        let known: Vec<&str> = fields.keys().map(String::as_str).collect();
        let known = printable_sentence(&known.join(", "));
        Error::bad_input(format!("{location}: no field `{}`; there are: {known}", printable(text)))
    })?;
    fields.insert(TEXT.to_owned(), found);
    json::from_value(fields.into(), location)
}

/// A file of records under a line of column names.
struct Table<R> {
    reader: csv::Reader<Metered<Chain<Cursor<Vec<u8>>, R>>>,
    columns: Vec<String>,
    record: csv::StringRecord,
}

impl<R: Read> Table<R> {
    fn of(reader: R, file: &str, delimiter: u8, text: &str) -> Result<Table<R>> {
        let reader = textfile::open(reader, file)?;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .trim(csv::Trim::Headers)
            .buffer_capacity(BLOCK)
            .from_reader(Metered { reader, left: LONGEST_LINE });
        let header = reader.headers().map_err(|e| malformed(file, 1, &e))?;
        let columns: Vec<String> = header.iter().map(str::to_owned).collect();
        let location = location(file, 1);
        columns.iter().try_for_each(|column| check_text(column)).map_err(|e| e.at(location.clone()))?;
        if let Some(twice) = columns.iter().enumerate().find_map(|(i, c)| columns.iter().take(i).find(|d| *d == c)) {
            return Err(Error::bad_input(format!("{location}: duplicate column `{}`", printable(twice))));
        }
        // A file of no bytes is one of no rows.
        if !columns.is_empty() && !columns.iter().any(|column| column == text) {
            let known = printable_sentence(&columns.join(", "));
            return Err(Error::bad_input(format!("{location}: no column `{}`; there are: {known}", printable(text)))
                .hint("the first line names the columns; --text-column NAME says which one holds the texts"));
        }
        // Another column of that name is not the text.
        let named = |column: String| match column.as_str() {
            _ if column == text => TEXT.to_owned(),
            TEXT => format!("{TEXT} (another)"),
            _ => column,
        };
        Ok(Table { reader, columns: columns.into_iter().map(named).collect(), record: csv::StringRecord::new() })
    }

    /// The cells of the next record by their columns. An empty cell is as if it were not there, but for the text's.
    fn read(&mut self, file: &str) -> Result<Option<(String, Map<String, Value>)>> {
        self.reader.get_mut().left = LONGEST_LINE + BLOCK as u64;
        let line = self.reader.position().line();
        if !self.reader.read_record(&mut self.record).map_err(|e| malformed(file, line, &e))? {
            return Ok(None);
        }
        let location = location(file, self.record.position().map_or(line, csv::Position::line));
        self.record.iter().try_for_each(check_text).map_err(|e| e.at(location.clone()))?;
        let cells = self.columns.iter().zip(&self.record);
        let given = cells.filter(|(column, cell)| !cell.is_empty() || *column == TEXT);
        Ok(Some((location, given.map(|(column, cell)| (column.clone(), cell.into())).collect())))
    }
}

/// The error of the CSV reader, at `line` where it names no line.
fn malformed(file: &str, line: u64, error: &csv::Error) -> Error {
    let location = location(file, error.position().map_or(line, csv::Position::line));
    match error.kind() {
        csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::FileTooLarge => {
            too_long(&location).hint("is a quotation mark left open?")
        }
        csv::ErrorKind::Io(e) => Error::of_system(&location, e),
        csv::ErrorKind::Utf8 { .. } => textfile::not_utf_8(&location),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            Error::bad_input(format!("{location}: {len} cells, but the first line names {expected_len} columns"))
                .hint("put a text with a comma, a tab or a quotation mark in quotation marks")
        }
        _ => Error::bad_input(format!("{location}: {}", printable_sentence(&error.to_string()))),
    }
}

/// A reader of which no more than `left` bytes may follow.
struct Metered<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.reader.by_ref().take(self.left).read(buffer)?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use crate::error::Result;
    use crate::eval::{Example, Truth, examples, read_examples};
    use crate::runtime::Classes;

    fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    fn read(name: &str, text: Option<&str>, content: impl AsRef<[u8]>) -> Result<Vec<Example>> {
        let (_dir, path) = file(name, content);
        examples(&path, text, &classes())?.collect()
    }

    fn refused(name: &str, text: Option<&str>, content: impl AsRef<[u8]>) -> String {
        read(name, text, content).unwrap_err().to_string()
    }

    fn classes() -> Classes {
        Classes { labels: vec!["web".to_owned()], ..Classes::default() }
    }

    fn pairs(examples: &[Example]) -> Vec<(&str, Option<&str>)> {
        let label = |example: &Example| {
            example.truth.as_ref().map(|truth| match truth {
                Truth::Classes(numbers) if *numbers == [0] => "web",
                _ => "another",
            })
        };
        examples.iter().map(|example| (example.text.as_str(), label(example))).collect()
    }

    #[test]
    fn the_same_texts_in_every_form() {
        let expected = [("a, b", Some("web")), ("\"c\"", None)];
        let jsonl = "{\"text\": \"a, b\", \"label\": \"web\"}\n\n{\"text\": \"\\\"c\\\"\"}\n";
        for name in ["x.jsonl", "x.ndjson", "x.JSONL"] {
            assert_eq!(pairs(&read(name, None, jsonl).unwrap()), expected, "{name}");
        }
        let csv = "\u{feff}label, text\r\nweb,\"a, b\"\r\n\r\n,\"\"\"c\"\"\"\r\n";
        assert_eq!(pairs(&read("x.csv", None, csv).unwrap()), expected);
        let tsv = "id\ttext\tlabel\n1\ta, b\tweb\n2\t\"\"\"c\"\"\"\t\n";
        assert_eq!(pairs(&read("x.tsv", None, tsv).unwrap()), expected);
        let txt = "\u{feff}a, b\r\n\n  \n\"c\"";
        assert_eq!(pairs(&read("x.txt", None, txt).unwrap()), [("a, b", None), ("\"c\"", None)]);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_in_every_form() {
        let mark = "\u{feff}";
        for (name, content) in [
            ("x.jsonl", format!("{mark}{{\"text\": \"a\"}}\r\n{mark}{{\"text\": \"b\"}}\r\n")),
            ("x.json", format!("{mark}{{\"text\": \"a\"}}\n{{\"text\": \"b\"}}")),
            ("x.csv", format!("{mark}\"text\",label\r\na,\r\nb,\r\n")),
            ("x.tsv", format!("{mark}text\na\nb\n")),
            ("x.txt", format!("{mark}a\r\n\r\n{mark}b\r\n")),
        ] {
            assert_eq!(pairs(&read(name, None, content).unwrap()), [("a", None), ("b", None)], "{name}");
        }
    }

    #[test]
    fn a_nul_that_json_escapes_is_a_character_of_the_text() {
        assert_eq!(pairs(&read("x.jsonl", None, "{\"text\": \"a\\u0000\"}").unwrap()), [("a\0", None)]);
        assert!(refused("x.jsonl", None, "{\"text\": \"a\0\"}").starts_with("there is a NUL in the text\n"));
    }

    #[test]
    fn the_text_may_have_another_name() {
        let csv = "text,body\nwrong,right\n";
        assert_eq!(pairs(&read("x.csv", Some("body"), csv).unwrap_or_default()), [("right", None)]);
        let jsonl = "{\"body\": \"right\", \"text\": \"wrong\"}\n";
        assert_eq!(pairs(&read("x.jsonl", Some("body"), jsonl).unwrap()), [("right", None)]);
    }

    #[test]
    fn a_cell_over_several_lines_is_one_text_and_lines_are_counted_on() {
        let csv = "text,label\n\"one\ntwo\",web\nthree\n";
        assert_eq!(
            refused("x.csv", None, csv),
            "x.csv line 4: 1 cells, but the first line names 2 columns\n\n\
             hint: put a text with a comma, a tab or a quotation mark in quotation marks"
        );
        assert_eq!(pairs(&read("x.csv", None, &csv[..csv.len() - 6]).unwrap()), [("one\ntwo", Some("web"))]);
    }

    #[test]
    fn missing_and_duplicate_columns_are_named() {
        assert_eq!(
            refused("x.csv", None, "a,b\n1,2\n"),
            "x.csv line 1: no column `text`; there are: a, b\n\n\
             hint: the first line names the columns; --text-column NAME says which one holds the texts"
        );
        assert_eq!(refused("x.csv", None, "text,text\n1,2\n"), "x.csv line 1: duplicate column `text`");
        assert!(
            refused("x.jsonl", Some("body"), "{\"text\": \"a\"}")
                .starts_with("x.jsonl line 1: no field `body`; there are: text")
        );
        assert!(refused("x.txt", Some("body"), "a").contains("x.txt has no columns: each line is a text"));
    }

    #[test]
    fn a_value_that_is_no_text_is_named_with_file_and_line() {
        assert!(refused("x.jsonl", None, "{\"text\": 1}").starts_with("x.jsonl line 1: text: invalid type"));
        assert!(refused("x.json", None, "[{\"text\": \"a\"}]").contains("hint: each line is an object"));
        for (name, content, said) in [
            ("x.txt", &b"a\n\xff\n"[..], "x.txt line 2: not UTF-8\n\nhint: save the file as UTF-8"),
            ("x.csv", b"text\na\n\xff\n", "x.csv line 3: not UTF-8\n\nhint: save the file as UTF-8"),
            ("x.jsonl", b"\xff\xfe{\0}\0\n\0", "x.jsonl is UTF-16 text, expected UTF-8\n\nhint: save it as UTF-8"),
            ("x.csv", b"\xff\xfet\0\n\0", "x.csv is UTF-16 text, expected UTF-8\n\nhint: save it as UTF-8"),
            ("x.tsv", b"text\na\0\n", "there is a NUL in the text\n  in x.tsv line 2\n"),
            ("x.csv", b"te\0xt\na\n", "there is a NUL in the text\n  in x.csv line 1\n"),
            ("x.txt", b"a\rb\r", "x.txt line 1: there is a CR within the line\n"),
        ] {
            let found = refused(name, None, content);
            assert!(found.starts_with(said), "{found}");
        }
        assert_eq!(refused("x.csv", None, "label,text\nweb,\n"), "the text is empty\n  in x.csv line 2");
        let error = refused("x.parquet", None, "PAR1");
        assert!(error.contains("x.parquet is no kind of text file"), "{error}");
        assert!(error.contains("hint: texts are read from .jsonl"), "{error}");
    }

    #[test]
    fn missing_and_empty_fields_are_named() {
        let error = read_examples("nowhere/x.jsonl".as_ref(), &classes()).unwrap_err().to_string();
        assert!(error.starts_with("reading nowhere/x.jsonl: "), "{error}");
        for name in ["x.jsonl", "x.csv", "x.txt"] {
            let (_dir, path) = file(name, "");
            let error = read_examples(&path, &classes()).unwrap_err().to_string();
            assert!(error.contains(&format!("{name} holds no texts")), "{error}");
        }
    }

    #[test]
    fn a_row_of_100_megabytes_is_refused_before_it_is_in_memory() {
        let long = "x".repeat(100 << 20);
        assert_eq!(refused("x.txt", None, format!("a\n{long}\n")), "x.txt line 2: longer than 16777216 bytes");
        assert_eq!(
            refused("x.jsonl", None, format!("{{\"text\": \"{long}\"}}\n")),
            "x.jsonl line 1: longer than 16777216 bytes"
        );
        assert_eq!(
            refused("x.csv", None, format!("text\n\"a\"\n\"{long}\n")),
            "x.csv line 3: longer than 16777216 bytes\n\nhint: is a quotation mark left open?"
        );
    }
}
