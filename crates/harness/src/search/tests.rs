use std::io::{BufRead as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use wardline_proto::{GroupId, Role};
use wardline_secrets::account::Secret;
use wardline_secrets::authority::Validity;
use wardline_secrets::sealing::{SealingCertificate, SealingKey};
use wardline_secrets::secure_data::{Header, Purpose, seal};

use super::*;
use crate::Scratch;

const SECRET: &[u8] = b"tr0ub4dor & \"3\"/\xc3\xa9 plus";

fn search() -> Search {
    Search::of("password", SECRET)
}

fn compressed(content: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(content).unwrap();
    zlib.write_all(content).unwrap();
    let zstd = zstd::encode_all(content, 19).unwrap();
    [("gzip", gzip.finish().unwrap()), ("zlib", zlib.finish().unwrap()), ("zstd", zstd)]
}

/// A text that has the secret's pieces before it, so that LZ4 writes it by matches, not as it stands.
fn pieces() -> Vec<u8> {
    let (first, second) = SECRET.split_at(9);
    let mut text = [b"lore ipsum ", first, b"..", second, b" dolor sit amet, "].concat();
    text.extend_from_slice(SECRET);
    text.extend_from_slice(b" consectetur");
    text
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    base64ct::Base64::encode_string(bytes).into_bytes()
}

/// Everything that must be found, by the encoding that must be named.
fn planted() -> Vec<(&'static str, Vec<u8>)> {
    let text = std::str::from_utf8(SECRET).unwrap();
    let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    let url_some: String = SECRET
        .iter()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let url_all: String = SECRET.iter().map(|byte| format!("%{byte:02x}")).collect();
    let encoded = base64(&[b"user:", SECRET, b"!"].concat());
    let wrapped = encoded.chunks(16).collect::<Vec<_>>().join(&b"\r\n"[..]);
    let mut all = vec![
        ("plain", SECRET.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("hex", hex.to_uppercase().into_bytes()),
        ("decimal", format!("{SECRET:?}").into_bytes()),
        ("utf-16le", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("utf-16be", text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("json", serde_json::to_vec(&serde_json::json!({ "password": text })).unwrap()),
        ("xml", b"<p>tr0ub4dor &amp; &quot;3&quot;/\xc3\xa9 plus</p>".to_vec()),
        ("form", b"p=tr0ub4dor+&+\"3\"/\xc3\xa9+plus".to_vec()),
        ("url: plain", url_some.clone().into_bytes()),
        ("url: plain", url_all.into_bytes()),
        ("url: form", url_some.replace("%20", "+").into_bytes()),
        ("joined: base64", wrapped),
        ("base64url", base64ct::Base64Url::encode_string(&[b"\xff".as_slice(), SECRET].concat()).into_bytes()),
        ("lz4: plain", lz4_flex::block::compress(&pieces())),
    ];
    for before in 0..6 {
        all.push(("base64", base64(&[&b"abcdef"[..before], SECRET, b"and more"].concat())));
    }
    for (kind, stream) in compressed(&[&pieces()[..], hex.as_bytes()].concat()) {
        let (plain, inner): (&'static str, &'static str) = match kind {
            "gzip" => ("gzip: plain", "gzip: hex"),
            "zlib" => ("zlib: plain", "zlib: hex"),
            _ => ("zstd: plain", "zstd: hex"),
        };
        all.extend([(plain, stream.clone()), (inner, stream)]);
    }
    let [(_, gzip), ..] = compressed(SECRET);
    all.push(("zstd: gzip: plain", zstd::encode_all(&[b"in it: ", &gzip[..]].concat()[..], 19).unwrap()));
    all
}

/// Bytes in which nothing is to be found, that look like some of everything.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = crate::random::Random::new(seed);
    let mut noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    noise.extend_from_slice(b"\x1f\x8b\x08\0 \x28\xb5\x2f\xfd \x78\x9c %41 dG13cA==\r\n");
    noise
}

#[test]
fn each_encoding_is_found_with_anything_around_it_and_nothing_else_is() {
    for (number, (encoding, bytes)) in planted().into_iter().enumerate() {
        let (before, after) = (noise(number as u64, 5000 + number), noise(number as u64 + 100, 3000));
        let mut report = Report::default();
        search().bytes("noise", &[&before[..], &after].concat(), &mut report);
        report.finds_nothing();
        search().bytes("here", &[&before[..], &bytes, &after].concat(), &mut report);
        assert!(report.encodings().contains(encoding), "{encoding}: {:?}", report.encodings());
        assert_eq!(report.findings[0].needle, "password");
    }
}

#[test]
fn what_was_cut_off_is_undone_as_far_as_it_goes() {
    for (kind, stream) in compressed(&[&pieces()[..], &noise(1, 4000)].concat()) {
        let mut report = Report::default();
        search().bytes(kind, &stream[..stream.len() - 1000], &mut report);
        // A block of zstd comes whole or not at all.
        assert!(kind == "zstd" || report.encodings().contains(format!("{kind}: plain").as_str()), "{kind}");
    }
}

#[test]
fn another_secret_is_not_this_one() {
    let other = Search::of("other", b"correct horse").and("third", b"battery staple");
    let mut report = Report::default();
    for (encoding, bytes) in planted() {
        other.bytes(encoding, &bytes, &mut report);
    }
    report.finds_nothing();
    other.bytes("both", b"battery staple, correct horse", &mut report);
    let names: Vec<_> = report.findings.iter().map(|finding| finding.needle.as_str()).collect();
    assert_eq!(names, ["other", "third"]);
}

#[test]
fn files_are_searched_whatever_they_are_called_and_how_long_they_are() {
    let scratch = Scratch::new();
    let deep = scratch.path().join(".hidden/deeper");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("clean"), noise(1, 10_000)).unwrap();
    std::os::unix::fs::symlink("/proc", scratch.path().join("link")).unwrap();
    search().files(&[scratch.path()]).finds_nothing();
    for (number, (encoding, bytes)) in planted().into_iter().enumerate() {
        fs::write(deep.join(number.to_string()), bytes).unwrap();
        let report = search().files(&[scratch.path()]);
        assert!(report.encodings().contains(encoding), "{encoding}");
        fs::remove_file(deep.join(number.to_string())).unwrap();
    }
    // Across the place where a long file is divided, and as a name.
    let mut long = vec![0; CHUNK - 3];
    long.extend_from_slice(SECRET);
    fs::write(deep.join("long"), &long).unwrap();
    let report = search().files(&[scratch.path()]);
    assert_eq!((report.places, report.bytes), (2, (noise(1, 10_000).len() + long.len()) as u64));
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert_eq!(report.findings[0].offset, (CHUNK - 3) as u64);
    fs::remove_file(deep.join("long")).unwrap();
    fs::write(deep.join("name-of-a-file"), "x").unwrap();
    Search::of("name", b"name-of-a-file").files(&[scratch.path()]).finds_it();
}

/// A program that keeps what it was told last in its memory.
struct Keeper {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Keeper {
    fn start() -> Self {
        let mut command = Command::new("cat");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).unwrap();
        // Once all of it came back, all of it was there.
        let mut back = vec![0; bytes.len()];
        self.output.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_memory_of_a_process_is_searched_all_of_it_and_each_encoding_is_found_there() {
    let mut keeper = Keeper::start();
    let pid = keeper.child.id();
    keeper.keep(b"ready");
    search().memory(pid).finds_nothing();
    let planted: Vec<_> =
        planted().into_iter().flat_map(|(encoding, bytes)| [(encoding, bytes), ("", noise(7, 50))]).collect();
    keeper.keep(&planted.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>());
    let report = search().memory(pid);
    for (encoding, _) in planted.iter().filter(|(encoding, _)| !encoding.is_empty()) {
        assert!(report.encodings().contains(encoding), "{encoding}: {:?}", report.encodings());
    }
    // It runs on, and forgets what it is told to forget.
    keeper.keep(&[b'.'; 60_000]);
    search().memory(pid).finds_nothing();
}

#[test]
fn the_helper_of_an_ordinary_user_reads_the_same() {
    let mut keeper = Keeper::start();
    keeper.keep(SECRET);
    let output = Command::new(crate::program::own("memory")).arg(keeper.child.id().to_string()).output().unwrap();
    assert!(output.status.success(), "{}", crate::program::said(&output));
    let image = Image::parse(&output.stdout).unwrap();
    image.is_whole();
    assert!(image.resident > 0 && image.runs.iter().any(|(_, run)| memmem::find(run, SECRET).is_some()));
}

#[test]
fn arguments_and_environment_are_searched() {
    let text = "correct horse battery";
    for (argument, variable) in [("x", text), (text, "x")] {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r line", "sh", argument]).env("KEPT", variable).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let report = Search::of("password", text.as_bytes()).memory(child.id());
        assert!(report.findings.iter().any(|finding| finding.place.starts_with("/proc/")), "{:?}", report.findings);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_memory_that_could_not_be_read_whole_is_no_clean_one() {
    let mut image = Image { runs: vec![(8, vec![1, 2, 3]), (4096, vec![4])], read: 4096, resident: 4096 };
    image.is_whole();
    let mut written = Vec::new();
    image.write(&mut written).unwrap();
    assert_eq!(Image::parse(&written).unwrap(), image);
    image.read -= 1;
    assert!(std::panic::catch_unwind(|| image.is_whole()).is_err());
    assert!(std::panic::catch_unwind(|| Image::of(u32::MAX >> 1)).is_err(), "there is no such process");
    assert!(std::panic::catch_unwind(|| Report::default().finds_nothing()).is_err(), "nothing was looked at");
    assert!(std::panic::catch_unwind(|| Report::default().finds_it()).is_err());
}

/// Opens, seals again and drops a secret that it was told sealed, a step for each line.
fn opens_seals_and_forgets(folder: &Path) {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let (name, now) = ("web1.test".parse().unwrap(), 1_900_000_000);
    let key = SealingKey::load(&read("key"), &read("certificate"), &name, Role::Agent).unwrap();
    let certificate = SealingCertificate::read(&read("certificate"), &name, Role::Agent, now).unwrap();
    let step = |said: &str| {
        println!("{said}");
        io::stdin().read_line(&mut String::new()).unwrap();
    };
    step("not yet");
    let secret = key.open(&read("sealed")).and_then(|opened| opened.expect(&header())).unwrap();
    let secret = Secret::from_bytes(secret).unwrap();
    assert_eq!(secret.field("user"), Some(&b"monitor"[..]));
    let sealed = seal(&certificate, &header(), secret.as_bytes()).unwrap();
    // Opened, and not what was expected; and one that was changed.
    let other = Header { version: 2, ..header() };
    assert!(key.open(&sealed).unwrap().expect(&other).is_err());
    let (last, rest) = sealed.split_last().unwrap();
    assert!(key.open(&[rest, &[last ^ 1]].concat()).is_err());
    step("open");
    drop(secret);
    step("gone");
}

fn header() -> Header {
    let recipient = "web1.test".parse().unwrap();
    Header { group: GroupId([1; 16]), recipient, account: [2; 16], version: 1, purpose: Purpose::RunAs }
}

#[test]
fn what_was_opened_and_sealed_leaves_no_copy_once_it_is_dropped() {
    // It is also the process that it searches.
    if let Some(folder) = std::env::var_os("FOLDER") {
        return opens_seals_and_forgets(Path::new(&folder));
    }
    let (scratch, name) = (Scratch::in_memory(), "web1.test".parse().unwrap());
    let validity = Validity::lasting(1_900_000_000, 3600);
    let (key, pem) = SealingKey::generate(&name, Role::Agent, validity).unwrap();
    // A new one: what stands here would stand in the other process's program.
    let password = base64(&wardline_secrets::signature::random());
    let secret = Secret::basic(b"monitor", &password).unwrap();
    let sealed = seal(key.certificate(), &header(), secret.as_bytes()).unwrap();
    for (name, bytes) in [("key", pem.as_bytes()), ("certificate", key.certificate().der()), ("sealed", &sealed)] {
        fs::write(scratch.path().join(name), bytes).unwrap();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let this = "search::tests::what_was_opened_and_sealed_leaves_no_copy_once_it_is_dropped";
    command.args([this, "--exact", "--nocapture"]);
    command.env("FOLDER", scratch.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut lines = io::BufReader::new(output).lines().map_while(Result::ok);
    let search = Search::of("password", &password);
    let mut looked = |said: &str| {
        assert!(lines.any(|line| line.ends_with(said)), "{said}");
        let report = search.memory(child.id());
        input.write_all(b"\n").unwrap();
        report
    };
    looked("not yet").finds_nothing();
    let open = looked("open");
    let places: BTreeSet<_> = open.findings.iter().filter(|f| f.encoding == "plain").map(|f| &f.place).collect();
    assert_eq!(places.len(), 1, "one copy: {:?}", open.findings);
    looked("gone").finds_nothing();
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_a_tap_recorded_is_searched_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tap = Tap::to(listener.local_addr().unwrap());
    let mut client = TcpStream::connect(tap.address()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let pass = |from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]| {
        from.write_all(bytes).unwrap();
        to.read_exact(&mut vec![0; bytes.len()]).unwrap();
    };
    pass(&mut client, &mut server, b"nothing to see");
    search().tap("wire", &tap).finds_nothing();
    pass(&mut client, &mut server, SECRET);
    pass(&mut server, &mut client, &base64(SECRET));
    let report = search().tap("wire", &tap);
    let places: Vec<_> = report.findings.iter().map(|f| (f.place.as_str(), f.encoding.as_str())).collect();
    assert_eq!(places, [("wire, Up", "plain"), ("wire, Down", "base64")]);
}
