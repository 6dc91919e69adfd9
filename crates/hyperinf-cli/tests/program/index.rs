//! `index`, `query`, `verify`: built once, asked often, extended, repaired.

use std::fs;

use hyperinf_tests::fixtures;
use serde_json::{Value, json};

use crate::support::{Folder, Run, read_scores};
use crate::texts::{bert, completions, llama, model, three_classes};

/// Four leaves of up to four rows.
const SMALL: [&str; 4] = ["--batch-size", "2", "--leaf-batches", "2"];

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(14));
    folder.write_rows("query.jsonl", &three_classes(3));
    folder
}

fn index(folder: &Folder, more: &[&str]) -> Run {
    let args = [&["--train", "train.jsonl", "--truncate", "--out", "index"], &SMALL[..], more].concat();
    folder.succeed("index", &bert(), &args)
}

fn query(folder: &Folder, more: &[&str]) -> Value {
    let run = folder.run("query", &[&["--index", "index", "--query", "query.jsonl", "--json"], more].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    serde_json::from_str(&run.stdout).expect("--json prints JSON")
}

/// A command that must fail, with its exit code and words of its message.
#[track_caller]
fn fails(folder: &Folder, command: &str, args: &[&str], code: i32, words: &[&str]) {
    let run = folder.run(command, args);
    assert_eq!(run.code, Some(code), "{run:?}");
    for word in words {
        assert!(run.stderr.contains(word), "no {word:?} in {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

/// Changes a byte of a file of the index.
fn flip(folder: &Folder, name: &str, place: fn(usize) -> usize) {
    let path = folder.file(&format!("index/{name}"));
    let mut bytes = fs::read(&path).expect("the program wrote it");
    let at = place(bytes.len());
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("the file can be written");
}

fn contents(folder: &Folder, name: &str) -> Vec<(String, Vec<u8>)> {
    let read = |file: String| {
        let bytes = fs::read(folder.file(&format!("{name}/{file}"))).expect("it is a file");
        (file, bytes)
    };
    folder.files_in(name).into_iter().map(read).collect()
}

#[test]
fn an_index_holds_what_attribute_computes() {
    let folder = folder();
    // One leaf has the batches of a run.
    let args = ["--train", "train.jsonl", "--truncate", "--out", "index", "--batch-size", "4"];
    folder.succeed("index", &bert(), &args);
    let files = ["index.json", "journal.jsonl", "leaf-00000.rows.jsonl", "leaf-00000.safetensors", "manifest.json"];
    assert_eq!(folder.files_in("index"), files);
    let more = ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--batch-size", "4"];
    for method in ["identity", "hyperinf", "datainf", "exact", "shampoo"] {
        let of = |out: &str, index: &[&str]| {
            let args = [&more[..], &["--method", method, "--format", "safetensors", "--out", out], index].concat();
            let run = folder.succeed("attribute", &bert(), &args);
            (read_scores(&folder.file(&format!("{out}/scores.safetensors"))), run.stderr)
        };
        let (fresh, _) = of("fresh", &[]);
        let (stored, told) = of("stored", &["--index", "index"]);
        assert!(told.contains("14 of 14 rows are there"), "{told}");
        assert_eq!(fresh, stored, "{method}");
        // The question takes the curvature that `attribute` kept.
        let found = !matches!(method, "identity" | "datainf" | "exact");
        for _ in 0..2 {
            let asked = query(&folder, &["--method", method, "--output", "asked.safetensors"]);
            assert_eq!(asked["curvature_found"], found, "{method}");
            assert_eq!(read_scores(&folder.file("asked.safetensors")), fresh, "{method}");
        }
    }
    let score = ["--train-gradients", "index", "--query-gradients", "fresh/query_gradients.safetensors"];
    folder.succeed("attribute", &bert(), &[&more[..], &["--keep-gradients", "--out", "fresh"]].concat());
    let run = folder.run("score", &[&score[..], &["--method", "identity"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn attribute_builds_an_index_and_takes_it_again() {
    let folder = folder();
    let args = ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--index", "kept", "--out", "out"];
    let first = folder.succeed("attribute", &bert(), &args);
    assert!(!first.stderr.contains("rows are there"), "{}", first.stderr);
    let before = contents(&folder, "kept");
    folder.write_rows("query.jsonl", &three_classes(5));
    let second = folder.succeed("attribute", &bert(), &args);
    assert!(second.stderr.contains("14 of 14 rows are there"), "{}", second.stderr);
    assert!(before == contents(&folder, "kept"));
}

#[test]
fn a_question_is_answered_with_texts() {
    let folder = folder();
    index(&folder, &[]);
    let found = query(&folder, &["--top-k", "3"]);
    assert_eq!(found["answers"].as_array().map(Vec::len), Some(3));
    let first = &found["answers"][0];
    assert_eq!(first["most_helpful"].as_array().map(Vec::len), Some(3));
    let rows = three_classes(14);
    for hit in first["most_helpful"].as_array().expect("a list") {
        let row = &rows[hit["train_id"].as_u64().expect("a number") as usize];
        assert_eq!((&hit["text"], hit["label"].as_str()), (&row["text"], Some(&*row["label"].to_string())));
    }
    let ask = ["--index", "index", "--text", "the fox rests", "--label", "1", "--json", "--keep-nothing"];
    let one = folder.run("query", &ask);
    assert_eq!(one.code, Some(0), "{one:?}");
    let text = folder.run("query", &ask[..6]);
    assert!(text.stdout.contains("most helpful") && text.stdout.contains("the fox rests"), "{}", text.stdout);
    fails(&folder, "query", &["--index", "index", "--text", "no label"], 3, &["label"]);
    fails(&folder, "query", &["--index", "index"], 2, &["--query"]);
    let kfac = ["--index", "index", "--query", "query.jsonl", "--method", "kfac"];
    fails(&folder, "query", &kfac, 2, &["hyperinf attribute"]);
    // Moved, the model is named.
    let moved = ["--index", "index", "--query", "query.jsonl", "--model", &model("roberta"), "--keep-nothing"];
    assert_ne!(folder.run("query", &moved).code, Some(0), "another model");
}

#[test]
fn language_models_are_asked_with_a_completion() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(6));
    for (number, more) in [&[][..], &["--project", "2", "--dtype", "bf16"], &["--dtype", "f16"]].iter().enumerate() {
        let out = format!("index-{number}");
        folder.succeed("index", &llama(), &[&["--train", "train.jsonl", "--out", &out], *more].concat());
        let ask = ["--index", &out, "--prompt", "Is the fox cold?", "--completion", " No.", "--json"];
        let run = folder.run("query", &ask);
        assert_eq!(run.code, Some(0), "{run:?}");
        let found: Value = serde_json::from_str(&run.stdout).expect("JSON");
        assert_eq!(found["answers"][0]["most_helpful"].as_array().map(Vec::len), Some(6));
    }
    let size = |out: &str| fs::metadata(folder.file(&format!("{out}/leaf-00000.safetensors"))).expect("there").len();
    assert!(size("index-1") < size("index-2") && size("index-2") < size("index-0"));
}

#[test]
fn further_rows_are_new_leaves() {
    let folder = folder();
    index(&folder, &[]);
    let before = contents(&folder, "index");
    folder.write_rows("train.jsonl", &three_classes(19));
    let told = index(&folder, &[]).stdout;
    assert!(told.contains("19 rows in 6 leaves") && told.contains("5 computed"), "{told}");
    folder.write_rows("more.jsonl", &three_classes(3));
    let more = ["--train", "more.jsonl", "--truncate", "--out", "index"];
    let refused: Vec<String> = bert();
    let refused: Vec<&str> = refused.iter().map(String::as_str).collect();
    fails(&folder, "index", &[&refused[..], &more, &SMALL].concat(), 3, &["the file of the rows was", "--append"]);
    let told = folder.succeed("index", &bert(), &[&more[..], &SMALL, &["--append"]].concat()).stdout;
    assert!(told.contains("22 rows in 7 leaves") && told.contains("3 computed"), "{told}");
    for (name, bytes) in &before {
        if name.starts_with("leaf-") {
            assert!(fs::read(folder.file(&format!("index/{name}"))).expect("there") == *bytes, "{name}");
        }
    }
    let found = query(&folder, &["--top-k", "22", "--method", "identity"]);
    let ids =
        found["answers"][0]["most_helpful"].as_array().expect("a list").iter().map(|hit| hit["train_id"].as_u64());
    let mut ids: Vec<u64> = ids.map(|id| id.expect("a number")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..22).collect::<Vec<_>>());
    // A row in the middle is another one.
    let mut rows = three_classes(19);
    rows[6]["text"] = json!("one boat");
    folder.write_rows("train.jsonl", &rows);
    let again = ["--train", "train.jsonl", "--truncate", "--out", "index"];
    fails(&folder, "index", &[&refused[..], &again, &SMALL].concat(), 3, &["other rows: those of its leaf 1"]);
}

#[test]
fn ids_are_those_of_the_rows() {
    let folder = Folder::new();
    let named = |count: usize, first: usize| -> Vec<Value> {
        let mut rows = three_classes(count);
        rows.iter_mut().enumerate().for_each(|(i, row)| row["name"] = json!(format!("row-{}", first + i)));
        rows
    };
    folder.write_rows("train.jsonl", &named(5, 0));
    folder.write_rows("more.jsonl", &named(2, 4));
    folder.write_rows("query.jsonl", &three_classes(1));
    index(&folder, &["--id-column", "name"]);
    let found = query(&folder, &["--top-k", "5"]);
    let hits = found["answers"][0]["most_helpful"].as_array().expect("a list");
    assert!(hits.iter().all(|hit| hit["train_id"].as_str().is_some_and(|id| id.starts_with("row-"))), "{hits:?}");
    let model = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    let more = ["--train", "more.jsonl", "--truncate", "--out", "index", "--append", "--id-column", "name"];
    fails(&folder, "index", &[&model[..], &more, &SMALL].concat(), 3, &["a row with the id \"row-4\" already"]);
}

#[test]
fn another_model_or_setting_is_refused_by_name() {
    let folder = folder();
    index(&folder, &[]);
    let bert = bert();
    let bert: Vec<&str> = bert.iter().map(String::as_str).collect();
    let base = [&bert[..], &["--train", "train.jsonl", "--truncate", "--out", "index"]].concat();
    let leaves = ["--leaf-batches", "2"];
    let cases: [(&[&str], &str); 5] = [
        (&["--batch-size", "3"], "batch size was 2, is 3"),
        (&["--batch-size", "2", "--max-length", "5"], "maximum length was"),
        (&["--batch-size", "2", "--dtype", "bf16"], "the type of the numbers was f32, is bf16"),
        (&["--batch-size", "2", "--blocks", "*lora_B*"], "blocks was all, is *lora_B*"),
        (&["--batch-size", "2", "--project", "2"], "layers and projection was adapters"),
    ];
    for (more, said) in cases {
        fails(&folder, "index", &[&base[..], &leaves, more].concat(), 3, &[said]);
    }
    let adapter = folder.file("adapter");
    fs::create_dir(&adapter).expect("a new folder");
    for entry in fs::read_dir(fixtures::path("transformers/bert/query_value")).expect("a fixture") {
        let path = entry.expect("a file").path();
        fs::copy(&path, adapter.join(path.file_name().expect("a name"))).expect("copied");
    }
    let weights = adapter.join("adapter_model.safetensors");
    let mut bytes = fs::read(&weights).expect("there");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("written");
    let other = ["--index", "index", "--query", "query.jsonl", "--adapter", "adapter"];
    fails(&folder, "query", &other, 3, &["adapter was "]);
}

#[test]
fn verify_names_what_is_damaged_and_repairs_it() {
    let folder = folder();
    index(&folder, &[]);
    let whole = contents(&folder, "index");
    let ok = folder.run("verify", &["index"]);
    assert!(ok.code == Some(0) && ok.stdout.contains("14 rows in 4 leaves: every file"), "{ok:?}");
    type Damage = fn(&Folder);
    let cases: [(Damage, &str); 9] = [
        (|f| flip(f, "leaf-00001.safetensors", |n| n - 3), "leaf-00001.safetensors: the numbers of block `"),
        (|f| flip(f, "leaf-00002.safetensors", |n| n / 2), "leaf-00002.safetensors: "),
        (|f| flip(f, "leaf-00000.safetensors", |_| 3), "leaf-00000.safetensors: it is damaged"),
        (|f| flip(f, "leaf-00003.rows.jsonl", |n| n / 2), "leaf-00003.rows.jsonl: it is damaged"),
        (|f| flip(f, "journal.jsonl", |n| n / 2), "the journal has no intact line"),
        (|f| fs::remove_file(f.file("index/leaf-00002.safetensors")).expect("there"), "it cannot be read"),
        (|f| fs::write(f.file("index/leaf-00002.safetensors"), b"cut").expect("written"), "it has 3 bytes, expected"),
        (|f| fs::write(f.file("index/index.json"), b"{}").expect("written"), "it does not list the shards"),
        (
            |f| {
                let [one, other] = [0, 1].map(|leaf| f.file(&format!("index/leaf-0000{leaf}.safetensors")));
                let spare = f.file("spare");
                fs::rename(&one, &spare).expect("renamed");
                fs::rename(&other, &one).expect("renamed");
                fs::rename(&spare, &other).expect("renamed");
            },
            "leaf-00000.safetensors: ",
        ),
    ];
    for (number, (damage, said)) in cases.into_iter().enumerate() {
        damage(&folder);
        let run = folder.run("verify", &["index"]);
        assert_eq!(run.code, Some(3), "{number}: {run:?}");
        assert!(run.stdout.contains(said), "{number}: no {said:?} in {}", run.stdout);
        // No answer is made of damaged numbers.
        if !said.contains("list") && !said.contains("rows") {
            let asked = folder.run("query", &["--index", "index", "--query", "query.jsonl", "--keep-nothing"]);
            assert!(asked.code == Some(3) && !asked.stderr.contains("panicked"), "{number}: {asked:?}");
        }
        let repaired = folder.run("verify", &["index", "--repair"]);
        assert_eq!(repaired.code, Some(0), "{number}: {repaired:?}");
        assert!(contents(&folder, "index") == whole, "{number}: the repaired index differs");
    }
    fs::write(folder.file("train.jsonl"), "{\"text\": \"other\", \"label\": 1}\n").expect("written");
    flip(&folder, "leaf-00001.safetensors", |n| n - 3);
    fails(&folder, "verify", &["index", "--repair"], 3, &["other rows"]);
}

#[test]
fn a_manifest_of_another_kind_is_refused() {
    let folder = folder();
    index(&folder, &[]);
    let text = folder.text("index/manifest.json");
    let ask = ["--index", "index", "--query", "query.jsonl"];
    folder.write_bytes("index/manifest.json", text.replace("\"schema\": 1", "\"schema\": 2").as_bytes());
    fails(&folder, "query", &ask, 3, &["has the schema 2, this version reads up to 1"]);
    let bert = bert();
    let bert: Vec<&str> = bert.iter().map(String::as_str).collect();
    let build = [&bert[..], &["--train", "train.jsonl", "--truncate", "--out", "index"], &SMALL].concat();
    fails(&folder, "index", &build, 3, &["has the schema 2"]);
    folder.write_bytes("index/manifest.json", text.replace("f32", "f16").as_bytes());
    fails(&folder, "query", &ask, 3, &["manifest.json` is damaged: its seal"]);
    // What is intact is kept.
    let told = index(&folder, &[]);
    assert!(told.stdout.contains("0 computed"), "{}", told.stdout);
    assert_eq!(folder.text("index/manifest.json"), text);
    fails(&folder, "query", &["--index", "nowhere", "--query", "query.jsonl"], 3, &["is not an index"]);
    fails(&folder, "verify", &["nowhere"], 3, &["is not an index"]);
}

#[test]
fn an_unfinished_index_is_not_asked() {
    let folder = folder();
    index(&folder, &[]);
    let journal = folder.text("index/journal.jsonl");
    let first: Vec<&str> = journal.lines().take(2).collect();
    folder.write_bytes("index/journal.jsonl", format!("{}\n{{\"leaf\":2,", first.join("\n")).as_bytes());
    let ask = ["--index", "index", "--query", "query.jsonl"];
    fails(&folder, "query", &ask, 3, &["not complete: 2 of 4 leaves", "hyperinf index` finishes it"]);
    let told = index(&folder, &[]);
    assert!(told.stdout.contains("6 computed"), "{}", told.stdout);
    assert_eq!(folder.text("index/journal.jsonl"), journal);
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_asked_all_the_same() {
    use std::os::unix::fs::PermissionsExt;

    let folder = folder();
    index(&folder, &[]);
    let permit = |mode| fs::set_permissions(folder.file("index"), fs::Permissions::from_mode(mode)).expect("allowed");
    permit(0o555);
    let root = fs::write(folder.file("index/probe"), b"").is_ok();
    let asked = folder.run("query", &["--index", "index", "--query", "query.jsonl"]);
    folder.write_rows("train.jsonl", &three_classes(16));
    let bert = bert();
    let bert: Vec<&str> = bert.iter().map(String::as_str).collect();
    let args = [&bert[..], &["--train", "train.jsonl", "--truncate", "--out", "index"], &SMALL].concat();
    let built = folder.run("index", &args);
    permit(0o755);
    assert_eq!(asked.code, Some(0), "{asked:?}");
    // Root may write everywhere.
    assert_eq!(built.code, Some(if root { 0 } else { 2 }), "{built:?}");
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_leaves_what_is_finished() {
    let folder = folder();
    index(&folder, &[]);
    let whole = contents(&folder, "index");
    let model = bert();
    for kib in [1, 16, 40] {
        let out = format!("full-{kib}");
        // A file that would grow beyond the limit is an error of writing, as on a full disk.
        let script = format!(
            "ulimit -f {}; exec '{}' index {} --train train.jsonl --truncate {} --out {out}",
            2 * kib,
            env!("CARGO_BIN_EXE_hyperinf"),
            model.join(" "),
            SMALL.join(" ")
        );
        let run = std::process::Command::new("sh").args(["-c", &script]).current_dir(folder.path()).output();
        let run = run.expect("there is a shell");
        let told = String::from_utf8_lossy(&run.stderr);
        assert!(!told.contains("panicked"), "{told}");
        if run.status.code() != Some(0) {
            assert!(
                run.status.code() == Some(2) && told.contains("cannot be written"),
                "{kib}: {:?} {told}",
                run.status
            );
        }
        folder.succeed(
            "index",
            &model,
            &[&["--train", "train.jsonl", "--truncate", "--out", &out], &SMALL[..]].concat(),
        );
        assert!(contents(&folder, &out) == whole, "{kib}");
    }
}

#[test]
fn two_writers_take_turns() {
    let folder = folder();
    index(&folder, &[]);
    let lock = folder.file("index/.hyperinf.lock");
    let held = fs::File::create(&lock).expect("created");
    held.lock().expect("the file system has locks");
    fs::write(&lock, "process 7 on a machine\n").expect("written");
    let bert = bert();
    let bert: Vec<&str> = bert.iter().map(String::as_str).collect();
    let build = [&bert[..], &["--train", "train.jsonl", "--truncate", "--out", "index"], &SMALL].concat();
    let said = ["another run is writing it: process 7 on a machine, for "];
    fails(&folder, "index", &build, 2, &said);
    flip(&folder, "leaf-00001.safetensors", |n| n - 3);
    fails(&folder, "verify", &["index", "--repair"], 2, &said);
    // A lock that is there but not held is that of a dead run.
    drop(held);
    assert_eq!(folder.run("verify", &["index", "--repair"]).code, Some(0));
    assert_eq!(folder.run("index", &build).code, Some(0));
}
