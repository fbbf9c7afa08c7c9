//! A child that stays: it gets requests in frames, and replies to each in turn.
//!
//! A reply begins with a byte that tells a result from an error as JSON.

use std::fs::File;
use std::io::Read;
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{SentError, Started, died, frames, late, no_thread, replies, requests};
use crate::error::{Error, Result};

/// First byte of a reply.
const DONE: u8 = 0;
const FAILED: u8 = 1;

/// How long a child that has died is listened to.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// How many bytes of a child's standard error are kept: enough for its tail.
const LAST_WORDS: usize = 4096;

/// The parent's side of a child that stays. The child is ended when this is dropped.
pub struct Worker {
    child: Started,
    requests: ChildStdin,
    replies: Receiver<Vec<u8>>,
    complaints: Arc<Mutex<Vec<u8>>>,
    /// Disconnects when the child has nothing more to complain of.
    complained: Receiver<()>,
    what: String,
}

impl Worker {
    /// Starts a child for `job`. `what` names the job in messages.
    pub fn start(job: &str, what: &str) -> Result<Worker> {
        let mut child = Started::new(job, what)?;
        let (stdin, stdout, stderr) =
            (child.process.stdin.take(), child.process.stdout.take(), child.process.stderr.take());
        let (Some(requests), Some(mut stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(Error::bug(format!("{what}: a child process has no pipes")));
        };
        let (sender, replies) = sync_channel(1);
        let thread = |work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().spawn(work).map(drop).map_err(|e| no_thread(what, &e))
        };
        thread(Box::new(move || {
            while let Ok(Some(frame)) = frames::read(&mut stdout) {
                if sender.send(frame).is_err() {
                    break;
                }
            }
        }))?;
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&complaints);
        let (complaining, complained) = sync_channel(1);
        thread(Box::new(move || {
            keep_tail(stderr, &kept);
            drop(complaining);
        }))?;
        Ok(Worker { child, requests, replies, complaints, complained, what: what.to_owned() })
    }

    /// Calls the child. Fails where it fails, dies of a signal (which is named) or does not reply within `limit`; after
    /// the last two it cannot be called again.
    pub fn call(&mut self, request: &[u8], limit: Duration) -> Result<Vec<u8>> {
        // A child that has died does not read; the missing reply says why.
        let _ = frames::write(&mut self.requests, &[request]);
        match self.replies.recv_timeout(limit) {
            Ok(mut reply) => match reply.first() {
                Some(&DONE) => Ok(reply.split_off(1)),
                Some(&FAILED) => match serde_json::from_slice::<SentError>(reply.get(1..).unwrap_or_default()) {
                    Ok(sent) => Err(sent.into()),
                    Err(e) => Err(Error::bug(format!("{}: an error is malformed: {e}", self.what))),
                },
                _ => Err(Error::bug(format!("{}: a reply is malformed", self.what))),
            },
            Err(RecvTimeoutError::Timeout) => {
                self.child.end();
                Err(late(&self.what, limit))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.process.wait().map_err(|e| Error::bug(format!("{}: {e}", self.what)))?;
                // A process that it has started may hold the pipe open.
                let _ = self.complained.recv_timeout(LAST_WORDS_LIMIT);
                let complaints = self.complaints.lock().map(|kept| kept.clone()).unwrap_or_default();
                Err(died(&self.what, status, &complaints))
            }
        }
    }
}

/// The child's side: replies to every request until the parent has no more.
pub fn attend(mut reply: impl FnMut(&[u8]) -> Result<Vec<u8>>) -> Result<()> {
    let mut output: File = replies()?;
    for request in requests()? {
        match reply(&request) {
            Ok(done) => frames::write(&mut output, &[&[DONE], &done]),
            Err(error) => {
                let sent = serde_json::to_vec(&SentError::from(&error))
                    .map_err(|e| Error::bug(format!("an error cannot be written: {e}")))?;
                frames::write(&mut output, &[&[FAILED], &sent])
            }
        }
        .map_err(|e| Error::of_system("a reply cannot be sent", &e))?;
    }
    Ok(())
}

fn keep_tail(mut from: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut piece = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        if let Ok(mut kept) = kept.lock() {
            kept.extend(piece.iter().take(n));
            let excess = kept.len().saturating_sub(LAST_WORDS);
            kept.drain(..excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stderr_tail_is_kept() {
        let kept = Mutex::new(Vec::new());
        let words = ["early ".repeat(2000), "late".to_owned()].concat();
        keep_tail(words.as_bytes(), &kept);
        let kept = String::from_utf8(kept.into_inner().unwrap()).unwrap();
        assert!(kept.len() <= LAST_WORDS && kept.ends_with("early late"));
    }
}
