//! The commands on a text-to-image model: pictures with captions.

use std::fs;

use hyperinf::models::{Picture, PictureLimits, Prediction};
use hyperinf_tests::{devices, fixtures, pipelines};
use serde_json::Value;

use crate::support::Folder;

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
    let best = ["--train", "rows", "--validation", "rows", "--out", "best", "--keep", "2"];
    let run = folder.succeed("select", &model, &best);
    assert!(run.stdout.contains("selected.png"), "{}", run.stdout);
    let baselines = ["--train", "rows", "--validation", "rows", "--method", "loss", "--out"];
    folder.succeed("detect", &model, &[&baselines[..], &["worst-loss"]].concat());
    folder.succeed("select", &model, &[&baselines[..], &["best-loss", "--keep", "2"]].concat());
    // Four rows: in a line of four; of two selected ones a line of two, and one of all.
    let sheets = [("worst", "suspicious.png", 1), ("best", "selected.png", 2), ("worst-loss", "suspicious.png", 1)];
    for (run, name, lines) in [&sheets[..], &[("best-loss", "selected.png", 2)]].concat() {
        let outputs = &json(&folder, &format!("{run}/summary.json"))["outputs"];
        assert!(outputs.as_array().is_some_and(|outputs| outputs.contains(&name.into())), "{outputs}");
        let sheet = fs::read(folder.file(&format!("{run}/{name}"))).expect("it was written");
        let sheet = Picture::decode(&sheet, &PictureLimits::default()).expect("a PNG");
        assert!((lines * 128..(lines + 1) * 256).contains(&sheet.height()), "{name}: {}", sheet.height());
        assert!(sheet.width() > 4 * 128, "{name}: {}", sheet.width());
    }
    let run = folder.succeed("evaluate", &model, &["--data", "rows", "--output", "losses.csv"]);
    assert!(run.stdout.contains("quality   loss"), "{}", run.stdout);
    let table = fs::read_to_string(folder.file("losses.csv")).expect("it was written");
    assert!(table.starts_with("id,loss\n"), "{table}");
    let run = folder.succeed("check", &model[..2], &["--data", "rows"]);
    assert!(run.stdout.contains("4 rows"), "{}", run.stdout);
}

/// A recorded training on pictures is followed, with the timesteps and the noise that its steps drew.
#[test]
fn recorded_trainings_on_pictures_are_followed() {
    let folder = prepared();
    let model = ["--model".to_owned(), "model".to_owned()];
    let train = ["--train", "rows", "--out", "recorded", "--epochs", "3", "--lora-rank", "2", "--record"];
    folder.succeed("finetune", &model, &[&train[..], &["--batch-size", "2", "--learning-rate", "1e-3"]].concat());
    let with = ["--adapter", "recorded", "--train", "rows", "--query", "rows", "--format", "jsonl"];
    let args = ["--out", "scores", "--method", "unrolled,tracin-cp,tracin-adam", "--query-mode", "mean"];
    let run = folder.succeed("attribute", &model, &[&with[..], &args].concat());
    assert!(run.stdout.contains("each led to the recorded numbers"), "{}", run.stdout);
    for method in ["unrolled", "tracin-cp", "tracin-adam"] {
        let lines = folder.lines(&format!("scores/{method}/scores.jsonl"));
        let scores: Vec<f64> = lines.iter().filter_map(|line| line["score"].as_f64()).collect();
        assert!(
            scores.len() == 4 && scores.iter().all(|score| score.is_finite() && *score != 0.0),
            "{method}: {scores:?}"
        );
    }
    let args = ["--out", "metric", "--metric", "recorded", "--method", "identity,hyperinf"];
    folder.succeed("attribute", &model, &[&with[..], &args].concat());
}

#[test]
fn options_of_one_kind_of_model_are_refused_for_others() {
    let folder = Folder::new();
    pipelines::write(&folder.file("captions"), Prediction::Epsilon, &devices().remove(0).1);
    let path = |name: &str| fixtures::path(name).display().to_string();
    let (bert, llama, llava) = (path("transformers/bert"), path("transformers/llama"), path("vision/llava"));
    fs::copy(fixtures::path("vision/llava/picture00.png"), folder.file("a.png")).expect("a copy");
    let row = |text: &str| format!("{{\"image\": \"a.png\", {text}}}\n");
    let rows = [
        ("bert", row("\"text\": \"fox\", \"label\": 0")),
        ("llama", row("\"prompt\": \"Is it?\", \"completion\": \" No.\"")),
        ("llava", row("\"prompt\": \"Is it?\", \"completion\": \"No.\"")),
        ("captions", row("\"text\": \"a fox\"")),
    ];
    for (name, rows) in rows {
        fs::write(folder.file(&format!("{name}.jsonl")), rows).expect("it can be written");
    }
    let models = [("bert", bert.as_str()), ("llama", &llama), ("llava", &llava), ("captions", "captions")];
    let check = |command: &str, kinds: &[&str], options: &[&str], why: &str| {
        for (name, model) in models.iter().filter(|(name, _)| kinds.contains(name)) {
            let rows = format!("{name}.jsonl");
            let data: &[&str] = match command {
                "evaluate" | "check" => &["--data", &rows],
                "finetune" => &["--train", &rows, "--out", "out"],
                _ => &["--train", &rows, "--query", &rows, "--out", "out"],
            };
            let run = folder.run(command, &[&["--model", *model], data, options].concat());
            assert_eq!(run.code, Some(2), "{command} {name} {options:?}: {}", run.stderr);
            assert!(run.stderr.contains(why), "{command} {name} {options:?}: {}", run.stderr);
        }
    };
    let others = ["bert", "llama", "llava"];
    // The defaults' values as well.
    let loss = [
        ["--timesteps", "5"],
        ["--timesteps", "10"],
        ["--noise", "own"],
        ["--noise", "shared"],
        ["--noise-seed", "1"],
        ["--noise-seed", "0"],
        ["--min-snr", "5"],
    ];
    for option in loss {
        check("evaluate", &others, &option, "is not a diffusion model");
    }
    for share in ["0.2", "0.1"] {
        check("finetune", &others, &["--prompt-dropout", share], "is not a diffusion model");
    }
    for form in ["stacked", "sum"] {
        check("attribute", &others, &["--layers", "last-layer", "--timesteps-as", form], "is not a diffusion model");
    }
    for command in ["evaluate", "check", "finetune", "attribute"] {
        check(command, &["bert", "llama", "captions"], &["--tiles", "1"], "makes no tiles");
        check(
            command,
            &["llava"],
            &["--tiles", "1"],
            if command == "attribute" { "adapters" } else { "makes no tiles" },
        );
        for option in [["--features", "f"], ["--images", "."], ["--image-column", "image"]] {
            check(command, &["bert", "llama"], &option, "takes no images");
        }
    }
    for (kinds, parts) in [
        (&["bert"][..], &["prompt", "completion", "messages"][..]),
        (&["llama"], &["pair", "label"]),
        (&["llava"], &["text", "pair", "label"]),
        (&["captions"], &["pair", "label", "prompt", "completion", "messages"]),
    ] {
        for part in parts {
            let option = format!("--{part}-column");
            // Whether the file has the column or not.
            for column in ["text", "label", "other"] {
                check("check", kinds, &[&option, column], &option);
            }
        }
    }
    // A conversation has no separate prompt.
    check("check", &["llama"], &["--messages-column", "prompt", "--prompt-column", "prompt"], "--prompt-column");
    for command in ["evaluate", "finetune"] {
        check(command, &["llama"], &["--label-column", "label"], "--label-column");
    }
    check("attribute", &["llama"], &["--layers", "last-layer", "--label-column", "label"], "--label-column");
    check("attribute", &["bert", "llama", "captions"], &["--layers", "connector"], "connector");
    check("attribute", &["bert", "captions"], &["--layers", "last-layer"], "last-layer");
    check("evaluate", &["bert"], &["--timesteps", "a,b"], "timesteps");
    for (name, model) in models.iter().filter(|(name, _)| others.contains(name)) {
        let run = folder.run("generate", &["--model", model, "--prompt", "a fox", "--out", "a.png"]);
        assert!(matches!(run.code, Some(2 | 3)), "{name}: {run:?}");
    }
}
