//! CSV, TSV and JSON as people write them: what is read, and what is refused with its place and reason.

use hyperinf::data::{DataError, Dataset, Format, LabelledText, ReadOptions, Reason};
use hyperinf::scoring::Set;

use crate::support::Folder;

fn read(name: &str, contents: &[u8]) -> Result<Dataset<LabelledText>, DataError> {
    let folder = Folder::new();
    folder.write_bytes(name, contents);
    let options = ReadOptions { skip_bad_rows: true, ..ReadOptions::default() };
    Dataset::read(Set::Train, &folder.file(name), &options)
}

/// The texts and labels that are read.
fn check(name: &str, contents: &str, expected: &[(&str, &str)]) {
    let found = read(name, contents.as_bytes()).unwrap_or_else(|error| panic!("{contents:?}: {error}"));
    assert_eq!(found.bad, [], "{contents:?}");
    let rows = found.rows.iter().map(|row| (row.content.text.as_str(), row.content.label.as_str()));
    assert_eq!(rows.collect::<Vec<_>>(), expected, "{contents:?}");
}

/// A file that is refused as a whole.
fn refused(name: &str, contents: &[u8], needles: &[&str]) {
    let error = read(name, contents).expect_err("it must be refused").to_string();
    for needle in needles {
        assert!(error.contains(needle), "{:?}: no {needle:?} in {error}", String::from_utf8_lossy(contents));
    }
}

/// The reason of the only bad row among three, the second.
fn bad_row(name: &str, contents: &[u8], needles: &[&str]) {
    let found = read(name, contents).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((found.rows.len(), found.bad.len(), found.bad[0].row), (2, 1, 1), "{:?}", found.bad);
    let reason = found.bad[0].to_string();
    for needle in needles {
        assert!(reason.contains(needle), "no {needle:?} in {reason}");
    }
}

#[test]
fn csv_as_in_the_standard() {
    for contents in [
        "text,label\na,0\n\"b, c\",1\n",
        "text,label\r\na,0\r\n\"b, c\",1\r\n",
        "text,label\ra,0\r\"b, c\",1\r",
        "\u{feff}text,label\na,0\n\"b, c\",1",
        "\u{feff}\"text\",\"label\"\n\n\"a\",\"0\"\n\n\n\"b, c\",\"1\"\n\n",
    ] {
        check("rows.csv", contents, &[("a", "0"), ("b, c", "1")]);
    }
    check("rows.csv", "text,label\n\"he said \"\"yes\"\"\",1\n", &[("he said \"yes\"", "1")]);
    check("rows.csv", "text,label\n\"\"\"\"\"\",1\n\"a\r\nb\n\",0\n", &[("\"\"", "1"), ("a\r\nb\n", "0")]);
    check("rows.csv", "text,label\n'a\\n',1\n", &[("'a\\n'", "1")]);
}

#[test]
fn quotes_that_the_standard_does_not_allow() {
    for (contents, needles) in [
        (&b"text,label\na,0\n\"b\"c,1\n"[..], &["line 3, column 4", "text follows the closing quote"][..]),
        (b"text,label\n\"b\" ,1\n", &["line 2, column 4", "written twice"]),
        (b"text,label\n5\" pipe,1\n", &["line 2, column 2", "does not begin with one"]),
        (b"text,label\na, \"1\"\n", &["line 2, column 4", "does not begin with one"]),
        (b"text,label\n\xc3\xa9\" x,1\n", &["line 2, column 2"]),
        (b"text,label\na,1\n\"b,0\nc,1\n", &["line 3, column 1", "never closed"]),
        (b"text,label\na,\"1\nb,\"0\"\n", &["line 3, column 4", "begins in line 2"]),
        (b"text,label\n\"The \\\"old\\\" fox\",0\n", &["line 2, column 8", "backslash", "RFC 4180"]),
        (b"text,label\n\"\\\"Good\\\" film\",0\n", &["backslash"]),
        (b"text,label\n\"He said \\\"yes\\\"\",1\n\"b\",1\n", &["backslash"]),
        (b"text,label\na\rb,1\n", &["line 2, column 2", "carriage return"]),
        (b"\"text,label\na,1\n", &["line 1, column 1", "never closed"]),
    ] {
        refused("rows.csv", contents, needles);
    }
}

#[test]
fn records_of_another_length_are_bad_rows() {
    for (second, needle) in [("b", "1 fields"), ("b,1,", "3 fields"), ("b,1,2", "3 fields"), ("\"b,1\"", "1 fields")] {
        bad_row("rows.csv", format!("text,label\na,0\n{second}\nc,1\n").as_bytes(), &["line 3 (row 1)", needle]);
        let second = second.replace(',', "\t").replace('"', "");
        if second.matches('\t').count() != 1 {
            bad_row("rows.tsv", format!("text\tlabel\na\t0\n{second}\nc\t1\n").as_bytes(), &["line 3 (row 1)"]);
        }
    }
}

/// GLUE's files: a quote is a character like any other.
#[test]
fn tabs_come_without_quotes() {
    for (text, label) in [
        ("\"Quoted\" at first", "0"),
        ("he said \"yes\"", "1"),
        ("5\" pipe", "1"),
        ("an open \" quote", "0"),
        ("\"", "1"),
        ("\"whole\"", "0"),
        ("a, b\\t", "1"),
    ] {
        let contents = format!("text\tlabel\n{text}\t{label}\r\nother\t0\n");
        check("rows.tsv", &contents, &[(text, label), ("other", "0")]);
    }
    check("rows.tsv", "text\tlabel\ra \"b\" c\t1\rd\t0", &[("a \"b\" c", "1"), ("d", "0")]);
}

/// A program that writes CSV with tabs: taken as plain characters, its quotes would change every text.
#[test]
fn tabs_with_the_quotes_of_csv_are_refused() {
    for contents in [
        "text\tlabel\n\"he said \"\"yes\"\"\"\t1\nb\t0\n",
        "text\tlabel\n\"a\"\t1\n\"b\"\t0\n",
        "text\tlabel\n\"a\"\t\"1\"\n\"b\"\t\"0\"\n",
        "text\tlabel\nb\t0\nc\t0\n\"\"\"c\"\"\"\t0\n",
        "text\tlabel\r\n\"a, b\"\t1\r\n\"b\"\t0\r\n",
    ] {
        refused("rows.tsv", contents.as_bytes(), &["line ", "quotes", ".csv or .jsonl"]);
    }
    refused("rows.tsv", b"\"text\"\t\"label\"\na\t1\n", &["no column", "`\"text\"`"]);
}

#[test]
fn other_encodings_are_named_with_their_place() {
    bad_row("rows.csv", b"text,label\na,0\nf\xf6x,1\nb,1\n", &["line 3 (row 1)", "UTF-8", "byte 1 is 0xF6"]);
    bad_row("rows.tsv", b"text\tlabel\na\t0\nf\xf6x\t1\nb\t1\n", &["line 3 (row 1)", "UTF-8", "0xF6"]);
    let lines =
        b"{\"text\": \"a\", \"label\": 0}\n{\"text\": \"\xe9\", \"label\": 1}\n{\"text\": \"b\", \"label\": 1}\n";
    bad_row("rows.jsonl", lines, &["line 2 (row 1)", "UTF-8", "byte 10 is 0xE9"]);
    refused(
        "rows.json",
        b"[{\"text\": \"a\", \"label\": 0},\n{\"text\": \"\xe9\", \"label\": 1}]",
        &["line 2", "UTF-8", "0xE9"],
    );
    refused("rows.csv", b"t\xe9xt,label\na,0\n", &["line 1", "UTF-8", "byte 1 of the file"]);
    let utf16: Vec<u8> = "\u{feff}text,label\na,0\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for name in ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json"] {
        refused(name, &utf16, &["UTF-16", "UTF-8"]);
    }
}

#[test]
fn columns_that_are_not_read_may_have_any_name() {
    check("rows.csv", "text,label,,,\na,0,,x,\nb,1,,,y\n", &[("a", "0"), ("b", "1")]);
    check("rows.csv", "note,text,note,label\n1,a,2,0\n3,b,4,1\n", &[("a", "0"), ("b", "1")]);
    check("rows.tsv", "\ttext\t\tlabel\n0\ta\t\t0\n1\tb\t\t1\n", &[("a", "0"), ("b", "1")]);
    check("rows.jsonl", "{\"x\": 1, \"x\": 2, \"text\": \"a\", \"\": 0, \"label\": 0}\n", &[("a", "0")]);
    check("rows.json", "[{\"text\": \"a\", \"label\": 0, \"x\": {\"y\": 1, \"y\": 2}}]", &[("a", "0")]);
    for (name, contents) in [
        ("rows.csv", "text,label,text\na,0,b\n"),
        ("rows.csv", "text,label,label\na,0,1\n"),
        ("rows.tsv", "text\ttext\tlabel\na\tb\t0\n"),
    ] {
        let error = read(name, contents.as_bytes()).expect_err("which one is meant?");
        assert!(matches!(error, DataError::DuplicateColumn { .. }), "{error}");
    }
}

#[test]
fn keys_that_are_read_occur_once() {
    let good = "{\"text\": \"a\", \"label\": 0}\n";
    for (line, needle) in [
        ("{\"text\": \"a\", \"label\": 0, \"label\": 1}", "the key `label` twice"),
        ("{\"text\": \"a\", \"text\": \"a\", \"label\": 1}", "the key `text` twice"),
        ("{\"text\": null, \"text\": \"a\", \"label\": 1}", "the key `text` twice"),
        ("{\"text\": \"a\", \"label\": {\"x\": 1, \"x\": 2}}", "the key `x` twice"),
        ("{\"text\": [{\"y\": 0}, {\"y\": 1, \"y\": 1}], \"label\": 1}", "the key `y` twice"),
    ] {
        bad_row("rows.jsonl", format!("{good}{line}\n{good}").as_bytes(), &[needle]);
        let array = format!("[{}, {line}, {}]", good.trim(), good.trim());
        bad_row("rows.json", array.as_bytes(), &[needle]);
    }
}

#[test]
fn what_is_not_json_is_named() {
    let good = "{\"text\": \"a\", \"label\": 0}\n";
    for (line, needles) in [
        ("{\"text\": \"a\", \"label\": NaN}", &["not JSON", "NaN is not a JSON number", "at column 24"][..]),
        ("{\"text\": \"a\", \"label\": -Infinity}", &["not JSON"]),
        ("{\"x\": Infinity, \"text\": \"a\", \"label\": 1}", &["Infinity is not a JSON number"]),
        ("{'text': 'a', 'label': 1}", &["not JSON", "key must be a string"]),
        ("{\"text\": \"a\", \"label\": 1,}", &["not JSON", "trailing comma"]),
        ("{\"text\": \"a\"} {\"label\": 1}", &["not JSON", "trailing characters"]),
        ("[1, 2]", &["not a JSON object"]),
        ("\"text\"", &["not a JSON object"]),
        ("", &["blank"]),
        ("{\"text\": \"a\", \"label\": {\"x\": \"\\ud800\"}}", &["not JSON"]),
    ] {
        bad_row("rows.jsonl", format!("{good}{line}\n{good}").as_bytes(), &[&["line 2"], needles].concat());
    }
    let deep = format!("{{\"text\": \"a\", \"label\": {}0{}}}", "[".repeat(100_000), "]".repeat(100_000));
    bad_row("rows.jsonl", format!("{good}{deep}\n{good}").as_bytes(), &["recursion limit"]);
    check(
        "rows.jsonl",
        &format!("{}{good}", deep.replace("\"label\"", "\"label\": 1, \"x\"") + "\n"),
        &[("a", "1"), ("a", "0")],
    );
}

#[test]
fn one_array_of_rows() {
    for contents in [
        "[{\"text\": \"a\", \"label\": 0}, {\"text\": \"b\", \"label\": 1}]",
        "\u{feff}\n [\n  {\n    \"text\": \"a\",\n    \"label\": 0\n  },\n  {\"text\": \"b\", \"label\": \"1\"}\n]\n\n",
        "[{\"text\":\"a\",\"label\":0,\"more\":[{}]},{\"label\":1,\"text\":\"b\"}]",
    ] {
        check("rows.json", contents, &[("a", "0"), ("b", "1")]);
        assert_eq!(read("rows.json", contents.as_bytes()).map(|data| data.format).ok(), Some(Format::JsonArray));
        for name in ["rows.jsonl", "rows.ndjson"] {
            refused(name, contents.as_bytes(), &["one JSON array", ".json"]);
        }
    }
    bad_row(
        "rows.json",
        b"[{\"text\": \"a\", \"label\": 0},\n 7,\n {\"text\": \"b\", \"label\": 1}]",
        &["line 2 (row 1)", "not a JSON object"],
    );
    for (contents, needles) in [
        ("[]", &["no rows"][..]),
        ("[{\"text\": \"a\", \"label\": 0}", &["one JSON array", "line 1"]),
        ("[{\"text\": \"a\", \"label\": 0},\n{\"text\": NaN}]", &["NaN", "line 2, column 10"]),
        ("[{\"text\": \"a\", \"label\": 0}] []", &["trailing characters"]),
        ("[{\"text\": \"a\"},]", &["not JSON", "column 16"]),
    ] {
        refused("rows.json", contents.as_bytes(), needles);
    }
    for name in ["rows.json", "rows.jsonl"] {
        refused(name, b"{\n  \"text\": \"a\",\n  \"label\": 0\n}\n", &["one JSON object", "array of objects"]);
    }
}

#[test]
fn one_column_has_one_meaning_whatever_its_type() {
    let labels = |cells: &[&str]| {
        let lines: String = cells.iter().map(|cell| format!("{{\"text\": \"a\", \"label\": {cell}}}\n")).collect();
        let found = read("rows.jsonl", lines.as_bytes()).expect("it can be read");
        assert_eq!(found.bad, []);
        let plain = cells.iter().map(|cell| format!("a,{}\n", cell.trim_matches('"'))).collect::<String>();
        let csv = read("rows.csv", format!("text,label\n{plain}").as_bytes()).expect("it can be read");
        let labels = |data: Dataset<LabelledText>| data.rows.into_iter().map(|row| row.content.label).collect();
        let (found, csv): (Vec<String>, Vec<String>) = (labels(found), labels(csv));
        assert_eq!(found, csv, "{cells:?}");
        found
    };
    assert_eq!(labels(&["1", "1.0", "\"1\"", "\"1.0\"", "1.00"]), ["1"; 5]);
    assert_eq!(labels(&["0", "-0.0", "\"-0\"", "0.0"]), ["0"; 4]);
    assert_eq!(labels(&["true", "\"true\""]), ["true"; 2]);
    assert_eq!(
        labels(&["9007199254740993", "-9223372036854775808", "18446744073709551615"]),
        ["9007199254740993", "-9223372036854775808", "18446744073709551615",]
    );
    assert_eq!(labels(&["\"007\"", "\"1.5.0\"", "\"1.\"", "\".0\"", "\"v1.0\""]), ["007", "1.5.0", "1.", ".0", "v1.0"]);
    for (number, needle) in [
        ("1.5", "a number with a fraction"),
        ("9007199254740993.0", "digits are not exact"),
        ("18446744073709551616", "digits are not exact"),
        ("1e300", "digits are not exact"),
    ] {
        let good = "{\"text\": \"a\", \"label\": 0}\n";
        let bad = format!("{{\"text\": \"a\", \"label\": {number}}}\n");
        bad_row("rows.jsonl", format!("{good}{bad}{good}").as_bytes(), &[needle]);
    }
}

/// SuperGLUE's single texts come with an empty second text.
#[test]
fn a_second_text_that_no_row_has_is_none() {
    for (name, contents) in [
        ("rows.jsonl", "{\"text_a\": \"a\", \"text_b\": null, \"label\": 0}\n{\"text_a\": \"b\", \"label\": 1}\n"),
        ("rows.csv", "text_a,text_b,label\na,,0\nb,,1\n"),
        ("rows.tsv", "text\ttext_pair\tlabel\na\t\t0\nb\t\t1\n"),
        ("rows.json", "[{\"sentence1\":\"a\",\"sentence2\":\"\",\"label\":0},{\"sentence1\":\"b\",\"label\":1}]"),
        ("rows.csv", "premise,hypothesis,label\na,\"\",0\nb,,1\n"),
    ] {
        check(name, contents, &[("a", "0"), ("b", "1")]);
    }
    let lines =
        "{\"text_a\": \"a\", \"text_b\": null, \"label\": 0}\n{\"text_a\": \"b\", \"text_b\": \"c\", \"label\": 1}\n";
    let found = read("rows.jsonl", lines.as_bytes()).expect("a row is good");
    assert_eq!(found.bad[0].reason, Reason::Missing { column: "text_b".into() });
}

/// Python writes `True`, JSON `true`: a model whose classes are named one way takes the other.
#[test]
fn truth_values_in_two_spellings() {
    let folder = Folder::new();
    let rows = |yes: &str, no: &str| format!("text,label\nfox,{yes}\nriver,{no}\nold fox,{yes}\n");
    folder.write_bytes("python.csv", rows("True", "False").as_bytes());
    folder.write_bytes("json.csv", rows("true", "false").as_bytes());
    folder.write_bytes("both.csv", rows("True", "true").as_bytes());
    let base = ["--model", &crate::texts::model("bert"), "--epochs", "1"];
    let run = folder.run("finetune", &[&base[..], &["--train", "both.csv", "--out", "both"]].concat());
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("`True` and `true`"), "{run:?}");
    let run = folder.run("finetune", &[&base[..], &["--train", "python.csv", "--out", "adapter"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let scores = |name: &str| {
        let args = ["--model", &crate::texts::model("bert"), "--adapter", "adapter", "--train", name, "--query", name];
        let run = folder.run("attribute", &[&args[..], &["--out", "out", "--format", "safetensors"]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        crate::support::read_scores(&folder.file("out/scores.safetensors"))
    };
    assert_eq!(scores("python.csv"), scores("json.csv"));
}

#[test]
fn many_keys_and_many_columns() {
    let keys: String = (0..200_000).map(|key| format!("\"k{key}\":1,")).collect();
    let line = format!("{{{keys}\"text\":\"a\",\"label\":0}}");
    check("rows.jsonl", &format!("{line}\n{line}\n"), &[("a", "0"); 2]);
    check("rows.json", &format!("[{line},{line}]"), &[("a", "0"); 2]);
    let (names, cells): (String, String) = ((0..200_000).map(|k| format!("c{k},")).collect(), "x,".repeat(200_000));
    check("rows.csv", &format!("{names}text,label\n{cells}a,0\n"), &[("a", "0")]);
    let (names, cells) = (names.replace(',', "\t"), cells.replace(',', "\t"));
    check("rows.tsv", &format!("{names}text\tlabel\n{cells}a\t0\n"), &[("a", "0")]);
    let rows: String = (0..200).map(|row| format!("{{\"only{row}\":1,\"text\":\"a\",\"label\":0}}\n")).collect();
    check("rows.jsonl", &rows, &[("a", "0"); 200]);
}
