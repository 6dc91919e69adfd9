//! `hyperinf score --train-ids --query-ids`: names for the rows of gradient files.

use serde_json::Value;

use crate::support::Folder;

/// A folder with gradients of 6 training samples and 3 queries, and ids for both.
fn folder() -> Folder {
    let folder = Folder::with_gradients();
    folder.write_bytes("train.txt", b"a\nb b\nc\r\n=d\ne\nf\n");
    folder.write_bytes("query.csv", b"text,id\n\"x\ny\",q1\n,q2\n\"\",1.0\n");
    folder
}

#[test]
fn scores_have_the_ids_of_their_samples() {
    let folder = folder();
    for (train, query, first) in [
        (&b"a\nb\nc\nd\ne\nf"[..], "query.csv", ["q1", "a"]),
        (b"\xef\xbb\xbfid a\nb\nc\nd\ne\nf\n", "query.csv:id", ["q1", "id a"]),
    ] {
        folder.write_bytes("train.txt", train);
        let args = ["--train-ids", "train.txt", "--query-ids", query, "--output", "scores.csv"];
        let run = folder.score(&args);
        assert_eq!(run.code, Some(0), "{run:?}");
        let rows = crate::support::csv_rows(&folder.file("scores.csv"));
        assert_eq!(rows.len(), 18);
        assert_eq!([&rows[0]["query_id"], &rows[0]["train_id"]], first);
        assert_eq!([&rows[17]["query_id"], &rows[17]["train_id"]], ["1", "f"]);
    }
    let run = folder.score(&["--train-ids", "train.txt", "--query-ids", "query.csv"]);
    assert!(run.stdout.contains("query q1") && run.stdout.contains("id a"), "{run:?}");
    let run = folder.score(&["--train-ids", "train.txt", "--query-ids", "query.csv", "--json"]);
    let json: Value = serde_json::from_str(&run.stdout).expect("it is JSON");
    assert_eq!(json["rankings"][0]["query_id"], "q1");
    let best = json["rankings"][0]["most_helpful"][0]["train_id"].as_str().expect("a name");
    assert!(["id a", "b", "c", "d", "e", "f"].contains(&best), "{best}");
}

#[test]
fn a_sweep_has_the_ids_of_its_samples() {
    let folder = folder();
    let args = ["sweep", "--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
    let more = ["--train-ids", "train.txt", "--query-ids", "query.csv", "--damping", "0.1,1", "--out", "out"];
    let run = crate::support::hyperinf(folder.path(), &[&args[..], &more].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let file = std::fs::File::open(folder.file("out/scores.parquet")).expect("the program wrote it");
    let rows = parquet::file::reader::SerializedFileReader::new(file).expect("it is Parquet");
    let rows: Vec<String> = rows.into_iter().map(|row| row.expect("rows can be read").to_string()).collect();
    assert!(rows[0].contains("\"a\"") && rows[1].contains("\"b b\""), "{rows:?}");
    assert!(rows.iter().any(|row| row.contains("\"=d\"")), "{rows:?}");
}

#[test]
fn a_text_file_has_no_columns() {
    let folder = folder();
    let run = folder.score(&["--train-ids", "train.txt:name"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("a text file") && run.stderr.contains("`name`"), "{run:?}");
}

/// The same ids from every format, and a cell that a spreadsheet would compute stays as it is.
#[test]
fn every_format_gives_ids() {
    let folder = folder();
    let ids = ["a", "b b", "c", "=1+1", "-e", "@f"];
    let lines: String = ids.iter().map(|id| format!("{{\"name\": \"{id}\", \"x\": 0}}\n")).collect();
    folder.write_bytes("ids.jsonl", lines.as_bytes());
    folder.write_bytes("ids.json", format!("[{}]", lines.trim().replace('\n', ",")).as_bytes());
    folder.write_bytes("ids.tsv", format!("\tname\n{}", ids.map(|id| format!("0\t{id}\n")).concat()).as_bytes());
    folder.write_bytes("ids.csv", format!("name,\n{}", ids.map(|id| format!("{id},\n")).concat()).as_bytes());
    folder.write_bytes("ids.txt", ids.join("\n").as_bytes());
    for name in ["ids.jsonl:name", "ids.json:name", "ids.tsv:name", "ids.csv:name", "ids.txt"] {
        let run = folder.score(&["--train-ids", name, "--output", "scores.csv"]);
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        let rows = crate::support::csv_rows(&folder.file("scores.csv"));
        let found: Vec<&str> = rows[..6].iter().map(|row| row["train_id"].as_str()).collect();
        assert_eq!(found, ids, "{name}");
    }
}

#[test]
fn ids_that_cannot_be_those_of_the_samples() {
    let folder = folder();
    for (name, contents, needles) in [
        ("few.txt", &b"a\nb\nc\nd\ne\n"[..], &["5 ids", "6 samples"][..]),
        ("many.txt", b"a\nb\nc\nd\ne\nf\ng\n", &["7 ids", "6 samples"]),
        ("twice.txt", b"a\nb\nc\na\ne\nf\n", &["`a`", "sample 0", "sample 3"]),
        ("gap.txt", b"a\nb\n\nd\ne\nf\n", &["line 3 has no id"]),
        ("latin.txt", b"a\nb\nc\nd\ne\n\xe9\n", &["UTF-8", "byte 10"]),
        ("no.csv", b"text\na\nb\nc\nd\ne\nf\n", &["no column `id`", "`text`"]),
        ("null.jsonl", b"{\"id\": 1}\n{\"id\": null}\n", &["line 2", "`id` is missing"]),
        ("real.jsonl", b"{\"id\": 1.5}\n", &["line 1", "a number with a fraction"]),
    ] {
        folder.write_bytes(name, contents);
        let run = folder.score(&["--train-ids", name]);
        assert_eq!(run.code, Some(3), "{name}: {run:?}");
        for needle in [&["training ids", name], needles].concat() {
            assert!(run.stderr.contains(needle), "{name}: no {needle:?} in {}", run.stderr);
        }
    }
    folder.write_bytes("groups.txt", b"a\na\na\nb\nb\nb\n");
    let run = folder.score(&["--train-ids", "train.txt", "--groups", "groups.txt"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    let run = folder.score(&["--train-ids", "train.txt", "--output", "train.txt"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}

/// Reading a named pipe would wait for ever.
#[cfg(unix)]
#[test]
fn pipes_devices_and_folders_are_refused_at_once() {
    let folder = folder();
    let made = std::process::Command::new("mkfifo").arg(folder.file("pipe")).status();
    assert!(made.is_ok_and(|status| status.success()));
    for name in ["pipe.csv", "pipe.jsonl", "pipe.json", "pipe.tsv", "pipe.parquet"] {
        std::os::unix::fs::symlink("pipe", folder.file(name)).expect("the folder can be written");
    }
    for odd in ["pipe", "/dev/zero", "."] {
        for flag in ["--groups", "--train-ids", "--query-ids", "--train-gradients"] {
            let args = ["score", "--query-gradients", "query.safetensors", flag, odd];
            let train = ["--train-gradients", "train.safetensors"];
            let args = if flag == "--train-gradients" { args.to_vec() } else { [&args[..], &train].concat() };
            let run = crate::support::hyperinf(folder.path(), &args);
            assert_eq!(run.code, Some(3), "{args:?}: {run:?}");
            // A folder may be a data set.
            let needle = if odd == "." && flag.ends_with("-ids") { "a folder" } else { "regular file" };
            assert!(run.stderr.contains(needle), "{args:?}: {run:?}");
        }
    }
    for name in ["pipe.csv", "pipe.jsonl", "pipe.json", "pipe.tsv", "pipe.parquet"] {
        let run = folder.score(&["--train-ids", name]);
        assert!(run.code == Some(3) && run.stderr.contains("regular file"), "{name}: {run:?}");
    }
}
