//! Per-sample gradients and influence scores on disk.
//!
//! Gradients come row by row (one batch of samples after another), scores need one block of *all* samples: a file of
//! gradients is the transposition between the two. Everything here reads one block at a time, so files larger than
//! memory work, and nothing under a final name is ever partial.
//!
//! | item | purpose |
//! |---|---|
//! | [`GradientFile`] | reads a safetensors file with one tensor per block, `[n, rows, cols]` or `[n, D]` |
//! | [`GradientWriter`] | writes one, batch by batch, with a journal from which an interrupted run resumes |
//! | [`IndexWriter`], [`IndexFolder`] | an index: gradients in shards with a journal, built once, asked often, extended, verified |
//! | [`Convert`] | gradients of NumPy and bergson as safetensors, and back |
//! | [`GradientPair`] | training and query gradients of the same blocks, optionally with curvature and contrast files |
//! | [`score`], [`sweep`], [`self_influence`], [`products`] | the entry points of `hyperinf-scoring` over such a pair, block by block |
//! | [`training_factors`], [`model_factors`] | curvature that an index keeps for the next run |
//! | [`top_rows`], [`Sketches`] | the ends of a ranking, of which few rows are read in full |
//! | [`refine`], [`score_preconditioned`] | queries after the inverse of a curvature over all blocks, and the scores by them |
//! | [`position_scorer`] | queries preconditioned for scores of positions |
//! | [`Checkpoint`], [`tracin`] | scores summed over several moments of a training |
//! | [`ProjectionSpec`] | a projection of every block, applied while the gradients are read |
//! | [`Sizes`], [`available`] | the memory that a scoring needs, and what the system grants; scoring refuses before work |
//! | [`ScoreFile`] | writes scores with ids, ranks and metadata as safetensors, Parquet, CSV or JSON lines |
//! | [`KeptScores`] | scores of many queries, in memory or in a file, for a [`ScoreFile`] |
//! | [`StoredScores`] | reads such files |
//! | [`Staged`], [`publish`] | files that are written next to their places and moved there, together, when all are whole |
//! | [`OutputFolder`] | a folder for results: locked, and free of what an interrupted run left half-written |
//!
//! ```
//! use burn::tensor::Device;
//! use hyperinf_gradients::Block;
//! use hyperinf_scoring::Options;
//! use hyperinf_store::{GradientPair, GradientWriter, Ids, RunKey, ScoreFile, StoreError, score};
//! use serde_json::Map;
//!
//! /// Scores three training samples for one query, from file to file.
//! fn run(folder: &std::path::Path, device: &Device) -> Result<(), Box<dyn std::error::Error>> {
//!     let blocks = [Block::new("layer", 2, 1)];
//!     let key = RunKey::from([("model", "the model's hash")]);
//!     for (name, rows) in [("train", vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), ("query", vec![1.0, -1.0])] {
//!         let n = rows.len() / 2;
//!         let mut writer = GradientWriter::open(folder, name, &key, n, &blocks)?;
//!         writer.write(&(0..n).collect::<Vec<_>>(), &vec![0.0; n], &[rows])?;
//!         writer.place(&folder.join(name))?;
//!     }
//!     let pair = GradientPair::open(&folder.join("train"), &folder.join("query"))?;
//!     let found = score(&pair, None, &Options::default(), device)?.scores;
//!     let file = ScoreFile::new(&folder.join("scores.csv"), &[])?;
//!     file.write(&found, None, &Ids::numbered(1, 3), &Map::new())?;
//!     Ok(())
//! }
//! ```

mod block_stream;
mod cells;
mod checkpoints;
mod convert;
mod error;
mod factors;
mod folder;
mod formats;
mod gradient_file;
mod ids;
mod index;
mod kept_scores;
mod memory;
mod no_room;
mod offers;
mod own_file;
mod pair;
mod projection;
mod publish;
mod refine;
mod rows_stream;
mod scores;
mod sketch;
mod source;
mod staged;
mod stored_scores;
mod stream;
mod table;
mod temporary;
mod top_rows;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {burn, hyperinf_curvature, hyperinf_gradients, hyperinf_linalg, hyperinf_scoring};

pub use block_stream::{Found, curvature_blocks, position_blocks, product_blocks, score_blocks, self_influence_blocks};
pub use cells::{Cells, cell};
pub use checkpoints::{Checkpoint, tracin};
pub use convert::{Convert, ConvertError, Converted};
pub use error::{StoreError, WriteError};
pub use factors::{
    FactorOptions, Factors, can_be_sent, curvature_from_bytes, curvature_to_bytes, factor_bytes, model_factors,
    training_factors, training_factors_by,
};
pub use folder::OutputFolder;
pub use gradient_file::{
    BadValue, Check, FileError, GradientFile, GradientWriter, KeyDifference, Precision, RecordedBatches, Restart,
    Resumption, RunKey, StoredBlock, StoredType,
};
pub use ids::{IdColumn, Ids, Unit};
pub use index::{
    Begun, Fault, FaultKind, IndexError, IndexFolder, IndexWriter, Leaf, MANIFEST, Manifest, Record, SourceFile,
    StoredGuess, StoredRow, StoredSides,
};
pub use kept_scores::{KeptScores, ScoreRows};
pub use memory::{Need, Sizes, available, free_space, peak_resident, reset_peak, resident};
pub use no_room::NoRoom;
pub use offers::Offer;
pub use own_file::{FileStamp, open_own, sync_folder};
pub use pair::{GradientPair, MatchedFile};
pub use projection::{Directions, ProjectionSpec};
pub use publish::publish;
pub use refine::{refine, refine_stochastic, score_preconditioned};
pub use rows_stream::{RowShare, row_share, score_rows, sum_rows};
pub use scores::{ErrorBars, SCORE_FORMATS, ScoreFile, ScoreFormat, check_range, ranks};
pub use sketch::Sketches;
pub use source::BATCH_BYTES;
pub use staged::{
    Staged, check_output, check_writable, stage_csv, stage_json, stage_parquet, stage_table, table_ending, write_json,
};
pub use stored_scores::{ScoresFault, StoredScores};
pub use stream::{curvatures, position_scorer, products, score, self_influence, sweep};
pub use table::{Column, Table};
pub use temporary::{TemporaryFolder, abandon};
pub use top_rows::{Ends, TopRows, top_rows};
