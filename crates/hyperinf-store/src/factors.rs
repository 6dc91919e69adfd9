//! Curvature that a run on an index has computed, kept for the next one.

pub(crate) mod file;

use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use hyperinf_curvature::{BlockCurvature, Curvature, Storage};
use hyperinf_gradients::Block;
use hyperinf_scoring::{Method, Options};

use crate::stream::curvatures;
use crate::{BATCH_BYTES, GradientPair, IndexFolder, ProjectionSpec, Sizes, StoreError, available};

/// More bytes are not kept: reading the gradients again is no slower.
const MOST: f64 = (1_u64 << 30) as f64;
/// The share of the free memory that a curvature to keep may take: that of all blocks is held at once.
const SHARE: f64 = 0.25;
const NUMBER: f64 = size_of::<f64>() as f64;

/// How the curvature of an index is kept.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `keep` | `true` | whether a curvature that was computed is kept; one that is there is used all the same |
/// | `device_kind` | empty | the kind of the device, a part of the key: another one may round differently |
#[derive(Clone, Debug)]
pub struct FactorOptions {
    /// Whether a curvature that was computed is kept.
    pub keep: bool,
    /// The kind of the device.
    pub device_kind: String,
}

impl Default for FactorOptions {
    fn default() -> Self {
        Self { keep: true, device_kind: String::new() }
    }
}

/// What became of the curvature of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Factors {
    /// There is nothing to keep; scoring computes what it needs.
    Nothing {
        /// Why.
        reason: &'static str,
    },
    /// It was there.
    Found {
        /// Its file.
        path: PathBuf,
        /// Bytes of the file.
        bytes: u64,
    },
    /// It was computed.
    Computed {
        /// Its file.
        path: PathBuf,
        /// Bytes of the file; `None` if it is not kept.
        bytes: Option<u64>,
    },
}

/// The curvature of the training gradients that a pair has at hand.
pub(crate) struct OwnCurvature {
    storage: Storage,
    merged: bool,
    blocks: Vec<BlockCurvature>,
}

/// The file of a curvature.
struct Place {
    path: PathBuf,
    key: String,
    rows: String,
    blocks: usize,
}

/// Gives the pair the curvature of its training gradients, those of an index: from the index's folder if an earlier run
/// with the same rows, storage, partition, projection and precision has left it there, else from one pass over the
/// gradients, and then kept. From then on, scoring with these options takes it; the results are the same to the last
/// bit. Solver and damping are not part of it: one curvature serves all.
///
/// A folder that cannot be written keeps nothing. Neither does a method without curvature, one that holds the samples
/// themselves (DataInf, the dual of `exact`), nor one whose curvature takes more than 1 GiB or a quarter of the memory.
///
/// # Errors
///
/// As [`score`](crate::score).
pub fn training_factors(
    pair: &mut GradientPair,
    options: &Options,
    projection: Option<ProjectionSpec>,
    how: &FactorOptions,
    device: &Device,
) -> Result<Factors, StoreError> {
    training_factors_by(pair, options, projection, how, device, |pair| curvatures(pair, options, device))
}

/// [`training_factors`] whose pass over the gradients is that of `compute`: several processes may take some blocks each
/// ([`curvature_blocks`](crate::curvature_blocks)).
///
/// # Errors
///
/// Those of `compute`.
pub fn training_factors_by<E>(
    pair: &mut GradientPair,
    options: &Options,
    projection: Option<ProjectionSpec>,
    how: &FactorOptions,
    device: &Device,
    compute: impl FnOnce(&GradientPair) -> Result<Vec<BlockCurvature>, E>,
) -> Result<Factors, E> {
    pair.own = None;
    let Method::Inverse { storage, .. } = options.method else {
        return Ok(Factors::Nothing { reason: "the method has no curvature" });
    };
    if storage.needs_captures() {
        return Ok(Factors::Nothing { reason: "its curvature is that of the model" });
    }
    let place = match Place::new(pair, options, &format!("{projection:?}"), how, device) {
        Ok(place) => place,
        Err(reason) => return Ok(Factors::Nothing { reason }),
    };
    let (blocks, found) = place.recall(how, device, || compute(pair))?;
    pair.own = Some(OwnCurvature { storage, merged: options.merged, blocks });
    Ok(found)
}

/// The curvature of a model over the rows of the pair's training gradients, those of an index, for
/// [`score`](crate::score): from the index's folder if an earlier run has left it there, else by `compute`, and then
/// kept, as with [`training_factors`]. The manifest of the index is part of its key, and so is `estimate`.
///
/// # Errors
///
/// Those of `compute`.
pub fn model_factors<E>(
    pair: &GradientPair,
    options: &Options,
    estimate: &str,
    how: &FactorOptions,
    device: &Device,
    compute: impl FnOnce() -> Result<Vec<BlockCurvature>, E>,
) -> Result<(Vec<BlockCurvature>, Factors), E> {
    let manifest = IndexFolder::open(pair.train.path()).map(|index| index.manifest().identity()).unwrap_or_default();
    match Place::new(pair, options, &format!("{estimate} {manifest}"), how, device) {
        Ok(place) => place.recall(how, device, compute),
        Err(reason) => Ok((compute()?, Factors::Nothing { reason })),
    }
}

/// The key of curvature that is sent.
const SENT: &str = "sent";

/// Curvature as bytes, with all digits, for another process; `None` for numbers that are neither f32 nor f64.
#[must_use]
pub fn curvature_to_bytes(known: &[BlockCurvature]) -> Option<Vec<u8>> {
    file::to_bytes(SENT, "", known)
}

/// Whether [`curvature_to_bytes`] has bytes for it whose products are those of this curvature, bit for bit: not of held
/// captures, which would arrive as rows.
#[must_use]
pub fn can_be_sent(known: &[BlockCurvature]) -> bool {
    let is_kept = |known: &BlockCurvature| {
        !matches!(known.curvature, Curvature::Captured(_))
            && matches!(known.curvature.like().dtype(), DType::F32 | DType::F64)
    };
    known.iter().all(is_kept)
}

/// The curvature of [`curvature_to_bytes`]; `None` if the bytes are not whole.
#[must_use]
pub fn curvature_from_bytes(bytes: &[u8], device: &Device) -> Option<Vec<BlockCurvature>> {
    file::parsed(bytes, SENT, device)
}

/// The bytes of the curvature that an index keeps for a method, of blocks as they are scored; 0 if nothing is kept.
pub fn factor_bytes(options: &Options, blocks: &[Block], samples: usize) -> f64 {
    match options.method {
        Method::Identity => 0.0,
        Method::Inverse { storage, .. } => bytes_of(storage, &layout(blocks, options.merged), samples)
            .ok()
            .filter(|&bytes| bytes <= MOST)
            .unwrap_or(0.0),
    }
}

impl Place {
    /// Fails with the reason if there is nothing to keep.
    fn new(
        pair: &GradientPair,
        options: &Options,
        more: &str,
        how: &FactorOptions,
        device: &Device,
    ) -> Result<Self, &'static str> {
        let Method::Inverse { storage, .. } = options.method else { return Err("the method has no curvature") };
        let folder = pair.train.path();
        let Some(rows) = pair.train.vouched().filter(|_| pair.curvature.is_none() && folder.is_dir()) else {
            return Err("the training gradients are not an index");
        };
        let layout = layout(&pair.scored_blocks(), options.merged);
        let bytes = bytes_of(storage, &layout, pair.train.samples())?;
        if bytes > MOST {
            return Err("its curvature takes more than 1 GiB");
        }
        if pair.memory.or_else(available).is_some_and(|free| bytes > SHARE * free) {
            return Err("its curvature takes more than a quarter of the memory");
        }
        let rows = format!("{} {rows}", env!("CARGO_PKG_VERSION"));
        let (merged, precision, kind) = (options.merged, pair.precision(device), &how.device_kind);
        let batch = match pair.batch_bytes {
            BATCH_BYTES => String::new(),
            other => format!("batches of {other} bytes "),
        };
        let key = format!("2 {storage:?} merged {merged} {more} {batch}{precision:?} on {kind} of {rows}");
        Ok(Self { path: folder.join(file::name(&key)), key, rows, blocks: layout.len() })
    }

    /// The curvature in the file, or the computed one.
    fn recall<E>(
        self,
        how: &FactorOptions,
        device: &Device,
        compute: impl FnOnce() -> Result<Vec<BlockCurvature>, E>,
    ) -> Result<(Vec<BlockCurvature>, Factors), E> {
        let Self { path, key, rows, blocks } = self;
        if let Some((known, bytes)) = file::load(&path, &key, device).filter(|(known, _)| known.len() == blocks) {
            return Ok((known, Factors::Found { path, bytes }));
        }
        let known = compute()?;
        // Without it the next run takes longer, no more.
        let bytes = how.keep.then(|| file::save(&path, &key, &rows, &known)).flatten();
        Ok((known, Factors::Computed { path, bytes }))
    }
}

impl GradientPair {
    /// The curvature of the training gradients for these options, if [`training_factors`] has given it to the pair and
    /// the projection has not changed since.
    pub fn own_curvature(&self, options: &Options) -> Option<&[BlockCurvature]> {
        let Method::Inverse { storage, .. } = options.method else { return None };
        let own = self.own.as_ref()?;
        (own.storage == storage && own.merged == options.merged).then_some(&*own.blocks)
    }

    /// Whether the curvature of the training gradients for these options can be held for several scorings
    /// ([`GradientPair::take_curvature`]), by so many pairs at once: the method has one that is not the samples
    /// themselves, it is that of the training gradients, and there is memory for all of them and a scoring.
    pub fn can_hold_curvature(&self, options: &Options, pairs: usize, device: &Device) -> bool {
        let Method::Inverse { storage, .. } = options.method else { return false };
        let bytes = bytes_of(storage, &layout(&self.scored_blocks(), options.merged), self.train.samples());
        let free = self.memory.or_else(available).unwrap_or(f64::INFINITY);
        let scoring = Sizes::new(self, 1, device).needed(options).bytes;
        let fits = |bytes: f64| pairs as f64 * bytes + scoring <= free;
        self.curvature.is_none() && !storage.needs_captures() && bytes.is_ok_and(fits)
    }

    /// Takes the curvature of the training gradients for these options, that of some blocks at least: what
    /// [`training_factors`] or another process has computed.
    pub fn take_curvature(&mut self, options: &Options, blocks: Vec<BlockCurvature>) {
        let Method::Inverse { storage, .. } = options.method else { return };
        self.own = Some(OwnCurvature { storage, merged: options.merged, blocks });
    }

    /// Takes the curvature of another pair with the same training gradients and projection.
    pub fn share_curvature(&mut self, other: &Self) {
        let of = |own: &OwnCurvature| OwnCurvature { blocks: own.blocks.clone(), ..*own };
        self.own = other.own.as_ref().map(of);
    }
}

impl fmt::Display for Factors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &Path| path.display().to_string();
        match self {
            Self::Nothing { reason } => write!(f, "no curvature is kept in the index: {reason}"),
            Self::Found { path, .. } => write!(f, "the curvature is that of an earlier run, in `{}`", name(path)),
            Self::Computed { path, bytes: Some(bytes) } => {
                write!(f, "the curvature is kept for the next run, {bytes} bytes in `{}`", name(path))
            }
            Self::Computed { bytes: None, .. } => f.write_str("the curvature is not kept for the next run"),
        }
    }
}

fn layout(blocks: &[Block], merged: bool) -> Vec<Block> {
    match merged {
        true => vec![Block::new("merged", 1, blocks.iter().map(Block::parameters).sum())],
        false => blocks.to_vec(),
    }
}

/// The bytes of a curvature; fails for one that holds samples.
fn bytes_of(storage: Storage, layout: &[Block], samples: usize) -> Result<f64, &'static str> {
    if layout.iter().any(|block| storage.holds_samples(block, samples)) {
        return Err("the method works on the gradients themselves");
    }
    Ok(layout.iter().map(|block| kept_numbers(storage, block) * NUMBER).sum())
}

/// The numbers of a block's curvature.
fn kept_numbers(storage: Storage, block: &Block) -> f64 {
    let (rows, cols, d) = (block.rows as f64, block.cols as f64, block.parameters() as f64);
    match storage {
        Storage::Samples => 0.0,
        Storage::Dense | Storage::Full => d * d,
        Storage::OneSided { side, .. } => if side.contracts_rows(block.rows, block.cols) { cols } else { rows }.powi(2),
        Storage::Diagonal => d,
        Storage::Isotropic => 1.0,
        Storage::Kronecker { .. } | Storage::TwoSided { .. } => rows * rows + cols * cols + d,
        Storage::LowRank { rank, .. } => (rank as f64).min(d) * (d + 1.0),
    }
}
