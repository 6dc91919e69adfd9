//! From rows to scores: data sets, samples, and the runs over them.
//!
//! | item | purpose |
//! |---|---|
//! | [`Run`] | rows, a model and an adapter → gradients → scores: [`attribute`](Run::attribute), `detect`, `select` |
//! | [`Select`] | how rows are selected: diverse, without duplicates, per group, for several targets, a budget |
//! | [`RowMethod`], [`Derivative`] | scores by the exact derivative through the training of the adapter |
//! | [`Baseline`], [`Bm25`] | scores without gradients: random, length, loss, BM25, cosine of hidden states |
//! | [`Retraining`], [`Retrained`] | trainings without some rows, in a bank: what scores are compared with |
//! | [`NamedMethod`], [`MethodRun`] | the scores of several methods, with seconds and bytes |
//! | [`RunPlan`] | what a [`Run`] will take: time, memory and disk |
//! | [`Index`], [`Query`] | the gradients of training rows, computed once; the rows that help and harm a new query |
//! | [`Finetune`] | rows and a model → an adapter |
//! | [`Check`] | rows as a model gets them: tokens, which of them are scored, and [`Finding`]s about rows and gradients |
//! | [`Evaluate`] | rows and a model → predictions and a [`Quality`] |
//! | [`Generate`] | pictures of a text-to-image model |
//! | [`Dataset`] | reads JSON lines, JSON arrays, CSV, TSV and Parquet, with stable row ids and no silent loss |
//! | [`Illustrated`], [`Captioned`], [`ImageSource`] | rows with images: conversations, and images with captions |
//! | [`Subset`] | writes a part of a data set in its own format |
//! | [`Kind`] | a kind of model: how it is loaded and how rows become its samples |
//! | [`TextClassification`], [`LanguageModel`], [`VisionLanguage`], [`Diffusion`], [`PreferencePairs`] | the kinds |
//! | [`ModelFiles`] | the files of a model and its adapter, with hashes |
//! | [`Stop`] | a request to stop a run between two batches; what is finished is kept |
//! | [`Event`] | progress and notices, which a run reports to a callback |
//!
//! ```
//! use hyperinf_data::{Dataset, LabelledText, ReadOptions};
//! use hyperinf_scoring::Set;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("train.jsonl");
//! std::fs::write(&path, "{\"text\": \"old fox\", \"label\": \"animal\"}\n{\"text\": \"\", \"label\": \"water\"}\n")?;
//!
//! let options = ReadOptions { skip_bad_rows: true, ..ReadOptions::default() };
//! let data = Dataset::<LabelledText>::read(Set::Train, &path, &options)?;
//! assert_eq!(data.rows[0].content.label, "animal");
//! assert_eq!(data.bad[0].to_string(), "line 2 (row 1): column `text` is empty");
//! # Ok(())
//! # }
//! ```

mod any_kind;
mod bank;
mod baseline;
mod bm25;
mod captioned;
mod check;
mod check_model;
mod choice;
mod columns;
mod compared;
mod contact;
mod conversations;
mod crew;
mod crew_batches;
mod crew_blocks;
mod crew_curvature;
mod crew_gather;
mod crew_message;
mod crew_orders;
mod crew_products;
mod crew_rows;
mod crew_tokens;
mod crew_training;
mod crew_work;
mod cross_check;
mod dataset;
mod delimited;
mod diffusion_options;
mod effects;
mod ensemble;
mod error;
mod estimate;
mod evaluate;
mod event;
mod findings;
mod finetune;
mod finetune_of_kind;
mod generate;
mod gradients;
mod groups;
mod ids;
mod illustrated;
mod image_folder;
mod images;
mod index;
mod influence;
mod json_array;
mod jsonl;
mod kept_runs;
mod kind;
mod kinds;
mod labels;
mod large_blocks;
mod metric;
mod model_files;
mod parquet;
mod pattern;
mod plan;
mod plan_gradients;
mod plan_index;
mod plan_of_kind;
mod plan_probe;
mod plan_scores;
mod plan_tuning;
mod positions;
mod prediction;
mod quality;
mod ranking;
mod reason;
mod recipe;
mod recorded;
mod refined;
mod resumption;
mod retrain;
mod retrain_of_kind;
mod room;
mod run;
mod run_error;
mod run_of_kind;
mod samples;
mod scored;
mod select;
mod selected;
mod stage;
mod stop;
mod stored_scoring;
mod subset;
mod table;
mod texts;
mod training_log;
mod trajectory;
mod tuning;
mod unrolled;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {
    burn, hyperinf_curvature, hyperinf_gradients, hyperinf_linalg, hyperinf_models, hyperinf_scoring, hyperinf_store,
};

pub use bank::BankError;
pub use baseline::{Baseline, Ranked, RowMethod};
pub use bm25::Bm25;
pub use captioned::{Captioned, CaptionedColumns};
pub use check::{Check, Checked, CheckedRow, Piece};
pub use choice::Choice;
pub use columns::{Cells, ColumnOptions, Columns, Header, Role};
pub use compared::{AnyMethod, MethodRun, NamedMethod};
pub use contact::{Contact, ShownRow};
pub use conversations::ChatColumns;
pub use crew::{Crew, DEADLINE, RankReport};
pub use cross_check::CrossCheck;
pub use dataset::{Content, Dataset, ReadOptions, Row};
pub use delimited::{CsvError, CsvFault};
pub use diffusion_options::{DiffusionOptions, Timesteps};
pub use effects::{Choosing, Effect, Effects};
pub use ensemble::Member;
pub use error::{DataError, SubsetError, listed};
pub use evaluate::{Evaluate, Evaluated};
pub use event::{Detail, Event, Notice, Progress, Purpose};
pub use findings::{Finding, Outcome};
pub use finetune::{Finetune, Finetuned};
pub use generate::Generate;
pub use groups::PerGroup;
pub use ids::{IdError, sample_ids};
pub use illustrated::{Illustrated, IllustratedColumns, IllustratedTexts};
pub use image_folder::rows_file;
pub use images::ImageSource;
pub use index::{Answer, AnsweredQuery, Asked, Hit, Index, Indexed, Query, QuerySeconds, Questions, Reading, Reply};
pub use influence::{Detection, Influence, RowText, Rows, Selection, Target};
pub use kind::{Kind, Prepared};
pub use kinds::{
    Diffusion, DiffusionProcessor, LabelledColumns, LabelledProcessor, LabelledText, LanguageModel, Pair, PairColumns,
    Passage, PassageColumns, PreferencePairs, TextClassification, VisionLanguage, VisionProcessor,
};
pub use labels::{ClassIndex, Labels};
pub use large_blocks::LargeBlocks;
pub use metric::MetricUsed;
pub use model_files::{ModelFiles, Note};
pub use pattern::Pattern;
pub use plan::{Goal, PlannedBatch, PlannedDisk, PlannedMemory, PlannedRows, PlannedStep, RunPlan, Shortage, duration};
pub use positions::TokenScores;
pub use prediction::{Guess, Predicted, Prediction};
pub use quality::{ClassCounts, ClassQuality, PairQuality, PictureQuality, Quality, TokenQuality, Verdict};
pub use ranking::{Board, RankedQuery, Ranking, RowId, ScoredRow};
pub use reason::{BadRow, Reason};
pub use recipe::Recipe;
pub use refined::{Refine, RefineRows, RefinedQuery, Refinement};
pub use retrain::{Question, Removal, Removals, Retrained, Retraining};
pub use run::{GRADIENT_FILES, Run};
pub use run_error::{Existing, RunError};
pub use samples::{CutRow, LengthOptions, Samples};
pub use select::{Duplicates, Select};
pub use stage::Stage;
pub use stop::Stop;
pub use stored_scoring::StoredScoring;
pub use subset::Subset;
pub use table::Format;
pub use texts::read_texts;
pub use trajectory::{FollowedStates, Trajectory};
pub use tuning::TuningQuality;
pub use unrolled::{Derivative, Steadiness};
