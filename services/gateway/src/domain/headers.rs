//! Which headers cross the gateway. Inwards: none that a client could use to pose as the gateway or as a peer. Outwards:
//! none that tell what stands behind it.

use http::{HeaderMap, HeaderName};

/// The largest sum of a request's header names and values in bytes.
pub const HEADER_LIMIT: usize = 16 * 1024;

/// Headers of a request that are taken away before it goes on.
const INBOUND: &[&str] = &[
    "forwarded",
    "via",
    "x-real-ip",
    "x-correlation-id",
    "x-request-id",
    "true-client-ip",
    "proxy-authorization",
    "te",
    "expect",
];

/// How the names of further headers begin that are taken away from a request.
const INBOUND_PREFIXES: [&str; 3] = ["x-forwarded-", INTERNAL, "x-meridian-"];
/// What only we may say to each other.
const INTERNAL: &str = "meridian-internal-";

/// Headers of an answer that are taken away before it goes out.
const OUTBOUND: &[&str] = &["server", "x-powered-by", "via", "traceparent", "tracestate"];

/// Sent with every answer (OWASP REST security cheat sheet): JSON is never a page, never sniffed, never cached.
pub const SECURITY: &[(&str, &str)] = &[
    ("strict-transport-security", "max-age=63072000; includeSubDomains"),
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-site"),
    ("cache-control", "no-store"),
];

/// The headers of a request that must not reach a service.
#[must_use]
pub fn not_for_services(headers: &HeaderMap) -> Vec<HeaderName> {
    let strips = |name: &str| INBOUND_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || INBOUND.contains(&name);
    headers.keys().filter(|name| strips(name.as_str())).cloned().collect()
}

/// The headers of an answer that must not leave.
#[must_use]
pub fn not_for_clients(headers: &HeaderMap) -> Vec<HeaderName> {
    let strips = |name: &str| name.starts_with(INTERNAL) || OUTBOUND.contains(&name);
    headers.keys().filter(|name| strips(name.as_str())).cloned().collect()
}

/// The size of the headers in bytes, as they count against [`HEADER_LIMIT`].
#[must_use]
pub fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_outside_speaks_as_the_gateway() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-forwarded-for",
            "X-Forwarded-Host",
            "meridian-internal-subject",
            "forwarded",
            "x-correlation-id",
            "accept",
        ] {
            headers.insert(
                HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).unwrap(),
                "x".parse().unwrap(),
            );
        }
        let mut stripped: Vec<_> = not_for_services(&headers)
            .into_iter()
            .map(|name| name.to_string())
            .collect();
        stripped.sort();
        let expected = [
            "forwarded",
            "meridian-internal-subject",
            "x-correlation-id",
            "x-forwarded-for",
            "x-forwarded-host",
        ];
        assert_eq!(stripped, expected);
    }

    #[test]
    fn catalogue_headers() {
        let security = SECURITY.iter().map(|(name, _)| *name);
        let prefixes: Vec<String> = INBOUND_PREFIXES.iter().map(|prefix| format!("{prefix}*")).collect();
        let names = INBOUND.iter().chain(OUTBOUND).copied().chain(security);
        meridian_kit::testing::catalogue::assert_names(
            meridian_policy::catalogue::FieldKind::Header,
            "gateway",
            names.chain(prefixes.iter().map(String::as_str)),
        );
    }
}
