//! Parquet: the same rows as in other formats, and subsets that keep all types.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array,
    Float64Array, Int8Array, Int64Array, LargeStringArray, ListArray, NullArray, RecordBatch, StringArray,
    StringViewArray, StructArray, TimestampMicrosecondArray, UInt16Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Fields, Schema};
use hyperinf::data::{Content, DataError, Dataset, LabelledText, Passage, ReadOptions};
use hyperinf::scoring::Set;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::Folder;
use crate::texts::jsonl;

pub fn read<C: Content>(folder: &Folder, name: &str, unpacked: Option<u64>) -> Result<Dataset<C>, DataError> {
    let options = ReadOptions { skip_bad_rows: true, unpacked, ..ReadOptions::default() };
    Dataset::read(Set::Train, &folder.file(name), &options)
}

pub fn written(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("the schema is plain");
    writer.write(batch).expect("memory can be written");
    writer.close().expect("memory can be written");
    bytes
}

pub fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect()).expect("of one length")
}

pub fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// A folder with `rows.parquet` of these columns.
pub fn folder(columns: Vec<(&str, ArrayRef)>) -> Folder {
    let folder = Folder::new();
    folder.write_bytes("rows.parquet", &written(&batch(columns), WriterProperties::default()));
    folder
}

pub fn refused(folder: &Folder, unpacked: Option<u64>, needles: &[&str]) {
    let error = read::<LabelledText>(folder, "rows.parquet", unpacked).expect_err("it must be refused").to_string();
    for needle in needles {
        assert!(error.contains(needle), "no {needle:?} in {error}");
    }
}

/// The contents of Parquet are those of the same rows as JSON lines.
fn same_as_json<C: Content>(columns: Vec<(&str, ArrayRef)>, rows: &[Value]) {
    let folder = folder(columns);
    folder.write_bytes("rows.jsonl", jsonl(rows).as_bytes());
    let found = ["rows.parquet", "rows.jsonl"].map(|name| read::<C>(&folder, name, None).expect(name));
    let [parquet, json] = found.map(|data| {
        let reasons = data.bad.iter().map(|bad| (bad.row, bad.reason.to_string())).collect::<Vec<_>>();
        (data.rows.into_iter().map(|row| (row.row, row.id, row.content)).collect::<Vec<_>>(), reasons)
    });
    assert_eq!(parquet, json);
}

fn conversation(fields: Vec<Field>, columns: Vec<ArrayRef>, lengths: &[usize]) -> ArrayRef {
    let messages = StructArray::new(Fields::from(fields.clone()), columns, None);
    let item = Arc::new(Field::new("item", DataType::Struct(Fields::from(fields)), true));
    // Lists of the same lengths, for their offsets.
    let lists = lengths.iter().map(|&length| Some(vec![Some(0); length]));
    let offsets = ListArray::from_iter_primitive::<Int32Type, _, _>(lists).offsets().clone();
    Arc::new(ListArray::new(item, offsets, Arc::new(messages), None))
}

#[test]
fn fields_without_a_value_are_absent() {
    let name = Field::new("name", DataType::Utf8, true);
    let fields = ["role", "content"].map(|name| Field::new(name, DataType::Utf8, true));
    let [role, content] = fields;
    let call = StructArray::new(
        Fields::from(vec![Field::new("city", DataType::Utf8, true), Field::new("day", DataType::Int64, true)]),
        vec![
            Arc::new(StringArray::from(vec![None, Some("Rome"), None, None])),
            Arc::new(Int64Array::from(vec![None, None, None, Some(3)])),
        ],
        Some(vec![false, true, false, true].into()),
    );
    // In the order of the alphabet, as `json!` has them: a conversation keeps the order of its file.
    let columns: Vec<ArrayRef> = vec![
        Arc::new(call.clone()),
        texts(&["Where?", "There.", "When?", "Now."]),
        Arc::new(StringArray::from(vec![Some("Ann"), None, None, Some("Bob")])),
        texts(&["user", "assistant", "user", "assistant"]),
    ];
    let fields = vec![Field::new("call", call.data_type().clone(), true), content, name, role];
    same_as_json::<Passage>(
        vec![("messages", conversation(fields, columns, &[2, 2]))],
        &[
            json!({"messages": [
                {"role": "user", "content": "Where?", "name": "Ann"},
                {"role": "assistant", "content": "There.", "call": {"city": "Rome"}},
            ]}),
            json!({"messages": [
                {"role": "user", "content": "When?"},
                {"role": "assistant", "content": "Now.", "name": "Bob", "call": {"day": 3}},
            ]}),
        ],
    );
}

#[test]
fn rows_without_a_value_are_those_without_a_key() {
    let some = |values: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    same_as_json::<LabelledText>(
        vec![
            ("text", some(&[Some("a"), None, Some("c"), Some("")])),
            ("label", some(&[Some("0"), Some("1"), None, Some("1")])),
        ],
        &[
            json!({"text": "a", "label": "0"}),
            json!({"label": "1"}),
            json!({"text": "c"}),
            json!({"text": "", "label": "1"}),
        ],
    );
    let null: ArrayRef = Arc::new(NullArray::new(2));
    for second in [null, some(&[None, None]), some(&[Some(""), None])] {
        let columns = vec![("text_a", texts(&["a", "b"])), ("text_b", second), ("label", texts(&["0", "1"]))];
        same_as_json::<LabelledText>(
            columns,
            &[json!({"text_a": "a", "label": "0"}), json!({"text_a": "b", "label": "1", "text_b": null})],
        );
    }
}

#[test]
fn labels_and_ids_of_every_type() {
    let dictionary: DictionaryArray<Int32Type> = vec!["1", "0"].into_iter().collect();
    let columns: [(ArrayRef, [Value; 2]); 11] = [
        (Arc::new(Int8Array::from(vec![1, 0])), [json!(1), json!(0)]),
        (Arc::new(UInt16Array::from(vec![1, 0])), [json!(1), json!(0)]),
        (
            Arc::new(Int64Array::from(vec![9_007_199_254_740_993, i64::MIN])),
            [json!(9_007_199_254_740_993_i64), json!(i64::MIN)],
        ),
        (Arc::new(UInt64Array::from(vec![u64::MAX, 0])), [json!(u64::MAX), json!(0)]),
        (Arc::new(Float32Array::from(vec![1.0, 0.0])), [json!(1), json!(0.0)]),
        (Arc::new(Float64Array::from(vec![1.0, -0.0])), [json!(1.0), json!(0)]),
        (Arc::new(BooleanArray::from(vec![true, false])), [json!(true), json!("false")]),
        (Arc::new(LargeStringArray::from(vec!["1.0", "x"])), [json!(1), json!("x")]),
        (Arc::new(StringViewArray::from(vec!["a", "b"])), [json!("a"), json!("b")]),
        (Arc::new(dictionary), [json!("1"), json!("0")]),
        (Arc::new(Float64Array::from(vec![1.5, f64::from(1_u32 << 31)])), [json!(1.5), json!(1_u32 << 31)]),
    ];
    for (labels, expected) in columns {
        let rows = expected.map(|label| json!({"text": "a", "label": label}));
        same_as_json::<LabelledText>(vec![("text", texts(&["a", "a"])), ("label", labels)], &rows);
    }
}

#[test]
fn types_that_are_not_read_are_refused_where_they_are_read() {
    let others: [(&str, ArrayRef); 4] = [
        ("Date32", Arc::new(Date32Array::from(vec![1, 2]))),
        ("Binary", Arc::new(BinaryArray::from(vec![&b"a"[..], b"b"]))),
        (
            "Decimal128(5, 2)",
            Arc::new(Decimal128Array::from(vec![100, 200]).with_precision_and_scale(5, 2).expect("it fits")),
        ),
        ("Timestamp", Arc::new(TimestampMicrosecondArray::from(vec![1, 2]))),
    ];
    for (kind, other) in others {
        let folder = folder(vec![("text", texts(&["a", "b"])), ("label", other)]);
        refused(&folder, None, &["column `label`", kind, "texts or whole numbers"]);
    }
}

/// A file whose columns are repeated, unnamed, or of types that are not read, as long as nobody reads them.
fn odd_columns() -> RecordBatch {
    let dictionary: DictionaryArray<Int32Type> = vec!["x", "y", "x"].into_iter().collect();
    let mut lists = ListBuilder::new(Int64Builder::new());
    for row in 0..3 {
        lists.append_value((0..row).map(Some));
    }
    let fields = Fields::from(vec![Field::new("n", DataType::Utf8, true)]);
    let mut structs = StructBuilder::from_fields(fields, 3);
    for row in ["p", "q", "r"] {
        structs.field_builder::<StringBuilder>(0).expect("the field is a text").append_value(row);
        structs.append(true);
    }
    batch(vec![
        ("text", texts(&["a", "b", "c"])),
        ("label", Arc::new(Float64Array::from(vec![0.0, 1.0, 0.0]))),
        ("", Arc::new(Date32Array::from(vec![1, 2, 3]))),
        ("", Arc::new(BinaryArray::from(vec![&b"\xff"[..], b"", b"b"]))),
        ("twice", Arc::new(dictionary)),
        ("twice", Arc::new(LargeStringArray::from(vec!["a", "b", "c"]))),
        ("decimal", Arc::new(Decimal128Array::from(vec![1, 2, 3]).with_precision_and_scale(20, 3).expect("it fits"))),
        ("time", Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC"))),
        ("list", Arc::new(lists.finish())),
        ("struct", Arc::new(structs.finish())),
        ("small", Arc::new(Int8Array::from(vec![Some(1), None, Some(3)]))),
    ])
}

#[test]
fn subsets_keep_every_column_and_its_type() {
    let folder = Folder::new();
    let all = odd_columns();
    folder.write_bytes("rows.parquet", &written(&all, WriterProperties::default()));
    let data: Dataset<LabelledText> = read(&folder, "rows.parquet", None).expect("nobody reads the odd columns");
    assert_eq!(data.rows.len(), 3);
    let path = folder.file("kept.parquet");
    let mut file = File::create(&path).expect("the folder can be written");
    data.subset(BTreeSet::from([0, 2])).expect("the file is as it was").write(&mut file).expect("memory is enough");
    let mut kept = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).expect("it was written"))
        .and_then(|builder| builder.build())
        .expect("it is Parquet");
    let kept = kept.next().expect("it has rows").expect("they can be read");
    let expected = arrow_select::filter::filter_record_batch(&all, &BooleanArray::from(vec![true, false, true]));
    assert_eq!(kept.schema().fields(), all.schema().fields());
    assert_eq!(kept.columns(), expected.expect("of one length").columns());
}

/// A subset of text keeps the bytes of its rows, whatever their columns; a subset of an array is an array.
#[test]
fn subsets_of_text_keep_their_bytes() {
    let columns = "x,,text,x,label\r\n1,\"a\r\n\",b,\"\",0\r\n2,,c,,1\r\n3,,\"d\",,0";
    let array = "\u{feff}[\n  {\"text\": \"a\", \"x\": [1], \"label\": 0},\n  {\"text\":\"b\",\n\"label\":1},\n  {\"x\": 1, \"x\": 2, \"text\": \"c\", \"label\": 2}\n]\n";
    for (name, contents, rows, expected) in [
        ("rows.csv", columns, &[0, 2][..], "x,,text,x,label\r\n1,\"a\r\n\",b,\"\",0\r\n3,,\"d\",,0".to_owned()),
        ("rows.csv", columns, &[1], "x,,text,x,label\r\n2,,c,,1\r\n".to_owned()),
        ("rows.json", array, &[0, 1, 2], array.to_owned()),
        ("rows.json", array, &[2], "\u{feff}[\n  {\"x\": 1, \"x\": 2, \"text\": \"c\", \"label\": 2}\n]\n".to_owned()),
        ("rows.json", array, &[], "\u{feff}[\n  \n]\n".to_owned()),
    ] {
        let folder = Folder::new();
        folder.write_bytes(name, contents.as_bytes());
        let data: Dataset<LabelledText> = read(&folder, name, None).expect("it can be read");
        let mut file = File::create(folder.file("kept")).expect("the folder can be written");
        let subset = data.subset(rows.iter().copied().collect()).expect("the file is as it was");
        subset.write(&mut file).expect("memory is enough");
        assert_eq!(folder.text("kept"), expected, "{name} {rows:?}");
    }
}

#[test]
fn columns_of_one_name_are_refused_where_they_are_read() {
    let folder = folder(vec![("text", texts(&["a"])), ("label", texts(&["0"])), ("label", texts(&["1"]))]);
    refused(&folder, None, &["several columns named `label`"]);
}

/// A cell of a label, as JSON writes it.
fn label() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1000_i32..1000).prop_map(|whole| json!(f64::from(whole) / 2.0)),
        prop::sample::select(vec!["a", "1", "1.0", "true", "True", "", " ", "x,y", "\"", "007"]).prop_map(Value::from),
    ]
}

fn parquet_labels(cells: &[Value]) -> Option<ArrayRef> {
    let some = |fits: fn(&Value) -> bool| cells.iter().all(|cell| cell.is_null() || fits(cell));
    Some(match () {
        () if some(Value::is_boolean) => Arc::new(cells.iter().map(Value::as_bool).collect::<BooleanArray>()),
        () if some(Value::is_i64) => Arc::new(cells.iter().map(Value::as_i64).collect::<Int64Array>()),
        () if some(Value::is_f64) => Arc::new(cells.iter().map(Value::as_f64).collect::<Float64Array>()),
        () if some(Value::is_string) => Arc::new(cells.iter().map(Value::as_str).collect::<StringArray>()),
        () => return None,
    })
}

proptest! {
    /// The same table in three formats gives the same rows, or is refused in the same rows.
    #[test]
    fn one_table_in_three_formats(cells in vec(label(), 1..8)) {
        let folder = Folder::new();
        let rows: Vec<Value> = cells.iter().map(|cell| json!({"text": "a", "label": cell})).collect();
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["text", "label"]).expect("memory can be written");
        for cell in &cells {
            let text = match cell { Value::Null => String::new(), Value::String(text) => text.clone(), other => other.to_string() };
            csv.write_record(["a", &text]).expect("memory can be written");
        }
        folder.write_bytes("rows.jsonl", jsonl(&rows).as_bytes());
        folder.write_bytes("rows.json", json!(rows).to_string().as_bytes());
        folder.write_bytes("rows.csv", &csv.into_inner().expect("memory can be written"));
        let labels = parquet_labels(&cells);
        if let Some(labels) = &labels {
            let columns = vec![("text", texts(&vec!["a"; cells.len()])), ("label", labels.clone())];
            folder.write_bytes("rows.parquet", &written(&batch(columns), WriterProperties::default()));
        }
        let names = ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"];
        // Without a single good row there is no data set to look at.
        let found: Vec<_> = names[..if labels.is_some() { 4 } else { 3 }].iter().map(|name| {
            read::<LabelledText>(&folder, name, None).ok().map(|data| data.rows.into_iter().map(|row| (row.row, row.content)).collect::<Vec<_>>())
        }).collect();
        let [json, array, csv, rest @ ..] = &found[..] else { panic!("three formats") };
        prop_assert_eq!(json, array);
        prop_assert!(rest.iter().all(|parquet| parquet == json), "{:?}", found);
        prop_assert_eq!(json, csv);
    }
}
