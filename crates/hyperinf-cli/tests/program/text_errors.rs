//! Every error of the commands on rows of text: exit code, message, and that nothing is left under a final name.

use std::fs;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::support::Folder;
use crate::texts::{bert, completions, jsonl, llama, model, three_classes};

/// A folder with `train.jsonl` and `query.jsonl` for the classifier of three classes.
fn classified() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(6));
    folder.write_rows("query.jsonl", &three_classes(2));
    folder
}

fn texts() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(6));
    folder.write_rows("query.jsonl", &completions(2));
    folder
}

/// Fails unless the run ends with the code, says all of `needles` and nothing on standard output, and leaves no
/// output.
fn check(folder: &Folder, command: &str, args: &[&str], code: i32, needles: &[&str]) {
    let run = folder.run(command, args);
    assert_eq!(run.code, Some(code), "{command} {args:?}: {run:?}");
    for needle in needles {
        assert!(run.stderr.contains(needle), "{command} {args:?}: no {needle:?} in\n{}", run.stderr);
    }
    assert_eq!(run.stdout, "", "{command} {args:?}");
    let visible: Vec<String> = folder.files_in("out").into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(visible, Vec::<String>::new(), "{command} {args:?}");
}

/// `attribute` on `train.jsonl` and `query.jsonl`, or others that the further arguments name.
fn check_attribute(folder: &Folder, model: &[String], args: &[&str], code: i32, needles: &[&str]) {
    let mut all: Vec<&str> = model.iter().map(String::as_str).collect();
    let usual = [("--train", "train.jsonl"), ("--query", "query.jsonl"), ("--out", "out")];
    for (flag, value) in usual {
        if !args.contains(&flag) {
            all.extend([flag, value]);
        }
    }
    all.extend(args);
    check(folder, "attribute", &all, code, needles);
}

/// A bad row of a classifier's training data is named with its line, number and reason.
fn check_row(line: &str, needles: &[&str]) {
    let folder = classified();
    let rows = [jsonl(&three_classes(4)), line.to_owned(), "\n".into(), jsonl(&three_classes(1))].concat();
    folder.write_bytes("train.jsonl", rows.as_bytes());
    check_attribute(
        &folder,
        &bert(),
        &[],
        3,
        &[&["train.jsonl", "line 5 (row 4)", "--skip-bad-rows"], needles].concat(),
    );
}

/// The same of a language model.
fn check_text_row(line: &str, args: &[&str], needles: &[&str]) {
    let folder = texts();
    folder.write_bytes("query.jsonl", format!("{line}\n").as_bytes());
    check_attribute(&folder, &llama(), args, 3, &[&["query.jsonl", "line 1 (row 0)"], needles].concat());
}

// ---- 2: the arguments --------------------------------------------------------------------------------------------

#[test]
fn flags_that_are_wrong() {
    let folder = classified();
    for (args, needles) in [
        (&["--method", "hyprinf"][..], &["`hyprinf`", "did you mean `hyperinf`"][..]),
        (&["--damping", "0"], &["--damping", "positive"]),
        (&["--device", "abacus"], &["`abacus`"]),
        (&["--format", "npy"], &["npy", "parquet", "safetensors"]),
        (&["--batch-size", "0"], &["--batch-size", "0"]),
        (&["--max-length", "0"], &["--max-length", "0"]),
        (&["--max-length", "25"], &["--max-length 25", "24 tokens", "--truncate"]),
        (&["--truncate", "--blocks", "*nothing*"], &["`*nothing*`", "base_model.model.classifier.weight"]),
        (&["--train", "train.txt"], &["train.txt", ".jsonl", ".csv", ".parquet"]),
        (&["--out", "train.jsonl"], &["`train.jsonl`", "cannot be written"]),
    ] {
        check_attribute(&folder, &bert(), args, 2, needles);
    }
    let select =
        |keep| ["--train", "train.jsonl", "--validation", "query.jsonl", "--truncate", "--out", "out", "--keep", keep];
    let model: Vec<String> = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    for (keep, needles) in [
        ("7", &["--keep asks for 7 rows of 6"][..]),
        ("4%", &["--keep asks for 0 rows of 6", "at least one row"]),
        ("0", &["0", "5%"]),
        ("0.2", &["0.2", "5%"]),
        ("101%", &["101%", "at most 100%"]),
        ("-5%", &["-5%"]),
    ] {
        check(&folder, "select", &[&model[..], &select(keep)].concat(), 2, needles);
    }
}

#[test]
fn an_output_that_is_an_input() {
    let folder = classified();
    fs::create_dir(folder.file("out")).expect("the folder can be written");
    fs::rename(folder.file("train.jsonl"), folder.file("out/selected.jsonl")).expect("it is there");
    let before = folder.text("out/selected.jsonl");
    let model: Vec<String> = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    let args = ["--train", "out/selected.jsonl", "--validation", "query.jsonl", "--out", "out", "--keep", "2"];
    let run = folder.run("select", &[&model[..], &args].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("out/selected.jsonl") && run.stderr.contains("also an input"), "{}", run.stderr);
    assert_eq!(folder.text("out/selected.jsonl"), before);
}

#[test]
fn a_model_without_an_adapter() {
    let base = ["--model".to_owned(), model("bert")];
    check_attribute(&classified(), &base, &[], 2, &["has no adapters", "--adapter", "hyperinf finetune"]);
}

#[test]
fn finetuning_with_settings_that_are_wrong() {
    let folder = classified();
    let base = ["--model", &model("bert"), "--train", "train.jsonl", "--truncate", "--out", "out"];
    for (args, needles) in [
        (&["--lora-rank", "0"][..], &["`rank`", "at least 1"][..]),
        (&["--lora-dropout", "1"], &["`dropout`", "below 1"]),
        (&["--learning-rate", "0"], &["`learning_rate`", "positive"]),
        (&["--epochs", "0"], &["`epochs`", "at least 1"]),
        (&["--micro-batch", "0"], &["--micro-batch", "at least 1"]),
        (&["--patience", "2"], &["--validation"]),
        (&["--lora-target", "query,gate_proj"], &["`gate_proj`", "query", "dense"]),
    ] {
        check(&folder, "finetune", &[&base[..], args].concat(), 2, needles);
    }
    fs::create_dir_all(folder.file("there")).expect("the folder can be written");
    folder.write_bytes("there/adapter_config.json", b"{}");
    let there = ["--model", base[1], "--train", "train.jsonl", "--out", "there"];
    check(&folder, "finetune", &there, 2, &["`there`", "an adapter already", "--overwrite"]);
    folder.succeed("finetune", &[], &[&there[..], &["--truncate", "--overwrite", "--epochs", "1"]].concat());
}

// ---- 3: models --------------------------------------------------------------------------------------------------

#[test]
fn models_that_cannot_be_loaded() {
    let folder = classified();
    let of = |name: &str| ["--model".to_owned(), name.to_owned(), "--adapter".into(), model("bert/query_value")];
    fs::create_dir(folder.file("t5")).expect("the folder can be written");
    folder.write_bytes("t5/config.json", br#"{"model_type": "t5"}"#);
    check_attribute(&folder, &of("t5"), &[], 3, &["`t5`", "bert", "roberta", "llama", "mistral", "qwen2"]);
    fs::create_dir(folder.file("empty")).expect("the folder can be written");
    check_attribute(&folder, &of("empty"), &[], 3, &["`empty`", "config.json"]);
    check_attribute(&folder, &of("./absent"), &[], 3, &["`./absent`", "neither a file or folder nor"]);
    check_attribute(&folder, &of(&model("bert/query_value")), &[], 3, &["adapter", "--model"]);
    // A folder without a tokenizer.
    fs::create_dir(folder.file("mute")).expect("the folder can be written");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(format!("{}/{name}", model("bert")), folder.file(&format!("mute/{name}"))).expect("it is there");
    }
    check_attribute(&folder, &of("mute"), &[], 3, &["tokenizer", "`mute`", "tokenizer.json"]);
}

#[test]
fn a_hub_that_cannot_be_reached() {
    let folder = classified();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args(["finetune", "--model", "nobody/nothing", "--train", "train.jsonl", "--out", "out"])
        .current_dir(folder.path())
        // Nothing listens on port 9 of this machine.
        .envs([("HF_ENDPOINT", "http://127.0.0.1:9"), ("HF_HOME", "cache")])
        .output()
        .expect("the program was built with the tests");
    let stderr = String::from_utf8(output.stderr).expect("it is UTF-8");
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    for needle in ["nobody/nothing", "hub", "config.json", "model.safetensors"] {
        assert!(stderr.contains(needle), "{needle}: {stderr}");
    }
}

#[test]
fn adapters_of_another_model_or_rank() {
    let adapted =
        |base: &str, adapter: &str| ["--model".to_owned(), model(base), "--adapter".into(), adapter.to_owned()];
    let folder = classified();
    let other = adapted("bert", &model("llama/all_linear"));
    check_attribute(&folder, &other, &[], 3, &["does not fit", "q_proj.lora_A.weight", "base_model_name_or_path"]);
    check_attribute(&folder, &adapted("bert", "absent/adapter/folder"), &[], 3, &["adapter `absent/adapter/folder`"]);
    // The settings say another rank than the tensors have.
    fs::create_dir(folder.file("rank")).expect("the folder can be written");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(format!("{}/{name}", model("bert/query_value")), folder.file(&format!("rank/{name}")))
            .expect("it is there");
    }
    let mut config = folder.json("rank/adapter_config.json");
    config["r"] = json!(3);
    folder.write_bytes("rank/adapter_config.json", config.to_string().as_bytes());
    check_attribute(&folder, &adapted("bert", "rank"), &[], 3, &["rank 4", "say 3"]);
}

#[test]
fn labels_that_are_not_in_the_head() {
    check_row(r#"{"text": "fox", "label": 3}"#, &["label `3` is not one of `0`, `1`, `2`"]);
    // Neither the model nor the adapter has names for its classes.
    let folder = classified();
    folder.write_rows("train.jsonl", &[json!({ "text": "fox", "label": "fish" })]);
    check_attribute(&folder, &bert(), &[], 3, &["label `fish` is a name", "3 classes", "0 to 2"]);
    // A validation label that training lacks.
    let folder = classified();
    let named = |label: &str| json!({ "text": "fox", "label": label });
    folder.write_rows("train.jsonl", &[named("good"), named("bad"), named("good")]);
    folder.write_rows("query.jsonl", &[named("good"), named("ugly")]);
    let base = ["--model", &model("bert"), "--train", "train.jsonl", "--validation", "query.jsonl", "--out", "out"];
    check(&folder, "finetune", &base, 3, &["query.jsonl", "line 2 (row 1)", "`ugly` is not one of `bad`, `good`"]);
    folder.write_rows("train.jsonl", &[named("good"), named("good")]);
    check(&folder, "finetune", &base, 3, &["all 2 rows have the label `good`", "two labels"]);
}

// ---- 3: data ----------------------------------------------------------------------------------------------------

#[test]
fn rows_that_cannot_be_used() {
    check_row("{\"text\": \"fox\"", &["not JSON", "at column"]);
    check_row("17", &["not a JSON object"]);
    check_row("", &["it is blank"]);
    check_row(r#"{"text": "fox"}"#, &["column `label` is missing"]);
    check_row(r#"{"text": null, "label": 1}"#, &["column `text` is missing"]);
    check_row(r#"{"text": ["fox"], "label": 1}"#, &["column `text` holds a list, expected a text"]);
    check_row(r#"{"text": "fox", "label": 1.5}"#, &["column `label` holds a number with a fraction"]);
    check_row(r#"{"text": " \t", "label": 1}"#, &["column `text` is empty"]);
    let long = format!(r#"{{"text": "{}", "label": 1}}"#, "fox ".repeat(40));
    check_row(&long, &["42 tokens", "24", "--truncate"]);
}

#[test]
fn rows_of_language_models_that_cannot_be_used() {
    check_text_row(r#"{"prompt": "fox", "completion": ""}"#, &[], &["completion is empty", "`completion`"]);
    check_text_row(r#"{"prompt": "fox", "text": "fox"}"#, &[], &["completion is empty", "`text`"]);
    check_text_row(r#"{"prompt": "fox", "text": "the fox"}"#, &[], &["`text` does not begin with column `prompt`"]);
    check_text_row(r#"{"messages": []}"#, &[], &["column `messages` is empty"]);
    check_text_row(r#"{"messages": ["hello"]}"#, &[], &["`role` and `content`"]);
    let conversation = r#"{"messages": [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "no"}]}"#;
    check_text_row(conversation, &[], &["no chat template"]);
    let long = format!(r#"{{"prompt": "{}", "completion": " fox"}}"#, "fox ".repeat(40));
    check_text_row(&long, &[], &["tokens", "32", "--truncate"]);
    check_text_row(&long, &["--truncate"], &["nothing of the completion is left"]);
}

#[test]
fn ids_that_are_there_twice() {
    let folder = classified();
    let mut rows = three_classes(6);
    for (i, row) in rows.iter_mut().enumerate() {
        row["name"] = json!(i % 4);
    }
    folder.write_rows("train.jsonl", &rows);
    folder.write_rows("query.jsonl", &rows[..2]);
    let needles = ["2 of 6 rows", "line 5 (row 4)", "id `0` is also that of row 0"];
    check_attribute(&folder, &bert(), &["--id-column", "name"], 3, &needles);
}

#[test]
fn columns_that_are_missing() {
    let folder = classified();
    let rows = |columns: &[&str]| -> Vec<Value> {
        vec![Value::Object(columns.iter().map(|&column| (column.to_owned(), json!("fox"))).collect())]
    };
    for (columns, args, needles) in [
        (&["body", "label"][..], &[][..], &["no column for the text", "`body`", "`label`", "--text-column"][..]),
        (&["text", "class"], &[], &["no column for the label", "`class`", "--label-column"]),
        (&["text", "label"], &["--text-column", "Text"], &["no column `Text`", "--text-column", "`text`"]),
        (&["text", "label"], &["--pair-column", "second"], &["no column `second`", "--pair-column"]),
        (&["text", "label"], &["--id-column", "id"], &["no column `id`", "--id-column"]),
    ] {
        folder.write_rows("train.jsonl", &rows(columns));
        check_attribute(&folder, &bert(), args, 3, needles);
    }
    let folder = texts();
    for (columns, needles) in [
        (&["question"][..], &["no column for the text", "messages, prompt and completion, or text", "`question`"][..]),
        (&["prompt", "answer"], &["no column for what follows the prompt", "`answer`"]),
        (&["completion"], &["no column for the prompt"]),
    ] {
        folder.write_rows("train.jsonl", &rows(columns));
        check_attribute(&folder, &llama(), &[], 3, needles);
    }
}

#[test]
fn files_that_are_no_data_sets() {
    let folder = classified();
    for (name, bytes, needles) in [
        ("empty.jsonl", &b""[..], &["no rows"][..]),
        ("blank.jsonl", b"\n\n", &["no rows"]),
        ("header.csv", b"text,label\n", &["no rows"]),
        ("twice.csv", b"text,label,text\na,0,b\n", &["several columns named `text`"]),
        ("short.csv", b"text,label\nfox,0\nfox\nfox,1\n", &["line 3 (row 1)", "1 fields, the header has 2"]),
        ("latin.csv", b"text,label\nfox,0\nf\xf6x,1\n", &["line 3 (row 1)", "not UTF-8"]),
        ("latin.jsonl", b"{\"text\": \"f\xf6x\", \"label\": 1}\n", &["line 1 (row 0)", "not UTF-8"]),
        ("text.parquet", b"text,label\n", &["Parquet"]),
    ] {
        folder.write_bytes(name, bytes);
        check_attribute(&folder, &bert(), &["--train", name], 3, &[&[name], needles].concat());
    }
    check_attribute(&folder, &bert(), &["--train", "absent.jsonl"], 3, &["absent.jsonl", "cannot be read"]);
    fs::create_dir(folder.file("folder.csv")).expect("the folder can be written");
    check_attribute(
        &folder,
        &bert(),
        &["--train", "folder.csv"],
        3,
        &["folder.csv", "a folder without `metadata.jsonl`"],
    );
    // Where all rows are bad, there is nothing to go on with.
    folder.write_bytes("bad.jsonl", b"1\n2\n");
    let args = ["--train", "bad.jsonl", "--skip-bad-rows"];
    check_attribute(&folder, &bert(), &args, 3, &["none of its 2 rows", "not a JSON object"]);
}

#[test]
fn parquet_columns_that_are_no_texts() {
    let folder = classified();
    let labels: ArrayRef = Arc::new(StringArray::from(vec!["0", "1"]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"fox"[..], b"river"]));
    let batch = RecordBatch::try_from_iter([("text", bytes), ("label", labels)]).expect("of one length");
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).expect("the schema is plain");
    writer.write(&batch).expect("memory can be written");
    writer.close().expect("memory can be written");
    folder.write_bytes("train.parquet", &file);
    let needles = ["column `text` has values of type Binary", "expected texts"];
    check_attribute(&folder, &bert(), &["--train", "train.parquet"], 3, &needles);
}

#[test]
fn parquet_in_a_compression_that_is_not_known() {
    let folder = classified();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["fox", "river"]));
    let labels: ArrayRef = Arc::new(StringArray::from(vec!["0", "1"]));
    let batch = RecordBatch::try_from_iter([("text", texts), ("label", labels)]).expect("of one length");
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).expect("the schema is plain");
    writer.write(&batch).expect("memory can be written");
    writer.close().expect("memory can be written");
    // Behind the column's path the footer has the codec: a field of 32 bits (0x15), Snappy is 1 and Zstandard 6, both
    // twice as large in its code.
    let place = file.windows(6).position(|bytes| bytes == b"label\x15").expect("the footer has the column's path") + 6;
    assert_eq!(file[place], 2);
    file[place] = 12;
    folder.write_bytes("train.parquet", &file);
    let needles = ["column `label` is compressed with ZSTD", "SNAPPY or GZIP"];
    check_attribute(&folder, &bert(), &["--train", "train.parquet"], 3, &needles);
}
