//! Models whose training data can be attributed: architectures, their files, adapters, tokenizers and training.
//!
//! | items | purpose |
//! |---|---|
//! | [`EncoderClassifier`], [`Encoder`] | BERT, RoBERTa, MiniLM, with a classification head |
//! | [`CausalLm`], [`Decoder`] | Llama 2 and 3, SmolLM2, Qwen2, Mistral |
//! | [`VisionLanguage`], [`VisionEncoder`] | LLaVA, Idefics3, SmolVLM: a decoder that sees images |
//! | [`PreferenceModel`], [`load_preference`] | a language model on pairs of answers: DPO, or a reward head |
//! | [`record`] | which layers' gradients are taken: adapters, a connector, the last layer |
//! | [`TextToImage`], [`PixArt`], [`sample_images`] | diffusion models: their loss, a denoiser, and pictures from it |
//! | [`Pipeline`], [`load_pipeline`] | a diffusion model with its text encoder, from diffusers' folder |
//! | [`Pipeline`], [`UNet`], [`ClipText`], [`Autoencoder`] | diffusers' folders: Stable Diffusion 1.5 and 2, PixArt |
//! | [`adapt`], [`LoraLinear`] | LoRA on any linear layer, with PEFT's names |
//! | [`load_classifier`], [`load_encoder`], [`load_causal_lm`], [`load_vision_language`] | models from Hugging Face, GGUF and llama2.c files |
//! | [`Hub`] | models and adapters by their names on a hub |
//! | [`Adapter`] | PEFT's adapter folders, read and written |
//! | [`TextTokenizer`] | samples from texts, pairs, prompts with completions, conversations |
//! | [`Picture`], [`ImageProcessor`] | images from PNG, JPEG and WebP, and what models get of them |
//! | [`finetune`], [`train`] | AdamW with warm-up, checkpoints and early stopping, deterministic from a seed |
//! | [`Recording`], [`Unroll`] | the derivative through a training, with respect to the weights of its samples |
//! | [`pretrain_masked`] | training of an encoder on text without labels |
//! | [`generate`] | greedy continuation of a prompt |
//! | [`weights`], [`load_weights`] | parameters by path |
//!
//! A model is a [`SampleModel`]: a [`Task`](hyperinf_gradients::Task) that makes batches from samples. Models live on a
//! plain device; [`train`] and [`finetune`] turn autodiff on and off.
//!
//! ```
//! # let (_, device) = hyperinf_tests::devices().remove(0);
//! use hyperinf_gradients::{Tape, Task};
//! use hyperinf_models::{
//!     Encoder, EncoderClassifier, EncoderConfig, HeadKind, LoraConfig, RecordedLayers, Sample, SampleModel, adapt,
//! };
//!
//! // A tiny encoder with random weights and a head for two classes.
//! let config = EncoderConfig {
//!     vocabulary: 50, max_tokens: 8, width: 16, layers: 2, heads: 2, feed_forward: 32, ..EncoderConfig::default()
//! };
//! let encoder = Encoder::new(config, 1, &device)?;
//! let model = EncoderClassifier::new(encoder, HeadKind::Mean, 2, RecordedLayers::default(), 1)?;
//! // LoRA on the query and value layers; everything else but the head is frozen.
//! let model = adapt(model, &["query", "value"], &LoraConfig::default(), 1)?;
//!
//! let sample = Sample { tokens: vec![3, 14, 15, 9], segments: Vec::new(), label: 1 };
//! let batch = model.collate(&[&sample])?;
//! let logits = model.forward(&batch, &mut Tape::off());
//! assert_eq!(logits.dims(), [1, 2]);
//! # Ok::<(), hyperinf_models::ModelError>(())
//! ```

mod arch;
mod diffusion;
mod error;
mod files;
mod image;
mod template;
mod text;
mod training;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {burn, hyperinf_gradients, hyperinf_ops};

pub use arch::{
    ALL_LINEAR, Activation, Adaptable, AdaptableEmbedding, AdaptableLinear, AttentionBias, CausalLm, Connector,
    ConnectorConfig, Decoder, DecoderConfig, DenseHead, Encoder, EncoderClassifier, EncoderConfig, EncoderFamily, Head,
    HeadKind, LmHead, LoraConfig, LoraEmbedding, LoraLinear, LoraScaling, MergedLora, ModelPart, NormPlacement,
    PairBatch, PairLoss, PairSample, PreferenceModel, RecordedLayers, RecordedLinear, RecordedParts, RotaryConfig,
    RotaryPairing, RotaryScaling, SampleModel, SlidingWindow, VisionConfig, VisionEncoder, VisionForm, VisionLanguage,
    VisionLanguageConfig, adapt, generate, record, without_dropout,
};
pub use diffusion::{
    Autoencoder, AutoencoderConfig, BetaSchedule, CaptionTokenizer, ClipText, ClipTextConfig, Denoiser, DiffusionBatch,
    DiffusionSample, GenerateConfig, GenerateError, ImageCoder, NoisePairs, NoiseProcess, NoiseSchedule, NoiseSharing,
    Pipeline, PixArt, PixArtConfig, Prediction, PromptDropout, SamplerConfig, TextEncoder, TextState, TextStates,
    TextToImage, TimestepsAs, UNet, UNetConfig, UNetLevel, sample_images,
};
pub use error::ModelError;
pub use files::{
    ADAPTER_SETTINGS, Adapter, AdapterConfig, AdapterSetting, AdapterTask, CheckpointNames, ClassifierOptions,
    FeatureCache, FormatError, GgufVocabulary, Hub, LoadError, LoadReport, LoadedModel, ModelKind, OwnHead, Panicked,
    TargetModules, TrainedTokens, Treatment, ValueCache, gguf_tokenizer, guarded, llama2c_tokenizer, load_autoencoder,
    load_caption_tokenizer, load_causal_lm, load_classifier, load_clip_text, load_encoder, load_gguf, load_llama2c,
    load_pipeline, load_pixart, load_preference, load_unet, load_vision_language, load_weights, model_kind,
    open_regular, panics_are_errors, read_regular, save_pipeline_index, save_pixart, vision_language_settings, weights,
};
pub use image::{
    Crop, ImageProcessor, Picture, PictureError, PictureLimits, Pixels, Processed, Resampling, TargetSize, Tiling,
};
pub use template::TemplateError;
pub use text::{
    ChatSource, ClipTokenizer, Conversation, FeatureStage, Images, Json, LabelledBatch, Limit, LmBatch, LmSample,
    Message, MessageError, Sample, SpecialTokens, TOKENIZER_FILES, TextTokenizer, TokenBatch, TokenizeError,
    TokenizedSample, TokenizerNotice, TokenizerSettings, Visual, VlmBatch, VlmSample,
};
pub use training::{
    AdamMetric, AveragedTraining, Checkpoints, Evaluation, FinetuneConfig, FinetunedModel, FoundCheckpoints,
    OptimizerChoice, Piece, PieceTeam, Progress, Recording, RunDifference, SharedStep, Smoothness, TrainConfig, Unroll,
    Unrolled, finetune, finetune_shared, finetune_until, is_checkpoint, pretrain_masked, shared_pieces, train,
    training_digest,
};
