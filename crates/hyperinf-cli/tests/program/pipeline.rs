//! From a data set to an adapter, to scores, to suspicious rows and to a selection.

use hyperinf_tests::compare::assert_close;
use serde_json::{Value, json};

use crate::support::{Folder, csv_rows, device_names, read_scores};
use crate::texts::{bert, completions, jsonl, llama, model, three_classes, two_kinds};

const TRAINED: [&str; 9] =
    ["--train", "train.jsonl", "--validation", "validation.jsonl", "--lora-rank", "4", "--seed", "3", "--truncate"];

/// A folder with 60 rows of two kinds, some of them with the other kind's label, and a few rows for validation.
fn mislabelled(wrong: &[usize]) -> (Folder, Vec<Value>) {
    let folder = Folder::new();
    let mut rows = two_kinds(60, 0);
    for &row in wrong {
        let other = if rows[row]["label"] == "animal" { "water" } else { "animal" };
        rows[row]["label"] = json!(other);
    }
    folder.write_rows("train.jsonl", &rows);
    folder.write_rows("validation.jsonl", &two_kinds(20, 7));
    (folder, rows)
}

fn finetune_encoder(folder: &Folder, device: &str) {
    let base = ["--model".to_owned(), model("bert")];
    let more = ["--learning-rate", "0.02", "--epochs", "12", "--batch-size", "12", "--out", "adapter"];
    folder.succeed("finetune", &base, &[&TRAINED[..], &more, &["--device", device]].concat());
}

fn adapter() -> [String; 4] {
    ["--model".into(), model("bert"), "--adapter".into(), "adapter".into()]
}

#[test]
fn an_encoder_from_rows_to_clean_rows() {
    for device in device_names() {
        let wrong = [9, 24, 37];
        let (folder, rows) = mislabelled(&wrong);
        finetune_encoder(&folder, &device);
        assert_eq!(
            folder.files_in("adapter"),
            [
                "adapter_config.json",
                "adapter_model.safetensors",
                "hyperinf.json",
                "summary.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "training_log.jsonl"
            ]
        );
        assert_eq!(folder.json("adapter/hyperinf.json")["labels"]["names"], json!(["animal", "water"]));
        let log = folder.lines("adapter/training_log.jsonl");
        assert_eq!(log.len(), 60, "12 epochs of 5 steps");
        let mean = |steps: &[Value]| -> f64 {
            steps.iter().map(|step| step["loss"].as_f64().expect("a number")).sum::<f64>() / steps.len() as f64
        };
        assert!(mean(&log[50..]) < 0.7 * mean(&log[..5]), "{} after {}", mean(&log[50..]), mean(&log[..5]));
        assert!(log[4]["validation_loss"].is_f64() && log[3].get("validation_loss").is_none(), "after each epoch");

        let args = ["--train", "train.jsonl", "--validation", "validation.jsonl", "--truncate", "--device", &device];
        let removed = ["--remove", "5%", "--out", "found"];
        let run = folder.succeed("detect", &adapter(), &[&args[..], &removed].concat());
        assert!(run.stdout.contains("positive = helpful") && run.stdout.contains("most suspicious"), "{}", run.stdout);
        assert_eq!(folder.files_in("found"), ["cleaned.jsonl", "summary.json", "suspicious.csv"]);
        let table = folder.text("found/suspicious.csv");
        let mut lines = table.lines();
        assert_eq!(lines.next(), Some("rank,id,text,label,predicted,probability,score,training_loss,self_influence"));
        let found: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        assert_eq!(found.len(), 60);
        let mut first: Vec<usize> = found[..3].iter().map(|cells| cells[1].parse().expect("a row's number")).collect();
        first.sort_unstable();
        assert_eq!(first, wrong, "{table}");
        for (place, cells) in found.iter().enumerate() {
            let row: usize = cells[1].parse().expect("a row's number");
            assert_eq!(cells[0], (place + 1).to_string());
            assert_eq!((cells[2], cells[3]), (text(&rows[row], "text"), text(&rows[row], "label")));
        }
        let score = |cells: &[&str]| cells[6].parse::<f64>().expect("a number");
        assert!(found.windows(2).all(|pair| score(&pair[0]) <= score(&pair[1])), "the lowest score first");
        let positive = |cell: &str| cell.parse::<f64>().is_ok_and(|value| value > 0.0);
        assert!(found.iter().all(|cells| positive(cells[7]) && positive(cells[8])), "losses and self-influence");
        // 5 % of 60 rows are three.
        let clean: Vec<Value> = (0..60).filter(|row| !wrong.contains(row)).map(|row| rows[row].clone()).collect();
        assert_eq!(folder.text("found/cleaned.jsonl"), jsonl(&clean));

        folder.succeed("select", &adapter(), &[&args[..], &["--keep", "20", "--out", "chosen"]].concat());
        let chosen = folder.text("chosen/selected.jsonl");
        let kept: Vec<usize> = found[40..].iter().map(|cells| cells[1].parse().expect("a row's number")).collect();
        let expected: Vec<Value> = (0..60).filter(|row| kept.contains(row)).map(|row| rows[row].clone()).collect();
        assert_eq!(chosen, jsonl(&expected), "the best, in the order of the file");
        assert_eq!(folder.files_in("chosen"), ["ranking.csv", "selected.jsonl", "summary.json"]);
        let ranking = csv_rows(&folder.file("chosen/ranking.csv"));
        let best: Vec<bool> = ranking.iter().map(|row| row["selected"] == "true").collect();
        assert_eq!(best, (0..60).map(|place| place < 20).collect::<Vec<_>>());
        // The same scores as those of `detect`, from the other end.
        for (row, cells) in ranking.iter().zip(found.iter().rev()) {
            assert_eq!(row["score"], cells[6], "{row:?}");
        }
    }
}

fn text<'a>(row: &'a Value, column: &str) -> &'a str {
    row[column].as_str().expect("a text")
}

#[test]
fn a_decoder_from_rows_to_scores() {
    for device in device_names() {
        let folder = Folder::new();
        folder.write_rows("train.jsonl", &completions(24));
        folder.write_rows("query.jsonl", &completions(5));
        let base = ["--model".to_owned(), model("llama")];
        let args = ["--train", "train.jsonl", "--epochs", "4", "--batch-size", "8", "--micro-batch", "3"];
        let more = ["--learning-rate", "0.02", "--lora-rank", "2", "--rslora", "--out", "adapter", "--device", &device];
        folder.succeed("finetune", &base, &[&args[..], &more].concat());
        let config = folder.json("adapter/adapter_config.json");
        assert_eq!((&config["r"], &config["use_rslora"]), (&json!(2), &json!(true)));
        assert_eq!(config["target_modules"], json!(["q_proj", "v_proj"]));
        let log = folder.lines("adapter/training_log.jsonl");
        assert!(log[11]["loss"].as_f64() < log[0]["loss"].as_f64(), "{log:?}");

        let adapter = ["--model".into(), model("llama"), "--adapter".into(), "adapter".into()];
        let args = ["--train", "train.jsonl", "--query", "query.jsonl", "--out", "found", "--top-k", "4"];
        let more = ["--method", "exact", "--format", "safetensors", "--device", &device];
        let run = folder.succeed("attribute", &adapter, &[&args[..], &more].concat());
        assert!(run.stdout.contains("query 0") && run.stdout.contains("most helpful"), "{}", run.stdout);
        let scores = read_scores(&folder.file("found/scores.safetensors"));
        assert_eq!((scores.len(), scores[0].len()), (5, 24));
        let top = folder.lines("found/topk.jsonl");
        assert_eq!(top.len(), 5);
        for (query, line) in top.iter().enumerate() {
            assert_eq!(line["query_id"], query);
            assert_eq!(
                line["text"],
                folder.lines("query.jsonl")[query]["prompt"]
                    .as_str()
                    .map(|prompt| {
                        json!(format!("{prompt}{}", text(&folder.lines("query.jsonl")[query], "completion")))
                    })
                    .expect("a prompt")
            );
            let mut order: Vec<f64> = scores[query].clone();
            order.sort_by(f64::total_cmp);
            let ends = |key: &str| -> Vec<f64> {
                let rows = line[key].as_array().expect("a list");
                rows.iter().map(|row| row["score"].as_f64().expect("a number")).collect()
            };
            assert_close("most harmful", &ends("most_harmful"), &order[..4], 1e-6);
            order.reverse();
            assert_close("most helpful", &ends("most_helpful"), &order[..4], 1e-6);
            let best = line["most_helpful"][0]["train_id"].as_u64().expect("a number") as usize;
            assert_close("the row's score", &[scores[query][best]], &order[..1], 1e-6);
        }
        let summary = folder.json("found/summary.json");
        assert_eq!((&summary["task"], &summary["method"]), (&json!("language-model"), &json!("exact")));
        assert_eq!(summary["train"]["columns"], json!({"prompt": "prompt", "completion": "completion", "id": null}));
    }
}

/// `attribute` writes the scores that `score` computes from the gradients it keeps.
#[test]
fn kept_gradients_give_the_same_scores() {
    for (adapter, train, query) in
        [(bert(), three_classes(21), three_classes(4)), (llama(), completions(13), completions(3))]
    {
        for device in device_names() {
            let folder = Folder::new();
            folder.write_rows("train.jsonl", &train);
            folder.write_rows("query.jsonl", &query);
            for (method, more) in [
                ("hyperinf", &["--gfim-side", "rows"][..]),
                ("datainf", &["--damping", "0.3"]),
                ("cosine", &[]),
                ("exact", &["--structure", "merged", "--query-mode", "mean"]),
            ] {
                let scoring = [&["--method", method, "--device", &device][..], more].concat();
                let args = ["--train", "train.jsonl", "--query", "query.jsonl", "--out", "found"];
                let kept = ["--keep-gradients", "--truncate", "--format", "safetensors"];
                folder.succeed("attribute", &adapter, &[&args[..], &kept, &scoring].concat());
                let gradients = ["train", "query"].map(|set| format!("found/{set}_gradients.safetensors"));
                let inputs = ["--train-gradients", &gradients[0], "--query-gradients", &gradients[1]];
                let run = folder.run("score", &[&inputs[..], &["--output", "scores.safetensors"], &scoring].concat());
                assert_eq!(run.code, Some(0), "{run:?}");
                let [found, expected] =
                    ["found/scores.safetensors", "scores.safetensors"].map(|name| read_scores(&folder.file(name)));
                assert_eq!(found, expected, "{method} on {device}");
            }
        }
    }
}

/// A row's gradient is its own: in any batch, and in any order.
#[test]
fn scores_do_not_depend_on_batches() {
    for (adapter, train, query) in
        [(bert(), three_classes(17), three_classes(3)), (llama(), completions(17), completions(3))]
    {
        let folder = Folder::new();
        folder.write_rows("train.jsonl", &train);
        folder.write_rows("query.jsonl", &query);
        let scores = |batch: &str| {
            let args = ["--train", "train.jsonl", "--query", "query.jsonl", "--out", "found"];
            let more = ["--truncate", "--batch-size", batch, "--method", "identity", "--format", "safetensors"];
            folder.succeed("attribute", &adapter, &[&args[..], &more].concat());
            read_scores(&folder.file("found/scores.safetensors"))
        };
        let one = scores("1");
        for batch in ["2", "5", "64"] {
            for (found, expected) in scores(batch).iter().zip(&one) {
                assert_close(batch, found, expected, 1e-4);
            }
        }
    }
}

#[test]
fn blocks_are_chosen_by_their_names() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(9));
    let blocks = |patterns: &[&str]| -> Vec<String> {
        let args = ["--train", "train.jsonl", "--query", "train.jsonl", "--out", "found"];
        folder.succeed("attribute", &bert(), &[&args[..], &["--method", "exact", "--truncate"], patterns].concat());
        let summary = folder.json("found/summary.json");
        let blocks = summary["blocks"].as_array().expect("a list").iter();
        blocks.map(|block| block["name"].as_str().expect("a name").to_owned()).collect()
    };
    let all = blocks(&[]);
    assert!(all.contains(&"base_model.model.classifier.weight".to_owned()), "{all:?}");
    let fitting = |test: fn(&str) -> bool| -> Vec<String> { all.iter().filter(|name| test(name)).cloned().collect() };
    assert_eq!(blocks(&["--blocks", "*lora_B*"]), fitting(|name| name.contains("lora_B")));
    let both =
        fitting(|name| name.contains("layer.1.") && name.contains("query") || name.ends_with("classifier.weight"));
    assert!(both.len() == 3, "{both:?}");
    assert_eq!(blocks(&["--blocks", "*.layer.1.*query*,*classifier.weight"]), both);
}

#[test]
fn summaries_for_machines_and_the_mean_query() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(7));
    folder.write_rows("query.jsonl", &three_classes(3));
    let args = ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--out", "found", "--json"];
    // A tokenizer's folder with a file of the same name as the model's.
    std::fs::create_dir(folder.file("words")).expect("the folder is the test's own");
    let weights = format!("{}/model.safetensors", model("bert"));
    std::fs::copy(format!("{}/tokenizer.json", model("bert")), folder.file("words/tokenizer.json"))
        .expect("it is there");
    folder.write_bytes("words/model.safetensors", b"of another model");
    let mean = ["--query-mode", "mean", "--top-k", "2", "--method", "datainf", "--tokenizer", "words"];
    let run = folder.succeed("attribute", &bert(), &[&args[..], &mean].concat());
    let told: Value = serde_json::from_str(&run.stdout).expect("it is JSON and nothing else");
    assert_eq!(told, folder.json("found/summary.json"));
    for (key, expected) in [
        ("command", json!("attribute")),
        ("method", json!("datainf")),
        ("sign", json!("positive = helpful")),
        ("query_mode", json!("mean")),
        ("task", json!("classification")),
        ("max_length", json!(24)),
        ("samples", json!(7)),
        ("queries", json!(1)),
    ] {
        assert_eq!(told[key], expected, "{key}");
    }
    let bytes = std::fs::read(folder.file("train.jsonl")).expect("the test wrote it");
    assert_eq!(told["train"]["xxh3_128"], format!("{:032x}", twox_hash::XxHash3_128::oneshot(&bytes)));
    let adapter = format!("{}/adapter_model.safetensors", model("bert/query_value"));
    let hash =
        |path: &str| format!("{:032x}", twox_hash::XxHash3_128::oneshot(&std::fs::read(path).expect("it is there")));
    assert_eq!(told["adapter"]["xxh3_128"]["adapter_model.safetensors"], hash(&adapter));
    assert_eq!(told["model"]["xxh3_128"]["model.safetensors"], hash(&weights));
    assert!(told["model"]["xxh3_128"]["tokenizer/model.safetensors"].is_string(), "{told}");
    let top = folder.lines("found/topk.jsonl");
    assert_eq!((top.len(), &top[0]["mean_of"]), (1, &json!(3)));
    assert_eq!(top[0]["most_helpful"].as_array().map(Vec::len), Some(2));
    assert_eq!(folder.files_in("found"), ["scores.parquet", "summary.json", "topk.jsonl"]);
}

#[test]
fn results_of_an_earlier_run_do_not_stay_beside_new_ones() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(9));
    folder.write_rows("query.jsonl", &three_classes(3));
    folder.write_bytes("train.csv", b"text,label\nfox,0\nriver,1\n");
    let run = |command, train, set, out, more: &[&str]| {
        let args = ["--train", train, set, "query.jsonl", "--truncate", "--method", "identity", "--out", out];
        let stderr = folder.succeed(command, &bert(), &[&args[..], more].concat()).stderr;
        // The tiny model has learned nothing, which is another warning.
        let about = stderr.lines().filter(|line| line.contains("earlier run"));
        about.map(|line| format!("{line}\n")).collect::<String>()
    };
    let told = |names: &str, out: &str| format!("warning: results of an earlier run are removed: {names} in {out}\n");

    let detect = |train, more: &[&str]| run("detect", train, "--validation", "found", more);
    assert_eq!(detect("train.jsonl", &["--remove", "2"]), "");
    folder.write_bytes("found/cleaned.csv", b"of nobody's run");
    let cleaned = folder.text("found/cleaned.jsonl");
    // An input is kept.
    assert_eq!(detect("found/cleaned.jsonl", &[]), "");
    assert_eq!(folder.text("found/cleaned.jsonl"), cleaned);
    assert_eq!(detect("train.jsonl", &["--remove", "2"]), "");
    assert_eq!(detect("train.jsonl", &[]), told("`cleaned.jsonl`", "found"));
    assert_eq!(folder.files_in("found"), ["cleaned.csv", "summary.json", "suspicious.csv"]);
    assert_eq!(folder.text("found/cleaned.csv"), "of nobody's run");

    let attribute = |more: &[&str]| run("attribute", "train.jsonl", "--query", "scored", more);
    assert_eq!(attribute(&[]), "");
    assert_eq!(attribute(&["--format", "csv"]), told("`scores.parquet`", "scored"));
    assert_eq!(folder.files_in("scored"), ["scores.csv", "scores.csv.json", "summary.json", "topk.jsonl"]);
    assert_eq!(attribute(&["--format", "csv"]), "");
    assert_eq!(attribute(&["--format", "safetensors"]), told("`scores.csv`, `scores.csv.json`", "scored"));
    assert_eq!(folder.files_in("scored"), ["scores.safetensors", "summary.json", "topk.jsonl"]);

    let select = |train| run("select", train, "--validation", "chosen", &["--keep", "1"]);
    assert_eq!(select("train.jsonl"), "");
    assert_eq!(select("train.csv"), told("`selected.jsonl`", "chosen"));
    assert_eq!(folder.files_in("chosen"), ["ranking.csv", "selected.csv", "summary.json"]);
}

#[test]
fn help_says_what_the_commands_write() {
    let folder = Folder::new();
    for (command, needles) in [
        ("finetune", ["--lora-target", "PEFT", "--resume"]),
        ("attribute", ["scores.parquet", "topk.jsonl", "positive = helpful"]),
        ("detect", ["suspicious.csv", "--remove", "training"]),
        ("select", ["selected.jsonl", "--keep", "own format"]),
    ] {
        let run = folder.run(command, &["--help"]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{command}");
        for needle in needles {
            assert!(run.stdout.contains(needle), "{command}: no {needle:?} in\n{}", run.stdout);
        }
    }
}
