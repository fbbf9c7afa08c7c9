//! A child ends with its parent, however that ends: by `kill -9` as well, and however busy the child is.
//!
//! The parent holds the other end of the child's standard input as long as it lives; a thread of the child watches it.
//! On Linux the kernel ends the child, too, for the case that this thread does not get to run: at the end of the *thread*
//! that started it (`PR_SET_PDEATHSIG`), which is therefore one that lives as long as the process.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};

use super::frames;

/// Starts a child from a thread that lives as long as this process.
#[cfg(target_os = "linux")]
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    use std::sync::OnceLock;
    use std::sync::mpsc::{Sender, SyncSender, sync_channel};
    type Order = (Command, SyncSender<io::Result<Child>>);
    static STARTER: OnceLock<Option<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, ordered) = channel::<Order>();
        let start = move || {
            for (mut command, reply) in ordered {
                let _ = reply.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("starter".to_owned()).spawn(start).ok().map(|_| orders)
    });
    let (reply, started) = sync_channel(1);
    let gone = || io::Error::new(io::ErrorKind::WouldBlock, "a thread did not start");
    let starter = starter.as_ref().ok_or_else(gone)?;
    starter.send((command, reply)).map_err(|_| gone())?;
    started.recv().map_err(|_| gone())?
}

#[cfg(not(target_os = "linux"))]
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    command.spawn()
}

/// The child's side: the requests that arrive on standard input. From here on this process ends when its parent does.
pub(super) fn requests() -> io::Result<Receiver<Vec<u8>>> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let (sender, requests) = channel();
    std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some(request)) = frames::read(&mut input) {
            // Who has all the requests it wants still lives no longer than its parent.
            let _ = sender.send(request);
        }
        end_at_once();
    })?;
    Ok(requests)
}

/// Ends this process without a word to libraries, whose threads may be busy.
fn end_at_once() {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::exit(1);
}
