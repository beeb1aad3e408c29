//! A group whose members have keytabs of a realm, and reach their parents by what a story says.

use std::path::PathBuf;

use toml::Table;

use crate::daemon::Daemon;
use crate::group::Group;
use crate::realm::Realm;

/// The principal of a host.
pub fn principal(host: &str, realm: &Realm) -> String {
    format!("host/{host}@{}", realm.name())
}

/// Where the keytab of a program is.
pub fn keytab(daemon: &Daemon) -> PathBuf {
    daemon.config().with_file_name("krb5.keytab")
}

/// Gives a program a principal of the realm and its keytab, and `[kerberos]`.
pub fn key(daemon: &Daemon, realm: &Realm) {
    let own = principal(daemon.name(), realm);
    realm.principal(&own);
    realm.keytab(&keytab(daemon), &[&own]);
    configure(daemon, realm, &[]);
}

/// Gives a program `[kerberos]` alone, with further realms that it lists.
pub fn configure(daemon: &Daemon, realm: &Realm, more: &[&str]) {
    let mut table = Table::new();
    let text = |path: PathBuf| toml::Value::String(path.display().to_string());
    let realms = std::iter::once(realm.name()).chain(more.iter().copied()).map(Into::into).collect();
    table.insert("keytab".into(), text(keytab(daemon)));
    table.insert("krb5_conf".into(), text(realm.config()));
    table.insert("realms".into(), toml::Value::Array(realms));
    daemon.set("kerberos", table);
}

/// Says something else in `[kerberos]` of a program.
pub fn say(daemon: &Daemon, key: &str, value: impl Into<toml::Value>) {
    let text = std::fs::read_to_string(daemon.config()).expect("it has a configuration");
    let mut file: Table = text.parse().expect("a configuration is TOML");
    let table = file.get_mut("kerberos").and_then(toml::Value::as_table_mut).expect("it has a keytab");
    table.insert(key.into(), value.into());
    daemon.set("kerberos", table.clone());
}

/// Says by what a host reaches its parents.
pub fn reach(daemon: &Daemon, mechanism: &str) {
    daemon.change_membership(|membership| _ = membership.insert("mechanism".into(), mechanism.into()));
}

/// A group that is laid down, every member of it with a keytab, whose agents and gateways reach their parents by what is said
/// for each; and a realm.
pub fn lay(group: &mut Group, realm: &Realm, agents: &str, gateways: &str, counts: (usize, usize)) {
    let (agent_count, gateway_count) = counts;
    key(group.server(), realm);
    group.server().start();
    for i in 0..gateway_count {
        key(group.gateway(i), realm);
        reach(group.gateway(i), gateways);
        let name = group.gateway(i).name().to_owned();
        group.done(&["gateway", "principal", &name, &principal(&name, realm)]);
    }
    for i in 0..agent_count {
        key(group.agent(i), realm);
        reach(group.agent(i), agents);
        let name = group.agent(i).name().to_owned();
        group.done(&["agent", "principal", &name, &principal(&name, realm)]);
    }
    group.server().stop();
}
