//! What is on the disk, twice: as programs see it, and as a power cut would leave it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use nix::errno::Errno;

use crate::random::Random;

/// What a disk writes as a whole.
const SECTOR: usize = 512;
/// The number of the topmost folder, before and after a cut.
pub(super) const ROOT: u64 = 1;

type Sector = [u8; SECTOR];

/// Files and folders by their numbers. A number is never used again: after a cut everything has a new one, so that
/// neither the kernel's cache nor a program's handle reaches what survived.
#[derive(Debug)]
pub(super) struct Disk {
    nodes: HashMap<u64, Node>,
    last: u64,
    /// Changes of names that no fsync has made durable, in their order.
    pending: Vec<Renaming>,
    out: bool,
    /// So many bytes of all files together fit.
    limit: usize,
    /// So many syncs of files of this name fail.
    failing: (String, u64),
    changes: u64,
    /// At which change the power goes out, and by which seed.
    cut_at: Option<(u64, u64)>,
}

/// A file or folder.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: SystemTime,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Contents),
    Folder(Names),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

/// One change: what each of these names of these folders stands for from then on.
#[derive(Debug)]
struct Renaming(Vec<(u64, OsString, Option<u64>)>);

/// A file's bytes, and what of them is older on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    bytes: Vec<u8>,
    durable_length: usize,
    /// What the disk has in place of sectors that were written since the last fsync.
    unsynced: BTreeMap<usize, Sector>,
    /// The same, for sectors that a failed fsync gave up: later ones leave them out.
    forsaken: BTreeMap<usize, Sector>,
}

impl Contents {
    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn read(&self, offset: usize, length: usize) -> &[u8] {
        let end = self.bytes.len().min(offset.saturating_add(length));
        self.bytes.get(offset..end).unwrap_or_default()
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.touch(offset, end);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    fn resize(&mut self, length: usize) {
        self.touch(length, self.bytes.len());
        self.bytes.resize(length, 0);
    }

    /// Notes what the disk has where these bytes are about to change.
    fn touch(&mut self, begin: usize, end: usize) {
        for sector in begin / SECTOR..end.div_ceil(SECTOR) {
            if !self.unsynced.contains_key(&sector) {
                let old = self.forsaken.remove(&sector).unwrap_or_else(|| self.sector(sector));
                self.unsynced.insert(sector, old);
            }
        }
    }

    /// A sector, with zeros behind the end.
    fn sector(&self, sector: usize) -> Sector {
        let mut old = [0; SECTOR];
        let bytes = self.read(sector * SECTOR, SECTOR);
        old[..bytes.len()].copy_from_slice(bytes);
        old
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.durable_length = self.bytes.len();
    }

    fn fail_to_sync(&mut self) {
        self.forsaken.append(&mut self.unsynced);
    }

    fn settle(&mut self) {
        self.forsaken.clear();
        self.sync();
    }

    /// What a power cut leaves of it, as the seed decides.
    fn cut(&mut self, random: &mut Random) {
        let written = self.bytes.len();
        // A file that was shortened may have its old length again; one that grew ends behind its last survivor.
        let shortened = written < self.durable_length && random.below(2) == 0;
        let mut length = if shortened { written } else { self.durable_length };
        self.bytes.resize(written.max(self.durable_length).next_multiple_of(SECTOR), 0);
        // Some cuts lose everything. Those that lose little are the meanest: all looks well but for a hole.
        let one_in = *random.pick(&[1, 2, 8, 32]);
        for (sector, old) in std::mem::take(&mut self.unsynced) {
            let begin = sector * SECTOR;
            if begin < written && random.below(one_in) != 0 {
                length = length.max(written.min(begin + SECTOR));
            } else {
                self.restore(begin, &old);
            }
        }
        for (sector, old) in std::mem::take(&mut self.forsaken) {
            self.restore(sector * SECTOR, &old);
        }
        self.bytes.truncate(length);
        self.durable_length = length;
    }

    fn restore(&mut self, begin: usize, old: &Sector) {
        // What lies behind both lengths is on no disk.
        if let Some(place) = self.bytes.get_mut(begin..begin + SECTOR) {
            place.copy_from_slice(old);
        }
    }
}

impl Node {
    fn new(mode: u32, owner: (u32, u32), body: Body) -> Self {
        Self { mode, owner, modified: SystemTime::now(), body }
    }
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = Node::new(0o700, own(), Body::Folder(Names::default()));
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            last: ROOT,
            pending: Vec::new(),
            out: false,
            limit: usize::MAX,
            failing: (String::new(), 0),
            changes: 0,
            cut_at: None,
        }
    }

    // ---- what the test does to it

    pub(super) fn settle(&mut self) {
        self.commit(self.pending.len());
        for node in self.nodes.values_mut() {
            if let Body::File(contents) = &mut node.body {
                contents.settle();
            }
        }
    }

    pub(super) const fn cut_at(&mut self, count: u64, seed: u64) {
        self.cut_at = Some((self.changes + count, seed));
    }

    pub(super) const fn power_on(&mut self) {
        self.out = false;
    }

    pub(super) const fn is_out(&self) -> bool {
        self.out
    }

    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn fail_syncs(&mut self, name: &str, count: u64) {
        self.failing = (name.into(), count);
    }

    pub(super) const fn failing(&self) -> u64 {
        self.failing.1
    }

    pub(super) const fn limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// How many bytes all files that have a name take.
    pub(super) fn used(&self) -> usize {
        self.used_below(ROOT)
    }

    fn used_below(&self, number: u64) -> usize {
        match self.nodes.get(&number).map(|node| &node.body) {
            Some(Body::File(contents)) => contents.len(),
            Some(Body::Folder(names)) => names.now.values().map(|number| self.used_below(*number)).sum(),
            None => 0,
        }
    }

    pub(super) fn room(&self) -> usize {
        // Counting takes long where there are many files.
        if self.limit == usize::MAX { usize::MAX } else { self.limit.saturating_sub(self.used()) }
    }

    /// Forgets what was not synced, but for what the seed saves, and turns the power off.
    pub(super) fn cut(&mut self, seed: u64) {
        if std::mem::replace(&mut self.out, true) {
            return;
        }
        self.cut_at = None;
        let mut random = Random::new(seed);
        let survivors = random.below(self.pending.len() as u64 + 1);
        self.commit(usize::try_from(survivors).expect("a length"));
        self.pending.clear();
        let mut old = std::mem::take(&mut self.nodes);
        let mut root = old.remove(&ROOT).expect("there is a root");
        self.survive(&mut root, &mut old, &mut random);
        self.nodes.insert(ROOT, root);
    }

    /// Moves what is below a folder from the old nodes to new numbers.
    fn survive(&mut self, node: &mut Node, old: &mut HashMap<u64, Node>, random: &mut Random) {
        match &mut node.body {
            Body::File(contents) => contents.cut(random),
            Body::Folder(names) => {
                for number in names.durable.values_mut() {
                    // Also by two names, where a rename survived in half: then each has a copy.
                    let mut child = old.get(number).expect("a durable name has its node").clone();
                    self.survive(&mut child, old, random);
                    *number = self.add(child);
                }
                names.now.clone_from(&names.durable);
            }
        }
    }

    // ---- what programs do on it

    pub(super) fn node(&self, number: u64) -> Result<&Node, Errno> {
        if self.out {
            return Err(Errno::EIO);
        }
        self.nodes.get(&number).ok_or(Errno::EIO)
    }

    pub(super) fn names(&self, folder: u64) -> Result<&Names, Errno> {
        match &self.node(folder)?.body {
            Body::Folder(names) => Ok(names),
            Body::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn contents(&self, file: u64) -> Result<&Contents, Errno> {
        match &self.node(file)?.body {
            Body::File(contents) => Ok(contents),
            Body::Folder(_) => Err(Errno::EISDIR),
        }
    }

    pub(super) fn look_up(&self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names(folder)?.now.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// Counts a change of these nodes, at which the power may go out.
    fn change(&mut self, nodes: &[u64]) -> Result<(), Errno> {
        for number in nodes {
            self.node(*number)?;
        }
        self.changes += 1;
        match self.cut_at {
            Some((at, seed)) if self.changes >= at => {
                self.cut(seed);
                Err(Errno::EIO)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn set_mode(&mut self, number: u64, mode: u32) -> Result<(), Errno> {
        self.node_mut(number)?.mode = mode & 0o7777;
        Ok(())
    }

    pub(super) fn set_owner(&mut self, number: u64, user: Option<u32>, group: Option<u32>) -> Result<(), Errno> {
        let owner = &mut self.node_mut(number)?.owner;
        *owner = (user.unwrap_or(owner.0), group.unwrap_or(owner.1));
        Ok(())
    }

    pub(super) fn set_modified(&mut self, number: u64, time: SystemTime) -> Result<(), Errno> {
        self.node_mut(number)?.modified = time;
        Ok(())
    }

    pub(super) fn set_length(&mut self, file: u64, length: usize) -> Result<(), Errno> {
        self.change(&[file])?;
        self.contents_mut(file)?.resize(length);
        self.set_modified(file, SystemTime::now())
    }

    /// Writes as much as fits, and gives how many bytes that are.
    pub(super) fn write(&mut self, file: u64, offset: usize, bytes: &[u8]) -> Result<usize, Errno> {
        self.change(&[file])?;
        let end = self.contents(file)?.len().saturating_add(self.room());
        let written = bytes.len().min(end.saturating_sub(offset));
        if written == 0 && !bytes.is_empty() {
            return Err(Errno::ENOSPC);
        }
        self.contents_mut(file)?.write(offset, &bytes[..written]);
        self.set_modified(file, SystemTime::now())?;
        Ok(written)
    }

    pub(super) fn sync(&mut self, file: u64) -> Result<(), Errno> {
        self.change(&[file])?;
        if self.failing.1 > 0 && self.is_called(file, &self.failing.0) {
            self.failing.1 -= 1;
            self.contents_mut(file)?.fail_to_sync();
            return Err(Errno::EIO);
        }
        self.contents_mut(file)?.sync();
        Ok(())
    }

    fn is_called(&self, file: u64, name: &str) -> bool {
        let is =
            |node: &Node| matches!(&node.body, Body::Folder(names) if names.now.get(OsStr::new(name)) == Some(&file));
        self.nodes.values().any(is)
    }

    /// Makes every change of names durable up to the last one in this folder.
    pub(super) fn sync_names(&mut self, folder: u64) -> Result<(), Errno> {
        self.change(&[folder])?;
        let concerns = |change: &Renaming| change.0.iter().any(|(changed, ..)| *changed == folder);
        let count = self.pending.iter().rposition(concerns).map_or(0, |last| last + 1);
        self.commit(count);
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        folder: u64,
        name: &OsStr,
        mode: u32,
        owner: (u32, u32),
        body: Body,
    ) -> Result<u64, Errno> {
        self.change(&[folder])?;
        if self.names(folder)?.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if self.room() == 0 {
            return Err(Errno::ENOSPC);
        }
        let number = self.add(Node::new(mode & 0o7777, owner, body));
        self.rename_now(vec![(folder, name.into(), Some(number))]);
        Ok(number)
    }

    /// Removes a name; what it stood for stays until the next cut, for those who have it open.
    pub(super) fn remove(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        self.change(&[folder])?;
        let number = self.look_up(folder, name)?;
        self.replaceable(number)?;
        self.rename_now(vec![(folder, name.into(), None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), replace: bool) -> Result<(), Errno> {
        self.change(&[from.0, to.0])?;
        let number = self.look_up(from.0, from.1)?;
        match self.look_up(to.0, to.1) {
            Ok(_) if !replace => return Err(Errno::EEXIST),
            Ok(there) => self.replaceable(there)?,
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        self.rename_now(vec![(from.0, from.1.into(), None), (to.0, to.1.into(), Some(number))]);
        Ok(())
    }

    /// Whether a name may be taken from it. That files and folders are not mixed up the kernel sees to.
    fn replaceable(&self, number: u64) -> Result<(), Errno> {
        match &self.node(number)?.body {
            Body::Folder(names) if !names.now.is_empty() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    fn node_mut(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.node(number)?;
        self.nodes.get_mut(&number).ok_or(Errno::EIO)
    }

    fn contents_mut(&mut self, file: u64) -> Result<&mut Contents, Errno> {
        match &mut self.node_mut(file)?.body {
            Body::File(contents) => Ok(contents),
            Body::Folder(_) => Err(Errno::EISDIR),
        }
    }

    fn add(&mut self, node: Node) -> u64 {
        self.last += 1;
        self.nodes.insert(self.last, node);
        self.last
    }

    fn rename_now(&mut self, change: Vec<(u64, OsString, Option<u64>)>) {
        let now = SystemTime::now();
        for (folder, name, number) in &change {
            if let Some(Node { body: Body::Folder(names), modified, .. }) = self.nodes.get_mut(folder) {
                set(&mut names.now, name, *number);
                *modified = now;
            }
        }
        self.pending.push(Renaming(change));
    }

    /// Makes the first changes of names durable.
    fn commit(&mut self, count: usize) {
        for (folder, name, number) in self.pending.drain(..count).flat_map(|change| change.0) {
            if let Some(Node { body: Body::Folder(names), .. }) = self.nodes.get_mut(&folder) {
                set(&mut names.durable, &name, number);
            }
        }
    }
}

fn set(names: &mut BTreeMap<OsString, u64>, name: &OsStr, number: Option<u64>) {
    match number {
        Some(number) => names.insert(name.into(), number),
        None => names.remove(name),
    };
}

/// The user and group of this process.
fn own() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(bytes: &[u8]) -> Contents {
        let mut contents = Contents::default();
        contents.write(0, bytes);
        contents.sync();
        contents
    }

    /// What cuts by many seeds leave.
    fn cuts(contents: &Contents) -> Vec<Vec<u8>> {
        let cut = |seed| {
            let mut contents = contents.clone();
            contents.cut(&mut Random::new(seed));
            contents.bytes
        };
        (0..200).map(cut).collect()
    }

    #[test]
    fn what_was_synced_stays() {
        let contents = contents(&[7; 1500]);
        assert!(cuts(&contents).iter().all(|left| left == &[7; 1500]));
    }

    #[test]
    fn a_write_that_was_not_synced_is_torn_into_sectors() {
        let mut contents = contents(&[1; 2048]);
        contents.write(100, &[2; 1848]);
        let cuts = cuts(&contents);
        for left in &cuts {
            assert_eq!(left.len(), 2048);
            for (index, sector) in left.chunks(SECTOR).enumerate() {
                assert!(sector == &[1; SECTOR][..] || sector == contents.read(index * SECTOR, SECTOR), "whole or not");
            }
        }
        assert!(cuts.iter().any(|left| left == &[1; 2048]));
        assert!(cuts.iter().any(|left| left[0] == 1 && left[600] == 2 && left[1100] == 1));
    }

    #[test]
    fn a_file_that_grew_ends_behind_its_last_survivor() {
        let mut contents = contents(&[1; 100]);
        contents.write(100, &[2; 1000]);
        for left in cuts(&contents) {
            assert!([100, 512, 1024, 1100].contains(&left.len()), "{}", left.len());
            assert_eq!(left[..100], [1; 100]);
            assert!(left[100..].iter().all(|byte| [0, 2].contains(byte)));
        }
    }

    #[test]
    fn a_file_that_was_shortened_may_be_long_again() {
        let mut contents = contents(&[1; 1500]);
        contents.resize(0);
        let cuts = cuts(&contents);
        assert!(cuts.iter().all(|left| left.is_empty() || left == &[1; 1500]));
        assert!(cuts.iter().any(Vec::is_empty));
        assert!(cuts.iter().any(|left| !left.is_empty()));
    }

    #[test]
    fn what_a_failed_sync_gave_up_is_saved_only_by_writing_it_again() {
        let mut contents = contents(&[1; 1024]);
        contents.write(0, &[2; 1024]);
        contents.fail_to_sync();
        contents.write(512, &[3; 512]);
        contents.sync();
        assert_eq!(contents.read(0, 512), [2; 512]);
        assert!(cuts(&contents).iter().all(|left| left == &[[1; 512], [3; 512]].concat()));
    }

    #[test]
    fn names_survive_in_the_order_in_which_they_were_given() {
        for seed in 0..50 {
            let mut disk = Disk::new();
            let file = || Body::File(Contents::default());
            let (a, b, c) = (OsStr::new("a"), OsStr::new("b"), OsStr::new("c"));
            disk.create(ROOT, a, 0o600, (0, 0), file()).unwrap();
            disk.sync_names(ROOT).unwrap();
            disk.rename((ROOT, a), (ROOT, b), true).unwrap();
            disk.create(ROOT, c, 0o600, (0, 0), file()).unwrap();
            disk.cut(seed);
            assert_eq!(disk.look_up(ROOT, a), Err(Errno::EIO), "the power is out");
            disk.power_on();
            let left: Vec<_> = disk.names(ROOT).unwrap().now.keys().map(|name| name.to_str().unwrap()).collect();
            assert!([["a"].as_slice(), &["b"], &["b", "c"]].contains(&left.as_slice()), "{left:?}");
        }
    }
}
