//! Real weights reproduce known outputs.

use hyperinf::burn::tensor::Device;
use hyperinf::gradients::Tape;
use hyperinf::linalg::host;
use hyperinf::models::{Limit, TextTokenizer, TokenBatch, generate, load_causal_lm, load_encoder};

use crate::{Failure, Places};

/// Runs all checks; an error if one fails.
pub fn run(places: &Places) -> Result<(), Failure> {
    let device = hyperinf::device(&places.device)?;
    let mut failed = 0;
    let mut check = |what: &str, found: String, right: bool| {
        println!("{} {what}: {found}", if right { "ok    " } else { "WRONG " });
        failed += usize::from(!right);
    };
    let cosine = cosine(places, &device)?;
    check(
        "MiniLM, cosine of \"A man is eating food.\" and \"A man is eating a piece of bread.\" (0.755 ± 0.005)",
        format!("{cosine:.4}"),
        (cosine - 0.755).abs() <= 0.005,
    );
    let file = places.assets.join("smollm2").join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let paris = continued(&file, &file, "The capital of France is", 3, &device)?;
    check("SmolLM2 after \"The capital of France is\" (\" Paris\")", format!("{paris:?}"), paris.starts_with(" Paris"));
    match &places.data {
        Some(data) => {
            let stories = data.join("tinystories");
            let start = "Once upon a time, there was a little girl named Lily";
            let found = continued(&stories.join("stories260K.bin"), &stories.join("tok512.bin"), "", 40, &device)?;
            check(
                &format!("stories260K from nothing ({start:?})"),
                format!("{found:?}"),
                found.trim_start().starts_with(start),
            );
        }
        None => println!("skipped stories260K: it needs --data DIR"),
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} checks failed").into()) }
}

/// The cosine of two sentences' mean hidden states.
fn cosine(places: &Places, device: &Device) -> Result<f64, Failure> {
    let folder = places.assets.join("minilm");
    let tokenizer = TextTokenizer::read(&folder)?;
    let encoder = load_encoder(&folder, device)?.model;
    let embed = |text: &str| -> Result<Vec<f64>, Failure> {
        let sample = tokenizer.classification(text, None, 0, Limit::Refuse(128))?.sample;
        let batch = TokenBatch::new(&[&sample.tokens], encoder.config(), device)?;
        Ok(host(encoder.pooled(&batch, &mut Tape::off()))?)
    };
    let (x, y) = (embed("A man is eating food.")?, embed("A man is eating a piece of bread.")?);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    Ok(dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt())
}

/// The greedy continuation of a text.
fn continued(
    model: &std::path::Path,
    vocabulary: &std::path::Path,
    text: &str,
    tokens: usize,
    device: &Device,
) -> Result<String, Failure> {
    let tokenizer = TextTokenizer::read(vocabulary)?;
    let model = load_causal_lm(model, device)?.model;
    let prompt = tokenizer.prompt(text)?;
    let stop: Vec<u32> = tokenizer.special().eos.into_iter().collect();
    let new = generate(&model, &prompt, tokens, &stop)?;
    // Some tokenizers drop the first space of a text, so the continuation is decoded with its prompt.
    let (before, all) = (tokenizer.decode(&prompt)?, tokenizer.decode(&[prompt, new].concat())?);
    Ok(all.strip_prefix(&before).unwrap_or(&all).to_owned())
}
