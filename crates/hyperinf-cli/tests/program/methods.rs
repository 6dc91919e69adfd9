//! Several methods in one run: one pass of the model, and for each method what a run of its own gives.

use serde_json::Value;

use crate::support::{Folder, Run, hyperinf, read_scores};
use crate::texts::{bert, completions, llama, three_classes};

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(14));
    folder.write_rows("query.jsonl", &three_classes(4));
    folder
}

/// The text of a run without what differs from run to run.
fn without_times(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.contains("seconds") && !line.contains(" s")).collect()
}

const METHODS: [(&str, &str); 5] = [
    ("hyperinf", "hyperinf"),
    ("datainf", "datainf"),
    ("tracin", "identity"),
    ("hyperinf:cols/exact", "hyperinf-cols-exact"),
    ("ekfac@sampled", "ekfac-sampled"),
];

#[test]
fn several_methods_give_what_each_gives_alone() {
    let words = METHODS.map(|(word, _)| word).join(",");
    let rows = ["--train", "train.jsonl", "--truncate"];
    let commands: [(&str, &[&str], &[&str]); 3] = [
        ("attribute", &["--query", "query.jsonl", "--format", "safetensors"], &["scores.safetensors", "topk.jsonl"]),
        ("detect", &["--validation", "query.jsonl", "--remove", "3"], &["suspicious.csv", "cleaned.jsonl"]),
        ("select", &["--validation", "query.jsonl", "--keep", "3"], &["selected.jsonl"]),
    ];
    for (command, more, files) in commands {
        let folder = folder();
        let args = [&rows[..], more, &["--device", "flex"]].concat();
        folder.succeed(command, &bert(), &[&args[..], &["--method", &words, "--out", "all"]].concat());
        let mut names: Vec<&str> = METHODS.iter().map(|(_, name)| *name).collect();
        names.sort_unstable();
        assert_eq!(folder.files_in("all"), names, "a folder per method and no gradients");
        for (word, name) in METHODS {
            folder.succeed(command, &bert(), &[&args[..], &["--method", word, "--out", "one"]].concat());
            for file in files {
                let [all, one] = [format!("all/{name}/{file}"), format!("one/{file}")]
                    .map(|path| std::fs::read(folder.file(&path)).unwrap_or_else(|error| panic!("{path}: {error}")));
                // Metadata have the time.
                if file.ends_with(".safetensors") {
                    let path = folder.file(&format!("all/{name}/{file}"));
                    let one = read_scores(&folder.file(&format!("one/{file}")));
                    assert_eq!(read_scores(&path), one, "{command} {word}");
                } else {
                    assert!(all == one, "{command} {word}: {file} differs");
                }
            }
            let [all, one] = [format!("all/{name}/summary.json"), "one/summary.json".into()].map(|path| {
                let mut summary = folder.json(&path);
                summary["seconds"] = Value::Null;
                summary
            });
            assert_eq!(all, one, "{command} {word}");
        }
    }
}

/// Which stages of a run the model took part in, by its progress; a hook on nothing but what people see.
fn told(run: &Run) -> String {
    format!("{}{}", run.stdout, run.stderr)
}

#[test]
fn a_decoder_and_the_words_for_people() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(9));
    folder.write_rows("query.jsonl", &completions(3));
    let args = ["--train", "train.jsonl", "--validation", "query.jsonl", "--out", "found"];
    let run = folder.succeed("detect", &llama(), &[&args[..], &["--method", "datainf,exact"]].concat());
    let [first, second] = ["datainf: 9 training", "exact: 9 training"].map(|needle| run.stdout.find(needle));
    assert!(first.is_some() && first < second, "{}", run.stdout);
    assert_eq!(run.stdout.matches("removed; for another method").count(), 1, "{}", run.stdout);
    let json = folder.succeed("detect", &llama(), &[&args[..], &["--method", "datainf,exact", "--json"]].concat());
    let json: Value = serde_json::from_str(&json.stdout).expect("all of standard output is JSON");
    let methods: Vec<&Value> = json.as_array().expect("a list").iter().map(|summary| &summary["method"]).collect();
    assert_eq!(methods, ["datainf", "exact"]);
    let kept = folder.succeed("detect", &llama(), &[&args[..], &["--keep-gradients"]].concat());
    assert!(told(&kept).contains("kB in found, for other methods and commands there"), "{}", kept.stdout);
}

#[test]
fn all_methods_are_checked_before_the_model_runs() {
    let folder = folder();
    let args = ["--train", "train.jsonl", "--validation", "query.jsonl", "--truncate", "--out", "found"];
    let cases: [(&[&str], &str); 5] = [
        (&["--method", "hyperinf,data-inf"], "did you mean `datainf`?"),
        (&["--method", "hyperinf,"], "there is no method ``"),
        (&["--method", "exact,hyperinf:rows", "--gfim-side", "cols"], "--gfim-side"),
        (&["--method", "hyperinf,datainf@gauss-newton"], "needs the training gradients themselves"),
        (&["--method", "exact,ekfac", "--structure", "merged"], "each layer's inputs"),
    ];
    let model: Vec<String> = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    for (more, needle) in cases {
        let run = folder.run("detect", &[&model[..], &args, more].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{more:?}: {run:?}");
        assert!(run.stderr.contains(needle), "{more:?}: {}", run.stderr);
    }
    let twice = folder.succeed("detect", &bert(), &[&args[..], &["--method", "dot,identity,tracin"]].concat());
    assert!(twice.stdout.starts_with("identity: "), "one method by three names is one: {}", twice.stdout);
    assert_eq!(folder.files_in("found"), ["summary.json", "suspicious.csv"]);
    // Both streams of a help that nobody asked for stay empty.
    assert_eq!(without_times(&hyperinf(folder.path(), &["methods"]).stderr), Vec::<&str>::new());
}
