use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::private::Scratch;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;
const SECRET: &[u8] = b"Zauberwort 4711";

fn open(state: &Path, now: u64) -> Vault {
    Vault::open(state, now).unwrap()
}

fn masters(state: &Path) -> Vec<PathBuf> {
    master_files(&state.join(FOLDER)).unwrap()
}

fn refused<T>(result: Result<T, ProtectError>) -> bool {
    matches!(result, Err(ProtectError::Refused))
}

/// A copy of a state folder, as a thief or a backup has it.
fn copy(from: &Path) -> Scratch {
    let to = Scratch::new();
    private::create_folder(&to.0.join(FOLDER)).unwrap();
    for path in masters(from).into_iter().chain([from.join(MACHINE_KEY)]) {
        private::write(&to.0.join(path.strip_prefix(from).unwrap()), &fs::read(&path).unwrap()).unwrap();
    }
    to
}

#[test]
fn what_is_protected_opens_here_after_a_restart_and_shows_nothing() {
    let scratch = Scratch::new();
    let blob = open(&scratch.0, NOW).protect("a key", b"", SECRET).unwrap();
    let again = open(&scratch.0, NOW + 1);
    assert_eq!(again.unprotect("a key", b"", &blob).unwrap().as_slice(), SECRET);
    assert!(!blob.windows(6).any(|part| SECRET.windows(6).any(|secret| secret == part)));
    assert_ne!(blob, again.protect("a key", b"", SECRET).unwrap(), "no two blobs are the same");
    assert_eq!(again.unprotect("", b"", &again.protect("", b"", b"").unwrap()).unwrap().len(), 0);
    assert_eq!(again.protector(), format!("machine key file {}/machine.key", scratch.0.display()));
    assert!(!format!("{again:?}").contains(&format!("{:?}", fs::read(scratch.0.join(MACHINE_KEY)).unwrap())));
}

#[test]
fn a_changed_bit_another_description_or_other_entropy_is_refused() {
    let scratch = Scratch::new();
    let vault = open(&scratch.0, NOW);
    let blob = vault.protect("a key", b"entropy", SECRET).unwrap();
    assert_eq!(vault.unprotect("a key", b"entropy", &blob).unwrap().as_slice(), SECRET);
    for (description, entropy) in [("another", b"entropy".as_slice()), ("a key", b"other"), ("a key", b""), ("", b"")] {
        assert!(refused(vault.unprotect(description, entropy, &blob)), "{description} {entropy:?}");
    }
    for bit in 0..blob.len() * 8 {
        let mut changed = blob.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let result = vault.unprotect("a key", b"entropy", &changed);
        let names_a_key = (4 * 8..20 * 8).contains(&bit);
        assert!(refused(result) || names_a_key, "bit {bit}");
    }
    for length in 0..blob.len() {
        assert!(vault.unprotect("a key", b"entropy", &blob[..length]).is_err(), "{length} bytes");
    }
    assert!(refused(vault.unprotect("a key", b"entropy", &[blob.as_slice(), b"x"].concat())));
}

#[test]
fn nothing_opens_on_another_machine() {
    let (here, there) = (Scratch::new(), Scratch::new());
    let blob = open(&here.0, NOW).protect("a key", b"", SECRET).unwrap();
    let other = open(&there.0, NOW);
    assert!(matches!(other.unprotect("a key", b"", &blob), Err(ProtectError::NoMasterKey { .. })));
    // With the master key carried over it is still wrapped by the machine key of the first.
    let carried = masters(&here.0).remove(0);
    private::write(&there.0.join(FOLDER).join(carried.file_name().unwrap()), &fs::read(&carried).unwrap()).unwrap();
    let other = open(&there.0, NOW);
    assert!(matches!(other.unprotect("a key", b"", &blob), Err(ProtectError::NoMasterKey { .. })));
    assert_eq!(other.unusable().len(), 1, "the file that does not open is named");
    // The control: with the machine key it opens.
    let copied = copy(&here.0);
    assert_eq!(open(&copied.0, NOW).unprotect("a key", b"", &blob).unwrap().as_slice(), SECRET);
    // With another machine key in its place, nothing at all opens, and nothing is made.
    private::write(&copied.0.join(MACHINE_KEY), &[7; 32]).unwrap();
    let error = Vault::open(&copied.0, NOW).unwrap_err().to_string();
    assert!(error.contains("machine.key does not open it"), "{error}");
    assert_eq!(masters(&copied.0).len(), 1);
}

#[test]
fn a_machine_key_that_is_lost_is_not_made_anew() {
    let scratch = Scratch::new();
    let vault = open(&scratch.0, NOW);
    let path = scratch.0.join(MACHINE_KEY);
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for result in [Vault::open(&scratch.0, NOW), Vault::look(&scratch.0)] {
        assert!(matches!(result, Err(ProtectError::MachineKeyMissing { path: named }) if named == path));
    }
    assert!(!path.exists());
    private::write(&path, &kept[..31]).unwrap();
    assert!(Vault::open(&scratch.0, NOW).unwrap_err().to_string().contains("31 bytes"));
    private::write(&path, &kept).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Vault::open(&scratch.0, NOW).unwrap_err().to_string().contains("0640"));
    private::write(&path, &kept).unwrap();
    let blob = vault.protect("a key", b"", SECRET).unwrap();
    assert!(open(&scratch.0, NOW).unprotect("a key", b"", &blob).is_ok());
}

#[test]
fn a_new_master_key_is_made_after_ninety_days_and_old_blobs_still_open() {
    let scratch = Scratch::new();
    let id = |blob: &[u8]| blob[4..20].to_vec();
    let vault = open(&scratch.0, NOW);
    let first = vault.protect("a key", b"", SECRET).unwrap();
    let later = open(&scratch.0, NOW + 90 * DAY - 1);
    assert_eq!(id(&later.protect("a key", b"", SECRET).unwrap()), id(&first));
    assert_eq!(masters(&scratch.0).len(), 1);
    // A program that runs on makes it by itself.
    let second = later.protect_at(NOW + 90 * DAY, "a key", b"", SECRET).unwrap();
    assert_ne!(id(&second), id(&first));
    let years = open(&scratch.0, NOW + 3650 * DAY);
    for blob in [&first, &second] {
        assert_eq!(years.unprotect("a key", b"", blob).unwrap().as_slice(), SECRET);
    }
    assert_eq!(masters(&scratch.0).len(), 3);
}

#[test]
fn a_master_key_whose_dates_make_no_sense_protects_nothing_new() {
    let dates = [(NOW + DAY, NOW + DAY + LIFE), (NOW - DAY, NOW - DAY + 2 * LIFE), (NOW, NOW), (NOW, 0), (0, u64::MAX)];
    for (created, expires) in dates {
        let scratch = Scratch::new();
        drop(open(&scratch.0, NOW));
        let path = masters(&scratch.0).remove(0);
        let machine = machine_key(&scratch.0.join(MACHINE_KEY)).unwrap().unwrap();
        let strange = Master { created, expires, ..master(&path, &machine).unwrap() };
        private::write(&path, &wrapped(&strange, &machine).unwrap()).unwrap();
        let vault = open(&scratch.0, NOW);
        let blob = vault.protect("a key", b"", SECRET).unwrap();
        assert_ne!(blob[4..20], strange.id, "{created} {expires}");
        assert_eq!(masters(&scratch.0).len(), 2);
    }
    // The control: the same with dates that make sense.
    let scratch = Scratch::new();
    let id = |now| open(&scratch.0, now).protect("a key", b"", SECRET).unwrap()[4..20].to_vec();
    assert_eq!(id(NOW), id(NOW + DAY));
}

#[test]
fn what_a_wrong_clock_has_protected_opens_when_the_clock_is_right_again() {
    let scratch = Scratch::new();
    let blob = open(&scratch.0, NOW + 1000 * DAY).protect("a key", b"", SECRET).unwrap();
    assert_eq!(open(&scratch.0, NOW).unprotect("a key", b"", &blob).unwrap().as_slice(), SECRET);
}

#[test]
fn creation_that_is_interrupted_at_any_step_leaves_a_usable_vault() {
    let finished = Scratch::new();
    drop(open(&finished.0, NOW));
    let key = fs::read(finished.0.join(MACHINE_KEY)).unwrap();
    let wrapped = masters(&finished.0).remove(0);
    let half = |path: PathBuf| private::write(&path, b"half").unwrap();
    let temporary = format!(".machine.key.{}", "0f".repeat(16));
    for step in 0..6 {
        let scratch = Scratch::new();
        let folder = scratch.0.join(FOLDER);
        if step > 0 {
            private::create_folder(&folder).unwrap();
        }
        if step == 2 {
            half(scratch.0.join(&temporary));
        }
        if step > 2 {
            private::write(&scratch.0.join(MACHINE_KEY), &key).unwrap();
        }
        if step == 4 {
            half(folder.join(format!(".{}.{}", hex(&[3; 16]), "0f".repeat(16))));
        }
        if step == 5 {
            private::write(&folder.join(wrapped.file_name().unwrap()), &fs::read(&wrapped).unwrap()).unwrap();
        }
        let blob = open(&scratch.0, NOW).protect("a key", b"", SECRET).unwrap();
        assert!(open(&scratch.0, NOW).unprotect("a key", b"", &blob).is_ok(), "step {step}");
        assert_eq!(masters(&scratch.0).len(), 1, "step {step}");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "nothing half is left, step {step}");
    }
}

#[test]
fn of_many_that_open_it_first_all_have_the_same_keys() {
    let scratch = Scratch::new();
    let vaults: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&scratch.0, NOW))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(masters(&scratch.0).len(), 1);
    for vault in &vaults {
        let blob = vault.protect("a key", b"", SECRET).unwrap();
        assert!(vaults.iter().all(|other| other.unprotect("a key", b"", &blob).is_ok()));
    }
}

#[test]
fn one_damaged_master_key_costs_what_it_protected_and_nothing_else() {
    let scratch = Scratch::new();
    let first = open(&scratch.0, NOW).protect("a key", b"", SECRET).unwrap();
    let damaged = masters(&scratch.0).remove(0);
    let second = open(&scratch.0, NOW + 100 * DAY).protect("a key", b"", SECRET).unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    private::write(&damaged, &bytes).unwrap();
    let vault = open(&scratch.0, NOW + 100 * DAY);
    assert_eq!(vault.unusable(), [damaged]);
    assert!(vault.unprotect("a key", b"", &second).is_ok());
    let error = vault.unprotect("a key", b"", &first).unwrap_err().to_string();
    assert!(error.contains(&hex(&first[4..20])), "{error}");
}

#[test]
fn a_plain_file_of_an_earlier_version_is_taken_and_replaced() {
    let scratch = Scratch::new();
    let path = scratch.0.join("identity.key");
    private::write(&path, SECRET).unwrap();
    // Who only looks reads it, and leaves it.
    let look = Vault::look(&scratch.0).unwrap();
    assert_eq!(look.read(&path, "identity.key").unwrap().as_slice(), SECRET);
    assert_eq!((fs::read(&path).unwrap(), look.protector().as_str()), (SECRET.to_vec(), "nothing yet"));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "looking makes nothing");
    assert!(look.write(&path, "identity.key", b"").is_err());
    let vault = open(&scratch.0, NOW);
    assert_eq!(vault.read(&path, "identity.key").unwrap().as_slice(), SECRET);
    assert!(is_protected(&fs::read(&path).unwrap()));
    for vault in [vault, Vault::look(&scratch.0).unwrap()] {
        assert_eq!(vault.read(&path, "identity.key").unwrap().as_slice(), SECRET);
        assert!(vault.read(&path, "channel.key").is_err(), "it is no other file's content");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(open(&scratch.0, NOW).read(&path, "identity.key").unwrap_err().to_string().contains("0644"));
}
