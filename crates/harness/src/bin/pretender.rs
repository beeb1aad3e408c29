//! A host that lies: by Kerberos it proves one principal, and says that it is another. The arguments are the parent
//! (`NAME=ADDRESS`), its name, the principal that it claims, the one that it proves, the keytab of that, and the group. It
//! prints what it was told.

use std::sync::Arc;

use bytes::Bytes;
use wardline_connector::join::{Applicant, Kerberos, With, ask};
use wardline_proto::{GroupId, Principal, Role};
use wardline_secrets::signature::SigningKey;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [parent, name, claims, proves, keytab, group] = arguments.as_slice() else { panic!("{arguments:?}") };
    let (proves, group) = (proves.parse::<Principal>().expect("a principal"), group.parse().expect("a name"));
    let kerberos = Kerberos::open(None, keytab.as_ref(), &proves, (&group, proves.realm()), None);
    let applicant = Applicant {
        name: name.parse().expect("a name"),
        role: Role::Agent,
        identity: Arc::new(SigningKey::generate(GroupId([0; 16])).expect("a key").0),
        request: Vec::new(),
        certificate: Bytes::new(),
        principal: Some(claims.parse().expect("a principal")),
        with: With::Kerberos(kerberos.expect("its own key")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(ask(&[parent.parse().expect("a parent")], &applicant)) {
        Ok(_) => println!("let in"),
        Err(error) => println!("{error}"),
    }
}
