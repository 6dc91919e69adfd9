//! Messages with images.

use super::{Message, MessageError};
use crate::Json;

/// The mark of an image in a text, as LLaVA and others write it.
const MARK: &str = "<image>";
/// The fields of a part that name its image.
const REFERENCES: [&str; 5] = ["image", "url", "path", "base64", "image_url"];

impl Message {
    /// The message of an object that may have images, and what it says of each of them, in order.
    ///
    /// Its content becomes a list of parts `{"type": "text", "text": …}` and `{"type": "image"}`, which is what the
    /// chat templates of vision-language models read. Images are parts of type `image` (with `image`, `url`, `path` or
    /// `base64`, or with nothing: then the row has the image in a column), OpenAI's parts of type `image_url`, and
    /// marks `<image>` in texts; white space next to a mark is dropped.
    ///
    /// # Errors
    ///
    /// As [`Message::from_json`].
    pub fn with_images(json: &Json) -> Result<(Self, Vec<Option<Json>>), MessageError> {
        let Json::Object(pairs) = json else { return Ok((Self::from_json(json)?, Vec::new())) };
        let of_share_gpt = !pairs.iter().any(|(key, _)| key == "role");
        let mut images = Vec::new();
        let pairs = pairs.iter().map(|(key, value)| match (key.as_str(), value) {
            ("content", value) => (key.clone(), content(value, &mut images)),
            ("value", value) if of_share_gpt => (key.clone(), content(value, &mut images)),
            _ => (key.clone(), value.clone()),
        });
        let pairs = pairs.collect();
        Ok((Self::of_parts(&Json::Object(pairs), &["text", "image"])?, images))
    }

    /// Puts images before everything else in a message whose content is a list of parts.
    pub fn prepend_images(&mut self, count: usize) {
        if let Some((_, Json::Array(parts))) = self.fields.iter_mut().find(|(key, _)| key == "content") {
            parts.splice(0..0, std::iter::repeat_with(image).take(count));
        }
    }
}

fn image() -> Json {
    Json::Object(vec![("type".to_owned(), Json::String("image".to_owned()))])
}

fn text(text: &str) -> Json {
    let pairs = [("type", "text"), ("text", text)];
    Json::Object(pairs.map(|(key, value)| (key.to_owned(), Json::String(value.to_owned()))).to_vec())
}

/// A content as a list of parts; what is neither a text nor a list stays, and is refused later.
fn content(value: &Json, images: &mut Vec<Option<Json>>) -> Json {
    match value {
        Json::String(whole) => Json::Array(split(whole, images)),
        Json::Array(parts) => Json::Array(parts.iter().flat_map(|value| part(value, images)).collect()),
        other => other.clone(),
    }
}

fn part(value: &Json, images: &mut Vec<Option<Json>>) -> Vec<Json> {
    match value.get("type").and_then(Json::as_str) {
        Some("text") => match value.get("text").and_then(Json::as_str) {
            Some(whole) => split(whole, images),
            None => vec![value.clone()],
        },
        Some("image" | "image_url") => {
            let reference = REFERENCES.iter().find_map(|name| value.get(name).filter(|value| **value != Json::Null));
            // OpenAI's is an object around the address.
            images.push(reference.map(|reference| reference.get("url").unwrap_or(reference).clone()));
            vec![image()]
        }
        _ => vec![value.clone()],
    }
}

/// A text at its marks.
fn split(whole: &str, images: &mut Vec<Option<Json>>) -> Vec<Json> {
    if !whole.contains(MARK) {
        return vec![text(whole)];
    }
    let mut parts = Vec::new();
    let pieces: Vec<&str> = whole.split(MARK).collect();
    let last = pieces.len() - 1;
    for (place, piece) in pieces.into_iter().enumerate() {
        if place > 0 {
            images.push(None);
            parts.push(image());
        }
        let piece = if place > 0 { piece.trim_start() } else { piece };
        let piece = if place < last { piece.trim_end() } else { piece };
        if !piece.is_empty() {
            parts.push(text(piece));
        }
    }
    parts
}
