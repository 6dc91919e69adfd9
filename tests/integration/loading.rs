//! Models from Hugging Face folders.

use std::path::Path;

use burn::tensor::Device;
use hyperinf::models::{
    CausalLm, ClassifierOptions, EncoderClassifier, Head, HeadKind, LoadError, LoadReport, LoadedModel, ModelKind,
    load_causal_lm, load_classifier, load_encoder, load_pipeline, load_vision_language, model_kind, weights,
};
use hyperinf_tests::devices;
use serde_json::json;

use crate::folders::{Model, Number, Tensors, shard_name, transposed, write_json, write_tensors};

pub(crate) fn device() -> Device {
    devices().swap_remove(0).1
}

pub(crate) fn classifier(folder: &Path, classes: Option<usize>) -> LoadedModel<EncoderClassifier> {
    let options = ClassifierOptions { classes, ..ClassifierOptions::default() };
    load_classifier(folder, &options, &device()).expect("a valid folder")
}

pub(crate) fn causal(folder: &Path) -> CausalLm {
    load_causal_lm(folder, &device()).expect("a valid folder").model
}

/// All parameters of a module by path, as f32.
fn parameters<M: burn::module::Module>(module: &M) -> Vec<(String, Vec<f32>)> {
    let weights = weights(module).expect("the device can be read");
    weights.into_iter().map(|(path, data)| (path, data.iter::<f32>().collect())).collect()
}

fn parameter<M: burn::module::Module>(module: &M, path: &str) -> Vec<f32> {
    let found = parameters(module).into_iter().find(|(name, _)| name == path);
    found.unwrap_or_else(|| panic!("no parameter {path}")).1
}

#[test]
fn tensors_go_where_their_names_say_and_linear_weights_are_transposed() {
    let model = Model::bert_classifier();
    let folder = model.write();
    for (name, device) in devices() {
        let loaded = load_classifier(folder.path(), &ClassifierOptions::default(), &device).expect("a valid folder");
        assert_eq!(loaded.report, LoadReport::default(), "{name}");
        let linear = |tensor: &str| transposed(&model.tensors[tensor]);
        let same = |tensor: &str| model.tensors[tensor].1.clone();
        let layer = "bert.encoder.layer.1";
        for (path, expected) in [
            ("encoder.token_embedding.weight", same("bert.embeddings.word_embeddings.weight")),
            ("encoder.segment_embedding.weight", same("bert.embeddings.token_type_embeddings.weight")),
            ("encoder.norm.gamma", same("bert.embeddings.LayerNorm.weight")),
            ("encoder.layers.1.k_proj.weight", linear(&format!("{layer}.attention.self.key.weight"))),
            ("encoder.layers.1.k_proj.bias", same(&format!("{layer}.attention.self.key.bias"))),
            ("encoder.layers.1.fc1.weight", linear(&format!("{layer}.intermediate.dense.weight"))),
            ("encoder.layers.1.fc2.weight", linear(&format!("{layer}.output.dense.weight"))),
            ("encoder.layers.1.attention_norm.beta", same(&format!("{layer}.attention.output.LayerNorm.bias"))),
            ("classifier.weight", linear("classifier.weight")),
        ] {
            assert_eq!(parameter(&loaded.model, path), expected, "{name}: {path}");
        }
        assert_eq!(parameters(&loaded.model).len(), model.tensors.len(), "{name}");
    }
    let model = Model::llama();
    let folder = model.write();
    for (name, device) in devices() {
        let loaded = load_causal_lm(folder.path(), &device).expect("a valid folder").model;
        for (path, tensor) in [
            ("decoder.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight"),
            ("decoder.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(parameter(&loaded, path), transposed(&model.tensors[tensor]), "{name}: {path}");
        }
        assert_eq!(parameter(&loaded, "decoder.embed_tokens.weight"), model.tensors["model.embed_tokens.weight"].1);
    }
}

#[test]
fn prefixes_may_be_absent_and_old_names_of_norms_are_known() {
    let expected = parameters(&classifier(Model::bert_classifier().write().path(), None).model);
    let bare = Model::bert_classifier().renamed(|name| name.trim_start_matches("bert.").to_owned());
    assert_eq!(parameters(&classifier(bare.write().path(), None).model), expected);
    let old = Model::bert_classifier().renamed(|name| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    });
    assert_eq!(parameters(&classifier(old.write().path(), None).model), expected);
    let llama = Model::llama();
    let expected = parameters(&causal(llama.write().path()));
    let bare = llama.renamed(|name| name.trim_start_matches("model.").to_owned());
    assert_eq!(parameters(&causal(bare.write().path())), expected);
}

#[test]
fn shards_are_one_model() {
    let expected = parameters(&causal(Model::llama().write().path()));
    assert_eq!(parameters(&causal(Model::llama().write_sharded().path())), expected);
}

#[test]
fn all_types_of_floats_are_read() {
    let model = Model::llama();
    let folder = model.write();
    let expected = parameters(&causal(folder.path()));
    for number in [Number::F16, Number::BF16, Number::F64] {
        write_tensors(&folder.path().join("model.safetensors"), &model.tensors, number);
        assert_eq!(parameters(&causal(folder.path())), expected, "{number:?}");
    }
    write_tensors(&folder.path().join("model.safetensors"), &model.tensors, Number::I32);
    let error = refusal(folder.path());
    assert!(error.contains("is I32: only F32, F16, BF16 and F64"), "{error}");
}

#[test]
fn tensors_without_meaning_are_left_out_by_name() {
    let mut model = Model::bert_classifier();
    model.add("bert.embeddings.position_ids", &[1, 16]);
    model.add("cls.predictions.bias", &[11]);
    let report = classifier(model.write().path(), None).report;
    assert_eq!(report.ignored, ["bert.embeddings.position_ids", "cls.predictions.bias"]);
    assert!(report.created.is_empty(), "{report:?}");

    let mut model = Model::llama();
    model.config["tie_word_embeddings"] = json!(true);
    model.add("model.layers.0.self_attn.rotary_emb.inv_freq", &[1]);
    let loaded = load_causal_lm(model.write().path(), &device()).expect("a valid folder");
    assert_eq!(loaded.report.ignored, ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]);
}

#[test]
fn every_tensor_that_is_missing_or_left_over_is_listed() {
    for mut model in [Model::llama(), Model::bert_classifier()] {
        let lost: Vec<String> = model.tensors.keys().filter(|name| name.contains("layer")).take(2).cloned().collect();
        model.tensors.retain(|name, _| !lost.contains(name));
        model.add("odd", &[1]);
        model.add("rotary", &[1]);
        let folder = model.write();
        let error = refused(folder.path());
        let LoadError::TensorNames { missing, unused, .. } = error else { panic!("{error}") };
        assert_eq!((missing, unused), (lost, vec!["odd".to_owned(), "rotary".to_owned()]));
    }
}

#[test]
fn a_tensor_of_another_shape_is_an_error_with_both() {
    for (mut model, name) in
        [(Model::llama(), "model.layers.1.mlp.up_proj.weight"), (Model::bert_classifier(), "bert.pooler.dense.weight")]
    {
        let needed = format!("{:?}", model.tensors[name].0);
        model.add(name, &[7, 8]);
        let error = refused(model.write().path());
        let LoadError::Size { name: found_name, found, expected, .. } = error else { panic!("{error}") };
        assert_eq!((found_name.as_str(), found, expected), (name, vec![7, 8], needed));
    }
}

/// Loads what is in the folder, whatever it is, which must fail.
pub(crate) fn refused(folder: &Path) -> LoadError {
    match model_kind(folder) {
        Ok(ModelKind::CausalLm) => load_causal_lm(folder, &device()).expect_err("not a valid folder"),
        Ok(ModelKind::Encoder) => {
            let options = ClassifierOptions::default();
            load_classifier(folder, &options, &device()).expect_err("not a valid folder")
        }
        Ok(ModelKind::VisionLanguage) => load_vision_language(folder, &device()).expect_err("not a valid folder"),
        Ok(ModelKind::TextToImage) => load_pipeline(folder, &device()).expect_err("not a valid folder"),
        Err(error) => error,
    }
}

pub(crate) fn refusal(folder: &Path) -> String {
    refused(folder).to_string()
}

#[test]
fn damaged_files_are_errors() {
    let check = |damage: &dyn Fn(&Path), expected: &str| {
        let folder = Model::llama().write_sharded();
        damage(folder.path());
        let error = refusal(folder.path());
        assert!(error.contains(expected), "{error}");
    };
    let first = |folder: &Path| folder.join(shard_name(0));
    let rewrite = |path: &Path, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        std::fs::write(path, change(std::fs::read(path).expect("written before"))).expect("the folder is there");
    };
    check(&|folder| rewrite(&first(folder), &|b| b[..b.len() - 1].to_vec()), "damaged or not complete");
    check(&|folder| rewrite(&first(folder), &|b| [b, vec![0]].concat()), "damaged or not complete");
    check(&|folder| rewrite(&first(folder), &|b| b[..5].to_vec()), "has 5 bytes where its header says 8");
    check(&|folder| rewrite(&first(folder), &|b| [&[255; 8], &b[8..]].concat()), "not a valid safetensors file");
    check(&|folder| rewrite(&first(folder), &|b| [&b[..8], b"[", &b[9..]].concat()), "not a valid safetensors file");
    check(&|folder| std::fs::remove_file(first(folder)).expect("written before"), "model-00001-of-00002.safetensors");
    check(&|folder| std::fs::write(folder.join("config.json"), "{").expect("the folder is there"), "not as expected");
    check(
        &|folder| write_tensors(&first(folder), &Tensors::new(), Number::F32),
        "says that tensor `lm_head.weight` is in `model-00001-of-00002.safetensors`, which does not have it",
    );
    let index = json!({ "weight_map": { "lm_head.weight": "../model-00001-of-00002.safetensors" } });
    check(
        &|folder| write_json(&folder.join("model.safetensors.index.json"), &index),
        "names `../model-00001-of-00002.safetensors`, which is not the name of a file in its folder",
    );
    let twice = Tensors::from([("lm_head.weight".to_owned(), (vec![1], vec![0.0]))]);
    check(&|folder| write_tensors(&folder.join(shard_name(1)), &twice, Number::F32), "tensor `lm_head.weight` is in");
}

#[test]
fn folders_without_a_model_say_what_was_looked_for() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    assert!(refusal(folder.path()).contains("has no model: looked for `config.json`"));
    Model::llama().write_config(folder.path());
    assert!(refusal(folder.path()).contains("looked for `model.safetensors` and `model.safetensors.index.json`"));
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    write_json(&folder.path().join("adapter_config.json"), &json!({ "base_model_name_or_path": "a/b" }));
    assert!(refusal(folder.path()).contains("is an adapter, not a model: load its base model `a/b`"));
}

#[test]
fn models_of_other_types_are_refused_with_a_list_of_ours() {
    let mut model = Model::llama();
    model.config["model_type"] = json!("mamba");
    let error = refusal(model.write().path());
    assert!(
        error.contains("`mamba`") && error.contains("bert, roberta, xlm-roberta, llama, mistral, qwen2"),
        "{error}"
    );

    let llama = Model::llama().write();
    let error = load_classifier(llama.path(), &ClassifierOptions::default(), &device()).expect_err("a decoder");
    assert!(error.to_string().contains("type `llama`; classifiers are of these types: bert, roberta"), "{error}");
    let bert = Model::bert().write();
    let error = load_causal_lm(bert.path(), &device()).expect_err("an encoder").to_string();
    assert!(error.contains("type `bert`; language models are of these types: llama, mistral, qwen2"), "{error}");
    assert_eq!(model_kind(bert.path()).expect("known"), ModelKind::Encoder);
    assert_eq!(model_kind(llama.path()).expect("known"), ModelKind::CausalLm);
}

#[test]
fn the_checkpoints_own_head_is_used_where_it_fits() {
    let mut model = Model::bert_classifier();
    model.config["id2label"] = json!({ "0": "bad", "1": "so-so", "2": "good" });
    let folder = model.write();
    for classes in [None, Some(3)] {
        let loaded = classifier(folder.path(), classes);
        assert_eq!(loaded.report.labels.as_deref().expect("named"), ["bad", "so-so", "good"]);
        assert_eq!(parameter(&loaded.model, "classifier.weight"), transposed(&model.tensors["classifier.weight"]));
    }
    let loaded = classifier(folder.path(), Some(2));
    let expected = LoadReport {
        ignored: vec!["classifier.bias".to_owned(), "classifier.weight".to_owned()],
        created: vec!["classifier.bias".to_owned(), "classifier.weight".to_owned()],
        labels: None,
    };
    assert_eq!((loaded.report, loaded.model.classes()), (expected, 2));

    model.config["id2label"] = json!({ "0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2" });
    assert_eq!(classifier(model.write().path(), None).report.labels, None);
    model.config["problem_type"] = json!("regression");
    assert!(refusal(model.write().path()).contains("`problem_type` = \"regression\""));
}

fn kind(model: &EncoderClassifier) -> HeadKind {
    match model.classifier {
        Head::Mean(_) => HeadKind::Mean,
        Head::Pooler(_) => HeadKind::Pooler,
        Head::Dense(_) => HeadKind::Dense,
    }
}

#[test]
fn heads_have_the_form_of_their_family() {
    let form = |model: &Model, head: Option<HeadKind>| {
        let options = ClassifierOptions { classes: Some(5), head, seed: 1, ..ClassifierOptions::default() };
        let model = load_classifier(model.write().path(), &options, &device()).expect("a valid folder").model;
        kind(&model)
    };
    let mut without_pooler = Model::bert();
    without_pooler.tensors.retain(|name, _| !name.contains("pooler"));
    assert_eq!(form(&Model::bert(), None), HeadKind::Pooler);
    assert_eq!(form(&Model::bert(), Some(HeadKind::Mean)), HeadKind::Mean);
    assert_eq!(form(&without_pooler, None), HeadKind::Mean);
    assert_eq!(form(&Model::roberta_classifier(), None), HeadKind::Dense);
    let own = classifier(Model::roberta_classifier().write().path(), None);
    assert_eq!((kind(&own.model), own.model.classes()), (HeadKind::Dense, 3));
    assert!(refusal(Model::bert().write().path()).contains("has no classification head"));
    // A head of BERT's was trained on a pooler: without it the checkpoint is another kind of model.
    without_pooler.add("classifier.weight", &[3, 8]);
    without_pooler.add("classifier.bias", &[3]);
    assert!(refusal(without_pooler.write().path()).contains("missing [\"bert.pooler.dense.bias\""));
}

#[test]
fn an_encoder_alone_leaves_heads_out() {
    let folder = Model::bert_classifier().write();
    let loaded = load_encoder(folder.path(), &device()).expect("a valid folder");
    assert_eq!(loaded.report.ignored, ["classifier.bias", "classifier.weight"]);
    assert_eq!(parameters(&loaded.model).len(), Model::bert().tensors.len());
}
