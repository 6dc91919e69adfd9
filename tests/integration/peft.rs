//! Adapters in PEFT's files.

use std::path::Path;

use burn::tensor::TensorData;
use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{
    ADAPTER_SETTINGS, Adaptable, Adapter, AdapterSetting, AdapterTask, CausalLm, EncoderClassifier, LmSample,
    LoadError, LoraConfig, LoraScaling, Sample, SampleModel, TargetModules, Treatment, adapt,
};
use hyperinf_tests::compare::{assert_close, values};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::folders::{Model, Number, Tensors, add, write_json, write_tensors};
use crate::loading::{causal, classifier};

const LORA: LoraConfig = LoraConfig { rank: 2, alpha: 6.0, scaling: LoraScaling::Standard, dropout: 0.0 };
const QUERY: &str = "base_model.model.model.layers.0.self_attn.q_proj";

pub(crate) fn lm_logits(model: &CausalLm) -> Vec<f64> {
    let sample = LmSample { tokens: vec![1, 5, 2, 9, 3], scored: vec![false, true, true, true, true] };
    let batch = model.collate(&[&sample]).expect("a valid sample");
    values(model.forward(&batch, &mut Tape::off()))
}

pub(crate) fn class_logits(model: &EncoderClassifier) -> Vec<f64> {
    let sample = Sample { tokens: vec![1, 5, 2, 9], segments: vec![0, 0, 1, 1], label: 0 };
    let batch = model.collate(&[&sample]).expect("a valid sample");
    values(model.forward(&batch, &mut Tape::off()))
}

/// The settings and tensors of an adapter of `Model::llama`: query and value of both layers, rank 2.
pub(crate) fn llama_adapter() -> (Value, Tensors) {
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": 2, "lora_alpha": 6,
        "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj", "v_proj"], "use_dora": false,
        "peft_version": "0.18.0", "inference_mode": true, "modules_to_save": null,
    });
    let mut tensors = Tensors::new();
    for layer in 0..2 {
        for (part, outputs) in [("q_proj", 8), ("v_proj", 4)] {
            let name = format!("base_model.model.model.layers.{layer}.self_attn.{part}");
            add(&mut tensors, &format!("{name}.lora_A.weight"), &[2, 8]);
            add(&mut tensors, &format!("{name}.lora_B.weight"), &[outputs, 2]);
        }
    }
    (config, tensors)
}

pub(crate) fn write(config: &Value, tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    write_json(&folder.path().join("adapter_config.json"), config);
    write_tensors(&folder.path().join("adapter_model.safetensors"), tensors, Number::F32);
    folder
}

pub(crate) fn read(folder: &Path) -> Adapter {
    Adapter::read(folder).expect("a valid adapter")
}

/// The model with `W + scale · B A` in place of `W`, computed from the files' own layout.
pub(crate) fn merged(mut model: Model, adapter: &Tensors, scale: impl Fn(&str) -> f32) -> Model {
    for (name, (a_shape, a)) in adapter.iter().filter(|(name, _)| name.ends_with(".lora_A.weight")) {
        let stem = name.trim_end_matches(".lora_A.weight");
        let (b_shape, b) = &adapter[&format!("{stem}.lora_B.weight")];
        let base = format!("{}.weight", stem.trim_start_matches("base_model.model."));
        let (_, weight) = model.tensors.get_mut(&base).expect("a layer of the model");
        let (rank, inputs, outputs) = (a_shape[0], a_shape[1], b_shape[0]);
        for (o, i, r) in (0..outputs * inputs * rank).map(|at| (at / rank / inputs, at / rank % inputs, at % rank)) {
            weight[o * inputs + i] += scale(stem) * b[o * rank + r] * a[r * inputs + i];
        }
    }
    model
}

#[test]
fn an_adapter_adds_its_product_to_the_weights() {
    let check = |change: &dyn Fn(&mut Value), scale: &dyn Fn(&str) -> f32| {
        let (mut config, tensors) = llama_adapter();
        change(&mut config);
        let base = causal(Model::llama().write().path());
        let adapted = read(write(&config, &tensors).path()).apply(base.clone()).expect("it fits");
        let expected = causal(merged(Model::llama(), &tensors, scale).write().path());
        let (found, expected) = (lm_logits(&adapted), lm_logits(&expected));
        // f32: a handful of products of a dozen terms each.
        assert_close(&config.to_string(), &found, &expected, 1e-5);
        assert!(assert_differs(&found, &lm_logits(&base)), "the adapter does nothing");
    };
    check(&|_| {}, &|_| 3.0);
    check(&|config| config["use_rslora"] = json!(true), &|_| 6.0 / 2f32.sqrt());
    check(&|config| config["alpha_pattern"] = json!({ "layers.1.self_attn.v_proj": 1.0 }), &|name| {
        if name.contains("layers.1.self_attn.v_proj") { 0.5 } else { 3.0 }
    });
    check(&|config| config["target_modules"] = json!(".*(q|v)_proj"), &|_| 3.0);
}

fn assert_differs(found: &[f64], other: &[f64]) -> bool {
    found.iter().zip(other).any(|(a, b)| (a - b).abs() > 1e-2)
}

#[test]
fn layers_may_have_ranks_of_their_own() {
    let (mut config, mut tensors) = llama_adapter();
    add(&mut tensors, &format!("{QUERY}.lora_A.weight"), &[3, 8]);
    add(&mut tensors, &format!("{QUERY}.lora_B.weight"), &[8, 3]);
    config["rank_pattern"] = json!({ "model.layers.0.self_attn.q_proj": 3 });
    let base = causal(Model::llama().write().path());
    let folder = write(&config, &tensors);
    let adapted = read(folder.path()).apply(base).expect("it fits");
    let scale = |name: &str| if name == QUERY { 2.0 } else { 3.0 };
    let expected = causal(merged(Model::llama(), &tensors, scale).write().path());
    assert_close("logits", &lm_logits(&adapted), &lm_logits(&expected), 1e-5);
    let again = Adapter::from_model(&adapted, &LORA, Some("tiny")).expect("an adapted model");
    assert_eq!(again, read(folder.path()));
}

#[test]
fn an_adapter_of_a_bare_model_fits_the_model_with_it() {
    let (config, tensors) = llama_adapter();
    let base = causal(Model::llama().write().path());
    let whole = read(write(&config, &tensors).path()).apply(base.clone()).expect("it fits");
    let shorter = tensors.into_iter().map(|(name, tensor)| (name.replace(".model.model.", ".model."), tensor));
    let bare = read(write(&config, &shorter.collect()).path()).apply(base).expect("it fits");
    assert_eq!(lm_logits(&bare), lm_logits(&whole));

    let model = classifier(Model::bert_classifier().write().path(), None).model;
    let mut tensors = Tensors::new();
    for layer in 0..2 {
        let name = format!("base_model.model.encoder.layer.{layer}.attention.self.query");
        add(&mut tensors, &format!("{name}.lora_A.weight"), &[2, 8]);
        add(&mut tensors, &format!("{name}.lora_B.weight"), &[8, 2]);
    }
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["query"] });
    let bare = read(write(&config, &tensors).path()).apply(model.clone()).expect("it fits");
    let longer = tensors.into_iter().map(|(name, tensor)| (name.replace(".encoder.", ".bert.encoder."), tensor));
    let whole = read(write(&config, &longer.collect()).path()).apply(model.clone()).expect("it fits");
    assert_eq!(class_logits(&bare), class_logits(&whole));
    assert!(assert_differs(&class_logits(&bare), &class_logits(&model)), "the adapter does nothing");
}

#[test]
fn an_adapter_that_cannot_be_written_leaves_nothing_half_written() {
    let (config, tensors) = llama_adapter();
    let adapter = read(write(&config, &tensors).path());
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    // A folder where a file's name should go.
    std::fs::create_dir(folder.path().join("adapter_config.json")).expect("a folder");
    let error = adapter.write(folder.path()).expect_err("a folder cannot be replaced by a file");
    assert!(error.to_string().contains("adapter_config.json"), "{error}");
    let names = std::fs::read_dir(folder.path()).expect("a folder").map(|f| f.expect("a file").file_name());
    let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().contains("partial")).collect();
    assert!(hidden.is_empty(), "left behind: {hidden:?}");
}

#[test]
fn what_is_written_is_what_is_read() {
    let base = causal(Model::llama().write().path());
    let (config, tensors) = llama_adapter();
    let adapter = read(write(&config, &tensors).path());
    let adapted = adapter.apply(base.clone()).expect("it fits");
    let taken = Adapter::from_model(&adapted, &LORA, Some("tiny")).expect("an adapted model");
    assert_eq!(taken, adapter);
    assert_eq!(taken.config.task, AdapterTask::CausalLm);

    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("new/adapter");
    for _ in 0..2 {
        taken.write(&path).expect("a writable folder");
    }
    assert_eq!(read(&path), adapter);
    assert_eq!(lm_logits(&read(&path).apply(base).expect("it fits")), lm_logits(&adapted));
    let mut files: Vec<String> = std::fs::read_dir(&path)
        .expect("written")
        .map(|f| f.expect("a file").file_name().to_string_lossy().into())
        .collect();
    files.sort();
    assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors"]);
    let text = std::fs::read_to_string(path.join("adapter_config.json")).expect("written");
    let written: Value = serde_json::from_str(&text).expect("JSON");
    for (setting, expected) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!("CAUSAL_LM")),
        ("r", json!(2)),
        ("lora_alpha", json!(6)),
        ("target_modules", json!(["q_proj", "v_proj"])),
        ("modules_to_save", Value::Null),
        ("bias", json!("none")),
        ("base_model_name_or_path", json!("tiny")),
    ] {
        assert_eq!(written[setting], expected, "{setting}");
    }
}

#[test]
fn a_head_is_kept_with_the_adapter() {
    let folder = Model::bert().write();
    let load = |classes| classifier(folder.path(), Some(classes)).model;
    let targets = ["query", "attention.output.dense"];
    let mut model = adapt(load(2), &targets, &LORA, 3).expect("layers of these names");
    model.visit_layers(&mut |_, layer| {
        if let hyperinf::models::AdaptableLinear::Lora(lora) = layer {
            lora.lora_b.weight = lora.lora_b.weight.clone().map(|weight| weight + 0.25);
        }
    });
    let adapter = Adapter::from_model(&model, &LORA, None).expect("an adapted model");
    assert_eq!(adapter.classes(), Some(2));
    assert_eq!(adapter.config.task, AdapterTask::Classification);
    assert_eq!(adapter.config.modules_to_save, ["classifier"]);
    let names = ["attention.output.dense", "query"].map(str::to_owned).to_vec();
    assert_eq!(adapter.config.target_modules, TargetModules::Names(names));
    assert_eq!(adapter.tensors["base_model.model.classifier.weight"].shape().to_vec(), [2, 8]);

    let written = tempfile::tempdir().expect("a folder for temporary files");
    adapter.write(written.path()).expect("a writable folder");
    let adapter = read(written.path());
    assert_eq!(class_logits(&adapter.apply(load(2)).expect("it fits")), class_logits(&model));
    let error = adapter.apply(load(5)).expect_err("another number of classes").to_string();
    assert!(error.contains("`base_model.model.classifier.") && error.contains("[2"), "{error}");
    assert!(error.contains("[5"), "{error}");
}

#[test]
fn targets_are_the_shortest_names_that_fit_nothing_else() {
    let check = |targets: &[&str], expected: &[&str]| {
        let model = classifier(Model::bert().write().path(), Some(2)).model;
        let model = adapt(model, targets, &LORA, 3).expect("layers of these names");
        let adapter = Adapter::from_model(&model, &LORA, None).expect("an adapted model");
        let expected = expected.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(adapter.config.target_modules, TargetModules::Names(expected), "{targets:?}");
    };
    check(&["query", "value"], &["query", "value"]);
    check(&["layer.1.attention.self.query"], &["1.attention.self.query"]);
    check(&["intermediate.dense"], &["intermediate.dense"]);
    check(&["output.dense"], &["output.dense"]);
    check(&["pooler.dense"], &["pooler.dense"]);
}

#[test]
fn adapters_that_do_not_fit_say_why() {
    let check = |change: &dyn Fn(&mut Value, &mut Tensors), expected: &[&str]| {
        let (mut config, mut tensors) = llama_adapter();
        change(&mut config, &mut tensors);
        let base = causal(Model::llama().write().path());
        let error = Adapter::read(write(&config, &tensors).path()).and_then(|adapter| adapter.apply(base));
        let error = error.expect_err("it does not fit").to_string();
        for part in expected {
            assert!(error.contains(part), "{error}");
        }
    };
    let (a, b) = (format!("{QUERY}.lora_A.weight"), format!("{QUERY}.lora_B.weight"));
    check(&|_, tensors| add(tensors, &a, &[2, 16]), &[&a, "[2, 16]", "[2, 8]", "another base model"]);
    check(&|_, tensors| add(tensors, &b, &[16, 2]), &[&b, "[16, 2]", "[8, 2]"]);
    check(&|config, _| config["r"] = json!(4), &["has rank 2, but the adapter's settings say 4"]);
    check(&|_, tensors| drop(tensors.remove(&a)), &["missing [", &a, "not used ["]);
    check(&|_, tensors| tensors.retain(|name, _| !name.starts_with(QUERY)), &["missing", &a, &b]);
    check(
        &|_, tensors| {
            add(tensors, "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", &[2, 8]);
            add(tensors, "base_model.model.model.rotary.weight", &[2, 11]);
        },
        &["not used", "layers.7.self_attn.q_proj.lora_A.weight", "model.rotary.weight"],
    );
    check(&|config, _| config["modules_to_save"] = json!(["lm_head"]), &["missing", "base_model.model.lm_head.weight"]);
}

#[test]
fn settings_that_are_not_computed_are_refused_by_name() {
    let check = |setting: &str, value: Value| {
        let (mut config, tensors) = llama_adapter();
        config[setting] = value;
        let error = Adapter::read(write(&config, &tensors).path()).expect_err("not computed here");
        let (LoadError::AdapterSetting { setting: found, .. } | LoadError::AdapterFeature { setting: found, .. }) =
            error
        else {
            panic!("{error}")
        };
        assert_eq!(found, setting);
    };
    check("peft_type", json!("IA3"));
    check("bias", json!("all"));
    check("bias", json!("lora_only"));
    for start in ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "a new one"] {
        check("init_lora_weights", json!(start));
    }
    for setting in ADAPTER_SETTINGS.iter().filter(|setting| matches!(setting.treatment, Treatment::Refused(_))) {
        for value in [json!(true), json!([1]), json!({ "a": 1 })] {
            check(setting.name, value);
        }
    }
    check("layers_to_transform", json!("1"));
    check("layers_to_transform", json!([0.5]));
    check("trainable_token_indices", json!({ "embed_tokens": [1], "lm_head": [1] }));
    check("rank_pattern", json!({ "q_proj": 0.5 }));
    check("rank_pattern", json!({ "(q_proj": 3 }));
    check("alpha_pattern", json!({ "q_proj": "16" }));
    check("target_modules", json!("(q_proj"));
    check("target_modules", json!(1));
    check("exclude_modules", json!("*"));
    check("something_new", json!("on"));
}

#[test]
fn settings_without_effect_are_taken() {
    let base = causal(Model::llama().write().path());
    let (plain, tensors) = llama_adapter();
    let expected = lm_logits(&read(write(&plain, &tensors).path()).apply(base.clone()).expect("it fits"));
    let check = |setting: &str, value: Value| {
        let mut config = plain.clone();
        config[setting] = value;
        let adapted = read(write(&config, &tensors).path()).apply(base.clone()).expect("it fits");
        assert_eq!(lm_logits(&adapted), expected, "{setting}");
    };
    for setting in ADAPTER_SETTINGS {
        match setting.treatment {
            Treatment::NoEffect(_) => check(setting.name, json!("anything")),
            Treatment::Refused(_) => check(setting.name, json!([])),
            Treatment::Followed(_) => {}
        }
    }
    for start in [json!(false), json!("gaussian"), json!("eva"), json!("orthogonal"), json!("mica")] {
        check("init_lora_weights", start);
    }
    check("something_new", json!(null));
    check("something_new", json!(false));
    check("lora_dropout", json!(0.5));
    check("ensure_weight_tying", json!(true));
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let error = Adapter::read(folder.path()).expect_err("an empty folder").to_string();
    assert!(error.contains("has no adapter: looked for `adapter_config.json`"), "{error}");
    write_json(&folder.path().join("adapter_config.json"), &llama_adapter().0);
    let error = Adapter::read(folder.path()).expect_err("no tensors").to_string();
    assert!(error.contains("looked for `adapter_model.safetensors`"), "{error}");
}

#[test]
fn a_model_without_an_adapter_has_none_to_write() {
    let error = Adapter::from_model(&causal(Model::llama().write().path()), &LORA, None).expect_err("not adapted");
    assert!(matches!(error, LoadError::NotAdapted), "{error}");
}

#[test]
fn another_adapter_takes_the_place_of_the_first() {
    let base = causal(Model::llama().write().path());
    let (config, tensors) = llama_adapter();
    let adapter = read(write(&config, &tensors).path());
    let mut other = adapter.clone();
    for data in other.tensors.values_mut() {
        let halves: Vec<f32> = data.iter::<f32>().map(|value| value / 2.0).collect();
        *data = TensorData::new(halves, data.shape().to_vec());
    }
    let direct = other.apply(base.clone()).expect("it fits");
    let after = other.apply(adapter.apply(base).expect("it fits")).expect("it fits");
    assert_eq!(lm_logits(&after), lm_logits(&direct));
}

#[test]
fn the_page_lists_every_setting() {
    let treatment = |treatment| match treatment {
        Treatment::Followed(how) => ("followed", how),
        Treatment::NoEffect(why) => ("no effect", why),
        Treatment::Refused(why) => ("refused", why),
    };
    let row = |setting: &AdapterSetting| {
        let (what, why) = treatment(setting.treatment);
        format!("| `{}` | {what} | {why} |\n", setting.name)
    };
    let table: String = ADAPTER_SETTINGS.iter().map(row).collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/methods/models.md");
    let page = std::fs::read_to_string(page).expect("a page of the project");
    assert!(page.contains(&table), "docs/methods/models.md lacks this table:\n{table}");
}
