//! Two transformers with random weights and LoRA adapters of rank 8: an encoder of MiniLM's shape (6 layers × 384, 12
//! heads, inner width 1536, normalisation after each part, exact GELU; adapters on query and value), and a decoder of
//! SmolLM2-135M's shape (30 layers × 576, 9 query and 3 key heads of 64, inner width 1536, 49,152 tokens; adapters on
//! `q_proj` and `v_proj`).

use burn::tensor::Device;
use hyperinf::gradients::Gradients;
use hyperinf::models::{
    AttentionBias, CausalLm, DecoderConfig, Encoder, EncoderClassifier, EncoderConfig, HeadKind, LmHead, LmSample,
    LoraConfig, RecordedLayers, RotaryConfig, Sample, SampleModel, adapt,
};

/// A sequence of `length` tokens below `vocabulary`.
fn tokens(seed: u64, length: usize, vocabulary: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocabulary) as u32
        })
        .collect()
}

/// The encoder, with a head for two classes.
///
/// # Panics
///
/// Never: the settings are valid.
pub fn encoder(device: &Device) -> EncoderClassifier {
    let config = EncoderConfig { width: 384, layers: 6, heads: 12, feed_forward: 1536, ..EncoderConfig::default() };
    let encoder = Encoder::new(config, 1, device).expect("a valid configuration");
    let model = EncoderClassifier::new(encoder, HeadKind::Mean, 2, RecordedLayers::Adapters, 2).expect("two classes");
    adapt(model, &["query", "value"], &LoraConfig::default(), 3).expect("layers of these names")
}

/// The decoder.
///
/// # Panics
///
/// Never: the settings are valid.
pub fn decoder(device: &Device) -> CausalLm {
    let config = DecoderConfig {
        vocabulary: 49_152,
        max_tokens: 2048,
        width: 576,
        layers: 30,
        heads: 9,
        key_value_heads: 3,
        head_size: 64,
        feed_forward: 1536,
        norm_epsilon: 1e-5,
        rotary: RotaryConfig { base: 1e5, ..RotaryConfig::default() },
        attention_bias: AttentionBias::None,
        feed_forward_bias: false,
        sliding_window: None,
    };
    let model = CausalLm::new(config, LmHead::Tied, 1, device).expect("a valid configuration");
    adapt(model, &["q_proj", "v_proj"], &LoraConfig::default(), 3).expect("layers of these names")
}

/// A batch of these samples.
///
/// # Panics
///
/// If a sample does not fit the model.
fn collate<M: SampleModel>(model: &M, samples: &[M::Sample]) -> M::Batch {
    model.collate(&samples.iter().collect::<Vec<_>>()).expect("samples that fit the model")
}

/// Waits for the gradients: reads one number of each block.
pub fn wait(gradients: Gradients) -> f64 {
    let sums = gradients.blocks.into_iter().map(|block| block.slice([0..1, 0..1, 0..1]).into_scalar::<f32>());
    sums.map(f64::from).sum()
}

/// A batch of sequences for the encoder.
pub fn sentences<M: SampleModel<Sample = Sample>>(model: &M, samples: usize, length: usize) -> M::Batch {
    let sample = |i| Sample { tokens: tokens(i as u64, length, 30_522), segments: Vec::new(), label: i % 2 };
    collate(model, &(0..samples).map(sample).collect::<Vec<_>>())
}

/// A batch of sequences for the decoder, of which the last `scored` tokens have a loss.
pub fn completions<M: SampleModel<Sample = LmSample>>(
    model: &M,
    samples: usize,
    length: usize,
    scored: usize,
) -> M::Batch {
    let sample = |i| LmSample {
        tokens: tokens(i as u64, length, 49_152),
        scored: (0..length).map(|place| place >= length - scored).collect(),
    };
    collate(model, &(0..samples).map(sample).collect::<Vec<_>>())
}
