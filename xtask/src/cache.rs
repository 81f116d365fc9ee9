//! Things that take long to make, kept under a hash of what they are made from.
//!
//! An entry is a folder. It is made in a temporary folder beside the entries and renamed when it is whole, so an
//! interrupted run leaves nothing that looks finished. A file lock keeps two runs from making the same entry at once.
//! Beside the entries stands what each one held when it was whole: one that lost a file since, or whose file was cut
//! short by a full disk or a power cut, is made anew.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::progress;

/// How many entries of a name are kept, so that going back and forth between two branches builds nothing.
const KEPT: usize = 3;

/// The hash of an entry's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Enough of the hash for a folder name or an image tag.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// Collects the inputs that decide what an entry holds.
#[derive(Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// Inputs of an entry; the processor's architecture is always one.
    pub fn new() -> Self {
        Self(Sha256::new()).text("arch", std::env::consts::ARCH)
    }

    /// A named value. Lengths are hashed too, so that two inputs cannot run into each other.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        for part in [name, value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part.as_bytes());
        }
        self
    }

    /// The content of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(mut self, path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = sha256_of(path)?;
        self = self.text(&name, &content);
        Ok(self)
    }

    /// Every file in a folder and below it, by name and content.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn folder(mut self, folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        files_below(folder, &mut files)?;
        files.sort();
        for file in &files {
            let name = file.strip_prefix(folder).unwrap_or(file);
            self = self.text("file", &name.display().to_string()).file(file)?;
        }
        Ok(self)
    }

    /// The key of what these inputs make.
    pub fn key(self) -> Key {
        Key(hex(&self.0.finalize()))
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("cannot read {}", folder.display()))?
            .path();
        if path.is_dir() {
            files_below(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The folder of all entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache in this folder, which may not exist yet.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// Where an entry is, or would be.
    pub fn path(&self, name: &str, key: &Key) -> PathBuf {
        self.root.join(name).join(key.short())
    }

    /// The entry; made by `make` in an empty folder when it is not there.
    ///
    /// # Errors
    /// Those of `make`, and those of the file system.
    pub fn entry(&self, name: &str, key: &Key, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let entry = self.path(name, key);
        if self.is_whole(name, key) {
            return Ok(entry);
        }
        let _lock = self.lock(name)?;
        if self.is_whole(name, key) {
            return Ok(entry);
        }
        if entry.exists() {
            progress::say(&format!("{} lost something: it is made anew", entry.display()));
            remove_tree(&entry)?;
        }
        let half_made = self.root.join("tmp").join(format!("{name}-{}", key.short()));
        remove_tree(&half_made)?;
        create(&half_made)?;
        if let Err(error) = make(&half_made) {
            // What failed for want of space must not go on taking it.
            remove_tree(&half_made)?;
            return Err(error);
        }
        let contents = self.contents(name, key);
        create(&self.root.join("contents"))?;
        fs::write(&contents, listed(&half_made)?).with_context(|| format!("cannot write {}", contents.display()))?;
        create(&self.root.join(name))?;
        fs::rename(&half_made, &entry)
            .with_context(|| format!("cannot put the finished {name} into the cache at {}", entry.display()))?;
        self.prune(name)?;
        Ok(entry)
    }

    /// Whether an entry is there and holds what it held when it was made.
    pub fn is_whole(&self, name: &str, key: &Key) -> bool {
        let entry = self.path(name, key);
        if !entry.is_dir() {
            return false;
        }
        match fs::read_to_string(self.contents(name, key)) {
            Ok(held) => listed(&entry).is_ok_and(|now| now == held),
            // Nothing was written down for it: it is as old as the first version of this cache.
            Err(_) => true,
        }
    }

    fn contents(&self, name: &str, key: &Key) -> PathBuf {
        self.root.join("contents").join(format!("{name}-{}", key.short()))
    }

    /// Removes all but the newest entries of a name: an image of every build would soon fill the disk.
    fn prune(&self, name: &str) -> Result<()> {
        let dir = self.root.join(name);
        let listed = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut entries: Vec<_> = listed
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        entries.sort();
        let old = entries.len().saturating_sub(KEPT);
        for (_, path) in entries.iter().take(old) {
            remove_tree(path)?;
            let key = path.file_name().unwrap_or_default().to_string_lossy();
            // A list without its entry is worth nothing and harms nothing.
            let _ = fs::remove_file(self.root.join("contents").join(format!("{name}-{key}")));
        }
        Ok(())
    }

    /// Holds a lock of this name until the file is dropped; waits for whoever holds it.
    ///
    /// # Errors
    /// When the lock file cannot be created.
    pub fn lock(&self, name: &str) -> Result<File> {
        let dir = self.root.join("locks");
        create(&dir)?;
        let path = dir.join(format!("{name}.lock"));
        loop {
            let file = File::create(&path).with_context(|| format!("cannot create the lock {}", path.display()))?;
            if file.try_lock().is_err() {
                progress::say(&format!("waiting for another run that holds {} …", path.display()));
                file.lock()
                    .with_context(|| format!("cannot take the lock {}", path.display()))?;
            }
            // Whoever held it may have removed the whole cache: then the next run would lock another file.
            let same = |held: &File| Some(held.metadata().ok()?.ino() == fs::metadata(&path).ok()?.ino());
            if same(&file) == Some(true) {
                return Ok(file);
            }
            create(&dir)?;
        }
    }

    /// A folder in the cache for things that are not entries: the engine's state, downloaded packages.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        create(&dir)?;
        Ok(dir)
    }

    /// Where a file in such a folder is, or would be.
    pub fn file(&self, folder: &str, name: &str) -> PathBuf {
        self.root.join(folder).join(name)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn wipe(&self) -> Result<()> {
        remove_tree(&self.root)
    }
}

/// The files and folders directly in an entry, each file with its size. Below the folders nothing is looked at: a root
/// file system has tens of thousands of files.
fn listed(entry: &Path) -> Result<String> {
    let mut lines = Vec::new();
    for inside in fs::read_dir(entry).with_context(|| format!("cannot read {}", entry.display()))? {
        let inside = inside.with_context(|| format!("cannot read {}", entry.display()))?;
        let about = inside
            .metadata()
            .with_context(|| format!("cannot read {}", inside.path().display()))?;
        let size = if about.is_dir() {
            "folder".to_owned()
        } else {
            about.len().to_string()
        };
        lines.push(format!("{size} {}\n", inside.file_name().to_string_lossy()));
    }
    lines.sort();
    Ok(lines.concat())
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create the folder {}", dir.display()))
}

/// Removes a folder and what is in it; that there is none is fine.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The SHA-256 of a file's content, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file
            .read(&mut buffer)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

/// The SHA-256 of some bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str) -> Key {
        Inputs::new().text("version", value).key()
    }

    #[test]
    fn a_finished_entry_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let make = |at: &Path| fs::write(at.join("tool"), "one").map_err(Into::into);
        let first = cache.entry("tool", &key("1"), make).unwrap();
        let again = cache.entry("tool", &key("1"), |_| panic!("made twice")).unwrap();
        assert_eq!(first, again);
        assert_eq!(fs::read_to_string(again.join("tool")).unwrap(), "one");
    }

    #[test]
    fn another_input_makes_another_entry() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let one = cache.entry("tool", &key("1"), |_| Ok(())).unwrap();
        let two = cache.entry("tool", &key("2"), |_| Ok(())).unwrap();
        assert_ne!(one, two);
    }

    #[test]
    fn a_failed_making_leaves_no_entry_and_the_next_starts_from_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let failed = cache.entry("tool", &key("1"), |at| {
            fs::write(at.join("half"), "").unwrap();
            anyhow::bail!("no network")
        });
        assert!(failed.is_err());
        let made = cache
            .entry("tool", &key("1"), |at| {
                assert!(!at.join("half").exists());
                Ok(())
            })
            .unwrap();
        assert!(made.exists());
    }

    #[test]
    fn a_failed_making_frees_the_space_it_took() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let failed = cache.entry("tool", &key("1"), |at| {
            fs::write(at.join("half"), "").unwrap();
            anyhow::bail!("no space left")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no space left");
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn an_entry_that_lost_a_file_or_a_part_of_one_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let make = |at: &Path| {
            fs::create_dir(at.join("root")).unwrap();
            fs::write(at.join("tool"), "whole").map_err(Into::into)
        };
        let made = cache.entry("tool", &key("1"), make).unwrap();
        fs::write(made.join("root/written-later"), "").unwrap();
        assert!(cache.is_whole("tool", &key("1")));
        fs::write(made.join("tool"), "").unwrap();
        cache.entry("tool", &key("1"), make).unwrap();
        assert_eq!(fs::read_to_string(made.join("tool")).unwrap(), "whole");
        fs::remove_file(made.join("tool")).unwrap();
        cache.entry("tool", &key("1"), make).unwrap();
        assert_eq!(fs::read_to_string(made.join("tool")).unwrap(), "whole");
    }

    #[test]
    fn an_entry_of_which_nothing_was_written_down_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let made = cache.entry("tool", &key("1"), |_| Ok(())).unwrap();
        remove_tree(&dir.path().join("contents")).unwrap();
        assert_eq!(cache.entry("tool", &key("1"), |_| panic!("made twice")).unwrap(), made);
    }

    #[test]
    fn a_lock_taken_after_the_cache_was_removed_is_one_that_others_see() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("cache"));
        let first = cache.lock("demo").unwrap();
        cache.wipe().unwrap();
        drop(first);
        let held = cache.lock("demo").unwrap();
        let path = dir.path().join("cache/locks/demo.lock");
        assert!(File::open(path).unwrap().try_lock().is_err());
        drop(held);
    }

    #[test]
    fn of_many_entries_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        for version in ["1", "2", "3", "4", "5"] {
            let made = cache.entry("tool", &key(version), |_| Ok(())).unwrap();
            let age = std::time::Duration::from_secs(100 - version.parse::<u64>().unwrap());
            File::open(made)
                .unwrap()
                .set_modified(std::time::SystemTime::now() - age)
                .unwrap();
        }
        assert!(!cache.path("tool", &key("2")).exists());
        assert!(cache.path("tool", &key("3")).exists() && cache.path("tool", &key("5")).exists());
    }

    #[test]
    fn inputs_do_not_run_into_each_other() {
        let one = Inputs::new().text("a", "bc").key();
        let two = Inputs::new().text("ab", "c").key();
        assert_ne!(one, two);
    }
}
