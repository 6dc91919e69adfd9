//! Data sets: every format gives the same scores, ids never shift, and subsets keep format, order and columns.

use std::fs;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, GzipLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use crate::support::{Folder, read_scores};
use crate::texts::{bert, completions, jsonl, llama, model, three_classes};

fn texts(rows: &[Value], column: &str) -> ArrayRef {
    let text = |row: &Value| row[column].as_str().map(str::to_owned).unwrap_or_else(|| row[column].to_string());
    Arc::new(rows.iter().map(|row| Some(text(row))).collect::<StringArray>())
}

/// A Parquet file of texts with labels as whole numbers, and a column that nobody asked for.
fn parquet(rows: &[Value], compression: Compression) -> Vec<u8> {
    let labels: Int64Array = rows.iter().map(|row| row["label"].as_i64()).collect();
    let weights = Float64Array::from_iter_values((0..rows.len()).map(|i| i as f64 / 4.0));
    let columns: [(&str, ArrayRef); 3] =
        [("text", texts(rows, "text")), ("label", Arc::new(labels)), ("weight", Arc::new(weights))];
    let batch = RecordBatch::try_from_iter(columns).expect("the columns are of one length");
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_key_value_metadata(Some(vec![KeyValue::new("origin".to_owned(), "a test".to_owned())]))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("the schema is plain");
    // Two row groups.
    let half = rows.len() / 2;
    writer.write(&batch.slice(0, half)).expect("memory can be written");
    writer.flush().expect("memory can be written");
    writer.write(&batch.slice(half, rows.len() - half)).expect("memory can be written");
    writer.close().expect("memory can be written");
    bytes
}

/// CSV with fields in quotes, a comma and a line end in them.
fn csv(rows: &[Value]) -> String {
    let row = |row: &Value| format!("{},\"{}\"\n", row["label"], row["text"].as_str().expect("a text"));
    format!("label,text\n{}", rows.iter().map(row).collect::<String>())
}

fn attribute(folder: &Folder, model: &[String], train: &str, query: &str, more: &[&str]) -> Vec<Vec<f64>> {
    let args = ["--train", train, "--query", query, "--out", "found", "--method", "identity"];
    let format = ["--truncate", "--format", "safetensors"];
    folder.succeed("attribute", model, &[&args[..], &format, more].concat());
    read_scores(&folder.file("found/scores.safetensors"))
}

#[test]
fn every_format_gives_the_same_scores() {
    let mut rows = three_classes(12);
    rows[3]["text"] = json!("fox, hill\nand \u{e9}river");
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &rows);
    folder.write_bytes("marked.json", &[&b"\xef\xbb\xbf"[..], jsonl(&rows).as_bytes(), b"\n \n"].concat());
    folder.write_bytes("rows.csv", csv(&rows).as_bytes());
    let array = serde_json::to_string_pretty(&rows).expect("rows are JSON");
    folder.write_bytes("array.json", array.as_bytes());
    for (name, compression) in [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(GzipLevel::default())),
    ] {
        folder.write_bytes(&format!("{name}.parquet"), &parquet(&rows, compression));
    }
    let expected = attribute(&folder, &bert(), "rows.jsonl", "rows.jsonl", &[]);
    for name in ["marked.json", "array.json", "rows.csv", "plain.parquet", "snappy.parquet", "gzip.parquet"] {
        assert_eq!(attribute(&folder, &bert(), name, "rows.jsonl", &[]), expected, "{name}");
        assert_eq!(attribute(&folder, &bert(), "rows.jsonl", name, &[]), expected, "{name}");
    }
}

#[test]
fn columns_are_found_by_their_usual_names_or_by_flags() {
    let folder = Folder::new();
    let rename = |rows: &[Value], names: &[(&str, &str)]| -> Vec<Value> {
        let renamed = |row: &Value| names.iter().map(|&(from, to)| (to.to_owned(), row[from].clone())).collect();
        rows.iter().map(renamed).collect()
    };
    let mut rows = three_classes(6);
    for row in &mut rows {
        row["other"] = json!("a red fox");
    }
    folder.write_rows("rows.jsonl", &rename(&rows, &[("text", "text"), ("other", "text_pair"), ("label", "label")]));
    let expected = attribute(&folder, &bert(), "rows.jsonl", "rows.jsonl", &[]);
    for (first, second) in
        [("text_a", "text_b"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2")]
    {
        folder.write_rows("pairs.jsonl", &rename(&rows, &[("other", second), ("label", "label"), ("text", first)]));
        assert_eq!(attribute(&folder, &bert(), "pairs.jsonl", "pairs.jsonl", &[]), expected, "{first}");
    }
    folder.write_rows("odd.jsonl", &rename(&rows, &[("text", "body"), ("other", "text"), ("label", "class")]));
    let flags = ["--text-column", "body", "--pair-column", "text", "--label-column", "class"];
    assert_eq!(attribute(&folder, &bert(), "odd.jsonl", "odd.jsonl", &flags), expected);
    let single = attribute(&folder, &bert(), "rows.jsonl", "rows.jsonl", &["--text-column", "text"]);
    assert_ne!(single, expected, "without the second text");

    let rows = completions(6);
    folder.write_rows("rows.jsonl", &rows);
    let expected = attribute(&folder, &llama(), "rows.jsonl", "rows.jsonl", &[]);
    let whole = |row: &Value| {
        let [prompt, completion] = ["prompt", "completion"].map(|column| row[column].as_str().expect("a text"));
        json!({ "prompt": prompt, "text": format!("{prompt}{completion}"), "completion_length": completion.len() })
    };
    folder.write_rows("whole.jsonl", &rows.iter().map(whole).collect::<Vec<_>>());
    assert_eq!(attribute(&folder, &llama(), "whole.jsonl", "whole.jsonl", &[]), expected, "text begins with prompt");
    folder.write_rows("odd.jsonl", &rename(&rows, &[("prompt", "q"), ("completion", "a")]));
    let flags = ["--prompt-column", "q", "--completion-column", "a"];
    assert_eq!(attribute(&folder, &llama(), "odd.jsonl", "odd.jsonl", &flags), expected);
    let text = attribute(&folder, &llama(), "whole.jsonl", "whole.jsonl", &["--text-column", "prompt"]);
    assert_ne!(text, expected);
}

/// Conversations as lists of structs in Parquet, with a column of class names that are kept once each.
#[test]
fn conversations_are_read_from_json_and_parquet() {
    let rows: Vec<Value> = completions(5)
        .iter()
        .map(|row| {
            let message = |role: &str, column: &str| json!({ "role": role, "content": row[column] });
            json!({ "messages": [message("user", "prompt"), message("assistant", "completion")], "kind": "short" })
        })
        .collect();
    let mut messages = ListBuilder::new(StructBuilder::from_fields(
        Fields::from(vec![Field::new("role", DataType::Utf8, true), Field::new("content", DataType::Utf8, true)]),
        10,
    ));
    for message in rows.iter().flat_map(|row| row["messages"].as_array().expect("a list")) {
        for (field, column) in ["role", "content"].into_iter().enumerate() {
            let builder = messages.values().field_builder::<StringBuilder>(field).expect("it is a column of texts");
            builder.append_value(message[column].as_str().expect("a text"));
        }
        messages.values().append(true);
        if message["role"] == "assistant" {
            messages.append(true);
        }
    }
    let kinds: DictionaryArray<Int32Type> = rows.iter().map(|row| row["kind"].as_str()).collect();
    let columns: [(&str, ArrayRef); 2] = [("kind", Arc::new(kinds)), ("messages", Arc::new(messages.finish()))];
    let batch = RecordBatch::try_from_iter(columns).expect("the columns are of one length");
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("the schema is plain");
    writer.write(&batch).expect("memory can be written");
    writer.close().expect("memory can be written");

    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &rows);
    folder.write_bytes("rows.parquet", &bytes);
    let llama3 = ["--model", &model("llama3"), "--adapter", &model("llama3/query_value")].map(str::to_owned);
    let long = ["--max-length", "64"];
    let expected = attribute(&folder, &llama3, "rows.jsonl", "rows.jsonl", &long);
    assert_eq!((expected.len(), expected[0].len()), (5, 5));
    assert_eq!(attribute(&folder, &llama3, "rows.parquet", "rows.jsonl", &long), expected);
    // The prompt does not count in the loss, but it changes the answer's loss.
    let mut other = rows.clone();
    other[2]["messages"][0]["content"] = json!("Fox?");
    folder.write_rows("other.jsonl", &other);
    let found = attribute(&folder, &llama3, "other.jsonl", "rows.jsonl", &long);
    let changed: Vec<bool> = (0..5).map(|row| found[0][row] != expected[0][row]).collect();
    assert_eq!(changed, [false, false, true, false, false]);
}

/// Bad rows in between leave the others with their own ids and scores.
#[test]
fn ids_never_shift() {
    let good = three_classes(8);
    let folder = Folder::new();
    folder.write_rows("good.jsonl", &good);
    let mut lines: Vec<String> = good.iter().map(Value::to_string).collect();
    for (at, line) in [
        (0, r#"{"text": "fox", "label": "#),
        (3, r#"{"text": "  ", "label": 0}"#),
        (4, r#"{"text": 7, "label": 0}"#),
        (7, r#"{"text": "fox", "label": 3}"#),
        (8, r#"["fox", 1]"#),
        (9, r#"{"text": "fox"}"#),
        (11, ""),
    ] {
        lines.insert(at, line.to_owned());
    }
    folder.write_bytes("mixed.jsonl", (lines.join("\n") + "\n").as_bytes());
    let args = ["--query", "good.jsonl", "--method", "identity", "--truncate", "--format", "csv", "--out"];
    folder.succeed("attribute", &bert(), &[&args[..], &["found", "--train", "good.jsonl"]].concat());
    let skipping = ["skipped", "--train", "mixed.jsonl", "--skip-bad-rows"];
    let run = folder.succeed("attribute", &bert(), &[&args[..], &skipping].concat());
    for needle in ["7 of 15 rows", "line 1 (row 0): it is not JSON", "`text` is empty", "and 2 more"] {
        assert!(run.stderr.contains(needle), "{needle}: {}", run.stderr);
    }
    let left_out = folder.json("skipped/summary.json")["train"]["left_out"].clone();
    let rows: Vec<u64> = left_out.as_array().expect("a list").iter().filter_map(|row| row["row"].as_u64()).collect();
    assert_eq!(rows, [0, 3, 4, 7, 8, 9, 11]);
    let kept: Vec<usize> = (0..15).filter(|&row| !rows.contains(&(row as u64))).collect();
    let scores = |name: &str| -> Vec<Vec<String>> {
        folder.text(name).lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
    };
    let (expected, found) = (scores("found/scores.csv"), scores("skipped/scores.csv"));
    assert_eq!(found.len(), 64);
    for (expected, found) in expected.iter().zip(&found) {
        let row: usize = expected[1].parse().expect("a number");
        assert_eq!(found[1], kept[row].to_string());
        assert_eq!((&found[0], &found[2], &found[3]), (&expected[0], &expected[2], &expected[3]));
    }
    // Chosen rows are those lines of the file, bad ones not among them.
    let args = ["--validation", "good.jsonl", "--truncate", "--keep", "100%", "--out", "chosen"];
    folder.succeed("select", &bert(), &[&args[..], &["--train", "mixed.jsonl", "--skip-bad-rows"]].concat());
    assert_eq!(folder.text("chosen/selected.jsonl"), jsonl(&good));
}

#[test]
fn ids_of_a_column_are_told_everywhere() {
    let mut rows = three_classes(6);
    for (i, row) in rows.iter_mut().enumerate() {
        row["name"] = json!(format!("row-{}", 5 - i));
    }
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &rows);
    let args = ["--train", "train.jsonl", "--query", "train.jsonl", "--id-column", "name", "--truncate"];
    folder.succeed("attribute", &bert(), &[&args[..], &["--format", "csv", "--out", "found"]].concat());
    let table = folder.text("found/scores.csv");
    let second = table.lines().nth(2).expect("there are 36 lines");
    assert!(second.starts_with("row-5,row-4,"), "{second}");
    assert_eq!(folder.lines("found/topk.jsonl")[1]["query_id"], "row-4");
    folder.succeed("attribute", &bert(), &[&args[..], &["--format", "parquet", "--out", "found"]].concat());
    let file = fs::File::open(folder.file("found/scores.parquet")).expect("the program wrote it");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("it is Parquet").build().expect("it has rows");
    let batch = reader.into_iter().next().expect("there are 36 rows").expect("they can be read");
    let ids = batch.column(1).as_string::<i32>();
    assert_eq!((ids.len(), ids.value(0), ids.value(5)), (36, "row-5", "row-0"));
}

/// Rows with one text count each for itself.
#[test]
fn equal_rows_stay_separate() {
    let mut rows = three_classes(5);
    rows.push(rows[1].clone());
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &rows);
    let scores = attribute(&folder, &bert(), "train.jsonl", "train.jsonl", &[]);
    assert_eq!((scores.len(), scores[0].len()), (6, 6));
    assert!((scores[0][1] - scores[0][5]).abs() <= 1e-5 * scores[0][1].abs(), "{:?}", scores[0]);
}

#[test]
fn subsets_of_csv_keep_header_and_quotes() {
    let folder = Folder::new();
    let header = "label;ignored,text,label\r\n".replace("label;ignored", "note");
    let records = [
        "\"a, b\",\"the fox \"\"rests\"\"\",0\r\n",
        "plain,the old river,1\r\n",
        "\"two\nlines\",a red fox,2\r\n",
        "x,\"one river and a boat\",1\r\n",
        "last,no other fox,0",
    ];
    // A blank line is no record.
    let file = format!("{header}{}\r\n{}{}{}{}", records[0], records[1], records[2], records[3], records[4]);
    folder.write_bytes("train.csv", file.as_bytes());
    let args = ["--train", "train.csv", "--validation", "train.csv", "--truncate", "--out", "found"];
    let run = |keep: &str| -> Vec<usize> {
        folder.succeed("select", &bert(), &[&args[..], &["--keep", keep]].concat());
        let summary = folder.json("found/summary.json");
        let ids = summary["selected"].as_array().expect("a list").iter();
        ids.map(|id| id.as_str().expect("a text").parse().expect("a number")).collect()
    };
    for keep in ["3", "100%", "1"] {
        let expected: String = run(keep).iter().map(|&row| records[row]).collect();
        assert_eq!(folder.text("found/selected.csv"), format!("{header}{expected}"));
    }
}

#[test]
fn subsets_of_parquet_keep_schema_metadata_and_order() {
    let rows = three_classes(9);
    let folder = Folder::new();
    folder.write_bytes("train.parquet", &parquet(&rows, Compression::GZIP(GzipLevel::default())));
    let args = ["--train", "train.parquet", "--validation", "train.parquet", "--truncate", "--out", "found"];
    folder.succeed("detect", &bert(), &[&args[..], &["--remove", "4"]].concat());
    let read = |name: &str| {
        let file = fs::File::open(folder.file(name)).expect("the file is there");
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("it is Parquet");
        let metadata = builder.metadata().clone();
        let batches: Vec<RecordBatch> =
            builder.build().expect("it has rows").map(|batch| batch.expect("rows can be read")).collect();
        (metadata, arrow_select::concat::concat_batches(&batches[0].schema(), &batches).expect("of one schema"))
    };
    let ((_, all), (metadata, clean)) = (read("train.parquet"), read("found/cleaned.parquet"));
    assert_eq!((clean.num_rows(), clean.schema()), (5, all.schema()));
    let table = folder.text("found/suspicious.csv");
    let removed: Vec<usize> = table
        .lines()
        .skip(1)
        .take(4)
        .map(|line| line.split(',').nth(1).expect("there is an id").parse().expect("a number"))
        .collect();
    let kept: arrow_array::BooleanArray = (0..9).map(|row| Some(!removed.contains(&row))).collect();
    assert_eq!(clean, arrow_select::filter::filter_record_batch(&all, &kept).expect("of one length"));
    let pairs = metadata.file_metadata().key_value_metadata().expect("there is metadata");
    assert!(pairs.iter().any(|pair| pair.key == "origin" && pair.value.as_deref() == Some("a test")));
    assert!(matches!(metadata.row_group(0).column(0).compression(), Compression::GZIP(_)));
}
