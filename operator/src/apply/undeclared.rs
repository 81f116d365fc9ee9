//! Server-side apply refuses an object whole for one field that its definition does not declare. Pure.

use super::ApplyError;
use serde_json::Value;

/// How the API server says it: `… .status.images: field not declared in schema`.
const SAID: &str = ": field not declared in schema";

/// Takes the field of `status` that the API server does not know out of it; false when the error is another one.
pub(super) fn leave_out(status: &mut Value, error: &ApplyError) -> bool {
    let ApplyError::Api { source, .. } = error else {
        return false;
    };
    let kube::Error::Api(said) = source.as_ref() else {
        return false;
    };
    field(&said.message).is_some_and(|field| status.as_object_mut().is_some_and(|map| map.remove(field).is_some()))
}

/// The field of the status, at its top, in which something is not declared.
fn field(message: &str) -> Option<&str> {
    let (before, _) = message.split_once(SAID)?;
    let (_, path) = before.rsplit_once(" .status.")?;
    path.split(['.', '[']).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ObjectKey, REGION_STACK};
    use serde_json::json;

    fn refused(message: &str) -> ApplyError {
        let status = kube::core::Status::failure(message, "");
        ApplyError::Api {
            verb: "status",
            key: Box::new(ObjectKey::cluster(REGION_STACK, "eu")),
            source: Box::new(kube::Error::Api(Box::new(status))),
        }
    }

    #[test]
    fn the_field_that_is_not_declared_is_left_out_and_nothing_else() {
        let mut status = json!({"images": {"meridian": "m"}, "counts": {}});
        let message = "failed to create typed patch object (/eu; meridian.sh/v1alpha1, Kind=RegionStack): \
                       .status.images: field not declared in schema";
        assert!(leave_out(&mut status, &refused(message)));
        assert_eq!(status, json!({"counts": {}}));
        assert!(!leave_out(&mut status, &refused(message)), "it is not tried for ever");
        assert!(!leave_out(&mut status, &refused("the object has been modified")));
        assert_eq!(
            field("x: .status.acks[0].role: field not declared in schema"),
            Some("acks")
        );
    }
}
