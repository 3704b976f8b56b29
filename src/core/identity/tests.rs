//! What is an identity, and which rule says why not.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const UUID: &str = "0190a5b4-7c3e-7d21-9f00-3b1c2d4e5f60";

fn agent(tenant: &str) -> String {
    format!("outrelay://{tenant}/agent/{UUID}")
}

#[test]
fn an_agents_uri_gives_its_tenant_and_uuid() {
    let uri: AgentUri = agent("acme-2").parse().unwrap();
    assert_eq!(uri.tenant().as_str(), "acme-2");
    assert_eq!(uri.uuid(), UUID);
    assert_eq!(uri.to_string(), agent("acme-2"));
    assert_eq!(AgentUri::new(uri.tenant(), UUID).unwrap(), uri);
}

#[test]
fn a_relays_uri_gives_its_region_and_id() {
    let uri: RelayUri = "outrelay://eu-1/relay/r1".parse().unwrap();
    assert_eq!((uri.region().as_str(), uri.id().as_str()), ("eu-1", "r1"));
    assert_eq!(RelayUri::new(uri.region(), uri.id()), uri);
    assert_eq!(uri.as_str(), "outrelay://eu-1/relay/r1");
}

#[test]
fn the_role_decides_what_an_identity_is() {
    let text = agent("acme");
    let identity: Identity = text.parse().unwrap();
    assert!(matches!(identity, Identity::Agent(_)));
    assert_eq!(identity.to_string(), text);
    let relay: Identity = "outrelay://eu/relay/agent".parse().unwrap();
    assert!(matches!(relay, Identity::Relay(_)));
}

#[test]
fn the_other_role_is_not_taken_for_ones_own() {
    let error = "outrelay://eu/relay/r1".parse::<AgentUri>().unwrap_err();
    assert!(matches!(error, IdentityError::WrongRole { wanted: "an agent", .. }));
    let error = agent("acme").parse::<RelayUri>().unwrap_err();
    assert!(matches!(error, IdentityError::WrongRole { wanted: "a relay", .. }));
}

#[test]
fn a_label_has_1_to_63_characters_and_starts_with_a_letter_or_digit() {
    let longest = "a".repeat(63);
    for good in ["a", "0", "a-", "a--b", "9z", longest.as_str()] {
        assert!(good.parse::<Tenant>().is_ok(), "{good}");
    }
    let too_long = "a".repeat(64);
    for bad in ["", "-a", "A", "a_b", "a.b", "ä", "a ", "a\n", "a*", "a%20", too_long.as_str()] {
        let error = bad.parse::<Region>().unwrap_err();
        assert!(matches!(error, IdentityError::Label { part: "region", .. }), "{bad}");
    }
}

#[test]
fn every_other_shape_is_refused_by_the_rule_it_breaks() {
    type Check = fn(&IdentityError) -> bool;
    let scheme: Check = |error| matches!(error, IdentityError::Scheme(_));
    let segments: Check = |error| matches!(error, IdentityError::Segments(_));
    let role: Check = |error| matches!(error, IdentityError::Role(_));
    let label: Check = |error| matches!(error, IdentityError::Label { .. });
    let uuid: Check = |error| matches!(error, IdentityError::Uuid(_));
    let cases = [
        (String::new(), scheme),
        ("spiffe://acme/agent/x".into(), scheme),
        ("OUTRELAY://acme/agent/x".into(), scheme),
        ("outrelay:acme/agent/x".into(), scheme),
        (format!(" {}", agent("acme")), scheme),
        ("outrelay://".into(), segments),
        ("outrelay://acme/agent".into(), segments),
        (format!("{}/", agent("acme")), segments),
        (format!("{}/x", agent("acme")), segments),
        (format!("outrelay:///acme/agent/{UUID}"), segments),
        (format!("outrelay://acme//{UUID}"), role),
        (format!("outrelay://acme/Agent/{UUID}"), role),
        (format!("outrelay://acme/admin/{UUID}"), role),
        (agent(""), label),
        (agent("user@acme"), label),
        (agent("acme:443"), label),
        ("outrelay://eu/relay/".into(), label),
        ("outrelay://eu/relay/r1?x".into(), label),
        ("outrelay://acme/agent/".into(), uuid),
        (format!("{}?x", agent("acme")), uuid),
        (format!("{}#x", agent("acme")), uuid),
    ];
    for (text, rule) in cases {
        let error = text.parse::<Identity>().unwrap_err();
        assert!(rule(&error), "{text}: {error}");
    }
}

#[test]
fn a_uuid_is_any_rfc_9562_text_and_nothing_else() {
    let tenant: Tenant = "acme".parse().unwrap();
    let upper = UUID.to_uppercase();
    for good in [UUID, upper.as_str(), "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
        assert_eq!(AgentUri::new(&tenant, good).unwrap().uuid(), good);
    }
    let simple = UUID.replace('-', "");
    let braced = format!("{{{UUID}}}");
    let urn = format!("urn:uuid:{UUID}");
    let shifted = "0190a5b47-c3e-7d21-9f00-3b1c2d4e5f60";
    let letter = UUID.replace('f', "g");
    let wide = UUID.replacen("01", "é", 1);
    for bad in [&simple, &braced, &urn, shifted, &letter, &wide, ""] {
        let error = AgentUri::new(&tenant, bad).unwrap_err();
        assert!(matches!(error, IdentityError::Uuid(_)), "{bad}");
    }
}

#[test]
fn a_certificate_must_name_exactly_one_uri_and_it_must_be_ours() {
    let text = agent("acme");
    let identity = Identity::from_uri_sans([text.as_str()]).unwrap();
    assert_eq!(identity.as_str(), text);
    assert_eq!(Identity::from_uri_sans([]), Err(IdentityError::NoUri));
    for second in [text.as_str(), "https://example.org/"] {
        let error = Identity::from_uri_sans([text.as_str(), second]).unwrap_err();
        assert!(matches!(error, IdentityError::SeveralUris(..)));
    }
    let error = Identity::from_uri_sans(["https://example.org/"]).unwrap_err();
    assert!(matches!(error, IdentityError::Scheme(_)));
}

#[test]
fn an_error_shows_the_text_shortened_and_escaped() {
    let hostile = format!("\x1b[31m{}", "ü".repeat(10_000));
    let shown = hostile.parse::<Identity>().unwrap_err().to_string();
    assert!(shown.chars().count() < 200, "{shown}");
    assert!(shown.starts_with("\"\\u{1b}[31mü"), "{shown}");
    assert!(shown.contains('…'));
    let label = "a_b".parse::<RelayId>().unwrap_err().to_string();
    assert_eq!(label, "the relay id \"a_b\" does not match [a-z0-9][a-z0-9-]{0,62}");
}

#[test]
fn a_map_keyed_by_uri_is_asked_by_text() {
    let uri: AgentUri = agent("acme").parse().unwrap();
    let map = HashMap::from([(uri, 1)]);
    assert_eq!(map.get(agent("acme").as_str()), Some(&1));
    assert_eq!(map.get(agent("other").as_str()), None);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_what_is_read_shows_itself(
        text in "(outrelay://)?[a-z0-9/-]{0,20}(agent|relay)?/.{0,40}",
    ) {
        if let Ok(identity) = text.parse::<Identity>() {
            prop_assert_eq!(identity.as_str(), text);
        }
    }

    #[test]
    fn well_formed_parts_make_a_uri_that_reads_back(
        tenant in "[a-z0-9][a-z0-9-]{0,62}",
        uuid in "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    ) {
        let uri = AgentUri::new(&tenant.parse().unwrap(), &uuid).unwrap();
        let read: AgentUri = uri.as_str().parse().unwrap();
        prop_assert_eq!((read.tenant().as_str(), read.uuid()), (tenant.as_str(), uuid.as_str()));
    }
}
