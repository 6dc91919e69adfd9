//! Questions about the colours of shapes, and a vision-language model that has never seen some of the colours.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyperinf::burn::tensor::{DType, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::write;
use crate::Failure;
use crate::vision::easy_vqa::{Asks, BASE, Base, COLOURS, Question, questions};

/// The colours that only the demo's own rows teach.
const NEW: [(&str, [u8; 3]); 3] = [("teal", [0, 128, 128]), ("brown", [165, 42, 42]), ("gray", [128, 128, 128])];
const TRAIN: usize = 600;
const QUERY: usize = 96;
const TEXTS: [&str; 5] =
    ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
const WEIGHTS: &str = "model.safetensors";

/// Makes `shapes.json.gz` and `shapes.safetensors.gz`.
pub fn make(source: &Path, work: &Path, output: &Path) -> Result<(), Failure> {
    let source = std::path::absolute(source)?;
    let (train, test) = (questions(&source.join("train"))?, questions(&source.join("test"))?);
    let base = work.join("shapes");
    if !base.exists() {
        let partial = work.join("shapes.partial");
        let training = Base { steps: 1500, batch: 32, rate: 2e-3, colours: 0.4, unseen: &NEW };
        training.train(&train, &source, &partial, &hyperinf::device("flex")?)?;
        fs::rename(&partial, &base)?;
    }
    let text = |name: &str| -> Result<(String, String), Failure> {
        Ok((name.to_owned(), fs::read_to_string(base.join(name))?))
    };
    let new: Vec<&str> = NEW.iter().map(|(name, _)| *name).collect();
    // The first queries are those that people see.
    let mut order = new.clone();
    order.extend(COLOURS.iter().filter(|colour| !new.contains(*colour)));
    let content = json!({
        "new": new,
        "train": rows(train.iter().filter(|q| q.image >= BASE), &source.join("train/images"), TRAIN, &[])?,
        "query": rows(test.iter(), &source.join("test/images"), QUERY, &order)?,
        "model": TEXTS.into_iter().map(text).collect::<Result<BTreeMap<_, _>, _>>()?,
    });
    write(&output.join("shapes.json.gz"), &serde_json::to_vec(&content)?)?;
    write(&output.join("shapes.safetensors.gz"), &halved(&fs::read(base.join(WEIGHTS))?)?)
}

/// Rows with a question for a colour, one of each picture; with an order of colours these take turns.
fn rows<'a>(
    all: impl Iterator<Item = &'a Question>,
    images: &Path,
    count: usize,
    order: &[&str],
) -> Result<Vec<Value>, Failure> {
    let mut chosen: Vec<&Question> = all.filter(|question| question.asks == Asks::Colour).collect();
    chosen.shuffle(&mut StdRng::seed_from_u64(0));
    let mut seen = std::collections::BTreeSet::new();
    chosen.retain(|question| seen.insert(question.image));
    let mut turns = BTreeMap::new();
    chosen.sort_by_cached_key(|question| match order.iter().position(|colour| *colour == question.answer) {
        Some(place) => {
            let turn = turns.entry(place).or_insert(0);
            *turn += 1;
            (*turn, place)
        }
        None => (0, 0),
    });
    chosen.truncate(count);
    let row = |question: &&Question| -> Result<Value, Failure> {
        let name = format!("{}.png", question.image);
        let bytes = BASE64_STANDARD.encode(fs::read(images.join(&name))?);
        let image = json!({ "bytes": bytes, "path": name });
        Ok(json!({ "image": image, "question": question.text, "answer": question.answer }))
    };
    chosen.iter().map(row).collect()
}

/// A file of weights in f16.
fn halved(bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let file = SafeTensors::deserialize(bytes)?;
    let halves: Vec<(String, TensorData)> = file
        .iter()
        .map(|(name, view)| {
            let numbers = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let data = TensorData::new(numbers.collect(), view.shape().to_vec());
            (name.to_owned(), data.convert_dtype(DType::F16))
        })
        .collect();
    let views = halves
        .iter()
        .map(|(name, data)| Ok((name, TensorView::new(Dtype::F16, data.shape().to_vec(), data.as_bytes())?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize(views, Some([("format".to_owned(), "pt".to_owned())].into()))?)
}
