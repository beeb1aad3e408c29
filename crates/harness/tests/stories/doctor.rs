//! The doctor walks from the files of a host to its server, and names what is wrong and what to do.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Peer, Rogue, Speech};
use wardline_harness::keyed::{self, principal};
use wardline_harness::pki::Leaf;
use wardline_harness::port::Port;
use wardline_harness::realm::{AES, Old, RC4, Realm};
use wardline_harness::{Daemon, private, wait};
use wardline_proto::join::{Answered, Down, Proof, Refusal, STANDING, Said, Standing, Stands, Up, Why};
use wardline_proto::message::{Context, decode, encode};
use wardline_proto::{ALPN_JOIN, GroupId, Role};
use wardline_secrets::signature::{SigningKey, random, sha256};

/// What a host that does not run keeps, put back when this ends.
struct Kept(Vec<(PathBuf, Vec<u8>)>);

impl Kept {
    fn of(folder: &Path) -> Self {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file());
        Self(files.map(|path| (path.clone(), fs::read(&path).unwrap())).collect())
    }

    fn put_back(&self) {
        for (path, bytes) in &self.0 {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// Gives a host another parent.
fn lead(host: &Daemon, name: &str, address: &str) {
    let path = host.state().join("membership.toml");
    let mut membership: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    let parent = toml::Table::from_iter([("name".into(), name.into()), ("address".into(), address.into())]);
    membership["parents"] = vec![parent].into();
    fs::write(path, toml::to_string(&membership).unwrap()).unwrap();
}

/// Says back what it is told.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's process.
    thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = tcp.read(&mut bytes) {
                    if tcp.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// The doctor finds something wrong: the line of it has these words, and one with what to do follows.
#[track_caller]
fn names(host: &Daemon, clock: Option<&str>, words: &[&str]) -> String {
    let (well, shown) = host.doctor(clock);
    let lines: Vec<_> = shown.lines().collect();
    let named = lines.windows(2).any(|pair| {
        pair[0].starts_with('\u{2717}')
            && words.iter().all(|word| pair[0].contains(word))
            && pair[1].starts_with("  next: ")
    });
    assert!(!well && named, "{words:?}:\n{shown}");
    shown
}

#[test]
fn doctor_names_what_is_wrong_and_what_to_do() {
    let mut group = Group::builder().start();
    hear(group.agent(0));
    // The control: beside the running program, whose session stays the one that it was.
    let (sessions, mark) = (sessions(&group), group.agent(0).mark());
    for daemon in ["agent", "gateway"] {
        let host = if daemon == "agent" { group.agent(0) } else { group.gateway(0) };
        let (well, shown) = host.doctor(None);
        assert!(well && !shown.contains('\u{2717}'), "{shown}");
        assert!(shown.contains("is a member, with this identity key"), "{shown}");
    }
    assert_eq!(self::sessions(&group), sessions);
    assert_eq!(group.agent(0).events_since(mark), []);
    group.agent(0).stop();
    let (well, shown) = group.agent(0).doctor(None);
    assert!(well && shown.contains("the configuration is the due one"), "{shown}");

    // The clock is named as that, and no certificate is.
    for (offset, side) in [("+365d", "ahead of"), ("-365d", "behind")] {
        // 31,536,000 s, or one less for the time between the two looks.
        let shown = names(group.agent(0), Some(offset), &["the clock: this host's is 3153", side, "srv1.test"]);
        assert_eq!(shown.matches('\u{2717}').count(), 1, "{shown}");
    }

    // What is on disk.
    let folder = group.agent(0).state().to_owned();
    let kept = Kept::of(&folder);
    let mut other = Group::builder().gateways(0).agents(0).start();
    let id = GroupId(group.id().into_bytes());
    let (_, key) = SigningKey::generate(id).unwrap();
    fs::set_permissions(folder.join("channel.key"), fs::Permissions::from_mode(0o644)).unwrap();
    names(group.agent(0), None, &["private files", "channel.key", "its mode is 0644"]);
    kept.put_back();
    fs::write(folder.join("channel.key"), key.as_bytes()).unwrap();
    names(group.agent(0), None, &["channel.key", "it does not belong to the certificate"]);
    kept.put_back();
    let to = SystemTime::now() - Duration::from_secs(60);
    let ended = group.authority().issue(&Leaf { to, ..Leaf::channel("agent1.test", Role::Agent) });
    ended.write(&folder, "channel");
    names(group.agent(0), None, &["validity", "by the server's clock it has ended"]);
    kept.put_back();
    fs::write(folder.join("identity.key"), key.as_bytes()).unwrap();
    names(group.agent(0), None, &["approval", "no member of the group has this name and identity key"]);
    kept.put_back();

    // The configuration.
    let pack = group.write_pack("other", "[pack]\nname = \"other\"\n").display().to_string();
    let output = group.wardline(&["pack", "apply", &pack]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    names(group.agent(0), None, &["the configuration", "is here,", "is due"]);

    // The way.
    let gateway = hostile::listen(group.gateway(0));
    let server = hostile::listen(group.server());
    let nobody = Port::reserve();
    let tls = Rogue::new(group.authority().channel("gw1.test", Role::Gateway), Speech::alpn(&[b"h2"]));
    let foreign = hostile::listen(other.server());
    for (name, address, words) in [
        ("gw1.test", "nowhere.invalid:5723".to_owned(), &["the name resolves"][..]),
        ("gw1.test", nobody.address().to_string(), &["TCP connects to", "refused"]),
        ("gw1.test", echo().to_string(), &["the port speaks Wardline's TLS"]),
        ("gw1.test", tls.address().to_string(), &["the port speaks Wardline's TLS"]),
        ("gw1.test", foreign.to_string(), &["the server behind it", "another group"]),
        ("gw9.test", gateway.to_string(), &["the parent's certificate", "gw1.test", "gw9.test"]),
        ("srv1.test", server.to_string(), &["the way", "by gw1.test, not by srv1.test"]),
    ] {
        lead(group.agent(0), name, &address);
        names(group.agent(0), None, words);
        kept.put_back();
    }
    group.server().stop();
    names(group.agent(0), None, &["the server behind it", "whether it reaches its own parent"]);
    group.server().start();

    // Who is somebody else learns nothing: neither of a member, nor whether there is one.
    let stranger = SigningKey::generate(id).unwrap().0;
    let own = SigningKey::from_pem(&private::read(&folder.join("identity.key")), id).unwrap();
    for (named, signs, name, why) in [
        (&stranger, &stranger, "agent1.test", Why::NotMember),
        (&stranger, &stranger, "nobody.test", Why::NotMember),
        (&own, &stranger, "agent1.test", Why::Signature),
    ] {
        assert_eq!(standing(server, named, signs, name).unwrap_err(), why);
    }
    assert_eq!(standing(server, &own, &own, "agent1.test").unwrap().gateways, ["gw1.test"]);

    let output = group.wardline(&["agent", "remove", "agent1.test"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    names(group.agent(0), None, &["approval", "this host was removed"]);
    assert_eq!(standing(server, &own, &own, "agent1.test").unwrap_err(), Why::KeyRemoved);
}

/// An agent without a certificate behind a gateway, all of them with keytabs of this realm.
fn keyed(realm: &Realm) -> Group {
    let mut group = Group::builder().lay();
    keyed::lay(&mut group, realm, "kerberos", "kerberos", (1, 1));
    for file in ["channel.pem", "channel.key"] {
        fs::remove_file(group.agent(0).state().join(file)).unwrap();
    }
    group.start();
    hear(group.agent(0));
    group
}

/// The agent has heard all that there is to hear at the beginning.
fn hear(agent: &Daemon) {
    for number in [40005, 1210, 40006] {
        agent.wait_event(number);
    }
}

/// All is well, and these words are shown.
#[track_caller]
fn well(host: &Daemon, words: &[&str]) {
    let (well, shown) = host.doctor(None);
    assert!(well && words.iter().all(|word| shown.contains(word)), "{words:?}:\n{shown}");
}

#[test]
fn doctor_names_what_is_wrong_with_a_keytab_or_a_kdc() {
    let mut realm = Realm::weak("NORTH.TEST");
    realm.configure("kdc_timesync = 0");
    let mut group = keyed(&realm);
    let [own, gateway] = ["agent1.test", "gw1.test"].map(|host| principal(host, &realm));
    // The control: beside the running program, of a host without a certificate.
    let mark = group.agent(0).mark();
    let dials = format!("this host dials as {own}, with version 1 of {}", AES[0]);
    let ticket = format!("the KDC's ticket for {gateway} is of version 1 of {}", AES[0]);
    let knows = format!("the group knows this host as {own}");
    let takes = format!("it takes this host by Kerberos, as {own}");
    well(group.agent(0), &[&dials, "the library is /usr/lib", &ticket, &takes, &knows, "none is needed"]);
    assert_eq!(group.agent(0).events_since(mark), []);
    let newest = format!("who comes has tickets of version 1 of {}, which the keytab has", AES[0]);
    well(group.gateway(0), &[&newest, "it takes this host by Kerberos", "the channel certificate is valid"]);
    group.agent(0).stop();

    // The keytab.
    let keytab = keyed::keytab(group.agent(0));
    let kept = Kept::of(keytab.parent().unwrap());
    let at = format!("this host dials as {own}");
    fs::remove_file(&keytab).unwrap();
    names(group.agent(0), None, &[&at, "No such file"]);
    fs::write(&keytab, "").unwrap();
    fs::set_permissions(&keytab, fs::Permissions::from_mode(0o600)).unwrap();
    names(group.agent(0), None, &[&at, "it is empty"]);
    fs::remove_file(&keytab).unwrap();
    realm.principal("host/other.test");
    realm.keytab(&keytab, &["host/other.test"]);
    names(group.agent(0), None, &[&at, "it has no key of", "it has host/other.test@NORTH.TEST"]);
    fs::remove_file(&keytab).unwrap();
    realm.rotate_to(&own, &[RC4], Old::Gone);
    realm.keytab(&keytab, &[&own]);
    names(group.agent(0), None, &[&at, "are of arcfour-hmac; only AES is taken"]);
    realm.rotate_to(&own, AES, Old::Gone);
    kept.put_back();
    names(group.agent(0), None, &["the KDC's ticket", "write the keytab anew"]);
    fs::remove_file(&keytab).unwrap();
    realm.keytab(&keytab, &[&own]);
    fs::set_permissions(&keytab, fs::Permissions::from_mode(0o604)).unwrap();
    names(group.agent(0), None, &["krb5.keytab", "others may use it"]);
    fs::set_permissions(&keytab, fs::Permissions::from_mode(0o600)).unwrap();
    let kept = Kept::of(keytab.parent().unwrap());
    well(group.agent(0), &[&ticket, &takes]);

    // The library, and how it is configured.
    keyed::say(group.agent(0), "library", "/nowhere/libgssapi_krb5.so.2");
    names(group.agent(0), None, &["Kerberos", "there is none at /nowhere/libgssapi_krb5.so.2"]);
    kept.put_back();
    keyed::say(group.agent(0), "krb5_conf", "/nowhere/krb5.conf");
    names(group.agent(0), None, &["Kerberos: /nowhere/krb5.conf", "No such file"]);
    kept.put_back();

    // The KDC. However it is with that, the doctor comes to its end.
    realm.stop();
    names(group.agent(0), None, &["the KDC's ticket", "the KDC is away"]);
    realm.resume();
    realm.hang();
    let begin = Instant::now();
    let shown = names(group.agent(0), None, &["the KDC's ticket", "no answer within 10 s"]);
    assert!(begin.elapsed() < Duration::from_secs(40) && shown.contains("is a member"), "{shown}");
    realm.wake();
    realm.clock(Some("+600s"));
    names(group.agent(0), None, &["the KDC's ticket", "set the clocks"]);
    realm.clock(None);
    // Of one for whom there are no tickets, MIT's KDC says that it is not there.
    for (disabled, words) in
        [(&own, "gives this principal no tickets"), (&gateway, "the KDC does not know that principal")]
    {
        realm.disable(disabled);
        names(group.agent(0), None, &["the KDC's ticket", words]);
        realm.enable(disabled);
    }
    let server = hostile::listen(group.gateway(0)).to_string();
    let membership = Kept::of(group.agent(0).state());
    lead(group.agent(0), "gw9.test", &server);
    names(group.agent(0), None, &["the KDC's ticket for host/gw9.test", "the KDC does not know that principal"]);
    membership.put_back();
    realm.principal("GONE$");
    realm.keytab(&keytab, &["GONE$"]);
    realm.admin(&["delprinc -force GONE$".into()]);
    keyed::say(group.agent(0), "principal", "GONE$@NORTH.TEST");
    names(group.agent(0), None, &["the KDC's ticket", "the KDC does not know this host's principal"]);
    kept.put_back();
    well(group.agent(0), &[&ticket, &takes]);
}

#[test]
fn doctor_names_why_a_parent_does_not_take_kerberos() {
    let (mut north, mut south) = (Realm::start("NORTH.TEST"), Realm::start("SOUTH.TEST"));
    north.trusts(&mut south);
    let mut group = Group::builder().lay();
    keyed::lay(&mut group, &north, "kerberos", "kerberos", (1, 1));
    let own = principal("agent1.test", &north);
    group.start();
    group.agent(0).wait_event(21025);
    group.agent(0).stop();
    well(group.agent(0), &["it takes this host by Kerberos"]);

    // Which principal the group knows.
    group.done(&["agent", "principal", "agent1.test", "none"]);
    names(group.agent(0), None, &["the principal", &format!("it dials as {own}"), "none"]);
    group.done(&["agent", "principal", "agent1.test", &own]);

    // The gateway's key is another by now; both say so.
    let gateway = principal("gw1.test", &north);
    let keytab = keyed::keytab(group.gateway(0));
    north.rotate(&gateway, Old::Gone);
    let not_taken = ["it takes this host by Kerberos", "it does not take this host's ticket"];
    names(group.agent(0), None, &not_taken);
    names(group.gateway(0), None, &["the keys of host/gw1.test", "write the keytab anew"]);
    // It says which, where the gateway dials as another.
    let kept = Kept::of(keytab.parent().unwrap());
    north.principal("GW1$");
    north.keytab(&keytab, &["GW1$"]);
    keyed::say(group.gateway(0), "principal", "GW1$@NORTH.TEST");
    names(group.gateway(0), None, &["the keys of host/gw1.test", "tickets of version 2", "does not have"]);
    kept.put_back();
    north.keytab(&keytab, &[&gateway]);
    well(group.gateway(0), &["tickets of version 2", "which the keytab has"]);

    // A server with the database says the same of itself, and dials nobody.
    let server = principal("srv1.test", &north);
    let rule = [("realms", vec!["NORTH.TEST"]), ("names", vec!["*.test"])];
    let rule = rule.map(|(key, value)| (key.to_owned(), value.into()));
    group.server().set("join_by_kerberos", vec![rule.into_iter().collect::<toml::Table>()]);
    names(group.server(), None, &["vouches for the group as MSOMHSvc/test@NORTH.TEST", "it has no key of"]);
    group.server().set("join_by_kerberos", Vec::<toml::Table>::new());
    well(group.server(), &[&format!("is asked for as {server}, with version 1"), "tickets of version 1", "is private"]);
    north.rotate(&server, Old::Gone);
    names(group.server(), None, &["the keys of host/srv1.test", "write the keytab anew"]);
    north.keytab(&keyed::keytab(group.server()), &[&server]);
    well(group.server(), &["tickets of version 2"]);

    // Where certificates will do, Kerberos is what somebody should know about and no more.
    keyed::reach(group.agent(0), "either");
    let agents = keyed::keytab(group.agent(0));
    let away = agents.with_extension("away");
    fs::rename(&agents, &away).unwrap();
    well(
        group.agent(0),
        &[&format!("! Kerberos: this host dials as {own}"), "the parent's certificate is of the group"],
    );
    group.gateway(0).stop();
    for file in ["channel.pem", "channel.key"] {
        fs::remove_file(group.gateway(0).state().join(file)).unwrap();
    }
    group.gateway(0).start();
    names(group.agent(0), None, &["the way", "it shows no certificate, and there is no ticket"]);
    fs::rename(&away, &agents).unwrap();
    well(group.agent(0), &["it shows none that is good now; Kerberos is the way", "it takes this host by Kerberos"]);

    // A realm that is not listed there.
    keyed::key(group.agent(0), &south);
    group.agent(0).change_membership(|membership| {
        let parent = membership["parents"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        parent.insert("realm".into(), "NORTH.TEST".into());
    });
    let mark = group.gateway(0).mark();
    names(group.agent(0), None, &not_taken);
    let refused = group.gateway(0).wait_event_since(mark, 40211);
    assert!(refused.text.contains("its realm is not listed"), "{}", refused.text);
    keyed::configure(group.gateway(0), &north, &["SOUTH.TEST"]);
    group.gateway(0).restart();
    group.done(&["agent", "principal", "agent1.test", &principal("agent1.test", &south)]);
    well(group.agent(0), &["it takes this host by Kerberos, as host/agent1.test@SOUTH.TEST"]);

    // A parent that takes none.
    let server = hostile::listen(group.server()).to_string();
    group.done(&["agent", "assign", "agent1.test"]);
    group.server().stop();
    let text = fs::read_to_string(group.server().config()).unwrap();
    let mut file: toml::Table = text.parse().unwrap();
    file.remove("kerberos").unwrap();
    fs::write(group.server().config(), file.to_string()).unwrap();
    group.server().start();
    keyed::configure(group.agent(0), &north, &[]);
    lead(group.agent(0), "srv1.test", &server);
    keyed::reach(group.agent(0), "kerberos");
    names(group.agent(0), None, &["it takes this host by Kerberos", "it takes no Kerberos at all"]);
}

/// The ids of both hops, which are those of their sessions.
fn sessions(group: &Group) -> Vec<String> {
    wait::until("both hops are measured", Duration::from_secs(20), || {
        let topology: Value = serde_json::from_slice(&group.wardline(&["-o", "json", "topology"]).stdout).ok()?;
        let hops = topology["hops"].as_array()?.iter().filter(|hop| hop["agree"] == true);
        let mut ids: Vec<_> = hops.map(|hop| hop["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        (ids.len() == 2).then_some(ids)
    })
}

/// Asks a server how a member stands that has this identity key, and signs with another or the same.
fn standing(server: SocketAddr, named: &SigningKey, signs: &SigningKey, name: &str) -> Result<Stands, Why> {
    let public = named.public().unwrap();
    let question = encode(&Standing {
        name: name.into(),
        role: "agent".into(),
        identity: public.spki().into(),
        certificate: vec![0; 32].into(),
        nonce: Bytes::copy_from_slice(&random()),
    });
    let mut peer = Peer::dial(server, None, &Speech::alpn(&[ALPN_JOIN])).unwrap();
    peer.tell(&encode(&Up { said: Some(Said::Standing(question.clone())) }));
    let answered = |bytes: Option<Bytes>| decode::<Down>(&bytes.unwrap()).unwrap().answered.unwrap();
    let Answered::Challenge(challenge) = answered(peer.told()) else { panic!("there is no challenge") };
    let transcript = sha256(&[STANDING, &question, &challenge.payload]);
    let proof = Proof { identity: signs.sign(Context::Join, &transcript.0), ..Proof::default() };
    let about = sha256(&[&transcript.0, &proof.identity]);
    peer.tell(&encode(&Up { said: Some(Said::Proof(proof)) }));
    match answered(peer.told()) {
        Answered::Stands(signed) => Ok(decode(&signed.payload).unwrap()),
        Answered::Refused(signed) => {
            let refusal: Refusal = decode(&signed.payload).unwrap();
            assert_eq!(refusal.transcript, about.to_wire(), "it is of these signatures");
            Err(refusal.why())
        }
        other => panic!("{other:?}"),
    }
}
