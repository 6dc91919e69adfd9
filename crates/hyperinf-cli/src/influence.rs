//! What `attribute`, `detect` and `select` share: from files of rows to scores.

mod curvature;
mod earlier;
mod summary;

use std::fs::create_dir_all;
use std::path::{Path, PathBuf};

use hyperinf::curvature::BlockCurvature;
use hyperinf::eval::{Bootstrap, Spread, between};
use hyperinf::gradients::Target;
use hyperinf::scoring::{Attribution, QueryMode, Set};

use crate::args::{InfluenceArgs, QueryModeArg};
use crate::data::{Dataset, Labels};
use crate::error::CliError;
use crate::model::{LoadedModel, ModelFiles};
use crate::pattern::Pattern;
use crate::progress::warn;
use crate::sample_gradients::Taken;
use crate::samples::{CutRow, Reader, RowModel, Samples, limit, read_data};
use crate::score::{self, Settings};
use curvature::Chosen;
use hyperinf::store::{self, GradientPair, GradientWriter, IdColumn, ProjectionSpec, StoreError, check_output};
pub(crate) use summary::Summary;

/// What scores hang on that is drawn.
#[derive(Clone, Copy)]
struct Drawn {
    chosen: Chosen,
    projection: Option<ProjectionSpec>,
}

/// The others of `count`, with seeds that count on: of the projection, if there is a random one, else of the curvature.
fn redrawn(chosen: Chosen, settings: &Settings, count: usize) -> Result<Vec<Drawn>, CliError> {
    let refused = |second, reason| Err(CliError::Combination { first: "--uncertainty".into(), second, reason });
    if settings.options.query != QueryMode::Mean {
        return refused("--query-mode each", "error bars are for the mean of the queries");
    }
    if !(2..=Bootstrap::MOST).contains(&count) {
        let (flag, expected) = ("--uncertainty", "at least 2 seeds and at most 1,000,000");
        return Err(CliError::Value { flag, expected, value: count as f64 });
    }
    let projections = settings.projection.map(|first| first.further(count - 1)).unwrap_or_default();
    if !projections.is_empty() {
        return Ok(projections.into_iter().map(|other| Drawn { chosen, projection: Some(other) }).collect());
    }
    let others = chosen.further(count - 1);
    if others.is_empty() {
        return refused("nothing that is drawn", "take --estimate sampled, gauss-newton with --draws, or --project");
    }
    Ok(others.into_iter().map(|chosen| Drawn { chosen, projection: settings.projection }).collect())
}

/// Bad rows that are told one by one; of more only the number is told.
const TOLD: usize = 5;

/// The highest scores whose overlap between seeds is told.
const TOP: usize = 10;

/// The names of the files of gradients.
const GRADIENTS: [&str; 2] = ["train_gradients.safetensors", "query_gradients.safetensors"];

/// Training rows with their scores.
pub(crate) struct Scored {
    pub(crate) train: Rows,
    pub(crate) query: Rows,
    pub(crate) attribution: Attribution,
    pub(crate) settings: Settings,
    pub(crate) pair: GradientPair,
    /// What the curvature is made of.
    pub(crate) chosen: Chosen,
    /// How far the scores may be off, if it was asked for.
    pub(crate) spread: Option<Spread>,
    /// The number of seeds that it is between.
    pub(crate) seeds: usize,
    /// The curvature, where it was taken from the model.
    pub(crate) known: Option<Vec<BlockCurvature>>,
    pub(crate) files: ModelFiles,
    pub(crate) labels: Option<Labels>,
    pub(crate) max_length: usize,
    gradients: [GradientWriter; 2],
}

/// The rows of a file that were used.
pub(crate) struct Rows {
    pub(crate) data: Dataset,
    pub(crate) cut: Vec<CutRow>,
    /// The loss of each row.
    pub(crate) losses: Vec<f64>,
}

/// A command's choices beyond what all have.
pub(crate) struct Job<'a> {
    pub(crate) args: &'a InfluenceArgs,
    /// The rows that training rows are scored for.
    pub(crate) query: &'a Path,
    pub(crate) mode: QueryModeArg,
    /// Seeds of what the curvature draws, for error bars.
    pub(crate) seeds: Option<usize>,
    /// The names of the files that will be written.
    pub(crate) outputs: &'a [&'a str],
}

impl Job<'_> {
    /// Scores the training rows.
    ///
    /// What was typed is checked before any file is read; `check` is told the number of training rows before
    /// gradients are taken.
    pub(crate) fn run(&self, check: impl FnOnce(usize) -> Result<(), CliError>) -> Result<Scored, CliError> {
        let Self { args, query, mode, .. } = *self;
        let settings = Settings::new(&args.scoring, mode)?;
        let chosen = Chosen::new(&args.curvature, &settings)?;
        self.seeds.map(|count| redrawn(chosen, &settings, count)).transpose()?;
        self.prepare_folder()?;
        let files = ModelFiles::find(&args.model, args.adapter.as_deref())?;
        let task = files.task()?;
        chosen.check_task(task)?;
        let train = read_data(Set::Train, &args.train, task, &args.columns)?;
        let query = read_data(Set::Query, query, task, &args.columns)?;
        check(train.rows.len())?;
        let Some(adapter) = &files.adapter else { return Err(CliError::NoAdapter { model: args.model.model.clone() }) };
        match files.load_adapted(adapter, &settings.device)? {
            LoadedModel::Encoder(model, labels) => {
                labels.check(&train.rows)?;
                self.score((settings, chosen), files, model.as_ref(), Some(labels), train, query)
            }
            LoadedModel::Decoder(model) => self.score((settings, chosen), files, model.as_ref(), None, train, query),
        }
    }

    fn score<M: RowModel>(
        &self,
        (settings, chosen): (Settings, Chosen),
        files: ModelFiles,
        model: &M,
        labels: Option<Labels>,
        train: Dataset,
        query: Dataset,
    ) -> Result<Scored, CliError> {
        let args = self.args;
        let limit = limit(model, &args.length, files.trained_length())?;
        let tokenizer = files.tokenizer()?;
        let reader = Reader { tokenizer: &tokenizer, labels: labels.as_ref(), limit, columns: &args.columns };
        let train = reader.samples(train, model)?;
        let query = reader.samples(query, model)?;
        tell(&train.data, &train.cut);
        tell(&query.data, &query.cut);
        let pattern = args.blocks.as_deref().map(Pattern::new);
        let taken = Taken {
            model,
            name: &args.model.model,
            pattern: pattern.as_ref(),
            batch: args.batch_size as usize,
            folder: &args.out,
            key: format!("{} {} {}", env!("CARGO_PKG_VERSION"), files.fingerprint(), settings.device_name),
        };
        let gradients =
            [taken.write(GRADIENTS[0], Target::Loss, &train)?, taken.write(GRADIENTS[1], Target::Measure, &query)?];
        let mut pair = GradientPair::open(gradients[0].path(), gradients[1].path())?;
        if let Some(how) = settings.projection.filter(|how| pair.is_within(how.rank)) {
            if self.seeds.is_some() && how.directions.seed().is_some() {
                return Err(score::nothing_projected());
            }
            score::note(&pair, Some(how)).iter().for_each(|note| warn(note));
        }
        let mut score = |Drawn { chosen, projection }| -> Result<_, CliError> {
            pair.project(projection, &settings.device)?;
            let known = chosen.of_model(model, &train.samples, taken.batch, pattern.as_ref(), &settings.options)?;
            let attribution = store::score(&pair, known.as_deref(), &settings.options, &settings.device)?;
            if args.scoring.strict {
                score::check_converged(&attribution)?;
            }
            Ok((known, attribution))
        };
        let first = Drawn { chosen, projection: settings.projection };
        let (known, mut attribution) = score(first)?;
        let (mut spread, seeds) = (None, self.seeds.unwrap_or(1));
        if let Some(count) = self.seeds {
            let mut sets = attribution.scores.rows.clone();
            for other in redrawn(chosen, &settings, count)? {
                let (_, found) = score(other)?;
                sets.extend(found.scores.rows);
                score::keep_worst(&mut attribution.blocks, found.blocks);
            }
            // What else is told of them is of the first.
            pair.project(settings.projection, &settings.device)?;
            let found = between(&sets, TOP)?;
            attribution.scores.rows = vec![found.mean.clone()];
            spread = Some(found);
        }
        score::warn(&settings, &attribution);
        let rows = |set: Samples<M::Sample>, gradients: &GradientWriter| Rows {
            data: set.data,
            cut: set.cut,
            losses: gradients.losses().iter().copied().flatten().collect(),
        };
        let (train, query) = (rows(train, &gradients[0]), rows(query, &gradients[1]));
        let max_length = limit.tokens();
        Ok(Scored {
            train,
            query,
            attribution,
            settings,
            pair,
            chosen,
            spread,
            seeds,
            known,
            files,
            labels,
            max_length,
            gradients,
        })
    }

    /// Makes the folder and finds out whether all outputs can be written.
    fn prepare_folder(&self) -> Result<(), CliError> {
        let folder = &self.args.out;
        create_dir_all(folder).map_err(|e| StoreError::output(folder, e))?;
        let inputs = [self.args.train.as_path(), self.query];
        let gradients = if self.args.keep_gradients { &GRADIENTS[..] } else { &[] };
        Ok(self.outputs.iter().chain(gradients).try_for_each(|name| check_output(&folder.join(name), &inputs))?)
    }
}

impl Scored {
    /// Keeps the gradients under their names, or takes them away.
    pub(crate) fn settle_gradients(self, args: &InfluenceArgs) -> Result<(), CliError> {
        for (writer, name) in self.gradients.into_iter().zip(GRADIENTS) {
            let path = args.out.join(name);
            let settled = if args.keep_gradients { writer.place(&path) } else { writer.discard() };
            settled.map_err(|e| StoreError::output(&path, e))?;
        }
        Ok(())
    }
}

impl Rows {
    /// The rows' ids: of the column that has them, or their numbers in the file.
    pub(crate) fn ids(&self) -> IdColumn {
        let rows = &self.data.rows;
        match &self.data.columns.id {
            Some(_) => IdColumn::Names(rows.iter().filter_map(|row| row.id.clone()).collect()),
            None => IdColumn::Numbers(rows.iter().map(|row| row.row as i64).collect()),
        }
    }
}

/// Tells on standard error which rows were left out and how many were cut.
pub(crate) fn tell(data: &Dataset, cut: &[CutRow]) {
    let path = data.path.display();
    if !data.bad.is_empty() {
        warn(&format!("{} of {} rows of `{path}` are left out:", data.bad.len(), data.total));
    }
    for bad in data.bad.iter().take(TOLD) {
        warn(&format!("  {bad}"));
    }
    if data.bad.len() > TOLD {
        warn(&format!("  and {} more", data.bad.len() - TOLD));
    }
    if let Some(first) = cut.first() {
        warn(&format!("{} rows of `{path}` are cut at their end, the first is row {}", cut.len(), first.row));
    }
}

/// The file of a name with the ending of another file.
pub(crate) fn with_ending_of(name: &str, path: &Path) -> PathBuf {
    let mut file = PathBuf::from(name);
    if let Some(ending) = path.extension() {
        file.set_extension(ending);
    }
    file
}
