use burn::tensor::Device;
use hyperinf_gradients::{Tape, Task};
use hyperinf_linalg::host;
use hyperinf_models::{
    Adapter, ClassifierOptions, EncoderClassifier, Limit, LoadError, LoadedModel, ModelKind, OwnHead, Sample,
    SampleModel, TextTokenizer, TokenizedSample, TrainConfig, load_classifier,
};

use crate::columns::{Cells, Header, Role};
use crate::dataset::{Content, Dataset};
use crate::kind::{Kind, Prepared, known_tokens};
use crate::labels::{ClassIndex, Labels};
use crate::model_files::ModelFiles;
use crate::prediction::Prediction;
use crate::{DataError, Notice, Reason, RunError};

/// Names of a text with the name of its second text, if it has one.
const TEXTS: [(&str, Option<&str>); 8] = [
    ("text", Some("text_pair")),
    ("text_a", Some("text_b")),
    ("sentence1", Some("sentence2")),
    ("premise", Some("hypothesis")),
    ("question1", Some("question2")),
    ("question", Some("sentence")),
    ("text", None),
    ("sentence", None),
];

/// Text classification: an encoder with a head over one label per text or pair of texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextClassification;

/// One or two texts and a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledText {
    /// The text.
    pub text: String,
    /// The second text.
    pub pair: Option<String>,
    /// The label's name.
    pub label: String,
}

/// The columns of a [`LabelledText`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledColumns {
    text: String,
    pair: Option<String>,
    label: String,
}

/// A tokenizer and the labels of the classes.
#[derive(Clone, Debug)]
pub struct LabelledProcessor {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The labels.
    pub labels: Labels,
    classes: ClassIndex,
}

impl LabelledProcessor {
    fn new(files: &ModelFiles, labels: Labels) -> Result<Self, RunError> {
        Ok(Self { tokenizer: files.tokenizer()?, classes: labels.index(), labels })
    }
}

impl Content for LabelledText {
    type Columns = LabelledColumns;

    fn columns(header: &Header<'_>) -> Result<LabelledColumns, DataError> {
        let options = header.options;
        let pair = header.named("pair", &options.pair)?;
        let (text, pair) = match header.named("text", &options.text)? {
            Some(text) => (text, pair),
            None => {
                let present =
                    |(text, pair): &&(&str, Option<&str>)| header.has(text) && pair.is_none_or(|p| header.has(p));
                let usual = TEXTS.iter().find(present).ok_or_else(|| {
                    header.missing(
                        "the text",
                        "text (and text_pair), text_a and text_b, sentence1 and sentence2, premise and hypothesis, \
                         question1 and question2",
                    )
                })?;
                // A second text that no row has is none: GLUE's single texts come with an empty `text_b`.
                let second =
                    usual.1.map(|second| header.holds_values(second).map(|holds| (second, holds))).transpose()?;
                let second = second.filter(|&(_, holds)| holds).map(|(second, _)| second.to_owned());
                (usual.0.to_owned(), pair.or(second))
            }
        };
        let label = header.find("label", &options.label, &["label", "labels"])?;
        let label = label.ok_or_else(|| header.missing("the label", "label"))?;
        Ok(LabelledColumns { text, pair, label })
    }

    fn roles(columns: &LabelledColumns) -> Vec<Role> {
        let LabelledColumns { text, pair, label } = columns;
        vec![
            Role::text("text", text),
            Role::text("text_pair", text).optional(pair.as_deref()),
            Role { name: "label", column: Some(label.clone()), expected: "texts or whole numbers" },
        ]
    }

    fn read(columns: &LabelledColumns, cells: Cells<'_>) -> Result<Self, Reason> {
        let pair = columns.pair.as_ref().map(|column| cells.text(column)).transpose()?;
        Ok(Self { text: cells.text(&columns.text)?, pair, label: cells.label(&columns.label)? })
    }

    fn text(&self) -> String {
        match &self.pair {
            None => self.text.clone(),
            Some(pair) => format!("{}\n{pair}", self.text),
        }
    }

    fn label(&self) -> Option<&str> {
        Some(&self.label)
    }
}

impl Kind for TextClassification {
    type Model = EncoderClassifier;
    type Content = LabelledText;
    type Processor = LabelledProcessor;
    type Reader = TextTokenizer;

    const NAME: &'static str = "classification";
    const USUAL_LENGTH: usize = 512;
    const ADAPTED: &'static [&'static str] = &["query", "value"];

    /// 2e-3 in batches of 16: a new head, and adapters whose gradients it passes on, learn from a few hundred rows.
    fn training() -> TrainConfig {
        TrainConfig { learning_rate: 2e-3, batch_size: 16, ..TrainConfig::default() }
    }

    fn matches(kind: ModelKind) -> bool {
        kind == ModelKind::Encoder
    }

    fn load(
        files: &ModelFiles,
        adapter: Option<&Adapter>,
        rows: &Dataset<LabelledText>,
        device: &Device,
    ) -> Result<Prepared<Self>, RunError> {
        let own_head = if adapter.is_some_and(Adapter::has_head) { OwnHead::Replaced } else { OwnHead::Used };
        let classes = adapter.and_then(Adapter::classes);
        let options = ClassifierOptions { classes, own_head, ..ClassifierOptions::default() };
        let LoadedModel { mut model, report } =
            load_classifier(files.path(), &options, device).map_err(files.of_model())?;
        if let Some(adapter) = adapter {
            model = adapter.apply(model).map_err(files.of_adapter())?;
        }
        let labels = labels(files, model.classes(), report.labels);
        labels.check(&rows.rows).map_err(RunError::data(rows))?;
        Ok(Prepared { model, processor: LabelledProcessor::new(files, labels)? })
    }

    /// With the checkpoint's own head if it has the labels of the training rows, else with a new one.
    fn load_base(
        files: &ModelFiles,
        train: &Dataset<LabelledText>,
        seed: u64,
        device: &Device,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Prepared<Self>, RunError> {
        let found = Labels::of(&train.rows);
        if let [label] = &found.names[..] {
            let source = DataError::OneLabel { label: label.clone(), rows: train.rows.len() };
            return Err(RunError::data(train)(source));
        }
        if let Some([one, other]) = found.alike() {
            let source = DataError::AlikeLabels { one: one.clone(), other: other.clone() };
            return Err(RunError::data(train)(source));
        }
        let load = |classes, own_head| {
            load_classifier(files.path(), &ClassifierOptions { classes, head: None, seed, own_head }, device)
        };
        match load(None, OwnHead::Used) {
            // A head that is about to be replaced keeps nobody from the encoder.
            Err(LoadError::NoHead { .. } | LoadError::OwnHead(_)) => {}
            loaded => {
                let LoadedModel { model, report } = loaded.map_err(files.of_model())?;
                let own = report.labels.map_or_else(|| Labels::numbered(model.classes()), Labels::of_model);
                let classes = own.index();
                if found.names.iter().all(|name| classes.class(name).is_ok()) {
                    return Ok(Prepared { model, processor: LabelledProcessor::new(files, own)? });
                }
                notify(Notice::NewHead { data: found.names.clone(), model: own.names });
            }
        }
        let model = load(Some(found.names.len()), OwnHead::Replaced).map_err(files.of_model())?.model;
        Ok(Prepared { model, processor: LabelledProcessor::new(files, found)? })
    }

    fn labels(processor: &LabelledProcessor) -> Option<&Labels> {
        Some(&processor.labels)
    }

    fn tokenizer(processor: &LabelledProcessor) -> Option<&TextTokenizer> {
        Some(&processor.tokenizer)
    }

    fn positions(model: &EncoderClassifier) -> usize {
        model.encoder.config().max_tokens
    }

    fn sample(
        prepared: &Prepared<Self>,
        content: &LabelledText,
        limit: Limit,
    ) -> Result<TokenizedSample<Sample>, Reason> {
        let Prepared { model, processor: LabelledProcessor { tokenizer, classes, .. } } = prepared;
        let class = classes.class(&content.label)?;
        let found = tokenizer.classification(&content.text, content.pair.as_deref(), class, limit)?;
        known_tokens(&found.sample.tokens, model.encoder.config().vocabulary)?;
        Ok(found)
    }

    fn reader(files: &ModelFiles) -> Result<TextTokenizer, RunError> {
        files.tokenizer()
    }

    fn tokens(
        tokenizer: &TextTokenizer,
        content: &LabelledText,
        limit: Limit,
    ) -> Result<TokenizedSample<Vec<(u32, bool)>>, Reason> {
        let found = tokenizer.classification(&content.text, content.pair.as_deref(), 0, limit)?;
        let tokens = found.sample.tokens.into_iter().map(|token| (token, false)).collect();
        Ok(TokenizedSample { sample: tokens, cut: found.cut })
    }

    fn predict(model: &EncoderClassifier, samples: &[&Sample]) -> Result<Vec<Prediction>, RunError> {
        let batch = model.collate(samples)?;
        let logits = model.forward(&batch, &mut Tape::off());
        let losses = host(model.loss(logits.clone(), &batch))?;
        let logits = host(logits)?;
        let rows = samples.iter().zip(losses).zip(logits.chunks(model.classes()));
        Ok(rows.map(|((sample, loss), logits)| Prediction::of_class(loss, sample.label, logits)).collect())
    }

    /// The losses of two classes say everything, those of more do not.
    fn prediction_of_loss(model: &EncoderClassifier, sample: &Sample, loss: f64) -> Option<Prediction> {
        (model.classes() == 2).then(|| Prediction::of_two_classes(loss, sample.label))
    }

    fn token_ids(sample: &Sample) -> Option<Vec<u32>> {
        Some(sample.tokens.clone())
    }

    fn bytes(sample: &Sample) -> Vec<u8> {
        let numbers = sample.tokens.iter().chain(&sample.segments).copied();
        numbers.chain([sample.label as u32]).flat_map(u32::to_le_bytes).collect()
    }
}

/// The labels that the adapter's note, or else the model, gives its classes.
fn labels(files: &ModelFiles, classes: usize, of_model: Option<Vec<String>>) -> Labels {
    let noted = files.note().and_then(|note| note.labels.clone());
    let fitting = |labels: &Labels| labels.names.len() == classes;
    let named = noted.filter(fitting).or_else(|| of_model.map(Labels::of_model).filter(fitting));
    named.unwrap_or_else(|| Labels::numbered(classes))
}
