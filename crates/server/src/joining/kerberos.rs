//! Hosts for which a KDC vouches: who is let in by that alone, and what proves to them that this is a server of the group.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use wardline_connector::join::{Heard, Knock, Voucher};
use wardline_connector::journal;
use wardline_connector::kerberos::Settings;
use wardline_proto::event::Event;
use wardline_proto::join::Why;
use wardline_proto::{Name, Realm, Role};
use wardline_secrets::view::{View, fits};

use super::{Ask, JoinDesk, Refused};
use crate::operating::is_pattern;

/// How long a keytab that cannot be used is left alone.
const AGAIN: Duration = Duration::from_secs(5);

/// Agents that are let in by Kerberos alone: of one of these realms and of one of these names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Realms, which must be listed besides.
    pub realms: Vec<Realm>,
    /// Names, or patterns with one `*` at their beginning or end.
    #[serde(deserialize_with = "patterns")]
    pub names: Vec<String>,
    /// The gateways that are to speak for them, in order; none: they report to servers themselves.
    #[serde(default)]
    pub via: Vec<Name>,
}

fn patterns<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let patterns = Vec::<String>::deserialize(from)?;
    match patterns.iter().find(|pattern| !is_pattern(pattern)) {
        None => Ok(patterns),
        Some(wrong) => Err(D::Error::custom(format!(
            "{wrong:?} is neither a host name nor one with one `*` at its beginning or end"
        ))),
    }
}

/// Who is let in by Kerberos, and what vouches for the group.
#[derive(Debug, Default)]
pub struct Vouching {
    settings: Option<Settings>,
    /// The first that fits counts; where none does, an operator decides.
    rules: Vec<Rule>,
    /// Where it is kept what was seen.
    replays: PathBuf,
    voucher: Mutex<Opened>,
}

/// The key of the group's principal, once it was there; or when it was looked for in vain.
#[derive(Debug, Default)]
struct Opened {
    voucher: Option<Arc<Voucher>>,
    vain: Option<Instant>,
}

impl Vouching {
    /// By what the configuration says; what was seen is kept in that folder.
    pub fn new(settings: Option<Settings>, rules: Vec<Rule>, folder: &Path) -> Self {
        Self { settings, rules, replays: folder.join("join.rcache"), voucher: Mutex::default() }
    }

    /// The realms in which a principal follows from a name.
    pub(super) fn realms(&self) -> &[Realm] {
        self.settings.as_ref().map_or(&[], |settings| &settings.realms)
    }

    /// What proves that this is a server of the group, if it has the key.
    pub(super) fn voucher(&self, group: &Name) -> Option<Arc<Voucher>> {
        let Settings { keytab, library, realms, .. } = self.settings.as_ref()?;
        let realm = realms.first()?;
        // Nothing panics while it is held; but for the one time when the key is there a small file is read at most.
        let mut opened = self.voucher.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.voucher.is_none() && opened.vain.is_none_or(|vain| vain.elapsed() >= AGAIN) {
            match Voucher::open(library.as_deref(), keytab, group, realm, &self.replays) {
                Ok(voucher) => opened.voucher = Some(voucher.into()),
                Err(reason) => {
                    // Nothing is missing where nobody is to be let in by it.
                    if opened.vain.replace(Instant::now()).is_none() && !self.rules.is_empty() {
                        journal::emit(Event::GroupKeytabUnusable { path: keytab.display().to_string(), reason });
                    }
                }
            }
        }
        opened.voucher.clone()
    }

    /// By which rule a host is let in by Kerberos alone, if it is.
    fn rule(&self, ask: &Ask) -> Option<&Rule> {
        let principal = ask.principal.as_ref().filter(|principal| principal.follows(&ask.name, self.realms()))?;
        let fit = |rule: &&Rule| {
            principal.follows(&ask.name, &rule.realms) && rule.names.iter().any(|pattern| fits(pattern, &ask.name))
        };
        self.rules.iter().find(fit)
    }
}

impl JoinDesk {
    /// Hears what a host proves by Kerberos, and by which gateways it is to come then.
    pub(super) async fn hear(&self, ask: &Ask, view: &View, asking: &Knock) -> Result<(Heard, Vec<Name>), Refused> {
        let review = |reason: String| Refused::new(Why::KerberosReview, reason);
        let proof = |reason: String| Refused::new(Why::KerberosProof, format!("by Kerberos: {reason}"));
        let voucher = view.name().and_then(|group| self.vouching.voucher(group));
        let voucher = voucher.ok_or_else(|| Refused::new(Why::KerberosNone, "the group's key is in no keytab here"))?;
        let heard = voucher.hear(asking.proof.kerberos.clone(), &asking.transcript).await.map_err(proof)?;
        let said = ask.principal.as_ref().map(ToString::to_string).unwrap_or_default();
        if heard.principal() != said {
            return Err(proof(format!("it proves to be {}, and says that it is {said}", heard.principal())));
        }
        if ask.role != Role::Agent {
            return Err(review(format!("a {} is approved by a person always", ask.role)));
        }
        if view.was_named(&ask.name) {
            return Err(review("one of this name was removed, and comes back by a person's word only".into()));
        }
        let rule = self.vouching.rule(ask).ok_or_else(|| review(format!("no rule is for {said} as {}", ask.name)))?;
        Ok((heard, rule.via.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_needs_a_realm_that_is_listed_and_a_name_that_is() {
        #[derive(Debug, Deserialize)]
        struct File {
            kerberos: Settings,
            join: Vec<Rule>,
        }
        let File { kerberos, join } = toml::from_str(
            "[kerberos]\nrealms = [\"CORP.TEST\", \"EAST.TEST\"]\n\
             [[join]]\nrealms = [\"CORP.TEST\", \"WEST.TEST\"]\nnames = [\"db1.corp.test\"]\nvia = [\"gw1.test\"]\n\
             [[join]]\nrealms = [\"CORP.TEST\"]\nnames = [\"*.corp.test\", \"web*\"]\n",
        )
        .unwrap();
        let vouching =
            Vouching::new(Some(Settings { keytab: "/nowhere".into(), ..kerberos }), join, Path::new("/nowhere"));
        let via = |name: &str, principal: &str| {
            let (_, key) = wardline_secrets::signature::SigningKey::generate(wardline_proto::GroupId([0; 16])).unwrap();
            let key =
                wardline_secrets::signature::SigningKey::from_pem(key.as_bytes(), wardline_proto::GroupId([0; 16]));
            let ask = Ask {
                name: name.parse().unwrap(),
                role: Role::Agent,
                token: None,
                identity: key.unwrap().public().unwrap(),
                request: bytes::Bytes::new(),
                certificate: bytes::Bytes::new(),
                principal: (!principal.is_empty()).then(|| principal.parse().unwrap()),
                further: None,
                vouched: None,
            };
            vouching.rule(&ask).map(|rule| rule.via.len())
        };
        assert_eq!(via("db1.corp.test", "host/db1.corp.test@CORP.TEST"), Some(1));
        assert_eq!(via("db2.corp.test", "host/db2.corp.test@CORP.TEST"), Some(0));
        assert_eq!(via("web1.test", "host/web1.test@CORP.TEST"), Some(0));
        for (name, principal) in [
            ("app.test", "host/app.test@CORP.TEST"),
            ("db1.corp.test", "host/db2.corp.test@CORP.TEST"),
            ("db1.corp.test", "DB1$@CORP.TEST"),
            ("db1.corp.test", "host/db1.corp.test@EAST.TEST"),
            ("db1.corp.test", "host/db1.corp.test@WEST.TEST"),
            ("db1.corp.test", "host/db1.corp.test@corp.test"),
            ("db1.corp.test", ""),
        ] {
            assert_eq!(via(name, principal), None, "{name} {principal}");
        }
        for wrong in ["names = [\"*.*\"]", "names = [\"WEB1\"]", "names = [\"web1.test\"]\nvia = [\"../x\"]"] {
            assert!(toml::from_str::<Rule>(&format!("realms = [\"A\"]\n{wrong}\n")).is_err(), "{wrong}");
        }
        // Without a keytab nobody is vouched for.
        assert!(vouching.voucher(&"north".parse().unwrap()).is_none());
    }
}
