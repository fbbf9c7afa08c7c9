//! `kilnc cache`: the cached outputs of builds.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Screen;
use super::screen::shown;
use super::units::{size, time};
use kilnc::cache::{self, Cache, CachedEntry, Limits, Pruned};
use kilnc::error::{Error, Result, printable};
use kilnc::presence;

/// Whether a build uses the cache.
#[derive(Args, Clone, Copy, Debug)]
pub struct CacheArgs {
    /// Make everything anew, and keep nothing for the next build.
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    /// The cache's folder, if there is to be one.
    pub fn folder(self) -> Option<PathBuf> {
        if self.no_cache { None } else { cache::folder() }
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  kilnc cache                              the cached entries, those first that were used last
  kilnc cache prune --max-size 2GB         keep the entries that were used last, up to 2 GB
  kilnc cache prune --unused 30d           remove the entries that were not used for 30 days
  kilnc cache prune --all
  KILNC_CACHE=/fast/disk kilnc build …     another folder; KILNC_CACHE=off for none

Builds cache engines, plans, pruned graphs, calibration statistics and gates' results, each by the content of all
that it follows from. Every build prunes to 10 GB.")]
pub struct CacheCommand {
    #[command(subcommand)]
    what: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// List the cached entries.
    Show,
    /// Remove entries.
    Prune(PruneArgs),
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct PruneArgs {
    /// Remove the entries that were used longest ago, until no more is left than this, e.g. 500MB, 2GB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Remove the entries that were not used for so long, e.g. 12h, 30d.
    #[arg(long, value_name = "TIME", value_parser = time)]
    unused: Option<Duration>,
    /// Remove everything.
    #[arg(long, conflicts_with_all = ["max_size", "unused"])]
    all: bool,
}

#[derive(Serialize)]
struct Shown {
    #[serde(serialize_with = "shown")]
    folder: PathBuf,
    bytes: u64,
    entries: Vec<CachedEntry>,
}

pub fn run(args: CacheCommand, screen: &Screen) -> Result<()> {
    let folder = cache::folder().ok_or_else(|| {
        Error::bad_input(format!("the cache is turned off by {}", cache::CACHE)).hint("unset the variable")
    })?;
    match args.what {
        None | Some(Action::Show) => {
            let entries = if presence::is_dir(&folder)? { Cache::open(&folder)?.list()? } else { Vec::new() };
            let bytes = entries.iter().map(|cached| cached.bytes).sum();
            screen.result(&Shown { folder, bytes, entries }, table)
        }
        Some(Action::Prune(args)) => {
            let bytes = if args.all { Some(0) } else { args.max_size };
            let pruned = match presence::is_dir(&folder)? {
                true => Cache::open(&folder)?.prune(Limits { bytes, age: args.unused })?,
                false => Pruned::default(),
            };
            screen.result(&pruned, |Pruned { entries, bytes, left, bytes_left }| {
                format!("removed {entries} ({}); {left} left ({})\n", human_bytes(*bytes), human_bytes(*bytes_left))
            })
        }
    }
}

fn table(shown: &Shown) -> String {
    let mut out = String::new();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    for CachedEntry { key, kind, name, bytes, used } in &shown.entries {
        let short = printable(key).chars().take(12).collect::<String>();
        let unused = since(now.saturating_sub(*used));
        let (kind, name) = (printable(kind), printable(name));
        out += &format!("{short}  {kind:<12} {:>9}  {unused:>8}  {name}\n", human_bytes(*bytes));
    }
    out + &format!("{} in {} entries of {}\n", human_bytes(shown.bytes), shown.entries.len(), shown.folder.display())
}

/// How long ago something was.
fn since(seconds: u64) -> String {
    match seconds {
        0..60 => "now".to_owned(),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

fn human_bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_are_printed_in_days() {
        assert_eq!([5, 65, 7300, 200_000].map(since), ["now", "1 min", "2 h", "2 d"]);
    }
}
