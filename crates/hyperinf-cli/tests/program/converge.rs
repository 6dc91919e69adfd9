//! `hyperinf converge`: the curves obey what is known of each solver.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::support::{Folder, check_png, csv_rows, device_names, hyperinf, number};

const METHODS: [&str; 11] = [
    "schulz-authors",
    "schulz",
    "hyperpower-3",
    "hyperpower-5",
    "hyperpower-7",
    "hyperpower-9",
    "lissa-authors",
    "lissa",
    "cg",
    "datainf",
    "cholesky",
];

type Row = BTreeMap<String, String>;

fn curves(folder: &Folder, args: &[&str]) -> Vec<Row> {
    let run = hyperinf(folder.path(), &[&["converge", "--out", "found"][..], args].concat());
    assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
    csv_rows(&folder.file("found/converge.csv"))
}

/// One curve, `(step, value)`.
fn curve(rows: &[Row], method: &str, samples: &str, draw: &str, column: &str) -> Vec<(usize, f64)> {
    let of = |row: &&Row| row["method"] == method && row["samples"] == samples && row["draw"] == draw;
    let point = |row: &Row| (row["step"].parse().expect("a number"), number(row, column).expect("a number"));
    rows.iter().filter(of).map(point).collect()
}

#[test]
fn every_solver_converges_as_it_should() {
    for device in device_names() {
        let folder = Folder::new();
        let rows = curves(&folder, &["--dims", "24", "--samples", "10,60", "--draws", "2", "--device", &device]);
        for samples in ["10", "60"] {
            for draw in ["0", "1"] {
                let of = |method, column| curve(&rows, method, samples, draw, column);
                let last = |method| of(method, "relative_error").last().expect("every method has points").1;
                for method in METHODS {
                    let steps: Vec<usize> = of(method, "absolute_error").iter().map(|p| p.0).collect();
                    assert!(steps.is_sorted_by(|a, b| a < b) && !steps.is_empty(), "{method}: {steps:?}");
                    for column in ["seconds", "matrix_products", "vector_products"] {
                        assert!(of(method, column).is_sorted_by(|a, b| a.1 <= b.1), "{device}: {column} of {method}");
                    }
                    assert!(of(method, "cosine").iter().all(|p| p.1.abs() <= 1.0 + 1e-12), "{method}");
                }
                // κ is at most some 1e4, and doubles round at 1e-16.
                for method in ["schulz-authors", "schulz", "hyperpower-3", "hyperpower-9", "cg", "cholesky"] {
                    assert!(last(method) < 1e-9, "{device}, N = {samples}: {method} ends at {}", last(method));
                }
                // The start inverts nothing, whatever the matrix.
                let authors = of("schulz-authors", "relative_error");
                assert!(authors[..6].iter().all(|p| p.1 > 0.9), "{authors:?}");
                assert_eq!(authors.last().map(|p| p.0), Some(40));
                let steps = |method| of(method, "relative_error").iter().find(|p| p.1 < 1e-6).expect("it converges").0;
                assert!(steps("hyperpower-9") <= steps("hyperpower-3") && steps("hyperpower-3") <= steps("schulz"));
                assert!(steps("schulz") < steps("schulz-authors"));
                // Damped Richardson with a scale above the largest eigenvalue shrinks every part of the error.
                for method in ["lissa", "lissa-authors"] {
                    assert!(of(method, "absolute_error").is_sorted_by(|a, b| a.1 > b.1), "{method}");
                }
                assert!(last("lissa") < last("lissa-authors"), "the Frobenius norm is no tight bound");
                assert!(last("datainf") > 0.1, "it is no inverse");
                assert_eq!(of("datainf", "step").len(), 1);
            }
        }
    }
}

#[test]
fn the_same_seed_draws_the_same() {
    let folder = Folder::new();
    let errors = |args: &[&str]| -> Vec<String> {
        let args = [&["--dims", "8", "--samples", "12", "--steps", "5"][..], args].concat();
        curves(&folder, &args).into_iter().map(|row| row["absolute_error"].clone()).collect()
    };
    let two = errors(&["--draws", "2", "--seed", "7"]);
    assert_eq!(two, errors(&["--draws", "2", "--seed", "7"]));
    let next = errors(&["--draws", "1", "--seed", "8"]);
    assert_ne!(two, next);
    assert_eq!(next.iter().filter(|error| !two.contains(error)).count(), 0, "draw 1 of seed 7 is draw 0 of seed 8");
}

/// The authors' last step is in f64, whatever the type of the rest.
#[test]
fn in_f32_the_curves_end_near_its_rounding() {
    let folder = Folder::new();
    let args = ["--dims", "16", "--samples", "40", "--draws", "1", "--precision", "f32"];
    let rows = curves(&folder, &args);
    for method in ["schulz-authors", "schulz", "hyperpower-9", "cg", "cholesky"] {
        let error = curve(&rows, method, "40", "0", "relative_error").last().expect("every method has points").1;
        assert!((1e-9..1e-3).contains(&error), "{method}: {error}");
    }
}

#[test]
fn files_and_table_say_what_was_computed() {
    let folder = Folder::new();
    let args = ["converge", "--dims", "6,9", "--samples", "12", "--steps", "10", "--draws", "2", "--json"];
    let run = hyperinf(folder.path(), &args);
    assert_eq!(run.code, Some(0), "{run:?}");
    let told: Value = serde_json::from_str(&run.stdout).expect("all of standard output is JSON");
    let file = fs::read_to_string(folder.file("hyperinf-converge/summary.json")).expect("the program wrote it");
    assert_eq!(told, serde_json::from_str::<Value>(&file).expect("the file is JSON"));
    assert_eq!((&told["damping"], &told["draws"], &told["precision"]), (&0.01.into(), &2.into(), &"f64".into()));
    let sizes = told["sizes"].as_array().expect("a list");
    assert_eq!(sizes.len(), 2);
    for size in sizes {
        let methods = size["methods"].as_array().expect("a list");
        assert_eq!(methods.iter().map(|m| m["name"].as_str().expect("a name")).collect::<Vec<_>>(), METHODS);
    }
    for name in ["converge-d6-n12.png", "converge-d9-n12.png"] {
        check_png(&folder.file("hyperinf-converge").join(name));
    }
    assert!(sizes[0]["methods"][0]["seconds"]["deviation"].is_number());
    let one = hyperinf(
        folder.path(),
        &["converge", "--dims", "6", "--samples", "12", "--steps", "5", "--draws", "1", "--json"],
    );
    let one: Value = serde_json::from_str(&one.stdout).expect("all of standard output is JSON");
    assert_eq!((&one["draws"], &one["sizes"][0]["methods"][0]["seconds"]["deviation"]), (&1.into(), &Value::Null));
    let run = hyperinf(folder.path(), &args[..args.len() - 1]);
    for needle in ["A = (1/N) Σ s sᵀ + 0.01 I", "2 draws, seed 0", "d = 6, N = 12", "schulz-authors", "converge.csv"]
    {
        assert!(run.stdout.contains(needle), "no {needle:?} in\n{}", run.stdout);
    }
}

const SCALED: [&str; 5] = ["schulz", "hyperpower-3", "hyperpower-5", "hyperpower-7", "hyperpower-9"];

fn method<'a>(told: &'a Value, name: &str) -> &'a Value {
    let methods = told["sizes"][0]["methods"].as_array().expect("a list");
    methods.iter().find(|method| method["name"] == name).expect("every method is there")
}

#[test]
fn matrices_that_do_not_fit_are_refused_before_work() {
    let folder = Folder::new();
    for (dims, samples) in [("300000", "10"), ("16,400000", "10"), ("100000", "100000")] {
        let run = hyperinf(folder.path(), &["converge", "--dims", dims, "--samples", samples]);
        assert_eq!(run.code, Some(4), "{dims}: {run:?}");
        assert!(run.stderr.contains("GiB are available: at most d = "), "{dims}: {}", run.stderr);
    }
    assert_eq!(folder.files(), Vec::<String>::new());
}

/// Draws on which a power iteration stops too early, flat spectra and low ranks: the bound holds at the first try.
#[test]
fn no_draw_is_inverted_twice() {
    for device in device_names() {
        for sizes in [
            ["--dims", "16", "--samples", "8"],
            ["--dims", "32", "--samples", "4"],
            ["--dims", "64", "--samples", "100"],
            ["--dims", "128", "--samples", "300"],
            ["--dims", "40", "--samples", "40"],
        ] {
            let folder = Folder::new();
            let args = ["converge", "--out", "found", "--device", &device, "--json"];
            let run = hyperinf(folder.path(), &[&args[..], &sizes].concat());
            assert_eq!((run.code, run.stderr.contains("warning")), (Some(0), false), "{run:?}");
            let told: Value = serde_json::from_str(&run.stdout).expect("all of standard output is JSON");
            for name in SCALED {
                let method = method(&told, name);
                assert_eq!((&method["diverged"], &method["repeated"]), (&0.into(), &Value::Array(vec![])), "{name}");
                assert!(method["relative"]["mean"].as_f64().is_some_and(|error| error < 1e-9), "{name}: {method}");
            }
        }
    }
}

/// The authors' start diverges where an eigenvalue is above 4e4.
#[test]
fn draws_that_diverge_are_in_no_mean() {
    let folder = Folder::new();
    let of = |damping| {
        let args = ["converge", "--dims", "6", "--samples", "12", "--draws", "4", "--out", "found"];
        let args = [&args[..], &["--damping-absolute", damping]].concat();
        let told: Value = serde_json::from_str(&hyperinf(folder.path(), &[&args[..], &["--json"]].concat()).stdout)
            .expect("all of standard output is JSON");
        (hyperinf(folder.path(), &args).stdout, told, csv_rows(&folder.file("found/converge.csv")))
    };
    let (table, told, rows) = of("39998");
    let authors = method(&told, "schulz-authors");
    let diverged = authors["diverged"].as_u64().expect("a number");
    assert!((1..4).contains(&diverged), "{authors}");
    let mut last = BTreeMap::new();
    for row in rows.iter().filter(|row| row["method"] == "schulz-authors") {
        last.insert(&row["draw"], row);
    }
    let left: Vec<&&Row> = last.values().filter(|row| row["diverged"] == "false").collect();
    assert_eq!(left.len() as u64, 4 - diverged);
    let mean = left.iter().filter_map(|row| number(row, "relative_error")).sum::<f64>() / left.len() as f64;
    assert!(authors["relative"]["mean"].as_f64().is_some_and(|found| (found - mean).abs() < 1e-9), "{mean}: {authors}");
    for needle in ["schulz-authors*".to_owned(), format!("* schulz-authors diverged on {diverged} of 4 draws")] {
        assert!(table.contains(&needle), "no {needle:?} in\n{table}");
    }

    let (table, told, rows) = of("1e5");
    let authors = method(&told, "schulz-authors");
    assert_eq!(
        (&authors["diverged"], &authors["relative"], &authors["steps"]),
        (&4.into(), &Value::Null, &Value::Null)
    );
    assert!(rows.iter().all(|row| (row["diverged"] == "true") == (row["method"] == "schulz-authors")));
    assert!(table.contains("* schulz-authors diverged on 4 of 4 draws"), "{table}");
    check_png(&folder.file("found/converge-d6-n12.png"));
}

#[test]
fn errors_have_their_codes_and_leave_nothing() {
    let folder = Folder::new();
    for (args, needles) in [
        (&["--dims", "1"][..], &["--dims must be at least 2, not 1"][..]),
        (&["--dims", "8,0"], &["--dims must be at least 2, not 0"]),
        (&["--samples", "0"], &["--samples must be at least 1, not 0"]),
        (&["--steps", "0"], &["--steps must be at least 1"]),
        (&["--draws", "0"], &["--draws must be at least 1"]),
        (&["--damping-absolute", "0"], &["--damping-absolute must be positive and finite"]),
        (&["--damping-absolute", "-1"], &["--damping-absolute must be positive and finite"]),
        (&["--precision", "f8"], &["f8", "f32", "f64"]),
        (&["--device", "abacus"], &["`abacus`"]),
    ] {
        let run = hyperinf(folder.path(), &[&["converge"][..], args].concat());
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
        for needle in needles {
            assert!(run.stderr.contains(needle), "{args:?}: no {needle:?} in\n{}", run.stderr);
        }
    }
    assert_eq!(folder.files(), Vec::<String>::new());
    folder.write_bytes("taken", b"");
    let run = hyperinf(folder.path(), &["converge", "--dims", "8", "--out", "taken"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("taken"), "{run:?}");
}

#[test]
fn pictures_of_other_sizes_are_replaced() {
    let folder = Folder::new();
    let small = |dims: &str| curves(&folder, &["--dims", dims, "--samples", "8", "--steps", "2", "--draws", "1"]);
    small("4,5");
    fs::write(folder.file("found/converge-notes.png"), "mine").expect("writable");
    small("5,6");
    let mut names: Vec<String> = fs::read_dir(folder.file("found"))
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected =
        ["converge-d5-n8.png", "converge-d6-n8.png", "converge-notes.png", "converge.csv", "run.toml", "summary.json"];
    assert_eq!(names, expected);
}
