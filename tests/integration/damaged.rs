//! Models whose settings and tensors contradict each other, and files that are not what they seem.

use std::path::Path;
use std::process::Command;

use burn::tensor::Device;
use hyperinf::models::{
    Adapter, ClassifierOptions, LoadError, OwnHead, TextTokenizer, gguf_tokenizer, load_causal_lm, load_classifier,
    load_encoder, load_gguf, load_llama2c, open_regular, read_regular,
};
use hyperinf_tests::devices;
use serde_json::{Value, json};

use crate::folders::{Model, shard_name, write_json};
use crate::loading::{causal, refusal, refused};
use crate::peft::{class_logits, llama_adapter, write};

fn device() -> Device {
    devices().swap_remove(0).1
}

#[test]
fn settings_that_contradict_the_tensors_are_errors_before_memory_is_taken() {
    let big = [json!(1u64 << 40), json!(1u64 << 62), json!(10)];
    let check = |model: &dyn Fn() -> Model, setting: &str, value: &Value| {
        let mut model = model();
        model.config[setting] = value.clone();
        let error = refusal(model.write().path());
        assert!(error.contains(&format!("`{setting}`")), "{setting} = {value}: {error}");
        // Relations between settings are checked in f64, which shows 16 digits.
        let shown = [value.to_string(), value.as_f64().map(|value| value.to_string()).unwrap_or_default()];
        assert!(shown.iter().any(|value| !value.is_empty() && error.contains(value)), "{setting} = {value}: {error}");
    };
    for value in &big {
        for setting in ["vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "type_vocab_size"]
        {
            check(&Model::bert_classifier, setting, value);
        }
        for setting in ["vocab_size", "hidden_size", "intermediate_size", "num_key_value_heads", "head_dim"] {
            check(&Model::llama, setting, value);
        }
        // With a few layers too many, the tensors that are missing are listed.
        for model in [Model::bert_classifier as fn() -> Model, Model::roberta_classifier, Model::llama] {
            if *value != json!(10) {
                check(&model, "num_hidden_layers", value);
            }
        }
        check(&Model::roberta_classifier, "pad_token_id", &json!(u64::MAX));
    }
    for value in [json!(0), json!(-1), json!(2.5), json!("8"), json!([8]), json!(true)] {
        for setting in ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"] {
            for model in [Model::bert_classifier as fn() -> Model, Model::llama] {
                check(&model, setting, &value);
            }
        }
    }
    check(&Model::bert_classifier, "num_attention_heads", &json!(3));
    check(&Model::llama, "num_key_value_heads", &json!(3));
    let mut model = Model::llama();
    model.config["num_attention_heads"] = json!(1u64 << 40);
    model.config["num_key_value_heads"] = json!(1u64 << 40);
    model.config["head_dim"] = json!(1u64 << 40);
    let error = refusal(model.write().path());
    let product = "`num_key_value_heads` · `head_dim` = 1099511627776 · 1099511627776";
    assert!(error.contains(product) && error.contains("[4, 8]"), "{error}");
}

/// A safetensors file of this header and length after it.
fn safetensors(path: &Path, header: &str, bytes: usize) {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(vec![0; bytes]);
    std::fs::write(path, file).expect("a writable folder");
}

#[test]
fn headers_of_safetensors_that_cannot_be_true_are_errors() {
    let folder = Model::llama().write();
    let path = folder.path().join("model.safetensors");
    let check = |header: &str, bytes: usize| {
        safetensors(&path, header, bytes);
        let error = refused(folder.path());
        assert!(matches!(error, LoadError::Header { .. } | LoadError::Length { .. }), "{header}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    };
    let side = (1u64 << 61) - 1;
    let tensor = |name: &str, side: u64, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{side}],"data_offsets":[{from},{to}]}}"#)
    };
    let many: Vec<String> = (0..8).map(|i| tensor(&format!("t{i}"), side, i * side, (i + 1) * side)).collect();
    check(&format!("{{{}}}", many.join(",")), 40);
    check(&format!("{{{}}}", tensor("t", u64::MAX, 0, u64::MAX)), 40);
    check(&format!("{{{},{}}}", tensor("a", 8, 0, 8), tensor("b", 8, 16, 24)), 24);
    check(&format!("{{{},{}}}", tensor("a", 8, 0, 8), tensor("b", 8, 4, 12)), 12);
    check(&format!("{{{}}}", tensor("a", 8, 8, 0)), 8);
    check(&format!("{{{},{}}}", tensor("a", 4, 0, 4), tensor("a", 4, 0, 4)), 4);
    check(r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4);
    check(r#"{"t":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,4]}}"#, 4);
    check(r#"{"t":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#, 4);
    check("[]", 0);
    check("{", 0);
    safetensors(&path, r#"{"model.embed_tokens.weight":{"dtype":"F32","shape":[0,8],"data_offsets":[0,0]}}"#, 0);
    assert!(matches!(refused(folder.path()), LoadError::Field { .. } | LoadError::TensorNames { .. }));
}

#[test]
fn indices_lead_to_no_other_folder() {
    for file in ["../model.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "no-such.safetensors"] {
        let folder = Model::llama().write_sharded();
        let index = json!({ "weight_map": { "lm_head.weight": file } });
        write_json(&folder.path().join("model.safetensors.index.json"), &index);
        let error = refusal(folder.path());
        assert!(error.contains(if file.is_empty() { "model.safetensors.index.json" } else { file }), "{error}");
    }
}

#[test]
fn pointers_of_git_lfs_are_said_to_be_pointers() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n";
    let check = |model: &Path, file: &Path| {
        std::fs::write(file, pointer).expect("a writable folder");
        let error = refusal(model);
        assert!(error.contains("run `git lfs pull`"), "{error}");
        assert!(error.contains(&file.file_name().expect("a file").to_string_lossy().into_owned()), "{error}");
    };
    let folder = Model::llama().write();
    check(folder.path(), &folder.path().join("model.safetensors"));
    check(folder.path(), &folder.path().join("config.json"));
    let folder = Model::llama().write_sharded();
    check(folder.path(), &folder.path().join(shard_name(1)));
    check(folder.path(), &folder.path().join("model.safetensors.index.json"));
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, pointer).expect("a writable folder");
    assert!(load_gguf(&file, &device()).expect_err("a pointer").to_string().contains("git lfs pull"));
    let (config, tensors) = llama_adapter();
    let folder = write(&config, &tensors);
    std::fs::write(folder.path().join("adapter_model.safetensors"), pointer).expect("a writable folder");
    assert!(Adapter::read(folder.path()).expect_err("a pointer").to_string().contains("git lfs pull"));
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_an_error_and_never_waited_for() {
    let pipe = |path: &Path| {
        let made = Command::new("mkfifo").arg(path).status().expect("mkfifo is there");
        assert!(made.success(), "no pipe at {}", path.display());
    };
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let at = |name: &str| folder.path().join(name);
    pipe(&at("pipe"));
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
    std::os::unix::fs::symlink(at("pipe"), at("link")).expect("a link");
    for (path, kind) in [
        (at("pipe"), "a named pipe"),
        (at("link"), "a named pipe"),
        (at("socket"), "a socket"),
        (folder.path().to_owned(), "a folder"),
        ("/dev/zero".into(), "a device"),
        ("/dev/null".into(), "a device"),
    ] {
        let error = open_regular(&path).expect_err(kind).to_string();
        assert_eq!(error, format!("it is {kind}, not a regular file"));
        assert!(read_regular(&path).is_err());
    }
    for name in ["model.gguf", "model.bin"] {
        pipe(&at(name));
        let error = match name {
            "model.gguf" => load_gguf(&at(name), &device()).expect_err("a pipe"),
            _ => load_llama2c(&at(name), &device()).expect_err("a pipe"),
        };
        assert!(error.to_string().contains("named pipe"), "{error}");
    }
    assert!(gguf_tokenizer(&at("model.gguf")).expect_err("a pipe").to_string().contains("named pipe"));
    for name in ["config.json", "model.safetensors"] {
        let folder = Model::llama().write();
        std::fs::remove_file(folder.path().join(name)).expect("written before");
        pipe(&folder.path().join(name));
        let error = load_causal_lm(folder.path(), &device()).expect_err("a pipe").to_string();
        assert!(error.contains(name) && error.contains("named pipe"), "{error}");
    }
    let tokenizer = tempfile::tempdir().expect("a folder for temporary files");
    pipe(&tokenizer.path().join("tokenizer.json"));
    assert!(TextTokenizer::read(tokenizer.path()).expect_err("a pipe").to_string().contains("named pipe"));
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let (config, tensors) = llama_adapter();
        let folder = write(&config, &tensors);
        std::fs::remove_file(folder.path().join(name)).expect("written before");
        pipe(&folder.path().join(name));
        assert!(Adapter::read(folder.path()).expect_err("a pipe").to_string().contains("named pipe"));
    }
}

#[test]
fn files_of_the_hubs_cache_may_be_paths_of_their_content() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let (snapshot, blobs) = (folder.path().join("snapshots/1"), folder.path().join("blobs"));
    for path in [&snapshot, &blobs] {
        std::fs::create_dir_all(path).expect("a writable folder");
    }
    std::fs::write(blobs.join("abc"), "content").expect("a writable folder");
    let check = |text: &str, expected: &str| {
        std::fs::write(snapshot.join("file"), text).expect("a writable folder");
        assert_eq!(String::from_utf8(read_regular(&snapshot.join("file")).expect("a file")).expect("text"), expected);
    };
    check("../../blobs/abc", "content");
    check("../../blobs/abc\n", "content");
    check("../../blobs/../abc", "../../blobs/../abc");
    check("../../blobs/", "../../blobs/");
    check("../../other/abc", "../../other/abc");
    std::fs::write(snapshot.join("file"), "../../blobs/def").expect("a writable folder");
    assert!(read_regular(&snapshot.join("file")).is_err(), "the content is not there");
    // Outside a cache a text is a text.
    std::fs::write(folder.path().join("file"), "../../blobs/abc").expect("a writable folder");
    assert_eq!(read_regular(&folder.path().join("file")).expect("a file"), b"../../blobs/abc");
}

#[test]
fn a_head_that_is_not_used_keeps_nobody_from_the_encoder() {
    let base = |change: &dyn Fn(&mut Model)| {
        let mut model = Model::bert_classifier();
        change(&mut model);
        model.write()
    };
    let options = |classes, own_head| ClassifierOptions { classes, own_head, ..ClassifierOptions::default() };
    let check = |change: &dyn Fn(&mut Model), why: &str| {
        let folder = base(change);
        load_encoder(folder.path(), &device()).expect("heads are left out");
        let used = load_classifier(folder.path(), &options(None, OwnHead::Used), &device());
        let error = used.expect_err("its own head cannot be used");
        assert!(error.to_string().contains(why), "{error}");
        for classes in [2, 3] {
            let loaded = load_classifier(folder.path(), &options(Some(classes), OwnHead::Replaced), &device());
            let loaded = loaded.unwrap_or_else(|error| panic!("{why}: {error}"));
            assert_eq!(loaded.model.classes(), classes, "{why}");
        }
    };
    for kind in ["multi_label_classification", "regression", "another"] {
        check(&|model| model.config["problem_type"] = json!(kind), &format!("`problem_type` = \"{kind}\""));
    }
    let one = |model: &mut Model| {
        model.add("classifier.weight", &[1, 8]);
        model.add("classifier.bias", &[1]);
    };
    check(&one, "`num_labels` = 1");
    check(&|model| model.config["architectures"] = json!(["BertForTokenClassification"]), "BertForTokenClassification");
    check(&|model| model.tensors.retain(|name, _| !name.contains("pooler")), "bert.pooler.dense.weight");
    check(
        &|model| {
            one(model);
            model.add("qa_outputs.weight", &[2, 8]);
            model.add("qa_outputs.bias", &[2]);
            model.add("cls.predictions.bias", &[11]);
        },
        "`num_labels` = 1",
    );
    let folder = base(&|model| model.config["architectures"] = json!(["BertForSequenceClassification"]));
    load_classifier(folder.path(), &options(None, OwnHead::Used), &device()).expect("a head of this kind");
}

#[test]
fn names_of_classes_are_kept_with_a_replaced_head_of_their_number() {
    let mut model = Model::bert_classifier();
    model.config["id2label"] = json!({ "0": "bad", "1": "so-so", "2": "good" });
    let folder = model.write();
    let load = |classes| {
        let options =
            ClassifierOptions { classes: Some(classes), own_head: OwnHead::Replaced, ..ClassifierOptions::default() };
        load_classifier(folder.path(), &options, &device()).expect("a valid folder")
    };
    assert_eq!(load(3).report.labels.expect("named"), ["bad", "so-so", "good"]);
    assert_eq!(load(2).report.labels, None);
    let own = load_classifier(folder.path(), &ClassifierOptions::default(), &device()).expect("a valid folder");
    assert_ne!(class_logits(&own.model), class_logits(&load(3).model), "the head was not replaced");
}

#[test]
fn a_whole_model_is_not_stopped_by_these_checks() {
    causal(Model::llama().write().path());
}
