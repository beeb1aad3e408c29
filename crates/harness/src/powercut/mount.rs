//! The disk as the kernel asks for it (FUSE).
//!
//! The kernel writes through: it keeps pages, for reading and shared maps, but passes every write on at once. It may
//! keep them for as long as it likes, because nobody else changes a file under the same number. Names it must ask for
//! each time, because a cut gives everything new numbers.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};

use nix::unistd::getuid;

use super::disk::{Body, Contents, Disk, Names, ROOT};

/// How long the kernel may keep what it knows of a number.
const KEEP: Duration = Duration::from_secs(3600);

/// Mounts it over a folder until the session is dropped.
pub(super) fn mount(disk: Arc<Mutex<Disk>>, folder: &Path) -> BackgroundSession {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("powercut".into()), MountOption::DefaultPermissions];
    // PostgreSQL refuses root. Others may only mount for themselves.
    if getuid().is_root() {
        config.acl = SessionACL::All;
    }
    // So that one who waits for a lock inside does not hold up the others.
    config.n_threads = Some(4);
    let session = Session::new(Mount { disk }, folder, &config).and_then(Session::spawn);
    session.unwrap_or_else(|error| panic!("the disk cannot be mounted at {}: {error}", folder.display()))
}

struct Mount {
    disk: Arc<Mutex<Disk>>,
}

impl Mount {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no thread of the disk panics")
    }

    fn empty(reply: ReplyEmpty, result: Result<(), nix::errno::Errno>) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn entry(reply: ReplyEntry, result: Result<FileAttr, nix::errno::Errno>) {
        match result {
            Ok(attr) => reply.entry_with_ttls(&KEEP, &Duration::ZERO, &attr, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_i32(error as i32)
}

fn offset(number: u64) -> Result<usize, nix::errno::Errno> {
    usize::try_from(number).map_err(|_| nix::errno::Errno::EFBIG)
}

fn attributes(disk: &Disk, number: u64) -> Result<FileAttr, nix::errno::Errno> {
    let node = disk.node(number)?;
    let (kind, size, links) = match &node.body {
        Body::File(contents) => (FileType::RegularFile, contents.len() as u64, 1),
        Body::Folder(_) => (FileType::Directory, 4096, 2),
    };
    Ok(FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: node.modified,
        mtime: node.modified,
        ctime: node.modified,
        crtime: node.modified,
        kind,
        perm: node.mode as u16,
        nlink: links,
        uid: node.owner.0,
        gid: node.owner.1,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

impl Filesystem for Mount {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = self.disk();
        Self::entry(reply, disk.look_up(parent.0, name).and_then(|number| attributes(&disk, number)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&self.disk(), ino.0) {
            Ok(attr) => reply.attr(&KEEP, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let mut set = || {
            if let Some(mode) = mode {
                disk.set_mode(ino.0, mode)?;
            }
            disk.set_owner(ino.0, uid, gid)?;
            if let Some(size) = size {
                disk.set_length(ino.0, offset(size)?)?;
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => disk.set_modified(ino.0, time)?,
                Some(TimeOrNow::Now) => disk.set_modified(ino.0, SystemTime::now())?,
                None => {}
            }
            attributes(&disk, ino.0)
        };
        match set() {
            Ok(attr) => reply.attr(&KEEP, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mkdir(&self, from: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let mut disk = self.disk();
        let made = disk.create(parent.0, name, mode, (from.uid(), from.gid()), Body::Folder(Names::default()));
        Self::entry(reply, made.and_then(|number| attributes(&disk, number)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::empty(reply, self.disk().remove(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::empty(reply, self.disk().remove(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        Self::empty(reply, self.disk().rename((parent.0, name), (newparent.0, newname), flags.is_empty()));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk().node(ino.0) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        from: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut disk = self.disk();
        let made = disk.create(parent.0, name, mode, (from.uid(), from.gid()), Body::File(Contents::default()));
        match made.and_then(|number| attributes(&disk, number)) {
            Ok(attr) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&Duration::ZERO, &attr, Generation(0), FileHandle(0), flags);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        from: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = self.disk();
        match offset(from).and_then(|from| Ok(disk.contents(ino.0)?.read(from, size as usize))) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        to: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match offset(to).and_then(|to| self.disk().write(ino.0, to, data)) {
            Ok(written) => reply.written(u32::try_from(written).expect("no more than the kernel's own length")),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        Self::empty(reply, self.disk().sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        Self::empty(reply, self.disk().sync_names(ino.0));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, from: u64, mut reply: ReplyDirectory) {
        let disk = self.disk();
        let names = match disk.names(ino.0) {
            Ok(names) => names,
            Err(error) => return reply.error(errno(error)),
        };
        // Who asks for the parent's number goes by name; any will do here.
        let dots = [(OsStr::new("."), ino.0), (OsStr::new(".."), ROOT)];
        let all = dots.into_iter().chain(names.now.iter().map(|(name, number)| (name.as_os_str(), *number)));
        for (index, (name, number)) in all.enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            let kind = match disk.node(number).map(|node| &node.body) {
                Ok(Body::File(_)) => FileType::RegularFile,
                _ => FileType::Directory,
            };
            if reply.add(INodeNo(number), index as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 20;
        let free = (self.disk().room() as u64 / 4096).min(BLOCKS / 2);
        reply.statfs(BLOCKS, free, free, BLOCKS, BLOCKS / 2, 4096, 255, 4096);
    }
}
