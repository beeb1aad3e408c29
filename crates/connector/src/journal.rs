//! Where events go: one line each on standard error, which the journal keeps.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wardline_proto::event::Event;
use wardline_proto::health::Severity;

thread_local! {
    /// The group that this thread works for, in a program that is part of several.
    static GROUP: OnceCell<String> = const { OnceCell::new() };
}

/// From now on the events of this thread say that they are of this group. Once for each thread.
pub fn works_for(group: &str) {
    GROUP.with(|of| {
        let _ = of.set(group.to_owned());
    });
}

/// The text of an event, with the thread's group in front unless the event names one itself.
fn text(event: &Event) -> String {
    let named = event.fields().iter().any(|(field, _)| *field == "group");
    match GROUP.with(|group| group.get().filter(|_| !named).cloned()) {
        Some(group) => format!("group {group}: {}", event.text()),
        None => event.text(),
    }
}

/// Emits an event: `TIME SEVERITY NUMBER TEXT`, with the journal's priority in front when the journal reads.
pub fn emit(event: Event) {
    let priority = match event.severity() {
        Severity::Information => 6,
        Severity::Warning => 4,
        Severity::Critical => 3,
    };
    let prefix = if std::env::var_os("JOURNAL_STREAM").is_some() { format!("<{priority}>") } else { String::new() };
    let text: String = text(&event).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = format!("{prefix}{:.3} {} {} {text}\n", jiff::Timestamp::now(), event.severity(), event.number());
    // One write per line. When standard error is gone there is nobody left to tell.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// How much strangers may cause, events above all: so much in [`Quota::TIME`] of one address, and so much in all.
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

    /// Whether one more of this address is allowed now.
    pub fn allows(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= Self::TIME) {
            *self = Self { began: Some(now), ..Self::default() };
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

/// Says what those do who are refused, and not too often.
#[derive(Clone, Debug, Default)]
pub struct Strangers(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    busy: Option<Instant>,
    done: Quota,
}

impl Strangers {
    fn said(&self) -> MutexGuard<'_, Said> {
        // Nothing panics while it is held, and nothing waits.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody at this address did this.
    pub fn did(&self, address: SocketAddr, event: Event) {
        let allowed = self.said().done.allows(address.ip(), Instant::now());
        if allowed { emit(event) } else { self.busy("more is refused than is named here".into()) }
    }

    /// There are too many of them.
    pub fn busy(&self, reason: String) {
        let now = Instant::now();
        let mut said = self.said();
        if said.busy.is_none_or(|when| now.saturating_duration_since(when) >= Quota::TIME) {
            said.busy = Some(now);
            drop(said);
            emit(Event::ListenerBusy { reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_strangers_has_a_limit() {
        let address = |last: u32| IpAddr::from([10, 0, 0, u8::try_from(last).unwrap()]);
        let (mut quota, now) = (Quota::default(), Instant::now());
        let allowed = |quota: &mut Quota, last| (0..1000).filter(|_| quota.allows(address(last), now)).count();
        for last in 0..Quota::ALL / Quota::OF_ADDRESS {
            assert_eq!(allowed(&mut quota, last), 50);
        }
        assert_eq!((allowed(&mut quota, 99), quota.told.len()), (0, 10));
        assert!(quota.allows(address(99), now + Quota::TIME));
    }

    #[test]
    fn an_event_of_one_of_several_groups_says_which_one() {
        let plain = Event::CheckFailed { workflow: "base/web".into(), reason: "no such file".into() };
        let named = Event::ConfigurationMissing { group: "north".into() };
        assert_eq!(text(&plain), plain.text());
        std::thread::spawn(move || {
            works_for("north");
            assert_eq!(text(&plain), format!("group north: {}", plain.text()));
            assert_eq!(text(&named), named.text());
        })
        .join()
        .unwrap();
    }
}
