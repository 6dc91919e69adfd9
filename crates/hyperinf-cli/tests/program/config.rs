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
    assert!(found.iter().any(|object| object["level"] == "error" && object["time"].is_number()), "{found:?}");
    let run = hyperinf(folder.path(), &[&args[..], &["--set", "skip-bad-rows=true"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let left_out = |object: &Value| object["level"] == "warn" && object["message"].to_string().contains("left out");
    assert!(objects(&run).iter().any(left_out), "{run:?}");
    let quiet =
        hyperinf(folder.path(), &[&args[..], &["--set", "skip-bad-rows=true", "--log-level", "error"]].concat());
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""));
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
