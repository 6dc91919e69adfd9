//! The kinds of models, one file each.

mod classification;
mod language_model;

use crate::kind::AnyKind;
pub use classification::{LabelledColumns, LabelledProcessor, LabelledText, TextClassification};
pub use language_model::{LanguageModel, Passage, PassageColumns};

/// Every kind. A new one is a file here and an entry in this list.
pub(crate) const KINDS: [&dyn AnyKind; 2] = [&TextClassification, &LanguageModel];
