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
