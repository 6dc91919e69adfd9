use burn::tensor::{Device, Tensor};
use hyperinf_gradients::{Tape, Task};
use hyperinf_linalg::host;
use hyperinf_models::{
    Adapter, Conversation, Limit, LmSample, LoadError, LoadedModel, Message, ModelKind, PairLoss, PairSample,
    PreferenceModel, SampleModel, TextTokenizer, TokenizedSample, TrainConfig, load_preference,
};
use serde_json::{Value, json};

use super::language_model::{self, Passage, is_list, tokenize};
use crate::columns::{Cells, Header, Role};
use crate::conversations::ChatColumns;
use crate::dataset::{Content, Dataset};
use crate::kind::{Kind, Prepared, known_tokens};
use crate::model_files::ModelFiles;
use crate::prediction::{Predicted, Prediction};
use crate::{DataError, Notice, Reason, RunError};

/// Pairs of a chosen and a rejected answer to one prompt, for a language model.
///
/// The loss is that of direct preference optimisation against the model without its adapter, or that of a reward model
/// ([`PairLoss`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct PreferencePairs;

/// Two answers to one prompt, each with the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The chosen answer.
    pub chosen: Passage,
    /// The rejected answer.
    pub rejected: Passage,
}

/// The columns of a [`Pair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairColumns {
    /// The prompt; `None` if it is what both answers begin with.
    prompt: Option<String>,
    chosen: String,
    rejected: String,
    /// Columns for a chat template, if the answers are lists of messages.
    chat: ChatColumns,
}

impl Content for Pair {
    type Columns = PairColumns;

    fn columns(header: &Header<'_>) -> Result<PairColumns, DataError> {
        let options = header.options;
        let prompt = header.find("prompt", &options.prompt, &["prompt"])?;
        let find = |role, name| header.find(role, name, &[role]);
        let (chosen, rejected) = (find("chosen", &options.chosen)?, find("rejected", &options.rejected)?);
        let chosen = chosen.ok_or_else(|| header.missing("the chosen answer", "chosen"))?;
        let rejected = rejected.ok_or_else(|| header.missing("the rejected answer", "rejected"))?;
        Ok(PairColumns { prompt, chosen, rejected, chat: ChatColumns::new(header) })
    }

    fn roles(PairColumns { prompt, chosen, rejected, chat }: &PairColumns) -> Vec<Role> {
        let expected = "texts, or lists of messages";
        let role = |name, column: Option<&str>| Role { name, column: column.map(str::to_owned), expected };
        let mut roles =
            vec![role("prompt", prompt.as_deref()), role("chosen", Some(chosen)), role("rejected", Some(rejected))];
        roles.extend(chat.roles());
        roles
    }

    fn read(columns: &PairColumns, cells: Cells<'_>) -> Result<Self, Reason> {
        let [chosen, rejected] = [&columns.chosen, &columns.rejected];
        let found = if is_list(cells, chosen) { conversations(columns, cells)? } else { texts(columns, cells)? };
        if found.chosen == found.rejected {
            return Err(Reason::SamePair { chosen: chosen.clone(), rejected: rejected.clone() });
        }
        Ok(found)
    }

    fn text(&self) -> String {
        let Self { chosen, rejected } = self;
        format!("chosen: {}\nrejected: {}", chosen.text(), rejected.text())
    }
}

/// Answers that are texts. Without a prompt, it is what both begin with, but for a space at its end (as TRL has it).
fn texts(columns: &PairColumns, cells: Cells<'_>) -> Result<Pair, Reason> {
    let (mut chosen, mut rejected) = (cells.any_text(&columns.chosen)?, cells.any_text(&columns.rejected)?);
    let prompt = match &columns.prompt {
        Some(column) => cells.any_text(column)?,
        None => {
            let same = chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b);
            let mut length: usize = same.map(|(letter, _)| letter.len_utf8()).sum();
            if chosen[..length].ends_with(' ') {
                length -= 1;
            }
            let prompt = chosen[..length].to_owned();
            (chosen, rejected) = (chosen[length..].to_owned(), rejected[length..].to_owned());
            prompt
        }
    };
    let answer = |completion: String, column: &String| {
        if completion.trim().is_empty() {
            return Err(Reason::EmptyCompletion { column: column.clone() });
        }
        Ok(Passage::Completion { prompt: prompt.clone(), completion })
    };
    Ok(Pair { chosen: answer(chosen, &columns.chosen)?, rejected: answer(rejected, &columns.rejected)? })
}

/// Answers that are lists of messages. Without a prompt, it is the messages that both begin with.
fn conversations(columns: &PairColumns, cells: Cells<'_>) -> Result<Pair, Reason> {
    let (mut chosen, mut rejected) = (cells.messages(&columns.chosen)?, cells.messages(&columns.rejected)?);
    let given = match &columns.prompt {
        Some(column) => {
            let prompt = cells.messages(column)?;
            let with = |answer: Vec<Message>| prompt.iter().cloned().chain(answer).collect();
            (chosen, rejected) = (with(chosen), with(rejected));
            prompt.len()
        }
        None => chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count(),
    };
    if given == chosen.len() && given == rejected.len() {
        return Err(Reason::SamePair { chosen: columns.chosen.clone(), rejected: columns.rejected.clone() });
    }
    let answer = |messages: Vec<Message>, column: &String| -> Result<Passage, Reason> {
        if messages.len() == given {
            return Err(Reason::EmptyCompletion { column: column.clone() });
        }
        let conversation: Conversation = columns.chat.conversation(cells, messages, Some(given))?;
        Ok(Passage::Conversation(conversation))
    };
    Ok(Pair { chosen: answer(chosen, &columns.chosen)?, rejected: answer(rejected, &columns.rejected)? })
}

/// The samples of both answers, with the tokens cut off.
fn answers(tokenizer: &TextTokenizer, pair: &Pair, limit: Limit) -> Result<TokenizedSample<[LmSample; 2]>, Reason> {
    let chosen = tokenize(tokenizer, &pair.chosen, limit)?;
    let rejected = tokenize(tokenizer, &pair.rejected, limit)?;
    Ok(TokenizedSample { sample: [chosen.sample, rejected.sample], cut: chosen.cut + rejected.cut })
}

/// Fails if the adapter replaces parameters of its base: then the model without it is not the reference.
fn check_reference(files: &ModelFiles, loss: PairLoss, adapter: &Adapter) -> Result<(), RunError> {
    let replaced = adapter.config.modules_to_save.iter().find(|name| *name != SCORE);
    let (setting, found) = match (replaced, &adapter.config.trained_tokens) {
        (Some(module), _) => ("modules_to_save", json!(module).to_string()),
        (None, Some(trained)) => ("trainable_token_indices", json!(trained.tokens).to_string()),
        (None, None) => return Ok(()),
    };
    if loss == PairLoss::Reward {
        return Ok(());
    }
    let why = "it replaces parameters of the base model, which is the reference of DPO";
    let path = files.adapter.clone().unwrap_or_default();
    Err(files.of_adapter()(LoadError::AdapterFeature { path, setting: setting.to_owned(), found, why }))
}

/// PEFT's name of a reward head.
const SCORE: &str = "score";

impl Kind for PreferencePairs {
    type Model = PreferenceModel;
    type Content = Pair;
    type Processor = TextTokenizer;
    type Reader = TextTokenizer;

    const NAME: &'static str = "preference";
    const USUAL_LENGTH: usize = 2048;
    const ADAPTED: &'static [&'static str] = &["q_proj", "v_proj"];
    const PAIRS: bool = true;

    /// 5e-5: an adapter that moves far from its base loses more than its preferences.
    fn training() -> TrainConfig {
        TrainConfig { learning_rate: 5e-5, ..TrainConfig::default() }
    }

    fn matches(kind: ModelKind) -> bool {
        kind == ModelKind::CausalLm
    }

    fn load(
        files: &ModelFiles,
        adapter: Option<&Adapter>,
        _rows: &Dataset<Pair>,
        device: &Device,
    ) -> Result<Prepared<Self>, RunError> {
        let loss = files.pair_loss();
        let (LoadedModel { mut model, .. }, own_head) =
            load_preference(files.path(), loss, 0, device).map_err(files.of_model())?;
        let brings_head =
            adapter.is_some_and(|adapter| adapter.config.modules_to_save.iter().any(|name| name == SCORE));
        if loss == PairLoss::Reward && !own_head && !brings_head {
            return Err(files.of_model()(LoadError::NoHead { path: files.path().to_owned() }));
        }
        if let Some(adapter) = adapter {
            check_reference(files, loss, adapter)?;
            model = adapter.apply(model).map_err(files.of_adapter())?;
        }
        Ok(Prepared { model, processor: files.tokenizer()? })
    }

    fn load_base(
        files: &ModelFiles,
        _train: &Dataset<Pair>,
        seed: u64,
        device: &Device,
        _notify: &mut dyn FnMut(Notice),
    ) -> Result<Prepared<Self>, RunError> {
        let loaded = load_preference(files.path(), files.pair_loss(), seed, device).map_err(files.of_model())?;
        Ok(Prepared { model: loaded.0.model, processor: files.tokenizer()? })
    }

    fn settings(model: &PreferenceModel) -> Option<Value> {
        let loss = model.pair_loss();
        Some(match loss {
            PairLoss::Dpo { beta } => json!({ "pairs": loss.name(), "beta": beta }),
            PairLoss::Reward => json!({ "pairs": loss.name() }),
        })
    }

    fn tokenizer(processor: &TextTokenizer) -> Option<&TextTokenizer> {
        Some(processor)
    }

    fn positions(model: &PreferenceModel) -> usize {
        model.language().decoder().config().max_tokens
    }

    /// DPO's reference is computed here, once per row: training asks for it in every epoch.
    fn sample(prepared: &Prepared<Self>, content: &Pair, limit: Limit) -> Result<TokenizedSample<PairSample>, Reason> {
        let Prepared { model, processor: tokenizer } = prepared;
        let TokenizedSample { sample: [chosen, rejected], cut } = answers(tokenizer, content, limit)?;
        for answer in [&chosen, &rejected] {
            known_tokens(&answer.tokens, model.language().decoder().config().vocabulary)?;
        }
        if chosen == rejected {
            return Err(Reason::SameTokens { tokens: chosen.tokens.len() });
        }
        let reference = model.reference(&chosen, &rejected);
        let reference = reference.map_err(|error| Reason::Reference { error: error.to_string() })?;
        Ok(TokenizedSample { sample: PairSample { chosen, rejected, reference }, cut })
    }

    fn reader(files: &ModelFiles) -> Result<TextTokenizer, RunError> {
        files.tokenizer()
    }

    /// Those of the chosen answer, then those of the rejected one.
    fn tokens(
        tokenizer: &TextTokenizer,
        content: &Pair,
        limit: Limit,
    ) -> Result<TokenizedSample<Vec<(u32, bool)>>, Reason> {
        let TokenizedSample { sample, cut } = answers(tokenizer, content, limit)?;
        let each = |answer: LmSample| answer.tokens.into_iter().zip(answer.scored).collect::<Vec<_>>();
        Ok(TokenizedSample { sample: sample.into_iter().flat_map(each).collect(), cut })
    }

    fn row_notices(tokenizer: &TextTokenizer, data: &Dataset<Pair>) -> Vec<Notice> {
        let is_chat = data.rows.iter().any(|row| matches!(row.content.chosen, Passage::Conversation(_)));
        if is_chat { language_model::of_conversations(tokenizer, data) } else { Vec::new() }
    }

    fn predict(model: &PreferenceModel, samples: &[&PairSample]) -> Result<Vec<Prediction>, RunError> {
        let batch = model.collate(samples)?;
        let losses = host(model.loss(model.forward(&batch, &mut Tape::off()), &batch))?;
        Ok(losses.into_iter().map(of_pair).collect())
    }

    fn states(model: &PreferenceModel, samples: &[&PairSample]) -> Result<Tensor<2>, RunError> {
        let chosen: Vec<&LmSample> = samples.iter().map(|sample| &sample.chosen).collect();
        Ok(model.language().mean_states(&chosen)?)
    }

    fn prediction_of_loss(_: &PreferenceModel, _: &PairSample, loss: f64) -> Option<Prediction> {
        Some(of_pair(loss))
    }

    fn bytes(sample: &PairSample) -> Vec<u8> {
        let answers = [&sample.chosen, &sample.rejected].map(language_model::bytes);
        let lengths = answers.iter().flat_map(|answer| (answer.len() as u64).to_le_bytes());
        let reference = sample.reference.iter().flat_map(|value| value.to_le_bytes());
        lengths.chain(reference).chain(answers.concat()).collect()
    }
}

/// The difference of the rewards follows from the loss, `−log σ` of it.
fn of_pair(loss: f64) -> Prediction {
    // Where exp_m1 overflows, the loss is the difference.
    let margin = if loss > 700.0 { -loss } else { -loss.exp_m1().ln() };
    Prediction { loss, target: Predicted::Pair { margin } }
}
