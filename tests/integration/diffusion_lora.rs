//! LoRA files of image generators: four namings, and what is refused.

use burn::tensor::Device;
use hyperinf::models::{Adapter, LoadError, LoraConfig, LoraScaling, PixArt, adapt, load_pixart};
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
