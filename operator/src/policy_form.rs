//! How a compiled policy lies in a RegionStack.
//!
//! Plain, it is JSON like everything else. An API server takes every field of that apart at each write of the object, its
//! status included, and a region that knows a hundred others pays twenty times what the change is worth
//! (docs/adr/0014). So it lies packed where the region says that it reads that: two texts, of which one holds what is the
//! region's own, and the other directory and peers, which only change when a region or somebody's home does.
//!
//! Whoever reads a stack opens it first, and sees the plain form either way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use meridian_policy::{DirectoryEntry, Peer, RegionPolicy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::packed::decompressed;

/// What a region that reads the packed form says in `status.policyForms`; and the field that holds it.
pub const PACKED: &str = "packed";
/// The region's own part.
const OWN: &str = "own";
/// What it knows of the others.
const OTHERS: &str = "others";
/// Longer texts than any API server keeps are no policy.
const LONGEST: usize = 64 << 20;
/// Of compression: a stack is written far more often than what is in it changes.
const LEVEL: i32 = 3;

/// What a policy says of other regions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Others {
    /// All regions.
    pub directory: Vec<DirectoryEntry>,
    /// The other ones.
    pub peers: Vec<Peer>,
}

impl Others {
    /// Takes it out of a policy.
    #[must_use]
    pub fn taken_from(policy: &mut RegionPolicy) -> Self {
        Self {
            directory: std::mem::take(&mut policy.directory),
            peers: std::mem::take(&mut policy.peers),
        }
    }
}

/// Why a policy cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the policy cannot be read: {0}")]
pub struct Unreadable(String);

/// Whether the region of this stack says that it reads the packed form.
#[must_use]
pub fn is_read_by(stack: &Value) -> bool {
    let forms = stack["status"]["policyForms"].as_array();
    forms.is_some_and(|forms| forms.iter().any(|form| form == PACKED))
}

/// Whether this policy is packed, or could only be opened in part.
#[must_use]
pub fn is_packed(policy: &Value) -> bool {
    policy.get(PACKED).is_some()
}

/// Whether this policy, which was to be opened, could not be: nobody knows what is in it.
#[must_use]
pub fn is_closed(policy: &Value) -> bool {
    !policy[PACKED][OWN].is_null()
}

/// The packed form of a policy without directory and peers, and of what it says of others.
///
/// # Errors
/// When it cannot be compressed.
pub fn packed(policy: &RegionPolicy, others: &str) -> Result<Value, Unreadable> {
    Ok(json!({ PACKED: { OWN: text(policy)?, OTHERS: others } }))
}

/// What is told of other regions, as [`packed`] takes it.
///
/// # Errors
/// When it cannot be compressed.
pub fn packed_others(others: &Others) -> Result<String, Unreadable> {
    text(others)
}

/// The text of a packed policy that holds what it says of others.
#[must_use]
pub fn others_of(policy: &Value) -> Option<&str> {
    policy[PACKED][OTHERS].as_str()
}

/// Opens what is the region's own; directory and peers stay packed. A plain policy stays as it is.
///
/// # Errors
/// When it is damaged; then it stays as it is, too.
pub fn open_own(policy: &mut Value) -> Result<(), Unreadable> {
    let Some(own) = policy[PACKED][OWN].as_str() else {
        return Ok(());
    };
    let mut own: Value = content(own)?;
    own[PACKED] = json!({ OTHERS: others_of(policy) });
    *policy = own;
    Ok(())
}

/// Opens all of it. A plain policy stays as it is.
///
/// # Errors
/// When it is damaged.
pub fn open(policy: &mut Value) -> Result<(), Unreadable> {
    open_own(policy)?;
    if !is_packed(policy) {
        return Ok(());
    }
    let silent = || Unreadable("it says nothing of other regions".to_owned());
    let others: Map<String, Value> = content(others_of(policy).ok_or_else(silent)?)?;
    if let Some(policy) = policy.as_object_mut() {
        policy.remove(PACKED);
        policy.extend(others);
    }
    Ok(())
}

/// The policy, in whichever form it lies; an edge that is not understood is held, see [`RegionPolicy::read`].
///
/// # Errors
/// When it is damaged, none, or not understood even without its edges.
pub fn read(policy: &Value) -> Result<RegionPolicy, Unreadable> {
    let mut policy = policy.clone();
    open(&mut policy)?;
    RegionPolicy::read(policy).map_err(|error| Unreadable(error.to_string()))
}

/// What it says of the other regions, in whichever form it lies; nothing where that cannot be read.
#[must_use]
pub fn peers(policy: &Value) -> Vec<Value> {
    let list = |of: &Value| of["peers"].as_array().cloned().unwrap_or_default();
    match others_of(policy) {
        Some(others) => content::<Value>(others).map(|others| list(&others)).unwrap_or_default(),
        None => list(policy),
    }
}

fn text(part: &impl Serialize) -> Result<String, Unreadable> {
    let json = serde_json::to_vec(part).map_err(|error| Unreadable(error.to_string()))?;
    let bytes = zstd::bulk::compress(&json, LEVEL).map_err(|error| Unreadable(error.to_string()))?;
    Ok(BASE64.encode(bytes))
}

fn content<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Unreadable> {
    let unreadable = |error: &dyn std::fmt::Display| Unreadable(error.to_string());
    let bytes = BASE64.decode(text).map_err(|error| unreadable(&error))?;
    let length = zstd::zstd_safe::get_frame_content_size(&bytes).ok().flatten();
    let length = length.and_then(|length| usize::try_from(length).ok());
    let opened = length.filter(|length| *length <= LONGEST);
    let opened = opened.and_then(|length| decompressed(&bytes, length));
    let json = opened.ok_or_else(|| unreadable(&"it is damaged, or longer than any policy"))?;
    serde_json::from_slice(&json).map_err(|error| unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::source;
    use crate::plugin::world::World;
    use crate::region::stack::validate::example;

    fn parts(mut policy: RegionPolicy) -> (RegionPolicy, String) {
        let others = Others::taken_from(&mut policy);
        (policy, packed_others(&others).unwrap())
    }

    fn pack(policy: &RegionPolicy) -> Value {
        let (own, others) = parts(policy.clone());
        packed(&own, &others).unwrap()
    }

    #[test]
    fn what_is_packed_reads_as_it_was_and_so_does_what_is_not() {
        let policy = example().policy;
        let plain = serde_json::to_value(&policy).unwrap();
        for mut form in [plain.clone(), pack(&policy)] {
            assert_eq!(read(&form).unwrap(), policy);
            assert_eq!(peers(&form), plain["peers"].as_array().unwrap().clone());
            open(&mut form).unwrap();
            assert_eq!(form, plain);
        }
    }

    #[test]
    fn what_is_opened_in_part_is_read_to_the_end() {
        let policy = example().policy;
        let mut form = pack(&policy);
        open_own(&mut form).unwrap();
        assert_eq!(form["homes"][0]["tenant"], "stride-eu");
        assert!(is_packed(&form) && form["peers"].as_array().unwrap().is_empty());
        assert_eq!(peers(&form).len(), 1);
        assert_eq!(read(&form).unwrap(), policy);
    }

    #[test]
    fn edges_that_are_closing_or_held_lie_in_the_regions_own_part() {
        let mut policy = example().policy;
        let id = json!("stride-eu.health.us");
        let cut = json!({"id": id, "tenant": "stride-eu", "importer_tenant": "stride-us", "from": "eu", "to": "us",
            "revision": 3});
        policy.closing = vec![serde_json::from_value(cut).unwrap()];
        policy.held = vec![serde_json::from_value(json!({"id": id, "because": "it says something new"})).unwrap()];
        let mut form = pack(&policy);
        assert_eq!(read(&form).unwrap(), policy);
        open_own(&mut form).unwrap();
        assert_eq!((&form["closing"][0]["id"], &form["held"][0]["id"]), (&id, &id));
    }

    #[test]
    fn an_edge_that_is_not_understood_is_held_in_whichever_form_it_lies() {
        let stack = source::stack(World::settled().held("eu"), &"eu".parse().unwrap()).unwrap();
        let policy = read(&stack["spec"]["policy"]).unwrap();
        let edge = policy.exports[0].clone();
        let (own, others) = parts(policy);
        let mut own = serde_json::to_value(&own).unwrap();
        own["exports"][0]["adults_only"] = json!(true);
        let policy = read(&json!({ PACKED: { OWN: text(&own).unwrap(), OTHERS: others } })).unwrap();
        assert!(policy.exports.is_empty() && policy.holds(&edge.id));
    }

    #[test]
    fn what_a_newer_hub_adds_is_kept() {
        let (own, others) = parts(example().policy);
        let mut own = serde_json::to_value(&own).unwrap();
        own["tomorrow"] = json!(["b"]);
        let mut form = json!({ PACKED: { OWN: text(&own).unwrap(), OTHERS: others } });
        open(&mut form).unwrap();
        assert_eq!(form["tomorrow"][0], "b");
    }

    #[test]
    fn what_is_damaged_is_not_read_and_not_taken_for_an_empty_policy() {
        let mut form = pack(&example().policy);
        form[PACKED][OWN] = json!("AAAA");
        let before = form.clone();
        assert!(open(&mut form).is_err() && read(&form).is_err());
        assert_eq!(form, before);
        assert!(read(&json!({ PACKED: {} })).is_err());
        assert!(peers(&json!({ PACKED: { OTHERS: "!" } })).is_empty());
    }

    #[test]
    fn only_a_region_that_says_so_reads_it() {
        assert!(is_read_by(&json!({"status": {"policyForms": ["tomorrow", "packed"]}})));
        assert!(!is_read_by(&json!({"status": {"policyForms": []}})));
        assert!(!is_read_by(&Value::Null));
    }
}
