use burn::tensor::Device;
use hyperinf_gradients::{Estimate, Tape, Task};
use hyperinf_linalg::host;
use hyperinf_models::{
    Adapter, CausalLm, Limit, LmSample, Message, ModelKind, SampleModel, TextTokenizer, TokenizedSample, TrainConfig,
    load_causal_lm,
};

use crate::columns::{Cells, Header, Role};
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
    /// A conversation, whose assistant messages are predicted.
    Messages(Vec<Message>),
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
    },
}

impl Content for Passage {
    type Columns = PassageColumns;

    fn columns(header: &Header<'_>) -> Result<PassageColumns, DataError> {
        let options = header.options;
        // A column named for one form of content rules out the usual names of the others.
        let texts = options.text.is_some() || options.prompt.is_some() || options.completion.is_some();
        let usual: &[&str] = if texts { &[] } else { &["messages"] };
        if let Some(messages) = header.find("messages", &options.messages, usual)? {
            return Ok(PassageColumns::Messages { messages });
        }
        let prompt = header.find("prompt", &options.prompt, &["prompt"])?;
        // The column `prompt` is not the prompt if it is named as the text.
        let prompt = prompt.filter(|prompt| options.prompt.is_some() || options.text.as_ref() != Some(prompt));
        let usual: &[&str] = if options.text.is_some() { &[] } else { &["completion"] };
        let completion = header.find("completion", &options.completion, usual)?;
        let text = header.find("text", &options.text, &["text"])?;
        match (prompt, completion, text) {
            (Some(prompt), Some(completion), _) => Ok(PassageColumns::Completion { prompt, completion }),
            (Some(prompt), None, Some(text)) => Ok(PassageColumns::Continued { prompt, text }),
            (None, None, Some(text)) => Ok(PassageColumns::Text { text }),
            (None, Some(_), _) => Err(header.missing("the prompt", "prompt")),
            (Some(_), None, None) => Err(header.missing("what follows the prompt", "completion or text")),
            (None, None, None) => Err(header.missing("the text", "messages, prompt and completion, or text")),
        }
    }

    fn roles(columns: &PassageColumns) -> Vec<Role> {
        match columns {
            PassageColumns::Completion { prompt, completion } => {
                vec![Role::text("prompt", prompt), Role::text("completion", completion)]
            }
            PassageColumns::Continued { prompt, text } => vec![Role::text("prompt", prompt), Role::text("text", text)],
            PassageColumns::Text { text } => vec![Role::text("text", text)],
            PassageColumns::Messages { messages } => {
                let expected = "lists of messages with role and content";
                vec![Role { name: "messages", column: Some(messages.clone()), expected }]
            }
        }
    }

    fn read(columns: &PassageColumns, cells: Cells<'_>) -> Result<Self, Reason> {
        Ok(match columns {
            PassageColumns::Completion { prompt, completion: column } => {
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
            PassageColumns::Messages { messages } => Self::Messages(cells.messages(messages)?),
        })
    }

    fn text(&self) -> String {
        match self {
            Self::Completion { prompt, completion } => format!("{prompt}{completion}"),
            Self::Text(text) => text.clone(),
            Self::Messages(messages) => {
                let line = |m: &Message| format!("{}: {}", m.role, m.content.as_deref().unwrap_or_default());
                let lines: Vec<String> = messages.iter().map(line).collect();
                lines.join("\n")
            }
        }
    }
}

impl Kind for LanguageModel {
    type Model = CausalLm;
    type Content = Passage;
    type Processor = TextTokenizer;

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

    fn positions(model: &CausalLm) -> usize {
        model.decoder().config().max_tokens
    }

    fn sample(prepared: &Prepared<Self>, content: &Passage, limit: Limit) -> Result<TokenizedSample<LmSample>, Reason> {
        let Prepared { model, processor: tokenizer } = prepared;
        let found = match content {
            Passage::Completion { prompt, completion } => tokenizer.completion(prompt, completion, limit),
            Passage::Text(text) => tokenizer.text(text, limit),
            Passage::Messages(messages) => tokenizer.chat(messages, limit),
        }?;
        known_tokens(&found.sample.tokens, model.decoder().config().vocabulary)?;
        Ok(found)
    }

    fn predict(model: &CausalLm, samples: &[&LmSample]) -> Result<Vec<Prediction>, RunError> {
        let batch = model.collate(samples)?;
        let losses = host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?;
        Ok(samples.iter().zip(losses).map(|(sample, loss)| of_tokens(sample, loss)).collect())
    }

    fn prediction_of_loss(_: &CausalLm, sample: &LmSample, loss: f64) -> Option<Prediction> {
        Some(of_tokens(sample, loss))
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

fn of_tokens(sample: &LmSample, loss: f64) -> Prediction {
    let scored = sample.scored.iter().filter(|scored| **scored).count();
    Prediction { loss, target: Predicted::Tokens(scored) }
}
