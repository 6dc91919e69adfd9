use std::io::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Data blocks of a page: base64 of zlib, in which no end of an element can be.
#[derive(Default)]
pub(crate) struct Blocks {
    /// As HTML.
    pub(crate) html: String,
}

impl Blocks {
    /// Adds bytes.
    pub(crate) fn bytes(&mut self, id: &str, bytes: &[u8]) {
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        let packed = packer.write_all(bytes).and_then(|()| packer.finish()).expect("memory can be written");
        self.html.push_str(&format!("<script type=\"application/octet-stream\" id=\"{id}\">"));
        BASE64_STANDARD.encode_string(packed, &mut self.html);
        self.html.push_str("</script>\n");
    }

    /// Adds JSON.
    pub(crate) fn json(&mut self, id: &str, value: &impl Serialize) {
        self.bytes(id, &serde_json::to_vec(value).expect("texts and numbers are JSON"));
    }

    /// Adds numbers, four bytes each.
    pub(crate) fn floats(&mut self, id: &str, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.bytes(id, &bytes);
    }
}

/// The hash of an inline script or style, as a content security policy names it.
pub(crate) fn source_hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text.as_bytes())))
}

/// Bytes as base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// The SHA-256 of bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
