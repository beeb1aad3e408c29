//! Which crate may use which of ours, and what may not be in the tree at all.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

const PREFIX: &str = "wardline-";

/// Each crate, and which it may use. The harness may use all of them, and nobody uses the harness.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("proto", &[]),
    ("locked", &[]),
    ("gss", &[]),
    ("secrets", &["proto", "locked"]),
    ("connector", &["proto", "locked", "gss", "secrets"]),
    ("packs", &["proto"]),
    ("sdk", &["proto"]),
    ("runas", &["proto"]),
    ("agent", &["proto", "secrets", "connector", "packs", "runas"]),
    ("gateway", &["proto", "connector", "secrets"]),
    ("server", &["proto", "secrets", "connector", "packs", "sdk"]),
    ("cli", &["proto", "sdk", "secrets", "packs", "connector"]),
];

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
    let output = Command::new(cargo).args(arguments).current_dir(crate::root()).output().expect("cargo can be run");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}

/// Our crates, each with those of ours that it uses for anything.
fn used() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps", "--locked"]))
        .expect("metadata is JSON");
    let own = |package: &Value| package["name"].as_str().and_then(|name| name.strip_prefix(PREFIX)).map(str::to_owned);
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let packages = list(&metadata["packages"]).into_iter();
    packages
        .map(|package| {
            let name = own(&package).expect("every crate has the product's name");
            (name, list(&package["dependencies"]).iter().filter_map(own).collect())
        })
        .collect()
}

#[test]
fn each_crate_uses_only_what_it_may() {
    let allowed = BTreeMap::from(ALLOWED);
    let mut wrong = Vec::new();
    for (name, uses) in used().into_iter().filter(|(name, _)| name != "harness") {
        let Some(allowed) = allowed.get(name.as_str()) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let more = uses.iter().filter(|other| !allowed.contains(&other.as_str()));
        wrong.extend(more.map(|other| format!("{name} may not use {other}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_library_does_the_cryptography() {
    let tree = cargo(&["tree", "--workspace", "--locked", "--edges=normal,build,dev", "--prefix=none", "--format={p}"]);
    // NAME vVERSION, and more where it was listed before.
    let words = tree.lines().map(str::split_whitespace);
    let packages: BTreeSet<_> = words.filter_map(|mut words| Some((words.next()?, words.next()?))).collect();
    let versions = |name: &str| packages.iter().filter(|(package, _)| *package == name).count();
    assert_eq!(versions("aws-lc-rs"), 1, "the list is read right");
    assert_eq!(versions("rustls"), 1, "one version of rustls");
    for refused in ["openssl", "openssl-sys", "native-tls", "ring"] {
        assert_eq!(versions(refused), 0, "{refused} is in the tree");
    }
}
