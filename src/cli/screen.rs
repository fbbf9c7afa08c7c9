//! The user's output: results on standard output, progress and warnings on standard error.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::{Serialize, Serializer};

use kilnc::build::Observer;
use kilnc::error::{Error, Result, visible};

/// Its name in messages.
pub(super) const STANDARD_OUTPUT: &str = "standard output";

/// Prints a line on standard error. Where that is closed, the work goes on.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(line));
}

/// Prints a text on standard output.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut to = io::stdout().lock();
    to.write_all(text.as_bytes())?;
    to.flush()
}

/// A path in a result that is JSON, which has to be UTF-8: other bytes are replaced, as in messages.
pub(super) fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The result of printing on standard output. A reader that has read enough, such as `head`, is no error.
pub(super) fn printed(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::of_system(STANDARD_OUTPUT, &e)),
    }
}

/// Notes that its reader is gone.
struct Pipe<W> {
    to: W,
    closed: bool,
}

impl<W: Write> Pipe<W> {
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|e| self.closed |= e.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes);
        self.noted(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.to.flush();
        self.noted(flushed)
    }
}

/// Standard output and standard error, by the flags.
pub struct Screen {
    quiet: bool,
    json: bool,
    stage: Mutex<Option<Stage>>,
}

struct Stage {
    bar: ProgressBar,
    start: Instant,
}

impl Screen {
    /// A screen; `quiet` leaves progress out, `json` prints results as JSON.
    pub fn new(quiet: bool, json: bool) -> Screen {
        Screen { quiet, json, stage: Mutex::new(None) }
    }

    /// Prints a result: as JSON with --json, else as the text that `human` makes.
    pub fn result<T: Serialize>(&self, value: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        let text = match self.json {
            true => {
                serde_json::to_string_pretty(value)
                    .map_err(|e| Error::bug(format!("a result cannot be printed: {e}")))?
                    + "\n"
            }
            false => visible(&human(value)),
        };
        printed(print(&text))
    }

    /// Prints a result piece by piece. None where the reader has read enough.
    pub fn results<T>(&self, print: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<Option<T>> {
        let mut to = Pipe { to: BufWriter::new(io::stdout().lock()), closed: false };
        let made = print(&mut to).and_then(|made| {
            to.flush().map_err(|e| Error::of_system(STANDARD_OUTPUT, &e))?;
            Ok(made)
        });
        match made {
            Err(_) if to.closed => Ok(None),
            made => made.map(Some),
        }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A line of progress.
    pub fn note(&self, line: impl Display) {
        if !self.quiet {
            self.print(&line.to_string());
        }
    }

    /// A part of the work that goes through texts, an unknown number of them.
    pub fn begin_counting(&self, name: &str) {
        self.start(name, None, "  {spinner} {msg} · {pos} texts · {rate} a second");
    }

    fn start(&self, name: &str, total: Option<u64>, template: &str) {
        let shown = !self.quiet && std::io::stderr().is_terminal();
        let bar = match (shown, total) {
            (false, _) => ProgressBar::hidden(),
            (true, None) => ProgressBar::new_spinner(),
            (true, Some(total)) => ProgressBar::new(total),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{:.0}", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate));
        }
        bar.set_message(name.to_owned());
        bar.tick();
        if let Ok(mut stage) = self.stage.lock() {
            *stage = Some(Stage { bar, start: Instant::now() });
        }
    }

    fn print(&self, line: &str) {
        let stage = self.stage.lock();
        match stage.as_ref().ok().and_then(|stage| stage.as_ref()) {
            Some(stage) => stage.bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

impl Observer for Screen {
    fn begin(&self, name: &str, total: Option<u64>) {
        let template =
            if total.is_some() { "  {msg} {bar:30} {percent:>3} % · {eta} left" } else { "  {spinner} {msg}" };
        self.start(name, total, template);
    }

    fn begin_texts(&self, name: &str, texts: u64) {
        self.start(name, Some(texts), "  {msg} {bar:30} {pos} of {len} texts · {rate} a second · {eta} left");
    }

    fn advance(&self, steps: u64) {
        if let Ok(stage) = self.stage.lock()
            && let Some(stage) = stage.as_ref()
        {
            stage.bar.inc(steps);
        }
    }

    fn done(&self, line: &str) {
        let ended = self.stage.lock().ok().and_then(|mut stage| stage.take());
        let time = ended.map(|stage| {
            stage.bar.finish_and_clear();
            stage.start.elapsed().as_secs_f64()
        });
        match time {
            Some(time) => self.note(format!("  {time:>6.2} s  {line}")),
            None => self.note(format!("            {line}")),
        }
    }

    fn warn(&self, line: &str) {
        self.print(&format!("warning: {line}"));
    }
}
