//! From text to a pack, and from a mistake to its place.
//!
//! What a single value may be is checked while it is deserialized, so that the TOML parser knows the place of a mistake;
//! what several values together may be is checked afterwards, from the places that were kept.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use wardline_proto::health::{Priority, Severity};

use crate::quantity;
use crate::run_as::{FOLDER, Field, Profile};
use crate::{AlertOn, AlertSeverity, Check, ExtraOpts, Limits, Log, Monitor, Pack, Probe, RunAs, Subject};

/// What is wrong with a pack, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackError {
    /// The file, as it was named when parsing.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is allowed; one line.
    pub reason: String,
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.reason)
    }
}

impl std::error::Error for PackError {}

pub(crate) fn pack(file: &str, text: &str) -> Result<Pack, PackError> {
    read(text).map(|(pack, _)| pack).map_err(|wrong| wrong.locate(file, text))
}

pub(crate) fn packs<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Vec<Pack>, PackError> {
    let mut packs: Vec<Pack> = Vec::new();
    for (file, text) in files {
        let (pack, name_at) = read(text).map_err(|wrong| wrong.locate(file, text))?;
        if packs.iter().any(|earlier| earlier.name == pack.name) {
            let wrong = Wrong::at(&name_at, format!("another pack is named {:?} already", pack.name));
            return Err(wrong.locate(file, text));
        }
        packs.push(pack);
    }
    Ok(packs)
}

/// A mistake by its place in the text, in bytes.
struct Wrong {
    at: usize,
    reason: String,
}

impl Wrong {
    fn at(span: &Range<usize>, reason: impl Into<String>) -> Self {
        Self { at: span.start, reason: reason.into() }
    }

    fn locate(self, file: &str, text: &str) -> PackError {
        let before = text.get(..self.at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        PackError {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.chars().count() - before.get(..line_start).unwrap_or_default().chars().count() + 1,
            reason: self.reason,
        }
    }
}

fn read(text: &str) -> Result<(Pack, Range<usize>), Wrong> {
    let file: File = toml::from_str(text).map_err(|error| Wrong {
        at: error.span().map_or(0, |span| span.start),
        reason: error.message().lines().map(str::trim).collect::<Vec<_>>().join("; "),
    })?;
    let mut names = HashSet::new();
    let mut unique = |name: Spanned<Word>| {
        let span = name.span();
        let name = name.into_inner().0;
        if names.insert(name.clone()) {
            return Ok(name);
        }
        Err(Wrong::at(&span, format!("another check or log of this pack is named {name:?} already")))
    };
    let mut checks = Vec::with_capacity(file.check.len());
    for raw in file.check {
        let span = raw.span();
        let mut raw = raw.into_inner();
        let (run_as, extra_opts) = (raw.run_as.take(), raw.extra_opts.take());
        if let (Some(extra_opts), None) = (&extra_opts, &run_as) {
            return Err(Wrong::at(&extra_opts.span(), "`extra_opts` needs `run_as`: it hands over a credential"));
        }
        if let (Some(run_as), None) = (&run_as, &raw.program) {
            return Err(Wrong::at(&run_as.span(), "`run_as` is only for a `program`; a builtin needs no credential"));
        }
        let run_as = run_as
            .map(|profile| RunAs { profile: profile.into_inner().0, extra_opts: extra_opts.map(Spanned::into_inner) });
        checks.push(Check {
            name: unique(raw.name)?,
            every: raw.every.0,
            timeout: raw.timeout.0,
            monitor: raw.monitor.map(|raw| Monitor {
                alert_on: raw.alert_on,
                severity: raw.severity,
                priority: raw.priority,
            }),
            probe: match (raw.program, raw.builtin) {
                (Some(program), None) => self::program(program, run_as, raw.path, raw.warning, raw.critical)?,
                (None, Some(builtin)) => self::builtin(builtin.into_inner(), raw.path, raw.warning, raw.critical)?,
                (None, None) => return Err(Wrong::at(&span, "a check needs `program` or `builtin`")),
                (Some(_), Some(builtin)) => {
                    return Err(Wrong::at(&builtin.span(), "a check has either `program` or `builtin`, not both"));
                }
            },
        });
    }
    let mut logs = Vec::with_capacity(file.log.len());
    for raw in file.log {
        logs.push(Log { name: unique(raw.name)?, path: raw.path.0, severity: raw.severity });
    }
    let name_at = file.pack.name.span();
    let name = file.pack.name.into_inner().0;
    Ok((Pack { name, description: file.pack.description, checks, logs }, name_at))
}

/// A program with its arguments; refuses keys that belong to a builtin, and what would not be filled in.
fn program(
    program: Spanned<Arguments>,
    run_as: Option<RunAs>,
    path: Option<Spanned<AbsolutePath>>,
    warning: Option<Spanned<f64>>,
    critical: Option<Spanned<f64>>,
) -> Result<Probe, Wrong> {
    let foreign = path.map(|path| ("path", path.span()));
    let foreign = foreign.or_else(|| warning.map(|limit| ("warning", limit.span())));
    if let Some((key, span)) = foreign.or_else(|| critical.map(|limit| ("critical", limit.span()))) {
        return Err(Wrong::at(&span, format!("`{key}` is only for a `builtin`; a program has arguments")));
    }
    let span = program.span();
    let Arguments { path, arguments } = program.into_inner();
    if run_as.is_none() && arguments.iter().any(|argument| argument.contains(FOLDER)) {
        return Err(Wrong::at(&span, format!("`{FOLDER}` needs `run_as`: without it there is no credential")));
    }
    if run_as.is_some()
        && let Some(field) = arguments.iter().find_map(|argument| Field::in_text(argument))
    {
        let why = format!(
            "`{{{field}}}` is not put into arguments, which everybody on the host can read: use `extra_opts`, or the \
             files in `{FOLDER}`"
        );
        return Err(Wrong::at(&span, why));
    }
    Ok(Probe::Program { path, arguments, run_as })
}

/// What the agent looks at by itself.
fn builtin(
    builtin: RawSubject,
    path: Option<Spanned<AbsolutePath>>,
    warning: Option<Spanned<f64>>,
    critical: Option<Spanned<f64>>,
) -> Result<Probe, Wrong> {
    let subject = match (builtin, path) {
        (RawSubject::Disk, path) => {
            Subject::Disk { path: path.map_or_else(|| PathBuf::from("/"), |path| path.into_inner().0) }
        }
        (_, Some(path)) => return Err(Wrong::at(&path.span(), "`path` is only for the builtin \"disk\"")),
        (RawSubject::Cpu, None) => Subject::Cpu,
        (RawSubject::Memory, None) => Subject::Memory,
        (RawSubject::Load, None) => Subject::Load,
    };
    let (highest, range) =
        if subject == Subject::Load { (10_000.0, "0 to 10000") } else { (100.0, "0 to 100 percent") };
    for limit in [&warning, &critical].into_iter().flatten() {
        if !(0.0..=highest).contains(limit.get_ref()) {
            return Err(Wrong::at(&limit.span(), format!("{} is not within {range}", limit.get_ref())));
        }
    }
    if let (Some(warning), Some(critical)) = (&warning, &critical)
        && warning.get_ref() > critical.get_ref()
    {
        return Err(Wrong::at(&warning.span(), "`warning` must not be above `critical`"));
    }
    let limits = Limits { warning: warning.map(Spanned::into_inner), critical: critical.map(Spanned::into_inner) };
    Ok(Probe::Builtin { subject, limits })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pack: Head,
    #[serde(default)]
    check: Vec<Spanned<RawCheck>>,
    #[serde(default)]
    log: Vec<RawLog>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: Spanned<Word>,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    name: Spanned<Word>,
    program: Option<Spanned<Arguments>>,
    run_as: Option<Spanned<Profile>>,
    extra_opts: Option<Spanned<ExtraOpts>>,
    builtin: Option<Spanned<RawSubject>>,
    path: Option<Spanned<AbsolutePath>>,
    warning: Option<Spanned<f64>>,
    critical: Option<Spanned<f64>>,
    #[serde(default)]
    every: Every,
    #[serde(default)]
    timeout: Timeout,
    monitor: Option<RawMonitor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMonitor {
    #[serde(default)]
    alert_on: AlertOn,
    #[serde(default)]
    severity: AlertSeverity,
    #[serde(default = "normal")]
    priority: Priority,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    name: Spanned<Word>,
    path: AbsolutePath,
    #[serde(default = "information")]
    severity: Severity,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawSubject {
    Cpu,
    Memory,
    Disk,
    Load,
}

const fn normal() -> Priority {
    Priority::Normal
}

const fn information() -> Severity {
    Severity::Information
}

/// The name of a pack, check or log. Because of its alphabet it is safe in keys, paths and texts.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Word(String);

impl TryFrom<String> for Word {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let fits = matches!(text.len(), 1..=64);
        if fits && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            return Ok(Self(text));
        }
        Err(format!("{text:?} is no name: 1 to 64 lower-case letters, digits and hyphens are allowed"))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct AbsolutePath(PathBuf);

impl TryFrom<String> for AbsolutePath {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with('/') && !text.contains('\0') {
            return Ok(Self(text.into()));
        }
        Err(format!("{text:?} is no absolute path: it begins with / and has no NUL"))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Arguments {
    path: PathBuf,
    arguments: Vec<String>,
}

impl TryFrom<Vec<String>> for Arguments {
    type Error = String;
    fn try_from(vector: Vec<String>) -> Result<Self, String> {
        let mut vector = vector.into_iter();
        let program = vector.next().ok_or("`program` is the path of a program and its arguments, not an empty list")?;
        let AbsolutePath(path) = program.try_into()?;
        let arguments: Vec<String> = vector.collect();
        match arguments.iter().find(|argument| argument.contains('\0')) {
            None => Ok(Self { path, arguments }),
            Some(argument) => Err(format!("the argument {argument:?} has a NUL, which no argument can have")),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Every(Duration);

impl Default for Every {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

impl TryFrom<String> for Every {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        within(&text, Duration::from_secs(24 * 60 * 60), "24h").map(Self)
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Timeout(Duration);

impl Default for Timeout {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

impl TryFrom<String> for Timeout {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        within(&text, Duration::from_secs(60 * 60), "1h").map(Self)
    }
}

/// A duration between 250 ms and a longest one, `name` in texts.
fn within(text: &str, longest: Duration, name: &str) -> Result<Duration, String> {
    let duration = quantity::duration(text).map_err(|error| format!("{text:?}: {error}"))?;
    if (Duration::from_millis(250)..=longest).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("{text:?} is not within 250ms to {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
[pack]
name = "base"
description = "What every host has."

[[check]]
name = "http"
program = ["/usr/lib/nagios/plugins/check_http", "-H", "127.0.0.1"]
every = "250ms"
timeout = "10s"
[check.monitor]
alert_on = "warning"
severity = "information"
priority = "high"

[[check]]
name = "disk"
builtin = "disk"
warning = 80.0
critical = 95

[[check]]
name = "load"
builtin = "load"
[check.monitor]

[[log]]
name = "app"
path = "/var/log/app.log"
severity = "warning"
"#;

    #[test]
    fn a_pack_is_read_with_its_defaults() {
        let pack = Pack::parse("base.toml", FULL).unwrap();
        let http = Check {
            name: "http".into(),
            probe: Probe::Program {
                path: "/usr/lib/nagios/plugins/check_http".into(),
                arguments: vec!["-H".into(), "127.0.0.1".into()],
                run_as: None,
            },
            every: Duration::from_millis(250),
            timeout: Duration::from_secs(10),
            monitor: Some(Monitor {
                alert_on: AlertOn::Warning,
                severity: AlertSeverity::Information,
                priority: Priority::High,
            }),
        };
        let disk = Check {
            name: "disk".into(),
            probe: Probe::Builtin {
                subject: Subject::Disk { path: "/".into() },
                limits: Limits { warning: Some(80.0), critical: Some(95.0) },
            },
            every: Duration::from_secs(60),
            timeout: Duration::from_secs(30),
            monitor: None,
        };
        let load = Check {
            name: "load".into(),
            probe: Probe::Builtin { subject: Subject::Load, limits: Limits::default() },
            monitor: Some(Monitor {
                alert_on: AlertOn::Critical,
                severity: AlertSeverity::Match,
                priority: Priority::Normal,
            }),
            ..disk.clone()
        };
        let app = Log { name: "app".into(), path: "/var/log/app.log".into(), severity: Severity::Warning };
        let description = "What every host has.".into();
        assert_eq!(pack, Pack { name: "base".into(), description, checks: vec![http, disk, load], logs: vec![app] });
    }

    /// What a change of the full pack is refused with.
    fn refused(from: &str, to: &str) -> String {
        assert!(FULL.contains(from), "{from}");
        Pack::parse("base.toml", &FULL.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn every_mistake_is_named_with_its_place_and_what_is_allowed() {
        let cases = [
            ("name = \"base\"", "name = \"Base\"", "base.toml:3:8: ", "1 to 64 lower-case letters"),
            ("name = \"base\"", "name = \"../base\"", "base.toml:3:8: ", "1 to 64 lower-case letters"),
            ("name = \"base\"", "nom = \"base\"", "base.toml:3:1: ", "unknown field `nom`, expected `name`"),
            ("every = \"250ms\"", "every = \"249ms\"", "base.toml:9:9: ", "250ms to 24h"),
            ("every = \"250ms\"", "every = \"2d\"", "base.toml:9:9: ", "250ms to 24h"),
            ("every = \"250ms\"", "every = 60", "base.toml:9:9: ", "expected a string"),
            ("every = \"250ms\"", "every = \"1 minute\"", "base.toml:9:9: ", "ms, s, m, h, d"),
            ("every = \"250ms\"", "evry = \"60s\"", "base.toml:9:1: ", "`every`"),
            ("timeout = \"10s\"", "timeout = \"61m\"", "base.toml:10:11: ", "250ms to 1h"),
            ("[\"/usr/lib", "[\"usr/lib", "base.toml:8:11: ", "begins with /"),
            ("\"-H\"", "\"-H\\u0000\"", "base.toml:8:11: ", "NUL"),
            ("alert_on = \"warning\"", "alert_on = \"healthy\"", "base.toml:12:12: ", "`warning`, `critical`, `never`"),
            ("severity = \"information\"", "severity = \"high\"", "base.toml:13:12: ", "`match`, `information`"),
            ("priority = \"high\"", "priority = \"1\"", "base.toml:14:12: ", "`low`, `normal`, `high`"),
            ("builtin = \"disk\"", "builtin = \"disks\"", "base.toml:18:11: ", "`cpu`, `memory`, `disk`, `load`"),
            ("builtin = \"disk\"", "", "base.toml:16:1: ", "`program` or `builtin`"),
            ("builtin = \"disk\"", "builtin = \"disk\"\nprogram = [\"/x\"]", "base.toml:18:11: ", "not both"),
            ("builtin = \"disk\"", "builtin = \"disk\"\npath = \"var\"", "base.toml:19:8: ", "begins with /"),
            ("builtin = \"load\"", "builtin = \"load\"\npath = \"/\"", "base.toml:25:8: ", "\"disk\""),
            ("warning = 80.0", "warning = 96.0", "base.toml:19:11: ", "above `critical`"),
            ("critical = 95", "critical = 101", "base.toml:20:12: ", "0 to 100 percent"),
            ("critical = 95", "critical = nan", "base.toml:20:12: ", "0 to 100 percent"),
            ("timeout = \"10s\"", "critical = 5.0", "base.toml:10:12: ", "only for a `builtin`"),
            ("name = \"app\"", "name = \"disk\"", "base.toml:28:8: ", "named \"disk\" already"),
            ("path = \"/var/log/app.log\"", "", "base.toml:27:1: ", "missing field `path`"),
            ("severity = \"warning\"", "severity = \"match\"", "base.toml:30:12: ", "`information`, `warning`"),
            ("[[log]]", "[[logs]]", "base.toml:27:3: ", "`log`"),
            ("[[log]]", "[[log", "base.toml:27:6: ", ""),
        ];
        for (from, to, place, reason) in cases {
            let error = refused(from, to);
            assert!(error.starts_with(place) && error.contains(reason), "{to}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    const RUN_AS: &str = r#"
[pack]
name = "web"
[[check]]
name = "login"
program = ["/usr/lib/nagios/plugins/check_http", "-k", "{credentials}/data"]
run_as = "web-shop"
extra_opts = { section = "check_http", options = { authorization = "{user}:{password}", C = "x" } }
"#;

    #[test]
    fn a_check_names_a_profile_and_how_its_credential_reaches_the_program() {
        let pack = Pack::parse("p", RUN_AS).unwrap();
        let Probe::Program { run_as: Some(RunAs { profile, extra_opts: Some(extra) }), .. } = &pack.checks[0].probe
        else {
            panic!("{pack:?}");
        };
        assert_eq!((profile.as_str(), extra.section.as_str()), ("web-shop", "check_http"));
        let pieces = |name: &str| extra.options[name].pieces().collect::<Vec<_>>();
        assert_eq!(pieces("authorization"), [Err(Field::User), Ok(":"), Err(Field::Password)]);
        assert_eq!(pieces("C"), [Ok("x")]);
    }

    #[test]
    fn every_mistake_about_a_credential_is_named_with_its_place() {
        let cases = [
            ("run_as = \"web-shop\"", "run_as = \"\"", "p:7:10: ", "no name of a profile"),
            ("run_as = \"web-shop\"", "run_as = \"../x\"", "p:7:10: ", "no name of a profile"),
            ("run_as = \"web-shop\"", "run_as = \"Web shop\"", "p:7:10: ", "no name of a profile"),
            ("run_as = \"web-shop\"", "", "p:8:14: ", "needs `run_as`"),
            ("run_as = \"web-shop\"", "runas = \"x\"", "p:7:1: ", "`run_as`"),
            ("{password}\"", "{pasword}\"", "p:8:", "{password}"),
            ("{password}\"", "{password\"", "p:8:", "{password}"),
            ("{password}\"", "{password}\\n\"", "p:8:", "no line break"),
            ("{password}\"", "{password} \"", "p:8:", "no space at either end"),
            ("section = \"check_http\"", "section = \"a]b\"", "p:8:", "no section"),
            ("section = \"check_http\"", "section = \"a@b\"", "p:8:", "no section"),
            ("section = \"check_http\"", "sektion = \"a\"", "p:8:16: ", "`section`"),
            ("authorization =", "\"a=b\" =", "p:8:", "no name of an option"),
            ("authorization =", "\"a b\" =", "p:8:", "no name of an option"),
            ("{credentials}/data", "{password}", "p:6:11: ", "everybody on the host can read"),
        ];
        for (from, to, place, reason) in cases {
            assert!(RUN_AS.contains(from), "{from}");
            let error = Pack::parse("p", &RUN_AS.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(place) && error.contains(reason), "{to}: {error}");
        }
        let check = |text: &str| {
            let text = format!("[pack]\nname = \"a\"\n[[check]]\nname = \"b\"\n{text}");
            Pack::parse("p", &text).unwrap_err().to_string()
        };
        let error = check("program = [\"/x\", \"{credentials}\"]");
        assert!(error.starts_with("p:5:11: ") && error.contains("needs `run_as`"), "{error}");
        let error = check("builtin = \"cpu\"\nrun_as = \"x\"");
        assert!(error.starts_with("p:6:10: ") && error.contains("only for a `program`"), "{error}");
        let error = check("program = [\"/x\"]\nrun_as = \"x\"\nextra_opts = { section = \"x\", options = {} }");
        assert!(error.contains("at least one option"), "{error}");
    }

    #[test]
    fn columns_count_characters() {
        let error = Pack::parse("p", "pack = { description = \"äöü\", name = \"X\" }").unwrap_err();
        assert_eq!((error.line, error.column), (1, 38));
    }

    #[test]
    fn two_packs_do_not_share_a_name() {
        let (a, b) = ("[pack]\nname = \"a\"", "[pack]\nname = \"b\"");
        assert_eq!(Pack::parse_all([("1", a), ("2", b)]).unwrap().len(), 2);
        let error = Pack::parse_all([("1", a), ("2", b), ("3", a)]).unwrap_err();
        assert_eq!(error.to_string(), "3:2:8: another pack is named \"a\" already");
    }

    #[test]
    fn an_empty_file_lacks_a_pack() {
        assert!(Pack::parse("p", "").unwrap_err().to_string().contains("missing field `pack`"));
    }
}
