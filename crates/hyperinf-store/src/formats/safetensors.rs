use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use serde::Serialize;
use serde_json::{Map, Value};

use super::plain;
use crate::scores::ScoreTable;
use crate::{Ids, WriteError};

/// The header's length is a multiple of this many bytes.
const ALIGNMENT: usize = 8;

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
    let mut metadata: BTreeMap<String, String> =
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
    let shape = [scores.queries(), scores.samples()];
    write(file, &metadata, &tensors, shape)
}

/// An entry of the header.
#[derive(Serialize)]
struct Entry {
    dtype: &'static str,
    shape: [usize; 2],
    data_offsets: [usize; 2],
}

/// The header, in the order of its fields.
#[derive(Serialize)]
struct Header<'a> {
    __metadata__: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'static str, Entry>,
}

/// Writes tensors of F32 and one shape. The crate's own writer puts the metadata in a random order.
fn write(
    file: &mut File,
    metadata: &BTreeMap<String, String>,
    tensors: &[(&'static str, Vec<u8>)],
    shape: [usize; 2],
) -> Result<(), WriteError> {
    let mut end = 0;
    let entries = tensors.iter().map(|(name, bytes)| {
        let start = end;
        end += bytes.len();
        (*name, Entry { dtype: "F32", shape, data_offsets: [start, end] })
    });
    let mut json = serde_json::to_vec(&Header { __metadata__: metadata, tensors: entries.collect() })?;
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    file.write_all(&(json.len() as u64).to_le_bytes())?;
    file.write_all(&json)?;
    for (_, bytes) in tensors {
        file.write_all(bytes)?;
    }
    Ok(())
}
