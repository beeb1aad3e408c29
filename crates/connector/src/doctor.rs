//! The command that looks at everything between a host and its groups' servers, one line for each step: what is on disk,
//! the way to each parent, the clock, and what the server knows of this host. It takes no lock and opens no session in
//! the host's name, so that it can be used beside the running program.
//!
//! ```text
//!   files -> keys -> for each parent: name, TCP, TLS, certificate, server, clock, validity, approval, configuration
//!              |                           or: ticket, name, TCP, TLS, its answer, server, clock, approval, configuration
//!              +-- Kerberos: keytab, library
//! ```

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use wardline_proto::configuration::{Configuration, LIMIT};
use wardline_proto::event::Event;
use wardline_proto::join::{Stands, Why};
use wardline_proto::message::Digest;
use wardline_proto::principal::of_group;
use wardline_proto::{Name, Role};
use wardline_secrets::certificate::{Fault, Identity};
use wardline_secrets::private;
use wardline_secrets::protect::Vault;
use wardline_secrets::signature::{SigningKey, sha256};
use wardline_secrets::tls;
use wardline_secrets::trust::Root;

use crate::config::{IDENTITY, Mechanism, Membership, Parent, date, signing_key};
use crate::configuration::DOCUMENT;
use crate::handshake::{HandshakeError, connect, tls_error};
use crate::held::Held;
use crate::join::{self, Cause, Known, Proved, standing};
use crate::kerberos::{Kerberos, Settings, environment};
use crate::own_pki::OwnPair;
use crate::{home, now_ms};

mod kerberos;

/// How far the clocks of a host and its server may be apart, seconds.
const CLOCKS: u64 = 60;
/// How long one look at the network may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// What a step found: that all is well, or what is wrong and what to do next.
#[derive(Debug)]
pub enum Found {
    /// All is well.
    Well(String),
    /// It works, and somebody should know.
    Note(String),
    /// Something is wrong.
    Wrong {
        /// What was looked at.
        step: String,
        /// What is wrong with it.
        cause: String,
        /// What to do.
        next: String,
    },
}

/// What was found, in order.
#[derive(Debug, Default)]
struct Walk(Vec<Found>);

impl Walk {
    fn well(&mut self, step: impl Into<String>) {
        self.0.push(Found::Well(step.into()));
    }

    fn wrong(&mut self, step: impl Into<String>, cause: impl Into<String>, next: impl Into<String>) {
        self.0.push(Found::Wrong { step: step.into(), cause: cause.into(), next: next.into() });
    }

    /// Something is wrong, perhaps with what is not needed now.
    fn off(&mut self, needed: bool, step: impl Into<String>, cause: impl Into<String>, next: impl Into<String>) {
        match needed {
            true => self.wrong(step, cause, next),
            false => self.0.push(Found::Note(format!("{}: {}", step.into(), cause.into()))),
        }
    }

    /// Shows everything. Whether all is well.
    fn show(&self) -> bool {
        let mut out = std::io::stdout().lock();
        for found in &self.0 {
            // Where nothing can be shown, the exit code says it.
            let _ = match found {
                Found::Well(step) => writeln!(out, "\u{2713} {step}"),
                Found::Note(step) => writeln!(out, "! {step}"),
                Found::Wrong { step, cause, next } => writeln!(out, "\u{2717} {step}: {cause}\n  next: {next}"),
            };
        }
        !self.0.iter().any(|found| matches!(found, Found::Wrong { .. }))
    }
}

/// What a configuration file says that matters here.
#[derive(Debug)]
pub struct Configured {
    /// The host's name.
    pub name: Name,
    /// The state folder.
    pub state: PathBuf,
    /// The folder in memory.
    pub runtime: PathBuf,
    /// The groups.
    pub groups: Vec<Membership>,
    /// What is said of Kerberos.
    pub kerberos: Option<Settings>,
}

/// The command as a program runs it; `own` is what it has found out by itself, if its configuration can be read.
pub fn main(program: &'static str, role: Role, read: Result<Configured, Event>, own: Option<Found>) -> ExitCode {
    let mut walk = Walk::default();
    match read {
        Ok(Configured { name, state, runtime, groups, kerberos }) => {
            walk.well("the configuration file can be read");
            walk.0.extend(own);
            let doctor = Doctor::new(program, Identity { name, role }, kerberos, &runtime, &mut walk);
            doctor.groups(&state, groups, &mut walk);
        }
        Err(event) => walk.wrong("the configuration", event.text(), format!("correct it, then {program} doctor")),
    }
    if walk.show() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The command of a server with the database, which dials nobody: its files, those of its group in `own`, and what it needs
/// for those who come by Kerberos, or join by it to `group`. `groups` of the configuration is not looked at.
pub fn of_root(program: &'static str, configured: Configured, own: &Path, group: Option<&Name>) -> ExitCode {
    let (mut walk, Configured { name, state, runtime, kerberos, .. }) = (Walk::default(), configured);
    walk.well("the configuration file can be read");
    let doctor = Doctor::new(program, Identity { name, role: Role::Server }, kerberos, &runtime, &mut walk);
    folder(&state, "the state folder", &mut walk);
    folder(own, "the group's folder", &mut walk);
    if let Some(_vault) = doctor.protection(&state, &mut walk) {
        doctor.by_kerberos(std::iter::empty(), &mut walk);
        if let (Some(kerberos), Some(group)) = (&doctor.kerberos, group) {
            kerberos::group(kerberos, &of_group(group, kerberos.realm()), &mut walk);
        }
        if let Some(runtime) = asking("asking the KDC", &mut walk) {
            runtime.block_on(doctor.newest(&mut walk));
            runtime.shutdown_background();
        }
    }
    if walk.show() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What asks others. A resolver or a KDC that hangs must not hang the command: it is left behind.
fn asking(step: &str, walk: &mut Walk) -> Option<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| walk.wrong(step, error.to_string(), "try again")).ok()
}

/// Whose host it looks at.
struct Doctor {
    program: &'static str,
    own: Identity,
    kerberos: Option<Arc<Kerberos>>,
}

/// What was found on disk, and is needed to ask.
struct Kept {
    root: Root,
    identity: SigningKey,
    /// None of who comes by Kerberos alone.
    certificate: Option<Certificate>,
}

/// One parent, and by what it may be reached.
struct Hop<'a> {
    /// As it is shown.
    at: String,
    folder: &'a Path,
    parent: &'a Parent,
    kept: &'a Kept,
    /// By certificate, where it has one too.
    certificate: bool,
    /// Otherwise.
    kerberos: Option<&'a Arc<Kerberos>>,
}

/// The channel certificate on disk.
struct Certificate {
    /// Leaf first.
    chain: Vec<CertificateDer<'static>>,
    /// When all of the chain is valid, seconds since 1970.
    from: u64,
    to: u64,
}

impl Doctor {
    fn new(program: &'static str, own: Identity, kerberos: Option<Settings>, runtime: &Path, walk: &mut Walk) -> Self {
        if let Err(event) = environment(kerberos.as_ref()) {
            walk.wrong("Kerberos", event.text(), "try again");
        }
        let kerberos = kerberos.and_then(|settings| Kerberos::new(settings, &own.name, runtime));
        Self { program, own, kerberos }
    }

    fn groups(&self, state: &Path, configured: Vec<Membership>, walk: &mut Walk) {
        let how = if self.own.role == Role::Server { "" } else { " --parent NAME --token-file FILE" };
        let join = format!("to join a group: `{} join{how}`", self.program);
        match home::groups(configured, state) {
            Ok(groups) if groups.is_empty() => walk.wrong("the groups", "this host is part of none", join),
            Ok(groups) => {
                folder(state, "the state folder", walk);
                let Some(vault) = self.protection(state, walk) else { return };
                let known = groups.iter().filter_map(|found| Some((&*found.folder, found.membership.as_ref().ok()?)));
                self.by_kerberos(known, walk);
                for found in groups {
                    match &found.membership {
                        Ok(membership) => self.group(&vault, &found.folder, membership, walk),
                        Err(event) => walk.wrong(format!("{}: the group", found.name()), event.text(), "correct it"),
                    }
                }
            }
            Err(event) => walk.wrong("the groups", event.text(), "run it as the program's user; or join"),
        }
    }

    /// What Kerberos needs on this host, whatever the group.
    fn by_kerberos<'a>(&self, groups: impl Iterator<Item = (&'a Path, &'a Membership)>, walk: &mut Walk) {
        let (mut dials, mut needed) = (false, false);
        for (folder, membership) in groups {
            for parent in &membership.parents {
                let wanted = membership.mechanism_to(parent);
                dials |= wanted != Mechanism::Certificate;
                let may_be = wanted == Mechanism::Either && home::is_bare(folder, membership);
                needed |= wanted == Mechanism::Kerberos || may_be;
                if wanted == Mechanism::Kerberos && self.kerberos.is_none() {
                    let step = format!("{}: {parent}: Kerberos", membership.name);
                    walk.wrong(step, "[kerberos] is not in the configuration", "say there `realms`, and `keytab`");
                }
            }
        }
        if let Some(kerberos) = &self.kerberos {
            kerberos::here(kerberos, dials, needed, self.listens() && kerberos.accepts(), walk);
        }
    }

    /// Whether the keytab has what those who come by Kerberos are given tickets for.
    async fn newest(&self, walk: &mut Walk) {
        if let Some(kerberos) = self.kerberos.as_ref().filter(|kerberos| self.listens() && kerberos.accepts()) {
            kerberos::newest(kerberos, walk).await;
        }
    }

    /// Whether others report to this host.
    fn listens(&self) -> bool {
        self.own.role != Role::Agent
    }

    /// What protects the private files: named, and opened as the running program has it.
    fn protection(&self, state: &Path, walk: &mut Walk) -> Option<Vault> {
        let next = || format!("put it back from a backup of {}, or join anew; wardline explain 40130", state.display());
        let vault = match Vault::look(state) {
            Ok(vault) => vault,
            Err(error) => {
                walk.wrong("what protects the private files", error.to_string(), next());
                return None;
            }
        };
        walk.well(format!("private files are protected by: {}", vault.protector()));
        for path in vault.unusable() {
            walk.wrong(format!("the master key {}", path.display()), "it does not open", next());
        }
        Some(vault)
    }

    fn group(&self, vault: &Vault, path: &Path, membership: &Membership, walk: &mut Walk) {
        let group = &membership.name;
        folder(path, &format!("{group}: the folder and its private files"), walk);
        let Some(kept) = self.kept(vault, path, membership, walk) else { return };
        let Some(runtime) = asking(&format!("{group}: asking"), walk) else { return };
        let server_ms = self.ways(&runtime, path, membership, &kept, walk);
        runtime.shutdown_background();
        let Some(certificate) = &kept.certificate else { return };
        let clock =
            if server_ms.is_some() { "the server's clock" } else { "this host's clock; no server could be asked" };
        let now = server_ms.unwrap_or_else(now_ms) / 1000;
        self.validity(membership, certificate, now, clock, walk);
    }

    /// Every parent; the clock of the server behind the last that can be asked.
    fn ways(
        &self,
        runtime: &Runtime,
        folder: &Path,
        membership: &Membership,
        kept: &Kept,
        walk: &mut Walk,
    ) -> Option<u64> {
        runtime.block_on(self.newest(walk));
        let mut server_ms = None;
        for parent in &membership.parents {
            let hop = self.hop(folder, membership, parent, kept, walk);
            server_ms = runtime.block_on(self.parent(&hop, walk)).or(server_ms);
        }
        server_ms
    }

    /// By what a parent may be reached: see `Credential::ready`.
    fn hop<'a>(
        &'a self,
        folder: &'a Path,
        membership: &Membership,
        parent: &'a Parent,
        kept: &'a Kept,
        walk: &mut Walk,
    ) -> Hop<'a> {
        let (at, wanted) = (format!("{}: {parent}", membership.name), membership.mechanism_to(parent));
        let certificate = wanted != Mechanism::Kerberos && kept.certificate.is_some();
        let mut kerberos = self.kerberos.as_ref().filter(|_| wanted != Mechanism::Certificate);
        if wanted == Mechanism::Either && Held::open(folder).is_ok_and(|held| held.is(&parent.name)) {
            kerberos = None;
            let cause = "it has used a certificate, and is held to that";
            let next = "where it is to come by Kerberos: start once with `mechanism = \"kerberos\"` for it";
            walk.off(kept.certificate.is_none(), at.clone(), cause, next);
        }
        Hop { at, folder, parent, kept, certificate, kerberos }
    }

    /// What is on disk, each thing by itself, so that one fault does not hide the others.
    fn kept(&self, vault: &Vault, folder: &Path, membership: &Membership, walk: &mut Walk) -> Option<Kept> {
        let group = &membership.name;
        let restore = || format!("restore it from a backup, or join anew: `{} join`", self.program);
        let root = Root::load(&folder.join("root.pem"), membership.id, membership.pin);
        let root = match root {
            Ok(root) => {
                walk.well(format!("{group}: the root is the pinned one"));
                Some(root)
            }
            Err(error) => {
                walk.wrong(format!("{group}: root.pem"), error.to_string(), restore());
                None
            }
        };
        let identity = match signing_key(vault, &folder.join(IDENTITY), IDENTITY, membership.id) {
            Ok(key) => {
                let id = key.public().map(|public| public.id().to_string()).unwrap_or_default();
                walk.well(format!("{group}: the identity key is {id}"));
                Some(key)
            }
            Err(event) => {
                walk.wrong(format!("{group}: the identity key"), event.text(), restore());
                None
            }
        };
        let root = root?;
        let certified = |parent: &Parent| membership.mechanism_to(parent) == Mechanism::Certificate;
        let needs = self.kerberos.is_none() || membership.parents.iter().any(certified);
        if !needs && home::is_bare(folder, membership) {
            walk.well(format!("{group}: there is no channel certificate, and none is needed: it comes by Kerberos"));
            return Some(Kept { root, identity: identity?, certificate: None });
        }
        let certificate = match self.certificate(vault, folder, &root) {
            Ok(certificate) => {
                walk.well(format!("{group}: channel certificate and key fit each other, and are of {}", self.own));
                Some(certificate)
            }
            Err(cause) => {
                walk.wrong(format!("{group}: the channel certificate"), cause, restore());
                None
            }
        };
        let certificate = certificate?;
        if let Some(files) = &membership.own_pki {
            self.own_pki(group, files, &root, &certificate, walk);
        }
        Some(Kept { root, identity: identity?, certificate: Some(certificate) })
    }

    /// Whether what the company's PKI has laid down is what is in use.
    fn own_pki(&self, group: &Name, files: &OwnPair, root: &Root, current: &Certificate, walk: &mut Walk) {
        let path = files.certificate.display();
        let step = format!("{group}: the certificate of the company's PKI");
        let issue = "have the company's PKI issue what fits, and put both files in place";
        let leaf = match files.read(root.group()) {
            Ok(offered) => offered.leaf,
            Err(event) => return walk.wrong(step, event.text(), issue),
        };
        let in_use = current.chain.split_first();
        if in_use.is_some_and(|(used, _)| *used == leaf) {
            return walk.well(format!("{step}, {path}, is the one in use"));
        }
        let chain: Vec<_> =
            std::iter::once(leaf).chain(in_use.into_iter().flat_map(|(_, rest)| rest.to_vec())).collect();
        match self.fits(root, &chain) {
            Ok(_) => {
                let next = format!("start {}, if it does not run; event 40098 says why it is not taken", self.program);
                walk.wrong(step, format!("{path} is not the one in use"), next);
            }
            Err(fault) => {
                let cause = format!("{path} is not the one in use, and does not fit by the CA of that one: {fault}");
                walk.wrong(step, cause, issue);
            }
        }
    }

    /// From when to when a chain (leaf first) is valid, if it is this host's by a moment at which all of it is valid.
    fn fits(&self, root: &Root, chain: &[CertificateDer<'_>]) -> Result<(u64, u64), Fault> {
        let (leaf, between) = chain.split_first().ok_or(Fault::Encoding)?;
        let (mut from, mut to) = (0, u64::MAX);
        for certificate in chain {
            let (_, begins, ends) = tls::facts(std::slice::from_ref(certificate)).ok_or(Fault::Encoding)?;
            (from, to) = (from.max(begins), to.min(ends));
        }
        let found = root.channel(leaf, between, UnixTime::since_unix_epoch(Duration::from_secs(from)))?;
        if found == self.own { Ok((from, to)) } else { Err(Fault::Other { found, expected: self.own.to_string() }) }
    }

    /// The channel certificate and its key.
    fn certificate(&self, vault: &Vault, folder: &Path, root: &Root) -> Result<Certificate, String> {
        let path = folder.join("channel.pem");
        let shown = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let pem = private::read_public(&path).map_err(|error| shown(&path, &error))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let chain = chain.map_err(|error| shown(&path, &error))?;
        let (from, to) = self.fits(root, &chain).map_err(|fault| shown(&path, &fault))?;
        let (key, ..) = tls::facts(&chain).ok_or_else(|| shown(&path, &Fault::Encoding))?;
        let by_id = folder.join(tls::key_file(home::CHANNEL, key));
        let path = if by_id.exists() { by_id } else { folder.join("channel.key") };
        let private = signing_key(vault, &path, "channel.key", root.group()).map_err(|event| event.text())?;
        if private.public().map_err(|error| shown(&path, &error))?.id() != key {
            return Err(shown(&path, &"it does not belong to the certificate"));
        }
        Ok(Certificate { chain, from, to })
    }

    fn validity(
        &self,
        membership: &Membership,
        &Certificate { from, to, .. }: &Certificate,
        now: u64,
        clock: &str,
        walk: &mut Walk,
    ) {
        let group = &membership.name;
        let step = format!("{group}: the channel certificate's validity");
        if now < from {
            let cause = format!("by {clock} it begins only at {}", date(from));
            walk.wrong(step, cause, "set the clock, or wait until then");
        } else if now > to {
            let next = match &membership.own_pki {
                Some(files) => format!("have the company's PKI issue another, to {}", files.certificate.display()),
                None => format!("`{} run` renews it by itself; event 40051 says why it does not", self.program),
            };
            walk.wrong(step, format!("by {clock} it has ended at {}", date(to)), next);
        } else {
            let days = (to - now) / DAY;
            walk.well(format!("{group}: the channel certificate is valid by {clock}, {days} days more"));
        }
    }

    /// One parent, from its name to what the server behind it knows; the server's clock.
    async fn parent(&self, hop: &Hop<'_>, walk: &mut Walk) -> Option<u64> {
        let Hop { at, parent, kept, certificate, kerberos, .. } = hop;
        let mut ticket = None;
        if let Some(kerberos) = kerberos {
            ticket = kerberos::ticket(at, parent, kerberos, !certificate, walk).await.then_some(kerberos);
        }
        reachable(at, parent, walk).await?;
        let stream = match join::dial(parent).await {
            Ok(stream) => stream,
            Err(error) => {
                let next = "find out what listens there; correct the parent's address and port";
                walk.wrong(format!("{at}: the port speaks Wardline's TLS"), error.to_string(), next);
                return None;
            }
        };
        walk.well(format!("{at}: the port speaks Wardline's TLS 1.3"));
        let Identity { name, role } = &self.own;
        let (identity, root) = (&kept.identity, &kept.root);
        let leaf = kept.certificate.as_ref().and_then(|own| own.chain.first());
        let certificate = leaf.map_or(Digest([0; 32]), |leaf| sha256(&[leaf]));
        let known = Known { name, role: *role, identity, root, certificate };
        let proved = standing(stream, &known).await;
        let server_ms = proved.as_ref().ok().map(|proved| proved.server_ms);
        let certified = hop.certificate && shows(hop, server_ms, walk).await;
        match ticket {
            Some(kerberos) => kerberos::takes(at, parent, kerberos, !certified, walk).await,
            None if kerberos.is_some() && hop.certificate && !certified => {
                let cause = "it shows no certificate, and there is no ticket for it";
                walk.wrong(format!("{at}: the way"), cause, "one of the two has to be: see above");
            }
            None => {}
        }
        match proved {
            Ok(proved) => {
                self.proved(hop, proved, walk);
                server_ms
            }
            Err(cause) => {
                let next = "`wardline status` on the server; on a gateway, its log and `wardline-gateway doctor`";
                walk.wrong(
                    format!("{at}: the server behind it proves that it belongs to the group"),
                    cause.to_string(),
                    next,
                );
                None
            }
        }
    }

    fn proved(&self, hop: &Hop<'_>, proved: Proved, walk: &mut Walk) {
        let at = &hop.at;
        let Proved { server, server_ms, own_ms, duty: (from, to), stands } = proved;
        if (from..=to).contains(&(server_ms / 1000)) {
            walk.well(format!("{at}: server {server} proves that it belongs to the group"));
        } else {
            let cause = format!(
                "by its own clock the duty certificate of {server} is not valid: {} to {}",
                date(from),
                date(to)
            );
            walk.wrong(format!("{at}: the server's duty certificate"), cause, "on the server: its clock, and its log");
        }
        clock(at, &server, own_ms, server_ms, walk);
        match stands {
            Ok(stands) => self.stands(hop, &server, &stands, walk),
            Err(Cause::Refused(why @ (Why::NotMember | Why::KeyRemoved))) => {
                let next = format!("`wardline keys log show` on the server says what became of {}", self.own);
                walk.wrong(format!("{at}: approval"), why.as_str(), next);
            }
            Err(cause) => walk.wrong(format!("{at}: approval"), cause.to_string(), "try again; see the server's log"),
        }
    }

    fn stands(&self, hop: &Hop<'_>, server: &Name, stands: &Stands, walk: &mut Walk) {
        let Hop { at, folder, parent, kept, certificate, kerberos } = hop;
        walk.well(format!("{at}: {} is a member, with this identity key", self.own));
        let Identity { name, role } = &self.own;
        let ways = stands.gateways.join(" or ");
        // Through whom the question came is not proved: the name that the parent has here is what counts.
        let direct = stands.gateways.is_empty() && parent.name == *server;
        if direct || stands.gateways.iter().any(|gateway| gateway == parent.name.as_str()) {
            walk.well(format!("{at}: it may come this way"));
        } else {
            let may = if ways.is_empty() { format!("directly, to {server}") } else { format!("by {ways}") };
            let next = format!(
                "change the parents here, or on the server: `wardline {role} assign {name} --via {}`",
                parent.name
            );
            walk.wrong(format!("{at}: the way"), format!("it is to come {may}, not by {}", parent.name), next);
        }
        if let Some(kerberos) = kerberos {
            let dials = kerberos.initiator();
            if stands.principal == dials {
                walk.well(format!("{at}: the group knows this host as {dials}"));
            } else {
                let known = if stands.principal.is_empty() { "none" } else { &stands.principal };
                let cause = format!("it dials as {dials}, and the group knows as its Kerberos principal {known}");
                let next = format!("on the server: `wardline {role} principal {name} '{dials}'`");
                walk.off(!certificate, format!("{at}: the principal"), cause, next);
            }
        }
        if kept.certificate.is_none() {
            // It was issued none.
        } else if stands.certificate {
            walk.well(format!("{at}: the channel certificate was issued to it"));
        } else {
            let next = format!("restore channel.pem and its key, or join anew: `{} join`", self.program);
            walk.wrong(
                format!("{at}: the channel certificate"),
                "the trust log has not issued it, or has forgotten it",
                next,
            );
        }
        let Some(due) = Digest::from_wire(&stands.cookie) else { return };
        let next = "start the agent, if it does not run; look for events 40080 to 40085 in its log, and on the server";
        match cookie(&folder.join(DOCUMENT)) {
            Ok(Some(cookie)) if cookie == due => walk.well(format!("{at}: the configuration is the due one, {due}")),
            Ok(Some(cookie)) => {
                walk.wrong(format!("{at}: the configuration"), format!("{cookie} is here, {due} is due"), next);
            }
            Ok(None) => walk.wrong(format!("{at}: the configuration"), format!("none is here, {due} is due"), next),
            Err(reason) => walk.wrong(format!("{at}: the configuration"), reason, next),
        }
    }
}

/// The cookie of a configuration on disk.
fn cookie(path: &Path) -> Result<Option<Digest>, String> {
    match private::read_up_to(path, LIMIT as u64) {
        Ok(document) => {
            Configuration::parse(&document).map(|read| Some(read.cookie)).map_err(|error| error.to_string())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Looks at the owner and the modes of a folder and the files in it.
fn folder(path: &Path, step: &str, walk: &mut Walk) {
    match open_to_others(path) {
        Ok(None) => walk.well(format!("{step}: {} is private", path.display())),
        Ok(Some((file, cause, next))) => walk.wrong(step, format!("{}: {cause}", file.display()), next),
        Err(error) => walk.wrong(step, format!("{}: {error}", path.display()), "run it as the program's user"),
    }
}

/// The first of a folder and the files in it that others than its owner may use: which, why, and what to do.
fn open_to_others(path: &Path) -> std::io::Result<Option<(PathBuf, String, String)>> {
    let own = fs::metadata(path)?;
    let user = nix::unistd::geteuid().as_raw();
    if own.uid() != user {
        let cause = format!("it belongs to user {}, and this runs as {user}", own.uid());
        return Ok(Some((path.to_owned(), cause, format!("run it as user {}", own.uid()))));
    }
    let files = fs::read_dir(path)?.map(|file| file.map(|file| file.path()));
    for file in std::iter::once(Ok(path.to_owned())).chain(files) {
        let file = file?;
        let meta = fs::symlink_metadata(&file)?;
        // Certificates are no secret, but nobody else may change them.
        let public = file.extension().is_some_and(|extension| extension == "pem");
        let (mode, wide) = (meta.permissions().mode() & 0o7777, if public { 0o022 } else { 0o077 });
        let shown = file.display().to_string();
        if meta.uid() != own.uid() && meta.uid() != 0 {
            let cause = format!("it belongs to user {}, not to {}", meta.uid(), own.uid());
            return Ok(Some((file, cause, format!("chown {} {shown}", own.uid()))));
        }
        if !meta.is_symlink() && mode & wide != 0 {
            return Ok(Some((
                file,
                format!("its mode is {mode:04o}, others may use it"),
                format!("chmod go= {shown}"),
            )));
        }
    }
    Ok(None)
}

/// Whether a parent's name leads to addresses, and TCP to one of them.
async fn reachable(at: &str, parent: &Parent, walk: &mut Walk) -> Option<()> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let resolved = tokio::time::timeout(PATIENCE, tokio::net::lookup_host(&parent.address)).await;
    let addresses: Vec<SocketAddr> = match resolved.unwrap_or_else(|_| Err(late())) {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let next = format!("`getent hosts` on this host; correct DNS, or the address of {}", parent.name);
            walk.wrong(format!("{at}: the name resolves"), error.to_string(), next);
            return None;
        }
    };
    let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    walk.well(format!("{at}: the name resolves: {}", shown.join(", ")));
    let mut connected = None;
    for address in addresses {
        let tried = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
        match tried.unwrap_or_else(|_| Err(late())) {
            Ok(_) => {
                walk.well(format!("{at}: TCP connects to {address}"));
                connected = Some(());
            }
            Err(error) => {
                let next = "start the parent, open the firewall between, or correct the port";
                walk.wrong(format!("{at}: TCP connects to {address}"), error.to_string(), next);
            }
        }
    }
    connected
}

/// Looks at the certificate that the parent shows, judged by the server's clock where it is known. Whether it shows one,
/// good or not.
async fn shows(hop: &Hop<'_>, server_ms: Option<u64>, walk: &mut Walk) -> bool {
    let Hop { at, parent, kept: Kept { root, .. }, kerberos, .. } = hop;
    let look = async {
        let (tcp, address) = connect(parent).await?;
        let at = Duration::from_millis(server_ms.unwrap_or_else(now_ms));
        let config = tls::look(root, &parent.name, UnixTime::since_unix_epoch(at));
        let config = config.map_err(|error| HandshakeError::Tls(error.to_string()))?;
        let name = ServerName::IpAddress(address.ip().into());
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(tls_error)
    };
    let step = format!("{at}: the parent's certificate");
    let next =
        format!("on {}: `wardline-gateway doctor`, or the server's log; here: its name and address", parent.name);
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(_)) => walk.well(format!("{step} is of the group and of {}", parent.name)),
        Ok(Err(HandshakeError::Tls(_))) if kerberos.is_some() => {
            walk.0.push(Found::Note(format!("{step}: it shows none that is good now; Kerberos is the way")));
            return false;
        }
        Ok(Err(error)) => walk.wrong(step, error.to_string(), next),
        Err(_) => walk.wrong(step, "no answer in time", next),
    }
    true
}

/// Compares this host's clock with the server's.
fn clock(at: &str, server: &Name, own_ms: u64, server_ms: u64, walk: &mut Walk) {
    let seconds = own_ms.abs_diff(server_ms) / 1000;
    let side = if own_ms < server_ms { "behind" } else { "ahead of" };
    if seconds <= CLOCKS {
        return walk.well(format!("{at}: the clock is {seconds} s {side} that of {server}"));
    }
    let (own, its) = (date(own_ms / 1000), date(server_ms / 1000));
    let cause = format!("this host's is {seconds} s {side} that of {server}: here {own}, there {its}");
    let next =
        "set the clock of the one that is wrong: `timedatectl`, `chronyc tracking`; certificates are judged by it";
    walk.wrong(format!("{at}: the clock"), cause, next);
}
