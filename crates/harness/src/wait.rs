//! Waiting for a condition: the one loop that does, and the only place that sleeps.

use std::thread;
use std::time::{Duration, Instant};

/// The longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Returns what the condition gives as soon as it gives something.
///
/// # Panics
/// It gave nothing within the limit; the message says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        // Whether the time is up is read before the look, so that the last look comes after all of it.
        let late = begin.elapsed() >= limit;
        if let Some(value) = condition() {
            return value;
        }
        assert!(!late, "waited {limit:?} in vain: {what}");
        thread::sleep(pause);
        pause = PAUSE.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_with_the_condition() {
        let mut looks = 0;
        let seen = until("the third look", Duration::from_secs(10), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, 3);
    }

    #[test]
    #[should_panic(expected = "in vain: a second Sunday")]
    fn it_says_what_was_waited_for() {
        until("a second Sunday", Duration::from_millis(5), || None::<()>);
    }
}
