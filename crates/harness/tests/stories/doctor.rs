//! The doctor walks from the files of a host to its server, and names what is wrong and what to do.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Peer, Rogue, Speech};
use wardline_harness::pki::Leaf;
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
    group.agent(0).wait_event(40005);
    group.agent(0).wait_event(21025);
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
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tls = Rogue::new(group.authority().channel("gw1.test", Role::Gateway), Speech::alpn(&[b"h2"]));
    let foreign = hostile::listen(other.server());
    for (name, address, words) in [
        ("gw1.test", "nowhere.invalid:5723".to_owned(), &["the name resolves"][..]),
        ("gw1.test", nobody.to_string(), &["TCP connects to", "refused"]),
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
