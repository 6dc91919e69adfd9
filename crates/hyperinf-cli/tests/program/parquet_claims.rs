//! Parquet files that claim what they do not hold, or unpack to far more than they are.

use std::sync::Arc;

use arrow_array::builder::{Int8Builder, ListBuilder};
use arrow_array::{ArrayRef, Int8Array, Int64Array, StringArray};
use hyperinf::data::LabelledText;
use parquet::basic::{Compression, GzipLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

use crate::rows_parquet::{batch, folder, read, refused, texts, written};
use crate::support::Folder;

/// A few kilobytes that stand for many rows of one long text.
#[test]
fn files_that_unpack_to_too_much() {
    let long = "fox ".repeat(250_000);
    let rows = |count| batch(vec![("text", texts(&vec![long.as_str(); count])), ("label", texts(&vec!["0"; count]))]);
    let folder = Folder::new();
    for (dictionary, count) in [(true, 100), (false, 10)] {
        for compression in [Compression::GZIP(GzipLevel::default()), Compression::SNAPPY] {
            let properties =
                WriterProperties::builder().set_compression(compression).set_dictionary_enabled(dictionary);
            let properties = properties.set_dictionary_page_size_limit(8 << 20).build();
            folder.write_bytes("rows.parquet", &written(&rows(count), properties));
            refused(&folder, Some(9 << 20), &["row group 0", "unpacks to", "the limit is 9 MB"]);
            let read = read::<LabelledText>(&folder, "rows.parquet", None).expect("it is no more than 192 MiB");
            assert_eq!((read.rows.len(), read.rows[0].content.text.len()), (count, long.len()));
        }
    }
    let many = 4_000_000;
    let labels: ArrayRef = Arc::new(std::iter::repeat_n(Some(1), many).collect::<Int64Array>());
    let none: ArrayRef = Arc::new(std::iter::repeat_n(None::<&str>, many).collect::<StringArray>());
    folder.write_bytes(
        "rows.parquet",
        &written(&batch(vec![("text", none), ("label", labels)]), WriterProperties::default()),
    );
    refused(&folder, None, &["row group", "the limit is 2"]);
}

/// A run of nulls takes no bytes, in a list of one row neither.
#[test]
fn nulls_of_one_row_count() {
    let many = 1_000_000;
    let mut lists = ListBuilder::new(Int8Builder::new());
    lists.values().append_nulls(many);
    lists.append(true);
    lists.append(true);
    let columns = batch(vec![("text", Arc::new(lists.finish())), ("label", texts(&["0", "1"]))]);
    let folder = Folder::new();
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        let properties = WriterProperties::builder().set_writer_version(version).build();
        folder.write_bytes("rows.parquet", &written(&columns, properties));
        // Before the row is unpacked, so that the column is known.
        refused(&folder, Some(30 << 20), &["column `text", "unpacks to 32 MB or more", "the limit is 31 MB"]);
    }
}

/// Gzip goes on after what the page's header claims.
#[test]
fn pages_that_claim_less_than_they_unpack_to() {
    let long = "fox ".repeat(1_000_000);
    let columns = batch(vec![("text", texts(&[&long, &long])), ("label", texts(&["0", "1"]))]);
    let properties = WriterProperties::builder().set_compression(Compression::GZIP(GzipLevel::default()));
    let bytes = written(&columns, properties.set_dictionary_enabled(false).build());
    // The type of the first page, 0 for data, and its unpacked size, a number of four bytes: 8 MB become 1.
    let at = bytes.windows(3).position(|window| window == b"\x15\x00\x15").expect("a page begins like that") + 3;
    let claims = [&bytes[..at], b"\x82\x80\x80\x00", &bytes[at + 4..]].concat();
    let folder = Folder::new();
    folder.write_bytes("rows.parquet", &claims);
    refused(&folder, Some(1 << 20), &["row group 0, column `text` unpacks to 1 MB or more", "the limit is 1 MB"]);
    assert!(read::<LabelledText>(&folder, "rows.parquet", None).is_err());
}

#[test]
fn many_columns() {
    let one: ArrayRef = Arc::new(Int8Array::from(vec![1, 2]));
    let names: Vec<String> = (0..30_000).map(|column| format!("c{column}")).collect();
    let mut columns: Vec<(&str, ArrayRef)> = names.iter().map(|name| (name.as_str(), one.clone())).collect();
    columns.extend([("text", texts(&["a", "b"])), ("label", one.clone())]);
    let folder = folder(columns);
    assert_eq!(read::<LabelledText>(&folder, "rows.parquet", None).expect("it can be read").rows.len(), 2);
}

fn two_rows() -> Vec<u8> {
    written(&batch(vec![("text", texts(&["a", "b"])), ("label", texts(&["0", "1"]))]), WriterProperties::default())
}

/// Replaces the last occurrence of some bytes.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).rposition(|window| window == from).expect("they are there");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn files_that_claim_other_rows() {
    let folder = Folder::new();
    // The file's rows, a 64-bit integer, come before its row groups, a list of structs.
    for (claimed, needle) in [(6, "claims 3 rows, and its row groups 2"), (1, "claims -1 rows"), (2, "claims 1 rows")] {
        folder.write_bytes("rows.parquet", &replace(&two_rows(), b"\x16\x04\x19\x1c", &[0x16, claimed, 0x19, 0x1c]));
        refused(&folder, None, &["damaged", needle]);
    }
    // Those of the row group come last in it, before its place in the file.
    for claimed in [6, 1, 120] {
        folder.write_bytes("rows.parquet", &replace(&two_rows(), b"\x16\x04\x26", &[0x16, claimed, 0x26]));
        refused(&folder, None, &["damaged", "claims 2 rows"]);
        let both = replace(&two_rows(), b"\x16\x04\x19\x1c", &[0x16, claimed, 0x19, 0x1c]);
        folder.write_bytes("rows.parquet", &replace(&both, b"\x16\x04\x26", &[0x16, claimed, 0x26]));
        assert!(read::<LabelledText>(&folder, "rows.parquet", None).is_err(), "{claimed}");
    }
}

/// A file that is nothing but a footer of these nodes, each with a number of children.
fn only_schema(nodes: usize, children: &[u8]) -> Vec<u8> {
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    let mut left = nodes;
    while left >= 0x80 {
        footer.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    footer.push(left as u8);
    for _ in 0..nodes {
        footer.extend([&b"\x48\x01a\x15"[..], children, b"\x00"].concat());
    }
    footer.extend(b"\x16\x00\x19\x0c\x00");
    let length = (footer.len() as u32).to_le_bytes();
    [&b"PAR1"[..], &footer, &length, b"PAR1"].concat()
}

#[test]
fn schemas_that_nobody_writes() {
    let folder = Folder::new();
    for nodes in [65, 1_000, 300_000] {
        folder.write_bytes("rows.parquet", &only_schema(nodes, &[0x02]));
        refused(&folder, None, &["nested more than 64 deep"]);
    }
    for children in [&[0xfe, 0xff, 0xff, 0xff, 0x0f][..], &[0x0a], &[0xfe, 0xff, 0xff, 0x7f]] {
        folder.write_bytes("rows.parquet", &only_schema(2, children));
        refused(&folder, None, &["claims more columns"]);
    }
    folder.write_bytes("rows.parquet", &only_schema(2, &[0x01]));
    assert!(read::<LabelledText>(&folder, "rows.parquet", None).is_err());
}
