//! The folder of a model in SmolVLM's layout, from a model in memory.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use hyperinf::models::{Activation, CheckpointNames, ConnectorConfig, LmHead, VisionLanguage, weights};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use tokenizers::{AddedToken, Tokenizer};

use crate::Failure;

/// The tokens that SmolVLM's prompts have around images and messages; the image token is the first.
pub const MARKS: [&str; 5] =
    ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>"];

const TEMPLATE: &str = "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: \
     {% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}\
     {{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}\
     {% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// How pictures are prepared.
pub struct Pixels {
    pub mean: [f64; 3],
    pub deviation: [f64; 3],
}

/// Adds [`MARKS`] to a tokenizer and writes its files.
pub fn save_tokenizer(mut tokenizer: Tokenizer, folder: &Path) -> Result<Tokenizer, Failure> {
    fs::create_dir_all(folder)?;
    tokenizer.add_special_tokens(MARKS.map(|mark| AddedToken::from(mark, true)))?;
    tokenizer.save(folder.join("tokenizer.json"), false)?;
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<end_of_utterance>",
        "pad_token": "<end_of_utterance>",
        "model_max_length": 512,
    });
    fs::write(folder.join("tokenizer_config.json"), serde_json::to_vec_pretty(&settings)?)?;
    fs::write(folder.join("chat_template.jinja"), TEMPLATE)?;
    Ok(tokenizer)
}

/// Writes weights, configuration and the processor's settings: transformers' Idefics3, without tiles.
pub fn save_model(model: &VisionLanguage, pixels: &Pixels, folder: &Path) -> Result<(), Failure> {
    let config = model.config();
    let (vision, text) = (&config.vision, &config.text);
    let ConnectorConfig::PixelShuffle { scale } = config.connector else {
        return Err("only models in SmolVLM's layout are written".into());
    };
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (path, data) in weights(model)? {
        let name = model.checkpoint_name(&path);
        let (mut shape, mut values) = (data.shape().to_vec(), data.iter::<f32>().collect::<Vec<_>>());
        let patches = name.ends_with("patch_embedding.weight");
        if shape.len() == 2 && (patches || !name.contains("embed")) {
            let (rows, cols) = (shape[0], shape[1]);
            values = (0..rows * cols).map(|at| values[at % rows * cols + at / rows]).collect();
            shape.reverse();
        }
        if patches {
            shape = vec![vision.width, vision.channels, vision.patch_size, vision.patch_size];
        }
        tensors.push((name, shape, values.into_iter().flat_map(f32::to_le_bytes).collect()));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    fs::create_dir_all(folder)?;
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, Some(metadata))?)?;
    let act = if vision.activation == Activation::Gelu { "gelu" } else { "gelu_pytorch_tanh" };
    let tied = config.head == LmHead::Tied;
    let settings = json!({
        "model_type": "idefics3",
        "architectures": ["Idefics3ForConditionalGeneration"],
        "image_token_id": config.image_token,
        "scale_factor": scale,
        "tie_word_embeddings": tied,
        "text_config": {
            "model_type": "llama",
            "vocab_size": text.vocabulary,
            "max_position_embeddings": text.max_tokens,
            "hidden_size": text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.key_value_heads,
            "head_dim": text.head_size,
            "intermediate_size": text.feed_forward,
            "rms_norm_eps": text.norm_epsilon,
            "rope_theta": text.rotary.base,
            "hidden_act": "silu",
            "tie_word_embeddings": tied,
        },
        "vision_config": {
            "model_type": "idefics3_vision",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_channels": vision.channels,
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.feed_forward,
            "hidden_act": act,
            "layer_norm_eps": vision.norm_epsilon,
        },
    });
    fs::write(folder.join("config.json"), serde_json::to_vec_pretty(&settings)?)?;
    let side = vision.image_size;
    let processor = json!({
        "image_processor_type": "Idefics3ImageProcessor",
        "do_convert_rgb": true,
        "do_image_splitting": false,
        "do_resize": true,
        "do_rescale": true,
        "do_normalize": true,
        "do_pad": true,
        "rescale_factor": 1.0 / 255.0,
        "resample": 3,
        "size": { "longest_edge": side },
        "max_image_size": { "longest_edge": side },
        "image_mean": pixels.mean,
        "image_std": pixels.deviation,
    });
    fs::write(folder.join("preprocessor_config.json"), serde_json::to_vec_pretty(&processor)?)?;
    Ok(())
}
