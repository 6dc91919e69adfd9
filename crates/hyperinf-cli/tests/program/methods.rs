//! Several methods in one run: one pass of the model, and for each method what a run of its own gives.

use serde_json::Value;

use crate::support::{Folder, read_scores};
use crate::texts::{bert, completions, llama, three_classes};

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(14));
    folder.write_rows("query.jsonl", &three_classes(4));
    folder
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
    assert!(kept.stdout.contains("kB in found, for other methods and commands there"), "{}", kept.stdout);
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
}

const KEPT: [&str; 2] = ["found/train_gradients.safetensors", "found/query_gradients.safetensors"];

/// A folder with the gradients that `detect` has kept in `found`.
fn kept() -> Folder {
    let folder = folder();
    folder.write_rows("questions.jsonl", &three_classes(6)[4..]);
    let args = ["--train", "train.jsonl", "--validation", "query.jsonl", "--truncate", "--out", "found"];
    folder.succeed("detect", &bert(), &[&args[..], &["--keep-gradients"]].concat());
    folder
}

/// Runs a command on kept gradients and in a new folder, and compares their results. Returns what the first one took
/// from the folder: training gradients, query gradients.
fn taken(folder: &Folder, command: &str, args: &[&str], result: &str) -> [bool; 2] {
    let args = [&["--train", "train.jsonl", "--truncate"][..], args].concat();
    let run = folder.succeed(command, &bert(), &[&args[..], &["--out", "found"]].concat());
    let _ = std::fs::remove_dir_all(folder.file("fresh"));
    folder.succeed(command, &bert(), &[&args[..], &["--out", "fresh"]].concat());
    let [found, fresh] = ["found", "fresh"].map(|out| folder.text(&format!("{out}/{result}")));
    assert_eq!(found, fresh, "{command} {args:?}");
    ["training", "query"].map(|set| {
        let told = run.stderr.lines().find(|line| line.starts_with(&format!("note: {set} gradients: ")));
        told.is_some_and(|line| line.ends_with("rows are there from an earlier run"))
    })
}

#[test]
fn kept_gradients_are_taken_by_the_next_method_and_command() {
    let folder = kept();
    let before = KEPT.map(|file| std::fs::read(folder.file(file)).expect("the program kept it"));
    let validation = ["--validation", "query.jsonl"];
    let detect = [&validation[..], &["--method", "datainf"]].concat();
    assert_eq!(taken(&folder, "detect", &detect, "suspicious.csv"), [true, true]);
    let several = [&validation[..], &["--method", "exact,tracin"]].concat();
    assert_eq!(taken(&folder, "detect", &several, "exact/suspicious.csv"), [true, true]);
    let select = [&validation[..], &["--keep", "5"]].concat();
    assert_eq!(taken(&folder, "select", &select, "selected.jsonl"), [true, true]);
    // Other queries: the training gradients are there, and only they.
    let attribute = ["--query", "questions.jsonl", "--format", "csv"];
    assert_eq!(taken(&folder, "attribute", &attribute, "scores.csv"), [true, false]);
    assert_eq!(folder.json("found/summary.json")["command"], "detect", "no command replaces another's summary");
    let after = KEPT.map(|file| std::fs::read(folder.file(file)).expect("the program kept it"));
    assert!(before == after, "kept gradients stay as they are, also without --keep-gradients");
}

#[test]
fn gradients_of_another_run_are_computed_again() {
    let folder = kept();
    let detect = ["--validation", "query.jsonl"];
    let other: [&[&str]; 4] =
        [&["--max-length", "7"], &["--blocks", "*lora_B*"], &["--batch-size", "5"], &["--device", "ndarray"]];
    for more in other {
        assert_eq!(
            taken(&folder, "detect", &[&detect[..], more].concat(), "suspicious.csv"),
            [false, false],
            "{more:?}"
        );
    }
    let args = ["--train", "train.jsonl", "--truncate", "--out", "found", "--batch-size", "5"];
    let told = folder.succeed("detect", &bert(), &[&args[..], &detect].concat()).stderr;
    let reason = "note: training gradients of an earlier run are not used: batch size was 16, is 5";
    assert!(told.contains(reason), "{told}");
    // Those that were kept are still there.
    assert_eq!(taken(&folder, "detect", &detect, "suspicious.csv"), [true, true]);
    let mut bytes = std::fs::read(folder.file(KEPT[0])).expect("the program kept it");
    *bytes.last_mut().expect("it has numbers") ^= 1;
    folder.write_bytes(KEPT[0], &bytes);
    assert_eq!(taken(&folder, "detect", &detect, "suspicious.csv"), [false, true], "a flipped bit");
    folder.write_rows("train.jsonl", &three_classes(13));
    assert_eq!(taken(&folder, "detect", &detect, "suspicious.csv"), [false, true], "other rows");
}
