use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};

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
    let names: Vec<&'static str> = ["scores"].into_iter().chain(table.bars().map(|(name, _)| name)).collect();
    let mut out = BufWriter::new(file);
    // The crate's own writer puts the metadata in a random order.
    write_header(&mut out, &metadata, &names, shape)?;
    let mut write = |values: &[f64]| values.iter().try_for_each(|&score| out.write_all(&(score as f32).to_le_bytes()));
    for rows in table.rows() {
        rows?.iter().try_for_each(|row| write(row))?;
    }
    table.bars().try_for_each(|(_, values)| write(values))?;
    Ok(out.flush()?)
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

/// Writes the header of tensors of F32 and one shape.
fn write_header(
    out: &mut impl Write,
    metadata: &BTreeMap<String, String>,
    names: &[&'static str],
    shape: [usize; 2],
) -> Result<(), WriteError> {
    let bytes = shape[0] * shape[1] * size_of::<f32>();
    let entries = names.iter().enumerate().map(|(place, name)| {
        let data_offsets = [place * bytes, (place + 1) * bytes];
        (*name, Entry { dtype: "F32", shape, data_offsets })
    });
    let mut json = serde_json::to_vec(&Header { __metadata__: metadata, tensors: entries.collect() })?;
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    out.write_all(&(json.len() as u64).to_le_bytes())?;
    Ok(out.write_all(&json)?)
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
