//! What evidence says about an edge. None of it names a person.

use meridian_kit::evidence::Entry;
use meridian_policy::{CompiledEdge, EdgeId, PolicyRevision};

/// The rule of an entry about an edge that was opened.
pub const OPENED: &str = "opened";
/// The rule of an entry about copies that left and were not taken, or not known to be.
pub const NOT_TAKEN: &str = "not-taken";
/// The rule of an entry about copies that a cut edge's purge has deleted everywhere.
pub const PURGED: &str = "purged";
/// The rule of an entry about copies that outlived their own expiry.
pub const COPY_EXPIRED: &str = "copy-expired";

/// The rule of an entry about an edge that was cut by `rule`.
pub fn cut_by(rule: impl std::fmt::Display) -> String {
    format!("cut:{rule}")
}

/// What an entry about the edge `id` says of it: with `edge`, as the policy of `revision` has it, what makes it lawful too.
pub fn along(entry: Entry, id: &EdgeId, edge: Option<&CompiledEdge>, revision: PolicyRevision) -> Entry {
    let entry = Entry {
        edge: Some(id.to_string()),
        revision: Some(revision.0),
        ..entry
    };
    let Some(edge) = edge else { return entry };
    let purposes: Vec<&str> = edge.purposes.iter().map(|purpose| purpose.as_str()).collect();
    Entry {
        from: Some(edge.from.to_string()),
        to: Some(edge.to.to_string()),
        exporter: Some(edge.exporter.to_string()),
        importer: Some(edge.importer.to_string()),
        class: Some(edge.class.to_string()),
        purpose: Some(purposes.join(",")).filter(|purposes| !purposes.is_empty()),
        rule: Some(edge.rule.clone()).filter(|rule| !rule.is_empty()),
        mechanism: Some(edge.mechanism.to_string()),
        instrument: Some(edge.instrument.clone()).filter(|instrument| !instrument.is_empty()),
        ..entry
    }
}

#[cfg(test)]
mod tests {
    use meridian_kit::evidence::Kind;
    use uuid::Uuid;

    use super::*;
    use crate::domain::fixtures::{at, edge};

    #[test]
    fn an_entry_says_what_made_it_lawful_and_can_be_written_down() {
        let plain = Entry::new(Uuid::nil(), at(0), Kind::Transfer);
        let edge = edge(&["distance_meters"]);
        let told = along(plain.clone(), &edge.id, Some(&edge), PolicyRevision(4));
        assert_eq!(
            (
                told.mechanism.as_deref(),
                told.instrument.as_deref(),
                told.importer.as_deref()
            ),
            (Some("Certification"), Some("eu-us-dpf"), Some("stride-america"))
        );
        assert_eq!(
            (told.purpose.as_deref(), told.revision),
            (Some("cross-border-sharing"), Some(4))
        );
        assert_eq!(Entry::decode(&told.encode().unwrap()), Ok(told));
        let gone = along(plain, &edge.id, None, PolicyRevision(4));
        assert_eq!((gone.edge.as_deref(), gone.mechanism), (Some(edge.id.as_str()), None));
    }
}
