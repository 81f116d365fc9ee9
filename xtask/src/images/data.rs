//! PostgreSQL and Kafka: what their root file systems share is one layer.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::oci::{Image, Layer};
use super::{files, named};
use crate::cache::{Cache, Inputs};
use crate::jars;
use crate::paths::Paths;
use crate::progress;
use crate::rootfs;

/// The user that both run as; PostgreSQL wants its name.
const USER: u32 = 999;

/// The two images.
pub struct Data {
    /// PostgreSQL 17.
    pub postgres: Image,
    /// Kafka 4.1.
    pub kafka: Image,
}

/// Makes both.
///
/// # Errors
/// When a root file system or the jars cannot be had.
pub fn images(paths: &Paths, cache: &Cache) -> Result<Data> {
    let postgres_root = rootfs::path(paths, cache, &rootfs::POSTGRES)?;
    let java_root = rootfs::path(paths, cache, &rootfs::JAVA)?;
    let key = |which: &str| {
        Inputs::new()
            .text("which", which)
            .text("rules", include_str!("files.rs"))
            .text("postgres", rootfs::key(&rootfs::POSTGRES).short())
            .text("java", rootfs::key(&rootfs::JAVA).short())
            .key()
    };
    // Comparing the two trees takes seconds; it is done only when one of the three layers is missing.
    let compared = std::cell::OnceCell::new();
    let split = || -> Result<&Split> {
        if let Some(split) = compared.get() {
            return Ok(split);
        }
        let (all, others) = (files::needed(&postgres_root, &[])?, files::needed(&java_root, &[])?);
        let shared = files::common((&postgres_root, &all), (&java_root, &others))?;
        let split = Split {
            postgres: files::rest(&all, &shared),
            java: files::rest(&others, &shared),
            shared,
        };
        Ok(compared.get_or_init(|| split))
    };
    let shared = Layer::cached(cache, "layer-debian", &key("shared"), |tar| {
        tar.add_from(&postgres_root, &split()?.shared)
    })?;
    let postgres = Layer::cached(cache, "layer-postgres", &key("postgres"), |tar| {
        tar.add_from(&postgres_root, &split()?.postgres)
    })?;
    let java = Layer::cached(cache, "layer-java", &key("java"), |tar| {
        tar.add_from(&java_root, &split()?.java)
    })?;
    Ok(Data {
        postgres: postgres_image(paths, cache, vec![shared.clone(), postgres])?,
        kafka: kafka_image(paths, cache, vec![shared, java])?,
    })
}

struct Split {
    shared: Vec<PathBuf>,
    postgres: Vec<PathBuf>,
    java: Vec<PathBuf>,
}

fn postgres_image(paths: &Paths, cache: &Cache, mut layers: Vec<Layer>) -> Result<Image> {
    layers.push(entry_layer(paths, cache, "postgres", "/var/lib/postgresql")?);
    let image = Image::new(String::new(), layers, &["/usr/local/bin/meridian-postgres"])
        .user(USER)
        .env("PGDATA", "/var/lib/postgresql/data")
        .env("PATH", "/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        // Ends sessions at once but writes a checkpoint; SIGTERM would wait for every client to leave.
        .with("StopSignal", "SIGINT".into());
    Ok(named(image, "postgres", "17"))
}

fn kafka_image(paths: &Paths, cache: &Cache, mut layers: Vec<Layer>) -> Result<Image> {
    let folder = jars::path(paths, cache)?;
    let key = Inputs::new().text("jars", jars::key(paths)?.short()).key();
    layers.push(Layer::cached(cache, "layer-kafka-jars", &key, |tar| {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
            tar.put(
                &entry.path(),
                &format!("opt/kafka/libs/{}", entry.file_name().to_string_lossy()),
                0o644,
            )?;
        }
        Ok(())
    })?);
    layers.push(entry_layer(paths, cache, "kafka", "/var/lib/kafka")?);
    let image = Image::new(String::new(), layers, &["/usr/local/bin/meridian-kafka"])
        .user(USER)
        .env("LANG", "C.UTF-8");
    Ok(named(image, "kafka", "4.1"))
}

/// The entry script, the user, and the folders that a container mounts over.
fn entry_layer(paths: &Paths, cache: &Cache, name: &str, home: &str) -> Result<Layer> {
    let script = paths.kind().join(name).join("entrypoint");
    let key = Inputs::new()
        .file(&script)?
        .text("user", &format!("{name} {USER} {home} v1"))
        .key();
    Layer::cached(cache, &format!("layer-{name}-entry"), &key, |tar| {
        tar.put(&script, &format!("usr/local/bin/meridian-{name}"), 0o755)?;
        let nobody = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin";
        let passwd = format!("root:x:0:0:root:/:/bin/sh\n{name}:x:{USER}:{USER}:{name}:{home}:/bin/sh\n{nobody}\n");
        tar.write("etc/passwd", &passwd, 0o644)?;
        tar.write(
            "etc/group",
            &format!("root:x:0:\n{name}:x:{USER}:\nnogroup:x:65534:\n"),
            0o644,
        )?;
        for folder in ["proc", "sys", "dev", "etc/meridian", home.trim_start_matches('/')] {
            tar.folder(folder, 0o755)?;
        }
        tar.folder("run", 0o755)?;
        tar.folder("tmp", 0o1777)?;
        progress::say(&format!("made the image layer of {name}"));
        Ok(())
    })
}
