//! `--config`, `--set`, the file that replays a run, `schema`, `completions` and `man`; `--log-format`.

use std::process::Command;

use serde_json::Value;

use crate::support::{Folder, Run, hyperinf};
use crate::texts::{bert, completions, model, three_classes};

fn rows() -> (Folder, String) {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(12));
    folder.write_rows("query.jsonl", &three_classes(3));
    let [_, model, _, adapter] = <[String; 4]>::try_from(bert()).expect("four arguments");
    let config = format!(
        "command = \"attribute\"\nmodel = {model:?}\nadapter = {adapter:?}\ntrain = \"train.jsonl\"\n\
         query = \"query.jsonl\"\nout = \"found\"\ntruncate = true\ndamping = 0.3\ntop-k = 2\nformat = \"csv\"\n"
    );
    folder.write_bytes("run.toml", config.as_bytes());
    (folder, config)
}

fn succeed(folder: &Folder, args: &[&str]) -> Run {
    let run = hyperinf(folder.path(), args);
    assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
    run
}

#[test]
fn a_file_is_a_run_and_what_it_writes_replays_it() {
    let (folder, _) = rows();
    succeed(&folder, &["--config", "run.toml"]);
    let mut typed = bert();
    typed.extend(["--train", "train.jsonl", "--query", "query.jsonl", "--out", "typed"].map(str::to_owned));
    typed.extend(["--truncate", "--damping", "0.3", "--top-k", "2", "--format", "csv"].map(str::to_owned));
    folder.succeed("attribute", &typed, &[]);
    let scores = |out: &str| folder.text(&format!("{out}/scores.csv"));
    assert_eq!(scores("found"), scores("typed"));
    // The file and the flags resolve to the same, but for the folder.
    assert_eq!(folder.text("found/run.toml").replace("found", "typed"), folder.text("typed/run.toml"));
    let resolved = folder.text("found/run.toml");
    for line in ["command = \"attribute\"", "damping = 0.3", "top-k = 2", "truncate = true", "method = \"hyperinf\""] {
        assert!(resolved.lines().any(|found| found == line), "{line}: {resolved}");
    }
    // Replayed, with another folder: once by a flag, once by --set.
    succeed(&folder, &["attribute", "--config", "found/run.toml", "--out", "again"]);
    succeed(&folder, &["--config=found/run.toml", "--set", "out=set", "--set", "damping=0.3"]);
    assert_eq!((scores("again"), scores("set")), (scores("found"), scores("found")));
    // A flag counts more than --set, which counts more than the file.
    succeed(&folder, &["attribute", "--config", "run.toml", "--set", "damping=7", "--out", "seven"]);
    assert_ne!(scores("seven"), scores("found"));
    let args = ["attribute", "--config", "run.toml", "--set", "damping=7", "--damping", "0.3", "--out", "typed-again"];
    succeed(&folder, &args);
    assert_eq!(scores("typed-again"), scores("found"));
}

#[test]
fn a_result_that_is_a_file_has_its_configuration_next_to_it() {
    let (folder, _) = rows();
    let bert = bert();
    folder.succeed("evaluate", &bert, &["--data", "train.jsonl", "--truncate", "--output", "predictions.csv"]);
    folder.succeed("index", &bert, &["--train", "train.jsonl", "--truncate", "--out", "index"]);
    succeed(&folder, &["query", "--index", "index", "--query", "query.jsonl", "--output", "asked.csv"]);
    let rows = ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate"];
    folder.succeed("attribute", &bert, &[&rows[..], &["--out", "kept", "--keep-gradients"]].concat());
    let gradients = ["--train-gradients", "index", "--query-gradients", "kept/query_gradients.safetensors"];
    succeed(&folder, &[&["score"][..], &gradients, &["--damping", "0.7", "--output", "scored.parquet"]].concat());
    for name in ["predictions.csv", "asked.csv", "scored.parquet"] {
        let bytes = || std::fs::read(folder.file(name)).expect("it was written");
        let (first, config) = (bytes(), folder.text(&format!("{name}.run.toml")));
        std::fs::remove_file(folder.file(name)).expect("it was written");
        succeed(&folder, &["--config", &format!("{name}.run.toml")]);
        assert!(bytes() == first, "{name}: {config}");
        assert_eq!(folder.text(&format!("{name}.run.toml")), config);
    }
    assert!(folder.text("scored.parquet.run.toml").contains("damping = 0.7"));
    // Without a file there is nothing to go with.
    folder.succeed("evaluate", &bert, &["--data", "query.jsonl", "--truncate"]);
    let entries = std::fs::read_dir(folder.path()).expect("a folder").flatten();
    assert_eq!(entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".run.toml")).count(), 3);
}

#[test]
fn every_result_has_a_configuration_that_is_accepted() {
    let (folder, _) = rows();
    let rows = ["--train", "train.jsonl", "--validation", "query.jsonl", "--truncate"];
    folder.succeed("detect", &bert(), &[&rows[..], &["--out", "d", "--remove", "5%", "--method", "ekfac"]].concat());
    folder.succeed("select", &bert(), &[&rows[..], &["--out", "s", "--keep", "3"]].concat());
    folder.write_rows("rows.jsonl", &completions(8));
    let llama = model("llama");
    let tune = ["--model", &llama, "--train", "rows.jsonl", "--epochs", "1", "--batch-size", "4", "--out", "t"];
    let run = folder.run("finetune", &tune);
    assert_eq!(run.code, Some(0), "{run:?}");
    for (out, result) in [("d", "suspicious.csv"), ("s", "ranking.csv"), ("t", "adapter_model.safetensors")] {
        let bytes = || std::fs::read(folder.file(&format!("{out}/{result}"))).expect("it was written");
        let first = bytes();
        let config = format!("{out}/run.toml");
        // It has the defaults, too, and they conflict with nothing.
        let overwrite: &[&str] = if out == "t" { &["--set", "overwrite=true"] } else { &[] };
        succeed(&folder, &[&["--config", &config][..], overwrite].concat());
        assert!(first == bytes(), "{out}");
    }
}

/// The commands on gradients and the studies, without their times.
#[test]
fn results_without_a_model_have_one_too() {
    let folder = Folder::with_gradients();
    let gradients = ["--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
    let digits = ["--train", "40", "--queries", "4", "--epochs", "1", "--models", "2", "--methods", "identity"];
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&["compare"], &[&gradients[..], &["--methods", "identity,exact", "--top-k", "2"]].concat(), &["pairs.csv"]),
        (&["sweep"], &[&gradients[..], &["--damping", "0.1,1", "--top-k", "2"]].concat(), &["sweep.csv"]),
        (&["converge"], &["--dims", "4", "--samples", "9", "--steps", "3", "--draws", "1"], &[]),
        (&["eval", "lds"], &digits, &[]),
    ];
    for (command, args, same) in cases {
        let out = command.join("-");
        let mut line = [command, args].concat();
        line.extend(["--out", &out]);
        succeed(&folder, &line);
        let config = folder.text(&format!("{out}/run.toml"));
        assert!(config.contains(&format!("command = \"{}\"\n", command.join(" "))), "{config}");
        let bytes = |name: &str| std::fs::read(folder.file(&format!("{out}/{name}"))).expect("it was written");
        let first: Vec<_> = same.iter().map(|name| bytes(name)).collect();
        succeed(&folder, &["--config", &format!("{out}/run.toml")]);
        assert_eq!(folder.text(&format!("{out}/run.toml")), config, "{out}");
        assert!(same.iter().map(|name| bytes(name)).eq(first), "{out}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    let (folder, config) = rows();
    let check = |text: &str, args: &[&str], code: i32, needles: &[&str]| {
        folder.write_bytes("bad.toml", text.as_bytes());
        let run = hyperinf(folder.path(), args);
        assert_eq!(run.code, Some(code), "{text:?} {args:?}: {run:?}");
        for needle in needles {
            assert!(run.stderr.contains(needle), "{text:?} {args:?}: {needle}: {}", run.stderr);
        }
    };
    let file = ["--config", "bad.toml"];
    check(&format!("{config}dampng = 1\n"), &file, 2, &["`dampng`", "bad.toml", "did you mean `damping`?"]);
    check(&config, &["--config", "bad.toml", "--set", "topk=3"], 2, &["`topk`", "--set", "`top-k`"]);
    check(&config, &["--config", "bad.toml", "--set", "top-k"], 2, &["KEY=VALUE"]);
    check(&config, &["detect", "--config", "bad.toml"], 2, &["hyperinf attribute", "hyperinf detect"]);
    check(&config.replace("attribute", "atribute"), &file, 2, &["`atribute`", "did you mean `attribute`?"]);
    check(&config.replacen("command", "# ", 1), &file, 2, &["no command"]);
    check(&config.replace("truncate = true", "truncate = 1"), &file, 2, &["`truncate`", "true or false"]);
    check(&config.replace("top-k = 2", "top-k = [2, 3]"), &file, 2, &["`top-k`"]);
    check(&config.replace("top-k = 2", "top-k = \"two\""), &file, 2, &["--top-k", "two", "--config"]);
    check(&format!("{config}damping-absolute = 1\n"), &file, 2, &["--damping"]);
    check("top-k = = 2", &file, 3, &["configuration", "bad.toml"]);
    check(&config, &["--config", "absent.toml"], 3, &["absent.toml"]);
}

#[test]
fn the_schema_has_every_flag() {
    let folder = Folder::new();
    let all: Value = serde_json::from_str(&succeed(&folder, &["schema"]).stdout).expect("JSON");
    let all = all["oneOf"].as_array().expect("a schema per command");
    for name in ["attribute", "detect", "select", "finetune", "eval lds", "score", "plan attribute"] {
        let found = all.iter().find(|schema| schema["properties"]["command"]["const"] == name);
        let schema = found.unwrap_or_else(|| panic!("{name} is missing"));
        let words: Vec<&str> = name.split(' ').chain(["-h"]).collect();
        let help = succeed(&folder, &words).stdout;
        let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', '=', '[']).next());
        let own = ["config", "set", "log-format", "log-level", "help"];
        let mut seen = 0;
        for flag in flags.filter(|flag| !own.contains(flag)) {
            assert!(schema["properties"][flag].is_object(), "{name}: --{flag}");
            seen += 1;
        }
        assert!(seen > 5 && schema["additionalProperties"] == false, "{name}: {seen}");
    }
    let one: Value = serde_json::from_str(&succeed(&folder, &["schema", "detect"]).stdout).expect("JSON");
    assert_eq!(one["properties"]["remove"]["type"][0], "string");
    assert_eq!(one["properties"]["keep-gradients"]["type"], "boolean");
    let required = one["required"].as_array().expect("a list");
    for name in ["command", "model", "train", "validation", "out"] {
        assert!(required.contains(&name.into()), "{name}: {required:?}");
    }
}

#[test]
fn completions_and_manual_pages() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = succeed(&folder, &["completions", shell]).stdout;
        assert!(text.contains("hyperinf") && text.contains("keep-gradients"), "{shell}");
    }
    let page = succeed(&folder, &["man"]).stdout;
    assert!(page.contains(".TH hyperinf 1") && page.contains("finetune"), "{page}");
    succeed(&folder, &["man", "--out", "man1"]);
    for (name, part) in [("hyperinf.1", "detect"), ("hyperinf-detect.1", "remove"), ("hyperinf-eval-lds.1", "hidden")] {
        let page = folder.text(&format!("man1/{name}"));
        assert!(page.contains(".TH") && page.contains(part), "{name}: {page}");
    }
}

#[test]
fn messages_as_json() {
    let (folder, _) = rows();
    folder.write_bytes("bad.jsonl", b"{\"text\": \"\", \"label\": 0}\n{\"text\": \"a fox\", \"label\": 1}\n");
    let args = ["--config", "run.toml", "--set", "train=bad.jsonl", "--log-format", "json"];
    let objects = |run: &Run| -> Vec<Value> {
        run.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    let run = hyperinf(folder.path(), &args);
    let found = objects(&run);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(found.iter().any(|object| object["level"] == "ERROR" && object["timestamp"].is_string()), "{found:?}");
    let run = hyperinf(folder.path(), &[&args[..], &["--set", "skip-bad-rows=true"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let left_out = |object: &Value| object["level"] == "WARN" && object["message"].to_string().contains("left out");
    assert!(objects(&run).iter().any(left_out), "{run:?}");
    let quiet =
        hyperinf(folder.path(), &[&args[..], &["--set", "skip-bad-rows=true", "--log-level", "error"]].concat());
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""));
    // Each stage with its time, which is of no interest otherwise.
    let stages = |run: &Run| -> Vec<String> {
        let debug =
            objects(run).into_iter().filter(|object| object["level"] == "DEBUG" && object["seconds"].is_number());
        debug.filter_map(|object| object["stage"].as_str().map(str::to_owned)).collect()
    };
    let skip = [&args[..], &["--set", "skip-bad-rows=true"]].concat();
    let debug = hyperinf(folder.path(), &[&skip[..], &["--log-level", "debug"]].concat());
    assert!(stages(&debug).iter().any(|stage| stage == "training gradients"), "{debug:?}");
    assert!(stages(&run).is_empty(), "{run:?}");
}

#[test]
fn the_level_may_come_from_the_environment() {
    let (folder, _) = rows();
    let run = |variable: &str, args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
            .args([&["--config", "run.toml"], args].concat())
            .current_dir(folder.path())
            .env("HYPERINF_LOG", variable)
            .output()
            .expect("the program was built with the tests");
        (output.status.code(), String::from_utf8(output.stderr).expect("the program writes UTF-8"))
    };
    let note = |text: &str| text.contains("no better than guessing");
    assert!(note(&run("", &[]).1) && note(&run("warn", &[]).1));
    assert_eq!(run("error", &[]), (Some(0), String::new()));
    assert!(note(&run("error", &["--log-level", "warn"]).1), "the flag counts more");
    assert!(run("DEBUG", &[]).1.contains("debug: query gradients: done in"));
    let (code, text) = run("loud", &[]);
    assert!(code == Some(2) && text.contains("HYPERINF_LOG") && text.contains("`loud`"), "{text}");
}

/// `--help` reads nothing.
#[test]
fn help_does_not_read_the_configuration() {
    let folder = Folder::new();
    let output = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args(["detect", "--config", "absent.toml", "--help"])
        .current_dir(folder.path())
        .output()
        .expect("the program was built with the tests");
    assert!(output.status.success(), "{output:?}");
}
