//! PEFT's rules for names, and its tied embeddings.

use hyperinf::models::{Adapter, CausalLm, LoadError};
use hyperinf_tests::compare::assert_close;
use serde_json::{Value, json};

use crate::folders::{Model, Tensors, add, transposed};
use crate::loading::{causal, classifier};
use crate::peft::{class_logits, llama_adapter, lm_logits, merged, read, write};

/// The shape and numbers of a tensor.
type Values = (Vec<usize>, Vec<f32>);
/// A tensor with its name.
type Named = (String, Values);

const PREFIX: &str = "base_model.model.";
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// The linear layers of `Model::llama`, with their inputs and outputs.
fn layers() -> Vec<(String, usize, usize)> {
    let parts = [
        ("self_attn.q_proj", 8, 8),
        ("self_attn.k_proj", 8, 4),
        ("self_attn.v_proj", 8, 4),
        ("self_attn.o_proj", 8, 8),
        ("mlp.gate_proj", 8, 12),
        ("mlp.up_proj", 8, 12),
        ("mlp.down_proj", 12, 8),
    ];
    let layer = |layer| parts.map(|(part, inputs, outputs)| (format!("model.layers.{layer}.{part}"), inputs, outputs));
    (0..2).flat_map(layer).collect()
}

/// The factors of the layers whose names contain one of these.
fn factors(parts: &[&str], rank: usize) -> Tensors {
    let mut tensors = Tensors::new();
    for (name, inputs, outputs) in layers() {
        if parts.iter().any(|part| name.contains(part)) {
            add(&mut tensors, &format!("{PREFIX}{name}.lora_A.weight"), &[rank, inputs]);
            add(&mut tensors, &format!("{PREFIX}{name}.lora_B.weight"), &[outputs, rank]);
        }
    }
    tensors
}

fn config(settings: Value) -> Value {
    let mut config = json!({ "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6 });
    for (name, value) in settings.as_object().expect("settings") {
        config[name] = value.clone();
    }
    config
}

fn applied(config: &Value, tensors: &Tensors) -> Result<CausalLm, LoadError> {
    let base = causal(Model::llama().write().path());
    Adapter::read(write(config, tensors).path()).and_then(|adapter| adapter.apply(base))
}

#[test]
fn layers_are_chosen_as_peft_chooses_them() {
    // The layers named are those that PEFT's `check_target_module_exists` finds.
    let check = |settings: Value, named: &[&str]| {
        let config = config(settings);
        let whole = factors(named, 2);
        applied(&config, &whole).unwrap_or_else(|error| panic!("{config}: {error}"));
        let mut less = whole.clone();
        let stem = less.pop_first().expect("a layer").0.replace(".lora_A.weight", "");
        less.remove(&format!("{stem}.lora_B.weight"));
        let error = applied(&config, &less).expect_err("a named layer has no tensors").to_string();
        assert!(error.contains(&format!("missing [\"{stem}.lora_A.weight\"")), "{config}: {error}");
        for (name, ..) in layers().iter().filter(|(name, ..)| !named.iter().any(|part| name.contains(part))) {
            let mut more = whole.clone();
            more.extend(factors(&[name], 2));
            let error = applied(&config, &more).expect_err("a layer that is not named has tensors").to_string();
            assert!(error.contains(&format!("tensors for layer `{name}`")), "{config}: {error}");
        }
    };
    check(json!({ "target_modules": ["q_proj", "v_proj"] }), &["q_proj", "v_proj"]);
    check(json!({ "target_modules": null }), &["q_proj", "v_proj"]);
    check(json!({ "target_modules": ["self_attn.k_proj", "up_proj"] }), &["k_proj", "up_proj"]);
    check(json!({ "target_modules": "all-linear" }), &[""]);
    check(json!({ "target_modules": "All-Linear", "exclude_modules": ["mlp.up_proj"] }), &["attn", "gate", "down"]);
    check(json!({ "target_modules": r".*\.(q|k)_proj" }), &["q_proj", "k_proj"]);
    check(json!({ "target_modules": r"model\.layers\.1\..*(?<!down)_proj" }), &["1.self", "1.mlp.gate", "1.mlp.up"]);
    check(json!({ "target_modules": "all-linear", "exclude_modules": ".*mlp.*" }), &["attn"]);
    check(json!({ "target_modules": ["q_proj"], "layers_to_transform": 1 }), &["1.self_attn.q_proj"]);
    check(json!({ "target_modules": ["q_proj"], "layers_to_transform": [0] }), &["0.self_attn.q_proj"]);
    check(json!({ "target_modules": ["q_proj"], "layers_to_transform": [] }), &["q_proj"]);
    check(
        json!({ "target_modules": ["o_proj"], "layers_to_transform": [1], "layers_pattern": "layers" }),
        &["1.self_attn.o_proj"],
    );
    check(
        json!({ "target_modules": ["o_proj", "model.layers.0.mlp.up_proj"], "layers_to_transform": [1] }),
        &["1.self_attn.o_proj", "0.mlp.up_proj"],
    );
}

#[test]
fn a_layers_own_rank_and_scale_are_those_of_the_first_pattern_that_matches() {
    let check = |settings: Value, rank: usize, scale: &dyn Fn(&str) -> f32| {
        let mut config = config(settings);
        config["target_modules"] = json!(["q_proj", "v_proj"]);
        let mut tensors = factors(&["v_proj"], 2);
        tensors.extend(factors(&["q_proj"], rank));
        let found = applied(&config, &tensors).unwrap_or_else(|error| panic!("{config}: {error}"));
        let expected = causal(merged(Model::llama(), &tensors, scale).write().path());
        assert_close(&config.to_string(), &lm_logits(&found), &lm_logits(&expected), 1e-5);
    };
    let q = |yes: f32, no: f32| move |name: &str| if name.contains("q_proj") { yes } else { no };
    check(json!({ "rank_pattern": { "q_proj": 3 } }), 3, &q(2.0, 3.0));
    check(json!({ "rank_pattern": { r"^model\.layers\.\d+.*q_proj": 3 } }), 3, &q(2.0, 3.0));
    check(json!({ "rank_pattern": { r"layers\.[01]\.self_attn\.(q|k)_proj": 3 }, "use_rslora": true }), 3, &|name| {
        if name.contains("q_proj") { 6.0 / 3f32.sqrt() } else { 6.0 / 2f32.sqrt() }
    });
    check(json!({ "alpha_pattern": { ".*": 2.0 } }), 2, &|_| 1.0);
    // An end of a name begins after a dot.
    check(json!({ "alpha_pattern": { "_proj": 2.0 } }), 2, &|_| 3.0);
    check(json!({ "alpha_pattern": { "q_pro[j-k]": 2.0, "v_proj": 4 } }), 2, &q(1.0, 2.0));
}

#[test]
fn of_several_patterns_the_first_in_the_file_counts() {
    let (_, tensors) = llama_adapter();
    let folder = write(&json!({}), &tensors);
    let apply = |patterns: &str| {
        let text = format!(
            r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "alpha_pattern": {patterns}}}"#
        );
        std::fs::write(folder.path().join("adapter_config.json"), text).expect("a writable folder");
        Adapter::read(folder.path()).and_then(|adapter| adapter.apply(causal(Model::llama().write().path())))
    };
    let expected = |scale: f32| lm_logits(&causal(merged(Model::llama(), &tensors, |_| scale).write().path()));
    for (patterns, scale) in [(r#"{"[qv]_proj": 2, ".*": 4}"#, 1.0), (r#"{".*": 4, "[qv]_proj": 2}"#, 2.0)] {
        let found = lm_logits(&apply(patterns).expect("it fits"));
        assert_close(patterns, &found, &expected(scale), 1e-5);
    }
    let error = apply(r#"{"q_proj": 2, "q_proj": 4}"#).expect_err("one name twice").to_string();
    assert!(error.contains("`alpha_pattern`") && error.contains("every name once"), "{error}");
}

/// A Llama whose output layer is its token embedding.
fn tied_llama() -> Model {
    let mut model = Model::llama();
    model.config["tie_word_embeddings"] = json!(true);
    model.tensors.remove(HEAD);
    model
}

/// A table of other numbers than the model's.
fn table(name: &str) -> (String, (Vec<usize>, Vec<f32>)) {
    let mut tensors = Tensors::new();
    add(&mut tensors, &format!("another {name}"), &[11, 8]);
    (format!("{PREFIX}{name}"), tensors.pop_first().expect("one").1)
}

#[test]
fn saving_an_embedding_or_a_head_unties_them_unless_the_settings_forbid_it() {
    let base = || causal(tied_llama().write().path());
    let own = tied_llama().tensors[EMBEDDING].clone();
    let (embedding, head) = (table(EMBEDDING), table(HEAD));
    let (plain, factors) = llama_adapter();
    let adapter = |settings: Value, tables: &[&Named]| {
        let mut config = plain.clone();
        for (name, value) in settings.as_object().expect("settings") {
            config[name] = value.clone();
        }
        let mut tensors = factors.clone();
        tensors.extend(tables.iter().map(|table| (*table).clone()));
        write(&config, &tensors)
    };
    let check = |settings: Value, tables: &[&Named], expected: [&Values; 2]| {
        let found = read(adapter(settings.clone(), tables).path()).apply(base()).expect("it fits");
        // The same two tables in a model that was never tied.
        let mut model = Model::llama();
        model.tensors.insert(EMBEDDING.to_owned(), expected[0].clone());
        model.tensors.insert(HEAD.to_owned(), expected[1].clone());
        let expected = causal(merged(model, &factors, |_| 3.0).write().path());
        assert_close(&settings.to_string(), &lm_logits(&found), &lm_logits(&expected), 1e-5);
    };
    let both = [&embedding, &head];
    check(json!({ "modules_to_save": ["embed_tokens"] }), &[&embedding], [&embedding.1, &own]);
    check(json!({ "modules_to_save": ["model.embed_tokens"] }), &[&embedding], [&embedding.1, &own]);
    check(json!({ "modules_to_save": ["lm_head"] }), &[&head], [&own, &head.1]);
    check(json!({ "modules_to_save": ["embed_tokens", "lm_head"] }), &both, [&embedding.1, &head.1]);
    let tied = json!({ "modules_to_save": ["embed_tokens"], "ensure_weight_tying": true });
    let copy = (format!("{PREFIX}{HEAD}"), embedding.1.clone());
    check(tied.clone(), &[&embedding], [&embedding.1, &embedding.1]);
    check(tied.clone(), &[&embedding, &copy], [&embedding.1, &embedding.1]);
    // Saved next to the adapter because the vocabulary was resized, not as modules of their own.
    check(json!({}), &[&embedding], [&embedding.1, &embedding.1]);
    check(json!({}), &[&head], [&head.1, &head.1]);

    let error = read(adapter(tied, &both).path()).apply(base()).expect_err("two tables for one").to_string();
    assert!(error.contains("ties the two") && error.contains("`ensure_weight_tying`"), "{error}");
    let saved = json!({ "modules_to_save": ["embed_tokens", "lm_head"] });
    let error = read(adapter(saved, &[&embedding]).path()).apply(base()).expect_err("no head").to_string();
    assert!(error.contains("missing [\"base_model.model.lm_head.weight\"]"), "{error}");
}

#[test]
fn a_resized_vocabulary_is_said_to_be_one() {
    let (mut config, mut tensors) = llama_adapter();
    add(&mut tensors, &format!("{PREFIX}{EMBEDDING}"), &[13, 8]);
    for saved in [json!(null), json!(["embed_tokens"])] {
        config["modules_to_save"] = saved;
        let adapter = read(write(&config, &tensors).path());
        for model in [Model::llama(), tied_llama()] {
            let error = adapter.apply(causal(model.write().path())).expect_err("two more tokens").to_string();
            assert!(error.contains("13 tokens, but the model has 11") && error.contains("resized"), "{error}");
        }
    }
}

#[test]
fn trained_tokens_take_the_place_of_their_rows() {
    let (mut config, mut tensors) = llama_adapter();
    let name = format!("{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta");
    add(&mut tensors, &name, &[2, 8]);
    for model in [Model::llama, tied_llama] {
        for indices in [json!([9, 5]), json!({ "embed_tokens": [9, 5] })] {
            config["trainable_token_indices"] = indices;
            let found = read(write(&config, &tensors).path()).apply(causal(model().write().path())).expect("it fits");
            let mut expected = merged(model(), &llama_adapter().1, |_| 3.0);
            let (_, table) = expected.tensors.get_mut(EMBEDDING).expect("an embedding");
            for (row, token) in [9, 5].into_iter().enumerate() {
                table[token * 8..(token + 1) * 8].copy_from_slice(&tensors[&name].1[row * 8..(row + 1) * 8]);
            }
            let expected = causal(expected.write().path());
            assert_close("logits", &lm_logits(&found), &lm_logits(&expected), 1e-5);
        }
    }
    let error = |indices: Value| {
        let mut config = config.clone();
        config["trainable_token_indices"] = indices;
        applied(&config, &tensors).expect_err("they do not fit").to_string()
    };
    assert!(error(json!([9, 11])).contains("token 11, but the model has 11 tokens"));
    assert!(error(json!([1, 2, 3])).contains("[2, 8]"));
    assert!(error(json!(null)).contains("`trainable_token_indices`"));
}

#[test]
fn other_spellings_of_names_are_the_same_tensors() {
    let (config, tensors) = llama_adapter();
    let expected = lm_logits(&applied(&config, &tensors).expect("it fits"));
    let check = |rename: &dyn Fn(&str) -> String| {
        let renamed = tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect();
        assert_eq!(lm_logits(&applied(&config, &renamed).expect("it fits")), expected);
    };
    check(&|name| name.trim_start_matches(PREFIX).to_owned());
    check(&|name| name.replace(".weight", ".default.weight"));
    check(&|name| name.replace(".weight", ".my-adapter.weight"));
    let mut twice = tensors.clone();
    let (name, tensor) = twice.first_key_value().expect("a tensor");
    let (name, tensor) = (name.replace(".weight", ".default.weight"), tensor.clone());
    twice.insert(name, tensor);
    let error = applied(&config, &twice).expect_err("one tensor twice").to_string();
    assert!(error.contains("lora_A.weight` is in"), "{error}");

    let model = || classifier(Model::bert().write().path(), Some(3)).model;
    let mut tensors = Tensors::new();
    for layer in 0..2 {
        let name = format!("{PREFIX}bert.encoder.layer.{layer}.attention.self.query");
        add(&mut tensors, &format!("{name}.lora_A.weight"), &[2, 8]);
        add(&mut tensors, &format!("{name}.lora_B.weight"), &[8, 2]);
    }
    let config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["query"], "modules_to_save": ["classifier"],
    });
    let mut found = Vec::new();
    for module in ["classifier", "classifier.modules_to_save", "classifier.modules_to_save.default"] {
        let mut tensors = tensors.clone();
        for (part, shape) in [("weight", &[3, 8][..]), ("bias", &[3])] {
            add(&mut tensors, part, shape);
            let tensor = tensors.remove(part).expect("just added");
            tensors.insert(format!("{PREFIX}{module}.{part}"), tensor);
        }
        found.push(class_logits(&read(write(&config, &tensors).path()).apply(model()).expect("it fits")));
    }
    assert!(found.iter().all(|logits| *logits == found[0]));
}

#[test]
fn tensors_of_other_methods_are_named_for_what_they_are() {
    for (name, what) in [
        ("model.position.lora_embedding_A", "LoRA on an embedding"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", "`lora_bias`"),
        ("model.embed_tokens.original_module.weight", "weights of the base model"),
        ("score.lora_A.weight", "LoRA on the classification head"),
    ] {
        let (config, mut tensors) = llama_adapter();
        add(&mut tensors, &format!("{PREFIX}{name}"), &[2, 8]);
        let error = applied(&config, &tensors).expect_err(what).to_string();
        assert!(error.contains(what) && error.contains(name), "{error}");
    }
}

/// The factors of a table or an output layer, and what they add to its rows, `[11, 8]`.
fn update(module: &str, ends: [&str; 2], shapes: [[usize; 2]; 2]) -> (Tensors, Vec<f32>) {
    let mut tensors = Tensors::new();
    for (end, shape) in ends.into_iter().zip(shapes) {
        add(&mut tensors, &format!("{PREFIX}{module}{end}"), &shape);
    }
    let [a, b] = ends.map(|end| &tensors[&format!("{PREFIX}{module}{end}")].1);
    let product = |out: usize, input: usize, inputs: usize| -> f32 {
        (0..2).map(|r| 3.0 * b[out * 2 + r] * a[r * inputs + input]).sum()
    };
    let rows = match shapes[0][1] {
        // Tokens are the inputs of a table, and the outputs of an output layer.
        11 => (0..88).map(|at| product(at % 8, at / 8, 11)).collect(),
        _ => (0..88).map(|at| product(at / 8, at % 8, 8)).collect(),
    };
    (tensors, rows)
}

#[test]
fn embeddings_and_output_layers_may_be_adapted() {
    let table = update("model.embed_tokens", [".lora_embedding_A", ".lora_embedding_B"], [[2, 11], [8, 2]]);
    let head = update("lm_head", [".lora_A.weight", ".lora_B.weight"], [[2, 8], [11, 2]]);
    for (targets, parts) in [
        (json!(["q_proj", "v_proj", "embed_tokens"]), [true, false]),
        (json!(["q_proj", "v_proj", "lm_head"]), [false, true]),
        (json!(r".*(\.[qv]_proj|embed_tokens|lm_head)"), [true, true]),
    ] {
        for base in [Model::llama as fn() -> Model, tied_llama] {
            let (mut config, factors) = llama_adapter();
            config["target_modules"] = targets.clone();
            let mut tensors = factors.clone();
            // The same two tables in a model that was never tied.
            let mut expected = Model::llama();
            let own = base().tensors;
            let own_head = own.get(HEAD).unwrap_or(&own[EMBEDDING]).clone();
            expected.tensors.insert(HEAD.to_owned(), own_head.clone());
            for (name, update, part) in [(EMBEDDING, &table, parts[0]), (HEAD, &head, parts[1])] {
                if part {
                    tensors.extend(update.0.clone());
                    let (_, values) = expected.tensors.get_mut(name).expect("a table");
                    values.iter_mut().zip(&update.1).for_each(|(value, more)| *value += more);
                }
            }
            if parts[1] {
                // PEFT saves the base of an adapted output layer along.
                tensors.insert(format!("{PREFIX}lm_head.base_layer.weight"), own_head);
            }
            let expected = causal(merged(expected, &factors, |_| 3.0).write().path());
            let adapter = read(write(&config, &tensors).path());
            let found = adapter.apply(causal(base().write().path())).unwrap_or_else(|e| panic!("{targets}: {e}"));
            assert_close(&targets.to_string(), &lm_logits(&found), &lm_logits(&expected), 1e-5);
            let again = Adapter::from_model(&found, &adapter.config.lora, Some("tiny")).expect("an adapted model");
            let lora = |adapter: &Adapter| -> Vec<String> {
                adapter.tensors.keys().filter(|name| name.contains(".lora_")).cloned().collect()
            };
            assert_eq!(lora(&again), lora(&adapter));
        }
    }
    let (mut config, mut tensors) = llama_adapter();
    config["target_modules"] = json!(["q_proj", "v_proj", "embed_tokens"]);
    config["ensure_weight_tying"] = json!(true);
    tensors.extend(table.0);
    let adapter = read(write(&config, &tensors).path());
    adapter.apply(causal(Model::llama().write().path())).expect("nothing to tie");
    let error = adapter.apply(causal(tied_llama().write().path())).expect_err("tied factors").to_string();
    assert!(error.contains("`ensure_weight_tying`"), "{error}");
}

#[test]
fn an_untied_head_is_a_copy_of_the_embedding() {
    let model = causal(tied_llama().write().path());
    let untied = hyperinf::models::Adaptable::untied(model.clone());
    assert_eq!(lm_logits(&untied), lm_logits(&model));
    let weights = hyperinf::models::weights(&untied).expect("the device can be read");
    let head: Vec<f32> = weights["lm_head.weight"].iter::<f32>().collect();
    assert_eq!(head, transposed(&tied_llama().tensors[EMBEDDING]));
}
