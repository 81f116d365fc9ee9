//! Container images without an engine: layers are tar files, an image is a list of layers and a configuration, an
//! archive is what `docker load` and `ctr images import` read.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cache::{self, Cache, Inputs, Key};

/// A layer in the cache.
#[derive(Debug, Clone)]
pub struct Layer {
    tar: PathBuf,
    digest: String,
}

impl Layer {
    /// The layer of these inputs; `fill` adds to it when the cache has none.
    ///
    /// # Errors
    /// Those of `fill`, and those of the file system.
    pub fn cached(cache: &Cache, name: &str, key: &Key, fill: impl FnOnce(&mut Tar) -> Result<()>) -> Result<Self> {
        let entry = cache.entry(name, key, |dir| {
            let mut tar = Tar {
                file: dir.join("layer.tar"),
                tree: dir.join("tree"),
            };
            fs::create_dir_all(&tar.tree).with_context(|| format!("cannot create {}", tar.tree.display()))?;
            fill(&mut tar)?;
            tar.finish()?;
            let digest = cache::sha256_of(&tar.file)?;
            fs::write(dir.join("digest"), digest).context("cannot write the layer's digest")
        })?;
        let digest = fs::read_to_string(entry.join("digest")).context("cannot read the layer's digest")?;
        Ok(Self {
            tar: entry.join("layer.tar"),
            digest,
        })
    }
}

/// A layer in the making.
pub struct Tar {
    file: PathBuf,
    tree: PathBuf,
}

impl Tar {
    /// Adds files of a root file system, with their owners and modes, under the same paths.
    ///
    /// # Errors
    /// When tar cannot read them.
    pub fn add_from(&mut self, root: &Path, files: &[PathBuf]) -> Result<()> {
        let mut list: Vec<u8> = Vec::new();
        for file in files {
            list.extend(file.as_os_str().as_bytes());
            list.push(0);
        }
        let names = self.file.with_extension("names");
        fs::write(&names, list).with_context(|| format!("cannot write {}", names.display()))?;
        let mut arguments: Vec<OsString> = vec!["--null".into(), "--no-recursion".into(), "-T".into()];
        arguments.push(names.clone().into());
        self.append(root, &arguments)?;
        fs::remove_file(&names).with_context(|| format!("cannot remove {}", names.display()))
    }

    /// Copies a file of this machine to a path in the image, owned by root.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn put(&mut self, source: &Path, path: &str, mode: u32) -> Result<()> {
        let target = self.place(path)?;
        fs::copy(source, &target).with_context(|| format!("cannot copy {} into a layer", source.display()))?;
        set_mode(&target, mode)
    }

    /// Writes a file of the image, owned by root.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, path: &str, content: &str, mode: u32) -> Result<()> {
        let target = self.place(path)?;
        fs::write(&target, content).with_context(|| format!("cannot write {}", target.display()))?;
        set_mode(&target, mode)
    }

    /// Makes an empty folder of the image.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let target = self.tree.join(path);
        fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
        set_mode(&target, mode)
    }

    /// Makes a symbolic link of the image.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn link(&mut self, path: &str, to: &str) -> Result<()> {
        let place = self.place(path)?;
        symlink(to, &place).with_context(|| format!("cannot link {}", place.display()))
    }

    fn place(&self, path: &str) -> Result<PathBuf> {
        let target = self.tree.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        Ok(target)
    }

    fn finish(&mut self) -> Result<()> {
        let tree = self.tree.clone();
        // Only what was put here is listed: a parent folder that the layers below have keeps its own mode.
        let mut files = Vec::new();
        list(&tree, Path::new(""), &mut files)?;
        files.sort();
        if !files.is_empty() || !self.file.exists() {
            let names: Vec<OsString> = ["--owner=0", "--group=0", "--no-recursion", "--"]
                .into_iter()
                .map(OsString::from)
                .collect();
            self.append(
                &tree,
                &[names, files.into_iter().map(PathBuf::into_os_string).collect()].concat(),
            )?;
        }
        cache::remove_tree(&tree)
    }

    fn append(&self, root: &Path, more: &[OsString]) -> Result<()> {
        // Nothing but the content decides a layer's digest: no times, no order of the file system.
        let done = Command::new("tar")
            .arg("--append")
            .arg("--file")
            .arg(&self.file)
            .args(["--format=gnu", "--numeric-owner", "--mtime=@0", "--directory"])
            .arg(root)
            .args(more)
            .stdin(Stdio::null())
            .output()
            .context("`tar` cannot be started: is it installed?")?;
        if !done.status.success() {
            bail!(
                "tar ended with {}: {}",
                done.status,
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        Ok(())
    }
}

/// Files, links and empty folders below `root`; folders with content come with it.
fn list(root: &Path, below: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let dir = root.join(below);
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        let path = below.join(entry.file_name());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let before = found.len();
        if is_folder {
            list(root, &path, found)?;
        }
        if !is_folder || found.len() == before {
            found.push(path);
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// An image: a name with a tag, layers from the bottom up, and how it starts.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name and tag.
    pub tag: String,
    layers: Vec<Layer>,
    config: Value,
}

impl Image {
    /// An image that starts `entrypoint`.
    pub fn new(tag: String, layers: Vec<Layer>, entrypoint: &[&str]) -> Self {
        let config = json!({
            "Entrypoint": entrypoint,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        });
        Self { tag, layers, config }
    }

    /// Sets the user and group that it runs as.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        self.config["User"] = json!(format!("{id}:{id}"));
        self
    }

    /// Sets a field of the configuration, such as `StopSignal`.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Sets a variable of the environment that it starts with.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        if let Some(all) = self.config["Env"].as_array_mut() {
            all.retain(|old| !old.as_str().is_some_and(|old| old.starts_with(&format!("{name}="))));
            all.push(json!(format!("{name}={value}")));
        }
        self
    }

    fn configuration(&self) -> String {
        let digests: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", layer.digest))
            .collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": digests},
            "history": digests.iter().map(|_| json!({"created": "1970-01-01T00:00:00Z"})).collect::<Vec<_>>(),
        })
        .to_string()
    }
}

/// The hash of images: what decides whether an archive of them is up to date.
pub fn key(images: &[Image]) -> Key {
    images
        .iter()
        .fold(Inputs::new(), |all, image| all.text(&image.tag, &image.configuration()))
        .key()
}

/// An archive with these images in the cache; a layer that several share is in it once.
///
/// # Errors
/// When it cannot be written.
pub fn archive(cache: &Cache, name: &str, images: &[Image]) -> Result<PathBuf> {
    let entry = cache.entry(name, &key(images), |dir| {
        let tree = dir.join("tree");
        fs::create_dir(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
        let mut manifest = Vec::new();
        for image in images {
            let configuration = image.configuration();
            let config = format!("{}.json", cache::sha256(configuration.as_bytes()));
            write(&tree.join(&config), &configuration)?;
            let mut layers = Vec::new();
            for layer in &image.layers {
                let file = format!("{}.tar", layer.digest);
                if !tree.join(&file).exists() {
                    symlink(&layer.tar, tree.join(&file)).context("cannot lay out the archive")?;
                }
                layers.push(file);
            }
            manifest.push(json!({"Config": config, "RepoTags": [image.tag], "Layers": layers}));
        }
        write(&tree.join("manifest.json"), &Value::Array(manifest).to_string())?;
        let done = Command::new("tar")
            .args(["--create", "--dereference", "--sort=name", "--mtime=@0", "--file"])
            .arg(dir.join("images.tar"))
            .arg("--directory")
            .arg(&tree)
            .arg(".")
            .args(["--transform=s,^\\./,,"])
            .output()
            .context("`tar` cannot be started: is it installed?")?;
        if !done.status.success() {
            bail!(
                "tar ended with {}: {}",
                done.status,
                String::from_utf8_lossy(&done.stderr).trim()
            );
        }
        cache::remove_tree(&tree)
    })?;
    Ok(entry.join("images.tar"))
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::File::create(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(cache: &Cache, content: &str) -> Layer {
        let key = Inputs::new().text("content", content).key();
        Layer::cached(cache, "layer", &key, |tar| tar.write("etc/motd", content, 0o644)).unwrap()
    }

    #[test]
    fn an_image_is_named_by_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let image = |content| Image::new("x:1".to_owned(), vec![layer(&cache, content)], &["/init"]);
        assert_eq!(key(&[image("a")]), key(&[image("a")]));
        assert_ne!(key(&[image("a")]), key(&[image("b")]));
        assert_ne!(key(&[image("a")]), key(&[image("a").user(7)]));
    }

    #[test]
    fn a_layer_that_two_images_share_is_in_the_archive_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let shared = layer(&cache, "shared");
        let one = Image::new("one:1".to_owned(), vec![shared.clone()], &["/one"]);
        let two = Image::new("two:1".to_owned(), vec![shared], &["/two"]);
        let tar = archive(&cache, "archive", &[one, two]).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(tar).output().unwrap();
        let names = String::from_utf8(listed.stdout).unwrap();
        assert_eq!(
            names.lines().filter(|name| name.ends_with(".tar")).count(),
            1,
            "{names}"
        );
        assert_eq!(
            names.lines().filter(|name| name.ends_with(".json")).count(),
            3,
            "{names}"
        );
    }
}
