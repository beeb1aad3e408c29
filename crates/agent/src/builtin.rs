//! Checks that the agent does by itself: processors, memory, disks and load, from procfs and statvfs.
//!
//! A look is an effect that returns a reading; what it means is judged apart.

use std::io;
use std::path::Path;
use std::time::Duration;

use procfs::{Current as _, CurrentSI as _, KernelStats, LoadAverage, Meminfo};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use wardline_packs::{Limits, Subject};
use wardline_proto::entry::Sample;
use wardline_proto::health::Health;

use crate::outcome::Outcome;

/// Between the two looks at the processors that a first result needs.
const FIRST_INTERVAL: Duration = Duration::from_millis(200);

/// What a look saw.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    /// Clock ticks of all processors since the system started.
    Cpu { total: u64, idle: u64 },
    /// Bytes.
    Memory { total: u64, available: u64 },
    /// Bytes; what is kept for root is neither used nor available.
    Disk { used: u64, available: u64 },
    /// Averages over 1, 5, 15 minutes.
    Load { averages: [f32; 3], cores: usize },
}

/// A built-in check between two looks.
#[derive(Debug)]
pub struct Builtin {
    subject: Subject,
    limits: Limits,
    previous: Option<Reading>,
    /// A look that has not returned, as one at a file system whose server is away.
    hanging: Option<JoinHandle<io::Result<Reading>>>,
}

impl Builtin {
    /// Before the first look.
    pub const fn new(subject: Subject, limits: Limits) -> Self {
        Self { subject, limits, previous: None, hanging: None }
    }

    /// Looks once, for at most `limit`.
    pub async fn look(&mut self, limit: Duration) -> Outcome {
        if self.subject == Subject::Cpu && self.previous.is_none() {
            self.previous = self.read(limit).await.ok();
            sleep(FIRST_INTERVAL).await;
        }
        match self.read(limit).await {
            Ok(reading) => judge(reading, self.previous.replace(reading), self.limits),
            Err(reason) => Outcome::failed(reason),
        }
    }

    /// Reads on a thread that may block. One that hangs is not given company.
    async fn read(&mut self, limit: Duration) -> Result<Reading, String> {
        let subject = self.subject.clone();
        let mut look = match self.hanging.take() {
            Some(look) => look,
            None => tokio::task::spawn_blocking(move || read(&subject)),
        };
        match timeout(limit, &mut look).await {
            Ok(Ok(reading)) => reading.map_err(|error| error.to_string()),
            Ok(Err(ended)) => Err(format!("the look was not finished: {ended}")),
            Err(_) => {
                self.hanging = Some(look);
                Err(format!("the look takes longer than {limit:?}"))
            }
        }
    }
}

fn read(subject: &Subject) -> io::Result<Reading> {
    match subject {
        Subject::Cpu => {
            let KernelStats { total: t, .. } = KernelStats::current().map_err(io::Error::other)?;
            let idle = t.idle + t.iowait.unwrap_or(0);
            let busy = t.user + t.nice + t.system + t.irq.unwrap_or(0) + t.softirq.unwrap_or(0) + t.steal.unwrap_or(0);
            Ok(Reading::Cpu { total: busy + idle, idle })
        }
        Subject::Memory => {
            let memory = Meminfo::current().map_err(io::Error::other)?;
            let available = memory.mem_available.ok_or_else(|| io::Error::other("this kernel has no MemAvailable"))?;
            Ok(Reading::Memory { total: memory.mem_total, available })
        }
        Subject::Disk { path } => read_disk(path),
        Subject::Load => {
            let load = LoadAverage::current().map_err(io::Error::other)?;
            let cores = KernelStats::current().map_err(io::Error::other)?.cpu_time.len();
            Ok(Reading::Load { averages: [load.one, load.five, load.fifteen], cores })
        }
    }
}

fn read_disk(path: &Path) -> io::Result<Reading> {
    let stat = nix::sys::statvfs::statvfs(path)
        .map_err(|error| io::Error::other(format!("{}: {}", path.display(), error.desc())))?;
    let used = stat.blocks().saturating_sub(stat.blocks_free());
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Reading::Disk { used: bytes(used), available: bytes(stat.blocks_available()) })
}

/// What a reading means. `previous` is the one before, since which processors were busy.
fn judge(reading: Reading, previous: Option<Reading>, limits: Limits) -> Outcome {
    let (value, text, samples) = match reading {
        Reading::Cpu { total, idle } => {
            let (total_before, idle_before) = match previous {
                Some(Reading::Cpu { total, idle }) => (total, idle),
                _ => (0, 0),
            };
            // The kernel's idle time can step back by a tick.
            let (passed, idle) = (total.saturating_sub(total_before), idle.saturating_sub(idle_before));
            let busy = percent(passed.saturating_sub(idle), passed);
            (busy, format!("processors {busy:.1} % busy"), vec![sample("cpu", busy, "%")])
        }
        Reading::Memory { total, available } => {
            let used = percent(total.saturating_sub(available), total);
            let text = format!("memory {used:.1} % used, {} of {} available", size(available), size(total));
            (used, text, vec![sample("used", used, "%"), sample("available", available as f64, "B")])
        }
        Reading::Disk { used, available } => {
            let share = percent(used, used.saturating_add(available));
            let text = format!("disk {share:.1} % used, {} available", size(available));
            let samples = vec![
                sample("used", share, "%"),
                sample("used_bytes", used as f64, "B"),
                sample("available", available as f64, "B"),
            ];
            (share, text, samples)
        }
        Reading::Load { averages, cores } => {
            let [one, five, fifteen] = averages.map(f64::from);
            let each = one / cores.max(1) as f64;
            let text = format!("load {one:.2}, {five:.2}, {fifteen:.2}; {each:.2} for each of {cores} cores");
            let samples = [("load1", one), ("load5", five), ("load15", fifteen), ("load1_per_core", each)];
            (each, text, samples.into_iter().map(|(label, value)| sample(label, value, "")).collect())
        }
    };
    let reached = |limit: Option<f64>| limit.is_some_and(|limit| value >= limit);
    let health = match (reached(limits.warning), reached(limits.critical)) {
        (_, true) => Health::Critical,
        (true, false) => Health::Warning,
        (false, false) => Health::Healthy,
    };
    Outcome::told(health, &text, "", samples)
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

fn size(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn sample(label: &str, value: f64, unit: &str) -> Sample {
    Sample { label: label.to_owned(), value, unit: unit.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { warning: Some(50.0), critical: Some(75.0) };

    fn health(reading: Reading) -> Health {
        judge(reading, None, LIMITS).health
    }

    #[test]
    fn processors_are_busy_since_the_look_before() {
        let before = Some(Reading::Cpu { total: 1000, idle: 1000 });
        let outcome = judge(Reading::Cpu { total: 1200, idle: 1080 }, before, LIMITS);
        assert_eq!((outcome.health, outcome.text.as_str()), (Health::Warning, "processors 60.0 % busy"));
        assert_eq!(outcome.samples, [sample("cpu", 60.0, "%")]);
        // No tick has passed, or idle time has stepped back.
        assert_eq!(judge(Reading::Cpu { total: 1000, idle: 1000 }, before, LIMITS).samples[0].value, 0.0);
        assert_eq!(judge(Reading::Cpu { total: 1001, idle: 999 }, before, LIMITS).samples[0].value, 100.0);
    }

    #[test]
    fn a_limit_is_reached_by_its_own_value() {
        for (used, expected) in [(49, Health::Healthy), (50, Health::Warning), (75, Health::Critical)] {
            assert_eq!(health(Reading::Disk { used, available: 100 - used }), expected);
            assert_eq!(health(Reading::Memory { total: 100, available: 100 - used }), expected);
        }
        let full = Reading::Disk { used: 1, available: 0 };
        assert_eq!(judge(full, None, Limits::default()).health, Health::Healthy);
        assert_eq!(judge(full, None, Limits { critical: None, ..LIMITS }).health, Health::Warning);
    }

    #[test]
    fn load_is_counted_for_each_core() {
        let limits = Limits { warning: Some(1.0), critical: None };
        let load = |one, cores| judge(Reading::Load { averages: [one, 0.0, 0.0], cores }, None, limits).health;
        assert_eq!((load(3.9, 4), load(4.0, 4), load(1.0, 0)), (Health::Healthy, Health::Warning, Health::Warning));
    }

    #[tokio::test]
    async fn this_host_can_be_looked_at() {
        for subject in [Subject::Cpu, Subject::Memory, Subject::Disk { path: "/".into() }, Subject::Load] {
            let outcome = Builtin::new(subject, Limits::default()).look(Duration::from_secs(10)).await;
            assert_eq!((outcome.health, outcome.failed), (Health::Healthy, false), "{outcome:?}");
            assert!(outcome.samples.iter().all(|sample| sample.value.is_finite() && sample.value >= 0.0));
        }
    }

    #[tokio::test]
    async fn a_disk_that_is_not_there_is_unknown() {
        let subject = Subject::Disk { path: "/nonexistent".into() };
        let outcome = Builtin::new(subject, Limits::default()).look(Duration::from_secs(10)).await;
        assert_eq!((outcome.health, outcome.failed), (Health::Unknown, true));
        assert_eq!(outcome.text, "/nonexistent: No such file or directory");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_not_repeated_before_it_has_returned() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let mut builtin = Builtin::new(Subject::Load, Limits::default());
        builtin.hanging = Some(tokio::task::spawn_blocking(move || {
            let _ = held.recv();
            Ok(Reading::Load { averages: [7.0; 3], cores: 1 })
        }));
        for _ in 0..2 {
            assert!(builtin.look(Duration::from_millis(1)).await.text.contains("longer than 1ms"));
        }
        release.send(()).unwrap();
        assert!(builtin.look(Duration::from_secs(10)).await.text.starts_with("load 7.00"));
        assert!(builtin.hanging.is_none());
    }
}
