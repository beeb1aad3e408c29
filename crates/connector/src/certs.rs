//! The command that lists a host's certificates, as they are on disk: those that prove who it is, and those by which it
//! receives secrets.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use wardline_proto::Role;
use wardline_proto::event::Event;
use wardline_secrets::authority::Validity;
use wardline_secrets::certificate::Identity;
use wardline_secrets::{private, tls};

use crate::config::date;
use crate::doctor::Configured;
use crate::{home, journal, sealing};

/// A certificate.
struct Row {
    group: String,
    purpose: &'static str,
    key: String,
    validity: Validity,
}

/// The command as a program runs it: a line for each certificate, newest first of each kind.
pub fn main(role: Role, read: Result<Configured, Event>) -> ExitCode {
    match read.and_then(|read| rows(role, read)) {
        Ok(rows) if show(&rows).is_ok() => ExitCode::SUCCESS,
        // Where nothing can be shown, the exit code says it.
        Ok(_) => ExitCode::FAILURE,
        Err(event) => {
            journal::emit(event);
            ExitCode::FAILURE
        }
    }
}

fn rows(role: Role, Configured { name, state, groups, .. }: Configured) -> Result<Vec<Row>, Event> {
    let own = Identity { name, role };
    let mut rows = Vec::new();
    for found in home::groups(groups, &state)? {
        let (group, folder) = (found.name(), &found.folder);
        rows.extend(channel(&group, folder));
        let unusable = |error: io::Error| {
            let path = folder.join(sealing::FOLDER).display().to_string();
            Event::StateFolderInUse { path, reason: error.to_string() }
        };
        let certificates = sealing::certificates(folder, &own).map_err(unusable)?.into_iter();
        rows.extend(certificates.map(|certificate| Row {
            group: group.clone(),
            purpose: "sealing",
            key: certificate.id().to_string(),
            validity: certificate.validity(),
        }));
    }
    Ok(rows)
}

fn channel(group: &str, folder: &Path) -> Option<Row> {
    let pem = private::read_public(&folder.join("channel.pem")).ok()?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).take(1).collect();
    let (key, from, to) = tls::facts(&chain)?;
    Some(Row { group: group.to_owned(), purpose: "channel", key: key.to_string(), validity: Validity { from, to } })
}

fn show(rows: &[Row]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let width = rows.iter().map(|row| row.group.len()).fold("GROUP".len(), usize::max);
    writeln!(out, "{:width$}  PURPOSE  {:32}  {:20}  TO", "GROUP", "KEY", "FROM")?;
    for Row { group, purpose, key, validity: Validity { from, to } } in rows {
        writeln!(out, "{group:width$}  {purpose}  {key}  {:20}  {}", date(*from), date(*to))?;
    }
    out.flush()
}
