//! Runs a part of kilnc in its own process, with a time limit.
//!
//! Native libraries can crash or hang; engines that share a process spoil each other's timings. Both go to a child:
//! this program again, with a hidden subcommand. It does one job ([`call`], [`serve`]: a request as JSON on its standard
//! input, a reply on its output), or stays and is called again and again ([`Worker`], [`attend`]). It ends with its
//! parent, however that ends.

mod frames;
mod lifeline;
mod sent;
mod worker;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, tells_of_machine_fault};

pub use sent::{Reply, SentError, SentPath};
pub use worker::{Worker, attend};

/// The hidden subcommand under which this program is started as a child.
pub const SUBCOMMAND: &str = "internal-child";

/// The program that is started.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Variables that children get beside those of this process.
static PASSED: Mutex<Vec<(&str, OsString)>> = Mutex::new(Vec::new());

/// Processes that a signal has to end.
static LIVE: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Names the file of the program `kilnc`, from which children are started; the first name counts. A program that uses
/// kilnc as a library and names none has no children.
pub fn set_program(kilnc: PathBuf) {
    PROGRAM.get_or_init(|| kilnc);
}

/// Sets a variable of the environment for every child that is started from here on.
pub fn pass_on(name: &'static str, value: OsString) {
    if let Ok(mut passed) = PASSED.lock() {
        passed.retain(|(other, _)| *other != name);
        passed.push((name, value));
    }
}

/// Whether children can be started.
pub fn can_start() -> bool {
    PROGRAM.get().is_some()
}

/// Runs `job` in a child. `what` names the job in messages.
///
/// Fails where the child fails, dies of a signal (which is named) or is not done within `limit`.
pub fn call<Request: Serialize, T: DeserializeOwned>(
    job: &str,
    request: &Request,
    limit: Duration,
    what: &str,
) -> Result<T> {
    let mut child = Started::new(job, what)?;
    let (status, output, complaints) = converse(&mut child.process, request, limit, what)?;
    match serde_json::from_slice::<Reply<T>>(&output) {
        Ok(Reply::Done(done)) => Ok(done),
        Ok(Reply::Failed(sent)) => Err(sent.into()),
        Err(_) => Err(died(what, status, &complaints)),
    }
}

/// A child process that a signal ends together with this one.
struct Started {
    process: Child,
}

impl Started {
    fn new(job: &str, what: &str) -> Result<Started> {
        let program = PROGRAM.get().ok_or_else(|| {
            Error::runtime_missing(format!("{what}: the program `kilnc` is not known, of which that would be a child"))
                .hint("name its file with kilnc::subprocess::set_program")
        })?;
        let passed = PASSED.lock().map(|passed| passed.clone()).unwrap_or_default();
        let mut command = Command::new(program);
        command.args([SUBCOMMAND, job]).envs(passed);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = lifeline::spawn(command)
            .map_err(|e| Error::of_system(format!("{what}: a child process did not start"), &e))?;
        if let Ok(mut live) = LIVE.lock() {
            live.push(process.id());
        }
        Ok(Started { process })
    }

    /// Ends the process, if it has not ended.
    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
        if let Ok(mut live) = LIVE.lock() {
            live.retain(|other| *other != self.process.id());
        }
    }
}

fn converse<Request: Serialize>(
    child: &mut Child,
    request: &Request,
    limit: Duration,
    what: &str,
) -> Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let request = serde_json::to_vec(request).map_err(|e| Error::bug(format!("{what}: {e}")))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        let read = move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        };
        std::thread::Builder::new().spawn(read).map_err(|e| no_thread(what, &e))
    };
    let output = reader(stdout.map(|pipe| Box::new(pipe) as _))?;
    let complaints = reader(stderr.map(|pipe| Box::new(pipe) as _))?;
    if let Some(stdin) = &mut child.stdin {
        // A child that has died already does not read; its status shows why. The pipe stays open: the child ends with it.
        let _ = frames::write(stdin, &[&request]);
    }
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) => {
                return Err(late(what, limit));
            }
            Err(e) => return Err(Error::bug(format!("{what}: {e}"))),
        }
    };
    Ok((status, output.join().unwrap_or_default(), complaints.join().unwrap_or_default()))
}

fn no_thread(what: &str, error: &io::Error) -> Error {
    Error::of_system(format!("{what}: a thread did not start"), error)
}

fn late(what: &str, limit: Duration) -> Error {
    Error::unsupported(format!("{what}: not done within {} s, and ended", limit.as_secs()))
}

fn died(what: &str, status: ExitStatus, complaints: &[u8]) -> Error {
    let complaints = String::from_utf8_lossy(complaints);
    let last: Vec<_> = complaints.lines().rev().take(3).map(crate::error::printable).collect();
    let machine = status.code() == Some(MACHINE_FAILED) || is_killed(status) || tells_of_machine_fault(&complaints);
    let make = if machine { Error::machine_failed } else { Error::bug };
    let error = make(format!("{what}: the child process ended with {}", describe(status)));
    if last.is_empty() {
        error
    } else {
        error.at(format!("stderr tail: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")))
    }
}

/// The exit code of a process whose machine failed it.
const MACHINE_FAILED: i32 = 5;

/// Whether somebody else ended a process: the system, where memory is short.
#[cfg(unix)]
fn is_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(rustix::process::Signal::KILL.as_raw())
}

#[cfg(not(unix))]
fn is_killed(_status: ExitStatus) -> bool {
    false
}

#[cfg(unix)]
fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(11) => "signal 11 (a crash in native code)".to_owned(),
        Some(6) => "signal 6 (an abort in native code)".to_owned(),
        Some(9) => "signal 9 (killed; was memory short?)".to_owned(),
        Some(signal) => format!("signal {signal}"),
        None => status.to_string(),
    }
}

#[cfg(not(unix))]
fn describe(status: ExitStatus) -> String {
    status.to_string()
}

/// Ends every live child; for the moment before this process ends.
pub fn end_all() {
    #[cfg(unix)]
    for id in live().into_iter().filter_map(|id| rustix::process::Pid::from_raw(id as i32)) {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    }
}

/// The children that live, where that is known: a thread that ran out of memory may hold the list for good.
#[cfg(unix)]
fn live() -> Vec<u32> {
    for _ in 0..100 {
        if let Ok(live) = LIVE.try_lock() {
            return live.clone();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

/// The child's side: reads the request, does the job, writes the reply.
pub fn serve<Request: DeserializeOwned, T: Serialize>(job: impl FnOnce(Request) -> Result<T>) -> Result<()> {
    let mut output = replies()?;
    let request = requests()?.recv().map_err(|_| Error::bug("a request does not arrive"))?;
    let reply = match serde_json::from_slice(&request) {
        Ok(request) => match job(request) {
            Ok(done) => Reply::Done(done),
            Err(error) => Reply::Failed(SentError::from(&error)),
        },
        Err(e) => Reply::Failed(SentError::from(&Error::bug(format!("a request is malformed: {e}")))),
    };
    let reply = serde_json::to_vec(&reply).map_err(|e| Error::bug(format!("a reply cannot be written: {e}")))?;
    output.write_all(&reply).map_err(|e| Error::of_system("a reply cannot be sent", &e))
}

/// The parent's requests, until it ends.
fn requests() -> Result<Receiver<Vec<u8>>> {
    lifeline::requests().map_err(|e| Error::of_system("requests cannot be read", &e))
}

/// The child's way to its parent. Libraries' prints go to standard error from here on.
#[cfg(unix)]
fn replies() -> Result<File> {
    use std::os::fd::AsFd;
    let failed = |e: io::Error| Error::of_system("standard output cannot be set aside", &e);
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    rustix::stdio::dup2_stdout(std::io::stderr()).map_err(|e| failed(e.into()))?;
    Ok(output.into())
}

#[cfg(windows)]
fn replies() -> Result<File> {
    use std::os::windows::io::AsHandle;
    let failed = |e: io::Error| Error::of_system("standard output cannot be set aside", &e);
    Ok(std::io::stdout().as_handle().try_clone_to_owned().map_err(failed)?.into())
}
