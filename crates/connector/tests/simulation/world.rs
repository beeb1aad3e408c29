//! One run: agents, gateway and server, moved one small step at a time by what the seed says.

use std::collections::{BTreeSet, HashSet, VecDeque};

use wardline_proto::message::Epoch;

use super::agent::{Agent, End, Luck, Queue};
use super::ledger::{Audit, Ledger};
use super::random::Random;
use super::server::{Database, Server};
use super::wire::{Down, Id, Up};
use super::{Flaw, Trace};

/// Steps with faults.
const STEPS: u32 = 500;
/// Rounds without faults in which everything must be delivered.
const ROUNDS: u32 = 60;
/// One durable step in so many is crashed into.
const CRASH_IN: u64 = 60;
/// A gateway remembers no more than this of what it has seen.
const SEEN: usize = 200;

/// Which kinds of faults a seed has, besides crashes, cuts, partitions and a slow database, which all have.
#[derive(Clone, Copy, Debug)]
struct Faults {
    /// The link loses, doubles and swaps.
    lossy: bool,
    /// The gateway repeats what it saw in earlier sessions.
    hostile: bool,
    /// The agent's disk goes back to a snapshot.
    rollback: bool,
    /// The agent's disk is lost.
    wipe: bool,
    /// The server's database goes back to a copy.
    restore: bool,
    /// The agent's disk comes to life a second time.
    clone: bool,
}

impl Faults {
    fn drawn(random: &mut Random) -> Self {
        Self {
            lossy: random.one_in(2),
            hostile: random.one_in(3),
            rollback: random.one_in(3),
            wipe: random.one_in(5),
            restore: random.one_in(3),
            clone: random.one_in(6),
        }
    }
}

/// A session of an agent, through the gateway.
#[derive(Default)]
struct Session {
    /// Its route's number, which is the conversation's.
    route: u64,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    /// Whether the server knows of it.
    through: bool,
}

/// Everything.
pub(crate) struct World<'a> {
    random: Random,
    faults: Faults,
    trace: &'a mut Trace,
    agents: Vec<Agent>,
    sessions: Vec<Option<Session>>,
    next_route: u64,
    server: Server,
    seen_up: Vec<Up>,
    seen_down: Vec<Down>,
    /// Copies of disks: the agent's with the newest entry then, the server's.
    snapshots: Vec<(Queue, Id)>,
    copies: Vec<Database>,
    /// Whether a copy of the agent's disk ever came to life, or a gateway could make it look so by positions that it
    /// held back.
    copied: bool,
    rolled_back: bool,
    /// The steps until which the network is dark, the server is down, the database is slow.
    dark: u32,
    down: u32,
    slow: u32,
    crash_in: u64,
    now: u32,
    ledger: Ledger,
}

impl<'a> World<'a> {
    pub(crate) fn new(seed: u64, flaw: Flaw, trace: &'a mut Trace) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::drawn(&mut random);
        trace.note(0, || format!("{faults:?}"));
        let budget = if random.one_in(3) { 12 } else { 1000 };
        let agent = Agent::new(Queue::new(Epoch(random.bytes())), budget);
        Self {
            random,
            faults,
            trace,
            agents: vec![agent],
            sessions: vec![None],
            next_route: 0,
            server: Server::new(flaw),
            seen_up: Vec::new(),
            seen_down: Vec::new(),
            snapshots: Vec::new(),
            copies: Vec::new(),
            copied: faults.hostile,
            rolled_back: false,
            dark: 0,
            down: 0,
            slow: 0,
            crash_in: CRASH_IN,
            now: 0,
            ledger: Ledger::default(),
        }
    }

    /// Faults, then calm, then the account. Tells which outcomes were reached.
    pub(crate) fn run(mut self) -> Result<BTreeSet<&'static str>, String> {
        while self.now < STEPS {
            self.now += 1;
            self.step()?;
        }
        self.calm();
        if self.agents.len() > 1 {
            self.clone_is_held()?;
        }
        self.everything_is_delivered()?;
        self.ledger.closed()?;
        let reached = self.agents.iter_mut().map(|agent| &mut agent.reached);
        reached.for_each(|reached| self.server.reached.append(reached));
        Ok(self.server.reached)
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        self.trace.note(self.now, what);
    }

    fn step(&mut self) -> Audit {
        let who = self.random.index(self.agents.len());
        match self.random.below(32) {
            0..5 => self.put(who)?,
            5..8 => self.connect(who),
            8..14 => self.carry_up(who),
            14..20 => self.carry_down(who)?,
            20..26 => self.write()?,
            26 => self.ask_again(who),
            27 => self.fault(who),
            28 => self.disaster()?,
            _ => self.tamper(who),
        }
        Ok(())
    }

    // What programs do.

    fn put(&mut self, who: usize) -> Audit {
        let count = 1 + self.random.below(4);
        let ids: Vec<Id> = (0..count).map(|_| self.ledger.draw(who)).collect();
        self.note(|| format!("agent {who} is given {ids:?}"));
        self.with(who, |agent, luck| agent.put(luck, &ids), &ids)
    }

    /// A step of an agent, and what follows from it.
    fn with(
        &mut self,
        who: usize,
        step: impl FnOnce(&mut Agent, &mut Luck<'_>) -> Result<(), End>,
        given: &[Id],
    ) -> Audit {
        let Some(agent) = self.agents.get_mut(who) else { return Ok(()) };
        let mut luck = Luck { random: &mut self.random, crash_in: self.crash_in };
        let before = agent.queue.epoch();
        let end = step(agent, &mut luck).err();
        self.ledger.given(given, &agent.queue)?;
        self.ledger.deleted(agent)?;
        if before != agent.queue.epoch() {
            let forgotten_since = self.server.database.number(before) < agent.decided;
            self.ledger.reopened(before, &agent.queue, agent.decided, forgotten_since);
        }
        self.speak(who);
        if let Some(end) = end {
            self.note(|| format!("agent {who}: {end:?}"));
            if end == End::Crashed {
                self.restart(who);
            } else {
                self.cut(who);
            }
        }
        Ok(())
    }

    /// What an agent says goes to its session.
    fn speak(&mut self, who: usize) {
        let Some(agent) = self.agents.get_mut(who) else { return };
        let said = std::mem::take(&mut agent.out);
        if let Some(Some(session)) = self.sessions.get_mut(who) {
            for message in &said {
                self.trace.note(self.now, || format!("agent {who} says {message}"));
            }
            self.seen_up.extend(said.iter().cloned());
            session.up.extend(said);
        }
        let excess = self.seen_up.len().saturating_sub(SEEN);
        self.seen_up.drain(..excess);
    }

    fn restart(&mut self, who: usize) {
        self.cut(who);
        if let Some(agent) = self.agents.get_mut(who) {
            agent.restart();
        }
    }

    fn connect(&mut self, who: usize) {
        if self.now < self.dark {
            return;
        }
        let Some(place) = self.sessions.get_mut(who) else { return };
        if place.is_none() {
            *place = Some(Session::default());
            self.note(|| format!("agent {who} dials"));
            // The gateway has one session of each agent.
            for other in (0..self.agents.len()).filter(|other| *other != who) {
                self.replace(other);
            }
        }
        self.open_way(who);
    }

    fn replace(&mut self, who: usize) {
        if let Some(Some(session)) = self.sessions.get_mut(who) {
            self.server.end(session.route);
            session.through = false;
            session.down.push_back(Down::Replaced);
        }
    }

    /// The gateway tells the server of a session, when there is a server.
    fn open_way(&mut self, who: usize) {
        if self.now < self.down {
            return;
        }
        if let Some(Some(session)) = self.sessions.get_mut(who)
            && !session.through
            && !session.down.iter().any(|message| matches!(message, Down::Replaced))
        {
            // What an earlier route of this session left for the writer is not this one's.
            self.next_route += 1;
            (session.route, session.through) = (self.next_route, true);
            self.server.begin(session.route);
            self.answer();
        }
    }

    fn carry_up(&mut self, who: usize) {
        if self.now < self.dark || self.now < self.down {
            return;
        }
        if let Some(Some(session)) = self.sessions.get_mut(who)
            && session.through
            && let Some(message) = session.up.pop_front()
        {
            self.server.receive(session.route, message);
            self.answer();
        }
    }

    fn carry_down(&mut self, who: usize) -> Audit {
        if self.now < self.dark {
            return Ok(());
        }
        if let Some(Some(session)) = self.sessions.get_mut(who)
            && let Some(message) = session.down.pop_front()
        {
            self.note(|| format!("agent {who} hears {message}"));
            self.with(who, |agent, luck| agent.take(luck, message), &[])?;
        }
        Ok(())
    }

    /// What the server says goes to the sessions that are still there.
    fn answer(&mut self) {
        for (number, message) in std::mem::take(&mut self.server.out) {
            self.trace.note(self.now, || format!("server on route {number}: {message}"));
            self.seen_down.push(message.clone());
            let session = self.sessions.iter_mut().flatten().find(|session| session.route == number);
            if let Some(session) = session {
                session.down.push_back(message);
            }
        }
        let excess = self.seen_down.len().saturating_sub(SEEN);
        self.seen_down.drain(..excess);
    }

    fn write(&mut self) -> Audit {
        if self.now < self.down || (self.now < self.slow && !self.random.one_in(8)) {
            return Ok(());
        }
        let crashed = self.server.write(&mut self.random, self.crash_in).is_err();
        self.ledger.written(&self.server.database)?;
        if crashed {
            self.stop_server();
        }
        self.answer();
        Ok(())
    }

    fn ask_again(&mut self, who: usize) {
        if let Some(agent) = self.agents.get_mut(who) {
            agent.ask_again(&mut self.random);
            self.speak(who);
        }
    }

    // What goes wrong.

    /// A session ends, in the middle of what is under way: some of it arrives.
    fn cut(&mut self, who: usize) {
        let Some(session) = self.sessions.get_mut(who).and_then(Option::take) else { return };
        self.trace.note(self.now, || format!("the session of agent {who} is cut"));
        if session.through && self.now >= self.dark {
            let arrives = self.random.index(session.up.len() + 1);
            for message in session.up.into_iter().take(arrives) {
                self.server.receive(session.route, message);
            }
        }
        self.server.end(session.route);
        self.answer();
        if let Some(agent) = self.agents.get_mut(who) {
            agent.part();
        }
    }

    fn stop_server(&mut self) {
        self.note(|| "the server is killed".into());
        self.server.restart();
        self.down = self.now + 1 + u32::try_from(self.random.below(10)).unwrap_or_default();
        for session in self.sessions.iter_mut().flatten().filter(|session| session.through) {
            session.through = false;
            session.up.clear();
            session.down.push_back(Down::Way(false));
        }
    }

    fn fault(&mut self, who: usize) {
        let long = u32::try_from(self.random.below(40)).unwrap_or_default();
        match self.random.below(6) {
            0 => self.cut(who),
            1 => self.restart(who),
            2 => self.stop_server(),
            3 => (0..self.agents.len()).for_each(|who| self.cut(who)),
            4 => self.dark = self.now + long,
            _ => self.slow = self.now + long,
        }
    }

    /// A link that loses, doubles and swaps, or a gateway that repeats what it saw.
    fn tamper(&mut self, who: usize) {
        let Faults { lossy, hostile, .. } = self.faults;
        let Some(Some(session)) = self.sessions.get_mut(who) else { return };
        let random = &mut self.random;
        if (lossy || hostile) && random.one_in(4) {
            self.trace.note(self.now, || format!("the link of agent {who} loses, doubles or swaps"));
            garble(random, &mut session.up);
            garble(random, &mut session.down);
        }
        if hostile {
            let (old_up, old_down) = (some(random, &self.seen_up, 6), some(random, &self.seen_down, 2));
            self.trace.note(self.now, || "the gateway repeats:".into());
            old_up.iter().for_each(|old| self.trace.note(self.now, || format!("  {old}")));
            old_down.iter().for_each(|old| self.trace.note(self.now, || format!("  {old}")));
            session.up.extend(old_up);
            session.down.extend(old_down);
        }
    }

    /// Disks are copied, and seldom a copy comes back.
    fn disaster(&mut self) -> Audit {
        let Faults { rollback, wipe, restore, clone, .. } = self.faults;
        match self.random.below(14) {
            0..3 if rollback => self.snapshot(),
            3..6 if rollback => self.roll_back()?,
            6 if wipe => self.wipe(),
            7..9 if restore => self.copies.push(self.server.database.clone()),
            9..11 if restore => self.restore()?,
            11 if clone && self.agents.len() == 1 => self.clone_agent(),
            _ => {}
        }
        Ok(())
    }

    fn snapshot(&mut self) {
        let newest = self.ledger.newest();
        self.snapshots.extend(self.agents.first().map(|agent| (agent.queue.clone(), newest)));
        self.note(|| format!("a snapshot of agent 0, newest entry {newest}"));
    }

    fn roll_back(&mut self) -> Audit {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let picked = self.random.index(self.snapshots.len());
        self.cut(0);
        let (Some((queue, newest)), Some(agent)) = (self.snapshots.get(picked).cloned(), self.agents.first_mut())
        else {
            return Ok(());
        };
        let again = std::mem::replace(&mut self.rolled_back, true);
        self.copied = true;
        // A machine that comes back with its memory has not started: nothing in it can tell.
        let running = self.random.one_in(4);
        self.trace.note(self.now, || format!("agent 0 is rolled back to entry {newest}; still running: {running}"));
        self.ledger.rolled_back(0, newest, &queue);
        if running {
            self.ledger.unaware(&queue, again);
        }
        agent.queue = queue;
        if running {
            agent.part();
        } else {
            agent.restart();
        }
        Ok(())
    }

    fn wipe(&mut self) {
        self.cut(0);
        self.note(|| "the queue of agent 0 is wiped".into());
        self.snapshots.clear();
        if let Some(agent) = self.agents.first_mut() {
            self.ledger.wiped(0, &agent.queue, &HashSet::new());
            agent.queue = Queue::new(Epoch(self.random.bytes()));
            agent.restart();
        }
    }

    fn restore(&mut self) -> Audit {
        if self.copies.is_empty() {
            return Ok(());
        }
        let picked = self.random.index(self.copies.len());
        let Some(copy) = self.copies.get(picked).cloned() else { return Ok(()) };
        self.note(|| format!("the server is restored to {} rows", copy.rows.len()));
        self.stop_server();
        self.server.database = copy;
        let written: Vec<Epoch> = self.agents.iter().map(|agent| agent.queue.epoch()).collect();
        self.ledger.restored(&self.server.database, &written)
    }

    fn clone_agent(&mut self) {
        let Some(agent) = self.agents.first() else { return };
        self.trace.note(self.now, || "agent 0 is cloned".into());
        self.copied = true;
        self.ledger.copied(agent.queue.ids());
        self.agents.push(Agent::new(agent.queue.clone(), 1000));
        self.sessions.push(None);
    }

    // What must happen when nothing goes wrong any more.

    fn calm(&mut self) {
        self.note(|| "calm".into());
        (0..self.agents.len()).for_each(|who| self.cut(who));
        (self.dark, self.down, self.slow, self.crash_in) = (0, 0, 0, 0);
        self.faults =
            Faults { lossy: false, hostile: false, rollback: false, wipe: false, restore: false, clone: false };
    }

    /// Everything that is under way of one agent arrives, until nothing is.
    fn settle(&mut self, who: usize) -> Audit {
        self.connect(who);
        for _ in 0..ROUNDS {
            let under_way = |session: &Session| session.up.len() + session.down.len();
            let waiting = self.sessions.get(who).and_then(Option::as_ref).map_or(0, under_way);
            if waiting == 0 && self.server.is_idle() {
                break;
            }
            for _ in 0..waiting {
                self.carry_up(who);
                self.carry_down(who)?;
            }
            self.write()?;
        }
        Ok(())
    }

    /// Two queues with one identity that both have something to say displace each other, until both are held.
    fn clone_is_held(&mut self) -> Audit {
        for _ in 0..ROUNDS {
            let mut held = 0;
            for who in 0..self.agents.len() {
                self.put(who)?;
                self.cut(1 - who);
                self.settle(who)?;
                held += usize::from(self.agents.get(who).is_some_and(Agent::is_held));
            }
            if held == self.agents.len() {
                self.note(|| "an operator removes the clone and releases the agent".into());
                self.cut(1);
                if let [agent, clone, ..] = self.agents.as_slice() {
                    self.ledger.wiped(1, &clone.queue, &agent.queue.known().collect());
                }
                self.agents.truncate(1);
                self.sessions.truncate(1);
                self.server.database.release();
                return Ok(());
            }
        }
        Err("two queues with one identity are not held".into())
    }

    /// An operator releases what is held, which nothing is that never seemed to be two, and everything arrives.
    fn everything_is_delivered(&mut self) -> Audit {
        for _ in 0..ROUNDS {
            if self.server.database.held {
                self.note(|| "an operator releases the agent".into());
                self.server.database.release();
                if !self.copied {
                    return Err("it is held, and yet there was never a second queue".into());
                }
            }
            self.cut(0);
            self.settle(0)?;
            if self.agents.iter().all(|agent| agent.queue.is_empty()) {
                return Ok(());
            }
        }
        Err("nothing goes wrong any more, and yet not everything is delivered".into())
    }
}

/// Loses, doubles or swaps something.
fn garble<T: Clone>(random: &mut Random, under_way: &mut VecDeque<T>) {
    if under_way.is_empty() {
        return;
    }
    let (one, other) = (random.index(under_way.len()), random.index(under_way.len()));
    match random.below(3) {
        0 => drop(under_way.remove(one)),
        1 => under_way.extend(under_way.get(one).cloned()),
        _ => under_way.swap(one, other),
    }
}

/// Some in a row of what was seen, fewer than `most`.
fn some<T: Clone>(random: &mut Random, seen: &[T], most: usize) -> Vec<T> {
    let from = random.index(seen.len() + 1);
    seen.iter().skip(from).take(random.index(most)).cloned().collect()
}
