//! `hyperinf evaluate`: how well a model predicts rows.

use std::io::{self, Write};

use hyperinf::data::{ClassQuality, Evaluate, Quality};
use hyperinf::store::{check_output, table_ending};
use serde_json::{Map, Value, json};

use crate::args::EvaluateArgs;
use crate::config;
use crate::device::open_device;
use crate::error::CliError;
use crate::progress::observer;
use crate::score::counted;
use crate::to_stdout;

/// Evaluates, prints the figures and writes the predictions.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind.
pub(crate) fn run(args: &EvaluateArgs) -> Result<(), CliError> {
    let run = Evaluate {
        model: args.model.model.clone(),
        adapter: args.adapter.clone(),
        tokenizer: args.model.tokenizer.clone(),
        rows: args.data.clone(),
        read: args.pairs.read(&args.columns),
        pairs: args.pairs.loss()?,
        length: args.length.into(),
        batch_size: args.batch_size as usize,
        diffusion: args.diffusion.options(None, None),
    };
    if let Some(path) = &args.output {
        table_ending(path)?;
        check_output(path, &[&args.data])?;
    }
    let (_, device) = open_device(&args.device)?;
    let found = run.run(&device, &mut observer())?;
    let data = &found.rows.data;
    let summary = json!({
        "command": "evaluate",
        "hyperinf_version": env!("CARGO_PKG_VERSION"),
        "task": found.kind,
        "model": { "path": found.files.name, "xxh3_128": found.files.model_hashes },
        "adapter": args.adapter.as_ref().map(|path| json!({ "path": path, "xxh3_128": found.files.adapter_hashes })),
        "data": {
            "file": data.path,
            "xxh3_128": data.xxh3_128,
            "columns": data.columns,
            "rows": data.total,
            "used": data.rows.len(),
            "cut": found.rows.cut.len(),
        },
        "max_length": found.max_length,
        "quality": found.quality,
    });
    if let Some(path) = &args.output {
        let metadata: Map<String, Value> = summary.as_object().cloned().unwrap_or_default();
        config::place(path, vec![found.stage_predictions(path, &metadata)?])?;
    }
    to_stdout(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        writeln!(out, "data      {} of `{}`", counted(found.quality.rows(), "row", "rows"), data.path.display())?;
        writeln!(out, "quality   {}", found.quality)?;
        if let Quality::Classes(quality) = &found.quality {
            classes(out, quality)?;
        }
        match &args.output {
            Some(path) => writeln!(out, "\nEvery row: {}", path.display()),
            None => Ok(()),
        }
    })
}

fn classes(out: &mut dyn Write, quality: &ClassQuality) -> io::Result<()> {
    writeln!(out, "\n{:>7}  {:>9}  {:>7}  {:>9}  label", "rows", "predicted", "recall", "precision")?;
    for class in &quality.classes {
        let share = |of: usize| if of == 0 { "–".into() } else { format!("{:.3}", class.right as f64 / of as f64) };
        let (recall, precision) = (share(class.rows), share(class.predicted));
        let label: String = class.label.chars().filter(|c| !c.is_control()).collect();
        writeln!(out, "{:>7}  {:>9}  {recall:>7}  {precision:>9}  {label}", class.rows, class.predicted)?;
    }
    Ok(())
}
