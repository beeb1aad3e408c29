//! Memory for keys: never swapped, never in a core dump, not in a child, wiped when it is given back. And a process of
//! whose memory nothing is dumped.
//!
//! It has unsafe code: the calls that change what the kernel does with a page are unsafe. It knows nothing of what the
//! bytes mean.

#![allow(unsafe_code, reason = "mmap, mlock, madvise and munmap are unsafe, and nothing else here is")]

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use zeroize::Zeroize as _;

/// Sees to it that this process leaves no core dump, and that nobody but root traces it or reads its memory, its
/// environment or what else `/proc` shows of it, not even the same user (`PR_SET_DUMPABLE`, prctl(2)). What it starts can
/// leave no core dump either (`RLIMIT_CORE`), and is as open as any other program.
///
/// # Errors
/// The kernel does not do it.
pub fn no_dumps() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(set_dumpable(false)?)
}

/// `N` bytes in pages of their own.
pub struct Locked<const N: usize> {
    at: NonNull<c_void>,
    swappable: bool,
}

impl<const N: usize> Locked<N> {
    /// Pages for `N` bytes, all zero. Where the kernel does not lock them (`RLIMIT_MEMLOCK`) they can be used even so,
    /// and [`Locked::is_locked`] says it.
    ///
    /// # Errors
    /// There is no memory, or the kernel would write it into core dumps.
    pub fn zeroed() -> io::Result<Self> {
        let length = NonZeroUsize::new(N).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new anonymous mapping, at a place that the kernel chooses, touches no memory that is in use.
        let at = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)?
        };
        // The value owns the mapping from here on: it is unmapped even when something below fails.
        let mut made = Self { at, swappable: true };
        // SAFETY: the range is the mapping made above; both pieces of advice leave its content alone. After
        // `MADV_DONTFORK` a child has no such memory; the programs here start children only to run another program.
        unsafe {
            madvise(at, N, MmapAdvise::MADV_DONTDUMP)?;
            madvise(at, N, MmapAdvise::MADV_DONTFORK)?;
        }
        // SAFETY: the range is the mapping made above.
        made.swappable = unsafe { mlock(at, N) }.is_err();
        Ok(made)
    }

    /// A copy of bytes that lie elsewhere; wiping those is up to the caller.
    ///
    /// # Errors
    /// As for [`Locked::zeroed`].
    pub fn copy_of(bytes: &[u8; N]) -> io::Result<Self> {
        let mut copy = Self::zeroed()?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// Whether the kernel promised not to write these pages to swap.
    pub const fn is_locked(&self) -> bool {
        !self.swappable
    }
}

impl<const N: usize> Deref for Locked<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        // SAFETY: the mapping has at least `N` readable bytes, aligned to a page, for as long as `self` lives; the kernel
        // zeroed them, and nobody else has the address.
        unsafe { self.at.cast().as_ref() }
    }
}

impl<const N: usize> DerefMut for Locked<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as for `deref`; the mapping is writable, and `&mut self` is the only way to it.
        unsafe { self.at.cast().as_mut() }
    }
}

impl<const N: usize> Drop for Locked<N> {
    fn drop(&mut self) {
        self.zeroize();
        // SAFETY: the mapping belongs to this value, which ends here. Unmapping also unlocks.
        let _ = unsafe { munmap(self.at, N) };
    }
}

impl<const N: usize> fmt::Debug for Locked<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Locked<{N}>")
    }
}

// SAFETY: the mapping belongs to this value alone and to no thread; shared references only read.
unsafe impl<const N: usize> Send for Locked<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Locked<N> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the mapping that an address is in.
    fn flags(at: usize) -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().unwrap_or_default().split_once('-');
            let range = range.and_then(|(from, to)| {
                Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
            });
            if let Some(range) = range {
                inside = range.contains(&at);
            } else if let (true, Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        Vec::new()
    }

    #[test]
    fn the_kernel_keeps_the_page_out_of_swap_core_dumps_and_children() {
        let locked = Locked::copy_of(&[7; 32]).unwrap();
        assert_eq!((*locked, format!("{locked:?}")), ([7; 32], "Locked<32>".into()));
        let flags = flags(locked.at.as_ptr() as usize);
        // dd: not in core dumps; dc: not copied to children; lo: locked (proc_pid_smaps(5)).
        for flag in ["dd", "dc"] {
            assert!(flags.iter().any(|found| found == flag), "{flag}: {flags:?}");
        }
        assert_eq!(flags.iter().any(|found| found == "lo"), locked.is_locked(), "{flags:?}");
        // The control: ordinary memory has none of these.
        let ordinary = vec![0_u8; 1 << 20];
        let flags = self::flags(ordinary.as_ptr() as usize);
        assert!(!flags.is_empty() && !flags.iter().any(|found| ["dd", "dc", "lo"].contains(&found.as_str())));
    }

    #[test]
    fn a_process_leaves_no_core_dump() {
        let core = || {
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
            line.split_whitespace().skip(4).take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        no_dumps().unwrap();
        assert_eq!(core(), ["0", "0"]);
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }

    #[test]
    fn nothing_is_left_when_it_is_dropped() {
        let locked = Locked::copy_of(&[0xa5; 64]).unwrap();
        let at = locked.at.as_ptr() as usize;
        assert!(!flags(at).is_empty());
        drop(locked);
        assert!(flags(at).is_empty(), "it is not mapped any more");
    }
}
