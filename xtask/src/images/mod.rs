//! The container images of the demo, made from what is in the cache, without an engine.

pub mod app;
pub mod data;
mod files;
pub mod node;
pub mod oci;

use crate::images::oci::Image;

/// Every image of ours has a name below this; it is no registry's, so nothing is ever pulled by it.
pub const PREFIX: &str = "meridian.local";

/// Gives an image its name, with the hash of its content as the tag.
fn named(mut image: Image, name: &str, version: &str) -> Image {
    let hash = oci::key(std::slice::from_ref(&image)).short().to_owned();
    let dash = if version.is_empty() { "" } else { "-" };
    image.tag = format!("{PREFIX}/{name}:{version}{dash}{hash}");
    image
}
