//! A further server joins: by a token for its name, and by a code that two people compare. Its keys are made in memory, and
//! nothing is written before somebody has typed the confirmation code.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use wardline_proto::{GroupId, Name, Role};
use wardline_secrets::authority::Validity;
use wardline_secrets::request::request;
use wardline_secrets::sealing::SealingKey;
use wardline_secrets::secure_data::{Header, Purpose};
use wardline_secrets::signature::SigningKey;
use wardline_secrets::token::Token;
use wardline_secrets::trust::Root;
use zeroize::Zeroizing;

use super::approval::approved;
use super::{Failed, read_token, show, tick, typed};
use crate::config::Parent;
use crate::join::{Admitted, Applying, Brought};
use crate::now_ms;

/// How long the key is good that is made for one join, and how far it reaches back, seconds.
const LIFE: (u64, u64) = (24 * 3600, 24 * 3600);

/// Which server wants to join, and how.
#[derive(Clone, Debug)]
pub struct Further<'a> {
    /// The program, as it is called.
    pub program: &'a str,
    /// Its name.
    pub name: &'a Name,
    /// What the group must be called.
    pub group: &'a Name,
    /// The server to ask.
    pub server: Parent,
    /// Where the token is: a file, or `-` for the first line of standard input.
    pub token: &'a Path,
}

/// What a further server has when it was let in: its own keys, and what it was given. All of it is to be believed.
pub struct Given {
    /// The group's root.
    pub root: Root,
    /// Its channel certificate and what leads to the root.
    pub admitted: Admitted,
    /// Its identity key, PKCS#8 in PEM.
    pub identity: Zeroizing<String>,
    /// Its channel key.
    pub channel: Zeroizing<String>,
    /// Its duty key.
    pub duty: Zeroizing<String>,
    /// What the server has put together for it.
    pub keys: Zeroizing<Vec<u8>>,
}

/// The command as the program runs it; `keep` writes what was given, all or nothing, and gives the folder. Whether it succeeded.
pub fn further(join: &Further<'_>, keep: impl FnOnce(&Given) -> Result<PathBuf, String>) -> bool {
    let mut out = io::stdout().lock();
    let outcome = run(join, keep, &mut out);
    show(join.program, outcome, &mut out)
}

fn run(
    join: &Further<'_>,
    keep: impl FnOnce(&Given) -> Result<PathBuf, String>,
    out: &mut impl Write,
) -> Result<PathBuf, Failed> {
    let Further { program, name, group, server, token } = join;
    let again = format!("{program} join, again with a new token");
    let failed = |step: &str, cause: String| Failed { step: step.to_owned(), cause, next: again.clone() };
    let token = read_token(token, true).and_then(|text| Token::parse(&text).map_err(|error| error.to_string()));
    let token = token.map_err(|cause| failed("the join token", cause))?;
    let id = token.group;
    tick(out, &format!("the join token is of group {}", uuid::Uuid::from_bytes(id.0)));

    let keys = |error: &dyn ToString| failed("the keys of this server", error.to_string());
    let make = || SigningKey::generate(id).map(|(_, pem)| pem).map_err(|error| keys(&error));
    let (identity, channel, duty) = (make()?, make()?, make()?);
    let wish = |pem: &Zeroizing<String>| request(pem.as_bytes(), name, Role::Server).map_err(|error| keys(&error));
    let now = now_ms() / 1000;
    let valid = Validity { from: now.saturating_sub(LIFE.1), to: now.saturating_add(LIFE.0) };
    let (sealing, _) = SealingKey::generate(name, Role::Server, valid).map_err(|error| keys(&error))?;
    let applying = Applying {
        name: (*name).clone(),
        role: Role::Server,
        identity: Zeroizing::new(identity.as_bytes().to_vec()),
        request: wish(&channel)?,
        certificate: Bytes::new(),
        principal: None,
        pin: None,
        further: Some(Brought {
            token,
            duty: wish(&duty)?,
            sealing: Bytes::copy_from_slice(sealing.certificate().der()),
        }),
    };
    tick(out, "the keys of this server are made");

    let place = |found: &Name| match found == *group {
        true => Ok(()),
        false => Err(failed("the configuration", format!("its group is {group}, and the token's group is {found}"))),
    };
    let servers = std::slice::from_ref(server);
    let (admitted, _) = approved(program, servers, &applying, place, false, typed, out)?;
    let lost = |cause: String| Failed {
        next: format!("wardline server remove {name} at the other server; then {again}"),
        ..failed("what this server was given", cause)
    };
    let opened = sealing.open(&admitted.sealed).and_then(|opened| opened.expect(&header(id, name)));
    let keys = opened.map_err(|refusal| lost(refusal.to_string()))?;
    let group = admitted.group_name.clone();
    let given = Given { root: admitted.root.clone(), admitted, identity, channel, duty, keys };
    let folder = keep(&given).map_err(lost)?;
    tick(out, &format!("group {group} is written"));
    Ok(folder)
}

/// What is said of the keys that a further server is given, under the same encryption.
pub fn header(group: GroupId, recipient: &Name) -> Header {
    Header { group, recipient: recipient.clone(), account: [0; 16], version: 0, purpose: Purpose::Further }
}
