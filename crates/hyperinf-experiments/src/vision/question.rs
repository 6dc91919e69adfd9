//! Questions about one picture, as samples to train all weights on.

use hyperinf::models::{Conversation, Images, Limit, Message, TextTokenizer, VisionLanguageConfig, VlmSample};

use super::folder::MARKS;
use crate::Failure;

/// A question about one picture of one tile, and its answer.
pub fn asked(
    tokenizer: &TextTokenizer,
    config: &VisionLanguageConfig,
    question: &str,
    answer: &str,
    images: Images,
) -> Result<VlmSample, Failure> {
    let message = |role: &str, parts: serde_json::Value| -> Result<Message, Failure> {
        let value = serde_json::json!({ "role": role, "content": parts });
        Ok(Message::with_images(&serde_json::from_value(value)?)?.0)
    };
    let words = |text: &str| serde_json::json!({ "type": "text", "text": text });
    let asked = serde_json::json!([{ "type": "image" }, words(question)]);
    let messages = vec![message("user", asked)?, message("assistant", [words(answer)].into())?];
    let text = [config.image_text(MARKS[0], 0, 0)];
    let found = tokenizer.chat_with_images(&Conversation::from(messages), MARKS[0], &text, Limit::Refuse(256))?;
    Ok(VlmSample { text: found.sample, tiles: 1, images })
}
