use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::authority::tests::{GROUP, group, name};
use crate::authority::{Validity, certificates_pem};
use crate::private::Scratch;
use crate::signature;

type Ends = (ClientConnection, ServerConnection);

fn shake(child: ClientConfig, parent: ServerConfig) -> Result<Ends, std::io::Error> {
    let mut child = ClientConnection::new(Arc::new(child), ServerName::try_from("unused").unwrap()).unwrap();
    let mut parent = ServerConnection::new(Arc::new(parent)).unwrap();
    while child.is_handshaking() || parent.is_handshaking() {
        let mut bytes = vec![];
        child.write_tls(&mut bytes)?;
        parent.read_tls(&mut bytes.as_slice())?;
        parent.process_new_packets().map_err(std::io::Error::other)?;
        bytes.clear();
        parent.write_tls(&mut bytes)?;
        child.read_tls(&mut bytes.as_slice())?;
        child.process_new_packets().map_err(std::io::Error::other)?;
    }
    Ok((child, parent))
}

fn server() -> (Scratch, Channel) {
    let (group, scratch) = (group(), Scratch::new());
    let (key, pem) = signature::SigningKey::generate(GROUP).unwrap();
    let issue = |key: &signature::SigningKey| {
        let validity = Validity::lasting(group.from, 3600);
        let leaf = group.issuing.channel(&name("srv.test"), Role::Server, &key.public().unwrap(), validity);
        certificates_pem(&[&leaf.unwrap(), group.issuing.certificate()]).unwrap()
    };
    private::write(&scratch.0.join("channel.pem"), issue(&key).as_bytes()).unwrap();
    private::write(&scratch.0.join("channel.key"), pem.as_bytes()).unwrap();
    let vault = Vault::open(&scratch.0, 1).unwrap();
    let load = || Channel::load(&vault, &scratch.0, group.trusted(), &name("srv.test"), Role::Server);
    assert_eq!(load().unwrap().key, key.id());
    // A pair is changed by one rename, and good before it and after.
    let (next, pem) = signature::SigningKey::generate(GROUP).unwrap();
    private::write(&scratch.0.join(key_file("channel", next.id())), pem.as_bytes()).unwrap();
    assert_eq!(load().unwrap().key, key.id());
    private::write(&scratch.0.join("channel.pem"), issue(&next).as_bytes()).unwrap();
    let channel = load().unwrap();
    assert_eq!((channel.key, channel.not_before, channel.not_after), (next.id(), group.from, group.from + 3600));
    (scratch, channel)
}

#[test]
fn a_client_of_one_protocol_never_ends_up_in_the_other() {
    let (_scratch, channel) = server();
    let (child, parent) = shake(join_dial().unwrap(), join_listen().unwrap()).unwrap();
    for chosen in [child.alpn_protocol(), parent.alpn_protocol()] {
        assert_eq!(chosen, Some(ALPN_JOIN));
    }
    let exchange = child.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(exchange, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(child.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert!(parent.peer_certificates().is_none() && parent.server_name().is_none());
    let dial = |own, kerberos| Dial::new(&name("srv.test"), own, kerberos).unwrap();
    let proved = |dial: &Dial, listen| {
        let (child, _) = shake(dial.config.as_ref().clone(), listen).ok()?;
        dial.proved(child.alpn_protocol())
    };
    let certificate = dial(Some(&channel), false);
    assert_eq!(proved(&certificate, channel.listen().unwrap()), Some(Proved::Certificate));
    assert!(shake(join_dial().unwrap(), channel.listen().unwrap()).is_err());
    assert!(proved(&certificate, join_listen().unwrap()).is_none());
    assert!(proved(&certificate, kerberos_listen().unwrap()).is_none());

    let kerberos = dial(None, true);
    assert_eq!(proved(&kerberos, kerberos_listen().unwrap()), Some(Proved::Nothing));
    assert!(
        proved(&kerberos, channel.listen().unwrap()).is_none() && proved(&kerberos, join_listen().unwrap()).is_none()
    );
    let (by_certificate, by_kerberos) = (dial(Some(&channel), true), dial(Some(&channel), true));
    assert_eq!(proved(&by_certificate, channel.listen().unwrap()), Some(Proved::Certificate));
    assert_eq!(proved(&by_kerberos, kerberos_listen().unwrap()), Some(Proved::Nothing));
}

#[test]
fn a_listener_whose_certificate_and_protocol_do_not_belong_together_has_proved_nothing() {
    let (_scratch, channel) = server();
    let shaken = |mut listen: ServerConfig, alpn: &[u8]| {
        let dial = Dial::new(&name("srv.test"), Some(&channel), true).unwrap();
        listen.alpn_protocols = vec![alpn.to_vec()];
        let (child, _) = shake(dial.config.as_ref().clone(), listen).unwrap();
        dial.proved(child.alpn_protocol())
    };
    // The control: as they belong.
    assert_eq!(shaken(kerberos_listen().unwrap(), ALPN_KERBEROS), Some(Proved::Nothing));
    assert_eq!(shaken(kerberos_listen().unwrap(), ALPN_CERTIFICATE), None);
    assert_eq!(shaken(channel.listen().unwrap(), ALPN_KERBEROS), None);
}
