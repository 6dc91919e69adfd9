use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};

use ::safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde_json::{Map, Value};

use super::plain;
use crate::scores::ScoreTable;
use crate::stored_scores::{ScoresFault, StoredScores};
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

/// Reads the tensor `scores`, and the ids from the metadata; without them rows are numbered.
pub(crate) fn read_scores(mut file: File, found: &mut StoredScores) -> Result<(), ScoresFault> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let scores = file.tensor("scores")?;
    let (Dtype::F32, &[queries, samples]) = (scores.dtype(), scores.shape()) else {
        return Err(ScoresFault::Tensor { dtype: format!("{:?}", scores.dtype()), shape: scores.shape().to_vec() });
    };
    let ids = |names: [&str; 2], count: usize| -> Result<Vec<String>, ScoresFault> {
        let entries = header.metadata().as_ref();
        let Some(list) = entries.and_then(|entries| names.iter().find_map(|name| entries.get(*name))) else {
            return Ok((0..count).map(|number| number.to_string()).collect());
        };
        let ids: Vec<String> = serde_json::from_str::<Vec<Value>>(list)?.iter().map(plain).collect();
        let length = ids.len();
        if length == count { Ok(ids) } else { Err(ScoresFault::Ids { found: length, expected: count }) }
    };
    let (query_ids, train_ids) = (ids(["query_ids"; 2], queries)?, ids(["train_ids", "group_ids"], samples)?);
    let numbers = |bytes: &[u8]| -> Vec<f32> { bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect() };
    let values = numbers(scores.data());
    let std = file.tensor("score_std").ok().filter(|std| std.dtype() == Dtype::F32).map(|std| numbers(std.data()));
    for (place, &score) in values.iter().enumerate() {
        let std = std.as_ref().and_then(|std| std.get(place).copied());
        found.push(&query_ids[place / samples], &train_ids[place % samples], score, std)?;
    }
    Ok(())
}
