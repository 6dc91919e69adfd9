//! `hyperinf sweep`: the scores are those of `hyperinf score`; only known answers recommend a damping.

use std::collections::BTreeMap;
use std::fs::{self, File};

use hyperinf::eval::{auc, pearson, spearman};
use hyperinf_tests::compare::assert_close;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use serde_json::Value;

use crate::support::{Folder, Run, check_png, csv_rows, device_names, f32s, hyperinf, number, whole};

const INPUTS: [&str; 5] = ["sweep", "--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
const FILES: [&str; 6] = ["run.toml", "scores.parquet", "spearman.png", "summary.json", "sweep.csv", "sweep.png"];

/// 40 samples and 4 queries of two blocks.
fn folder() -> Folder {
    let folder = Folder::new();
    for (file, n, seed) in [("train.safetensors", 40, 1), ("query.safetensors", 4, 2)] {
        let blocks = [f32s("a", &[n, 2, 5], &whole(n * 10, seed)), f32s("b", &[n, 3, 4], &whole(n * 12, seed + 10))];
        folder.write(file, &blocks);
    }
    folder
}

fn sweep(folder: &Folder, args: &[&str]) -> Run {
    hyperinf(folder.path(), &[&INPUTS[..], args].concat())
}

fn swept(folder: &Folder, args: &[&str]) -> Vec<BTreeMap<String, String>> {
    let run = sweep(folder, args);
    assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
    csv_rows(&folder.file("hyperinf-sweep/sweep.csv"))
}

/// `scores.parquet` by side, or rank of a projection, and damping: one row of scores per query.
fn scores(folder: &Folder) -> BTreeMap<(String, String), Vec<Vec<f64>>> {
    let file = File::open(folder.file("hyperinf-sweep/scores.parquet")).expect("the program wrote it");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let mut all: BTreeMap<(String, String), Vec<Vec<f64>>> = BTreeMap::new();
    for row in reader.get_row_iter(None).expect("it has rows") {
        let row = row.expect("the program writes whole rows");
        let text = |column: usize| row.get_string(column).expect("side and project are texts").as_str();
        let key = (text(0).to_owned() + text(1), row.get_double(2).expect("damping").to_string());
        let (query, sample) =
            (row.get_long(3).expect("query_id") as usize, row.get_long(4).expect("train_id") as usize);
        let rows = all.entry(key).or_default();
        rows.resize(rows.len().max(query + 1), Vec::new());
        assert_eq!(rows[query].len(), sample, "samples come in their order");
        rows[query].push(f64::from(row.get_float(5).expect("score")));
    }
    all
}

#[test]
fn scores_are_those_of_score_at_each_damping() {
    for device in device_names() {
        for (method, more) in [
            ("hyperinf", &["--sides", "short,cols"][..]),
            ("exact", &[]),
            ("exact", &["--structure", "merged"]),
            ("datainf", &[]),
            ("diagonal", &["--absolute"]),
            ("shampoo", &["--query-mode", "mean"]),
            ("exact", &["--project", "1,3"]),
        ] {
            let folder = folder();
            let args = [&["--method", method, "--dampings", "1,0.01,0.1,0.1", "--device", &device][..], more].concat();
            swept(&folder, &args);
            let found = scores(&folder);
            let ranks = more.contains(&"--project");
            let variants = if ranks || more.contains(&"--sides") { 2 } else { 1 };
            assert_eq!(found.len(), 3 * variants, "a damping given twice counts once");
            for ((side, damping), rows) in &found {
                let flag = if more.contains(&"--absolute") { "--damping-absolute" } else { "--damping" };
                let mut args = vec!["--method", method, flag, damping, "--device", &device];
                if !side.is_empty() {
                    args.extend([if ranks { "--project" } else { "--gfim-side" }, side]);
                }
                let swept = ["--sides", "short,cols", "--project", "1,3", "--absolute"];
                args.extend(more.iter().filter(|flag| !swept.contains(*flag)));
                for (found, expected) in rows.iter().zip(folder.scores(&args)) {
                    // Other solvers of the same equations, in f32 with refinement.
                    assert_close(&format!("{method} {side} {damping} on {device}"), found, &expected, 1e-4);
                }
            }
        }
    }
}

#[test]
fn agreements_are_those_of_the_scores() {
    let folder = folder();
    let rows = swept(&folder, &["--method", "exact", "--dampings", "0.001,0.1,10"]);
    let dot = folder.scores(&["--method", "identity"]);
    let scores = scores(&folder);
    let of = |damping: &str| &scores[&(String::new(), damping.to_owned())];
    let mean = |a: &[Vec<f64>], b: &[Vec<f64>]| {
        a.iter().zip(b).map(|(a, b)| spearman(a, b).expect("the scores differ")).sum::<f64>() / a.len() as f64
    };
    for (row, pair) in rows.iter().zip(["0.001", "0.1", "10"].windows(2)) {
        let found = number(row, "spearman_next").expect("it has a neighbour");
        assert!((found - mean(of(pair[0]), of(pair[1]))).abs() < 1e-6, "{row:?}");
    }
    assert_eq!(number(&rows[2], "spearman_next"), None);
    for row in &rows {
        let pairs = of(&row["damping"]).iter().zip(&dot);
        let squares = pairs.map(|(a, b)| pearson(a, b).expect("the scores differ").powi(2));
        let found = number(row, "explained_by_dot").expect("all scores differ");
        assert!((found - squares.sum::<f64>() / dot.len() as f64).abs() < 1e-6, "{row:?}");
        let found = number(row, "spearman_dot").expect("all scores differ");
        assert!((found - mean(of(&row["damping"]), &dot)).abs() < 1e-6, "{row:?}");
        assert!(number(row, "lambda_min") <= number(row, "lambda_max"));
        assert_eq!(row["converged"], "true");
    }
}

/// Each rank is held against the next.
#[test]
fn ranks_are_compared() {
    let folder = folder();
    let rows = swept(&folder, &["--method", "exact", "--dampings", "0.1,1", "--stable", "0.01", "--project", "4,1,2"]);
    let scores = scores(&folder);
    let of = |rank: &str, damping: &str| &scores[&(rank.to_owned(), damping.to_owned())];
    for row in &rows {
        let next = match row["project"].as_str() {
            "1" => "2",
            "2" => "4",
            _ => {
                assert_eq!(number(row, "spearman_next_rank"), None);
                continue;
            }
        };
        let (mine, next) = (of(&row["project"], &row["damping"]), of(next, &row["damping"]));
        let mean = mine.iter().zip(next).map(|(a, b)| spearman(a, b).expect("they differ")).sum::<f64>() / 4.0;
        assert!((number(row, "spearman_next_rank").expect("there is one") - mean).abs() < 1e-6, "{row:?}");
    }
    // A damping so large that the curvature has no effect leaves the dot product of the projected gradients.
    let args = ["--method", "exact", "--dampings", "1,100000", "--project", "2", "--project-on", "principal"];
    sweep(&folder, &args);
    assert!(number(&csv_rows(&folder.file("hyperinf-sweep/sweep.csv"))[1], "spearman_dot") > Some(0.99));
    folder.write_bytes("bad.txt", b"3\n17\n");
    let more = [&args[..], &["--known-bad", "bad.txt"]].concat();
    let chosen = sweep(&folder, &more);
    assert!(chosen.stdout.contains("recommended: --project 2 --project-on principal --damping 1"), "{}", chosen.stdout);
}

#[test]
fn without_known_answers_nothing_is_recommended() {
    let folder = folder();
    for method in ["hyperinf", "exact", "datainf"] {
        for stable in ["0.3", "0.8", "0.95", "0.999"] {
            let args = ["--method", method, "--dampings", "0.001,0.01,0.1,1,10,100,1000", "--stable", stable];
            let run = sweep(&folder, &args);
            assert!(run.stdout.contains("no damping is recommended: a stable ranking need not be"), "{}", run.stdout);
            let rows = csv_rows(&folder.file("hyperinf-sweep/sweep.csv"));
            assert!(rows.iter().all(|row| row["recommended"] == "false"), "{method} {stable}");
            let json = fs::read_to_string(folder.file("hyperinf-sweep/summary.json")).expect("the program wrote it");
            let told: Value = serde_json::from_str(&json).expect("it is JSON");
            assert!(told["recommended"].is_null(), "{told}");
            // A plateau is told as what it is: neighbours that agree.
            let agreed = rows.iter().filter_map(|row| number(row, "spearman_next"));
            let agree = agreed.filter(|found| *found >= stable.parse().expect("a number")).count();
            let plateaus = told["sides"][0]["plateaus"].as_array().expect("a list").len();
            assert_eq!(plateaus > 0, agree > 0, "{method} {stable}: {told}");
            assert_eq!(run.stdout.matches("one ranking from").count(), plateaus, "{}", run.stdout);
        }
    }
}

#[test]
fn the_edge_of_the_dampings_is_told() {
    let folder = folder();
    // The least helpful sample of the smallest damping is the bad one: its AUC there is 1.
    let scores = folder.scores(&["--method", "exact", "--damping", "0.001"]);
    let sum = |i: usize| scores.iter().map(|row| row[i]).sum::<f64>();
    let worst = (0..40).min_by(|&a, &b| sum(a).total_cmp(&sum(b))).expect("40 samples");
    folder.write_bytes("bad.txt", worst.to_string().as_bytes());
    let args = ["--method", "exact", "--dampings", "0.001,100", "--known-bad", "bad.txt"];
    let run = sweep(&folder, &args);
    assert!(run.stdout.contains("recommended: --damping"), "{}", run.stdout);
    assert!(run.stdout.contains("that was tried: try"), "{}", run.stdout);
}

#[test]
fn samples_known_to_be_bad_decide() {
    let folder = folder();
    folder.write_bytes("bad.txt", b"3\n17\n\n 20 \n31\n");
    let rows = swept(&folder, &["--known-bad", "bad.txt", "--dampings", "0.001,0.03,1,30"]);
    let scores = scores(&folder);
    let bad: Vec<bool> = (0..40).map(|i| [3, 17, 20, 31].contains(&i)).collect();
    let mut best = (f64::NEG_INFINITY, String::new());
    for row in &rows {
        let scores = &scores[&(String::new(), row["damping"].clone())];
        let suspicion: Vec<f64> = (0..40).map(|i| -scores.iter().map(|row| row[i]).sum::<f64>()).collect();
        let expected = auc(&suspicion, &bad).expect("there are both");
        let found = number(row, "auc").expect("samples are known");
        assert!((found - expected).abs() < 1e-9, "{row:?}, expected {expected}");
        if found >= best.0 {
            best = (found, row["damping"].clone());
        }
    }
    let chosen: Vec<&String> = rows.iter().filter(|r| r["recommended"] == "true").map(|r| &r["damping"]).collect();
    assert_eq!(chosen, [&best.1]);
}

#[test]
fn files_and_table_say_what_was_computed() {
    let folder = folder();
    let run = sweep(&folder, &["--sides", "short,rows,cols", "--dampings", "0.1,1,10", "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let told: Value = serde_json::from_str(&run.stdout).expect("all of standard output is JSON");
    let file = fs::read_to_string(folder.file("hyperinf-sweep/summary.json")).expect("the program wrote it");
    assert_eq!(told, serde_json::from_str::<Value>(&file).expect("the file is JSON"));
    assert_eq!((&told["sign"], &told["damping_kind"]), (&"positive = helpful".into(), &"relative".into()));
    assert_eq!(told["sides"].as_array().map(Vec::len), Some(3));
    for (place, side) in ["short", "rows", "cols"].into_iter().enumerate() {
        let told = &told["sides"][place];
        assert_eq!((&told["gfim_side"], &told["gfim_scale"]), (&side.into(), &"mean".into()));
    }
    for name in ["sweep.png", "spearman.png"] {
        check_png(&folder.file("hyperinf-sweep").join(name));
    }
    let mut files: Vec<String> = fs::read_dir(folder.file("hyperinf-sweep"))
        .expect("the program made it")
        .map(|e| e.expect("it can be read").file_name().into_string().expect("UTF-8"))
        .collect();
    files.sort();
    assert_eq!(files, FILES, "and nothing hidden");
    let run = sweep(&folder, &["--sides", "rows", "--dampings", "0.1,1,10"]);
    for needle in ["hyperinf: 40 training samples, 4 queries", "positive = helpful", "side rows; relative damping"] {
        assert!(run.stdout.contains(needle), "no {needle:?} in\n{}", run.stdout);
    }
    assert!(run.stdout.contains("no damping is recommended"), "{}", run.stdout);
    let run = sweep(&folder, &["--method", "exact", "--gfim-scale", "sum", "--dampings", "0.1,1"]);
    assert!(run.stderr.contains("--gfim-scale has no effect on the method exact"), "{run:?}");
}

#[test]
fn errors_have_their_codes_and_leave_nothing() {
    let folder = folder();
    let check = |args: &[&str], code: i32, needles: &[&str]| {
        let run = sweep(&folder, args);
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        for needle in needles {
            assert!(run.stderr.contains(needle), "{args:?}: no {needle:?} in\n{}", run.stderr);
        }
        assert_eq!(run.stdout, "", "{args:?}");
        for name in FILES {
            assert!(!folder.file("hyperinf-sweep").join(name).exists(), "{args:?} left {name}");
        }
    };
    check(&["--method", "identity"], 2, &["identity", "no curvature"]);
    check(&["--method", "exakt"], 2, &["did you mean `exact`"]);
    check(&["--method", "exact", "--sides", "rows"], 2, &["--sides", "generalized Fisher"]);
    check(&["--dampings", "0.1"], 2, &["--damping must be at least two numbers that differ, not 1"]);
    check(&["--dampings", "0.1,0.1"], 2, &["at least two"]);
    for value in ["0.1,0", "0.1,-1", "inf,1", "nan,1"] {
        check(&["--dampings", value], 2, &["--damping must be positive and finite"]);
    }
    check(&["--stable", "0"], 2, &["--stable must be above 0"]);
    check(&["--stable", "1.5"], 2, &["--stable must be above 0 and at most 1, not 1.5"]);
    check(&["--top-k", "41"], 2, &["--top-k asks for 41", "of 40"]);
    check(&["--known-bad", "absent.txt"], 3, &["absent.txt", "cannot be read"]);
    for (text, needles) in [
        ("1\n40\n", &["line 2 is `40`", "40 training samples"][..]),
        ("1\n\n-3\n", &["line 3 is `-3`"]),
        ("one\n", &["line 1 is `one`"]),
        ("", &["names 0 of 40"]),
    ] {
        folder.write_bytes("bad.txt", text.as_bytes());
        check(&["--known-bad", "bad.txt"], 3, needles);
    }
    check(&["--method", "kfac"], 2, &["shampoo"]);
}
