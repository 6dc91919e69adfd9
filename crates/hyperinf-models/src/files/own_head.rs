//! The classification head in a checkpoint, and whether it can be used.

use std::path::Path;

use serde_json::Value;

use super::fields::Fields;
use super::shards::Shards;
use crate::{EncoderFamily, HeadKind, LoadError};

/// What is done with the classification head of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnHead {
    /// It is used where it has the kind and the number of classes that are wanted.
    #[default]
    Used,
    /// It is left out, because an adapter brings a whole head; the names of its classes are kept where their number
    /// fits.
    Replaced,
}

/// A head.
pub(super) struct Found {
    pub(super) kind: HeadKind,
    pub(super) classes: usize,
}

/// The head in a checkpoint.
pub(super) fn find(shards: &Shards) -> Option<Found> {
    let classes = |name| shards.shape(name).and_then(|shape| shape.first().copied());
    let dense = classes("classifier.out_proj.weight").map(|classes| Found { kind: HeadKind::Dense, classes });
    dense.or_else(|| classes("classifier.weight").map(|classes| Found { kind: HeadKind::Pooler, classes }))
}

/// Fails unless the head gives one of several classes to a text: the loss of any other head is another one.
pub(super) fn check(
    found: &Found,
    folder: &Path,
    fields: &Fields,
    family: EncoderFamily,
    pooler: bool,
) -> Result<(), LoadError> {
    let unusable = |error| Err(LoadError::OwnHead(Box::new(error)));
    let refuse = |field: &str, value: &Value, expected| unusable(fields.refuse(field, value, expected));
    if let Some(kind) = fields.get("problem_type").filter(|kind| *kind != "single_label_classification") {
        return refuse("problem_type", kind, "\"single_label_classification\"");
    }
    let head_of = |name: &Value| name.as_str().is_some_and(|name| name.ends_with("ForSequenceClassification"));
    if let Some(value) = fields.get("architectures")
        && let Some(names) = value.as_array().filter(|names| !names.is_empty())
        && !names.iter().any(head_of)
    {
        return refuse("architectures", value, "a model of the form \"…ForSequenceClassification\"");
    }
    if found.classes < 2 {
        return refuse("num_labels", &found.classes.into(), "2 classes or more");
    }
    if family == EncoderFamily::Bert && !pooler {
        let missing = ["bias", "weight"].map(|part| format!("bert.pooler.dense.{part}")).to_vec();
        return unusable(LoadError::TensorNames { path: folder.to_owned(), missing, unused: Vec::new() });
    }
    Ok(())
}

/// The names of the classes in `id2label`, if it names all of them; the placeholder `LABEL_0` does not count.
pub(super) fn labels(fields: &Fields, classes: usize) -> Result<Option<Vec<String>>, LoadError> {
    let Some(names) = fields.within("id2label", "id2label.")? else {
        return Ok(None);
    };
    let name = |class: usize| Ok(names.text(&class.to_string())?.filter(|name| *name != format!("LABEL_{class}")));
    (0..classes).map(name).collect()
}
