use std::collections::HashMap;
use std::fs::File;
use std::io::Write;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value};

use super::plain;
use crate::scores::ScoreTable;
use crate::{Ids, WriteError};

/// Writes one tensor `scores`, `[q, n]` of F32, error bars as three more, and the metadata as texts.
pub(crate) fn write_scores(
    file: &mut File,
    table: &ScoreTable<'_>,
    metadata: &Map<String, Value>,
) -> Result<(), WriteError> {
    let ScoreTable { scores, ids, .. } = *table;
    let bytes = |values: &mut dyn Iterator<Item = &f64>| -> Vec<u8> {
        values.flat_map(|&s| (s as f32).to_le_bytes()).collect()
    };
    let mut tensors = vec![("scores", bytes(&mut scores.rows.iter().flatten()))];
    tensors.extend(table.bars().map(|(name, values)| (name, bytes(&mut values.iter()))));
    let views = tensors.iter().map(|(name, bytes)| {
        let shape = vec![scores.queries(), scores.samples()];
        TensorView::new(Dtype::F32, shape, bytes).map(|view| (*name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let mut metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
    let numbered = Ids::numbered(scores.queries(), scores.samples());
    let train = format!("{}s", ids.unit.column());
    for (key, ids, places) in
        [("query_ids", &ids.queries, numbered.queries), (train.as_str(), &ids.train, numbered.train)]
    {
        if *ids != places {
            metadata.insert(key.to_owned(), serde_json::to_string(ids)?);
        }
    }
    Ok(file.write_all(&safetensors::serialize(views, Some(metadata))?)?)
}
