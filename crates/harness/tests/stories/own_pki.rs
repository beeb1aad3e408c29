//! Channel certificates from a company's own PKI, made by the commands of docs/operations/own-pki.md as they stand there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use wardline_harness::asking::Asking;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Peer, Speech};
use wardline_harness::pki::Credential;
use wardline_harness::program::{fails, succeeds};
use wardline_harness::{Daemon, program, wait};
use wardline_proto::Kind;
use wardline_proto::frame::Message;

const LIMIT: Duration = Duration::from_secs(20);

/// The folder that the page names.
const PLACE: &str = "/etc/wardline/pki";
/// What the page has issued.
const NAMES: &str = "subjectAltName=DNS:NAME,URI:urn:wardline:ROLE";
const USAGES: &str = "extendedKeyUsage=serverAuth,clientAuth";

/// A section of the page.
#[track_caller]
fn section(heading: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations/own-pki.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The commands of a section: its lines that are indented, outside of fences.
fn commands(heading: &str) -> String {
    let section = section(heading);
    let outside = section.split("```").step_by(2).collect::<String>();
    outside.lines().filter_map(|line| line.strip_prefix("    ")).collect::<Vec<_>>().join("\n")
}

/// What the page adds to a file in TOML.
fn block(heading: &str) -> String {
    let section = section(heading);
    let toml = section.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    toml.lines().map(|line| format!("{}\n", line.trim_start())).collect()
}

/// A company with a CA, in a folder, and the folder in which hosts find their certificates.
struct Company {
    folder: PathBuf,
    place: PathBuf,
}

impl Company {
    fn new(within: &Path, name: &str) -> Self {
        let (folder, place) = (within.join(name), within.join("pki"));
        [&folder, &place].into_iter().for_each(|path| fs::create_dir_all(path).unwrap());
        let company = Self { folder, place };
        company.shell(&commands("The CA"));
        company
    }

    /// Runs commands as the page has them, but for the folder.
    #[track_caller]
    fn shell(&self, commands: &str) -> String {
        let commands = commands.replace(PLACE, &self.place.display().to_string());
        let mut shell = Command::new("sh");
        shell.args(["-euc", &commands]).current_dir(&self.folder).env_clear().env("PATH", "/usr/bin:/bin");
        succeeds(&shell.output().unwrap())
    }

    /// The commands of a section for this host.
    #[track_caller]
    fn page(&self, heading: &str, name: &str, role: &str) -> String {
        let commands = commands(heading).replace("NAME=web1.example", &format!("NAME={name}"));
        self.shell(&commands.replace("ROLE=agent", &format!("ROLE={role}")))
    }

    /// A key, a request and a certificate of a host, as the page makes them.
    fn issue(&self, name: &str, role: &str) {
        self.page("A key and a request", name, role);
        let shown = self.page("The certificate", name, role);
        assert!(shown.contains(&format!("DNS:{name}, URI:urn:wardline:{role}")), "{shown}");
    }

    /// A certificate of a host that says other things than the page's, for the key that is there.
    fn issue_with(&self, name: &str, extensions: &str, more: &str) {
        fs::write(self.folder.join("other.ext"), extensions).unwrap();
        let by = "-CA ca.pem -CAkey ca.key -extfile other.ext";
        self.shell(&format!("openssl x509 -req -in {name}.csr {by} -out {name}.pem {more}"));
    }

    /// A certificate that is valid between these times.
    fn issue_between(&self, name: &str, extensions: &str, from: &str, to: &str) {
        fs::write(self.folder.join("other.ext"), extensions).unwrap();
        let sections = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n";
        let policy = "unique_subject=no\npolicy=p\n[p]\ncommonName=supplied\n";
        fs::write(self.folder.join("ca.cnf"), format!("{sections}{policy}")).unwrap();
        let times = format!(
            "-startdate \"$(date -u -d '{from}' +%Y%m%d%H%M%SZ)\" -enddate \"$(date -u -d '{to}' +%Y%m%d%H%M%SZ)\""
        );
        let ca = "openssl ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -extfile other.ext";
        self.shell(&format!("touch index; {ca} -in {name}.csr -out {name}.pem {times}"));
    }

    /// Puts the pair of a host in place, as the page does.
    fn put(&self, name: &str) {
        self.page("In place", name, "");
    }

    fn placed(&self, file: &str) -> String {
        self.place.join(file).display().to_string()
    }

    /// SHA-256 of the certificate that lies in place.
    fn fingerprint(&self, name: &str) -> String {
        let path = self.placed(&format!("{name}.pem"));
        let shown = self.shell(&format!("openssl x509 -in {path} -noout -fingerprint -sha256"));
        shown.trim().split('=').nth(1).unwrap().replace(':', "").to_lowercase()
    }

    /// What the page adds to the server's configuration.
    fn server_block(&self) -> String {
        block("The server").replace(PLACE, &self.place.display().to_string()).replace("srv1.example", "srv1.test")
    }

    /// Changes a host over, as the page says.
    fn change_over(&self, daemon: &mut Daemon) {
        let block = block("From the built-in CA to your own").replace(PLACE, &self.place.display().to_string());
        let path = daemon.state().join("membership.toml");
        let old = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{old}\n{}", block.replace("web1.example", daemon.name()))).unwrap();
        daemon.restart();
    }
}

/// The extensions of a good certificate.
fn good(name: &str, role: &str) -> String {
    format!("{}\n{USAGES}\n", NAMES.replace("NAME", name).replace("ROLE", role))
}

#[test]
fn own_pki_replaces_the_built_in_ca() {
    let (mut group, log) = Group::builder().tapped().lay_with_log();
    group.start();
    group.agent(0).wait_event(40005);
    let company = Company::new(group.folder(), "company");
    for (name, role) in [("srv1.test", "server"), ("gw1.test", "gateway"), ("agent1.test", "agent")] {
        company.issue(name, role);
        company.put(name);
    }
    fs::copy(company.folder.join("ca.pem"), company.placed("ca.pem")).unwrap();

    // The server is changed over; hosts go on with what the built-in CA has issued to them.
    let mark = group.agent(0).mark();
    group.server().configure(&company.server_block());
    group.server().restart();
    let taken = group.server().wait_event(40099);
    assert!(taken.text.contains("CN=Example Channel CA,O=Example"), "{}", taken.text);
    group.agent(0).wait_event_since(mark, 40005);
    let shown = group.done(&["keys", "log", "show"]);
    assert!(shown.contains("channel certificates come from CN=Example Channel CA,O=Example"), "{shown}");

    // Then the hosts are.
    for name in ["gw1.test", "agent1.test"] {
        let daemon = if name == "gw1.test" { group.gateway(0) } else { group.agent(0) };
        company.change_over(daemon);
        wait::until("it has registered its certificate", LIMIT, || {
            (daemon.events().iter().filter(|event| event.number == 20053).count() == 2).then_some(())
        });
    }
    ["gw1.test", "agent1.test"].into_iter().for_each(|name| group.tap(name).cut());
    let issued = ["agent1.test", "gw1.test", "srv1.test"].map(|name| company.fingerprint(name));
    wait::until("every end shows what the company has issued", LIMIT, || {
        group.certificates(2).iter().all(|shown| issued.contains(shown)).then_some(())
    });
    log.say("a line");
    group.wait_texts(&["a line"]);

    // A new host joins by the page's command, behind the gateway. Without a certificate it does not.
    let token = group.token(&["--role", "agent", "--name", "late.test", "--via", "gw1.test"]);
    let (mut late, by) = (group.newcomer("late.test"), group.gateway(0).parent());
    fails(&late.join(&by, &token), "the company's own PKI here");
    company.issue("late.test", "agent");
    company.put("late.test");
    let agent = format!("{} join --config {}", program::find("wardline-agent").display(), late.config().display());
    let join = commands("A host that joins").replace("wardline-agent join", &agent);
    let join = join.replace("--token-file token", &format!("--token-file {}", token.display()));
    company.shell(&join.replace("gw1.example", &by).replace("web1.example", "late.test"));
    late.start();
    late.wait_event(40005);
    // To OpenSSL, too, what was made for the company's CA leads from its certificate to the root.
    let state = late.state().display().to_string();
    let verify = "openssl verify -CAfile root.pem -untrusted channel.pem channel.pem";
    assert!(company.shell(&format!("cd {state}; {verify}")).contains("channel.pem: OK"));

    // A certificate in the name of a member makes nobody that member: the log binds the name to its identity key.
    let (token, thief) =
        (group.token(&["--role", "agent", "--name", "late.test", "--via", "gw1.test"]), group.newcomer("late.test"));
    let old = company.fingerprint("late.test");
    company.issue("late.test", "agent");
    let [certificate, key] = ["pem", "key"].map(|end| company.folder.join(format!("late.test.{end}")));
    let own = ["--certificate", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    fails(&thief.join_with(&by, &token, &own), "another host has this name");
    // Nor does it open a session, where that member may come.
    company.issue("gw1.test", "gateway");
    let issued_to_thief = |end: &str| fs::read_to_string(company.folder.join(format!("gw1.test.{end}"))).unwrap();
    let theirs = Credential::read(late.state(), "channel");
    let (_, cross) = theirs.chain.split_once("-----END CERTIFICATE-----\n").unwrap();
    let stolen = Credential { chain: issued_to_thief("pem") + cross, key: issued_to_thief("key") };
    let (mark, listen) = (group.server().mark(), hostile::listen(group.server()));
    let mut peer = Peer::dial(listen, Some(&stolen), &Speech::good()).unwrap();
    let bound = peer.bound("gateway gw1.test", "server srv1.test");
    peer.say(Message::own(Kind::Bound, bound));
    peer.wait_closed();
    let refused = group.server().wait_event_since(mark, 20000);
    assert!(refused.text.contains(&peer.address().to_string()), "{}", refused.text);
    assert!(refused.text.contains("not issued to this member"), "{}", refused.text);

    // A new certificate is used as soon as it lies there: one that misses a need is not.
    let (mark, pid) = (group.agent(0).mark(), group.agent(0).pid());
    company.page("A key and a request", "agent1.test", "agent");
    company.issue_with("agent1.test", &good("agent1.test", "agent").replace("serverAuth,", ""), "");
    company.put("agent1.test");
    wait::until("what it misses is said", LIMIT, || {
        let mut refused = group.agent(0).events_since(mark).into_iter().filter(|event| event.number == 40098);
        refused.any(|event| event.text.contains("serverAuth and clientAuth")).then_some(())
    });
    let (well, shown) = group.agent(0).doctor(None);
    let line = shown.lines().find(|line| line.contains("the certificate of the company's PKI")).unwrap_or_default();
    assert!(!well && line.contains("agent1.test.pem is not the one in use, and does not fit"), "{shown}");
    company.page("A key and a request", "agent1.test", "agent");
    // So short that it ends soon, and that is said.
    company.issue_between("agent1.test", &good("agent1.test", "agent"), "3 hours ago", "1 hour");
    company.put("agent1.test");
    group.agent(0).wait_event_since(mark, 20053);
    let ends = group.agent(0).wait_event_since(mark, 40097);
    assert!(ends.text.contains(&company.placed("agent1.test.pem")), "{}", ends.text);
    let now = company.fingerprint("agent1.test");
    assert!(!issued.contains(&now) && old != now);
    // It begins before what leads from the company's CA to the root does; that is nothing wrong.
    let (well, shown) = group.agent(0).doctor(None);
    assert!(well && shown.contains("agent1.test.pem, is the one in use"), "{shown}");
    group.tap("agent1.test").cut();
    wait::until("the gateway sees the new one", LIMIT, || group.certificates(3).contains(&now).then_some(()));

    // So is the server's own.
    let mark = group.server().mark();
    company.issue("srv1.test", "server");
    company.put("srv1.test");
    group.server().wait_event_since(mark, 20053);
    let now = company.fingerprint("srv1.test");
    group.tap("gw1.test").cut();
    wait::until("the gateway sees the server's", LIMIT, || group.certificates(3).contains(&now).then_some(()));
    log.say("another");
    group.wait_texts(&["a line", "another"]);
    assert_eq!(group.agent(0).pid(), pid);
}

#[test]
fn a_certificate_of_own_pki_that_misses_a_need_is_refused_and_nothing_is_used_up() {
    let mut group = Group::builder().gateways(0).agents(0).lay();
    let company = Company::new(group.folder(), "company");
    let other = Company::new(group.folder(), "other");
    let ca = company.placed("ca.pem");
    let copy = |from: &str, to: &str| fs::copy(company.folder.join(from), to).unwrap();
    group.server().configure(&company.server_block());
    let (server, root_key) = ("srv1.test", group.server().state().join("root.key"));

    // The server names what it misses, and does not start.
    let ends = |group: &mut Group, number: u32, words: &str| {
        group.server().spawn();
        assert!(!group.server().wait_exit().success(), "{number} {words}");
        let event = group.server().wait_event(number);
        assert!(event.text.contains(words), "{words}: {}", event.text);
    };
    company.issue(server, "server");
    let kept = ["key", "pem"].map(|end| fs::read(company.folder.join(format!("{server}.{end}"))).unwrap());
    ends(&mut group, 40096, &ca);
    copy("srv1.test.pem", &ca);
    ends(&mut group, 40096, "it is no CA's");
    fs::write(
        &ca,
        [fs::read(company.folder.join("ca.pem")).unwrap(), fs::read(company.folder.join("company.pem")).unwrap()]
            .concat(),
    )
    .unwrap();
    ends(&mut group, 40096, "it holds 2 certificates");
    copy("ca.key", &ca);
    ends(&mut group, 40096, "no certificate in PEM");
    copy("ca.pem", &ca);
    fs::rename(&root_key, company.placed("root.key")).unwrap();
    ends(&mut group, 40096, "root.key");
    fs::rename(company.placed("root.key"), &root_key).unwrap();
    ends(&mut group, 20066, "srv1.test.pem");
    let both = good(server, "server");
    for (extensions, number, words) in [
        (both.replace(&NAMES.replace("NAME", server).replace("ROLE", "server"), ""), 20052, "no subject alternative"),
        (both.replace("DNS:", "DNS:db1.test,DNS:"), 20052, "one DNS name"),
        (both.replace(server, "srv2.test"), 20052, "srv2.test"),
        (both.replace("wardline:server", "wardline:agent"), 20052, "agent srv1.test"),
        (both.replace("serverAuth,", ""), 20050, "client authentication"),
    ] {
        company.page("A key and a request", server, "server");
        company.issue_with(server, &extensions, "");
        company.put(server);
        ends(&mut group, number, words);
    }
    company.page("A key and a request", server, "server");
    company.issue_between(server, &both, "2 days ago", "1 day ago");
    company.put(server);
    ends(&mut group, 20051, "srv1.test.pem");
    other.issue(server, "server");
    other.put(server);
    ends(&mut group, 40095, "does not lead to the group's root");
    // The control.
    fs::write(company.placed("srv1.test.key"), &kept[0]).unwrap();
    ends(&mut group, 20068, "it does not belong to the certificate");
    fs::write(company.placed("srv1.test.pem"), &kept[1]).unwrap();
    group.server().start();

    // The server tells a host what it misses. The token is good for one, and stays good.
    let (name, by) = ("web1.test", group.server().parent());
    let token = group.token(&["--role", "agent", "--name", name]);
    let host = group.newcomer(name);
    let [certificate, key] =
        ["pem", "key"].map(|end| company.folder.join(format!("{name}.{end}")).display().to_string());
    let join = || host.join_with(&by, &token, &["--certificate", &certificate, "--key", &key]);
    let refused = |words: &str| {
        fails(&join(), words);
        let left = |path: &Path| fs::read_dir(path).into_iter().flatten().count();
        assert_eq!(left(host.state().parent().unwrap()), 3, "{words}: the lock and the machine's keys are left");
    };
    let all = good(name, "agent");
    company.page("A key and a request", name, "agent");
    for (extensions, words) in [
        (format!("{USAGES}\n"), "not this host's DNS name and its role's URI"),
        (all.replace("DNS:", "DNS:db1.test,DNS:"), "not this host's DNS name and its role's URI"),
        (all.replace(name, "web2.test"), "not this host's DNS name and its role's URI"),
        (all.replace("wardline:agent", "wardline:gateway"), "not this host's DNS name and its role's URI"),
        (all.replace("wardline:agent", "wardline:duty"), "not this host's DNS name and its role's URI"),
        (all.replace("serverAuth,", ""), "serverAuth and clientAuth and nothing else"),
        (all.replace("serverAuth,", "serverAuth,codeSigning,"), "serverAuth and clientAuth and nothing else"),
        (all.replace(USAGES, ""), "serverAuth and clientAuth and nothing else"),
        (format!("{all}basicConstraints=CA:TRUE\n"), "was not issued by the CA"),
    ] {
        company.issue_with(name, &extensions, "");
        refused(words);
    }
    company.issue_between(name, &all, "2 days ago", "1 day ago");
    refused("is not valid now");
    company.issue_between(name, &all, "1 day", "2 days");
    refused("is not valid now");
    other.issue(name, "agent");
    for end in ["pem", "key"] {
        fs::copy(other.folder.join(format!("{name}.{end}")), company.folder.join(format!("{name}.{end}"))).unwrap();
    }
    refused("was not issued by the CA");
    // Keys of other kinds, and one that is not the certificate's.
    for kind in ["-algorithm RSA -pkeyopt rsa_keygen_bits:2048", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"] {
        company.shell(&format!("umask 077; openssl genpkey {kind} -out {key}"));
        company.shell(&format!("openssl req -new -key {key} -subj /CN={name} -out {name}.csr"));
        company.issue_with(name, &all, "");
        refused("PKCS#8 private key on P-256");
    }
    company.page("A key and a request", name, "agent");
    refused("it does not belong to the certificate");

    // The control: the right one is let in, by the same token.
    company.page("The certificate", name, "agent");
    succeeds(&join());
    let used = group.sql::<i64>("SELECT used FROM token");
    assert_eq!(used, [1]);
    let mut host = host;
    host.start();
    host.wait_event(40005);

    // By code a host is told, too, and before an operator has to look at it.
    let refused = {
        let late = group.newcomer("late.test");
        Asking::host(&late, &by).ended()
    };
    assert!(!refused.0.success() && refused.1.contains("the company's own PKI here"), "{}", refused.1);

    // Another CA of the company, with an RSA key: certificates of the one before stay good.
    for end in ["pem", "key"] {
        copy(&format!("company.{end}"), &company.folder.join(format!("ca.{end}")).display().to_string());
    }
    company.issue(server, "server");
    company.put(server);
    copy("ca.pem", &ca);
    let mark = host.mark();
    group.server().restart();
    let taken = group.server().wait_event(40099);
    assert!(taken.text.contains("CN=Example Root"), "{}", taken.text);
    host.wait_event_since(mark, 40005);
    let mut late = group.newcomer("late.test");
    company.issue("late.test", "agent");
    company.put("late.test");
    let [certificate, key] = ["pem", "key"].map(|end| company.placed(&format!("late.test.{end}")));
    let pin = group.authority().pin();
    let arguments = ["--parent", &by, "--pin", &pin, "--certificate", &certificate, "--key", &key];
    let mut asking = Asking::new("wardline-agent", &late.config(), &arguments);
    group.done(&["agent", "approve", "late.test", &asking.code()]);
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    late.start();
    late.wait_event(40005);
}
