//! What the rotations of the webhook's and of a region's CA have in common: how they are asked for, how long a step stands
//! before the next, and what is trusted at a time.

use std::time::Duration;

/// Replace the CA now. What is asked for is told apart by the value where the annotation stays.
pub(crate) const ROTATE_ANNOTATION: &str = "meridian.sh/rotate";
/// For how many seconds each step of a rotation stands before the next.
pub(crate) const PAUSE_ANNOTATION: &str = "meridian.sh/rotation-pause";
const PAUSE: Duration = Duration::from_secs(600);

const END: &str = "-----END CERTIFICATE-----";

/// The pause that the annotation's text says.
pub(crate) fn pause(text: Option<&str>, resource: &str) -> Duration {
    let Some(text) = text else { return PAUSE };
    match text.parse::<u64>() {
        Ok(seconds @ 1..=86_400) => Duration::from_secs(seconds),
        _ => {
            tracing::warn!(
                resource,
                "annotation {PAUSE_ANNOTATION} is no number of seconds from 1 to 86400; {} are taken",
                PAUSE.as_secs()
            );
            PAUSE
        }
    }
}

/// The certificates of a PEM bundle, one by one, in its order.
pub(crate) fn blocks(bundle: &str) -> Vec<String> {
    let ends = bundle.split_inclusive(END).map(str::trim);
    ends.filter(|block| block.ends_with(END))
        .map(|block| format!("{block}\n"))
        .collect()
}

/// By which a bundle is acknowledged.
pub(crate) fn digest(bundle: &str) -> String {
    let digest = crate::apply::digest(&serde_json::Value::from(bundle));
    digest.chars().take(16).collect()
}
