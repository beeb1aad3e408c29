//! A gateway passes on heartbeats and not what the agent found: the agent's own signed word gives it away. And one that
//! repeats old heartbeats instead of passing on those of now.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use serde_json::Value;
use wardline_connector::now_ms;
use wardline_harness::group::Group;
use wardline_harness::{hostile, wait};
use wardline_proto::Kind;
use wardline_proto::frame::Message;
use wardline_proto::message::{Position, Signed, decode, encode};

use crate::federation;
use crate::hostile_gateway::Between;

const LIMIT: Duration = Duration::from_secs(40);
/// Between heartbeats, milliseconds.
const INTERVAL: u64 = 1000;
/// What is handed over does not come; has come; an agent is not heard; is heard again.
const EVENTS: [u32; 4] = [40017, 40018, 20022, 20020];
/// What was missing will not come.
const ENDED: u32 = 40019;

/// A gateway that keeps batches for itself.
struct Withholding {
    gateway: Between,
    /// The batches, and all heartbeats that ever came.
    batches: Vec<Bytes>,
    heartbeats: Vec<Bytes>,
    /// When it passed on the last heartbeat, milliseconds since 1970.
    passed_at: u64,
}

impl Withholding {
    /// Starts server and agent, and stands between them; the position that they have agreed on.
    fn begin(group: &mut Group) -> (Self, Bytes) {
        group.server().start();
        let gateway = Between::new(group);
        group.agent(0).start();
        Self::meet(group, gateway)
    }

    /// Waits for the agent; the position that it and the server have agreed on.
    fn meet(group: &mut Group, mut gateway: Between) -> (Self, Bytes) {
        let mark = group.agent(0).mark();
        gateway.meet();
        let (position, _) = gateway.open();
        group.agent(0).wait_event_since(mark, 40005);
        (Self { gateway, batches: Vec::new(), heartbeats: Vec::new(), passed_at: 0 }, position)
    }

    /// The next heartbeat, which it has not passed on, and the last number that it says was handed over.
    fn heartbeat(&mut self) -> (Bytes, u64) {
        loop {
            let frame = self.gateway.below().receive().expect("the agent stays");
            match frame.kind {
                Kind::Batch => self.batches.push(frame.body),
                Kind::Heartbeat => {
                    // It lives, too.
                    self.gateway.below().say(Message { kind: Kind::Alive, route: 0, body: Bytes::new() });
                    let signed: Signed = decode(&frame.body).unwrap();
                    let handed = decode::<Position>(&signed.payload).unwrap().handed;
                    self.heartbeats.push(frame.body.clone());
                    return (frame.body, handed);
                }
                _ => {}
            }
        }
    }

    /// Passes on one heartbeat; the last number that it says was handed over.
    fn pass_heartbeat(&mut self) -> u64 {
        let (heartbeat, handed) = self.heartbeat();
        self.pass(heartbeat);
        handed
    }

    fn pass(&mut self, heartbeat: Bytes) {
        self.passed_at = now_ms();
        self.gateway.heartbeat(heartbeat);
    }

    /// Passes on so many heartbeats that say that more than this was handed over; what does not say so, too. Returns when
    /// the server has heard the last.
    fn overtake(&mut self, group: &Group, count: usize, taken: u64) {
        let mut passed = 0;
        while passed < count {
            passed += usize::from(self.pass_heartbeat() > taken);
        }
        self.wait_heard(group);
    }

    /// Passes on so many heartbeats, and returns when the server has heard the last.
    fn pass_heartbeats(&mut self, group: &Group, count: usize) {
        (0..count).for_each(|_| _ = self.pass_heartbeat());
        self.wait_heard(group);
    }

    fn wait_heard(&self, group: &Group) {
        wait_heard(group, self.passed_at);
    }

    /// Passes on the batches that it has, and their acknowledgements.
    fn let_go(&mut self) {
        for batch in std::mem::take(&mut self.batches) {
            self.gateway.pass(batch);
        }
    }
}

/// The server's alerts of this monitor that are open.
fn open(group: &Group, monitor: &str) -> Vec<Value> {
    let alerts = group.json(&["alert", "list"]);
    alerts.as_array().unwrap().iter().filter(|alert| alert["monitor"] == monitor).cloned().collect()
}

/// How often the server has said these events.
fn said(group: &mut Group, mark: usize) -> [usize; 4] {
    let events = group.server().events_since(mark);
    EVENTS.map(|number| events.iter().filter(|event| event.number == number).count())
}

/// Waits until the server has heard the heartbeat that came at this time or later, milliseconds since 1970.
fn wait_heard(group: &Group, at: u64) {
    wait::until("the agent is heard", LIMIT, || {
        let agent = group.json(&["agent", "show", "agent1.test"]);
        // It shows life when it was due, which may be a little earlier.
        (agent["last_seen"]["ms"].as_u64()? + INTERVAL / 2 >= at).then_some(())
    });
}

#[test]
fn a_gateway_that_withholds_alerts_is_named() {
    let (mut group, log) = Group::builder().heartbeat("1s").written().lay_with_log();
    let (mut it, position) = Withholding::begin(&mut group);
    let mark = group.server().mark();

    // An agent that has nothing to say names nobody.
    it.pass_heartbeats(&group, 5);
    // What three heartbeats overtake is late, and not withheld.
    log.say("one");
    it.overtake(&group, 3, 0);
    it.let_go();
    it.pass_heartbeats(&group, 2);
    assert_eq!((said(&mut group, mark), group.all_texts()), ([0; 4], vec!["one".into()]));

    // With the fourth it is.
    log.say("two");
    it.overtake(&group, 3, 1);
    let (fourth, handed) = it.heartbeat();
    assert_eq!((said(&mut group, mark), handed > 1), ([0; 4], true));
    it.pass(fourth);
    let named = group.server().wait_event_since(mark, EVENTS[0]);
    assert!(named.text.contains("agent1.test") && named.text.ends_with("on its way: gw1.test"), "{}", named.text);
    let alerts = open(&group, "wardline/withheld");
    assert_eq!((alerts.len(), &alerts[0]["agent"]), (1, &"agent1.test".into()));
    assert!(alerts[0]["text"].as_str().unwrap().contains("gw1.test"), "{alerts:?}");
    it.overtake(&group, 2, 1);
    assert_eq!((said(&mut group, mark), group.all_texts()), ([1, 0, 0, 0], vec!["one".into()]));
    assert_eq!(open(&group, "wardline/withheld"), alerts, "it is said once");

    // It is over when all has come.
    it.let_go();
    it.pass_heartbeats(&group, 1);
    group.server().wait_event_since(mark, EVENTS[1]);
    assert_eq!((open(&group, "wardline/withheld").len(), group.all_texts()), (0, vec!["one".into(), "two".into()]));

    // A server that is behind itself names nobody; afterwards all of it counts anew.
    let other = Connection::open(group.database()).unwrap();
    other.busy_timeout(LIMIT).unwrap();
    let mark = group.server().mark();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    group.server().wait_event_since(mark, 40020);
    log.say("three");
    it.overtake(&group, 5, 2);
    other.execute_batch("ROLLBACK").unwrap();
    group.server().wait_event_since(mark, 40021);
    it.overtake(&group, 2, 2);
    assert_eq!(said(&mut group, mark), [0; 4]);
    it.overtake(&group, 2, 2);
    group.server().wait_event_since(mark, EVENTS[0]);

    // Old heartbeats make nobody alive: not on this route, and not on a new one, with an old position before them.
    let old = it.heartbeats.clone();
    let repeat = |it: &mut Withholding| old.iter().for_each(|old| it.gateway.up(Kind::Heartbeat, old.clone()));
    repeat(&mut it);
    let grey = wait::until("the agent is grey", LIMIT, || {
        repeat(&mut it);
        group.server().events_since(mark).into_iter().find(|event| event.number == EVENTS[2])
    });
    assert!(grey.text.contains("its session by gw1.test stands"), "{}", grey.text);
    let route = it.gateway.route("agent1.test");
    it.gateway.above.wait_for(Kind::Way, route);
    it.gateway.up(Kind::Position, position);
    it.gateway.above.wait_for(Kind::Answer, route);
    repeat(&mut it);
    // Of a second time not even the signature is looked at.
    for old in &old {
        let unsigned = Signed { signature: Bytes::new(), ..decode(old).unwrap() };
        it.gateway.up(Kind::Heartbeat, encode(&unsigned));
    }
    repeat(&mut it);
    // What comes behind them has been looked at, so they have.
    it.gateway.up(Kind::Heartbeat, Bytes::from_static(b"nonsense"));
    let forged = group.server().wait_event_since(mark, 40011);
    assert!(forged.text.contains("cannot be decoded"), "{}", forged.text);
    assert_eq!((said(&mut group, mark), open(&group, "wardline/heartbeat").len()), ([1, 0, 1, 0], 1));

    // By the real gateway the agent is heard, and all comes, once.
    drop(it);
    group.gateway(0).start();
    group.wait_texts(&["one", "two", "three"]);
    for event in [EVENTS[1], EVENTS[3]] {
        group.server().wait_event_since(mark, event);
    }
    wait::until("all is well", LIMIT, || {
        (open(&group, "wardline/withheld").is_empty() && open(&group, "wardline/heartbeat").is_empty()).then_some(())
    });

    // What has come and is not written yet is not withheld.
    let mark = group.server().mark();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    log.say("four");
    group.server().wait_event_since(mark, 40020);
    wait_heard(&group, now_ms() + 5 * INTERVAL);
    other.execute_batch("ROLLBACK").unwrap();
    group.wait_texts(&["one", "two", "three", "four"]);
    assert_eq!(said(&mut group, mark), [0; 4]);
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM gap"), [0]);
}

#[test]
fn heartbeats_that_a_gateway_has_kept_make_no_dead_agent_alive() {
    let mut group = Group::builder().heartbeat("1s").lay();
    let (mut it, _) = Withholding::begin(&mut group);
    it.pass_heartbeats(&group, 3);

    // It keeps as many as it can without being noticed, and then the agent is dead.
    let kept = [(); 3].map(|()| it.heartbeat().0);
    group.agent(0).kill9();
    assert_eq!(said(&mut group, 0), [0; 4]);
    // The control: each is the agent's, later than the one before, and repeats what it was to repeat.
    let said_by = |heartbeat: &Bytes| decode::<Position>(&decode::<Signed>(heartbeat).unwrap().payload).unwrap();
    let kept = kept.map(|heartbeat| (said_by(&heartbeat), heartbeat));
    assert!(kept.is_sorted_by_key(|(position, _)| position.serial));
    assert!(
        kept.iter().all(|(position, _)| position.challenge == kept[0].0.challenge && !position.challenge.is_empty())
    );

    // Shown one after the other, before too many are missed, they would last for ten intervals.
    let mark = now_ms();
    let mut grey = None;
    for (_, heartbeat) in kept {
        it.gateway.heartbeat(heartbeat);
        let until = now_ms() + 3 * INTERVAL;
        grey = wait::until("it is time for the next", LIMIT, || {
            let mut events = group.server().events_since(0).into_iter();
            let grey = events.find(|event| event.number == EVENTS[2]);
            (grey.is_some() || now_ms() >= until).then_some(grey)
        });
        if grey.is_some() {
            break;
        }
    }
    assert!(grey.is_some() && now_ms() - mark < 7 * INTERVAL, "the agent is dead");
    let last: u64 = group.sql::<i64>("SELECT last_seen FROM agent")[0].try_into().unwrap();
    assert!(last <= mark, "and was not seen later");
}

#[test]
fn the_gateway_that_withheld_is_named_and_not_the_next_one() {
    let builder = Group::builder().gateways(2).any_gateway().heartbeat("1s").written();
    let (mut group, log) = builder.lay_with_log();
    let (mut it, _) = Withholding::begin(&mut group);
    it.pass_heartbeats(&group, 2);
    log.say("one");
    it.overtake(&group, 3, 0);
    assert_eq!(said(&mut group, 0), [0; 4]);

    // The agent goes to its other gateway, which has hardly begun when it is time to name somebody.
    let server = (hostile::listen(group.server()), "srv1.test");
    let next = Between::of(&mut group, 1, server);
    drop(it);
    let (mut it, _) = Withholding::meet(&mut group, next);
    let named = wait::until("somebody is named", LIMIT, || {
        it.pass_heartbeat();
        group.server().events().into_iter().find(|event| event.number == EVENTS[0])
    });
    assert!(named.text.ends_with("on its way: gw1.test"), "{}", named.text);

    // The control: the next one it is that has it, and by that it comes.
    it.let_go();
    it.pass_heartbeats(&group, 1);
    group.server().wait_event(EVENTS[1]);
    assert_eq!((group.all_texts(), said(&mut group, 0)), (vec!["one".to_owned()], [1, 1, 0, 0]));
}

#[test]
fn what_is_withheld_behind_any_server_is_named_until_it_has_come() {
    let (mut group, log) = Group::builder().postgres(true).heartbeat("1s").written().lay_with_log();
    group.server().start();
    let mut second = federation::joins(&mut group, "srv2.test");
    second.start();
    assert_eq!(group.sql::<String>("SELECT holder FROM lease"), ["srv1.test"]);
    let gateway = Between::of(&mut group, 0, (hostile::listen(&second), "srv2.test"));
    group.agent(0).start();
    let (mut it, _) = Withholding::meet(&mut group, gateway);
    it.pass_heartbeats(&group, 2);

    // The second server hears the agent; the first is the one that tells.
    log.say("one");
    it.overtake(&group, 4, 0);
    let named = second.wait_event(EVENTS[0]);
    assert!(named.text.ends_with("on its way: gw1.test"), "{}", named.text);
    let alerts = open(&group, "wardline/withheld");
    assert_eq!(alerts.len(), 1);

    // The agent comes to the first, by the same gateway, and nothing has come for that.
    drop(it);
    let gateway = Between::new(&mut group);
    let (mut it, _) = Withholding::meet(&mut group, gateway);
    it.overtake(&group, 6, 0);
    assert_eq!((open(&group, "wardline/withheld"), said(&mut group, 0)), (alerts, [0; 4]), "it is said once");
    assert!(group.all_texts().is_empty());

    // By the real gateway all comes, and that is said, once.
    drop(it);
    group.gateway(0).start();
    group.wait_texts(&["one"]);
    group.server().wait_event(EVENTS[1]);
    assert_eq!((open(&group, "wardline/withheld").len(), said(&mut group, 0)), (0, [0, 1, 0, 0]));
    let told = second.events().into_iter().filter(|event| EVENTS[..2].contains(&event.number)).count();
    assert_eq!((told, group.sql::<i64>("SELECT count(*) FROM withheld")), (1, vec![0]));
}

#[test]
fn what_was_missing_of_a_wiped_queue_is_not_said_to_have_come() {
    let (mut group, log) = Group::builder().heartbeat("1s").written().lay_with_log();
    let (mut it, _) = Withholding::begin(&mut group);
    it.pass_heartbeats(&group, 2);
    log.say("one");
    it.overtake(&group, 4, 0);
    group.server().wait_event(EVENTS[0]);

    // A server that is started anew knows it still.
    drop(it);
    group.agent(0).stop();
    group.server().restart();
    assert_eq!(open(&group, "wardline/withheld").len(), 1);

    for file in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        let _ = fs::remove_file(group.agent(0).state().join(file));
    }
    group.gateway(0).start();
    group.agent(0).start();
    let ended = group.server().wait_event(ENDED);
    assert!(ended.text.ends_with("its stream stood at 0 and goes on in a new epoch"), "{}", ended.text);
    wait::until("its alert is closed", LIMIT, || open(&group, "wardline/withheld").is_empty().then_some(()));
    let come = group.server().events().into_iter().filter(|event| event.number == EVENTS[1]).count();
    assert_eq!(come, 0);
}
