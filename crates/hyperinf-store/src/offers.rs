//! What fits where a scoring does not.

use std::fmt;

use hyperinf_curvature::{Storage, Structure};
use hyperinf_gradients::Block;
use hyperinf_scoring::{Gfim, Method, Options, methods};
use serde::Serialize;

use crate::memory::GIB;
use crate::{Need, Sizes, StoreError};

/// The most rows of a matrix that is factorised: 16 GiB in f64.
const FACTORISED: usize = 46_340;
/// The most rows of a matrix that is summed: 16 GiB in f32.
const SUMMED: usize = 65_536;
/// The ranks that are offered, the largest that fits.
const RANKS: [usize; 11] = [1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1];

/// Something that fits where the wanted scoring does not.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Offer {
    /// One matrix per block, in place of one over all.
    PerBlock {
        /// The memory it needs, in GiB.
        gib: f64,
    },
    /// Gradients that are projected before they are scored, in the same structure.
    Projection {
        /// The longest side that is left of a block.
        rank: usize,
        /// The parameters that are left, over all blocks.
        parameters: usize,
        /// The memory it needs, in GiB.
        gib: f64,
    },
    /// The leading eigenpairs of the curvature ([`Storage::LowRank`]).
    LowRank {
        /// Their number.
        rank: usize,
        /// The memory it needs, in GiB.
        gib: f64,
    },
    /// A named method.
    Method {
        /// Its name.
        name: &'static str,
        /// The memory it needs, in GiB.
        gib: f64,
    },
}

/// A matrix that a scoring would need, and that is too large for any machine.
struct TooLarge {
    block: Block,
    side: usize,
    most: usize,
}

impl Sizes {
    /// Fails if the options need more memory than `available` bytes, or a matrix that is never formed, and says what fits.
    ///
    /// # Errors
    ///
    /// [`StoreError::Memory`], [`StoreError::Matrix`].
    pub fn check(&self, options: &Options, available: Option<f64>) -> Result<(), StoreError> {
        let Need { bytes, block } = self.needed(options);
        if let Some(available) = available.filter(|available| bytes > *available) {
            return Err(StoreError::Memory {
                block: block.name,
                rows: block.rows,
                cols: block.cols,
                samples: self.curvature,
                needed_gib: bytes / GIB,
                available_gib: available / GIB,
                offers: self.offers(options, Some(available)),
            });
        }
        match self.too_large(options) {
            None => Ok(()),
            Some(TooLarge { block, side, most }) => Err(StoreError::Matrix {
                block: block.name,
                side,
                gib: (side as f64).powi(2) * size_of::<f64>() as f64 / GIB,
                most,
                offers: self.offers(options, available),
            }),
        }
    }

    /// What fits into so many bytes in place of these options, or anywhere if nothing is known: one matrix per block, the
    /// largest projection, the most eigenpairs, and the named methods that need no captures.
    #[must_use]
    pub fn offers(&self, options: &Options, available: Option<f64>) -> Vec<Offer> {
        let fits = |sizes: &Self, options: &Options| {
            let bytes = sizes.needed(options).bytes;
            let fits = available.is_none_or(|available| bytes <= available) && sizes.too_large(options).is_none();
            fits.then_some(bytes / GIB)
        };
        let mut offers = Vec::new();
        if options.merged {
            let per_block = Options { merged: false, ..options.clone() };
            offers.extend(fits(self, &per_block).map(|gib| Offer::PerBlock { gib }));
        }
        let longest = self.blocks.iter().map(|block| block.rows.max(block.cols)).max().unwrap_or(0);
        let projected = RANKS.into_iter().filter(|&rank| rank < longest && !self.projected).find_map(|rank| {
            let of = |block: &Block| Block::new(block.name.clone(), block.rows.min(rank), block.cols.min(rank));
            let sizes = Self { blocks: self.blocks.iter().map(of).collect(), projected: true, ..self.clone() };
            let parameters = sizes.blocks.iter().map(Block::parameters).sum();
            fits(&sizes, options).map(|gib| Offer::Projection { rank, parameters, gib })
        });
        offers.extend(projected);
        if let Method::Inverse { storage: Storage::Full | Storage::Dense | Storage::Samples, solver } = &options.method
            && solver.supports(Structure::Eigenpairs)
        {
            let low_rank = RANKS.into_iter().find_map(|rank| {
                let method = Method::Inverse { storage: Storage::LowRank { rank, seed: 0 }, solver: solver.clone() };
                fits(self, &Options { method, ..options.clone() }).map(|gib| Offer::LowRank { rank, gib })
            });
            offers.extend(low_rank);
        }
        let named = methods().iter().filter(|method| !method.needs_captures()).filter_map(|method| {
            let named = Options { merged: options.merged, ..method.options(Gfim::default()) };
            fits(self, &named).map(|gib| Offer::Method { name: method.name, gib })
        });
        offers.extend(named);
        offers
    }

    /// The first block whose matrix no machine forms.
    fn too_large(&self, options: &Options) -> Option<TooLarge> {
        let Method::Inverse { storage, solver } = &options.method else { return None };
        let factorises = ["exact", "spectral"].contains(&solver.name());
        let merged = [Block::new("merged", 1, self.blocks.iter().map(Block::parameters).sum())];
        let blocks = if options.merged { &merged[..] } else { &self.blocks };
        let of = |block: &Block| {
            let summed = if factorises { FACTORISED } else { SUMMED };
            let (side, most) = match storage.by_sides_of(block) {
                held if held.holds_samples(block, self.curvature) => {
                    (if factorises { self.curvature.min(block.parameters()) } else { 0 }, FACTORISED)
                }
                Storage::Full | Storage::Dense => (block.parameters(), summed),
                Storage::OneSided { side, .. } if side.contracts_rows(block.rows, block.cols) => (block.cols, summed),
                Storage::OneSided { .. } => (block.rows, summed),
                Storage::Kronecker { .. } | Storage::TwoSided { .. } => (block.rows.max(block.cols), FACTORISED),
                Storage::Samples | Storage::Diagonal | Storage::Isotropic | Storage::LowRank { .. } => (0, SUMMED),
            };
            (side > most).then(|| TooLarge { block: block.clone(), side, most })
        };
        blocks.iter().find_map(of)
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerBlock { gib } => write!(f, "one matrix per block ({gib:.1} GiB)"),
            Self::Projection { rank, parameters, gib } => {
                write!(f, "a projection of rank {rank} ({parameters} parameters, {gib:.1} GiB)")
            }
            Self::LowRank { rank, gib } => write!(f, "in the library a curvature of {rank} eigenpairs ({gib:.1} GiB)"),
            Self::Method { name, gib } => write!(f, "`{name}` ({gib:.1} GiB)"),
        }
    }
}

/// What fits, as a part of a sentence.
pub(crate) fn offered(offers: &[Offer]) -> String {
    if offers.is_empty() {
        return "nothing smaller fits".into();
    }
    let all: Vec<String> = offers.iter().map(ToString::to_string).collect();
    format!("these fit: {}", all.join(", "))
}
