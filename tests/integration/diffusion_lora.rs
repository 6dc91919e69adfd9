//! LoRA files of image generators: four namings, and what is refused.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use hyperinf::gradients::Tape;
use hyperinf::models::{
    Adapter, AdapterTask, Denoiser, LoadError, LoraConfig, LoraScaling, NoiseProcess, PixArt, TargetModules, TextState,
    TextStates, TextToImage, adapt, load_pixart, load_unet, load_weights, weights,
};
use hyperinf_tests::compare::{assert_close, values};
use hyperinf_tests::devices;
use hyperinf_tests::fixtures;
use tempfile::TempDir;

use crate::folders::{Number, Tensors, write_tensors};

const PREFIX: &str = "base_model.model.";

/// The name of a layer's first or second factor.
type Naming<'a> = &'a dyn Fn(&str, bool) -> String;

fn base(device: &Device) -> PixArt {
    load_pixart(&fixtures::path("diffusion/transformer"), device).expect("the fixture is valid").model
}

/// An adapter of the tiny model, `alpha` = rank.
fn adapter(device: &Device) -> Adapter {
    let config = LoraConfig { rank: 2, alpha: 2.0, scaling: LoraScaling::Standard, dropout: 0.0 };
    let model = adapt(base(device), &["to_q", "to_out.0"], &config, 1).expect("known targets");
    Adapter::from_model(&model, &config, None).expect("an adapted model")
}

/// The adapter's tensors under other names.
fn renamed(adapter: &Adapter, name: impl Fn(&str, bool) -> String) -> Tensors {
    let rename = |(full, data): (&String, &burn::tensor::TensorData)| {
        let bare = full.strip_prefix(PREFIX).expect("PEFT's prefix");
        let (layer, down) = match bare.strip_suffix(".lora_A.weight") {
            Some(layer) => (layer, true),
            None => (bare.strip_suffix(".lora_B.weight").expect("one of two factors"), false),
        };
        (name(layer, down), (data.shape().to_vec(), data.iter::<f32>().collect()))
    };
    adapter.tensors.iter().map(rename).collect()
}

fn file(tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    write_tensors(&folder.path().join("lora.safetensors"), tensors, Number::F32);
    folder
}

fn read(tensors: &Tensors, device: &Device) -> Result<Adapter, LoadError> {
    Adapter::read_lora_file(&file(tensors).path().join("lora.safetensors"), &base(device))
}

#[test]
fn every_naming_gives_the_same_adapter() {
    let (_, device) = devices().remove(0);
    let adapter = adapter(&device);
    let pick = |down, [a, b]: [&'static str; 2]| if down { a } else { b };
    let namings: [(&str, Naming<'_>); 6] = [
        ("PEFT", &|layer, down| format!("{PREFIX}{layer}.lora_{}.weight", pick(down, ["A", "B"]))),
        ("diffusers", &|layer, down| format!("transformer.{layer}.lora_{}.weight", pick(down, ["A", "B"]))),
        ("lora.down", &|layer, down| format!("unet.{layer}.lora.{}.weight", pick(down, ["down", "up"]))),
        ("bare", &|layer, down| format!("{layer}.lora_{}.weight", pick(down, ["A", "B"]))),
        ("kohya", &|layer, down| {
            format!("lora_unet_{}.lora_{}.weight", layer.replace('.', "_"), pick(down, ["down", "up"]))
        }),
        ("old", &|layer, down| {
            let (attention, part) = layer.split_at(layer.find(".to_").expect("a layer of an attention"));
            let part = part.trim_end_matches(".0");
            format!("{attention}.processor{part}_lora.{}.weight", pick(down, ["down", "up"]))
        }),
    ];
    for (naming, name) in namings {
        let found = read(&renamed(&adapter, name), &device).unwrap_or_else(|error| panic!("{naming}: {error}"));
        assert_eq!(found.tensors, adapter.tensors, "{naming}");
        assert_eq!((found.config.lora.rank, found.config.lora.alpha), (2, 2.0), "{naming}");
        found.apply(base(&device)).unwrap_or_else(|error| panic!("{naming}: {error}"));
    }
}

#[test]
fn alpha_scales_its_layer() {
    let (_, device) = devices().remove(0);
    let flat = |layer: &str| format!("lora_unet_{}", layer.replace('.', "_"));
    let mut tensors = renamed(&adapter(&device), |layer, down| {
        format!("{}.lora_{}.weight", flat(layer), if down { "down" } else { "up" })
    });
    let layer = "transformer_blocks.1.attn2.to_q";
    tensors.insert(format!("{}.alpha", flat(layer)), (vec![], vec![1.0]));
    let found = read(&tensors, &device).expect("a valid file");
    assert_eq!(found.config.alphas, [(layer.to_owned(), 1.0)]);
}

#[test]
fn a_written_file_is_read_again() {
    let (_, device) = devices().remove(0);
    let adapter = adapter(&device);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    adapter.write_lora_file(folder.path(), "transformer").expect("a folder that can be written");
    let path = folder.path().join("pytorch_lora_weights.safetensors");
    let found = Adapter::read_lora_file(&path, &base(&device)).expect("what was written can be read");
    assert_eq!(found.tensors, adapter.tensors);
    assert_eq!(found.config.lora, adapter.config.lora);
}

#[test]
fn what_is_not_lora_on_linear_layers_is_refused_by_name() {
    let (_, device) = devices().remove(0);
    let layer = "transformer.transformer_blocks.0.attn1.to_q";
    for (name, said) in [
        (format!("{layer}.dora_scale"), "DoRA"),
        (format!("{layer}.hada_w1_a"), "LoHa"),
        (format!("{layer}.lokr_w1"), "LoKr"),
        ("text_encoder.layers.0.q_proj.lora_A.weight".to_owned(), "text encoder"),
        ("lora_te_layers_0_q_proj.lora_down.weight".to_owned(), "text encoder"),
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight".to_owned(), "down_blocks"),
    ] {
        let mut tensors = renamed(&adapter(&device), |layer, down| {
            format!("transformer.{layer}.lora_{}.weight", if down { "A" } else { "B" })
        });
        tensors.insert(name.clone(), (vec![2, 2], vec![0.0; 4]));
        let error = read(&tensors, &device).expect_err(&name).to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
    let convolution = Tensors::from([(format!("{layer}.lora_A.weight"), (vec![2, 2, 1, 1], vec![0.0; 4]))]);
    let error = read(&convolution, &device).expect_err("a convolution").to_string();
    assert!(error.contains("convolution"), "{error}");
    let half = Tensors::from([(format!("{layer}.lora_A.weight"), (vec![2, 16], vec![0.0; 32]))]);
    let error = read(&half, &device).expect_err("half an adapter").to_string();
    assert!(error.contains("to_q"), "{error}");
}

/// The factors of new adapters: normal of standard deviation 1/r, and zero.
#[test]
fn new_adapters_begin_as_is_usual_for_image_generators() {
    let (_, device) = devices().remove(0);
    let config = LoraConfig { rank: 2, alpha: 2.0, ..LoraConfig::default() };
    let model = adapt(base(&device), &["to_q", "to_k", "to_v", "to_out.0"], &config, 1).expect("known targets");
    let adapter = Adapter::from_model(&model, &config, None).expect("an adapted model");
    let factor = |end: &str| -> Vec<f64> {
        let factors = adapter.tensors.iter().filter(|(name, _)| name.ends_with(end));
        factors.flat_map(|(_, data)| data.iter::<f64>().collect::<Vec<_>>()).collect()
    };
    let (first, second) = (factor("lora_A.weight"), factor("lora_B.weight"));
    assert!(second.iter().all(|&value| value == 0.0));
    let mean = first.iter().map(|value| value * value).sum::<f64>() / first.len() as f64;
    // 480 values: the mean of their squares, 1/4, has a standard error of 0.016.
    assert!((mean - 0.25).abs() < 0.08, "{mean} of {}", first.len());
    assert!(first.iter().any(|value| value.abs() > 1.0), "not uniform");
}

/// With `HYPERINF_WRITE_ADAPTERS=DIR` the files stay, for `cargo xtask fixtures diffusion --check-ours DIR`.
#[test]
fn written_adapters_of_denoisers_are_read_again() {
    let temporary = tempfile::tempdir().expect("a folder for temporary files");
    let kept = std::env::var_os("HYPERINF_WRITE_ADAPTERS").map(PathBuf::from);
    let (name, device) = devices().remove(0);
    let config = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
    let denoisers = [
        ("transformer", Denoiser::PixArt(base(&device))),
        ("unet", Denoiser::UNet(load_unet(&fixtures::path("diffusion/stable/unet"), &device).expect("valid").model)),
    ];
    for (part, denoiser) in denoisers {
        let [channels, side, _] = denoiser.shape();
        let wave = |count: usize, step: f32| (0..count).map(|i| (step * (i * i) as f32).sin()).collect::<Vec<f32>>();
        let model = TextToImage::new(denoiser, NoiseProcess::default());
        let adapted = adapt(model.clone(), &["to_q", "to_k", "to_v", "to_out.0"], &config, 1).expect("known targets");
        let trained = weights(&adapted).expect("readable").into_iter().map(|(path, data)| {
            let new =
                |data: &TensorData| wave(data.num_elements(), path.len() as f32).iter().map(|x| 0.3 * x).collect();
            let data = if path.contains("lora_") { TensorData::new(new(&data), data.shape().clone()) } else { data };
            (path, data)
        });
        let adapted = load_weights(adapted, trained.collect()).expect("the model's own names");

        let (text_width, tokens, t) = (adapted.denoiser.text_width(), 4, 425.0);
        let (x, text) = (wave(channels * side * side, 0.7), wave(tokens * text_width, 0.9));
        let state = TextState { width: text_width, values: text.clone() };
        let output = |model: &TextToImage| {
            let shape = [1, channels, side, side];
            let x = Tensor::<4>::from_data(TensorData::new(x.clone(), shape), &device);
            let text = TextStates::new(&[&state], text_width, &device).expect("a prompt");
            values(model.denoiser.forward(x, &[t], &text, &mut Tape::off()))
        };
        let expected = output(&adapted);
        let folder = kept.as_deref().unwrap_or(temporary.path()).join("lora").join(part);
        let adapter = Adapter::from_model(&adapted, &config, Some(part)).expect("an adapted model");
        let ends = ["to_k", "to_out.0", "to_q", "to_v"].map(str::to_owned).to_vec();
        // A bare `0` would also match other modules of the model in PEFT.
        assert_eq!(adapter.config.target_modules, TargetModules::Names(ends));
        assert_eq!(adapter.config.task, AdapterTask::Other);
        adapter.write_lora_file(&folder, part).expect("a folder that can be written");
        adapter.write(&folder.join("peft")).expect("a folder that can be written");
        for path in [folder.clone(), folder.join("pytorch_lora_weights.safetensors"), folder.join("peft")] {
            let read = Adapter::read_any(&path, &model).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let found = output(&read.apply(model.clone()).expect("it fits"));
            assert_close(&format!("{name}, {}", path.display()), &found, &expected, 0.0);
        }
        assert!(output(&model).iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-2), "the adapter does nothing");
        let floats = expected.iter().map(|&value| value as f32).collect();
        let tensors = Tensors::from([
            ("x".to_owned(), (vec![1, channels, side, side], x.clone())),
            ("t".to_owned(), (vec![1], vec![t as f32])),
            ("text".to_owned(), (vec![1, tokens, text_width], text)),
            ("output".to_owned(), (vec![1, channels, side, side], floats)),
        ]);
        write_tensors(&folder.join("ours.safetensors"), &tensors, Number::F32);
    }
}
