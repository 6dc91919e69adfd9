//! Shared by `attribute`, `detect` and `select`: from arguments to a run, and the summary of its result.

mod details;
mod earlier;
mod plan;
mod rows;
mod summary;

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use hyperinf::data::{
    Baseline, GRADIENT_FILES, Influence, LargeBlocks, Pattern, Ranked, Refine, RefineRows, RowMethod, Run, Trajectory,
};
use hyperinf::eval::{Spread, between};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::MethodSpec;
use hyperinf::store::{BATCH_BYTES, OutputFolder, check_output};
use serde::Serialize;

use crate::args::{InfluenceArgs, QueryModeArg};
use crate::error::{CliError, Usage};
use crate::interrupt;
use crate::score::{self, Settings};
use crate::team;
use crate::text::size;
use crate::to_stdout;
pub(crate) use details::details;
pub(crate) use rows::Wanted;
pub(crate) use rows::list as methods;
pub(crate) use summary::{RowsSummary, Summary};

/// The highest scores whose overlap between seeds is reported.
const TOP: usize = 10;

/// The choices of one command, whatever its methods.
pub(crate) struct Job<'a> {
    pub(crate) command: &'static str,
    pub(crate) args: &'a InfluenceArgs,
    /// The query rows.
    pub(crate) query: &'a Path,
    /// Further files of query rows.
    pub(crate) targets: &'a [PathBuf],
    pub(crate) mode: QueryModeArg,
    /// Further adapters.
    pub(crate) ensemble: &'a [PathBuf],
    /// Seeds for error bars.
    pub(crate) seeds: Option<usize>,
    /// Scores of tokens, of so many rows at either end of each ranking.
    pub(crate) positions: Option<usize>,
    /// The names of the files that will be written, but for the summary.
    pub(crate) outputs: &'a [&'a str],
}

/// One method of a job.
pub(crate) struct Each<'a> {
    pub(crate) job: &'a Job<'a>,
    pub(crate) settings: Settings,
    pub(crate) run: Run,
    /// A baseline, or the derivative through the training, in place of the method.
    pub(crate) rows: Option<RowMethod>,
    /// The folder of its results: of the only method `--out`, of several one each.
    pub(crate) folder: PathBuf,
    began: Instant,
    /// Summaries that are printed together.
    json: Option<&'a RefCell<Vec<String>>>,
}

impl Job<'_> {
    /// Runs the methods in turn, all on the gradients that the first one takes. Arguments and outputs of all are checked
    /// before any input is read.
    pub(crate) fn each(
        &self,
        mut run: impl FnMut(&Each<'_>, Option<Influence>) -> Result<Influence, CliError>,
        mut run_rows: impl FnMut(&Each<'_>, Ranked) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let args = self.args;
        let methods = rows::list(&args.scoring.method)?;
        self.check_smoothness(&methods)?;
        let (several, summaries) = (methods.len() > 1, RefCell::new(Vec::new()));
        let each = |wanted: &Wanted| -> Result<Each<'_>, CliError> {
            let folder = if several { args.out.join(wanted.folder()) } else { args.out.clone() };
            let random = [RowMethod::Baseline(Baseline::Random), RowMethod::Trajectory(Trajectory::Source)];
            let random = random.iter().any(|&rows| methods.contains(&Wanted::Rows(rows)));
            let (settings, run, rows) = match *wanted {
                Wanted::Method(method) => {
                    let (settings, run) = self.run(method, random)?;
                    (settings, run, None)
                }
                Wanted::Rows(rows) => {
                    let (settings, run) = self.run_rows(rows, random || self.args.smoothness.is_some())?;
                    (settings, run, Some(rows))
                }
            };
            let json = several.then_some(&summaries);
            Ok(Each { job: self, settings, run, rows, folder, began: Instant::now(), json })
        };
        let mut methods = methods.iter().map(each).collect::<Result<Vec<_>, _>>()?;
        if let Some(crew) = team::crew() {
            if args.batch_size.is_auto() {
                let first = format!("{} ranks", crew.size());
                let reason = "each rank would find another number: give it";
                return Err(Usage::Combination { first, second: "--batch-size auto", reason }.into());
            }
            let gradients = methods.iter_mut().filter(|each| each.rows.is_none());
            gradients.enumerate().for_each(|(place, each)| each.run.crew = Some(crew.for_method(place)));
            if crew.rank() > 0 {
                let runs: Vec<Run> =
                    methods.iter().filter(|each| each.rows.is_none()).map(|each| each.run.clone()).collect();
                return match methods.first().filter(|_| !runs.is_empty()) {
                    Some(each) => Ok(Run::assist(&runs, self.targets, &each.settings.device)?),
                    // Methods of rows are rank 0's.
                    None => Ok(crew.stand_by()?),
                };
            }
        }
        methods.iter().try_for_each(|each| self.check_outputs(each))?;
        if args.batch_size.is_auto() {
            // Others take no gradients of rows.
            if let Some(first) = methods.iter().find(|each| each.rows.is_none()) {
                let rows = self.batch_size(first)?;
                methods.iter_mut().for_each(|each| each.run.batch_size = rows);
            }
        }
        let folder = args.out.display();
        interrupt::set_hint(format!("; the same command resumes from finished gradients in {folder}"));
        let mut found = None;
        for mut each in methods {
            each.began = Instant::now();
            // `--out` itself is the run's, which keeps gradients there; a method of rows has none.
            let _own =
                if several || each.rows.is_some() { Some(OutputFolder::new(&each.folder, &[], &[])?) } else { None };
            match each.rows {
                Some(rows) => run_rows(&each, each.ranked(rows)?)?,
                None => found = Some(run(&each, found)?),
            }
        }
        team::finish(&args.out)?;
        if several && args.scoring.json {
            let summaries = summaries.borrow().join(",\n");
            to_stdout(|out| writeln!(out, "[{summaries}]"))?;
        }
        found.map_or(Ok(()), |found| self.settle_gradients(found))
    }

    /// The methods of stored gradients, in their order.
    fn methods(&self) -> Result<Vec<MethodSpec>, CliError> {
        let wanted = rows::list(&self.args.scoring.method)?;
        let method = |wanted| match wanted {
            Wanted::Method(method) => Some(method),
            Wanted::Rows(_) => None,
        };
        Ok(wanted.into_iter().filter_map(method).collect())
    }

    /// The run of one method.
    fn run(&self, method: MethodSpec, drawn: bool) -> Result<(Settings, Run), CliError> {
        let args = self.args;
        let settings = Settings::of(method, &args.scoring, self.mode)?;
        let project = &args.scoring.shared.project;
        let estimate = args.curvature.estimate(settings.spec.estimate, project.seed)?;
        project.check_seed(drawn || estimate.seed().is_some() || args.refine_sample.is_some())?;
        let run = self.run_with(&settings, estimate)?;
        run.validate()?;
        Ok((settings, run))
    }

    fn run_with(&self, settings: &Settings, estimate: Estimate) -> Result<Run, CliError> {
        let args = self.args;
        Ok(Run {
            model: args.model.model.clone(),
            adapter: args.adapter.clone(),
            ensemble: self.ensemble.to_vec(),
            tokenizer: args.model.tokenizer.clone(),
            train: args.train.clone(),
            query: self.query.to_owned(),
            read: args.pairs.read(&args.columns),
            pairs: args.pairs.loss()?,
            length: args.length.into(),
            options: settings.options.clone(),
            estimate,
            projection: settings.projection,
            metric: args.metric.clone(),
            refine: args.refine.map(|steps| Refine {
                steps,
                rows: match (args.refine_sample, args.refine_fresh) {
                    (None, _) => RefineRows::All,
                    (Some(rows), false) => RefineRows::Sample(rows as usize),
                    (Some(rows), true) => RefineRows::Fresh(rows as usize),
                },
                seed: args.scoring.shared.project.seed.unwrap_or(0),
            }),
            seeds: self.seeds,
            positions: self.positions,
            layers: args.layers,
            large_blocks: LargeBlocks::default(),
            diffusion: args.diffusion.options(args.timesteps_as, None),
            blocks: args.blocks.clone().map(Pattern::new),
            batch_size: args.batch_size.rows(),
            rank_by: settings.rank_by,
            memory: args.scoring.memory(),
            batch_bytes: BATCH_BYTES,
            index: args.index.clone(),
            keep_factors: !args.keep_nothing,
            out: args.out.clone(),
            device_name: settings.device_name.clone(),
            stop: interrupt::stop(),
            crew: None,
        })
    }

    /// Fails if an output cannot be written. Folders that are created for that are gone again.
    fn check_outputs(&self, each: &Each<'_>) -> Result<(), CliError> {
        let args = self.args;
        let mut inputs = vec![self.args.train.as_path(), self.query];
        inputs.extend(self.targets.iter().map(PathBuf::as_path));
        let (summary, config) = (each.summary_name(), each.config_name());
        let outputs: Vec<&str> = self.outputs.iter().copied().chain([&*config, &*summary]).collect();
        let _folder = OutputFolder::new(&each.folder, &outputs, &inputs)?;
        let gradients = if args.keep_gradients { &GRADIENT_FILES[..] } else { &[] };
        Ok(gradients.iter().try_for_each(|name| check_output(&args.out.join(name), &inputs))?)
    }

    /// Keeps the gradients under their names, or removes them.
    fn settle_gradients(&self, found: Influence) -> Result<(), CliError> {
        let of_train = if self.args.index.is_some() { 0 } else { found.pair.train.length() };
        let (bytes, folder) = (size(of_train + found.pair.query.file.length()), self.args.out.display());
        let note = if self.args.keep_gradients {
            found.keep_gradients(&self.args.out)?;
            format!(
                "gradients {bytes} in {folder}, for other methods and commands there: {}",
                GRADIENT_FILES.join(", ")
            )
        } else {
            found.discard_gradients()?;
            let index = self.args.index.as_ref();
            index.map_or_else(|| format!("gradients {bytes}, removed; for another method without another run of the model: --keep-gradients"),
                |index| format!("gradients of the queries {bytes}, removed; those of the training rows in {}", index.display()))
        };
        if self.args.scoring.json {
            return Ok(());
        }
        to_stdout(|out| writeln!(out, "{note}"))
    }
}

impl Each<'_> {
    /// Seconds since it began.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Prints the summary as JSON if that was asked for, and the text otherwise.
    pub(crate) fn tell(
        &self,
        summary: &impl Serialize,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CliError> {
        let json = self.job.args.scoring.json;
        match self.json.filter(|_| json) {
            Some(all) => to_stdout(|_| {
                all.borrow_mut().push(serde_json::to_string_pretty(summary)?);
                Ok(())
            }),
            None => to_stdout(|out| {
                if json {
                    serde_json::to_writer_pretty(&mut *out, summary)?;
                    return writeln!(out);
                }
                text(out)?;
                if self.json.is_some() { writeln!(out) } else { Ok(()) }
            }),
        }
    }

    /// Checks and warns about a result; with several seeds its scores become their mean.
    pub(crate) fn judge(&self, found: &mut Influence) -> Result<Option<Spread>, CliError> {
        if self.job.args.scoring.strict {
            score::check_converged(&found.attribution)?;
        }
        score::warn(&self.settings, &found.attribution);
        details::warn_of(found);
        if found.repeats.is_empty() {
            return Ok(None);
        }
        let spread = between(&found.repeats, TOP)?;
        found.attribution.scores.rows = vec![spread.mean.clone()];
        Ok(Some(spread))
    }
}

/// The file name with the ending of a path.
pub(crate) fn with_ending_of(name: &str, path: &Path) -> String {
    match hyperinf::data::rows_file(path).extension().and_then(|ending| ending.to_str()) {
        Some(ending) => format!("{name}.{ending}"),
        None => name.to_owned(),
    }
}
