//! `hyperinf plan`: what a command will take.

use hyperinf::data::{Goal, RunPlan, duration};
use serde_json::json;

use crate::args::{PlanArgs, Planned, QueryModeArg};
use crate::error::CliError;
use crate::influence::Job;
use crate::progress::warn;
use crate::{finetune, index, interrupt, select, to_stdout};

/// A plan, with what it is of.
pub(crate) struct Found {
    /// The method, where there is one.
    pub(crate) method: Option<String>,
    pub(crate) device: String,
    pub(crate) plan: RunPlan,
}

/// Prints what a command will take.
///
/// # Errors
///
/// See [`CliError`]. Nothing is left behind.
pub(crate) fn run(plan: &PlanArgs) -> Result<(), CliError> {
    interrupt::set_hint(String::new());
    let job = |goal: &Goal, args, query, mode, seeds, positions| {
        let ensemble = match &plan.of {
            Planned::Attribute(args) => &args.ensemble[..],
            _ => &[],
        };
        let (command, targets, outputs) = (goal.name(), &[], &[]);
        Job { command, args, query, targets, mode, ensemble, seeds, positions, outputs }.plans(goal)
    };
    let (mean, json) = (QueryModeArg::Mean, plan.is_json());
    let found = match &plan.of {
        Planned::Attribute(args) => {
            let positions = args.positions.then_some(args.top_k);
            job(&Goal::Attribute, &args.influence, &args.query, args.mode(), args.uncertainty, positions)?
        }
        Planned::Detect(args) => job(&Goal::Detect, &args.influence, &args.validation, mean, None, None)?,
        Planned::Select(args) => {
            let goal = Goal::Select(select::chosen(args));
            job(&goal, &args.influence, &args.validation[0], mean, None, None)?
        }
        Planned::Finetune(args) => vec![finetune::planned(&args.finetune)?],
        Planned::Index(args) => vec![index::planned(args)?],
    };
    found.iter().for_each(|found| warn_of(&found.plan));
    to_stdout(|out| {
        if json {
            serde_json::to_writer_pretty(&mut *out, &found.iter().map(as_json).collect::<Vec<_>>())?;
            return writeln!(out);
        }
        for Found { method, device, plan } in &found {
            let by = method.as_ref().map(|method| format!(" by {method}")).unwrap_or_default();
            writeln!(out, "{}{by} on {device}: {}", plan.command, duration(plan.seconds()))?;
            writeln!(out, "{plan}\n")?;
        }
        Ok(())
    })
}

/// Warns of what will not fit.
pub(crate) fn warn_of(plan: &RunPlan) {
    plan.shortages().iter().for_each(|shortage| warn(&shortage.to_string()));
}

fn as_json(Found { method, device, plan }: &Found) -> serde_json::Value {
    let shortages: Vec<String> = plan.shortages().iter().map(ToString::to_string).collect();
    json!({
        "command": plan.command, "method": method, "device": device, "seconds": plan.seconds(),
        "plan": plan, "shortages": shortages,
    })
}
