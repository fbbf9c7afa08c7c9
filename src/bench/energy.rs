//! Energy, where Linux reports it: the counters of RAPL (“running average power limit”) that Intel's and AMD's processors
//! keep for each package.
//!
//! They count all that a package does, for every process, in microjoules, and begin anew at `max_energy_range_uj`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where Linux keeps them.
pub const POWERCAP: &str = "/sys/class/powercap";

/// A counter begins anew after minutes; it is read more often than that.
const OFTEN: Duration = Duration::from_secs(2);

/// The counters of all packages.
#[derive(Debug)]
pub struct Meter {
    packages: Vec<Package>,
    joules: f64,
    read: Instant,
}

#[derive(Debug)]
struct Package {
    counter: PathBuf,
    range: u64,
    last: u64,
}

impl Meter {
    /// The meter of a folder such as [`POWERCAP`], or why there is none, as text for a report.
    pub fn open(folder: &Path) -> Result<Meter, String> {
        let entries = fs::read_dir(folder).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => format!("the system has no {}", folder.display()),
            _ => format!("{}: {e}", folder.display()),
        })?;
        let mut zones: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|zone| is_package(zone)).collect();
        zones.sort();
        if zones.is_empty() {
            return Err(format!("{} has no intel-rapl counter of a package", folder.display()));
        }
        let packages = zones.iter().map(|zone| Package::open(zone)).collect::<Result<_, _>>()?;
        Ok(Meter { packages, joules: 0.0, read: Instant::now() })
    }

    /// Begins at nothing.
    pub fn restart(&mut self) {
        self.add();
        self.joules = 0.0;
    }

    /// Reads the counters, if it is time to: before they may have gone round.
    pub fn keep_up(&mut self) {
        if self.read.elapsed() >= OFTEN {
            self.add();
        }
    }

    /// Joules since the start.
    pub fn joules(&mut self) -> f64 {
        self.add();
        self.joules
    }

    fn add(&mut self) {
        self.joules += self.packages.iter_mut().map(Package::since).sum::<f64>() / 1e6;
        self.read = Instant::now();
    }
}

/// `intel-rapl:0` is a package, `intel-rapl:0:1` a part of it; `psys` is the whole board, of which packages are a part.
fn is_package(zone: &Path) -> bool {
    let name = zone.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("intel-rapl:"));
    let number = name.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
    number && fs::read_to_string(zone.join("name")).is_ok_and(|name| name.trim() != "psys")
}

impl Package {
    fn open(zone: &Path) -> Result<Package, String> {
        let (counter, range) = (zone.join("energy_uj"), zone.join("max_energy_range_uj"));
        let number = |path: &Path| {
            let text = fs::read_to_string(path).map_err(|e| match e.kind() {
                std::io::ErrorKind::PermissionDenied => format!("{} can only be read by the superuser", path.display()),
                _ => format!("{}: {e}", path.display()),
            })?;
            text.trim().parse::<u64>().map_err(|_| format!("{} holds no number", path.display()))
        };
        Ok(Package { range: number(&range)?, last: number(&counter)?, counter })
    }

    /// Microjoules since it was read last.
    fn since(&mut self) -> f64 {
        let now = fs::read_to_string(&self.counter).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let now = now.unwrap_or(self.last);
        let round = if now < self.last { self.range } else { 0 };
        let gone = (now as f64 + round as f64 - self.last as f64).max(0.0);
        self.last = now;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(folder: &Path, name: &str, says: &str, uj: u64) {
        let zone = folder.join(name);
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("name"), format!("{says}\n")).unwrap();
        fs::write(zone.join("energy_uj"), format!("{uj}\n")).unwrap();
        fs::write(zone.join("max_energy_range_uj"), "1000000000\n").unwrap();
    }

    #[test]
    fn packages_are_added_up_and_parts_and_boards_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let counters = |package: u64| {
            zone(folder.path(), "intel-rapl:0", "package-0", 5_000_000 + package);
            zone(folder.path(), "intel-rapl:1", "package-1", 7_000_000 + 2 * package);
            zone(folder.path(), "intel-rapl:0:0", "core", 9 * package);
            zone(folder.path(), "intel-rapl:2", "psys", 9 * package);
            zone(folder.path(), "intel-rapl-mmio:0", "package-0", 9 * package);
        };
        counters(0);
        let mut meter = Meter::open(folder.path()).unwrap();
        counters(1_000_000);
        assert_eq!(meter.joules(), 3.0);
        meter.restart();
        counters(1_500_000);
        assert_eq!(meter.joules(), 1.5);
    }

    #[test]
    fn a_counter_that_begins_anew_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        zone(folder.path(), "intel-rapl:0", "package-0", 999_000_000);
        let mut meter = Meter::open(folder.path()).unwrap();
        zone(folder.path(), "intel-rapl:0", "package-0", 500_000);
        assert_eq!(meter.joules(), 1.5);
        // A counter that disappears meanwhile counts nothing.
        fs::remove_file(folder.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert_eq!(meter.joules(), 1.5);
    }

    #[test]
    fn without_counters_there_is_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let why = |path: &Path| Meter::open(path).unwrap_err();
        assert_eq!(why("/nowhere/powercap".as_ref()), "the system has no /nowhere/powercap");
        assert!(why(folder.path()).ends_with(" has no intel-rapl counter of a package"));
        zone(folder.path(), "intel-rapl:0", "package-0", 1);
        fs::write(folder.path().join("intel-rapl:0/energy_uj"), "x").unwrap();
        assert!(why(folder.path()).ends_with("intel-rapl:0/energy_uj holds no number"));
        fs::remove_file(folder.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert!(why(folder.path()).contains("intel-rapl:0/energy_uj: No such file"));
    }
}
