//! Ids that a repetition finds again.

use uuid::Uuid;

/// The track that this file of this athlete becomes: the same file again is the same track.
///
/// `digest` is the SHA-256 of the file.
#[must_use]
pub fn track_of_file(subject: Uuid, digest: &[u8; 32]) -> Uuid {
    let mut name = b"track:".to_vec();
    name.extend_from_slice(digest);
    Uuid::new_v5(&subject, &name)
}

/// The batch that the `index`-th part of a file is stored as.
#[must_use]
pub fn batch_of_file(track: Uuid, index: u32) -> Uuid {
    Uuid::new_v5(&track, &index.to_be_bytes())
}

/// The event that carries a batch. A repeated batch is the same event, and the sealed chunk is bound to this id, so a
/// chunk that was moved to another row does not open.
#[must_use]
pub fn event_of_batch(subject: Uuid, track: Uuid, batch: Uuid) -> Uuid {
    let mut name = b"batch:".to_vec();
    name.extend_from_slice(track.as_bytes());
    name.extend_from_slice(batch.as_bytes());
    Uuid::new_v5(&subject, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_of_another_athlete_is_another_track() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(track_of_file(one, &[7; 32]), track_of_file(one, &[7; 32]));
        assert_ne!(track_of_file(one, &[7; 32]), track_of_file(other, &[7; 32]));
        assert_ne!(track_of_file(one, &[7; 32]), track_of_file(one, &[8; 32]));
    }

    #[test]
    fn a_batch_is_bound_to_its_athlete_and_its_track() {
        let ids = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 2, 4)].map(|(subject, track, batch)| {
            event_of_batch(Uuid::from_u128(subject), Uuid::from_u128(track), Uuid::from_u128(batch))
        });
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id), "{index}");
        }
    }
}
