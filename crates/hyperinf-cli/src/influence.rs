//! Shared by `attribute`, `detect` and `select`: from arguments to a run, and the summary of its result.

mod earlier;
mod summary;

use std::fs::create_dir_all;
use std::path::Path;

use hyperinf::data::{GRADIENT_FILES, Influence, Pattern, Run};
use hyperinf::eval::{Spread, between};
use hyperinf::store::{StoreError, check_output};

use crate::args::{InfluenceArgs, QueryModeArg};
use crate::error::CliError;
use crate::score::{self, Settings};
pub(crate) use summary::Summary;

/// The highest scores whose overlap between seeds is reported.
const TOP: usize = 10;

/// The choices of one command.
pub(crate) struct Job<'a> {
    pub(crate) args: &'a InfluenceArgs,
    /// The query rows.
    pub(crate) query: &'a Path,
    pub(crate) mode: QueryModeArg,
    /// Seeds for error bars.
    pub(crate) seeds: Option<usize>,
    /// The names of the files that will be written.
    pub(crate) outputs: &'a [&'a str],
}

impl Job<'_> {
    /// The run that the arguments describe. Arguments and outputs are checked before any input is read.
    pub(crate) fn run(&self) -> Result<(Settings, Run), CliError> {
        let args = self.args;
        let settings = Settings::new(&args.scoring, self.mode)?;
        let project = &args.scoring.shared.project;
        let estimate = args.curvature.estimate(settings.spec.estimate, project.seed)?;
        project.check_seed(estimate.seed().is_some())?;
        let run = Run {
            model: args.model.model.clone(),
            adapter: args.adapter.clone(),
            tokenizer: args.model.tokenizer.clone(),
            train: args.train.clone(),
            query: self.query.to_owned(),
            read: (&args.columns).into(),
            length: args.length.into(),
            options: settings.options.clone(),
            estimate,
            projection: settings.projection,
            seeds: self.seeds,
            blocks: args.blocks.clone().map(Pattern::new),
            batch_size: args.batch_size as usize,
            rank_by: settings.rank_by,
            memory: args.scoring.memory(),
            out: args.out.clone(),
            device_name: settings.device_name.clone(),
        };
        run.validate()?;
        create_dir_all(&args.out).map_err(|e| StoreError::output(&args.out, e))?;
        let inputs = [args.train.as_path(), self.query];
        let gradients = if args.keep_gradients { &GRADIENT_FILES[..] } else { &[] };
        self.outputs.iter().chain(gradients).try_for_each(|name| check_output(&args.out.join(name), &inputs))?;
        Ok((settings, run))
    }

    /// Checks and warns about a result; with several seeds its scores become their mean.
    pub(crate) fn judge(&self, settings: &Settings, found: &mut Influence) -> Result<Option<Spread>, CliError> {
        if self.args.scoring.strict {
            score::check_converged(&found.attribution)?;
        }
        score::warn(settings, &found.attribution);
        if found.repeats.is_empty() {
            return Ok(None);
        }
        let spread = between(&found.repeats, TOP)?;
        found.attribution.scores.rows = vec![spread.mean.clone()];
        Ok(Some(spread))
    }

    /// Keeps the gradients under their names, or removes them.
    pub(crate) fn settle_gradients(&self, found: Influence) -> Result<(), CliError> {
        let settled = match self.args.keep_gradients {
            true => found.keep_gradients(&self.args.out),
            false => found.discard_gradients(),
        };
        Ok(settled?)
    }
}

/// The file name with the ending of a path.
pub(crate) fn with_ending_of(name: &str, path: &Path) -> String {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some(ending) => format!("{name}.{ending}"),
        None => name.to_owned(),
    }
}
