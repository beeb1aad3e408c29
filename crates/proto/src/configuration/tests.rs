use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn configuration() -> Configuration {
    let text = "[pack]\r\nname = \"a&b\"\t# <x> ]]> 'y' \u{e4}\u{1f600}\n\n  \n";
    Configuration {
        cookie: Digest([0xab; 32]),
        version: 7,
        content: Content {
            group: name("north"),
            name: name("web1.test"),
            role: Role::Agent,
            recovery: Some("MFkw+/==".into()),
            disowned: vec![[1; 16], [0xef; 16]],
            parents: vec![name("gw2.test"), name("gw1.test")],
            run_as: vec![
                RunAs { profile: "db".into(), account: Ok(AccountId([1; 16])) },
                RunAs { profile: "web".into(), account: Err(Missing::Undistributed) },
            ],
            accounts: vec![SecureData {
                account: AccountId([1; 16]),
                name: "db-login".into(),
                kind: "basic".into(),
                user: Some("o'brien".into()),
                version: 3,
                key: [0xcd; 16],
                sealed: "MIIB+/==".into(),
            }],
            packs: vec![("base".into(), text.into()), ("empty".into(), "".into())],
        },
    }
}

#[test]
fn a_configuration_comes_back_as_it_was_whatever_its_packs_say() {
    let before = configuration();
    let xml = before.to_xml();
    assert_eq!(Configuration::parse(xml.as_bytes()), Ok(before.clone()));
    let parts = [before.content.head_to_xml(Form::Sealed), packs_to_xml(&before.content.packs)];
    assert_eq!(document(&before.cookie, 7, &[&parts[0], &parts[1]]), xml);
    assert!(xml.len() < parts[0].len() + parts[1].len() + ENVELOPE);
    let unsealed = before.content.to_xml(Form::Unsealed);
    assert_eq!(unsealed.replacen("></SecureData>", ">MIIB+/==</SecureData>", 1), before.content.to_xml(Form::Sealed));
    let nothing = Content { run_as: vec![], accounts: vec![], ..before.content.clone() };
    let bare = Content { recovery: None, disowned: vec![], parents: vec![], packs: vec![], ..nothing };
    let bare = Configuration { content: bare, version: u64::MAX, ..before };
    assert_eq!(Configuration::parse(bare.to_xml().as_bytes()), Ok(bare));
    assert!(can_carry("a\t\r\n\u{e4}\u{1f600}") && !can_carry("\0") && !can_carry("\u{ffff}"));
}

#[test]
fn what_does_not_belong_there_is_refused_with_its_place() {
    let good = configuration().to_xml();
    let element = |from: &str, to: &str| {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        Configuration::parse(bad.as_bytes()).unwrap_err()
    };
    let state = good.find("<Cookie>").unwrap() as u64;
    for (from, to, said) in [
        ("<Message>", "<!DOCTYPE Message [<!ENTITY a \"b\">]><Message>", "document type declaration"),
        ("<Cookie>", "<!DOCTYPE a><Cookie>", "document type declaration"),
        ("<Version>", "<Version><!DOCTYPE a>", "document type declaration"),
        ("<Message>", "<Massage>", "`Message` must stand here"),
        ("<State>", "<State a=\"b\">", "unknown attribute `a`"),
        ("<Cookie>", "<Secret/><Cookie>", "unknown element `Secret`"),
        ("<Cookie>", "<Version>1</Version><Cookie>", "`Version` a second time"),
        ("<Parent Name=\"gw1.test\"/>", "<Parent Name=\"gw2.test\"/>", "parent gw2.test a second time"),
        ("<Pack Name=\"empty\">", "<Pack Name=\"base\">", "a second time"),
        ("<Pack Name=\"empty\">", "<Pack Name=\"em&#10;pty\">", "is no name of a pack"),
        ("<Recovery>", "<Recovery>a</Recovery><Recovery>", "`Recovery` a second time"),
        ("Profile=\"web\"", "Profile=\"db\"", "a second time"),
        ("Profile=\"web\"", "Profile=\"W\"", "is no name of a profile"),
        ("undistributed", "lost", "is no reason"),
        ("<SecureData Account=\"01", "<SecureData Account=\"02", "stands for an account that is not there"),
        ("<SecureData Account=\"01", "<SecureData Account=\"1", "is no id"),
        ("Version=\"3\"", "Version=\"03\"", "is no version"),
        ("<Parent Name=\"gw1.test\"/>", "<Parent/>", "no attribute `Name`"),
        ("<Parent Name=\"gw1.test\"/>", "<Parent Name=\"*\"/>", "is no host name"),
        ("<Parent Name=\"gw1.test\"/>", "<Parent Name=\"gw1.test\">a</Parent>", "text in `Parent`"),
        ("Role=\"agent\"", "Role=\"root\"", "is no role"),
        ("<Version>7", "<Version>+7", "is no version"),
        ("<Cookie>ab", "<Cookie>AB", "is no cookie"),
        ("<Version>7", "<Version>&lol;7", "unknown entity `lol`"),
        ("<Version>7", "<Version><b/>7", "only text"),
        ("<Cookie>", "a<Cookie>", "text between elements"),
        ("<Cookie>", "<!-- a --><Cookie>", "a comment"),
        ("<Cookie>", "<?php ?><Cookie>", "a processing instruction"),
        ("</Message>", "</Message><Message/>", "more than one `Message`"),
        ("</State>", "</State><State/>", "more than one `State`"),
    ] {
        let error = element(from, to);
        assert!(matches!(error, ConfigurationError::Element(..)), "{from}: {error}");
        assert!(error.to_string().contains(said), "{from}: {error}");
    }
    let secret = element("<Cookie>", "<Secret/><Cookie>");
    assert_eq!(secret, ConfigurationError::Element(state, "unknown element `Secret`".into()));
    for (from, to) in [("</State>", "</Stat>"), ("Name=\"gw1.test\"", "Name=\"gw1.test\" Name=\"gw1.test\"")] {
        assert!(matches!(element(from, to), ConfigurationError::Xml(..)), "{from}");
    }
    for (from, what) in [("Cookie", "Cookie"), ("Version", "Version")] {
        let (begin, end) = (good.find(&format!("<{from}>")).unwrap(), good.find(&format!("</{from}>")).unwrap());
        let without = [&good[..begin], &good[end + from.len() + 3..]].concat();
        assert_eq!(Configuration::parse(without.as_bytes()), Err(ConfigurationError::Missing(what)));
    }
    for end in 0..good.len() - 1 {
        assert!(Configuration::parse(&good.as_bytes()[..end]).is_err(), "cut at {end}");
    }
    assert!(Configuration::parse(b"\xff").is_err());
}

#[test]
fn more_than_the_limit_is_refused_unread() {
    let mut document = vec![b' '; LIMIT];
    assert_ne!(Configuration::parse(&document), Err(ConfigurationError::TooLong));
    document.push(b' ');
    assert_eq!(Configuration::parse(&document), Err(ConfigurationError::TooLong));
}
