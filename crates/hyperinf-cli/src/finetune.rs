//! `hyperinf finetune`: an adapter from rows of text.

use std::io::{self, Write};
use std::time::Instant;

use burn::tensor::Device;
use hyperinf::data::{Finetune, Finetuned, Quality, Recipe};
use hyperinf::models::{LoraConfig, LoraScaling, OptimizerChoice, Recording};

use crate::args::{BatchSizeArg, FinetuneArgs, OptimizerArg};
use crate::config;
use crate::device::open_device;
use crate::error::{CliError, Usage};
use crate::interrupt;
use crate::plan::{Found, warn_of};
use crate::progress::{duration, note, observer};
use crate::score::counted;
use crate::text::size;
use crate::{index, team, terminal, to_stdout};

/// Trains an adapter and writes it.
///
/// # Errors
///
/// See [`CliError`]. No adapter is left behind, only checkpoints from which the same run resumes.
pub(crate) fn run(args: &FinetuneArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let mut run = settings(args)?;
    run.validate()?;
    let (_, device) = open_device(&args.device)?;
    if is_auto(args) {
        index::refuse_auto("--resume", args.resume)?;
        run.micro_batch = measured(&run, &device)?;
        if args.batch_size.is_some_and(BatchSizeArg::is_auto) {
            config::unset("batch-size");
        }
        config::unset("micro-batch");
        run.micro_batch.iter().for_each(|&rows| config::resolve("micro-batch", rows));
        run.more_files = configuration();
    }
    if team::helps() {
        return Ok(run.assist(&device)?);
    }
    let found = run.run(&device, &mut observer())?;
    team::finish(&args.out)?;
    let seconds = began.elapsed().as_secs_f64();
    to_stdout(|out| {
        print(out, &found, seconds)?;
        writeln!(out, "adapter   {}", args.out.display())
    })
}

/// What the training will take.
pub(crate) fn planned(args: &FinetuneArgs) -> Result<Found, CliError> {
    let run = settings(args)?;
    run.validate()?;
    let (name, device) = open_device(&args.device)?;
    let plan = run.plan(&device, &mut observer())?;
    Ok(Found { method: None, device: name, plan })
}

/// The configuration as a file of the result.
fn configuration() -> Vec<(String, Vec<u8>)> {
    vec![(config::FILE.to_owned(), config::text().into_bytes())]
}

/// Whether the rows of a pass are to be measured.
fn is_auto(args: &FinetuneArgs) -> bool {
    let auto = |size: Option<BatchSizeArg>| size.is_some_and(BatchSizeArg::is_auto);
    auto(args.micro_batch) || (auto(args.batch_size) && args.micro_batch.is_none())
}

/// The fastest rows of a pass that fit; `None` for the whole batch.
fn measured(run: &Finetune, device: &Device) -> Result<Option<usize>, CliError> {
    let plan = run.plan(device, &mut observer())?;
    warn_of(&plan);
    let batch = plan.batch.rows;
    let rows = plan.batch.fastest_within(batch);
    note(&format!("passes of {rows} rows: the fastest of at most {batch} that fit"));
    Ok((rows < batch).then_some(rows))
}

fn settings(args: &FinetuneArgs) -> Result<Finetune, CliError> {
    let scaling = if args.rslora { LoraScaling::RankStabilized } else { LoraScaling::Standard };
    Ok(Finetune {
        model: args.model.model.clone(),
        tokenizer: args.model.tokenizer.clone(),
        train: args.train.clone(),
        validation: args.validation.clone(),
        out: args.out.clone(),
        overwrite: args.overwrite,
        read: args.pairs.read(&args.columns),
        pairs: args.pairs.loss()?,
        length: args.length.into(),
        lora: LoraConfig { rank: args.lora_rank, alpha: args.lora_alpha, scaling, dropout: args.lora_dropout },
        targets: args.lora_target.clone(),
        diffusion: args.diffusion.options(None, args.prompt_dropout),
        recipe: Recipe {
            learning_rate: args.learning_rate,
            warmup: args.warmup,
            optimizer: match (args.optimizer, args.momentum) {
                (OptimizerArg::Adamw, None) => OptimizerChoice::AdamW,
                (OptimizerArg::Adamw, Some(_)) => {
                    let (first, second) = ("--momentum".to_owned(), "--optimizer adamw");
                    let reason = "its decay rates are .9 and .999";
                    return Err(Usage::Combination { first, second, reason }.into());
                }
                (OptimizerArg::Sgd, momentum) => OptimizerChoice::Sgd { momentum: momentum.unwrap_or(0.9) },
            },
            weight_decay: args.weight_decay,
            epochs: args.epochs,
            batch_size: args.batch_size.and_then(BatchSizeArg::number),
            by_length: !args.any_length,
            seed: args.seed,
        },
        micro_batch: args.micro_batch.and_then(BatchSizeArg::number),
        patience: args.patience,
        checkpoint_every: args.checkpoint_every,
        record: args.record,
        resume: args.resume,
        more_files: configuration(),
        stop: interrupt::stop(),
        crew: team::crew(),
    })
}

fn print(out: &mut dyn Write, found: &Finetuned, seconds: f64) -> io::Result<()> {
    let Finetuned {
        parameters,
        tensors,
        rows,
        labels,
        steps,
        resumed_at,
        stopped_early,
        loss,
        best,
        recording,
        quality,
    } = found;
    let rows = counted(*rows, "row", "rows");
    writeln!(out, "trained   {parameters} parameters in {tensors} tensors on {rows}")?;
    if let Some(labels) = labels {
        let named = labels.names.iter().enumerate().map(|(class, name)| format!("{class} = {}", terminal::name(name)));
        writeln!(out, "labels    {}", named.collect::<Vec<_>>().join(", "))?;
    }
    let early = if *stopped_early { ", stopped early" } else { "" };
    let resumed = resumed_at.map_or_else(String::new, |step| format!(", resumed at step {step}"));
    writeln!(out, "steps     {steps}{resumed}{early}; {}", duration(seconds))?;
    if let Some(loss) = loss {
        writeln!(out, "loss      {loss:.4}, a mean of the last steps")?;
    }
    if let Some(best) = best {
        writeln!(out, "validation loss {:.4} after step {}, whose adapter is kept", best.loss, best.steps)?;
    }
    let measured = match quality.train.rows() {
        few if few < found.rows => format!(" ({few} of them)"),
        _ => String::new(),
    };
    match &quality.train_before {
        Some(Quality::Tokens(before)) => {
            let (loss, perplexity) = (before.token_loss, before.perplexity);
            writeln!(
                out,
                "before    loss {loss:.4} per token, perplexity {perplexity:.4}, on the training rows{measured}"
            )?;
        }
        Some(before) => writeln!(out, "before    {before}, on the training rows{measured}")?,
        None => {}
    }
    writeln!(out, "on the training rows{measured}: {}", quality.train)?;
    if let Some(validation) = &quality.validation {
        writeln!(out, "on the validation rows: {validation}")?;
    }
    match recording {
        Some((states, bytes)) => writeln!(out, "recorded  {states} states, {}: {}", size(*bytes), Recording::FILE),
        None => Ok(()),
    }
}
