//! Baselines without gradients.

use std::fs;

use burn::tensor::{Int, Tensor, TensorData};
use hyperinf::data::{Baseline, Bm25, Duplicates, Run, RunError, Select};
use hyperinf::gradients::Tape;
use hyperinf::models::{LmSample, load_causal_lm};
use hyperinf::scoring::{Amount, Options, QueryMode};
use hyperinf_tests::compare::{assert_close, values};
use hyperinf_tests::{devices, fixtures};

/// BM25 by its definition, of texts whose words are between spaces.
fn slow(query: &str, documents: &[&str]) -> Vec<f64> {
    let split = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_lowercase).collect() };
    let all: Vec<Vec<String>> = documents.iter().map(|text| split(text)).collect();
    let mean = all.iter().map(Vec::len).sum::<usize>() as f64 / all.len() as f64;
    let score = |document: &Vec<String>| {
        let of = |word: &String| {
            let having = all.iter().filter(|other| other.contains(word)).count() as f64;
            let count = document.iter().filter(|other| *other == word).count() as f64;
            let idf = (1.0 + (all.len() as f64 - having + 0.5) / (having + 0.5)).ln();
            idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * document.len() as f64 / mean))
        };
        split(query).iter().map(of).sum()
    };
    all.iter().map(score).collect()
}

#[test]
fn bm25_is_its_definition() {
    let documents = ["the Cold river", "a river a river a boat", "fox", "the fox and the other fox at the end", "then"];
    let index = Bm25::new(documents);
    for query in ["river", "the fox", "FOX fox boat", "nothing of this", "", "the the the river"] {
        assert_close(query, &index.scores(query), &slow(query, &documents), 1e-12);
    }
    assert!(index.scores("river").iter().all(|score| *score >= 0.0));
    // Marks are between words, and characters without spaces are words.
    assert_eq!(
        Bm25::new(["the,river!", "(the) river"]).scores("the-river"),
        Bm25::new(["the river"; 2]).scores("the river")
    );
    let chinese = Bm25::new(["我喜欢河", "狐狸"]).scores("河流");
    assert!(chinese[0] > 0.0 && chinese[1] == 0.0, "{chinese:?}");
    assert_eq!(Bm25::new(["", "river"]).scores("river")[0], 0.0);
    assert_eq!(Bm25::new(["", ""]).scores("river"), [0.0, 0.0]);
}

#[test]
fn hidden_states_are_means_over_the_rows_own_tokens() {
    for (name, device) in devices() {
        let model = load_causal_lm(&fixtures::path("transformers/llama"), &device).expect("a fixture").model;
        let width = model.decoder().config().width;
        let sample = |tokens: &[u32]| {
            let scored = (0..tokens.len()).map(|place| place > 0).collect();
            LmSample { tokens: tokens.to_vec(), scored }
        };
        let samples = [sample(&[1, 2, 3]), sample(&[4, 5, 6, 7, 8, 9, 10]), sample(&[3, 2])];
        let found = model.mean_states(&samples.iter().collect::<Vec<_>>()).expect("they fit");
        let mut expected = Vec::new();
        for LmSample { tokens, .. } in &samples {
            let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
            let input = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), &device);
            let states = values(model.decoder().forward(input, &mut Tape::off()));
            expected
                .extend((0..width).map(|k| states.iter().skip(k).step_by(width).sum::<f64>() / tokens.len() as f64));
        }
        assert_close(&name, &values(found), &expected, 1e-5);
    }
}

struct Place {
    folder: tempfile::TempDir,
    run: Run,
}

impl Place {
    fn new(model: &str, train: &str, query: &str) -> Self {
        let folder = tempfile::tempdir().expect("the system has room for tests");
        let file = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("the folder can be written");
            folder.path().join(name)
        };
        let (train, query) = (file("train.jsonl", train), file("query.jsonl", query));
        let model = fixtures::path(model).display().to_string();
        let run = Run { model, train, query, out: folder.path().join("out"), ..Run::default() };
        Self { folder, run }
    }
}

const TEXTS: &str = r#"{"prompt": "Where is the boat?", "completion": " On the river."}
{"prompt": "Is the fox cold?", "completion": " No."}
{"prompt": "The story", "completion": " was slow and weak."}
{"prompt": "Is the fox cold?", "completion": " No."}
"#;
const QUERIES: &str = r#"{"prompt": "Where is the boat?", "completion": " On the river."}
{"prompt": "The fox", "completion": " rests."}
"#;

#[test]
fn every_baseline_scores_every_row() {
    for (name, device) in devices() {
        let Place { folder: _folder, mut run } = Place::new("transformers/llama", TEXTS, QUERIES);
        for (word, baseline) in Baseline::NAMES {
            assert_eq!(Baseline::named(word), Some(baseline));
            run.options = Options::default();
            let each =
                run.baseline(baseline, 7, &device, &mut |_| ()).unwrap_or_else(|e| panic!("{word}, {name}: {e:?}"));
            assert_eq!((each.scores.queries(), each.scores.samples(), each.kind), (2, 4, "language-model"));
            let rows = &each.scores.rows;
            match baseline {
                Baseline::Random => {
                    assert!(rows[0] == rows[1] && rows[0].iter().all(|score| (0.0..1.0).contains(score)));
                    let again = run.baseline(baseline, 7, &device, &mut |_| ()).expect("as before");
                    let other = run.baseline(baseline, 8, &device, &mut |_| ()).expect("as before");
                    assert!(again.scores == each.scores && other.scores != each.scores);
                }
                Baseline::Length => {
                    assert_eq!(rows[0], each.train.lengths.iter().map(|&length| length as f64).collect::<Vec<_>>());
                }
                Baseline::Loss => {
                    assert_eq!(rows[0], each.train.losses().iter().map(|loss| -loss).collect::<Vec<_>>());
                    assert_eq!(rows[0][1], rows[0][3], "equal rows");
                }
                Baseline::Bm25 => {
                    let texts: Vec<&str> = each.train.data.rows.iter().map(|row| row.content.text.as_str()).collect();
                    assert_eq!(rows[1], Bm25::new(texts).scores("The fox rests."));
                }
                Baseline::HiddenCosine => {
                    assert!((rows[0][0] - 1.0).abs() < 1e-5, "the same row: {rows:?}");
                    assert!(rows.concat().iter().all(|cosine| cosine.abs() <= 1.0 + 1e-6));
                    assert!(rows[0][1..].iter().all(|cosine| *cosine < rows[0][0]));
                }
            }
            run.options.query = QueryMode::Mean;
            let mean = run.baseline(baseline, 7, &device, &mut |_| ()).expect("as before");
            let expected: Vec<f64> = (0..4).map(|row| 0.5 * (rows[0][row] + rows[1][row])).collect();
            assert_close(word, &mean.scores.rows[0], &expected, 1e-6);
            let select = Select { duplicates: Duplicates::Equal, ..Amount::Count(3).into() };
            assert_eq!(mean.select(&select, &run).expect("three differ").order.len(), 3);
        }
    }
}

#[test]
fn choices_that_need_gradients_are_refused() {
    let (_, device) = devices().remove(0);
    let Place { folder, run } = Place::new("transformers/llama", TEXTS, QUERIES);
    let found = run.baseline(Baseline::Bm25, 0, &device, &mut |_| ()).expect("they fit");
    let keep = || Select::from(Amount::Count(2));
    for select in [
        Select { diverse: Some(1.0), ..keep() },
        Select { duplicates: Duplicates::Near(0.9), ..keep() },
        Select { targets: vec![folder.path().join("query.jsonl")], ..keep() },
    ] {
        let error = found.select(&select, &run).expect_err("it is refused");
        assert!(matches!(error, RunError::Conflict { .. }), "{error}");
    }
    let error = found.select(&Amount::Count(5).into(), &run).expect_err("there are four");
    assert!(matches!(error, RunError::Amount { asked: 5, rows: 4 }), "{error}");
}
