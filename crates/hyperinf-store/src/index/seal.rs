//! Texts with the hash of their other bytes in them.

use serde::Serialize;
use twox_hash::XxHash3_128;

/// The name of the field, as it is written.
const FIELD: &[u8] = b"\"seal\":";
/// Stands for the hash while it is computed.
const OPEN: &str = "00000000000000000000000000000000";

#[derive(Serialize)]
struct Sealed<'a, T> {
    #[serde(flatten)]
    content: &'a T,
    seal: &'static str,
}

/// JSON of an object with its seal, on one line or pretty.
pub(super) fn seal(content: &impl Serialize, pretty: bool) -> Result<Vec<u8>, serde_json::Error> {
    let open = Sealed { content, seal: OPEN };
    let mut bytes = if pretty { serde_json::to_vec_pretty(&open)? } else { serde_json::to_vec(&open)? };
    bytes.push(b'\n');
    let hash = format!("{:032x}", XxHash3_128::oneshot(&bytes));
    if let Some(at) = place(&bytes) {
        bytes[at..at + OPEN.len()].copy_from_slice(hash.as_bytes());
    }
    Ok(bytes)
}

/// Whether a text is what was sealed.
pub(super) fn is_intact(bytes: &[u8]) -> bool {
    let Some(at) = place(bytes) else { return false };
    let mut open = bytes.to_vec();
    let hash = &bytes[at..at + OPEN.len()];
    open[at..at + OPEN.len()].copy_from_slice(OPEN.as_bytes());
    format!("{:032x}", XxHash3_128::oneshot(&open)).as_bytes() == hash
}

/// Where the hash is.
fn place(bytes: &[u8]) -> Option<usize> {
    let field = bytes.windows(FIELD.len()).rposition(|window| window == FIELD)?;
    let from = field + FIELD.len();
    let quote = from + bytes[from..].iter().position(|byte| *byte == b'"')?;
    (quote + 1 + OPEN.len() < bytes.len()).then_some(quote + 1)
}
