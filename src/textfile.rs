//! Files of text that people write: texts, tables and labels. One policy holds for all of them:
//!
//! - text is UTF-8; anything else is refused, UTF-16 and UTF-32 by name;
//! - a byte order mark is passed over, at the beginning of a file and of a line, where joining files leaves one;
//! - lines end with LF or CRLF; one with a CR inside is refused, since then the whole file may be one line;
//! - a NUL is refused: it is what UTF-16 without a mark and files that are no text look like. In JSON, `\u0000` is one
//!   of the text's own characters;
//! - blank lines hold no text, and count as lines;
//! - a line has 16 MiB at most, and memory holds one.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use crate::error::{Error, Result};

/// Longest line that is read, in bytes.
pub const LONGEST_LINE: u64 = 16 << 20;

/// How a file begins that is in another encoding; longer ones first.
const OTHERS: [(&[u8], &str); 4] = [
    (&[0xff, 0xfe, 0, 0], "UTF-32"),
    (&[0, 0, 0xfe, 0xff], "UTF-32"),
    (&[0xff, 0xfe], "UTF-16"),
    (&[0xfe, 0xff], "UTF-16"),
];

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The rest of a reader after its byte order mark, if it begins with one; `file` is its name in messages. Fails where
/// it is in another encoding than UTF-8.
pub fn open<R: Read>(mut reader: R, file: &str) -> Result<Chain<Cursor<Vec<u8>>, R>> {
    let mut start = [0; 4];
    let mut length = 0;
    while let Some(free) = start.get_mut(length..).filter(|free| !free.is_empty()) {
        match reader.read(free) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::of_system(file, &e)),
        }
    }
    let start = start.get(..length).unwrap_or_default();
    check_encoding(start, file)?;
    let rest = start.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(start);
    Ok(Cursor::new(rest.to_owned()).chain(reader))
}

/// Fails where a file begins like one in another encoding.
fn check_encoding(start: &[u8], file: &str) -> Result<()> {
    match OTHERS.iter().find(|(mark, _)| start.starts_with(mark)) {
        None => Ok(()),
        Some((_, encoding)) => Err(Error::bad_input(format!("{file} is {encoding} text, expected UTF-8"))
            .hint(format!("save it as UTF-8, or convert it: iconv -f {encoding} -t UTF-8"))),
    }
}

/// Fails where a text has a NUL.
pub fn check_text(text: &str) -> Result<()> {
    match text.contains('\0') {
        false => Ok(()),
        true => Err(Error::bad_input("there is a NUL in the text").hint("is the file UTF-16, or no text at all?")),
    }
}

/// All bytes of a reader, `longest` at most; `file` is its name in messages.
pub fn read(reader: impl Read, file: &str, longest: usize) -> Result<String> {
    let mut text = String::new();
    let mut lines = Lines::of(reader);
    while let Some(line) = lines.next(file)? {
        text += &line.text?;
        text.push('\n');
        if text.len() > longest {
            return Err(Error::bad_input(format!("{file} is longer than {longest} bytes")));
        }
    }
    Ok(text)
}

/// A line of a file.
pub struct Line {
    /// The file and the number of the line, for messages.
    pub location: String,
    /// The line without its end, or why it is none.
    pub text: Result<String>,
}

impl Line {
    /// Whether it holds nothing, or nothing but spaces.
    pub fn is_blank(&self) -> bool {
        self.text.as_ref().is_ok_and(|text| text.trim().is_empty())
    }
}

/// The lines of a file. Memory holds one of them.
pub struct Lines<R> {
    reader: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// The lines of a reader.
    pub fn of(reader: R) -> Lines<R> {
        Lines { reader: BufReader::new(reader), number: 0 }
    }

    /// The location of the next line that is not blank, for messages, and the line; `file` is the file's name in messages.
    pub fn read(&mut self, file: &str) -> Result<Option<(String, String)>> {
        while let Some(line) = self.next(file)? {
            if !line.is_blank() {
                return Ok(Some((line.location, line.text?)));
            }
        }
        Ok(None)
    }

    /// The next line, blank or not. Fails where nothing more can be read, and where the file is in another encoding.
    pub fn next(&mut self, file: &str) -> Result<Option<Line>> {
        self.number += 1;
        let location = location(file, self.number);
        let failed = |e: io::Error| Error::of_system(&location, &e);
        let mut bytes = Vec::new();
        if self.reader.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
            return Ok(None);
        }
        if self.number == 1 {
            check_encoding(&bytes, file)?;
        }
        let text = match bytes.len() as u64 > LONGEST_LINE {
            true => {
                if bytes.last() != Some(&b'\n') {
                    self.reader.skip_until(b'\n').map_err(failed)?;
                }
                Err(too_long(&location))
            }
            false => of_bytes(bytes, &location),
        };
        Ok(Some(Line { location, text }))
    }
}

/// A line and its end as text.
fn of_bytes(bytes: Vec<u8>, location: &str) -> Result<String> {
    let text = String::from_utf8(bytes).map_err(|_| not_utf_8(location))?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    // Without a line feed at its end, the last line may still have half of one.
    let line = line.strip_suffix('\r').filter(|_| !text.ends_with('\n')).unwrap_or(line);
    if line.contains('\r') {
        return Err(Error::bad_input(format!("{location}: there is a CR within the line"))
            .hint("save the file with LF or CRLF at the end of lines"));
    }
    check_text(line).map_err(|e| e.at(location.to_owned()))?;
    Ok(line.trim_start_matches(BYTE_ORDER_MARK).to_owned())
}

/// The error of a line that is no UTF-8.
pub fn not_utf_8(location: &str) -> Error {
    Error::bad_input(format!("{location}: not UTF-8")).hint("save the file as UTF-8; kilnc does not detect encodings")
}

/// A line of a file, for messages.
pub fn location(file: &str, line: u64) -> String {
    format!("{file} line {line}")
}

/// The error of a line that is too long.
pub fn too_long(location: &str) -> Error {
    Error::bad_input(format!("{location}: longer than {LONGEST_LINE} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line, or its error.
    fn lines(bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut lines = Lines::of(bytes);
        let mut found = Vec::new();
        while let Some(line) = lines.next("t.txt").unwrap() {
            found.push(line.text.map_err(|e| e.to_string()));
        }
        found
    }

    fn texts(bytes: &[u8]) -> Vec<String> {
        lines(bytes).into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn lines_end_with_lf_or_crlf_and_keep_their_spaces() {
        assert_eq!(texts(b"a\nb"), ["a", "b"]);
        assert_eq!(texts(b"a \r\n\r\n\tb\r\n"), ["a ", "", "\tb"]);
        assert_eq!(texts(b"a\r"), ["a"]);
        assert_eq!(texts(b""), [""; 0]);
        let mut all = Lines::of(&b"\n  \na\n"[..]);
        assert_eq!(all.read("t.txt").unwrap(), Some(("t.txt line 3".to_owned(), "a".to_owned())));
        assert_eq!(all.read("t.txt").unwrap(), None);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(texts("\u{feff}a\n\u{feff}b\u{feff}\n".as_bytes()), ["a", "b\u{feff}"]);
        assert_eq!(read("\u{feff}a\r\nb".as_bytes(), "t.txt", 9).unwrap(), "a\nb\n");
        let mut rest = String::new();
        open("\u{feff}ab".as_bytes(), "t.csv").unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "ab");
    }

    #[test]
    fn other_encodings_are_named() {
        for (bytes, encoding) in [
            (&b"\xff\xfea\0\n\0"[..], "UTF-16"),
            (b"\xfe\xff\0a\0\n", "UTF-16"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
            (b"\0\0\xfe\xff\0\0\0a", "UTF-32"),
            (b"\xff\xfe", "UTF-16"),
        ] {
            let expected = format!(
                "t.txt is {encoding} text, expected UTF-8\n\n\
                 hint: save it as UTF-8, or convert it: iconv -f {encoding} -t UTF-8"
            );
            assert_eq!(Lines::of(bytes).next("t.txt").err().unwrap().to_string(), expected);
            assert_eq!(open(bytes, "t.txt").err().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_line_that_is_no_text_is_named_and_the_next_ones_are_read() {
        let said = |line: &[u8]| {
            let found = lines(&[b"a\n", line, b"\nb"].concat());
            assert_eq!((&found[0], &found[2]), (&Ok("a".to_owned()), &Ok("b".to_owned())));
            found[1].clone().unwrap_err()
        };
        assert!(said(b"x\xffy").starts_with("t.txt line 2: not UTF-8\n\nhint: save the file as UTF-8"));
        assert!(said(b"x\0y").starts_with("there is a NUL in the text\n  in t.txt line 2\n\nhint: is the file UTF-16"));
        assert!(
            said(b"x\ry").starts_with("t.txt line 2: there is a CR within the line\n\nhint: save the file with LF")
        );
        let long = "x".repeat(LONGEST_LINE as usize + 1);
        assert_eq!(said(long.as_bytes()), "t.txt line 2: longer than 16777216 bytes");
        // UTF-16 without a mark has a NUL in every line.
        assert!(lines(b"a\0b\0\n\0")[0].is_err());
    }

    #[test]
    fn a_text_that_is_longer_than_expected_is_refused() {
        let error = read(&b"a\nb\nc\n"[..], "t.txt", 4).unwrap_err();
        assert_eq!(error.message(), "t.txt is longer than 4 bytes");
    }
}
