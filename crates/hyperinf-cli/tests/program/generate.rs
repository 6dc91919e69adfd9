//! `hyperinf generate`, on the tiny Stable Diffusion of the fixtures.

use hyperinf::models::{GenerateConfig, Picture, PictureLimits, SamplerConfig, load_pipeline};
use hyperinf_tests::{devices, fixtures};

use crate::support::{Folder, device_names};

fn model() -> [String; 2] {
    ["--model".to_owned(), fixtures::path("diffusion/stable").display().to_string()]
}

fn picture(folder: &Folder, name: &str) -> Picture {
    let bytes = std::fs::read(folder.file(name)).expect("it was written");
    Picture::decode(&bytes, &PictureLimits::default()).expect("a PNG")
}

#[test]
fn pictures_are_those_of_the_library() {
    let folder = Folder::new();
    for (device, (_, tensors)) in device_names().into_iter().zip(devices()) {
        let pipeline = load_pipeline(&fixtures::path("diffusion/stable"), &tensors).expect("the fixture").model;
        let sampler = SamplerConfig { steps: 2, guidance: 2.0, seed: 7, ..SamplerConfig::default() };
        let prompts = ["a cat", "a smiling face", ""];
        let expected = pipeline.generate(&prompts, &GenerateConfig { sampler, side: Some(12) }).expect("pictures");
        let prompts = prompts.map(|prompt| format!("--prompt={prompt}"));
        let common = ["--steps", "2", "--guidance", "2", "--seed", "7", "--size", "12", "--device", &device];
        let args = [&common[..], &["--out", "sheet.png"], &prompts.each_ref().map(String::as_str)].concat();
        let run = folder.succeed("generate", &model(), &args);
        assert!(run.stdout.contains("3 pictures of 12 × 12 pixels: sheet.png"), "{}", run.stdout);
        let sheet = picture(&folder, "sheet.png");
        assert_eq!((sheet.width(), sheet.height()), (24, 24));
        for (at, picture) in expected.iter().enumerate() {
            assert_eq!(&sheet.cropped(12 * (at % 2) as isize, 12 * (at / 2) as isize, 12, 12), picture, "{at}");
        }
    }
    let run = folder.succeed("generate", &model(), &["--steps", "1", "--prompt", "a cat", "--out", "one.PNG"]);
    assert!(run.stdout.starts_with("1 picture of 16"), "{}", run.stdout);
}

#[test]
fn what_generate_refuses() {
    let folder = Folder::new();
    let long = "cat ".repeat(100);
    let vae = fixtures::path("diffusion/stable/vae").display().to_string();
    for (args, code, said) in [
        (&["--out", "x.jpg"][..], 2, ".png"),
        (&["--out", "x.png", "--size", "13"], 2, "side"),
        (&["--out", "x.png", "--steps", "1001"], 2, "steps"),
        (&["--out", "x.png", "--guidance", "0.5"], 2, "guidance"),
        (&["--out", "x.png", "--prompt", &long], 2, "102 tokens"),
        (&["--out", "missing/x.png"], 2, "missing"),
        (&["--out", "x.png", "--adapter", "missing"], 3, "missing"),
        (&["--out", "x.png", "--model", &vae], 3, "model_index.json"),
    ] {
        let own = if args.contains(&"--model") { vec![] } else { model().to_vec() };
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let run = folder.run("generate", &[&own[..], &["--prompt", "a"], args].concat());
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
    assert!(folder.files().is_empty());
}
