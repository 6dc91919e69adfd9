//! `hyperinf demo`.

use std::fs;

use hyperinf_tests::compare::assert_close;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::support::{Folder, device_names, hyperinf};

const METHODS: [&str; 10] = [
    "training-loss",
    "gradient-norm",
    "identity",
    "cosine",
    "datainf",
    "lissa",
    "cg",
    "hyperinf",
    "exact",
    "self-influence",
];

/// One row of `scores.csv`.
struct Row {
    method: String,
    train_id: usize,
    score: f32,
    rank: i64,
    flipped: bool,
}

fn rows(folder: &Folder) -> Vec<Row> {
    let text = fs::read_to_string(folder.file("found/scores.csv")).expect("the program wrote it");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("method,query_id,train_id,score,rank,given_label,flipped"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells[1], "0", "the mean query is the only one");
        assert!(["spam", "ham"].contains(&cells[5]), "{line}");
        Row {
            method: cells[0].into(),
            train_id: cells[2].parse().expect("a whole number"),
            score: cells[3].parse().expect("a real number"),
            rank: cells[4].parse().expect("a whole number"),
            flipped: cells[6].parse().expect("true or false"),
        }
    };
    lines.map(row).collect()
}

/// How often a flipped sample has a lower score than another, ties counting half, by counting all pairs.
fn auc(rows: &[&Row]) -> f64 {
    let (flipped, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.flipped);
    let wins = |f: &Row| -> f64 {
        let lower = others.iter().filter(|o| f.score < o.score).count();
        let equal = others.iter().filter(|o| f.score == o.score).count();
        lower as f64 + equal as f64 / 2.0
    };
    flipped.iter().map(|f| wins(f)).sum::<f64>() / (flipped.len() * others.len()) as f64
}

/// The share of all flipped samples in the last places.
fn found(rows: &[&Row], share: f64) -> f64 {
    let places = (share * rows.len() as f64).round() as i64;
    let hits = rows.iter().filter(|row| row.flipped && row.rank > rows.len() as i64 - places).count();
    hits as f64 / rows.iter().filter(|row| row.flipped).count() as f64
}

#[test]
fn wrong_labels_are_found_and_judged_as_the_scores_say() {
    for device in device_names() {
        let folder = Folder::new();
        let run = hyperinf(folder.path(), &["demo", "--seed", "3", "--device", &device, "--out", "found"]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "no bars without a terminal: {}", run.stdout);
        assert_eq!(folder.files(), ["found"]);
        let json = fs::read_to_string(folder.file("found/summary.json")).expect("the program wrote it");
        let json: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(json["seed"], 3);
        let methods = json["methods"].as_array().expect("a list");
        let names: Vec<&str> = methods.iter().filter_map(|m| m["name"].as_str()).collect();
        assert_eq!(names, METHODS);

        let rows = rows(&folder);
        let n = rows.len() / METHODS.len();
        for (method, part) in methods.iter().zip(rows.chunks(n)) {
            let name = method["name"].as_str().expect("a name");
            assert!(run.stdout.lines().any(|line| line.starts_with(name)), "{name}: {}", run.stdout);
            assert!(part.iter().enumerate().all(|(i, row)| row.method == name && row.train_id == i), "{name}");
            assert_eq!(part.iter().filter(|row| row.flipped).count(), (0.2 * n as f64).round() as usize);
            let mut part: Vec<&Row> = part.iter().collect();
            let number = |key: &str| method[key].as_f64().unwrap_or_else(|| panic!("{name}: {key} is {}", method[key]));
            // The scores of the file are rounded to f32, which may swap neighbours.
            assert_close(name, &[number("auc")], &[auc(&part)], 1e-4);
            for (key, share) in [("found_at_10", 0.1), ("found_at_20", 0.2), ("found_at_30", 0.3)] {
                assert_close(name, &[number(key)], &[found(&part, share)], 0.01);
            }
            assert!(number("seconds") > 0.0);
            let approximates = !["training-loss", "gradient-norm", "self-influence"].contains(&name);
            assert_eq!(method["spearman_exact"].is_number(), approximates, "{name}");
            assert_eq!(method["residual"].is_number(), !METHODS[..4].contains(&name), "{name}");
            part.sort_by_key(|row| row.rank);
            assert!(part.iter().zip(1..).all(|(row, rank)| row.rank == rank), "{name}: ranks are 1 to n");
            assert!(part.windows(2).all(|pair| pair[0].score >= pair[1].score), "{name}: rank 1 is the highest score");
        }
        let of = |name: &str, key: &str| methods.iter().find(|m| m["name"] == name).and_then(|m| m[key].as_f64());
        assert!(of("exact", "spearman_exact") > Some(1.0 - 1e-9));
        for name in ["hyperinf", "exact"] {
            assert!(of(name, "auc") > Some(0.8), "{name} on {device}: {:?}", of(name, "auc"));
        }
        assert_eq!(json["most_suspicious"].as_array().map(Vec::len), Some(10));

        let file = fs::File::open(folder.file("found/scores.parquet")).expect("the program wrote it");
        let reader = SerializedFileReader::new(file).expect("it is Parquet");
        let lines = reader.get_row_iter(None).expect("it has rows").map(|row| {
            let row = row.expect("every row can be read");
            row.get_column_iter().map(|(_, field)| field.to_string().trim_matches('"').to_owned()).collect::<Vec<_>>()
        });
        let lines: Vec<Vec<String>> = lines.collect();
        assert_eq!(lines.len(), rows.len());
        for (line, row) in lines.iter().zip(&rows) {
            assert_eq!((&line[0], &line[2]), (&row.method, &row.train_id.to_string()));
            assert_eq!(line[3].parse::<f32>().ok(), Some(row.score));
        }
    }
}

/// The share of the queries' first or last five rows, by rank, for which `hit(query, row)`.
fn share_of_ends(places: &[Vec<usize>], last: bool, hit: impl Fn(usize, usize) -> bool) -> f64 {
    let hits = places.iter().enumerate().map(|(query, order)| {
        let end = if last { &order[order.len() - 5..] } else { &order[..5] };
        end.iter().filter(|&&row| hit(query, row)).count()
    });
    hits.sum::<usize>() as f64 / (5 * places.len()) as f64
}

#[test]
fn pictures_that_taught_and_misled_are_found_and_judged_as_the_scores_say() {
    let folder = Folder::new();
    let device = &device_names()[0];
    let run = hyperinf(folder.path(), &["demo", "--images", "--seed", "1", "--device", device, "--out", "found"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let text = |name: &str| fs::read_to_string(folder.file(name)).expect("the program wrote it");
    let lines = |name: &str| -> Vec<Value> {
        text(name).lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
    };
    let (train, query) = (lines("found/shapes/train.jsonl"), lines("found/shapes/query.jsonl"));
    let json: Value = serde_json::from_str(&text("found/summary.json")).expect("it is JSON");
    let wrong: Vec<usize> =
        json["wrong_rows"].as_array().expect("a list").iter().filter_map(|v| Some(v.as_u64()? as usize)).collect();
    assert_eq!((train.len(), query.len(), wrong.len()), (600, 96, 120));

    let file = fs::File::open(folder.file("found/scores.parquet")).expect("the program wrote it");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let (mut places, mut sums) = (vec![vec![0; train.len()]; query.len()], vec![0.0; train.len()]);
    for row in reader.get_row_iter(None).expect("it has rows") {
        let cells: Vec<String> =
            row.expect("every row can be read").get_column_iter().map(|(_, field)| field.to_string()).collect();
        let whole = |at: usize| cells[at].parse::<usize>().expect("a whole number");
        places[whole(0)][whole(3) - 1] = whole(1);
        sums[whole(1)] += cells[2].parse::<f64>().expect("a real number");
    }
    let methods = json["methods"].as_array().expect("a list");
    let names: Vec<&str> = methods.iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names, ["identity", "datainf", "exact", "hyperinf"]);
    let number = |key: &str| methods[3][key].as_f64().unwrap_or_else(|| panic!("{key} is {}", methods[3][key]));
    let same = |query_id: usize, row: usize| train[row]["answer"] == query[query_id]["answer"];
    let right = share_of_ends(&places, false, |query, row| same(query, row) && !wrong.contains(&row));
    assert_close("most helpful", &[number("helpful_same")], &[right], 0.01);
    let told_wrong = share_of_ends(&places, true, |_, row| wrong.contains(&row));
    assert!(number("harmful_wrong") <= told_wrong + 0.01, "{told_wrong}");
    let (bad, good): (Vec<usize>, Vec<usize>) = (0..train.len()).partition(|row| wrong.contains(row));
    let lower = bad.iter().map(|&b| good.iter().filter(|&&g| sums[b] < sums[g]).count()).sum::<usize>();
    assert_close("AUC", &[number("auc")], &[lower as f64 / (bad.len() * good.len()) as f64], 1e-3);
    let chance = |key: &str| json["chance"][key].as_f64().expect("a number");
    assert!(number("auc") > 0.85 && number("helpful_same") > 4.0 * chance("helpful_same"), "{json}");
    assert!(number("harmful_wrong") > 10.0 * chance("harmful_wrong"), "{json}");
    let [before, after] = ["probability_before", "probability_after"].map(|key| json[key][0].as_f64());
    assert!(before < Some(0.01) && after > Some(0.2), "{json}");
    let sheet = fs::read(folder.file("found/scores.png")).expect("the program wrote it");
    assert!(hyperinf::models::Picture::decode(&sheet, &Default::default()).is_ok_and(|sheet| sheet.width() > 600));
    for needle in ["600 questions", "120 of them", "teal, brown and gray", "hyperinf", "scores.png"] {
        assert!(run.stdout.contains(needle), "{needle}: {}", run.stdout);
    }

    let paths = ["model", "adapter", "train.jsonl", "query.jsonl"].map(|name| format!("found/shapes/{name}"));
    let [model, adapter, train, query] = paths.each_ref().map(String::as_str);
    let detect = ["detect", "--model", model, "--adapter", adapter, "--train", train, "--validation", query];
    let run = hyperinf(folder.path(), &[&detect[..], &["--device", device, "--out", "suspicious"]].concat());
    assert_eq!(run.code, Some(0), "the folder is for other commands: {run:?}");
}

#[test]
fn what_cannot_be_done_is_said_at_once() {
    let folder = Folder::new();
    folder.write_bytes("file", b"");
    for (args, needles) in [
        (["--noise", "0.5"], ["--noise", "below 0.5"]),
        (["--noise", "-0.1"], ["--noise", "-0.1"]),
        (["--noise", "nan"], ["--noise", "NaN"]),
        (["--device", "abacus"], ["`abacus`", "flex"]),
        (["--out", "file"], ["`file`", "cannot be written"]),
        (["--out", "file/below"], ["file/below", "cannot be written"]),
    ] {
        let run = hyperinf(folder.path(), &[&["demo"][..], &args].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}: {run:?}");
        for needle in needles {
            assert!(run.stderr.contains(needle), "{args:?}: {}", run.stderr);
        }
    }
}
