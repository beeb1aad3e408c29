//! A database on a server of its own: who it is, how it is let in, and what becomes of the group when it fails.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};
use wardline_harness::asking::Asking;
use wardline_harness::group::{Group, sql};
use wardline_harness::ids::Log;
use wardline_harness::log::pack;
use wardline_harness::pki::Service;
use wardline_harness::program::{said, succeeds};
use wardline_harness::tap::{Tap, Way};
use wardline_harness::{Postgres, scratch, wait};

use crate::load_kills::{assert_each_line_once, stored, wait_for_the_last_line};
use crate::rolled_back::accept;

const LIMIT: Duration = Duration::from_secs(60);
const LOG_SEED: u64 = 17;

/// Starts the server, which does not come up; the reason of its event.
#[track_caller]
fn refused(group: &mut Group, number: u32) -> String {
    let mark = group.server().mark();
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    group.server().wait_event_since(mark, number).text
}

#[test]
fn a_database_server_that_cannot_prove_who_it_is_gets_nothing() {
    let mut group = Group::builder().agents(1).postgres(true).lay();
    let (url, ca, password) = (group.postgres().url(&[]), group.postgres().ca(), group.postgres().password_file());
    let set = |group: &mut Group, url: &str, login: &[(&str, &std::path::Path)]| {
        let login = login.iter().map(|(key, path)| ((*key).to_owned(), path.to_str().unwrap().into()));
        group.server().set("database", url);
        group.server().set("postgres", toml::Value::Table(login.collect()));
    };

    // One that asks for the password as it is gets it only when it has proved who it is: before that, not even a name.
    let impostor = Impostor::start();
    let (ca_of_it, port) = (group.folder().join("impostor.pem"), impostor.address.port());
    scratch::write(&ca_of_it, &impostor.service.authority, 0o644);
    let at = |host: &str| format!("postgres://wardline@{host}:{port}/wardline");
    for (dials, (host, authority)) in [("localhost", &ca), ("127.0.0.1", &ca_of_it)].into_iter().enumerate() {
        set(&mut group, &at(host), &[("ca", authority), ("password_file", &password)]);
        let reason = refused(&mut group, 40023);
        assert_eq!(impostor.heard(), (dials + 1, Vec::new()), "{reason}");
        assert!(reason.contains("invalid peer certificate: "), "{reason}");
    }
    set(&mut group, &at("localhost"), &[("ca", &ca_of_it), ("password_file", &password)]);
    refused(&mut group, 40023);
    let secret = std::fs::read(&password).unwrap();
    wait::until("the control: the password has come", LIMIT, || {
        let (_, heard) = impostor.heard();
        heard.windows(secret.len()).any(|window| window == secret).then_some(())
    });

    // The real one: its certificate is under another CA, or for another name.
    let other = group.folder().join("other.pem");
    scratch::write(&other, Service::new("localhost").authority, 0o644);
    set(&mut group, &url, &[("ca", &other), ("password_file", &password)]);
    let reason = refused(&mut group, 40023);
    assert!(reason.contains("invalid peer certificate: ") && reason.contains("localhost"), "{reason}");
    set(&mut group, &url.replace("localhost", "127.0.0.1"), &[("ca", &ca), ("password_file", &password)]);
    let reason = refused(&mut group, 40023);
    assert!(reason.contains("not valid for name \"127.0.0.1\""), "{reason}");

    // It takes nobody in the clear, and neither do we: one that has no TLS is not spoken to.
    set(&mut group, &url, &[("ca", &ca), ("password_file", &password)]);
    group.postgres().restart(&["ssl=off"]);
    let reason = refused(&mut group, 40023);
    assert!(reason.contains("server does not support TLS"), "{reason}");
    group.postgres().restart(&[]);

    // Who comes with a wrong password is told so, and is not let in.
    let wrong = group.folder().join("wrong");
    scratch::write(&wrong, "guessed", 0o600);
    set(&mut group, &url, &[("ca", &ca), ("password_file", &wrong)]);
    assert!(refused(&mut group, 40023).contains("password authentication failed for user \"wardline\""));

    // What cannot be meant is refused before anything is dialled.
    for (url, login, says) in [
        (url.as_str(), vec![("password_file", &password)], "has to prove who it is"),
        (&url.replace("wardline@", "wardline:secret@"), vec![("ca", &ca)], "no password belongs into the address"),
        (url.strip_suffix("/wardline").unwrap(), vec![("ca", &ca)], "`postgres://USER@HOST/DATABASE` is expected"),
        (&format!("{url}?sslmode=disable&colour=red"), vec![("ca", &ca)], "colour"),
    ] {
        let login: Vec<_> = login.into_iter().map(|(key, path)| (key, path.as_path())).collect();
        set(&mut group, url, &login);
        let reason = refused(&mut group, 40001);
        assert!(reason.contains(says) && !reason.contains("secret@"), "{reason}");
    }

    // The good one: the server comes up, by TLS 1.3, as who it should be.
    set(&mut group, &url, &[("ca", &ca), ("password_file", &password)]);
    group.start();
    group.agent(0).wait_event(40005);
    let sessions = "SELECT DISTINCT version || ' ' || usename FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                    WHERE application_name = 'wardline-server'";
    assert_eq!(group.sql::<String>(sessions), ["TLSv1.3 wardline"]);
    group.done(&["status"]);
}

/// Who listens where a database server should, asks for the password as it is, and keeps all that it is told.
struct Impostor {
    service: Service,
    address: SocketAddr,
    heard: Arc<Mutex<(usize, Vec<u8>)>>,
}

impl Impostor {
    /// It ends with the test's process.
    fn start() -> Self {
        let (service, listener) = (Service::new("localhost"), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<(usize, Vec<u8>)>>::default());
        let (tls, told) = (service.tls(), Arc::clone(&heard));
        thread::spawn(move || {
            for stream in listener.incoming() {
                // Who does not believe it hangs up.
                let _ = Self::converse(stream.unwrap(), &tls, &told);
            }
        });
        Self { service, address, heard }
    }

    fn converse(mut stream: TcpStream, tls: &Arc<ServerConfig>, told: &Mutex<(usize, Vec<u8>)>) -> std::io::Result<()> {
        let mut request = [0; 8];
        stream.read_exact(&mut request)?;
        told.lock().unwrap().0 += 1;
        stream.write_all(b"S")?;
        let mut connection = ServerConnection::new(Arc::clone(tls)).unwrap();
        let mut private = rustls::Stream::new(&mut connection, &mut stream);
        let hear = |private: &mut rustls::Stream<'_, ServerConnection, TcpStream>, length: usize| {
            let mut bytes = vec![0; length];
            private.read_exact(&mut bytes).map(|()| {
                told.lock().unwrap().1.extend_from_slice(&bytes);
                bytes
            })
        };
        let length = |bytes: &[u8]| u32::from_be_bytes(bytes[bytes.len() - 4..].try_into().unwrap()) as usize - 4;
        let startup = hear(&mut private, 4)?;
        hear(&mut private, length(&startup))?;
        // AuthenticationCleartextPassword.
        private.write_all(b"R\0\0\0\x08\0\0\0\x03")?;
        private.flush()?;
        let answer = hear(&mut private, 5)?;
        hear(&mut private, length(&answer)).map(drop)
    }

    /// How often it was dialled, and what it was told once TLS stood.
    fn heard(&self) -> (usize, Vec<u8>) {
        self.heard.lock().unwrap().clone()
    }
}

#[test]
fn an_act_whose_answer_is_lost_behind_its_commit_was_done_and_is_done_once() {
    const NAME: &str = "late.test";
    let mut group = Group::builder().gateways(0).agents(0).postgres(true).lay();
    let (tap, url) = (Tap::to(group.postgres().address()), group.postgres().url(&[]));
    let port = |address: SocketAddr| format!(":{}/", address.port());
    let url = url.replace(&port(group.postgres().address()), &port(tap.address()));
    group.server().set("database", url);
    group.start();
    // A COMMIT of what makes a member waits as long as somebody else has a table.
    for sql in [
        "CREATE TABLE held (x BIGINT)",
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM set_config('lock_timeout', '0', true); LOCK TABLE held IN EXCLUSIVE MODE; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON member DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION hold()",
    ] {
        group.postgres().admin("wardline", sql);
    }
    let mut host = group.newcomer(NAME);
    let mut asking = Asking::host(&host, &group.server().parent());
    let code = asking.code();

    let (mark, held) = (group.server().mark(), group.postgres().lock("held"));
    let mut approving = group.command(&["-o", "json", "agent", "approve", NAME, &code]);
    let mut approving = approving.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%COMMIT'
                 AND application_name = 'wardline-server'";
    wait::until("its COMMIT waits", LIMIT, || (group.sql::<i64>(waits) == [1]).then_some(()));
    tap.hold(Way::Down, true);
    drop(held);
    let members = format!("SELECT count(*) FROM member WHERE name = '{NAME}'");
    wait::until("it is done", LIMIT, || (group.sql::<i64>(&members) == [1]).then_some(()));
    // The control: nobody has heard of it, and by what is there now the same act would be refused.
    assert!(approving.try_wait().unwrap().is_none());
    tap.cut();
    tap.hold(Way::Down, false);

    let output = approving.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let approved: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    group.server().wait_event_since(mark, 40020);
    group.server().wait_event_since(mark, 40021);
    assert_eq!(group.wardline(&["agent", "approve", NAME, &code]).status.code(), Some(0), "it shows the code again");
    asking.wait_shown("type the confirmation code");
    asking.types(approved["confirmation"].as_str().unwrap());
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    host.start();
    host.wait_event(40005);
    let log = group.done(&["keys", "log", "show"]);
    assert_eq!(log.lines().filter(|line| line.contains(&format!("agent {NAME}, key"))).count(), 1, "{log}");
}

/// A group whose database has a standby, that the server knows of, and a log that two agents follow.
fn followed(synchronous: bool) -> (Group, Postgres, Log) {
    let mut group = Group::builder().agents(2).postgres(true).pack("base", "").lay();
    let standby = group.postgres().standby(synchronous);
    let url = group.postgres().url(&[&standby]);
    group.server().set("database", url);
    let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
    group.write_pack("base", &pack("base", log.path()));
    log.append(1000);
    group.start();
    (group, standby, log)
}

#[test]
fn a_postgres_failover_loses_nothing() {
    let (mut group, standby, mut log) = followed(true);
    wait::until("some lines are stored", LIMIT, || (stored(&group) > 1000).then_some(()));

    // The first one goes while it waits for the standby: what is not durable there is acknowledged to nobody.
    let mark = group.server().mark();
    let before = stored(&group);
    log.append(20_000);
    wait::until("more lines are stored", LIMIT, || (stored(&group) > before + 1000).then_some(()));
    standby.cut_off();
    log.append(1000);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait::until("a commit waits for the standby", LIMIT, || (group.sql::<i64>(waits) == [1]).then_some(()));
    let acknowledged: Vec<i64> = group.sql("SELECT number FROM stream ORDER BY agent");
    // It comes back once, and shows what waited as if that were done. Nobody is told so.
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'wardline-server'
                    AND wait_event = 'SyncRep' AND query LIKE '%pg_logical_emit_message%'";
    group.postgres().restart(&[]);
    wait::until("the server waits for the standby before it reads", LIMIT, || {
        (group.sql::<i64>(sessions)[0] >= 1).then_some(())
    });
    for (agent, durable) in standby.sql::<i64>("SELECT number FROM stream ORDER BY agent").into_iter().enumerate() {
        let queue = group.agent(agent).state().join("queue.db");
        assert!(sql::<i64>(&queue, "SELECT number FROM stream")[0] <= durable, "agent {agent} was told more");
    }
    group.postgres().kill9();
    group.server().wait_event_since(mark, 40020);
    standby.promote();
    let mut old = group.take_over(standby);
    group.server().wait_event_since(mark, 40021);
    // What the first one had said to be committed is in the second one too.
    let now: Vec<i64> = group.sql("SELECT number FROM stream ORDER BY agent");
    assert!(now.iter().zip(&acknowledged).all(|(now, before)| now >= before), "{now:?}, {acknowledged:?}");
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 2);
    assert_each_line_once(&group, &log, &["agent1.test", "agent2.test"]);

    // The control: the old one, put back, lacks what came since, and would be seen to.
    old.run();
    let texts = "SELECT count(*) FROM event";
    assert!(old.sql::<i64>(texts)[0] < group.sql::<i64>(texts)[0]);
}

#[test]
fn an_asynchronous_standby_that_takes_over_says_what_is_missing() {
    let (mut group, standby, mut log) = followed(false);
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 2);
    let have = stored(&group);
    let count = "SELECT count(*) FROM event";
    wait::until("the standby has them", LIMIT, || (standby.sql::<i64>(count) == [have as i64]).then_some(()));

    // From here on it hears nothing, and the first one goes on alone: what it commits is acknowledged, and thrown away.
    standby.cut_off();
    let gone = log.append(3000).start;
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 2);
    assert_each_line_once(&group, &log, &["agent1.test", "agent2.test"]);
    let marks = [0, 1].map(|agent| group.agent(agent).mark());
    let mark = group.server().mark();
    group.postgres().kill9();
    standby.promote();
    // Its files are still read: the password, the CA.
    let _first = group.take_over(standby);
    log.append(100);
    group.server().wait_event_since(mark, 40021);
    for (agent, mark) in marks.into_iter().enumerate() {
        group.agent(agent).wait_event_since(mark, 40016);
    }
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 2);

    for agent in ["agent1.test", "agent2.test"] {
        let tally = log.tally(group.event_texts(agent));
        assert!(tally.doubled.is_empty() && tally.invented.is_empty(), "{agent}: {tally}");
        let shown = group.json(&["gap", "list", "--agent", agent]);
        let [gap] = shown.as_array().unwrap().as_slice() else { panic!("one gap: {shown}") };
        assert_eq!(gap["reason"], "lost-by-restore", "{shown}");
        let number = |field: &str| gap[field].as_u64().unwrap();
        // Each line is a number of the stream.
        let counted: Vec<_> = (number("first") - 1..number("last")).collect();
        assert!(tally.lost == counted && counted.first() == Some(&gone), "{agent}: {tally}, {gap}");
    }

    // What was decided about trust after that is not there any more: nothing is built on a log with a hole.
    let standby = group.postgres().standby(false);
    let url = group.postgres().url(&[&standby]);
    group.server().set("database", url);
    group.server().restart();
    standby.cut_off();
    group.token(&["--role", "agent", "--name", "late.test"]);
    let mark = group.server().mark();
    group.postgres().kill9();
    standby.promote();
    let _second = group.take_over(standby);
    let mut asking = group.command(&["token", "create", "--role", "agent", "--name", "later.test"]);
    let mut asking = asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let said = group.server().wait_event_since(mark, 40065);
    assert!(said.text.contains("exchanged or put back while the server ran"), "{said:?}");
    asking.kill().unwrap();
    asking.wait().unwrap();
    group.server().kill9();
    assert!(refused(&mut group, 40065).contains("head"));
    succeeds(&accept(&mut group, &["--yes"]));
    group.server().start();
    group.token(&["--role", "agent", "--name", "later.test"]);
}
