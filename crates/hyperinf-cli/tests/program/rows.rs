//! The reader of data sets, on files that nobody means to write and on those that anybody might.

use std::path::Path;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, RecordBatch, StringArray};
use hyperinf::data::{DataError, Dataset, LabelledText, ReadOptions};
use hyperinf::scoring::Set;
use parquet::arrow::ArrowWriter;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::support::Folder;

fn read(path: &Path) -> Result<Dataset<LabelledText>, DataError> {
    Dataset::read(Set::Train, path, &ReadOptions { skip_bad_rows: true, ..ReadOptions::default() })
}

/// A text that is not blank, with whatever a file's format may trip over.
fn field() -> impl Strategy<Value = String> {
    let tricky =
        prop::sample::select(vec!["\"", ",", "\n", "\r", "\r\n", "\t", "\\", "\u{feff}", "é", "🦊", " ", "'", "x"]);
    vec(tricky, 0..8).prop_map(|parts| format!("a{}", parts.concat()))
}

fn records() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((field(), field()), 1..12)
}

fn check(dataset: &Dataset<LabelledText>, records: &[(String, String)]) -> Result<(), TestCaseError> {
    prop_assert_eq!((dataset.total, dataset.bad.len()), (records.len(), 0));
    for (number, (row, (text, label))) in dataset.rows.iter().zip(records).enumerate() {
        prop_assert_eq!(row.row, number);
        let expected = LabelledText { text: text.clone(), pair: None, label: label.clone() };
        prop_assert_eq!(&row.content, &expected);
    }
    Ok(())
}

fn parquet(records: &[(String, String)]) -> Vec<u8> {
    let column = |pick: fn(&(String, String)) -> &String| -> ArrayRef {
        Arc::new(records.iter().map(|record| Some(pick(record))).collect::<StringArray>())
    };
    let columns = [("text", column(|(text, _)| text)), ("label", column(|(_, label)| label))];
    table(&RecordBatch::try_from_iter(columns).expect("the columns are of one length"))
}

fn table(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("the schema is plain");
    writer.write(batch).expect("memory can be written");
    writer.close().expect("memory can be written");
    bytes
}

#[test]
fn categories_without_a_value_are_no_values() {
    let folder = Folder::new();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let none: DictionaryArray<Int32Type> = [None::<&str>, None].into_iter().collect();
    let columns = [("text", texts.clone()), ("label", texts), ("kind", Arc::new(none) as ArrayRef)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)));
    folder.write_bytes("rows.parquet", &table(&batch.expect("the columns are of one length")));
    assert_eq!(read(&folder.file("rows.parquet")).expect("it can be read").rows.len(), 2);
}

proptest! {
    #[test]
    fn what_was_written_is_read(records in records()) {
        let folder = Folder::new();
        let lines = records.iter().map(|(text, label)| format!("{}\n", json!({ "text": text, "label": label })));
        folder.write_bytes("rows.jsonl", lines.collect::<String>().as_bytes());
        let array: Vec<_> = records.iter().map(|(text, label)| json!({ "text": text, "label": label })).collect();
        folder.write_bytes("rows.json", json!(array).to_string().as_bytes());
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["label", "text"]).expect("memory can be written");
        for (text, label) in &records {
            writer.write_record([label, text]).expect("memory can be written");
        }
        folder.write_bytes("rows.csv", &writer.into_inner().expect("memory can be written"));
        folder.write_bytes("rows.parquet", &parquet(&records));
        for name in ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"] {
            check(&read(&folder.file(name)).expect(name), &records)?;
        }
    }

    #[test]
    fn arbitrary_text_never_panics(bytes in vec(prop::sample::select(b"{}[]\":,\r\n\\ textlabel01\xef\xbb\xbf".to_vec()), 0..200)) {
        let folder = Folder::new();
        for name in ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet"] {
            folder.write_bytes(name, &bytes);
            let found = read(&folder.file(name));
            if let Ok(found) = found {
                prop_assert_eq!(found.rows.len() + found.bad.len(), found.total);
            }
        }
    }

    /// The library that reads Parquet trusts the places that a file's footer names.
    #[test]
    fn damaged_parquet_never_panics(records in records(), places in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let folder = Folder::new();
        let mut bytes = parquet(&records);
        for (place, value) in places {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        folder.write_bytes("rows.parquet", &bytes);
        let _ = read(&folder.file("rows.parquet"));
    }
}
