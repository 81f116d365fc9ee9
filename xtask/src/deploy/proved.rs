//! Which demo the last whole proof was about. The proofs remember when each row held, but not where: after `down` and an
//! interrupted `up`, what they remember would be about clusters that are gone.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::Key;
use crate::paths::Paths;

/// Whether the last proof that ran to its end was about this demo.
pub fn was(paths: &Paths, demo: &Key) -> bool {
    fs::read_to_string(note(paths)).is_ok_and(|text| text.trim() == demo.short())
}

/// Notes that a proof of every row ran to its end.
///
/// # Errors
/// When the note cannot be written.
pub fn write(paths: &Paths, demo: &Key) -> Result<()> {
    let file = note(paths);
    let folder = file.parent().unwrap_or(&paths.target);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, demo.short()))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn note(paths: &Paths) -> PathBuf {
    paths.target.join("xtask/proved")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Inputs;

    #[test]
    fn only_the_demo_that_was_proved_last_counts_as_proved() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            target: dir.path().to_path_buf(),
            ..Paths::find().unwrap()
        };
        let demo = |container: &str| Inputs::new().text("cluster", container).key();
        assert!(!was(&paths, &demo("a")));
        write(&paths, &demo("a")).unwrap();
        assert!(was(&paths, &demo("a")));
        assert!(!was(&paths, &demo("b")));
    }
}
