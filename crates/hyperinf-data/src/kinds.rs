//! The kinds of models, one file each.

mod classification;
mod diffusion;
mod language_model;
mod pairs;
mod vision_language;

use crate::any_kind::AnyKind;
pub use classification::{LabelledColumns, LabelledProcessor, LabelledText, TextClassification};
pub use diffusion::{Diffusion, DiffusionProcessor};
pub use language_model::{LanguageModel, Passage, PassageColumns};
pub use pairs::{Pair, PairColumns, PreferencePairs};
pub use vision_language::{VisionLanguage, VisionProcessor};

/// Every kind. A new one is a file here and an entry in this list.
pub(crate) const KINDS: [&dyn AnyKind; 5] =
    [&TextClassification, &LanguageModel, &VisionLanguage, &Diffusion, &PreferencePairs];
