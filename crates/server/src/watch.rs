//! What heartbeats say of an agent, judged: whether it is heard, and whether what it has handed over comes. Pure: the
//! time is an argument.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use wardline_proto::Name;
use wardline_proto::message::Epoch;

/// So many heartbeats may be missed; with the next one an agent is grey.
pub const MISSED: u32 = 3;
/// How often an agent is heard that was not heard since the server was started.
const INTERVAL: Duration = Duration::from_secs(60);
/// What an agent may say of that.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// What an agent has said by a heartbeat, and how far its stream had come here then.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The gateways that it came by, the nearest to the agent first.
    pub way: Vec<Name>,
    /// Between heartbeats, as the agent says.
    pub interval: Duration,
    /// The stream; nothing while it is held or another is live.
    pub stream: Option<Stream>,
    /// When the challenge was sent that it repeats: it was signed later.
    pub challenged: Instant,
}

impl Heartbeat {
    /// When the agent lived, as far as it shows that. An agent repeats a challenge within an interval: what comes later was
    /// on its way, or somebody has kept it.
    pub fn lived(&self, now: Instant) -> Instant {
        now.min(self.challenged + clamped(self.interval))
    }
}

fn clamped(interval: Duration) -> Duration {
    interval.clamp(*INTERVALS.start(), *INTERVALS.end())
}

/// A live stream, as both ends know it.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Which.
    pub epoch: Epoch,
    /// The last number that the agent has handed to its session, and when, as it says, milliseconds since 1970.
    pub handed: (u64, u64),
    /// The last number that was taken here; nothing while positions are being compared anew.
    pub taken: Option<u64>,
}

/// What was handed over and does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Of which stream.
    pub epoch: Epoch,
    /// Who has it, the nearest to the agent first. Nobody: the agent itself.
    pub gateways: Vec<Name>,
    /// The last number that came.
    pub taken: u64,
    /// The number that heartbeats have overtaken.
    pub overtaken: u64,
    /// The last number that the agent has handed over, and when, milliseconds since 1970.
    pub handed: (u64, u64),
}

/// An agent, as its heartbeats tell.
#[derive(Clone, Debug)]
pub struct Watched {
    /// When it was last heard; nothing when it was grey already as the server was started.
    heard: Option<Instant>,
    /// When a heartbeat came last, whatever it showed.
    came: Option<Instant>,
    interval: Duration,
    way: Vec<Name>,
    stream: Option<Stream>,
    taken: u64,
    missing: Option<Missing>,
}

/// Something that was handed over and has not come yet.
#[derive(Clone, Debug)]
struct Missing {
    number: u64,
    /// How long heartbeats have overtaken it, the times between them, on each way that the agent came meanwhile.
    overtaken: Vec<(Vec<Name>, Duration)>,
}

impl Missing {
    const fn new(number: u64) -> Self {
        Self { number, overtaken: Vec::new() }
    }

    fn overtake(&mut self, way: Vec<Name>, time: Duration) {
        match self.overtaken.iter_mut().find(|(known, _)| *known == way) {
            Some((_, sum)) => *sum += time,
            None => self.overtaken.push((way, time)),
        }
    }

    /// However often the agent has changed its way: who is on one cannot begin anew by opening another.
    fn sum(&self) -> Duration {
        self.overtaken.iter().map(|(_, time)| *time).sum()
    }

    /// The way on which it was overtaken longest.
    fn way(&self) -> &[Name] {
        self.overtaken.iter().max_by_key(|(_, time)| *time).map_or(&[], |(way, _)| way)
    }
}

impl Watched {
    /// One that is known at the server's start, and whether it was grey before.
    pub const fn new(now: Instant, grey: bool) -> Self {
        let heard = if grey { None } else { Some(now) };
        Self { heard, came: None, interval: INTERVAL, way: Vec::new(), stream: None, taken: 0, missing: None }
    }

    /// A heartbeat has come.
    pub fn heard(&mut self, heartbeat: Heartbeat, now: Instant) {
        self.lived(heartbeat.interval, heartbeat.lived(now));
        let Heartbeat { way, stream, .. } = heartbeat;
        // Those that come at once, behind an outage of whatever kind, are one.
        let since = self.came.map_or(Duration::ZERO, |came| now.duration_since(came)).min(self.interval);
        let same = self.stream.map(|stream| stream.epoch) == stream.map(|stream| stream.epoch);
        // The time before it was on the way of the one before.
        let before = std::mem::replace(&mut self.way, way);
        (self.came, self.stream) = (Some(now), stream);
        if !same {
            (self.taken, self.missing) = (0, None);
        }
        let Some(stream) = stream else { return };
        self.taken = stream.taken.unwrap_or(self.taken);
        if self.missing.as_ref().is_some_and(|missing| missing.number <= self.taken) {
            self.missing = None;
        }
        match &mut self.missing {
            Some(missing) => missing.overtake(before, since),
            None if stream.handed.0 > self.taken => {
                self.missing = Some(Missing::new(stream.handed.0));
            }
            None => {}
        }
    }

    /// Another server has heard it: it lived then. Whether what was missing here has come there it says when it is back.
    pub fn heard_elsewhere(&mut self, interval: Duration, lived: Instant) {
        self.lived(interval, lived);
    }

    fn lived(&mut self, interval: Duration, at: Instant) {
        (self.heard, self.interval) = (self.heard.max(Some(at)), clamped(interval));
    }

    /// This server was behind: what it has not heard or taken meanwhile says nothing about others.
    pub fn begin_anew(&mut self, now: Instant) {
        for time in [&mut self.heard, &mut self.came].into_iter().flatten() {
            *time = now;
        }
        if let Some(missing) = &mut self.missing {
            missing.overtaken.clear();
        }
    }

    /// Whether more heartbeats were missed than may be.
    pub fn is_grey(&self, now: Instant) -> bool {
        self.heard.is_none_or(|heard| now.duration_since(heard) >= self.interval * (MISSED + 1))
    }

    /// Whether something does not come although heartbeats do.
    pub fn is_withheld(&self) -> bool {
        // The fourth heartbeat is the one that says so, with some room for how punctual they are.
        let enough = self.interval * MISSED - self.interval / 2;
        self.missing.as_ref().is_some_and(|missing| missing.sum() >= enough)
    }

    /// What does not come although heartbeats do.
    pub fn withheld(&self) -> Option<Withheld> {
        let (missing, stream) = (self.missing.as_ref().filter(|_| self.is_withheld())?, self.stream?);
        let (gateways, taken, overtaken) = (missing.way().to_vec(), self.taken, missing.number);
        Some(Withheld { epoch: stream.epoch, gateways, taken, overtaken, handed: stream.handed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// An agent, and the time.
    struct Story(Watched, Instant);

    impl Story {
        fn new() -> Self {
            let now = Instant::now();
            Self(Watched::new(now, false), now)
        }

        fn after(&mut self, pause: Duration, epoch: u8, handed: u64, taken: Option<u64>) -> bool {
            self.by("gw1.test", pause, epoch, handed, taken)
        }

        fn by(&mut self, way: &str, pause: Duration, epoch: u8, handed: u64, taken: Option<u64>) -> bool {
            self.1 += pause;
            let stream = Some(Stream { epoch: Epoch([epoch; 16]), handed: (handed, 7), taken });
            let way = vec![way.parse().unwrap()];
            self.0.heard(Heartbeat { way, interval: MINUTE, stream, challenged: self.1 }, self.1);
            self.0.withheld().is_some()
        }

        fn minute(&mut self, handed: u64, taken: u64) -> bool {
            self.after(MINUTE, 1, handed, Some(taken))
        }
    }

    #[test]
    fn three_heartbeats_may_be_missed_and_the_next_makes_an_agent_grey_until_it_is_heard() {
        let mut story = Story::new();
        story.minute(0, 0);
        let heard = story.1;
        assert!(!story.0.is_grey(heard + MINUTE * 4 - Duration::from_millis(1)));
        assert!(story.0.is_grey(heard + MINUTE * 4));
        story.1 += MINUTE * 9;
        story.minute(0, 0);
        assert!(!story.0.is_grey(story.1));
        // As often as it says, within what can be.
        let now = story.1;
        let every = |interval| Heartbeat { way: Vec::new(), interval, stream: None, challenged: now };
        for (said, interval) in [(Duration::from_secs(1), Duration::from_secs(1)), (MINUTE * 600, MINUTE * 60)] {
            story.0.heard(every(said), now);
            assert!(
                !story.0.is_grey(now + interval * 4 - Duration::from_millis(1)) && story.0.is_grey(now + interval * 4)
            );
        }
        // Who was grey before the server was started is until it is heard.
        let mut before = Watched::new(now, true);
        assert!(before.is_grey(now));
        before.heard(every(MINUTE), now);
        assert!(!before.is_grey(now));
    }

    #[test]
    fn a_heartbeat_that_was_kept_shows_life_when_it_was_due_and_not_when_it_comes() {
        let now = Instant::now();
        let mut watched = Watched::new(now, false);
        let kept = Heartbeat { way: Vec::new(), interval: MINUTE, stream: None, challenged: now };
        // However many there are of it, and whenever they come.
        for minutes in [1, 3, 4] {
            watched.heard(kept.clone(), now + MINUTE * minutes);
            assert!(!watched.is_grey(now + MINUTE * 5 - Duration::from_millis(1)));
            assert!(watched.is_grey(now + MINUTE * 5));
        }
        // One on a slow line shows as much as it can, and nothing of before takes anything back.
        watched.heard(Heartbeat { challenged: now + MINUTE * 4, ..kept.clone() }, now + MINUTE * 7);
        watched.heard(kept, now + MINUTE * 7);
        assert!(!watched.is_grey(now + MINUTE * 9 - Duration::from_millis(1)) && watched.is_grey(now + MINUTE * 9));
    }

    #[test]
    fn what_four_heartbeats_in_a_row_say_and_does_not_come_is_withheld_until_it_has_come() {
        let mut story = Story::new();
        assert!(!story.minute(5, 5));
        assert_eq!([story.minute(6, 5), story.minute(6, 5), story.minute(9, 5)], [false; 3]);
        assert!(story.minute(9, 5));
        let withheld = story.0.withheld().unwrap();
        assert_eq!((withheld.taken, withheld.handed, withheld.gateways[0].as_str()), (5, (9, 7), "gw1.test"));
        assert!(story.minute(9, 5));
        // More is under way by then, and no news.
        assert!(!story.minute(12, 6));
        assert!(!story.minute(12, 12));
    }

    #[test]
    fn who_had_it_longest_is_named_and_not_who_has_it_since_a_moment() {
        for (by_first, named) in [(3, "gw1.test"), (1, "gw2.test")] {
            let mut story = Story::new();
            assert!((0..by_first).all(|_| !story.minute(6, 5)));
            while !story.by("gw2.test", MINUTE, 1, 6, Some(5)) {}
            assert_eq!(story.0.withheld().unwrap().gateways[0].as_str(), named);
        }
    }

    #[test]
    fn what_comes_late_but_in_time_is_not_withheld() {
        let mut story = Story::new();
        for number in 1..50 {
            let before = number - 1;
            assert_eq!(
                [story.minute(number, before), story.minute(number, before), story.minute(number, before)],
                [false; 3]
            );
        }
        // An agent that has nothing to say.
        assert!((0..10).all(|_| !story.minute(49, 49)));
    }

    #[test]
    fn heartbeats_that_come_at_once_say_no_more_than_one() {
        let mut story = Story::new();
        assert!(!story.minute(6, 5));
        assert!(!story.after(MINUTE * 30, 1, 6, Some(5)));
        assert!((0..30).all(|_| !story.after(Duration::ZERO, 1, 6, Some(5))));
        assert_eq!([story.minute(6, 5), story.minute(6, 5)], [false, true]);
    }

    #[test]
    fn a_server_that_was_behind_names_nobody_for_it() {
        let mut story = Story::new();
        assert_eq!([story.minute(6, 5), story.minute(6, 5), story.minute(6, 5)], [false; 3]);
        // Nobody asks meanwhile.
        let stream = Some(Stream { epoch: Epoch([1; 16]), handed: (6, 7), taken: Some(5) });
        story.1 += MINUTE;
        story.0.heard(Heartbeat { way: Vec::new(), interval: MINUTE, stream, challenged: story.1 }, story.1);
        assert!(story.0.is_withheld());
        story.1 += MINUTE * 10;
        story.0.begin_anew(story.1);
        assert!(!story.0.is_withheld() && !story.0.is_grey(story.1 + MINUTE));
        assert_eq!([story.minute(6, 5), story.minute(6, 5), story.minute(6, 5)], [false, false, true]);
    }

    #[test]
    fn a_way_that_is_made_anew_hides_nothing_and_a_new_stream_begins_anew() {
        let mut story = Story::new();
        assert_eq!([story.minute(6, 5), story.after(MINUTE, 1, 6, None), story.minute(6, 5)], [false; 3]);
        assert!(story.after(MINUTE, 1, 6, None));
        assert_eq!([story.after(MINUTE, 2, 9, None), story.after(MINUTE, 2, 9, Some(9))], [false; 2]);
        // Another server that has heard it meanwhile hides nothing either.
        let mut story = Story::new();
        assert_eq!([story.minute(6, 5), story.minute(6, 5)], [false; 2]);
        story.0.heard_elsewhere(MINUTE, story.1);
        assert_eq!([story.minute(6, 5), story.minute(6, 5)], [false, true]);
        // What has come there has.
        story.0.heard_elsewhere(MINUTE, story.1);
        assert!(!story.minute(6, 6));
    }
}
