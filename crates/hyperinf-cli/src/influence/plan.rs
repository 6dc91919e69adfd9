use hyperinf::data::{Goal, Select, duration};

use super::{Each, Job};
use crate::config;
use crate::error::CliError;
use crate::plan::{Found, warn_of};
use crate::progress::{note, observer};

impl Job<'_> {
    /// What each method will take.
    pub(crate) fn plans(&self, goal: &Goal) -> Result<Vec<Found>, CliError> {
        let mut plans = Vec::new();
        for method in self.methods()? {
            let (settings, mut run) = self.run(method, false)?;
            if let (true, Some(rows)) = (self.args.batch_size.is_auto(), run.earlier_batch_size()) {
                run.batch_size = rows;
            }
            let plan = run.plan(goal, &settings.device, &mut observer())?;
            plans.push(Found { method: Some(method.to_string()), device: settings.device_name, plan });
        }
        Ok(plans)
    }

    /// The batch size of `--batch-size auto`: that of gradients of an earlier run, which would not be reused with
    /// another one, or the fastest that fits.
    pub(super) fn batch_size(&self, each: &Each<'_>) -> Result<usize, CliError> {
        let (rows, why) = match each.run.earlier_batch_size() {
            Some(rows) => (rows, "that of the gradients of an earlier run".to_owned()),
            None => {
                let goal = match self.command {
                    "detect" => Goal::Detect,
                    "select" => Goal::Select(Select { targets: self.targets.to_vec(), ..Select::default() }),
                    _ => Goal::Attribute,
                };
                let plan = each.run.plan(&goal, &each.settings.device, &mut observer())?;
                warn_of(&plan);
                (plan.batch.fastest, format!("the fastest that fits; about {} in all", duration(plan.seconds())))
            }
        };
        note(&format!("batches of {rows} rows: {why}"));
        config::resolve("batch-size", rows);
        Ok(rows)
    }
}
