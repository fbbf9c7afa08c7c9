//! Parses arguments, calls, prints one error, exits.

mod cli;
mod memory;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
#[cfg(unix)]
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kilnc::error::{Error, tells_of_machine_fault};

#[global_allocator]
static MEMORY: memory::Memory = memory::Memory;

/// Whether a signal has come.
static ENDING: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    end_cleanly_on_signals();
    memory::end_cleanly_without();
    leave_watched_panics_to_their_errors();
    if let Ok(program) = std::env::current_exe() {
        kilnc::subprocess::set_program(program);
    }
    let json = std::env::args_os().any(|argument| argument == "--json");
    let outcome = match catch_unwind(AssertUnwindSafe(cli::main)) {
        Ok(outcome) => outcome,
        Err(panic) => Err(of_panic(&*panic)),
    };
    while ENDING.load(Ordering::SeqCst) {
        // Errors from here on are those of the removed stage; the thread that sweeps it ends the process.
        std::thread::park();
    }
    if let Err(error) = &outcome {
        cli::report(error, json);
    }
    match (kilnc::interrupt::noted(), outcome) {
        (Some(signal), _) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        (None, Ok(())) => ExitCode::SUCCESS,
        (None, Err(error)) => ExitCode::from(error.exit_code()),
    }
}

/// Reports a panic: a fault of kilnc's, or of the machine's where no thread could be started.
fn of_panic(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let said = said.unwrap_or("a panic");
    if tells_of_machine_fault(said) { Error::machine_failed(said) } else { Error::bug(said) }
}

/// Where a tokenizer's library panics on a damaged file, those who watch it make an error of it; one message is enough.
fn leave_watched_panics_to_their_errors() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What panics there is reported as an error.
        let watched = [kilnc::runtime::TOKENIZER_THREAD, kilnc::runtime::chat::THREAD];
        if std::thread::current().name().is_none_or(|name| !watched.contains(&name)) {
            print(panic);
        }
    }));
}

/// On a signal that ends a process: no stage and no child stays behind, and the exit code shows which signal it was. A file that
/// is longer than the system allows is an error where it is written.
#[cfg(unix)]
fn end_cleanly_on_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::<AtomicBool>::default());
    // Signals that `nohup` or a shell has turned off stay off.
    let others = [SIGHUP, SIGQUIT].into_iter().filter(|signal| !is_ignored(*signal));
    let ending = [SIGINT, SIGTERM, SIGXCPU].into_iter().chain(others);
    let Ok(mut signals) = signal_hook::iterator::Signals::new(ending) else { return };
    let wait = move || {
        // Work that can save its results takes the first signal itself.
        if let Some(signal) = signals.forever().find(|signal| !kilnc::interrupt::take(*signal)) {
            ENDING.store(true, Ordering::SeqCst);
            kilnc::subprocess::end_all();
            kilnc::output::sweep_all();
            std::process::exit(128 + signal);
        }
    };
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
}

/// Whether this process was started without ears for a signal.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: the action is written by the call, which changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
fn end_cleanly_on_signals() {}
