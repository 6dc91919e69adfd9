//! The commands on a text-to-image model: pictures with captions.

use std::fs;

use hyperinf::models::{Picture, PictureLimits, Prediction};
use hyperinf_tests::{devices, fixtures, pipelines};
use serde_json::Value;

use crate::support::{Folder, hyperinf};

/// A model in `model`, four pictures in `rows`, an adapter in `adapter`.
fn prepared() -> Folder {
    let folder = Folder::new();
    pipelines::write(&folder.file("model"), Prediction::Epsilon, &devices().remove(0).1);
    fs::create_dir_all(folder.file("rows")).expect("a folder");
    let mut lines = String::new();
    for (row, caption) in ["the old fox", "a boat", "apples", "a cold river"].iter().enumerate() {
        let pixels = (0..8 * 8 * 3).map(|at| (at * (3 + 4 * row) % 256) as u8).collect();
        let picture = Picture::new(8, 8, pixels).expect("a picture").to_png().expect("a small picture");
        fs::write(folder.file(&format!("rows/{row}.png")), picture).expect("it can be written");
        lines += &format!("{{\"file_name\": \"{row}.png\", \"text\": \"{caption}\"}}\n");
    }
    fs::write(folder.file("rows/metadata.jsonl"), lines).expect("it can be written");
    let train = ["--train", "rows", "--out", "adapter", "--epochs", "2", "--lora-rank", "2", "--min-snr", "5"];
    let run = folder.succeed("finetune", &["--model".to_owned(), "model".to_owned()], &train);
    assert!(run.stdout.contains("before    loss"), "{}", run.stdout);
    folder
}

fn json(folder: &Folder, name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.file(name)).expect("it was written")).expect("JSON")
}

#[test]
fn every_command_takes_pictures_with_captions() {
    let folder = prepared();
    assert!(folder.file("adapter/pytorch_lora_weights.safetensors").exists());
    assert_eq!(json(&folder, "adapter/summary.json")["loss"]["prompt_dropout"], 0.1);
    let model = ["--model", "model", "--adapter", "adapter"].map(str::to_owned);
    let run = folder.succeed("attribute", &model, &["--train", "rows", "--query", "rows", "--out", "scores"]);
    assert!(run.stdout.contains("scores.png") && run.stdout.contains("a cold river"), "{}", run.stdout);
    let summary = json(&folder, "scores/summary.json");
    assert_eq!((&summary["task"], &summary["loss"]["noise"]), (&"diffusion".into(), &"shared".into()));
    assert_eq!(summary["loss"]["timesteps"].as_array().map(Vec::len), Some(10));
    assert!(summary["outputs"].as_array().is_some_and(|outputs| outputs.contains(&"scores.png".into())));
    let sheet = fs::read(folder.file("scores/scores.png")).expect("it was written");
    let sheet = Picture::decode(&sheet, &PictureLimits::default()).expect("a PNG");
    assert!(sheet.height() > 4 * 128);

    let own = ["--timesteps", "25,425", "--timesteps-as", "stacked", "--noise", "own", "--noise-seed", "3"];
    let args = [&["--train", "rows", "--validation", "rows", "--out", "worst", "--remove", "1"][..], &own].concat();
    folder.succeed("detect", &model, &args);
    let loss = &json(&folder, "worst/summary.json")["loss"];
    assert_eq!((&loss["timesteps"][1], &loss["timesteps_as"]), (&425.0.into(), &"stacked".into()));
    assert_eq!((&loss["noise"], &loss["noise_seed"]), (&"own".into(), &3.into()));
    folder.succeed("select", &model, &["--train", "rows", "--validation", "rows", "--out", "best", "--keep", "2"]);
    let run = folder.succeed("evaluate", &model, &["--data", "rows", "--output", "losses.csv"]);
    assert!(run.stdout.contains("quality   loss"), "{}", run.stdout);
    let table = fs::read_to_string(folder.file("losses.csv")).expect("it was written");
    assert!(table.starts_with("id,loss\n"), "{table}");
    let run = folder.succeed("check", &model[..2], &["--data", "rows"]);
    assert!(run.stdout.contains("4 rows"), "{}", run.stdout);
}

#[test]
fn options_of_diffusion_need_such_a_model() {
    let folder = Folder::new();
    let bert = fixtures::path("transformers/bert").display().to_string();
    fs::write(folder.file("rows.jsonl"), "{\"text\": \"fox\", \"label\": \"a\"}\n").expect("it can be written");
    for option in [["--timesteps", "5"], ["--noise", "own"], ["--min-snr", "5"]] {
        let args = [&["evaluate", "--model", &bert, "--data", "rows.jsonl"][..], &option].concat();
        let run = hyperinf(&folder.file("."), &args);
        assert_eq!(run.code, Some(2), "{option:?}: {}", run.stderr);
        assert!(run.stderr.contains("is not a diffusion model"), "{}", run.stderr);
    }
    let run =
        hyperinf(&folder.file("."), &["evaluate", "--model", &bert, "--data", "rows.jsonl", "--timesteps", "a,b"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
}
