//! Names of an encoder's layers, blocks and parameters, and what a target adapts.

use hyperinf::gradients::{Tape, Target, Task, gradients, gradients_looped};
use hyperinf::models::{
    ALL_LINEAR, Activation, Adaptable, CheckpointNames, Encoder, EncoderClassifier, EncoderConfig, HeadKind,
    ModelError, RecordedLayers, SampleModel, adapt, weights,
};
use hyperinf_tests::devices;

use crate::encoder::{BERT, ROBERTA, classifier, refs, samples};
use crate::models::LORA;

/// The layers that a target adapts, prefix left out.
fn adapted(config: EncoderConfig, head: HeadKind, targets: &[&str]) -> Result<Vec<String>, ModelError> {
    let (_, device) = devices().remove(0);
    let encoder = Encoder::new(EncoderConfig { layers: 1, ..config }, 5, &device)?;
    let model = EncoderClassifier::new(encoder, head, 3, RecordedLayers::Adapters, 7)?;
    let mut names = Vec::new();
    adapt(model, targets, &LORA, 6)?.visit_layers(&mut |name, layer| {
        let name = name.strip_prefix("base_model.model.").expect("PEFT's prefix");
        names.extend(layer.adapter().is_some().then(|| name.to_owned()));
    });
    Ok(names)
}

#[test]
fn targets_are_ends_of_names() {
    let check = |targets: &[&str], expected: &[&str]| {
        let found = adapted(BERT, HeadKind::Pooler, targets).expect("the targets exist");
        let full: Vec<String> = expected.iter().map(|name| format!("bert.{name}")).collect();
        assert_eq!(found, full, "{targets:?}");
    };
    let query = "encoder.layer.0.attention.self.query";
    let key = "encoder.layer.0.attention.self.key";
    let value = "encoder.layer.0.attention.self.value";
    let mixed = "encoder.layer.0.attention.output.dense";
    let inner = "encoder.layer.0.intermediate.dense";
    let outer = "encoder.layer.0.output.dense";
    let pooler = "pooler.dense";
    check(&["query"], &[query]);
    check(&["key"], &[key]);
    check(&["value"], &[value]);
    check(&["query", "value"], &[query, value]);
    check(&["attention.output.dense"], &[mixed]);
    check(&["intermediate.dense"], &[inner]);
    check(&["output.dense"], &[mixed, outer]);
    check(&["layer.0.output.dense"], &[outer]);
    check(&["pooler.dense"], &[pooler]);
    check(&["dense"], &[mixed, inner, outer, pooler]);
    check(&[ALL_LINEAR], &[query, key, value, mixed, inner, outer, pooler]);
}

#[test]
fn a_head_and_an_unused_pooler_are_not_adapted() {
    let roberta = adapted(ROBERTA, HeadKind::Dense, &["dense"]).expect("the target exists");
    assert_eq!(
        roberta,
        ["attention.output.dense", "intermediate.dense", "output.dense"]
            .map(|n| format!("roberta.encoder.layer.0.{n}"))
    );
    let mean = adapted(BERT, HeadKind::Mean, &[ALL_LINEAR]).expect("the target exists");
    assert!(mean.iter().all(|name| !name.contains("pooler")), "{mean:?}");
}

#[test]
fn unknown_targets_are_errors_that_list_the_known() {
    let check = |target: &str| {
        let error = adapted(BERT, HeadKind::Pooler, &["query", target]).expect_err("no such layer").to_string();
        assert_eq!(error, format!("no layer is called `{target}`; the model has query, key, value, dense"));
    };
    check("q_proj");
    check("uery");
    check("");
    check("classifier");
}

/// One layer's worth of parameters, by their names in a checkpoint.
fn checkpoint_names(config: EncoderConfig, head: HeadKind) -> Vec<String> {
    let (_, device) = devices().remove(0);
    let encoder = Encoder::new(EncoderConfig { layers: 1, ..config }, 5, &device).expect("valid sizes");
    let model = EncoderClassifier::new(encoder, head, 3, RecordedLayers::Adapters, 7).expect("the head fits");
    let mut names: Vec<String> = weights(&model).expect("readable").keys().map(|p| model.checkpoint_name(p)).collect();
    names.sort();
    names
}

#[test]
fn parameters_have_the_names_of_published_checkpoints() {
    let check = |prefix: &str, config: EncoderConfig, head: HeadKind, own: &[&str]| {
        let layer = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"];
        let rest = ["attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"];
        let both = |name: String| ["weight", "bias"].map(|leaf| format!("{name}.{leaf}"));
        let mut expected: Vec<String> =
            layer.iter().chain(&rest).flat_map(|part| both(format!("{prefix}.encoder.layer.0.{part}"))).collect();
        expected.extend(both(format!("{prefix}.embeddings.LayerNorm")));
        for table in ["word", "position", "token_type"] {
            expected.push(format!("{prefix}.embeddings.{table}_embeddings.weight"));
        }
        expected.extend(own.iter().flat_map(|name| both((*name).to_owned())));
        expected.sort();
        assert_eq!(checkpoint_names(config, head), expected);
    };
    check("bert", BERT, HeadKind::Pooler, &["bert.pooler.dense", "classifier"]);
    check("roberta", ROBERTA, HeadKind::Dense, &["classifier.dense", "classifier.out_proj"]);
}

#[test]
fn blocks_are_the_adapters_and_the_head() {
    let (_, device) = devices().remove(0);
    let names = |config: EncoderConfig, head: HeadKind, recorded: RecordedLayers| -> Vec<String> {
        let model = EncoderClassifier { recorded, ..classifier(config, head, &device) };
        let batch = model.collate(&refs(&samples(&config, 1))).expect("the samples fit");
        let found = gradients(&model, &batch, Target::Loss).expect("the model is well-formed");
        found.layout.iter().map(|b| format!("{} {}x{}", b.name, b.rows, b.cols)).collect()
    };
    let bert = names(BERT, HeadKind::Pooler, RecordedLayers::AdaptersAndHead);
    assert_eq!(bert[0], "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight 12x2");
    assert_eq!(
        bert[24..],
        [
            "base_model.model.bert.pooler.dense.lora_A.weight 12x2",
            "base_model.model.bert.pooler.dense.lora_B.weight 2x12",
            "base_model.model.classifier.weight 13x3",
        ]
    );
    assert_eq!(names(BERT, HeadKind::Pooler, RecordedLayers::Adapters), bert[..26]);
    let roberta = names(ROBERTA, HeadKind::Dense, RecordedLayers::AdaptersAndHead);
    assert_eq!(
        roberta[24..],
        ["base_model.model.classifier.dense.weight 13x12", "base_model.model.classifier.out_proj.weight 13x3"]
    );
    assert_eq!(names(ROBERTA, HeadKind::Dense, RecordedLayers::Adapters), roberta[..24]);
}

#[test]
fn the_head_is_trained_and_the_pooler_is_not() {
    let (_, device) = devices().remove(0);
    let trained = |config: EncoderConfig, head: HeadKind| -> Vec<String> {
        let model = classifier(config, head, &device.clone().autodiff());
        let sample = &samples(&config, 1)[0];
        let batch = model.collate(&[sample]).expect("the sample fits");
        let loss = |model: &EncoderClassifier, _| model.loss(model.forward(&batch, &mut Tape::off()), &batch);
        let found = gradients_looped(&model, 1, loss).expect("something is trained");
        found.layout.iter().map(|block| block.name.clone()).filter(|name| !name.contains("lora_")).collect()
    };
    assert_eq!(trained(BERT, HeadKind::Pooler), ["classifier.Pooler.weight", "classifier.Pooler.bias"]);
    let dense = ["dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"];
    assert_eq!(trained(ROBERTA, HeadKind::Dense), dense.map(|name| format!("classifier.Dense.{name}")));
}

#[test]
fn activations_have_the_names_of_published_configurations() {
    let known = Activation::NAMES.map(|name| Activation::named(name).expect("it is listed"));
    use Activation::{Gelu, GeluTanh, QuickGelu, Relu};
    assert_eq!(known, [Gelu, GeluTanh, GeluTanh, GeluTanh, QuickGelu, Relu]);
    assert_eq!(Activation::named("silu"), None);
}
