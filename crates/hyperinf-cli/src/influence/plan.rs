use hyperinf::data::{Goal, duration};
use serde_json::json;

use super::Job;
use crate::args::{PlanArgs, Planned, QueryModeArg};
use crate::error::CliError;
use crate::progress::{note, observer, warn};
use crate::to_stdout;
use crate::{config, interrupt};

/// Prints what a command will take.
///
/// # Errors
///
/// See [`CliError`]. Nothing is left behind.
pub(crate) fn run(plan: &PlanArgs) -> Result<(), CliError> {
    let (command, args, query, mode, seeds) = match &plan.of {
        Planned::Attribute(args) => ("attribute", &args.influence, &args.query, args.mode(), args.uncertainty),
        Planned::Detect(args) => ("detect", &args.influence, &args.validation, QueryModeArg::Mean, None),
        Planned::Select(args) => ("select", &args.influence, &args.validation, QueryModeArg::Mean, None),
    };
    let positions = match &plan.of {
        Planned::Attribute(args) => args.positions.then_some(args.top_k),
        Planned::Detect(_) | Planned::Select(_) => None,
    };
    Job { command, args, query, mode, seeds, positions, outputs: &[] }.plan()
}

impl Job<'_> {
    /// What the scores are for.
    fn goal(&self) -> Goal {
        match self.command {
            "detect" => Goal::Detect,
            "select" => Goal::Select,
            _ => Goal::Attribute,
        }
    }

    /// Prints what each method will take.
    pub(crate) fn plan(&self) -> Result<(), CliError> {
        interrupt::set_hint(String::new());
        let mut plans = Vec::new();
        for method in self.methods()? {
            let (settings, mut run) = self.run(method)?;
            if let (true, Some(rows)) = (self.args.batch_size.is_auto(), run.earlier_batch_size()) {
                run.batch_size = rows;
            }
            let plan = run.plan(self.goal(), &settings.device, &mut observer())?;
            plan.shortages().iter().for_each(|shortage| warn(&shortage.to_string()));
            plans.push((method.to_string(), settings.device_name.clone(), plan));
        }
        to_stdout(|out| {
            if self.args.scoring.json {
                let plans: Vec<_> = plans
                    .iter()
                    .map(|(method, device, plan)| {
                        let command = self.command;
                        let shortages: Vec<String> = plan.shortages().iter().map(ToString::to_string).collect();
                        let seconds = plan.seconds();
                        json!({
                            "command": command, "method": method, "device": device, "seconds": seconds,
                            "plan": plan, "shortages": shortages,
                        })
                    })
                    .collect();
                serde_json::to_writer_pretty(&mut *out, &plans)?;
                return writeln!(out);
            }
            for (method, device, plan) in &plans {
                writeln!(out, "{} by {method} on {device}: {}", self.command, duration(plan.seconds()))?;
                writeln!(out, "{plan}\n")?;
            }
            Ok(())
        })
    }

    /// The batch size of `--batch-size auto`: that of gradients of an earlier run, which would not be reused with
    /// another one, or the fastest that fits.
    pub(super) fn batch_size(&self, each: &super::Each<'_>) -> Result<usize, CliError> {
        let (rows, why) = match each.run.earlier_batch_size() {
            Some(rows) => (rows, "that of the gradients of an earlier run".to_owned()),
            None => {
                let plan = each.run.plan(self.goal(), &each.settings.device, &mut observer())?;
                plan.shortages().iter().for_each(|shortage| warn(&shortage.to_string()));
                (plan.batch.fastest, format!("the fastest that fits; about {} in all", duration(plan.seconds())))
            }
        };
        note(&format!("batches of {rows} rows: {why}"));
        config::resolve("batch-size", rows);
        Ok(rows)
    }
}
