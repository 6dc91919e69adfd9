use burn::tensor::Device;
use hyperinf_gradients::{Estimate, Tape, Task};
use hyperinf_linalg::host;
use hyperinf_models::{
    Adapter, CausalLm, Conversation, Json, Limit, LmSample, Message, ModelKind, SampleModel, TextTokenizer,
    TokenizedSample, TrainConfig, load_causal_lm,
};

use crate::columns::{Cells, Header, Role};
use crate::conversations::ChatColumns;
use crate::dataset::{Content, Dataset};
use crate::kind::{Kind, Prepared, known_tokens};
use crate::model_files::ModelFiles;
use crate::prediction::{Predicted, Prediction};
use crate::{Choice, DataError, Notice, Reason, RunError};

/// Language modelling: a decoder that predicts the next token.
#[derive(Clone, Copy, Debug, Default)]
pub struct LanguageModel;

/// The content of one row for a language model.
#[derive(Clone, Debug, PartialEq)]
pub enum Passage {
    /// A prompt, which may be empty, and the text that follows it.
    Completion {
        /// The text that is given.
        prompt: String,
        /// The text that is predicted.
        completion: String,
    },
    /// A text that is predicted from its first token on.
    Text(String),
    /// A conversation: the assistant's messages are predicted, or those after its prompt.
    Conversation(Conversation),
}

/// The columns of a [`Passage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassageColumns {
    /// A prompt and its completion.
    Completion {
        /// The column of the prompt.
        prompt: String,
        /// The column of the completion.
        completion: String,
        /// Columns for a chat template, if both are lists of messages.
        chat: ChatColumns,
    },
    /// A prompt, and a text that begins with it.
    Continued {
        /// The column of the prompt.
        prompt: String,
        /// The column of the text.
        text: String,
    },
    /// A text.
    Text {
        /// The column of the text.
        text: String,
    },
    /// A conversation.
    Messages {
        /// The column of the messages.
        messages: String,
        /// Columns for the chat template.
        chat: ChatColumns,
    },
}

impl Content for Passage {
    type Columns = PassageColumns;

    fn columns(header: &Header<'_>) -> Result<PassageColumns, DataError> {
        let options = header.options;
        // A column named for one form of content rules out the usual names of the others.
        let texts = options.text.is_some() || options.prompt.is_some() || options.completion.is_some();
        let usual: &[&str] = if texts { &[] } else { &["messages", "conversations"] };
        if let Some(messages) = header.find("messages", &options.messages, usual)? {
            return Ok(PassageColumns::Messages { messages, chat: ChatColumns::new(header) });
        }
        let prompt = header.find("prompt", &options.prompt, &["prompt"])?;
        // The column `prompt` is not the prompt if it is named as the text.
        let prompt = prompt.filter(|prompt| options.prompt.is_some() || options.text.as_ref() != Some(prompt));
        let usual: &[&str] = if options.text.is_some() { &[] } else { &["completion"] };
        let completion = header.find("completion", &options.completion, usual)?;
        let text = header.find("text", &options.text, &["text"])?;
        match (prompt, completion, text) {
            (Some(prompt), Some(completion), _) => {
                Ok(PassageColumns::Completion { prompt, completion, chat: ChatColumns::new(header) })
            }
            (Some(prompt), None, Some(text)) => Ok(PassageColumns::Continued { prompt, text }),
            (None, None, Some(text)) => Ok(PassageColumns::Text { text }),
            (None, Some(_), _) => Err(header.missing("the prompt", "prompt")),
            (Some(_), None, None) => Err(header.missing("what follows the prompt", "completion or text")),
            (None, None, None) => Err(header.missing("the text", "messages, prompt and completion, or text")),
        }
    }

    fn roles(columns: &PassageColumns) -> Vec<Role> {
        match columns {
            PassageColumns::Completion { prompt, completion, chat } => {
                let mut roles = vec![Role::text("prompt", prompt), Role::text("completion", completion)];
                roles.extend(chat.roles());
                roles
            }
            PassageColumns::Continued { prompt, text } => vec![Role::text("prompt", prompt), Role::text("text", text)],
            PassageColumns::Text { text } => vec![Role::text("text", text)],
            PassageColumns::Messages { messages, chat } => {
                let expected = "lists of messages with role and content";
                let mut roles = vec![Role { name: "messages", column: Some(messages.clone()), expected }];
                roles.extend(chat.roles());
                roles
            }
        }
    }

    fn read(columns: &PassageColumns, cells: Cells<'_>) -> Result<Self, Reason> {
        Ok(match columns {
            PassageColumns::Completion { prompt, completion, chat } if is_list(cells, prompt) => {
                let mut list = cells.messages(prompt)?;
                let given = list.len();
                list.extend(cells.messages(completion)?);
                Self::Conversation(chat.conversation(cells, list, Some(given))?)
            }
            PassageColumns::Completion { prompt, completion: column, .. } => {
                let (prompt, completion) = (cells.any_text(prompt)?, cells.any_text(column)?);
                if completion.trim().is_empty() {
                    return Err(Reason::EmptyCompletion { column: column.clone() });
                }
                Self::Completion { prompt, completion }
            }
            PassageColumns::Continued { prompt: column, text: whole } => {
                let (prompt, text) = (cells.any_text(column)?, cells.text(whole)?);
                let Some(completion) = text.strip_prefix(&prompt) else {
                    return Err(Reason::NotPrompt { text: whole.clone(), prompt: column.clone() });
                };
                if completion.trim().is_empty() {
                    return Err(Reason::EmptyCompletion { column: whole.clone() });
                }
                let completion = completion.to_owned();
                Self::Completion { prompt, completion }
            }
            PassageColumns::Text { text } => Self::Text(cells.text(text)?),
            PassageColumns::Messages { messages, chat } => {
                Self::Conversation(chat.conversation(cells, cells.messages(messages)?, None)?)
            }
        })
    }

    fn text(&self) -> String {
        match self {
            Self::Completion { prompt, completion } => format!("{prompt}{completion}"),
            Self::Text(text) => text.clone(),
            Self::Conversation(conversation) => {
                let line = |message: &Message| format!("{}: {}", message.role(), message.text());
                let lines: Vec<String> = conversation.messages.iter().map(line).collect();
                lines.join("\n")
            }
        }
    }
}

fn tokenize(tokenizer: &TextTokenizer, content: &Passage, limit: Limit) -> Result<TokenizedSample<LmSample>, Reason> {
    Ok(match content {
        Passage::Completion { prompt, completion } => tokenizer.completion(prompt, completion, limit),
        Passage::Text(text) => tokenizer.text(text, limit),
        Passage::Conversation(conversation) => tokenizer.chat(conversation, limit),
    }?)
}

/// TRL's conversations in two columns.
fn is_list(cells: Cells<'_>, column: &str) -> bool {
    matches!(cells.json(column), Some(Json::Array(_)))
}

/// Columns next to a conversation that change what it says, whatever the template.
const OF_CONVERSATIONS: [&str; 1] = ["system"];

impl Kind for LanguageModel {
    type Model = CausalLm;
    type Content = Passage;
    type Processor = TextTokenizer;
    type Reader = TextTokenizer;

    const NAME: &'static str = "language-model";
    const USUAL_LENGTH: usize = 2048;
    const ADAPTED: &'static [&'static str] = &["q_proj", "v_proj"];

    fn training() -> TrainConfig {
        TrainConfig { learning_rate: 2e-4, ..TrainConfig::default() }
    }

    fn matches(kind: ModelKind) -> bool {
        kind == ModelKind::CausalLm
    }

    fn load(
        files: &ModelFiles,
        adapter: Option<&Adapter>,
        _rows: &Dataset<Passage>,
        device: &Device,
    ) -> Result<Prepared<Self>, RunError> {
        let mut model = load_causal_lm(files.path(), device).map_err(files.of_model())?.model;
        if let Some(adapter) = adapter {
            model = adapter.apply(model).map_err(files.of_adapter())?;
        }
        Ok(Prepared { model, processor: files.tokenizer()? })
    }

    fn load_base(
        files: &ModelFiles,
        _train: &Dataset<Passage>,
        _seed: u64,
        device: &Device,
        _notify: &mut dyn FnMut(Notice),
    ) -> Result<Prepared<Self>, RunError> {
        let model = load_causal_lm(files.path(), device).map_err(files.of_model())?.model;
        Ok(Prepared { model, processor: files.tokenizer()? })
    }

    fn tokenizer(processor: &TextTokenizer) -> Option<&TextTokenizer> {
        Some(processor)
    }

    fn positions(model: &CausalLm) -> usize {
        model.decoder().config().max_tokens
    }

    fn sample(prepared: &Prepared<Self>, content: &Passage, limit: Limit) -> Result<TokenizedSample<LmSample>, Reason> {
        let Prepared { model, processor: tokenizer } = prepared;
        let found = tokenize(tokenizer, content, limit)?;
        known_tokens(&found.sample.tokens, model.decoder().config().vocabulary)?;
        Ok(found)
    }

    fn reader(files: &ModelFiles) -> Result<TextTokenizer, RunError> {
        files.tokenizer()
    }

    fn tokens(
        tokenizer: &TextTokenizer,
        content: &Passage,
        limit: Limit,
    ) -> Result<TokenizedSample<Vec<(u32, bool)>>, Reason> {
        let TokenizedSample { sample, cut } = tokenize(tokenizer, content, limit)?;
        Ok(TokenizedSample { sample: sample.tokens.into_iter().zip(sample.scored).collect(), cut })
    }

    fn row_notices(tokenizer: &TextTokenizer, data: &Dataset<Passage>) -> Vec<Notice> {
        let is_chat = data.rows.iter().any(|row| matches!(row.content, Passage::Conversation(_)));
        if is_chat { of_conversations(tokenizer, data) } else { Vec::new() }
    }

    fn predict(model: &CausalLm, samples: &[&LmSample]) -> Result<Vec<Prediction>, RunError> {
        let batch = model.collate(samples)?;
        let losses = host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?;
        Ok(samples.iter().zip(losses).map(|(sample, loss)| of_tokens(sample, loss)).collect())
    }

    fn prediction_of_loss(_: &CausalLm, sample: &LmSample, loss: f64) -> Option<Prediction> {
        Some(of_tokens(sample, loss))
    }

    fn token_ids(sample: &LmSample) -> Option<Vec<u32>> {
        Some(sample.tokens.clone())
    }

    fn bytes(sample: &LmSample) -> Vec<u8> {
        let tokens = sample.tokens.iter().flat_map(|token| token.to_le_bytes());
        tokens.chain(sample.scored.iter().map(|&scored| u8::from(scored))).collect()
    }

    fn check_estimate(estimate: Estimate) -> Result<(), RunError> {
        match estimate {
            Estimate::GaussNewton { sketch: None } => Err(RunError::Conflict {
                first: Choice::Estimate(estimate),
                second: Choice::LanguageModel,
                reason: "it is a backward pass per scored token and word of the vocabulary; a sketch of it is not",
            }),
            Estimate::Empirical | Estimate::Sampled { .. } | Estimate::GaussNewton { sketch: Some(_) } => Ok(()),
        }
    }
}

/// The columns that the chat template could read and does not get, or gets and does not read.
pub(super) fn of_conversations<C: Content>(tokenizer: &TextTokenizer, data: &Dataset<C>) -> Vec<Notice> {
    let variables = tokenizer.chat_variables().unwrap_or_default();
    let mut notices = Vec::new();
    let read = |column: &&String| variables.contains(*column) || OF_CONVERSATIONS.contains(&column.as_str());
    let columns: Vec<String> = data.columns.unread.iter().filter(read).cloned().collect();
    if !columns.is_empty() {
        notices.push(Notice::UnreadColumns { path: data.path.clone(), columns });
    }
    let idle = |role: &&Role| ["tools", "documents"].contains(&role.name) && !variables.contains(role.name);
    for column in data.columns.roles.iter().filter(idle).filter_map(|role| role.column.clone()) {
        notices.push(Notice::IdleColumn { path: data.path.clone(), column });
    }
    notices
}

pub(super) fn of_tokens(sample: &LmSample, loss: f64) -> Prediction {
    let scored = sample.scored.iter().filter(|scored| **scored).count();
    Prediction { loss, target: Predicted::Tokens(scored) }
}
