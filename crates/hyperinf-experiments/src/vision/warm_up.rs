//! Training of a connector and a language model behind a frozen encoder: what makes one model of two that never met.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{
    AveragedTraining, FeatureStage, ImageProcessor, Images, Picture, PictureLimits, SampleModel, TextTokenizer,
    VlmSample, load_vision_language,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;

use super::folder::{Pixels, save_model};
use super::question::asked;
use crate::Failure;

/// How the base model is trained.
#[derive(Args, Clone)]
pub struct WarmUp {
    /// Photos with right labels that the base model is trained on; they are not in the pool.
    #[arg(long, default_value_t = 400)]
    pub warm_up: usize,
    /// Optimiser steps of that training.
    #[arg(long, default_value_t = 500)]
    pub warm_up_steps: usize,
    /// Photos per step.
    #[arg(long, default_value_t = 32)]
    pub warm_up_batch: usize,
    /// Its peak learning rate.
    #[arg(long, default_value_t = 2e-3)]
    pub warm_up_rate: f64,
}

#[derive(Deserialize)]
struct Row {
    image: std::path::PathBuf,
    question: String,
    answer: String,
}

impl WarmUp {
    /// Trains the model of the folder `base` on rows of JSON and writes the trained weights in their place.
    pub fn train(&self, base: &Path, rows: &[String], pixels: &Pixels, device: &Device) -> Result<(), Failure> {
        let model = load_vision_language(base, device)?.model;
        let (processor, tokenizer) = (ImageProcessor::load(base)?, TextTokenizer::read(base)?);
        let config = model.config().clone();
        let sample = |row: &String| -> Result<VlmSample, Failure> {
            let Row { image, question, answer } = serde_json::from_str(row)?;
            let picture = Picture::decode(&fs::read(image)?, &PictureLimits::default())?;
            let tile = processor.process(&picture)?.tiles.swap_remove(0);
            let features = model.features(&tile.values, FeatureStage::Encoder)?;
            let images = Images::Features(FeatureStage::Encoder, Arc::new(features));
            asked(&tokenizer, &config, &question, &answer, images)
        };
        let samples = rows.iter().map(sample).collect::<Result<Vec<_>, _>>()?;
        let mut training = AveragedTraining::new(model, 0.01, 0.99, 1.0);
        let (mut rng, mut order) = (StdRng::seed_from_u64(0), Vec::new());
        let (mut began, mut sum) = (Instant::now(), 0.0);
        for step in 0..self.warm_up_steps {
            while order.len() < self.warm_up_batch {
                let mut more: Vec<usize> = (0..samples.len()).collect();
                more.shuffle(&mut rng);
                order.extend(more);
            }
            let batch: Vec<&VlmSample> = order.drain(..self.warm_up_batch).map(|row| &samples[row]).collect();
            let share = step as f64 / self.warm_up_steps as f64;
            let rate = self.warm_up_rate * (share / 0.05).min(1.0) * (1.0 - share).max(0.02);
            sum += training.step(rate, |model| {
                let batch = model.collate(&batch)?;
                Ok(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
            })?;
            if (step + 1) % 50 == 0 {
                println!("step {}: loss {:.4}, {:.0} s", step + 1, sum / 50.0, began.elapsed().as_secs_f64());
                (began, sum) = (Instant::now(), 0.0);
            }
        }
        save_model(&training.averaged()?, pixels, base)
    }
}
