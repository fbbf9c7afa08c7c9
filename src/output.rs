//! The one way kilnc writes outputs: staged beside the output, synced, renamed last.
//!
//! Any failure before the last rename (an error, a signal, `kill -9`, power loss) leaves the old output as it was.
//! The stage of a run that was killed is swept by the next run to the same output. Two runs to one output do not mix:
//! the second fails.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::presence;

/// Stages that a signal has to remove.
static LIVE: Mutex<Vec<Made>> = Mutex::new(Vec::new());

/// A folder beside the output, in which the output is made ready.
#[derive(Debug)]
pub struct Stage {
    output: PathBuf,
    made: Made,
    /// Locked as long as the stage lives.
    lock: Option<File>,
}

/// The stage's folder, and the folders that were made to put it in, innermost first.
#[derive(Clone, Debug)]
struct Made {
    dir: PathBuf,
    parents: Vec<PathBuf>,
}

impl Made {
    /// Removes the stage. The folders around it stay where an output was put in one.
    fn remove(&self) -> std::io::Result<()> {
        let removed = fs::remove_dir_all(&self.dir);
        for parent in &self.parents {
            let _ = fs::remove_dir(parent);
        }
        removed
    }
}

impl Stage {
    /// Prepares to write `output`, a file or a folder.
    ///
    /// Fails, before any work is done, where the path cannot be written, where another run is writing the same
    /// output, or where the path is not ours to replace: something that `replaceable` does not recognize, or
    /// a link.
    pub fn new(output: &Path, replaceable: impl Fn(&Path) -> Result<bool>) -> Result<Stage> {
        let name = output
            .file_name()
            .ok_or_else(|| Error::bad_input(format!("{} is no name for an output", output.display())))?;
        if output.to_str().is_none() {
            return Err(Error::bad_input(format!("the output's path {} is not UTF-8", output.display())));
        }
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if let Some(found) = there(output)? {
            if found.is_symlink() {
                return Err(
                    Error::bad_input(format!("the output {} is a link", output.display())).hint("remove it first")
                );
            }
            if !replaceable(output)? {
                let what = if found.is_dir() { "folder" } else { "file" };
                return Err(Error::bad_input(format!(
                    "the output {} is a {what} that kilnc did not make",
                    output.display()
                ))
                .hint("remove it, or choose another name"));
            }
        }
        let mut stage_name = std::ffi::OsString::from(".");
        stage_name.push(name);
        stage_name.push(".kilnc-stage");
        let missing =
            parent.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && matches!(dir.try_exists(), Ok(false)));
        let made = Made { dir: parent.join(stage_name), parents: missing.map(Path::to_owned).collect() };
        let lock = fs::create_dir_all(&parent)
            .map_err(|e| Error::io("creating", &parent, &e))
            .and_then(|()| claim(&made.dir, output))
            .inspect_err(|_| made.parents.iter().for_each(|parent| drop(fs::remove_dir(parent))))?;
        if let Ok(mut live) = LIVE.lock() {
            live.push(made.clone());
        }
        let stage = Stage { output: output.to_owned(), made, lock };
        sweep(stage.dir())?;
        Ok(stage)
    }

    /// The path of a file or folder of the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.made.dir.join(name)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.made.dir
    }

    /// Replaces the output by the whole folder.
    pub fn commit_dir(mut self) -> Result<()> {
        sync_tree(self.dir())?;
        exchange(self.dir(), &self.output)?;
        self.release();
        Ok(())
    }

    /// Renames files of the stage beside each other, in their order; the last one completes the output.
    pub fn commit_files(mut self, names: &[&str]) -> Result<()> {
        for name in names {
            let (from, to) = (self.path(name), self.output.with_file_name(name));
            fs::rename(&from, &to).map_err(|e| Error::io("writing", &to, &e))?;
        }
        sync_dir(self.dir().parent().unwrap_or(Path::new(".")))?;
        self.release();
        Ok(())
    }

    /// Replaces the output by a folder of the stage.
    pub fn commit_folder(mut self, name: &str) -> Result<()> {
        let made = self.path(name);
        sync_tree(&made)?;
        exchange(&made, &self.output)?;
        self.release();
        Ok(())
    }

    /// Syncs the stage to the disk, so that the renames fail for nothing that could have
    /// been known before.
    pub fn sync(&self) -> Result<()> {
        sync_tree(self.dir())
    }

    fn release(&mut self) {
        // A failed clean-up is no error: the output is complete, and the next run sweeps.
        let _ = self.made.remove();
        self.lock = None;
        if let Ok(mut live) = LIVE.lock() {
            live.retain(|made| made.dir != self.made.dir);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.lock.is_some() || self.dir().exists() {
            self.release();
        }
    }
}

/// Whether a folder has the file `mark`, by which a command knows its own outputs, and no other that `is_own` does not
/// accept by its name. Fails where it cannot be read.
pub fn holds_only(dir: &Path, mark: &str, is_own: impl Fn(&str) -> bool) -> Result<bool> {
    if !presence::is_file(&dir.join(mark))? {
        return Ok(false);
    }
    let failed = |e: std::io::Error| Error::io("reading", dir, &e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        if !entry.map_err(failed)?.file_name().to_str().is_some_and(&is_own) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes JSON as people read it.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::bug(format!("{}: {e}", path.display())))?;
    fs::write(path, text + "\n").map_err(|e| Error::io("writing", path, &e))
}

/// Fails where writing `output` would replace an input, or where it is inside a folder of the inputs.
pub fn check_disjoint<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let place = resolved(output);
    for input in inputs {
        let found = resolved(input);
        if found.starts_with(&place) {
            return Err(Error::bad_input(format!(
                "the output {} would replace the input {}",
                output.display(),
                input.display()
            ))
            .hint("choose another path for -o"));
        }
        if place.starts_with(&found) {
            return Err(Error::bad_input(format!(
                "the output {} is inside the input {}",
                output.display(),
                input.display()
            ))
            .hint("choose another path for -o"));
        }
    }
    Ok(())
}

/// The path of a file relative to a folder; absolute, where there is no way between the two.
pub fn relative(path: &Path, folder: &Path) -> PathBuf {
    let (path, folder) = (resolved(path), resolved(folder));
    let (mut to, mut from) = (path.components().peekable(), folder.components().peekable());
    if to.peek() != from.peek() {
        return path;
    }
    while to.peek().is_some() && to.peek() == from.peek() {
        to.next();
        from.next();
    }
    from.map(|_| std::path::Component::ParentDir).chain(to).collect()
}

/// The path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = full.ancestors().find_map(|dir| Some((dir, dir.canonicalize().ok()?)));
    match there {
        Some((dir, real)) => full.strip_prefix(dir).map_or(real.clone(), |rest| real.join(rest)),
        None => full,
    }
}

/// Removes every live stage; for the moment before the process ends.
pub fn sweep_all() {
    for made in live() {
        // The threads that fill the stage are still at it, and may add a file while others are being removed.
        for _ in 0..1000 {
            if made.remove().is_ok() || !made.dir.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// The stages that live, where that is known: a thread that ran out of memory may hold the list for good.
fn live() -> Vec<Made> {
    for _ in 0..100 {
        if let Ok(live) = LIVE.try_lock() {
            return live.clone();
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Vec::new()
}

/// Makes the stage's folder and locks it. A folder left by a run that died is not locked and becomes ours.
#[cfg(unix)]
fn claim(dir: &Path, output: &Path) -> Result<Option<File>> {
    use std::os::unix::fs::MetadataExt;
    for _ in 0..16 {
        match fs::create_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::io("writing to", dir, &e)),
            _ => {}
        }
        let lock = match File::open(dir) {
            // The run that held the lock is done.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|e| Error::io("writing to", dir, &e))?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::bad_input(format!("another run of kilnc is writing {}", output.display()))
                    .hint("wait for it, or choose another output"));
            }
            // A file system without locks: carry on, as every tool does there.
            Err(TryLockError::Error(_)) => return Ok(Some(lock)),
        }
        // The run that held the lock may have renamed the folder away meanwhile.
        let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if let (Ok(held), Ok(there)) = (lock.metadata(), fs::metadata(dir))
            && same(&held, &there)
        {
            return Ok(Some(lock));
        }
    }
    Err(Error::bad_input(format!("{} keeps changing under another run", dir.display())))
}

#[cfg(not(unix))]
fn claim(dir: &Path, _output: &Path) -> Result<Option<File>> {
    fs::create_dir_all(dir).map_err(|e| Error::io("writing to", dir, &e))?;
    Ok(None)
}

/// Empties a folder.
fn sweep(dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("emptying", dir, &e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.file_type().map_err(failed)?.is_dir();
        if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) }.map_err(failed)?;
    }
    Ok(())
}

/// Exchanges `new` and `old`, if `old` exists; its content is then under the name of `new`.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, old: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let failed = |e: std::io::Error| Error::io("writing", old, &e);
    if there(old)?.is_none() {
        fs::rename(new, old).map_err(failed)?;
    } else {
        match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(_) => replace_in_two_steps(new, old).map_err(failed)?,
        }
    }
    sync_dir(old.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

#[cfg(not(target_os = "linux"))]
fn exchange(new: &Path, old: &Path) -> Result<()> {
    replace_in_two_steps(new, old).map_err(|e| Error::io("writing", old, &e))
}

/// The entry at a path, links not followed; none where there is none.
fn there(path: &Path) -> Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if presence::is_missing(&e) => Ok(None),
        Err(e) => Err(Error::io("reading the metadata of", path, &e)),
    }
}

/// For file systems that cannot exchange two names in one step.
fn replace_in_two_steps(new: &Path, old: &Path) -> std::io::Result<()> {
    let mut aside = new.as_os_str().to_owned();
    aside.push(".old");
    let aside = PathBuf::from(aside);
    match fs::rename(old, &aside) {
        Err(e) if !presence::is_missing(&e) => return Err(e),
        _ => {}
    }
    fs::rename(new, old).inspect_err(|_| {
        let _ = fs::rename(&aside, old);
    })?;
    let _ = fs::remove_dir_all(&aside);
    Ok(())
}

fn sync_tree(dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("syncing", dir, &e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path()).and_then(|file| file.sync_all()).map_err(failed)?;
        }
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("syncing", dir, &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(dir: &Path) -> Result<bool> {
        presence::is_file(&dir.join("mark"))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_replaced_as_a_whole() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        for content in ["one", "two"] {
            let stage = Stage::new(&out, ours).unwrap();
            fs::write(stage.path("mark"), content).unwrap();
            stage.commit_dir().unwrap();
            assert_eq!(fs::read_to_string(out.join("mark")).unwrap(), content);
        }
        assert_eq!(names(place.path()), ["out"]);
    }

    #[test]
    fn a_stage_that_is_dropped_leaves_the_old_output() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("mark"), "old").unwrap();
        let stage = Stage::new(&out, ours).unwrap();
        fs::write(stage.path("mark"), "new").unwrap();
        drop(stage);
        assert_eq!(fs::read_to_string(out.join("mark")).unwrap(), "old");
        assert_eq!(names(place.path()), ["out"]);
    }

    #[test]
    fn files_of_others_are_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        fs::create_dir(&out).unwrap();
        let error = Stage::new(&out, ours).unwrap_err();
        assert!(error.message().ends_with("out is a folder that kilnc did not make"));
        let file = place.path().join("file");
        fs::write(&file, "a recipe").unwrap();
        assert!(Stage::new(&file, ours).unwrap_err().message().ends_with("file is a file that kilnc did not make"));
        assert_eq!(names(place.path()), ["file", "out"]);
    }

    #[test]
    fn unused_folders_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("a/b/out");
        drop(Stage::new(&out, ours).unwrap());
        assert!(names(place.path()).is_empty());
        let stage = Stage::new(&out, ours).unwrap();
        fs::write(stage.path("mark"), "").unwrap();
        stage.commit_dir().unwrap();
        assert_eq!(names(&place.path().join("a/b")), ["out"]);
    }

    #[test]
    #[cfg(unix)]
    fn a_path_is_relative_to_a_folder() {
        let place = tempfile::tempdir().unwrap();
        let seen = |path: &str, folder: &str| relative(&place.path().join(path), &place.path().join(folder));
        assert_eq!(seen("a/x", "b"), Path::new("../a/x"));
        assert_eq!(seen("x", "a/b"), Path::new("../../x"));
        assert_eq!(seen("a/x", "a"), Path::new("x"));
        std::os::unix::fs::symlink(place.path().join("a/b"), place.path().join("link")).unwrap();
        fs::create_dir_all(place.path().join("a/b")).unwrap();
        assert_eq!(seen("x", "link"), Path::new("../../x"));
    }

    #[test]
    #[cfg(unix)]
    fn outputs_and_inputs_are_disjoint_however_paths_are_written() {
        let place = tempfile::tempdir().unwrap();
        let model = place.path().join("model");
        fs::create_dir_all(model.join("sub")).unwrap();
        std::os::unix::fs::symlink(&model, place.path().join("link")).unwrap();
        let said = |output: &str| {
            check_disjoint(&place.path().join(output), [&*model])
                .map_err(|e| e.message().replace(place.path().to_str().unwrap(), "…"))
        };
        assert_eq!(said("model").unwrap_err(), "the output …/model would replace the input …/model");
        assert_eq!(said("link").unwrap_err(), "the output …/link would replace the input …/model");
        assert_eq!(said("").unwrap_err(), "the output …/ would replace the input …/model");
        assert_eq!(said("model/new").unwrap_err(), "the output …/model/new is inside the input …/model");
        assert_eq!(said("link/sub/../new").unwrap_err(), "the output …/link/sub/../new is inside the input …/model");
        assert_eq!(said("model.kiln"), Ok(()));
    }

    #[test]
    #[cfg(unix)]
    fn an_output_has_a_name_in_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join(std::ffi::OsStr::from_bytes(b"o\xff"));
        assert!(Stage::new(&out, ours).unwrap_err().message().ends_with("o\u{fffd} is not UTF-8"));
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_not_written_through() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        std::os::unix::fs::symlink(place.path().join("elsewhere"), &out).unwrap();
        assert!(Stage::new(&out, ours).unwrap_err().message().ends_with("is a link"));
    }

    #[test]
    #[cfg(unix)]
    fn the_second_of_two_runs_fails_and_a_dead_run_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let first = Stage::new(&out, ours).unwrap();
        assert!(Stage::new(&out, ours).unwrap_err().message().starts_with("another run of kilnc is writing"));
        drop(first);
        let dead = place.path().join(".out.kilnc-stage");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("half"), "half").unwrap();
        let stage = Stage::new(&out, ours).unwrap();
        assert!(names(stage.dir()).is_empty());
    }

    #[test]
    fn a_folder_of_the_stage_replaces_the_output() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        for content in ["old", "new"] {
            let stage = Stage::new(&out, ours).unwrap();
            fs::create_dir(stage.path("out")).unwrap();
            fs::write(stage.path("out").join("mark"), content).unwrap();
            stage.sync().unwrap();
            stage.commit_folder("out").unwrap();
            assert_eq!(fs::read_to_string(out.join("mark")).unwrap(), content);
        }
        assert_eq!(names(place.path()), ["out"]);
    }

    #[test]
    fn files_are_put_beside_each_other() {
        let place = tempfile::tempdir().unwrap();
        let stage = Stage::new(&place.path().join("m.onnx"), |_| Ok(false)).unwrap();
        fs::write(stage.path("m.onnx"), "m").unwrap();
        fs::write(stage.path("m.onnx_data"), "d").unwrap();
        stage.commit_files(&["m.onnx_data", "m.onnx"]).unwrap();
        assert_eq!(names(place.path()), ["m.onnx", "m.onnx_data"]);
    }
}
