//! An observed object in as little memory as it needs. As parsed JSON an object takes six to ten times the size of its text
//! (each map is a tree of its own), which a hub with ten thousand tenants cannot afford; it looks at few of them at a time.

use std::cell::RefCell;

use kube::api::{DynamicObject, ObjectMeta, TypeMeta};
use serde_json::Value;
use zstd::bulk::{Compressor, Decompressor};

/// Texts below this size are kept as they are: compressing them would save little.
const COMPRESSED_FROM: usize = 512;
/// The fastest level: the texts repeat themselves a lot.
const LEVEL: i32 = 1;

thread_local! {
    // What these work in is a hundred times as large as an object: one for each thread, not for each object.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compressed(text: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Compressor::new(LEVEL).ok();
        }
        kept.as_mut()?.compress(text).ok()
    })
}

/// The text of `length` bytes that was compressed; `None` where it is damaged.
pub(crate) fn decompressed(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Decompressor::new().ok();
        }
        kept.as_mut()?.decompress(bytes, length).ok()
    })
}

/// A packed object.
pub struct Packed {
    bytes: Box<[u8]>,
    /// Length of the text, when `bytes` is compressed.
    length: Option<usize>,
}

impl Packed {
    /// Packs an object; `None` where that fails, which it does for no object that came from an API server.
    #[must_use]
    pub fn of(object: &DynamicObject) -> Option<Self> {
        let text = serde_json::to_vec(&(&object.metadata, &object.data)).ok()?;
        if text.len() < COMPRESSED_FROM {
            return Some(Self {
                bytes: text.into_boxed_slice(),
                length: None,
            });
        }
        let length = Some(text.len());
        let bytes = compressed(&text)?.into_boxed_slice();
        Some(Self { bytes, length })
    }

    /// The object again, under the type that is given; `None` where that fails, which it does for nothing packed here.
    #[must_use]
    pub fn unpack(&self, types: TypeMeta) -> Option<DynamicObject> {
        let parse = |text: &[u8]| serde_json::from_slice::<(ObjectMeta, Value)>(text).ok();
        let (metadata, data) = match self.length {
            Some(length) => parse(&decompressed(&self.bytes, length)?)?,
            None => parse(&self.bytes)?,
        };
        Some(DynamicObject {
            types: Some(types),
            metadata,
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn types() -> TypeMeta {
        TypeMeta {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back_as_it_was(name in "[a-z]{1,20}", text in ".{0,2000}", number: i64) {
            let object: DynamicObject = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "data": {"text": text, "number": number, "nothing": null, "list": [1.5, true, {}]},
            })).unwrap();
            let packed = Packed::of(&object).unwrap();
            prop_assert_eq!(packed.unpack(types()), Some(object));
        }
    }

    #[test]
    fn a_large_object_becomes_small() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
            "data": (0..1000).map(|i| json!({"tenant": format!("tenant-{i}"), "organization": "stride"})).collect::<Vec<_>>(),
        }))
        .unwrap();
        let packed = Packed::of(&object).unwrap();
        assert!(packed.bytes.len() * 5 < packed.length.unwrap());
    }
}
