//! When what a server issues and is believed by is to be made anew. No clock is read here.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use wardline_secrets::tls;

/// When a certificate that ends then is to be made anew: when less than this is left of it. Never when a new one would not
/// last longer, because what it leads to ends. All in seconds.
pub(super) const fn due(ends: u64, left: u64, issuer: u64) -> u64 {
    if ends >= issuer { u64::MAX } else { ends.saturating_sub(left).saturating_add(1) }
}

/// How long a certificate is valid, and when it ends, seconds; both 0 when it is none.
pub(super) fn life(certificate: &[u8]) -> (u64, u64) {
    let facts = tls::facts(&[CertificateDer::from(certificate)]);
    facts.map_or((0, 0), |(_, from, to)| (to.saturating_sub(from), to))
}

/// When an issuing CA is to be made anew: when a third of its life is left, and so early that no channel certificate is cut
/// short by its end, nor the next one.
pub(super) fn issuing_due(certificate: &[u8], lifetime: Duration, root: u64) -> u64 {
    let (life, ends) = life(certificate);
    due(ends, (life / 3).max(lifetime.as_secs().saturating_mul(2)), root)
}

/// When a duty certificate is to be made anew: when a third of its life is left.
pub(super) fn duty_due(certificate: &[u8], root: u64) -> u64 {
    let (life, ends) = life(certificate);
    due(ends, life / 3, root)
}

#[cfg(test)]
mod tests {
    use wardline_secrets::authority::{RootAuthority, Validity};
    use wardline_secrets::signature::SigningKey;

    use super::*;

    #[test]
    fn a_certificate_is_due_at_a_third_of_its_life_before_its_end_unless_a_new_one_ended_no_later() {
        assert_eq!(due(1000, 30, 5000), 971);
        assert_eq!((due(1000, 30, 1000), due(10, 30, 1000)), (u64::MAX, 1));
    }

    #[test]
    fn an_issuing_ca_is_due_so_early_that_no_channel_certificate_is_cut_short() {
        let (root, _) = RootAuthority::create("north", Validity { from: 1000, to: 1_000_000 }).unwrap();
        let (issuing, _) = root.issue_ca(Validity { from: 1000, to: 10_000 }).unwrap();
        let after = |lifetime: u64, root| issuing_due(issuing.certificate(), Duration::from_secs(lifetime), root);
        assert_eq!((after(10, 1_000_000), after(1500, 1_000_000)), (7001, 7001));
        assert_eq!((after(1501, 1_000_000), after(9000, 1_000_000)), (6999, 1));
        assert_eq!(after(10, 10_000), u64::MAX);
        let key = SigningKey::generate(wardline_proto::GroupId([3; 16])).unwrap().0.public().unwrap();
        let server = "srv1.test".parse().unwrap();
        let duty = root.duty(&server, &key, Validity { from: 1000, to: 10_000 }).unwrap();
        assert_eq!((duty_due(&duty, 1_000_000), duty_due(&duty, 10_000)), (7001, u64::MAX));
    }
}
