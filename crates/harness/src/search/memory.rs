//! The memory of a process, as root sees it in `/proc/PID/mem`. The process is stopped while it is read, so that nothing
//! moves from where was not looked yet to where was.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::{MMPermissions, Process};

use crate::{program, wait};

const PAGE: usize = 4096;
const NOTHING: [u8; PAGE] = [0; PAGE];
/// How much is read at once.
const CHUNK: usize = 256 * PAGE;
/// How long a process may take to stop.
const LIMIT: Duration = Duration::from_secs(10);

/// What was in a process's memory at one moment.
#[derive(Debug, Default, PartialEq)]
pub struct Image {
    /// What stood where, in order; pages of zeros are left out.
    pub runs: Vec<(u64, Vec<u8>)>,
    /// How many bytes were read, zeros included.
    pub read: u64,
    /// How many the process had in memory when reading began.
    pub resident: u64,
}

impl Image {
    /// Reads it; as an ordinary user who may not, by `sudo -n`.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn of(pid: u32) -> Self {
        match Self::read(pid) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::by_root(pid),
            result => result.unwrap_or_else(|error| panic!("the memory of process {pid} cannot be read: {error}")),
        }
    }

    /// That all of it was read.
    ///
    /// # Panics
    /// The process had more in memory.
    #[track_caller]
    pub fn is_whole(&self) {
        let Self { read, resident, .. } = self;
        assert!(read >= resident, "only {read} bytes could be read, and {resident} were in memory");
    }

    fn by_root(pid: u32) -> Self {
        let mut command = Command::new("sudo");
        command.arg("-n").arg(program::own("memory")).arg(pid.to_string()).stdin(Stdio::null());
        let (why, output) = match command.output() {
            Ok(output) if output.status.success() => (String::new(), output.stdout),
            Ok(output) => (program::said(&output), Vec::new()),
            Err(error) => (format!("sudo: {error}"), Vec::new()),
        };
        let advice = "run the tests as root, or allow `sudo -n` to their user";
        assert!(why.is_empty(), "only root may read the memory of process {pid}; {advice}: {why}");
        Self::parse(&output).expect("the helper says what it read")
    }

    /// Reads it.
    ///
    /// # Errors
    /// There is no such process, or this user may not.
    pub fn read(pid: u32) -> io::Result<Self> {
        let stopped = Stopped::new(pid)?;
        let process = Process::new(stopped.0.as_raw()).map_err(refused)?;
        let (mem, pagemap) = (File::open(format!("/proc/{pid}/mem"))?, File::open(format!("/proc/{pid}/pagemap"))?);
        let resident = process.statm().map_err(refused)?.resident * PAGE as u64;
        let mut image = Self { resident, ..Self::default() };
        for map in process.maps().map_err(refused)? {
            let range = map.address.0..map.address.1;
            if map.perms.contains(MMPermissions::READ) {
                image.range(&mem, range, |_| true);
            } else {
                // Reserved for later, most of it; what is there can be read all the same.
                image.range(&mem, range, |page| present(&pagemap, page));
            }
        }
        Ok(image)
    }

    fn range(&mut self, mem: &File, range: Range<u64>, wanted: impl Fn(u64) -> bool) {
        let mut chunk = vec![0; CHUNK];
        let mut at = range.start;
        while at < range.end {
            let length = CHUNK.min(usize::try_from(range.end - at).unwrap_or(CHUNK));
            if wanted(at) && mem.read_exact_at(&mut chunk[..length], at).is_ok() {
                self.add(at, &chunk[..length]);
            } else {
                // Some page of it cannot be read or is not wanted; the others can, and are.
                for page in (at..at + length as u64).step_by(PAGE).filter(|page| wanted(*page)) {
                    if mem.read_exact_at(&mut chunk[..PAGE], page).is_ok() {
                        self.add(page, &chunk[..PAGE]);
                    }
                }
            }
            at += length as u64;
        }
    }

    fn add(&mut self, at: u64, bytes: &[u8]) {
        self.read += bytes.len() as u64;
        for (number, page) in bytes.chunks(PAGE).enumerate().filter(|(_, page)| **page != NOTHING[..page.len()]) {
            let at = at + (number * PAGE) as u64;
            match self.runs.last_mut() {
                Some((start, run)) if *start + run.len() as u64 == at => run.extend_from_slice(page),
                _ => self.runs.push((at, page.to_vec())),
            }
        }
    }

    /// Writes it for [`Self::parse`]: bytes read, resident, then address, length, bytes of each run.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut number = |number: u64, bytes: &[u8]| {
            out.write_all(&number.to_be_bytes())?;
            out.write_all(bytes)
        };
        number(self.read, &self.resident.to_be_bytes())?;
        self.runs.iter().try_for_each(|(at, run)| {
            number(*at, &[])?;
            number(run.len() as u64, run)
        })
    }

    pub(super) fn parse(mut bytes: &[u8]) -> io::Result<Self> {
        fn number(bytes: &mut &[u8]) -> io::Result<u64> {
            let mut number = [0; 8];
            bytes.read_exact(&mut number)?;
            Ok(u64::from_be_bytes(number))
        }
        let mut image = Self { runs: Vec::new(), read: number(&mut bytes)?, resident: number(&mut bytes)? };
        while !bytes.is_empty() {
            let (at, length) = (number(&mut bytes)?, number(&mut bytes)?);
            let mut run = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            bytes.read_exact(&mut run)?;
            image.runs.push((at, run));
        }
        Ok(image)
    }
}

/// Whether a page is in memory or was swapped out (`Documentation/admin-guide/mm/pagemap.rst`: bits 63 and 62).
fn present(pagemap: &File, address: u64) -> bool {
    let mut entry = [0; 8];
    let at = address / PAGE as u64 * 8;
    pagemap.read_exact_at(&mut entry, at).is_ok() && u64::from_ne_bytes(entry) >> 62 != 0
}

fn refused(error: procfs::ProcError) -> io::Error {
    match error {
        procfs::ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        error => io::Error::other(error),
    }
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: u32) -> io::Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
        kill(pid, Signal::SIGSTOP)?;
        let stopped = Self(pid);
        let process = Process::new(pid.as_raw()).map_err(refused)?;
        wait::until("the process stops", LIMIT, || {
            let state = process.stat().map_or('X', |stat| stat.state);
            matches!(state, 'T' | 'Z' | 'X').then_some(())
        });
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
