//! How sealing keys follow each other: pure rules over what is known of each.
//!
//! ```text
//!  made, published ──> confirmed: sealed to from now on ──> a third of its life left: the next one is made
//!                                                      └──> the next one confirmed for a day: may go
//! ```

use crate::authority::Validity;
use crate::signature::KeyId;

/// How long a key is kept after the next one was confirmed, seconds: what was sealed before is still on its way.
pub const GRACE: u64 = 24 * 3600;

/// What is known of a sealing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub id: KeyId,
    /// When its certificate is valid.
    pub validity: Validity,
    /// When a server said that it has it, seconds since 1970; `None`: not yet.
    pub confirmed: Option<u64>,
}

impl Standing {
    fn valid(&self, now: u64) -> bool {
        self.validity.from <= now && now <= self.validity.to
    }

    /// A third of its life is left, or less; or it has none any more, or its time has not come.
    fn old(&self, now: u64) -> bool {
        let Validity { from, to } = self.validity;
        !self.valid(now) || to - now <= (to - from) / 3
    }
}

/// Whether another key is to be made: there is none with more than a third of its life left.
pub fn due(keys: &[Standing], now: u64) -> bool {
    keys.iter().all(|key| key.old(now))
}

/// The keys that may be deleted: there is a newer one, confirmed for a day, and nothing that is kept was sealed to them.
pub fn superseded(keys: &[Standing], now: u64, needed: impl Fn(KeyId) -> bool) -> impl Iterator<Item = KeyId> {
    let settled = |key: &&Standing| {
        key.valid(now) && key.confirmed.is_some_and(|at| at.checked_add(GRACE).is_some_and(|end| end <= now))
    };
    let newest = keys.iter().filter(settled).map(|key| key.validity.from).max();
    let older = move |key: &&Standing| newest.is_some_and(|newest| key.validity.from < newest);
    keys.iter().filter(older).map(|key| key.id).filter(move |id| !needed(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn key(id: u8, from: u64, confirmed: Option<u64>) -> Standing {
        Standing { id: KeyId([id; 16]), validity: Validity::lasting(from * DAY, 300 * DAY), confirmed }
    }

    fn ids(keys: impl Iterator<Item = KeyId>) -> Vec<u8> {
        keys.map(|id| id.0[0]).collect()
    }

    #[test]
    fn the_next_key_is_due_when_a_third_of_the_life_is_left() {
        let keys = [key(1, 100, Some(0))];
        let at = |day: u64| due(&keys, day * DAY);
        assert!(due(&[], 0) && at(99) && !at(100) && !at(299) && at(300) && at(400) && at(401));
        // Another one that was made is enough, confirmed or not: it is published until it is.
        let keys = [keys[0], key(2, 300, None)];
        assert!(!due(&keys, 300 * DAY) && !due(&keys, 499 * DAY) && due(&keys, 500 * DAY));
    }

    #[test]
    fn a_key_goes_when_a_newer_one_is_settled_and_nothing_needs_it() {
        let gone =
            |keys: &[Standing], now: u64, needed: &[u8]| ids(superseded(keys, now, |id| needed.contains(&id.0[0])));
        let second = 300 * DAY + 7;
        let keys = [key(1, 100, Some(0)), key(2, 300, Some(second)), key(3, 301, None)];
        assert_eq!(gone(&keys, second + GRACE - 1, &[]), [0; 0]);
        assert_eq!(gone(&keys, second + GRACE, &[]), [1]);
        assert_eq!(gone(&keys, second + GRACE, &[1]), [0; 0]);
        assert_eq!(gone(&keys[..1], 900 * DAY, &[]), [0; 0], "an ended key stays as long as there is no other");
        // A clock that was set back deletes nothing.
        assert_eq!(gone(&keys, 0, &[]), [0; 0]);
    }
}
