use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use hyperinf_data::{Dataset, RowText};
use hyperinf_models::{guarded, read_regular};
use hyperinf_scoring::Set;
use hyperinf_store::StoredScores;

use crate::detection::DetectionCurve;
use crate::error::read_summary;
use crate::pack::sha256;
use crate::page::RESULTS;
use crate::report::{Column, Fact, Limits, Query, Report, Rows, Values};
use crate::rows::{Missing, Place, heat, ids, named, of_data, of_table, thumbnails};
use crate::summary::Summary;
use crate::{DampingLines, ReportError};

const COMMANDS: [&str; 3] = ["attribute", "detect", "select"];

/// The results of a finished `attribute`, `detect` or `select` on disk.
///
/// | field | default | purpose |
/// |---|---|---|
/// | `folder` | empty | the folder of the results, or a summary in it |
/// | `train`, `query` | `None` | where the rows are now, if not where the summary says |
/// | `images` | `None` | where relative paths of images begin; `None`: the folder of the rows |
/// | `known_bad` | `None` | a text file with the ids of rows that are known to be bad, one per line |
/// | `true_labels` | `None` | a column of the training rows with their true labels: rows with another label are bad |
/// | `sweep` | `None` | the folder of a `sweep` over the same rows |
/// | `limits` | see [`Limits`] | how much the page has |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// The folder of the results, or a summary in it.
    pub folder: PathBuf,
    /// The training rows.
    pub train: Option<PathBuf>,
    /// The query rows.
    pub query: Option<PathBuf>,
    /// Where relative paths of images begin.
    pub images: Option<PathBuf>,
    /// Rows that are known to be bad, by their ids.
    pub known_bad: Option<PathBuf>,
    /// A column with true labels.
    pub true_labels: Option<String>,
    /// The folder of a sweep.
    pub sweep: Option<PathBuf>,
    /// How much the page has.
    pub limits: Limits,
}

impl Results {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        if self.folder.is_file() { self.folder.parent().unwrap_or(Path::new("")) } else { &self.folder }
    }

    /// Reads the results with the texts of their rows, whose fingerprints must be those of the summary.
    ///
    /// # Errors
    ///
    /// See [`ReportError`].
    pub fn report(&self) -> Result<Report, ReportError> {
        let summary_path = self.summary()?;
        let summary: Summary = read_summary(&summary_path, &COMMANDS, "attribute, detect or select")?;
        let hash = fingerprint(&summary_path)?;
        let mut notes = summary.notes();
        let place = |set, input, moved| Place {
            task: &summary.task,
            set,
            input,
            moved,
            images: self.images.as_deref(),
            folder: self.path(),
        };
        let train = place(Set::Train, &summary.train, self.train.as_deref());
        let of_mean = |scores| Query { text: summary.mean(), scores, ..Query::default() };
        let table = match summary.command.as_str() {
            "detect" => Some("suspicious.csv"),
            "select" => Some("ranking.csv"),
            _ => None,
        };
        let (mut rows, mut queries, mut data, mut query_data) = match table {
            Some(name) => {
                let (rows, scores) = of_table(&self.path().join(name))?;
                // Only pictures and other labels are not in the table.
                let needed = self.true_labels.is_some() || summary.train.columns.contains_key("image");
                let data = if needed { Some(train.read(None)?) } else { None };
                (rows, vec![of_mean(scores)], data, None)
            }
            None => {
                let path = summary.outputs.iter().find(|name| name.starts_with("scores.") && !name.ends_with(".png"));
                let path = path.ok_or_else(|| ReportError::NoScores { path: summary_path.clone() })?;
                let path = self.path().join(path);
                let read = guarded(|| StoredScores::read(&path));
                let scores = read.map_err(|source| ReportError::Panicked { path: path.clone(), source })??;
                let data = train.read(None)?;
                check_ids(&data, &scores.train)?;
                let query_data = place(Set::Query, &summary.query, self.query.as_deref()).read(None)?;
                let (queries, query_data) = if summary.query_mode == "mean" {
                    (scores.rows.into_iter().map(of_mean).collect(), None)
                } else {
                    check_ids(&query_data, &scores.queries)?;
                    (queries_of(&query_data, scores.rows), Some(query_data))
                };
                let mut rows = of_data(data.clone());
                if let Some(std) = scores.std {
                    rows.columns.push(Column { name: "score std".into(), values: Values::Numbers(std) });
                }
                (rows, queries, Some(data), query_data)
            }
        };
        if let Some(bad) = self.bad(&rows, &train)? {
            rows.columns.push(Column { name: "known bad".into(), values: Values::Flags(bad) });
        }
        self.pictures(&mut rows, &mut queries, data.take(), query_data.take(), &mut notes);
        let positions = summary.outputs.iter().find(|name| name.starts_with("positions."));
        let heat =
            positions.map(|name| heat(&self.path().join(name), &rows, &queries)).transpose()?.unwrap_or_default();
        let detection = detection(&rows, &queries)?;
        let dampings = self.sweep.as_ref().map(|folder| DampingLines::read(folder, rows.ids.len())).transpose()?;
        self.tell_limits(&rows, &queries, &mut notes);
        let mut facts = summary.facts();
        facts.push(Fact::new("results", format!("{}: SHA-256 {hash}", summary_path.display())));
        Ok(Report {
            title: summary.title(),
            subtitle: summary.subtitle(),
            notes,
            figures: summary.figures(),
            sign: summary.sign(),
            rows,
            queries,
            detection,
            dampings: dampings.unwrap_or_default(),
            blocks: summary.blocks(),
            heat,
            facts,
            results: Some(hash),
            limits: self.limits.clone(),
        })
    }

    /// The summary: the one that was named, or the first of the folder.
    fn summary(&self) -> Result<PathBuf, ReportError> {
        if self.folder.is_file() {
            return Ok(self.folder.clone());
        }
        let names = ["summary.json"].map(str::to_owned).into_iter();
        let mut names = names.chain(COMMANDS.map(|command| format!("{command}-summary.json")));
        if let Some(path) = names.find_map(|name| Some(self.folder.join(name)).filter(|path| path.is_file())) {
            return Ok(path);
        }
        let entries = std::fs::read_dir(&self.folder);
        let entries = entries.map_err(|source| ReportError::File { path: self.folder.clone(), source })?;
        let mut nested: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        nested.retain(|path| path.join("summary.json").is_file());
        nested.sort();
        let nested = nested.first().map(|path| path.display().to_string());
        Err(ReportError::NoSummary { folder: self.folder.clone(), nested })
    }

    /// The rows that are known to be bad.
    fn bad(&self, rows: &Rows, train: &Place<'_>) -> Result<Option<Vec<bool>>, ReportError> {
        let mut bad = self.known_bad.as_ref().map(|path| named(path, &rows.ids)).transpose()?;
        if let Some(column) = &self.true_labels {
            let (given, truth) = (train.read(None)?, train.read(Some(column))?);
            let ids = ids(&given);
            let differ = given.rows.iter().zip(&truth.rows).map(|(a, b)| a.content.label != b.content.label);
            let wrong: HashMap<&str, bool> = ids.iter().map(String::as_str).zip(differ).collect();
            let bad = bad.get_or_insert_with(|| vec![false; rows.ids.len()]);
            for (bad, id) in bad.iter_mut().zip(&rows.ids) {
                *bad |= wrong.get(id.as_str()).copied().unwrap_or(false);
            }
        }
        Ok(bad)
    }

    /// Puts in thumbnails, first those at the ends of rankings.
    fn pictures(
        &self,
        rows: &mut Rows,
        queries: &mut [Query],
        data: Option<Dataset<RowText>>,
        query_data: Option<Dataset<RowText>>,
        notes: &mut Vec<String>,
    ) {
        let mut missing: Missing = None;
        let mut failed = |found: Missing| {
            if let Some((count, reason)) = found {
                missing.get_or_insert((0, reason)).0 += count;
            }
        };
        if let Some(data) = data.filter(|data| data.rows.iter().any(|row| !row.content.images.is_empty())) {
            let places: HashMap<String, usize> = ids(&data).into_iter().zip(0..).collect();
            let mut wanted: Vec<usize> =
                queries.iter().flat_map(|query| query.ends(self.limits.top)).flatten().collect();
            wanted.extend(0..rows.ids.len());
            let mut seen = vec![false; rows.ids.len()];
            wanted.retain(|&row| !std::mem::replace(&mut seen[row], true));
            let illustrated = wanted.len();
            wanted.truncate(self.limits.pictures);
            if wanted.len() < illustrated {
                let shown = wanted.len();
                notes.push(format!(
                    "The page has the pictures of {shown} of {illustrated} rows, those at the ends of rankings first."
                ));
            }
            let in_data: BTreeMap<usize, usize> =
                wanted.iter().filter_map(|&row| Some((*places.get(&rows.ids[row])?, row))).collect();
            let (found, bad) = thumbnails(&data, in_data.keys().copied());
            rows.pictures = found.into_iter().map(|(place, png)| (in_data[&place], png)).collect();
            failed(bad);
        }
        if let Some(data) = query_data {
            let (found, bad) = thumbnails(&data, 0..queries.len().min(self.limits.pictures));
            found.into_iter().for_each(|(place, png)| queries[place].picture = Some(png));
            failed(bad);
        }
        if let Some((count, reason)) = missing {
            notes.push(format!("{count} pictures cannot be shown; one of them: {reason}"));
        }
    }

    fn tell_limits(&self, rows: &Rows, queries: &[Query], notes: &mut Vec<String>) {
        let (count, limit) = (rows.ids.len(), self.limits.text_of(rows.ids.len()));
        let cut = rows.texts.iter().filter(|text| text.len() > limit && text.chars().count() > limit).count();
        if cut > 0 {
            notes.push(format!(
                "The texts of {cut} rows are cut after {limit} characters, later at the ends of rankings."
            ));
        }
        let whole = self.limits.queries(count);
        if whole < queries.len() {
            notes.push(format!("The page has all scores of the first {whole} of {} queries; of the others, the ends of their rankings.", queries.len()));
        }
    }
}

/// Whether a page shows other results than those of a summary; `None` without a page that names its results.
///
/// # Errors
///
/// If the page or the summary cannot be read.
pub fn is_stale(page: &Path, summary: &Path) -> Result<Option<bool>, ReportError> {
    /// The tag is in the first lines.
    const HEAD: u64 = 4096;
    if !page.is_file() {
        return Ok(None);
    }
    let failed = |source| ReportError::File { path: page.to_owned(), source };
    let mut head = Vec::new();
    std::fs::File::open(page).and_then(|file| file.take(HEAD).read_to_end(&mut head)).map_err(failed)?;
    let head = String::from_utf8_lossy(&head);
    let Some((_, rest)) = head.split_once(RESULTS) else { return Ok(None) };
    let shown = rest.split('"').next().unwrap_or_default();
    Ok(Some(shown != fingerprint(summary)?))
}

/// The SHA-256 of a file.
fn fingerprint(path: &Path) -> Result<String, ReportError> {
    let bytes = read_regular(path).map_err(|source| ReportError::File { path: path.to_owned(), source })?;
    Ok(sha256(&bytes))
}

/// Fails if the rows are not those of the scores.
fn check_ids(data: &Dataset<RowText>, expected: &[String]) -> Result<(), ReportError> {
    let (found, path) = (ids(data), data.path.clone());
    if found.len() != expected.len() {
        return Err(ReportError::Count { path, found: found.len(), expected: expected.len() });
    }
    match found.iter().zip(expected).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(row) => Err(ReportError::Id { path, row, found: found[row].clone(), expected: expected[row].clone() }),
    }
}

fn queries_of(data: &Dataset<RowText>, scores: Vec<Vec<f32>>) -> Vec<Query> {
    let query = |((row, id), scores): ((&hyperinf_data::Row<RowText>, String), Vec<f32>)| Query {
        id: Some(id),
        text: row.content.text.clone(),
        label: row.content.label.clone(),
        picture: None,
        scores,
    };
    data.rows.iter().zip(ids(data)).zip(scores).map(query).collect()
}

/// How well low scores, and large losses where there are any, find the rows that are known to be bad.
fn detection(rows: &Rows, queries: &[Query]) -> Result<Vec<DetectionCurve>, ReportError> {
    let column = |name: &str| rows.columns.iter().find(|column| column.name == name).map(|column| &column.values);
    let Some(Values::Flags(bad)) = column("known bad") else { return Ok(Vec::new()) };
    let sum = |row: usize| queries.iter().map(|query| f64::from(query.scores[row])).sum::<f64>();
    let suspicion: Vec<f64> = (0..rows.ids.len()).map(|row| -sum(row)).collect();
    let mut curves = vec![DetectionCurve::new("lowest scores", &suspicion, bad)?];
    for (name, title) in [("training loss", "largest losses"), ("self influence", "largest self-influence")] {
        if let Some(Values::Numbers(values)) = column(name) {
            let suspicion: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
            curves.push(DetectionCurve::new(title, &suspicion, bad)?);
        }
    }
    Ok(curves)
}
