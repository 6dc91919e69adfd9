//! The tokenizer and the base model, both trained on mails without labels.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use hyperinf::burn::module::Module;
use hyperinf::burn::tensor::{DType, Device};
use hyperinf::models::{Encoder, EncoderConfig, TrainConfig, pretrain_masked, weights};
use safetensors::tensor::{Dtype, TensorView};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::{Lowercase, NFKD, Sequence as Normalizers, StripAccents};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer, TokenizerBuilder};

use crate::Failure;

/// Trains a byte-pair encoding of lower-case ASCII; `▁` stands for the space before a word.
pub fn train_tokenizer(texts: &[String], vocabulary: usize) -> Result<Tokenizer, Failure> {
    let special = ["[PAD]", "[UNK]", "[MASK]"].map(|token| AddedToken::from(token, true));
    // A fixed alphabet: the trainer would break ties among rare characters at random.
    let alphabet: HashSet<char> = (' '..='~').filter(|c| !c.is_ascii_uppercase() && *c != ' ').chain(['▁']).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .limit_alphabet(alphabet.len())
        .initial_alphabet(alphabet)
        .build();
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::builder().unk_token("[UNK]".into()).fuse_unk(true).build()?)
        .with_normalizer(Some(Normalizers::new(vec![NFKD.into(), StripAccents.into(), Lowercase.into()])))
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![
            Metaspace::new('▁', PrependScheme::First, true).into(),
            Punctuation::default().into(),
            Digits::new(false).into(),
        ])))
        .with_post_processor(None::<PostProcessorWrapper>)
        .with_decoder(Some(Metaspace::new('▁', PrependScheme::First, true)))
        .build()?;
    tokenizer.train(&mut trainer, texts.iter())?;
    Ok(tokenizer.into())
}

/// Trains the encoder to predict masked tokens in windows of `max_tokens`.
pub fn pretrain(
    config: EncoderConfig,
    schedule: &TrainConfig,
    tokenizer: &Tokenizer,
    texts: &[String],
    device: &Device,
) -> Result<Encoder, Failure> {
    let mut windows = Vec::new();
    for text in texts {
        let encoding = tokenizer.encode_fast(text.as_str(), false)?;
        windows.extend(encoding.get_ids().chunks(config.max_tokens).filter(|w| w.len() >= 16).map(<[u32]>::to_vec));
    }
    let mask = tokenizer.token_to_id("[MASK]").ok_or("the tokenizer has no [MASK]")?;
    let encoder = Encoder::new(config, schedule.seed, device)?;
    println!(
        "{} windows, {} tokens, {} parameters",
        windows.len(),
        windows.iter().map(Vec::len).sum::<usize>(),
        encoder.num_params()
    );
    let start = Instant::now();
    let (mut sum, mut count) = (0.0, 0);
    let encoder = pretrain_masked(encoder, &windows, mask, schedule, |p| {
        (sum, count) = (sum + p.loss, count + 1);
        if (p.step + 1) % 100 == 0 || p.step + 1 == p.steps {
            let seconds = start.elapsed().as_secs_f64();
            println!("step {:5} of {}: loss {:.3}, {seconds:.0} s", p.step + 1, p.steps, sum / f64::from(count));
            (sum, count) = (0.0, 0);
        }
    })?;
    Ok(encoder)
}

/// The encoder as safetensors in f16, with its sizes as JSON under the metadata key `encoder`.
pub fn file(encoder: &Encoder) -> Result<Vec<u8>, Failure> {
    let EncoderConfig { vocabulary, max_tokens, width, layers, heads, feed_forward, .. } = *encoder.config();
    let sizes = serde_json::json!({
        "vocabulary": vocabulary, "max_tokens": max_tokens, "width": width,
        "layers": layers, "heads": heads, "feed_forward": feed_forward,
    });
    let halves: Vec<_> =
        weights(encoder)?.into_iter().map(|(name, data)| (name, data.convert_dtype(DType::F16))).collect();
    let views = halves
        .iter()
        .map(|(name, data)| Ok((name, TensorView::new(Dtype::F16, data.shape().to_vec(), data.as_bytes())?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let metadata = HashMap::from([("encoder".to_string(), sizes.to_string())]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}
