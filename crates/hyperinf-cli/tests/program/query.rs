//! `query`: few rows are read in full, from sketches; questions on standard input.

use std::io::Write;
use std::process::{Command, Stdio};
use std::{fs, io};

use serde_json::{Value, json};

use crate::support::{Folder, Run, device_names};
use crate::texts::{bert, completions, jsonl, llama, three_classes};

fn folder(rows: usize) -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(rows));
    folder.write_rows("query.jsonl", &three_classes(3));
    let more = ["--train", "train.jsonl", "--truncate", "--out", "index", "--batch-size", "4", "--leaf-batches", "4"];
    folder.succeed("index", &bert(), &more);
    folder
}

fn ask(folder: &Folder, more: &[&str]) -> Value {
    let run = folder.run("query", &[&["--index", "index", "--query", "query.jsonl", "--json"], more].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    serde_json::from_str(&run.stdout).expect("--json prints JSON")
}

/// Asks with rows on standard input.
fn serve(folder: &Folder, input: &str, more: &[&str]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args([&["query", "--index", "index", "--query", "-"], more].concat())
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built with the tests");
    // A program that refuses its flags reads nothing.
    let written = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    assert!(written.is_ok() || written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe));
    let output = child.wait_with_output().expect("it was started");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn lines(run: &Run) -> Vec<Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The same rows at the same places; scores are equal but for the last digits.
#[track_caller]
fn assert_same(what: &str, found: &Value, expected: &Value) {
    for list in ["most_helpful", "most_harmful", "most_influential"] {
        let pairs = |answer: &Value| -> Vec<(Value, f64)> {
            let hits = answer[list].as_array().cloned().unwrap_or_default();
            hits.iter().map(|hit| (hit["train_id"].clone(), hit["score"].as_f64().expect("a score"))).collect()
        };
        let (found, expected) = (pairs(found), pairs(expected));
        let ids = |pairs: &[(Value, f64)]| pairs.iter().map(|pair| pair.0.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&found), ids(&expected), "{what}: {list}");
        for ((_, found), (_, expected)) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-5 * expected.abs(), "{what}: {found} {expected}");
        }
    }
}

#[test]
fn few_rows_are_read_and_the_answer_is_that_of_all() {
    let folder = folder(60);
    for device in device_names() {
        for method in ["identity", "hyperinf", "diagonal", "hyperinf:merged"] {
            for more in [&["--top-k", "2"][..], &["--top-k", "3", "--query-mode", "mean", "--rank-by", "magnitude"]] {
                let args = [&["--device", &device, "--method", method], more].concat();
                let all = ask(&folder, &[&args[..], &["--every-row"]].concat());
                assert_eq!(all["read"]["every"]["reason"], "all scores were asked for");
                assert!(all["shares"].as_array().is_some_and(|shares| !shares.is_empty()));
                let few = ask(&folder, &args);
                assert!(few["read"]["few"]["rows"].as_u64().is_some_and(|rows| rows > 0), "{}", few["read"]);
                let (all, few) = (&all["answers"], &few["answers"]);
                let (all, few) = (all.as_array().expect("a list"), few.as_array().expect("a list"));
                assert_eq!(all.len(), few.len());
                few.iter().zip(all).for_each(|(few, all)| assert_same(method, few, all));
            }
        }
    }
}

#[test]
fn sketches_are_kept_verified_and_free_to_be_removed() {
    let folder = folder(20);
    let kept = || folder.files_in("index").into_iter().filter(|name| name.starts_with("sketch-")).count();
    let without = ask(&folder, &["--keep-nothing"]);
    assert_eq!(
        (kept(), &without["read"]["every"]["reason"]),
        (0, &json!("the index has no sketches, and none are kept"))
    );
    let first = ask(&folder, &[]);
    assert_eq!((kept(), &first["read"]["few"]["sketched"]), (2, &json!(2)));
    let second = ask(&folder, &["--keep-nothing"]);
    assert_eq!(second["read"]["few"]["sketched"], 0);
    assert_eq!(first["answers"], second["answers"]);
    let told = folder.run("verify", &["index"]);
    assert!(told.code == Some(0) && told.stdout.contains("2 files of sketches"), "{told:?}");
    let path = folder.file("index/sketch-00001.safetensors");
    let mut bytes = fs::read(&path).expect("it is kept");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("it can be written");
    let told = folder.run("verify", &["index"]);
    assert!(
        told.code == Some(3) && told.stdout.contains("sketch-00001.safetensors: this sketch is damaged"),
        "{told:?}"
    );
    assert_eq!(ask(&folder, &[])["read"]["few"]["sketched"], 1, "a damaged one is computed again");
    fs::write(&path, b"short").expect("it can be written");
    assert_eq!(folder.run("verify", &["index", "--repair"]).code, Some(0));
    assert_eq!(kept(), 1);
    // What cannot be told from sketches says so.
    for (more, reason) in [
        (&["--method", "cosine"][..], "scores are divided by a norm of each row"),
        (&["--method", "datainf"], "the method works on the gradients themselves"),
        (&["--project", "2"], "gradients are projected, or scores are of blocks"),
    ] {
        assert_eq!(ask(&folder, more)["read"]["every"]["reason"], reason);
    }
    let text = folder.run("query", &["--index", "index", "--query", "query.jsonl"]);
    assert!(text.stdout.contains("rows read in full"), "{}", text.stdout);
}

#[test]
fn questions_on_standard_input_are_answered_one_by_one() {
    let folder = folder(40);
    let rows = three_classes(12);
    for method in ["hyperinf", "cosine"] {
        let args = ["--method", method, "--top-k", "3"];
        folder.write_rows("query.jsonl", &rows);
        let together = ask(&folder, &args);
        let input = format!("\n{}", jsonl(&rows));
        let run = serve(&folder, &input, &args);
        assert_eq!(run.code, Some(0), "{run:?}");
        let answers = lines(&run);
        assert_eq!(answers.len(), 12);
        for (number, (answer, together)) in
            answers.iter().zip(together["answers"].as_array().expect("a list")).enumerate()
        {
            assert_eq!(answer["line"], number + 2);
            assert_eq!((&answer["text"], &answer["label"]), (&together["text"], &together["label"]));
            assert_same(method, answer, together);
            assert!(answer["seconds"]["scores"].is_number() && answer["read"].is_object());
        }
    }
}

#[test]
fn a_row_that_cannot_be_used_is_an_answer() {
    let folder = folder(20);
    let good = r#"{"text": "the river is cold", "label": 1}"#;
    let input =
        format!("{{\"text\": 7}}\nno JSON\n{good}\n{{\"text\": \"a\", \"label\": 9}}\n{{\"label\": 1}}\n{good}\n");
    let run = serve(&folder, &input, &["--top-k", "2"]);
    let answers = lines(&run);
    assert_eq!(
        answers.iter().map(|line| line["line"].as_u64()).collect::<Vec<_>>(),
        (1..=6).map(Some).collect::<Vec<_>>()
    );
    for (place, answer) in answers.iter().enumerate() {
        let is_answer = [2, 5].contains(&place);
        assert_eq!(answer["error"].is_string(), !is_answer, "{answer}");
        assert_eq!(answer["most_helpful"].as_array().map_or(0, Vec::len), if is_answer { 2 } else { 0 });
    }
    assert_same("again", &answers[5], &answers[2]);
    assert_eq!(run.code, Some(3));
    assert!(run.stderr.contains("4 of 6 rows of standard input could not be used"), "{}", run.stderr);
    let nothing = serve(&folder, "", &[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), ""));
    let refused = serve(&folder, good, &["--output", "scores.csv"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--query -"), "{refused:?}");
    let other = serve(&folder, good, &["--model", &crate::texts::model("roberta")]);
    assert!(other.code.is_some_and(|code| code > 0) && other.stdout.is_empty(), "{other:?}");
}

#[test]
fn language_models_answer_lines_of_prompts() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(9));
    folder.succeed(
        "index",
        &llama(),
        &["--train", "train.jsonl", "--out", "index", "--project", "2", "--dtype", "bf16"],
    );
    let run = serve(&folder, &jsonl(&completions(3)), &["--top-k", "1"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(lines(&run).iter().all(|line| line["most_helpful"].as_array().map(Vec::len) == Some(1)), "{}", run.stdout);
}
