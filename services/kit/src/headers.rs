//! Every header that our code reads or writes, on a request, an answer or a Kafka record. No other module names one (the
//! gateway's lists of what it takes away apart), so a new header is a decision made here and in the catalogue.

use http::HeaderName;

macro_rules! headers {
    ($( $(#[$doc:meta])* $name:ident = $text:literal; )+) => {
        $( $(#[$doc])* pub const $name: HeaderName = HeaderName::from_static($text); )+

        /// The names of all of them.
        pub const NAMES: &[&str] = &[ $( $text ),+ ];
    };
}

headers! {
    /// The methods that an address takes.
    ALLOW = "allow";
    /// The token.
    AUTHORIZATION = "authorization";
    /// How long an answer may be kept.
    CACHE_CONTROL = "cache-control";
    /// How much comes.
    CONTENT_LENGTH = "content-length";
    /// What comes.
    CONTENT_TYPE = "content-type";
    /// The version of what is shown.
    ETAG = "etag";
    /// A client that wants to be told before it sends its body.
    EXPECT = "expect";
    /// Whom a request is for.
    HOST = "host";
    /// A key of the caller's, by which a repeated request is recognised.
    IDEMPOTENCY_KEY = "idempotency-key";
    /// Set on an answer that was given before.
    IDEMPOTENCY_REPLAYED = "idempotency-replayed";
    /// The version that a change was made for.
    IF_MATCH = "if-match";
    /// Where what was made can be read.
    LOCATION = "location";
    /// The correlation id: opaque, at most 64 characters of `[A-Za-z0-9._-]`.
    CORRELATION_ID = "meridian-correlation-id";
    /// Between services: the epoch of the tenant's home.
    EPOCH = "meridian-epoch";
    /// Between services: on whose behalf.
    SUBJECT = "meridian-subject";
    /// The tenant, where there is no token yet; between services: the athlete's.
    TENANT = "meridian-tenant";
    /// Between services: the SHA-256 of a file.
    UPLOAD_DIGEST = "meridian-upload-digest";
    /// Who may see the workout that a file becomes.
    VISIBILITY = "meridian-visibility";
    /// When to come again.
    RETRY_AFTER = "retry-after";
    /// The trace context, as the W3C recommends it.
    TRACEPARENT = "traceparent";
    /// How to prove who one is.
    WWW_AUTHENTICATE = "www-authenticate";
}
