//! The tensors that settings call for, compared with those of a file before any memory is taken for them.

use crate::{
    AttentionBias, ConnectorConfig, DecoderConfig, EncoderConfig, HeadKind, LmHead, ModelError, PixArtConfig,
    VisionForm, VisionLanguageConfig,
};

/// One side of a tensor: the product of settings.
#[derive(Clone)]
pub(super) struct Side(Vec<(&'static str, usize)>);

/// A tensor that a checkpoint must hold; sides in the order of Hugging Face's files, outputs first.
pub(super) struct Expected {
    pub(super) name: String,
    sides: Vec<Side>,
}

/// A tensor of another shape than the settings say.
pub(super) struct Disagreement {
    /// The settings with their values: `` `vocab_size` = 5 ``.
    pub(super) settings: String,
    /// The shape that they call for, outputs first.
    pub(super) expected: Vec<String>,
}

impl Side {
    fn value(&self) -> Option<usize> {
        self.0.iter().try_fold(1usize, |product, (_, size)| product.checked_mul(*size))
    }

    fn shown(&self, text: impl Fn(&(&'static str, usize)) -> String) -> String {
        self.0.iter().map(text).collect::<Vec<_>>().join(" · ")
    }
}

impl Expected {
    /// Fails unless `found` is the shape that the settings call for. `key` translates the names of settings.
    pub(super) fn agrees(&self, found: &[usize], key: impl Fn(&str) -> String) -> Result<(), Disagreement> {
        let differs = |(side, found): (&Side, &usize)| side.value() != Some(*found);
        let wrong: Vec<&Side> = if found.len() == self.sides.len() {
            self.sides.iter().zip(found).filter(|pair| differs(*pair)).map(|(side, _)| side).collect()
        } else {
            self.sides.iter().collect()
        };
        if wrong.is_empty() {
            return Ok(());
        }
        let settings = wrong.iter().map(|side| {
            let names = side.shown(|(name, _)| format!("`{}`", key(name)));
            format!("{names} = {}", side.shown(|(_, size)| size.to_string()))
        });
        let sides = self.sides.iter().map(|side| match side.value() {
            Some(value) => value.to_string(),
            None => side.shown(|(_, size)| size.to_string()),
        });
        Err(Disagreement { settings: settings.collect::<Vec<_>>().join(" and "), expected: sides.collect() })
    }
}

/// The tensors of an encoder, with the names of `config.json` for its settings.
pub(super) fn of_encoder(config: &EncoderConfig) -> Vec<Expected> {
    let family = config.family.name();
    let mut list = List(Vec::new());
    let width = one("hidden_size", config.width);
    let inner = one("intermediate_size", config.feed_forward);
    let positions = config.first_position.saturating_add(config.max_tokens);
    let tables = [
        ("word", one("vocab_size", config.vocabulary)),
        ("position", one("max_position_embeddings", positions)),
        ("token_type", one("type_vocab_size", config.segments)),
    ];
    for (table, rows) in tables.into_iter().filter(|(table, _)| *table != "token_type" || config.segments > 0) {
        list.add(format!("{family}.embeddings.{table}_embeddings.weight"), [rows, width.clone()]);
    }
    list.pair(format!("{family}.embeddings.LayerNorm"), [width.clone()]);
    for layer in 0..config.layers {
        let name = |part: &str| format!("{family}.encoder.layer.{layer}.{part}");
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            list.pair(name(part), [width.clone(), width.clone()]);
        }
        list.pair(name("attention.output.LayerNorm"), [width.clone()]);
        list.pair(name("intermediate.dense"), [inner.clone(), width.clone()]);
        list.pair(name("output.dense"), [width.clone(), inner.clone()]);
        list.pair(name("output.LayerNorm"), [width.clone()]);
    }
    if config.pooler {
        list.pair(format!("{family}.pooler.dense"), [width.clone(), width]);
    }
    list.0
}

/// The tensors of a classification head.
pub(super) fn of_head(kind: HeadKind, classes: usize, width: usize) -> Vec<Expected> {
    let mut list = List(Vec::new());
    let (width, classes) = (one("hidden_size", width), one("num_labels", classes));
    match kind {
        HeadKind::Mean | HeadKind::Pooler => list.pair("classifier".to_owned(), [classes, width]),
        HeadKind::Dense => {
            list.pair("classifier.dense".to_owned(), [width.clone(), width.clone()]);
            list.pair("classifier.out_proj".to_owned(), [classes, width]);
        }
    }
    list.0
}

/// The tensors of a language model, with the names of `config.json` for its settings.
pub(super) fn of_decoder(config: &DecoderConfig, head: LmHead) -> Vec<Expected> {
    let mut list = List(Vec::new());
    let (width, inner) = (one("hidden_size", config.width), one("intermediate_size", config.feed_forward));
    let vocabulary = one("vocab_size", config.vocabulary);
    let size = ("head_dim", config.head_size);
    let all = Side(vec![("num_attention_heads", config.heads), size]);
    let shared = Side(vec![("num_key_value_heads", config.key_value_heads), size]);
    list.add("model.embed_tokens.weight".to_owned(), [vocabulary.clone(), width.clone()]);
    for layer in 0..config.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        list.add(name("input_layernorm.weight"), [width.clone()]);
        list.add(name("post_attention_layernorm.weight"), [width.clone()]);
        let output_bias = config.attention_bias == AttentionBias::All;
        let bias = config.attention_bias != AttentionBias::None;
        for (part, outputs, inputs, bias) in [
            ("self_attn.q_proj", &all, &width, bias),
            ("self_attn.k_proj", &shared, &width, bias),
            ("self_attn.v_proj", &shared, &width, bias),
            ("self_attn.o_proj", &width, &all, output_bias),
            ("mlp.gate_proj", &inner, &width, config.feed_forward_bias),
            ("mlp.up_proj", &inner, &width, config.feed_forward_bias),
            ("mlp.down_proj", &width, &inner, config.feed_forward_bias),
        ] {
            let sides = [outputs.clone(), inputs.clone()];
            if bias { list.pair(name(part), sides) } else { list.add(name(&format!("{part}.weight")), sides) }
        }
    }
    list.add("model.norm.weight".to_owned(), [width.clone()]);
    if head == LmHead::Separate {
        list.add("lm_head.weight".to_owned(), [vocabulary, width]);
    }
    list.0
}

/// A reward head.
pub(super) fn of_score(width: usize) -> Expected {
    Expected { name: "score.weight".to_owned(), sides: vec![one("num_labels", 1), one("hidden_size", width)] }
}

/// The tensors of a vision-language model.
pub(super) fn of_vision_language(config: &VisionLanguageConfig) -> Vec<Expected> {
    let [vision, connector, text] = config.parts();
    let mut list = List(of_decoder(&config.text, config.head));
    for tensor in &mut list.0 {
        if let Some(rest) = tensor.name.strip_prefix("model.") {
            tensor.name = format!("{text}{rest}");
        }
    }
    let sizes = &config.vision;
    let width = one("vision_config.hidden_size", sizes.width);
    let inner = one("vision_config.intermediate_size", sizes.feed_forward);
    let patch = one("vision_config.patch_size", sizes.patch_size);
    let colours = one("vision_config.num_channels", sizes.channels);
    let clip = matches!(sizes.form, VisionForm::Clip { .. });
    let patches = format!("{vision}embeddings.patch_embedding");
    list.add(format!("{patches}.weight"), [width.clone(), colours, patch.clone(), patch]);
    let positions = one("patches of vision_config.image_size", sizes.positions());
    list.add(format!("{vision}embeddings.position_embedding.weight"), [positions, width.clone()]);
    if clip {
        list.add(format!("{vision}embeddings.class_embedding"), [width.clone()]);
        list.pair(format!("{vision}pre_layrnorm"), [width.clone()]);
    } else {
        list.add(format!("{patches}.bias"), [width.clone()]);
        list.pair(format!("{vision}post_layernorm"), [width.clone()]);
    }
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("{vision}encoder.layers.{layer}.{part}");
        for part in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"] {
            list.pair(name(part), [width.clone(), width.clone()]);
        }
        list.pair(name("layer_norm1"), [width.clone()]);
        list.pair(name("layer_norm2"), [width.clone()]);
        list.pair(name("mlp.fc1"), [inner.clone(), width.clone()]);
        list.pair(name("mlp.fc2"), [width.clone(), inner.clone()]);
    }
    let output = one("text_config.hidden_size", config.text.width);
    match config.connector {
        ConnectorConfig::PixelShuffle { scale } => {
            let scale = ("scale_factor", scale);
            let input = Side(vec![("vision_config.hidden_size", sizes.width), scale, scale]);
            list.add(format!("{connector}modality_projection.proj.weight"), [output, input]);
        }
        ConnectorConfig::Projector { bias, .. } => {
            for (part, input) in [("linear_1", width), ("linear_2", output.clone())] {
                let (name, sides) = (format!("{connector}{part}"), [output.clone(), input]);
                if bias { list.pair(name, sides) } else { list.add(format!("{name}.weight"), sides) }
            }
        }
    }
    list.0
}

/// The name in `config.json` of a setting of [`EncoderConfig`] or [`DecoderConfig`], for errors.
pub(super) fn in_config(name: &'static str) -> &'static str {
    match name {
        "vocabulary" => "vocab_size",
        "max_tokens" => "max_position_embeddings",
        "width" => "hidden_size",
        "layers" => "num_hidden_layers",
        "heads" => "num_attention_heads",
        "key_value_heads" => "num_key_value_heads",
        "head_size" => "head_dim",
        "feed_forward" => "intermediate_size",
        "base" => "rope_theta",
        other => other,
    }
}

/// The tensors of a PixArt transformer, with the names of `config.json` for its settings.
pub(super) fn of_pixart(config: &PixArtConfig) -> Vec<Expected> {
    let mut list = List(Vec::new());
    let width = Side(vec![("num_attention_heads", config.heads), ("attention_head_dim", config.head_size)]);
    let times = |factor: usize| {
        let mut side = width.clone();
        side.0.push(("factor", factor));
        side
    };
    let patch = one("patch_size", config.patch);
    let channels = one("in_channels", config.channels);
    list.pair("pos_embed.proj".to_owned(), [width.clone(), channels, patch.clone(), patch.clone()]);
    let text = one("caption_channels", config.text_width);
    for (name, outputs, inputs) in [
        ("adaln_single.emb.timestep_embedder.linear_1", width.clone(), one("channels of a timestep", 256)),
        ("adaln_single.emb.timestep_embedder.linear_2", width.clone(), width.clone()),
        ("adaln_single.linear", times(6), width.clone()),
        ("caption_projection.linear_1", width.clone(), text),
        ("caption_projection.linear_2", width.clone(), width.clone()),
    ] {
        list.pair(name.to_owned(), [outputs, inputs]);
    }
    for layer in 0..config.layers {
        let name = |part: &str| format!("transformer_blocks.{layer}.{part}");
        list.add(name("scale_shift_table"), [one("rows", 6), width.clone()]);
        for attention in ["attn1", "attn2"] {
            for part in ["to_q", "to_k", "to_v", "to_out.0"] {
                let name = name(&format!("{attention}.{part}"));
                list.add(format!("{name}.weight"), [width.clone(), width.clone()]);
                if config.attention_bias || part == "to_out.0" {
                    list.add(format!("{name}.bias"), [width.clone()]);
                }
            }
        }
        list.pair(name("ff.net.0.proj"), [times(4), width.clone()]);
        list.pair(name("ff.net.2"), [width.clone(), times(4)]);
    }
    list.add("scale_shift_table".to_owned(), [one("rows", 2), width.clone()]);
    let output =
        Side(vec![("patch_size", config.patch), ("patch_size", config.patch), ("out_channels", config.out_channels)]);
    list.pair("proj_out".to_owned(), [output, width]);
    list.0
}

/// The name, value and range of a setting that was rejected.
pub(super) fn rejected(error: &ModelError) -> Option<(&'static str, String, String)> {
    let ModelError::Setting { name, value, expected } = error else { return None };
    let words = expected.split('`').enumerate();
    let words = words.map(|(place, word)| match (place % 2, word) {
        (1, "width") => "hidden_size",
        (1, "heads") => "num_attention_heads",
        (1, "head_size") => "head_dim",
        (_, word) => word,
    });
    Some((in_config(name), value.to_string(), words.collect::<Vec<_>>().join("`")))
}

fn one(setting: &'static str, size: usize) -> Side {
    Side(vec![(setting, size)])
}

struct List(Vec<Expected>);

impl List {
    fn add<const N: usize>(&mut self, name: String, sides: [Side; N]) {
        self.0.push(Expected { name, sides: sides.to_vec() });
    }

    /// A weight and its bias, which has the weight's first side.
    fn pair<const N: usize>(&mut self, name: String, sides: [Side; N]) {
        let outputs = sides[0].clone();
        self.add(format!("{name}.weight"), sides);
        self.add(format!("{name}.bias"), [outputs]);
    }
}
