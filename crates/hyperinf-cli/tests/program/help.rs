//! Help and tables on a terminal of 80 columns; names that people expect.

use std::process::{Command, Stdio};

use crate::support::{Folder, Run, hyperinf};

/// The program, its commands and their own, each as arguments.
fn commands(folder: &Folder) -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut next = 0;
    while let Some(command) = found.get(next).cloned() {
        next += 1;
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = hyperinf(folder.path(), &args).stdout;
        let list = if command.is_empty() {
            // Under several headings.
            help.split_once("\nEveryday:\n").and_then(|(_, list)| list.split_once("\nOptions:\n")).map(|(list, _)| list)
        } else {
            help.split_once("\nCommands:\n").and_then(|(_, list)| list.split_once("\n\n")).map(|(list, _)| list)
        };
        let Some(list) = list else { continue };
        // A description that is broken continues further to the right.
        let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        found.extend(names.map(|name| [command.as_slice(), &[name.to_owned()]].concat()));
    }
    assert!(found.len() >= 20, "{found:?}");
    found
}

/// Runs the program as in a terminal of so many columns.
fn in_columns(folder: &Folder, columns: &str, args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args(args)
        .current_dir(folder.path())
        .env("COLUMNS", columns)
        .stdin(Stdio::null())
        .output()
        .expect("the program was built with the tests");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn help_fits_the_terminal() {
    let folder = Folder::new();
    for command in commands(&folder) {
        for (flag, all) in [("--help", &["80", "60", "200"][..]), ("-h", &["80", "200"])] {
            for columns in all {
                let args: Vec<&str> = command.iter().map(String::as_str).chain([flag]).collect();
                let run = in_columns(&folder, columns, &args);
                assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{command:?} {flag}");
                let most = columns.parse::<usize>().expect("a number").clamp(80, 100);
                assert!(widest(&run.stdout) <= most, "{command:?} {flag} in {columns} columns:\n{}", run.stdout);
            }
        }
    }
    let piped = hyperinf(folder.path(), &["detect", "--help"]).stdout;
    assert_eq!(piped, in_columns(&folder, "80", &["detect", "--help"]).stdout, "80 columns without a terminal");
}

#[test]
fn what_matters_comes_first_and_the_rest_has_headings() {
    let folder = Folder::new();
    let cases: [(&str, &[&str], &[&str]); 6] = [
        (
            "detect",
            &["--model", "--adapter", "--train", "--validation", "--out", "--remove", "--keep-gradients", "--method"],
            &["Method:", "Projection and seeds:", "Gradients:", "Data:", "Examples:"],
        ),
        (
            "attribute",
            &["--model", "--adapter", "--train", "--query", "--out", "--top-k", "--format"],
            &["Method:", "Scores:", "Data:", "Examples:"],
        ),
        ("select", &["--model", "--adapter", "--train", "--validation", "--out", "--keep"], &["Method:", "Examples:"]),
        ("finetune", &["--model", "--train", "--validation", "--out"], &["LoRA:", "Training:", "Data:", "Examples:"]),
        (
            "score",
            &["--train-gradients", "--query-gradients", "--output"],
            &["Method:", "Other gradients:", "Groups and error bars:", "Examples:"],
        ),
        ("sweep", &["--train-gradients", "--query-gradients", "--method"], &["Method:", "Comparison:", "Examples:"]),
    ];
    for (command, first, headings) in cases {
        let help = hyperinf(folder.path(), &[command, "-h"]).stdout;
        let (_, options) = help.split_once("\nOptions:\n").expect("options without a heading");
        let (main, rest) = options.split_once("\n\n").expect("more headings");
        let flags: Vec<&str> = main.split_whitespace().filter(|word| word.starts_with("--")).collect();
        assert!(flags.starts_with(first), "{command}: {flags:?}");
        assert!(main.lines().filter(|line| line.trim_start().starts_with('-')).count() <= 14, "{command}:\n{main}");
        let places: Vec<_> = headings.iter().map(|heading| rest.find(&format!("{heading}\n"))).collect();
        assert!(places.iter().all(Option::is_some), "{command}: {headings:?} at {places:?} of\n{rest}");
        assert_eq!(places.iter().max(), places.last(), "{command}: examples come last");
    }
}

#[test]
fn every_command_is_under_one_heading() {
    let folder = Folder::new();
    let help = hyperinf(folder.path(), &["--help"]).stdout;
    assert_eq!(help, hyperinf(folder.path(), &["help"]).stdout);
    let places: Vec<usize> =
        ["Everyday:", "Before a run:", "Files of gradients:", "Methods:", "The program:", "Options:"]
            .iter()
            .map(|heading| help.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}: {help}")))
            .collect();
    assert!(places.is_sorted(), "{help}");
    for everyday in ["demo", "finetune", "detect", "select", "attribute", "report"] {
        assert!(help.find(&format!("\n  {everyday} ")).is_some_and(|place| place < places[1]), "{everyday}: {help}");
    }
    // The schema has all commands that take options.
    let schema: serde_json::Value = serde_json::from_str(&hyperinf(folder.path(), &["schema"]).stdout).expect("JSON");
    let mut names: Vec<&str> = schema["oneOf"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|own| own["properties"]["command"]["const"].as_str()?.split(' ').next())
        .collect();
    names.dedup();
    assert!(names.len() >= 20, "{names:?}");
    for name in names {
        assert_eq!(help.matches(&format!("\n  {name} ")).count(), 1, "{name}: {help}");
    }
}

/// Every example of every `--help` has flags and values that the program takes: `--help` after them is reached.
#[test]
fn examples_are_understood() {
    let folder = Folder::new();
    let mut seen = 0;
    for command in commands(&folder) {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = hyperinf(folder.path(), &args).stdout;
        let Some((_, examples)) = help.split_once("\nExamples:\n") else { continue };
        for example in examples.replace("\\\n", " ").lines().filter(|line| line.starts_with("  hyperinf ")) {
            let args: Vec<&str> = example.split_whitespace().skip(1).chain(["--help"]).collect();
            let run = hyperinf(folder.path(), &args);
            assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{example}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen} examples");
}

#[test]
fn tables_fit_the_terminal() {
    let folder = Folder::with_gradients();
    let compare = ["compare", "--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
    let compare = [&compare[..], &["--top-k", "2", "--methods", "identity,hyperinf-authors,exact,lissa"]].concat();
    let converge = ["converge", "--dims", "6", "--samples", "12", "--steps", "40", "--draws", "2"];
    let tables: [(&[&str], &str); 3] = [(&compare, "peak MiB"), (&converge, "products"), (&["methods"], "source")];
    for (args, last) in tables {
        for columns in [60, 80, 140] {
            let run = in_columns(&folder, &columns.to_string(), args);
            assert_eq!(run.code, Some(0), "{run:?}");
            // Sentences around the tables are lines of their own.
            let table = |line: &&str| line.trim_start().matches("  ").count() >= 3;
            let wide: Vec<&str> =
                run.stdout.lines().filter(table).filter(|line| line.chars().count() > columns.max(80)).collect();
            assert!(wide.is_empty(), "{args:?} in {columns} columns: {wide:#?}");
            assert!(run.stdout.contains(last), "no column is lost: {}", run.stdout);
        }
        let piped = hyperinf(folder.path(), args).stdout;
        let words = |text: &str| text.split_whitespace().filter(|word| word.parse::<f64>().is_err()).count();
        assert_eq!(words(&piped), words(&in_columns(&folder, "80", args).stdout), "80 columns without a terminal");
    }
}

#[test]
fn names_that_people_expect() {
    let folder = Folder::with_gradients();
    let dot = folder.scores(&["--method", "identity"]);
    for name in ["tracin", "dot"] {
        assert_eq!(folder.scores(&["--method", name]), dot, "{name}");
        let run = folder.score(&["--method", name]);
        assert!(run.stdout.starts_with("identity: "), "results have the one name: {}", run.stdout);
    }
    for (typed, meant) in [("trac-in", "tracin"), ("kfca", "kfac"), ("eqkfac", "ekfac"), ("dots", "dot")] {
        let run = folder.score(&["--method", typed]);
        assert_eq!(run.code, Some(2));
        assert!(run.stderr.contains(&format!("did you mean `{meant}`?")), "{typed}: {}", run.stderr);
    }
    let table = hyperinf(folder.path(), &["methods"]).stdout;
    assert!(table.contains("tracin") && table.contains("k-fac"), "{table}");

    let cpu = folder.score(&["--device", "cpu"]);
    assert_eq!(cpu.code, Some(0), "{cpu:?}");
    assert!(cpu.stdout.contains("device    flex, "), "the device has its own name: {}", cpu.stdout);
    let gpu = folder.score(&["--device", "gpu"]);
    for needle in ["`gpu`", "--features cuda", "--features wgpu", "this build has flex"] {
        assert!(gpu.code == Some(2) && gpu.stderr.contains(needle), "{gpu:?}");
    }
    let several = folder.score(&["--method", "exact,datainf"]);
    assert!(several.code == Some(2) && several.stderr.contains("hyperinf compare --methods"), "{several:?}");
}

/// A short name is the folder of the assets, and otherwise one on the hub.
#[test]
fn short_names_of_models() {
    let folder = Folder::new();
    let run = |cache: &str| {
        let args = ["finetune", "--model", "minilm", "--train", "train.jsonl", "--out", "adapter"];
        let output = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
            .args(args)
            .current_dir(folder.path())
            .envs([("HYPERINF_CACHE", cache), ("HF_HUB_OFFLINE", "1"), ("HF_HOME", cache)])
            .output()
            .expect("the program was built with the tests");
        (output.status.code(), String::from_utf8(output.stderr).expect("the program writes UTF-8"))
    };
    folder.write_bytes("train.jsonl", b"{\"text\": \"fox\", \"label\": 0}\n");
    let cache = folder.file("cache");
    let cache = cache.to_str().expect("paths of tests are UTF-8");
    let (code, error) = run(cache);
    assert_eq!(code, Some(3), "{error}");
    for needle in ["sentence-transformers/all-MiniLM-L6-v2", "cargo xtask assets minilm", "--model minilm"] {
        assert!(error.contains(needle), "{error}");
    }
    std::fs::create_dir_all(folder.file("cache/minilm")).expect("the folder is the test's own");
    folder.write_bytes("cache/minilm/model.safetensors", b"");
    let (code, error) = run(cache);
    assert!(code == Some(3) && error.contains("cache/minilm"), "{error}");
}
