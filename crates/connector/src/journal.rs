//! Where events go: one line each on standard error, which the journal keeps.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use wardline_proto::event::Event;
use wardline_proto::health::Severity;

/// Emits an event: `TIME SEVERITY NUMBER TEXT`, with the journal's priority in front when the journal reads.
pub fn emit(event: Event) {
    let priority = match event.severity() {
        Severity::Information => 6,
        Severity::Warning => 4,
        Severity::Critical => 3,
    };
    let prefix = if std::env::var_os("JOURNAL_STREAM").is_some() { format!("<{priority}>") } else { String::new() };
    let text: String = event.text().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = format!("{prefix}{:.3} {} {} {text}\n", jiff::Timestamp::now(), event.severity(), event.number());
    // One write per line. When standard error is gone there is nobody left to tell.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// How many events there may be about strangers: so many in [`Quota::TIME`] of one address, and so many in all.
#[derive(Debug, Default)]
pub struct Quota {
    began: Option<Instant>,
    told: HashMap<IpAddr, u32>,
    all: u32,
}

impl Quota {
    /// After this it begins anew.
    pub const TIME: Duration = Duration::from_secs(10);
    /// The most of one address.
    pub const OF_ADDRESS: u32 = 50;
    /// The most in all.
    pub const ALL: u32 = 500;

    /// Whether one more about this address may be emitted.
    pub fn allows(&mut self, address: IpAddr) -> bool {
        if self.began.is_none_or(|began| began.elapsed() >= Self::TIME) {
            *self = Self { began: Some(Instant::now()), ..Self::default() };
        }
        let told = if self.all < Self::ALL { self.told.entry(address).or_default() } else { return false };
        if *told >= Self::OF_ADDRESS {
            return false;
        }
        *told += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_strangers_has_a_limit() {
        let address = |last: u32| IpAddr::from([10, 0, 0, u8::try_from(last).unwrap()]);
        let mut quota = Quota::default();
        let allowed = |quota: &mut Quota, last| (0..1000).filter(|_| quota.allows(address(last))).count();
        for last in 0..Quota::ALL / Quota::OF_ADDRESS {
            assert_eq!(allowed(&mut quota, last), 50);
        }
        assert_eq!((allowed(&mut quota, 99), quota.told.len()), (0, 10));
        quota.began = Instant::now().checked_sub(Quota::TIME);
        assert!(quota.allows(address(99)));
    }
}
