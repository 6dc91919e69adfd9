//! Runs over rows with images.

use std::path::{Path, PathBuf};

use hyperinf::data::{Finetune, LargeBlocks, ReadOptions, Recipe, Run, RunError};
use hyperinf::models::{
    Adapter, Conversation, ImageProcessor, Limit, Message, Picture, PictureLimits, RecordedParts, TextTokenizer,
    load_vision_language,
};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::{devices, fixtures};
use serde_json::{Value, json};
use tempfile::TempDir;

const MODELS: [&str; 2] = ["llava", "smolvlm"];

fn folder(name: &str) -> PathBuf {
    fixtures::path(&format!("vision/{name}"))
}

/// Conversations with the tokens of transformers' processors.
fn prompts(model: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder(model).join("prompts.json")).expect("the model has prompts");
    serde_json::from_str(&text).expect("it is JSON")
}

#[test]
fn prompts_with_images_have_the_tokens_of_transformers() {
    let (_, device) = devices().remove(0);
    for name in MODELS {
        let tokenizer = TextTokenizer::read(&folder(name)).expect("a valid tokenizer");
        let model = load_vision_language(&folder(name), &device).expect("a valid model").model;
        let mark = tokenizer.token(model.config().image_token).expect("it is in the vocabulary");
        for case in prompts(name) {
            let grids: Vec<[usize; 2]> = serde_json::from_value(case["grids"].clone()).expect("pairs");
            let images: Vec<String> =
                grids.iter().map(|[rows, columns]| model.config().image_text(&mark, *rows, *columns)).collect();
            let conversation = conversation(&case["messages"]);
            let found = tokenizer.chat_with_images(&conversation, &mark, &images, Limit::Refuse(1000));
            let found = found.unwrap_or_else(|error| panic!("{name}: {error}")).sample;
            assert_eq!(json!(found.tokens), case["ids"], "{name}");
            assert_eq!(json!(found.scored), case["scored"], "{name}");
            let fewer = tokenizer.chat_with_images(&conversation, &mark, &["".to_owned()], Limit::Refuse(1000));
            assert_eq!(fewer.is_ok(), images.len() == 1);
            if !images.is_empty() {
                tokenizer.chat_with_images(&conversation, &mark, &images, Limit::Cut(12)).expect_err("images are cut");
            }
        }
    }
}

/// Rows without their images, as the tokenizer alone takes them.
fn conversation(messages: &Value) -> Conversation {
    let message = |value: &Value| {
        let value = serde_json::from_value(value.clone()).expect("it is JSON");
        Message::with_images(&value).expect("it is a message").0
    };
    messages.as_array().expect("a list").iter().map(message).collect::<Vec<_>>().into()
}

/// A copy of the files of LLaVA without its chat template.
fn untemplated(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a new folder");
    for file in
        ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(self::folder("llava").join(file), folder.join(file)).expect("a file of the fixture");
    }
}

/// Changes settings of a JSON file, which need not be there.
fn set(path: &Path, changes: &Value) {
    let old = std::fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned());
    let mut file: Value = serde_json::from_str(&old).expect("it is JSON");
    for (name, value) in changes.as_object().expect("settings") {
        file[name] = value.clone();
    }
    std::fs::write(path, file.to_string()).expect("it can be written");
}

#[test]
fn processors_put_the_special_tokens_of_transformers_around_conversations() {
    let text = std::fs::read_to_string(folder("llava").join("ends.json")).expect("a fixture");
    let cases: Vec<Value> = serde_json::from_str(&text).expect("it is JSON");
    let model = tempfile::tempdir().expect("a temporary folder");
    let mut noticed = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let place = model.path().join(number.to_string());
        untemplated(&place);
        set(&place.join("tokenizer.json"), &json!({ "post_processor": case["post_processor"] }));
        set(&place.join("tokenizer_config.json"), &json!({ "bos_token": "<|im_start|>" }));
        for (file, content) in case["files"].as_object().expect("files") {
            match content.as_str() {
                Some(template) => std::fs::write(place.join(file), template).expect("it can be written"),
                None => set(&place.join(file), content),
            }
        }
        let mut tokenizer = TextTokenizer::read_of_processor(&place).expect("a valid tokenizer");
        let alone = TextTokenizer::read(&place).expect("a valid tokenizer");
        for (row, prompt) in prompts("llava").iter().enumerate() {
            let conversation = conversation(&prompt["messages"]);
            let images = vec!["<image>".repeat(16); prompt["grids"].as_array().map_or(0, Vec::len)];
            let found = tokenizer.chat_with_images(&conversation, "<image>", &images, Limit::Refuse(1000));
            let found = found.unwrap_or_else(|error| panic!("{number}: {error}")).sample;
            assert_eq!(json!(found.tokens), case["ids"][row], "{number}: {:?}", case["files"]);
            let special: Vec<u32> = found.tokens.iter().copied().filter(|&token| (1..=2).contains(&token)).collect();
            let scored = found.tokens.iter().zip(&found.scored).filter(|(_, scored)| **scored);
            assert!(scored.clone().count() > 0 && !scored.into_iter().any(|(token, _)| special.contains(token)));
            // Transformers' tokenizers do not read the templates of processors alone.
            if !case["text_ids"][row].is_null() && images.is_empty() {
                let found = alone.chat(&conversation, Limit::Refuse(1000)).expect("a conversation").sample;
                assert_eq!(json!(found.tokens), case["text_ids"][row], "{number}");
            }
        }
        let before = tokenizer.notices().len();
        tokenizer.notice_ends();
        noticed.push(tokenizer.notices().len() > before);
    }
    let around = |at: usize| {
        cases[at]["ids"][2][0] == 1 || cases[at]["ids"][2].as_array().and_then(|ids| ids.last()) == Some(&json!(2))
    };
    let writes = |at: usize| cases[at]["files"].to_string().contains("bos_token }}");
    let expected: Vec<bool> = (0..cases.len()).map(|at| around(at) && (!writes(at) || at + 1 == cases.len())).collect();
    assert_eq!(noticed, expected);
}

#[test]
fn pictures_have_the_pixels_of_transformers() {
    for name in MODELS {
        let processor = ImageProcessor::load(&folder(name)).expect("valid settings");
        let expected = fixtures::load(&format!("vision/{name}/processed.safetensors"));
        for (number, case) in prompts(name).iter().enumerate() {
            let Some(expected) = expected.get(&format!("pixels.{number}")) else { continue };
            let mut found = Vec::new();
            for (place, grid) in case["grids"].as_array().expect("a list").iter().enumerate() {
                let path = folder(name).join(format!("picture{number}{place}.png"));
                let picture = Picture::decode(&std::fs::read(path).expect("it is there"), &PictureLimits::default());
                let processed = processor.process(&picture.expect("a PNG")).expect("it is small");
                assert_eq!(json!([processed.rows, processed.columns]), *grid, "{name}");
                found.extend(processed.tiles.into_iter().flat_map(|tile| tile.values).map(f64::from));
            }
            assert_close(&format!("{name}, {number}"), &found, &expected.values, 1e-6);
        }
    }
}

/// Rows with no, one and two images.
fn rows(folder: &TempDir, model: &str) -> PathBuf {
    let path = folder.path().join("rows.jsonl");
    let picture = |name: &str| self::folder(model).join(name).display().to_string();
    let question = |images: &[&str], text: &str, answer: &str| {
        let images: Vec<String> = images.iter().map(|name| picture(name)).collect();
        json!({"images": images, "prompt": text, "completion": answer}).to_string()
    };
    let rows = [
        question(&["picture00.png"], "Where is the boat?", "On the river."),
        question(&["picture10.png", "picture11.png"], "Is the fox cold?", "No, the fox is slow."),
        question(&[], "7 apples?", "No fruit."),
        question(&["picture11.png"], "Is it slow?", "The story was slow."),
    ];
    std::fs::write(&path, rows.join("\n") + "\n").expect("it can be written");
    path
}

fn finetune(model: &str, rows: &Path, out: &Path, targets: &[&str]) {
    let (_, device) = devices().remove(0);
    let done = tuning(model, rows, out, targets).run(&device, &mut |_| ());
    assert_eq!(done.unwrap_or_else(|error| panic!("{model}: {error:?}")).rows, 4);
}

fn tuning(model: &str, rows: &Path, out: &Path, targets: &[&str]) -> Finetune {
    Finetune {
        model: folder(model).display().to_string(),
        train: rows.to_owned(),
        out: out.to_owned(),
        targets: targets.iter().map(|target| (*target).to_owned()).collect(),
        recipe: Recipe { epochs: Some(2), ..Recipe::default() },
        ..Finetune::default()
    }
}

fn run(model: &str, rows: &Path, out: &Path) -> Run {
    Run {
        model: folder(model).display().to_string(),
        train: rows.to_owned(),
        query: rows.to_owned(),
        out: out.to_owned(),
        ..Run::default()
    }
}

/// The files of features in the hidden folder of a run.
fn stored_features(out: &Path) -> usize {
    feature_files(&out.join(".features")).len()
}

fn feature_files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(folder).flat_map(|folder| entries(&folder).collect::<Vec<_>>()).collect()
}

#[test]
fn rows_with_images_become_scores() {
    let (_, device) = devices().remove(0);
    for model in MODELS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (rows, adapter, out) = (rows(&folder, model), folder.path().join("adapter"), folder.path().join("out"));
        finetune(model, &rows, &adapter, &[]);
        let names: Vec<String> = Adapter::read(&adapter).expect("it was written").tensors.into_keys().collect();
        assert!(names.iter().all(|name| !name.contains("vision")) && names.len() == 8, "{model}: {names:?}");
        assert_eq!(stored_features(&adapter), 3, "{model}");
        let run = Run { adapter: Some(adapter.clone()), ..run(model, &rows, &out) };
        let found = run.attribute(&device, &mut |_| ()).unwrap_or_else(|error| panic!("{model}: {error:?}"));
        assert_eq!([&adapter, &out].map(|folder| stored_features(folder)), [3, 0], "{model}: the encoder ran once");
        for (row, scores) in found.attribution.scores.rows.iter().enumerate() {
            assert!(scores[row] > 0.0, "{model}: a row helps itself, {scores:?}");
        }
        found.discard_gradients().expect("they are there");
    }
}

#[test]
fn an_adapted_encoder_runs_in_every_pass() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (rows, adapter, out) = (rows(&folder, "smolvlm"), folder.path().join("adapter"), folder.path().join("out"));
    finetune("smolvlm", &rows, &adapter, &["q_proj"]);
    assert_eq!(stored_features(&adapter), 0);
    let run = Run { adapter: Some(adapter), ..run("smolvlm", &rows, &out) };
    let found = run.attribute(&device, &mut |_| ()).expect("it fits");
    let blocks = found.pair.train.blocks();
    assert!(blocks.iter().any(|stored| stored.block.name.contains("vision_model")));
    assert_eq!(stored_features(&out), 0);
    found.discard_gradients().expect("they are there");
}

#[test]
fn recorded_weights_need_no_adapter_and_large_ones_are_projected() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = rows(&folder, "smolvlm");
    for (layers, above, expected) in [
        (RecordedParts::Connector, 1 << 20, vec![(108, 16)]),
        (RecordedParts::Connector, 100, vec![(8, 8)]),
        (RecordedParts::LastLayer, 1 << 20, vec![(16, 16), (16, 8), (16, 8), (16, 16), (16, 24), (16, 24), (24, 16)]),
    ] {
        let out = folder.path().join(format!("{}-{above}", layers.name()));
        let large_blocks = LargeBlocks { above, rank: 8, ..LargeBlocks::default() };
        let run = Run { layers, large_blocks, ..run("smolvlm", &rows, &out) };
        let found = run.attribute(&device, &mut |_| ()).expect("it fits");
        let sizes: Vec<(usize, usize)> =
            found.pair.train.blocks().iter().map(|stored| (stored.block.rows, stored.block.cols)).collect();
        assert_eq!(sizes, expected, "{layers:?}");
        found.discard_gradients().expect("they are there");
    }
    let error = run("smolvlm", &rows, &folder.path().join("none")).attribute(&device, &mut |_| ()).err();
    assert!(matches!(error, Some(RunError::NoAdapter { .. })));
}

#[test]
fn runs_share_a_folder_of_features() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (rows, adapter, shared) = (rows(&folder, "llava"), folder.path().join("adapter"), folder.path().join("shared"));
    let read = ReadOptions { features: Some(shared.clone()), ..ReadOptions::default() };
    let tuned = Finetune { read: read.clone(), ..tuning("llava", &rows, &adapter, &[]) };
    tuned.run(&device, &mut |_| ()).expect("it fits");
    let out = folder.path().join("out");
    let run = Run { adapter: Some(adapter.clone()), read, ..run("llava", &rows, &out) };
    run.attribute(&device, &mut |_| ()).expect("it fits").discard_gradients().expect("they are there");
    assert_eq!([&adapter, &out].map(|folder| stored_features(folder)), [0, 0]);
    assert_eq!(feature_files(&shared).len(), 3);
}

#[test]
fn an_image_may_be_one_tile() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (rows, adapter) = (rows(&folder, "smolvlm"), folder.path().join("adapter"));
    let read = ReadOptions { one_tile: true, ..ReadOptions::default() };
    let tuned = Finetune { read: read.clone(), ..tuning("smolvlm", &rows, &adapter, &[]) };
    tuned.run(&device, &mut |_| ()).expect("it fits");
    // The adapter's folder says so to every later run.
    let run = Run { adapter: Some(adapter.clone()), ..run("smolvlm", &rows, &folder.path().join("out")) };
    run.attribute(&device, &mut |_| ()).expect("it fits").discard_gradients().expect("they are there");
    let files = feature_files(&adapter.join(".features"));
    let vectors = |file: &PathBuf| {
        let bytes = std::fs::read(file).expect("it is there");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("it was written");
        tensors.tensor("features").expect("it has features").shape()[0]
    };
    let mut vectors: Vec<usize> = files.iter().map(vectors).collect();
    vectors.sort_unstable();
    assert_eq!(vectors, [4, 4, 8], "four of each image");
    let llava = Finetune { read, ..tuning("llava", &rows, &folder.path().join("llava"), &[]) };
    assert!(matches!(llava.run(&device, &mut |_| ()), Err(RunError::NoTiles { .. })));
}

#[test]
fn llava_without_a_chat_template_has_the_prompt_of_its_paper() {
    let (_, device) = devices().remove(0);
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let model = temporary.path().join("model");
    untemplated(&model);
    let tokenizer = TextTokenizer::read(&model).expect("a valid tokenizer").or_llava_prompt("<image>");
    let tokenizer = tokenizer.expect("a valid template");
    assert_eq!(tokenizer.notices().len(), 1);
    let message = |value: Value| {
        Message::with_images(&serde_json::from_value(value).expect("it is JSON")).expect("it is a message").0
    };
    let part = |text: &str| json!({"type": "text", "text": text});
    let messages = vec![
        message(json!({"role": "user", "content": [{"type": "image"}, part("Where is it?")]})),
        message(json!({"role": "assistant", "content": [part("Here.")]})),
        message(json!({"role": "user", "content": [part("Is it?")]})),
        message(json!({"role": "assistant", "content": [part("Yes.")]})),
    ];
    let whole = Conversation::from(messages.clone());
    let text = tokenizer.chat_text(&whole, false).expect("it is written");
    let expected = "USER: <image>\nWhere is it? ASSISTANT: Here.<|im_end|>USER: Is it? ASSISTANT: Yes.<|im_end|>";
    assert_eq!(text, expected);
    let asked = Conversation::from(messages[..1].to_vec());
    let prompt = tokenizer.chat_text(&asked, true).expect("it is written");
    assert_eq!(prompt, "USER: <image>\nWhere is it? ASSISTANT:");
    let found = tokenizer.chat_with_images(&whole, "<image>", &["<image>".to_owned()], Limit::Refuse(200));
    let sample = found.expect("it is clear what is scored").sample;
    let scored: Vec<u32> = sample.tokens.iter().zip(&sample.scored).filter(|(_, s)| **s).map(|(t, _)| *t).collect();
    let scored = tokenizer.spell(&scored).expect("known tokens");
    assert_eq!(scored.split_whitespace().collect::<String>(), "Here.<|im_end|>Yes.<|im_end|>");

    // BOS is there if the tokenizer puts it there, as in LLaVA's own program, and not for its name alone.
    set(&model.join("tokenizer_config.json"), &json!({ "bos_token": "<|im_start|>" }));
    let first = |post_processor: &Value| {
        set(&model.join("tokenizer.json"), &json!({ "post_processor": post_processor }));
        let tokenizer = TextTokenizer::read(&model).expect("valid").or_llava_prompt("<image>").expect("valid");
        let found = tokenizer.chat_with_images(&whole, "<image>", &["<image>".to_owned()], Limit::Refuse(200));
        let tokens = found.expect("a sample").sample.tokens;
        tokens.iter().take_while(|&&token| token == 1).count()
    };
    let place = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let start = json!({ "SpecialToken": { "id": "<|im_start|>", "type_id": 0 } });
    let known = json!({ "<|im_start|>": { "id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"] } });
    let (single, pair) = (json!([start, place("A")]), json!([start, place("A"), place("B")]));
    let bos = json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known });
    assert_eq!((first(&Value::Null), first(&bos)), (0, 1));

    let rows = rows(&temporary, "llava");
    let run =
        Finetune { model: model.display().to_string(), ..tuning("llava", &rows, &temporary.path().join("a"), &[]) };
    run.run(&device, &mut |_| ()).expect("rows become samples");
}
