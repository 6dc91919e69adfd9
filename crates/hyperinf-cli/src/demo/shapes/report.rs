//! The output of the demo with pictures.

use std::io::{Result, Write};
use std::path::Path;

use hyperinf::data::Contact;
use hyperinf::scoring::Scores;
use hyperinf::store::{Ids, OutputFolder, ScoreFile, publish, stage_json};
use serde_json::{Map, json};

use super::super::stale;
use super::{Demo, ENDS, FILES, METHODS, Work};
use crate::error::CliError;
use crate::figure::stage_contact_sheet;

/// The method of the sheet.
const SHOWN: &str = METHODS[METHODS.len() - 1];

/// Writes the scores, the sheet and the summary.
pub(super) fn write(
    demo: &Demo,
    loss: Option<f64>,
    folder: &OutputFolder,
    scores: &Scores,
    contacts: &[Contact],
) -> std::result::Result<(), CliError> {
    let [table, sheet, summary] = FILES.map(|name| folder.file(name));
    let metadata = Map::from_iter([
        ("hyperinf_version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
        ("sign".to_owned(), json!("positive = helpful")),
        ("query_mode".to_owned(), json!("each")),
        ("method".to_owned(), json!(SHOWN)),
        ("seed".to_owned(), json!(demo.seed)),
        ("noise".to_owned(), json!(demo.noise)),
    ]);
    let ids = Ids::numbered(demo.queries.len(), demo.answers.len());
    let (file, beside) = (ScoreFile::at(&table)?, table.clone());
    let mut staged = file.stage(&beside, scores, None, &ids, &metadata)?;
    let title = format!("What color is it? Which training pictures helped and harmed the answer ({SHOWN})");
    staged.push(stage_contact_sheet(&sheet, &title, contacts)?);
    let [helpful_same, harmful_wrong] = demo.chance();
    let wrong: Vec<usize> = (0..demo.answers.len()).filter(|&row| demo.wrong(row)).collect();
    let content = json!({
        "command": "demo",
        "images": true,
        "seed": demo.seed,
        "noise": demo.noise,
        "device": demo.device,
        "training_rows": demo.answers.len(),
        "queries": demo.queries.len(),
        "wrong_rows": wrong,
        "new_colours": demo.new,
        "probability_before": demo.probability[0],
        "probability_after": demo.probability[1],
        "training_seconds": demo.training_seconds,
        "gradient_seconds": demo.gradient_seconds,
        "auc_of_loss": loss,
        "chance": { "helpful_same": helpful_same, "harmful_wrong": harmful_wrong },
        "methods": demo.results,
    });
    staged.push(stage_json(&summary, &content)?);
    Ok(publish(staged, &stale(folder.path(), "scores.csv"))?)
}

/// Prints what was done, the table, and where to look.
pub(super) fn text(demo: &Demo, loss: Option<f64>, out: &Path, work: &Work, to: &mut dyn Write) -> Result<()> {
    let wrong = (0..demo.answers.len()).filter(|&row| demo.wrong(row)).count();
    let (rows, queries, new) = (demo.answers.len(), demo.queries.len(), listed(&demo.new));
    writeln!(
        to,
        "{rows} questions for the color of a shape, {wrong} of them with a wrong answer (seed {}). The",
        demo.seed
    )?;
    writeln!(to, "vision-language model has never seen {new}; only these pictures teach them.")?;
    writeln!(
        to,
        "Fine-tuned in {:.1} s on {}, gradients in {:.1} s. Mean probability of the right",
        demo.training_seconds, demo.device, demo.gradient_seconds
    )?;
    let [[new_before, old_before], [new_after, old_after]] = demo.probability;
    writeln!(
        to,
        "answer to {queries} other questions: new colors {new_before:.2} → {new_after:.2}, known colors {old_before:.2} → {old_after:.2}.\n"
    )?;
    writeln!(
        to,
        "{:<15} {:>13}  {:>24}  {:>24}",
        "",
        "AUC of wrong",
        format!("of the {ENDS} most helpful"),
        format!("of the {ENDS} most harmful")
    )?;
    writeln!(to, "{:<15} {:>13}  {:>24}  {:>24}", "", "answers", "same color, right", "same color, wrong")?;
    let number = |value: Option<f64>| value.map_or("–".into(), |v| format!("{v:.3}"));
    let share = |value: f64| format!("{:.0} %", 100.0 * value);
    let [helpful, harmful] = demo.chance().map(share);
    writeln!(to, "{:<15} {:>13}  {helpful:>24}  {harmful:>24}", "chance", "0.500")?;
    writeln!(to, "{:<15} {:>13}  {:>24}  {:>24}", "training-loss", number(loss), "–", "–")?;
    for result in &demo.results {
        let (helpful, harmful) = (share(result.helpful_same), share(result.harmful_wrong));
        writeln!(to, "{:<15} {:>13}  {helpful:>24}  {harmful:>24}", result.name, number(result.auc))?;
    }
    if demo.results.iter().all(|result| result.auc < loss) {
        writeln!(to, "\nThe loss alone finds wrong answers better, but does not tell which query they harm.")?;
    }
    writeln!(
        to,
        "\nLook at {}: a query for each new color, with the pictures that\nhelped and harmed the right answer most, by {SHOWN}.",
        out.join(FILES[1]).display()
    )?;
    writeln!(to, "Scores and summary: {}, {} in {}", FILES[0], FILES[2], out.display())?;
    writeln!(
        to,
        "Rows, model and adapter for other commands: train.jsonl, query.jsonl, model, adapter in {}",
        work.folder.display()
    )
}

fn listed(words: &[String]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
