//! Parses arguments, calls, prints one error, exits.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use kilnc::cli::{self, Cli};

/// Whether a signal has come.
static ENDING: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    end_cleanly_on_signals();
    leave_watched_panics_to_their_errors();
    if let Ok(program) = std::env::current_exe() {
        kilnc::child::set_program(program);
    }
    let json = std::env::args_os().any(|argument| argument == "--json");
    let outcome = cli::run(Cli::parse());
    while ENDING.load(Ordering::SeqCst) {
        // What failed now failed because the stage is gone; the thread that sweeps it ends the process.
        std::thread::park();
    }
    match outcome {
        Ok(()) => match kilnc::interrupt::noted() {
            Some(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
            None => ExitCode::SUCCESS,
        },
        Err(error) => {
            cli::report(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Where a tokenizer's library panics on a damaged file, those who watch it make an error of it; one message is enough.
fn leave_watched_panics_to_their_errors() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(kilnc::runtime::TOKENIZER_THREAD) {
            print(panic);
        }
    }));
}

/// On SIGINT and SIGTERM: no stage and no child stays behind, and the exit code says which it was.
#[cfg(unix)]
fn end_cleanly_on_signals() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        // What can keep what it has done takes the first signal itself.
        if let Some(signal) = signals.forever().find(|signal| !kilnc::interrupt::take(*signal)) {
            ENDING.store(true, Ordering::SeqCst);
            kilnc::child::end_all();
            kilnc::output::sweep_all();
            std::process::exit(128 + signal);
        }
    });
}

#[cfg(not(unix))]
fn end_cleanly_on_signals() {}
