//! Prompts with images.

use std::ops::Range;

use serde_json::json;

use super::chat::ChatTemplate;
use super::tokenizer::finish;
use crate::{
    ChatSource, ConnectorConfig, Conversation, Json, Limit, LmSample, Message, TextTokenizer, TokenizeError,
    TokenizedSample, TokenizerNotice, VisionLanguageConfig,
};

impl VisionLanguageConfig {
    /// What takes the place of an image's mark in a prompt, as transformers' processors write it: for LLaVA the mark as
    /// often as an image has vectors; for Idefics3 and SmolVLM that of each tile with its row and column, and at last
    /// that of the whole image. No rows and columns: the image is one tile.
    pub fn image_text(&self, mark: &str, rows: usize, columns: usize) -> String {
        let vectors = mark.repeat(self.vectors());
        match self.connector {
            ConnectorConfig::Projector { .. } => vectors,
            ConnectorConfig::PixelShuffle { .. } => {
                const FAKE: &str = "<fake_token_around_image>";
                let mut text = String::new();
                for row in 1..=rows {
                    for column in 1..=columns {
                        text += &format!("{FAKE}<row_{row}_col_{column}>{vectors}");
                    }
                    text += "\n";
                }
                let before = if rows * columns > 0 { "\n" } else { "" };
                text + &format!("{before}{FAKE}<global-img>{vectors}{FAKE}")
            }
        }
    }
}

/// LLaVA 1.5's prompt, for tokenizers without a chat template: `USER: <image>\n… ASSISTANT: …</s>`. BOS is the
/// tokenizer's matter, as in LLaVA's own program.
fn llava_prompt(mark: &str, eos: &str) -> String {
    let text = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}";
    let images =
        format!("{{% for part in message['content'] if part['type'] == 'image' %}}{{{{ '{mark}\\n' }}}}{{% endfor %}}");
    format!(
        "{{% for message in messages %}}{{% if message['role'] == 'user' %}}USER: {images}{text} \
         {{% elif message['role'] == 'assistant' %}}ASSISTANT: {text}{eos}{{% else %}}{text} {{% endif %}}{{% endfor %}}\
         {{% if add_generation_prompt %}}ASSISTANT:{{% endif %}}"
    )
}

impl TextTokenizer {
    /// This tokenizer, with LLaVA 1.5's prompt if it has no chat template; `mark` stands for an image.
    ///
    /// # Errors
    ///
    /// [`TokenizeError::ChatTemplate`] if a special token cannot be part of a template.
    pub fn or_llava_prompt(mut self, mark: &str) -> Result<Self, TokenizeError> {
        if self.chat.is_none() {
            let eos = self.special().eos.and_then(|token| self.token(token)).unwrap_or_default();
            let prompt = llava_prompt(mark, &eos);
            self.chat = Some(ChatTemplate::new(&ChatSource::from(prompt), Vec::new())?);
            self.notice(TokenizerNotice::LlavaPrompt);
        }
        Ok(self)
    }

    /// [`chat`](Self::chat) as transformers' processors write it: each `mark` of the template is replaced by the text
    /// of its image, see [`VisionLanguageConfig::image_text`], and the special tokens of the tokenizer stand around the
    /// text if the template does not begin it with BOS itself. None of them is scored.
    ///
    /// # Errors
    ///
    /// As [`chat`](Self::chat); if there is not one mark for each image, or an image would be cut.
    pub fn chat_with_images(
        &self,
        conversation: &Conversation,
        mark: &str,
        images: &[String],
        limit: Limit,
    ) -> Result<TokenizedSample<LmSample>, TokenizeError> {
        let found = self.written(conversation, Some((mark, images)), limit)?;
        let token = self.tokenizer.token_to_id(mark);
        let left = found.sample.tokens.iter().filter(|id| Some(**id) == token).count();
        let tokens: usize = images.iter().map(|image| image.matches(mark).count()).sum();
        if found.cut == 0 || left == tokens {
            Ok(found)
        } else {
            Err(TokenizeError::ImageCut { limit: limit.tokens(), left, tokens })
        }
    }

    /// The sample of a conversation; with images, or a model that takes them, as a processor writes it.
    pub(super) fn written(
        &self,
        conversation: &Conversation,
        images: Option<(&str, &[String])>,
        limit: Limit,
    ) -> Result<TokenizedSample<LmSample>, TokenizeError> {
        let template = self.chat.as_ref().ok_or(TokenizeError::NoChatTemplate)?;
        let (mut text, mut spans) = template.conversation(conversation)?;
        let (mut before, mut after): (&[u32], &[u32]) = (&[], &[]);
        if let Some((mark, images)) = images {
            if !self.begins(&text) {
                (before, after) = (&self.prefix, &self.suffix);
            }
            (text, spans) = expanded(&text, &spans, mark, images)?;
        }
        let encoding = self.encode(&text)?;
        let covers = |span: &Range<usize>, (start, end): (usize, usize)| end > span.start && start < span.end;
        let scored = encoding.get_offsets().iter().map(|&offsets| spans.iter().any(|span| covers(span, offsets)));
        let unscored = |tokens: &[u32]| vec![false; tokens.len()];
        let scored = [unscored(before), scored.collect(), unscored(after)].concat();
        finish([before, encoding.get_ids(), after].concat(), scored, limit)
    }

    /// Whether a text begins with BOS.
    fn begins(&self, text: &str) -> bool {
        let bos = self.special().bos.and_then(|token| self.token(token));
        bos.is_some_and(|bos| text.starts_with(&bos))
    }

    /// Notices special tokens that a processor puts around the text of a chat template.
    pub fn notice_ends(&mut self) {
        let message = |role: &str| {
            let parts = json!([{ "type": "text", "text": "a" }]);
            Message::from_json(&Json::from(json!({ "role": role, "content": parts })))
        };
        let example: Result<Vec<Message>, _> = ["user", "assistant"].into_iter().map(message).collect();
        let text = example.ok().and_then(|messages| self.chat_text(&messages.into(), false).ok());
        if text.is_some_and(|text| !self.begins(&text)) {
            let spelled = |tokens: &[u32]| tokens.iter().filter_map(|&token| self.token(token)).collect::<String>();
            let (before, after) = (spelled(&self.prefix), spelled(&self.suffix));
            if !(before.is_empty() && after.is_empty()) {
                self.notice(TokenizerNotice::Ends { before, after });
            }
        }
    }
}

/// The text with its marks replaced, and the byte ranges where they are now.
fn expanded(
    text: &str,
    spans: &[Range<usize>],
    mark: &str,
    images: &[String],
) -> Result<(String, Vec<Range<usize>>), TokenizeError> {
    let marks: Vec<usize> = text.match_indices(mark).map(|(at, _)| at).collect();
    if marks.len() != images.len() {
        return Err(TokenizeError::ImageMarks { mark: mark.to_owned(), marks: marks.len(), images: images.len() });
    }
    let (mut new, mut from) = (String::new(), 0);
    for (at, image) in marks.iter().zip(images) {
        new += &text[from..*at];
        new += image;
        from = at + mark.len();
    }
    new += &text[from..];
    let moved = |place: usize| {
        let before = marks.iter().zip(images).take_while(|(at, _)| **at < place);
        before.fold(place, |place, (_, image)| place + image.len() - mark.len())
    };
    Ok((new, spans.iter().map(|span| moved(span.start)..moved(span.end)).collect()))
}
