//! Rows of data sets and of tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use hyperinf_data::{ColumnOptions, Dataset, ReadOptions, RowText, read_texts};
use hyperinf_models::read_regular;
use hyperinf_scoring::Set;
use serde::Deserialize;
use serde_json::Value;

use crate::ReportError;
use crate::report::{Column, Heat, Query, Rows, Values};
use crate::summary::Input;

/// The longest edge of a thumbnail.
const EDGE: usize = 128;

/// Where a data set is read, and as what.
pub(crate) struct Place<'a> {
    pub(crate) task: &'a str,
    pub(crate) set: Set,
    pub(crate) input: &'a Input,
    /// Its present place, if it is another one.
    pub(crate) moved: Option<&'a Path>,
    /// Where images are.
    pub(crate) images: Option<&'a Path>,
    /// The folder of the results.
    pub(crate) folder: &'a Path,
}

impl Place<'_> {
    /// The rows that were scored, in the order of the file; `label` is another column for the labels.
    pub(crate) fn read(&self, label: Option<&str>) -> Result<Dataset<RowText>, ReportError> {
        let Self { task, set, input, .. } = self;
        let path = self.find()?;
        let column = |name: &str| input.columns.get(name).cloned().flatten();
        let columns = ColumnOptions {
            text: column("text"),
            pair: column("text_pair"),
            label: label.map(str::to_owned).or_else(|| column("label")),
            prompt: column("prompt"),
            completion: column("completion"),
            messages: column("messages"),
            image: column("image"),
            id: column("id"),
        };
        let images = self.images.map(Path::to_owned);
        let options = ReadOptions { columns, skip_bad_rows: true, images, ..ReadOptions::default() };
        let mut data = read_texts(task, *set, &path, &options)?;
        if data.xxh3_128 != input.xxh3_128 {
            let (found, expected) = (data.xxh3_128, input.xxh3_128.clone());
            return Err(ReportError::Changed { path, found, expected });
        }
        let left_out: BTreeSet<usize> = input.left_out.iter().map(|bad| bad.row).collect();
        data.rows.retain(|row| !left_out.contains(&row.row));
        if data.rows.len() != input.used {
            return Err(ReportError::Count { path, found: data.rows.len(), expected: input.used });
        }
        Ok(data)
    }

    /// The file: where it is now, where it was, or there as seen from the results.
    fn find(&self) -> Result<PathBuf, ReportError> {
        if let Some(moved) = self.moved {
            return Ok(moved.to_owned());
        }
        let file = Path::new(&self.input.file);
        let folders = [Path::new(""), self.folder].into_iter().chain(self.folder.parent());
        let mut places = folders.map(|folder| folder.join(file));
        places.find(|place| place.exists()).ok_or_else(|| ReportError::NoRows { file: self.input.file.clone() })
    }
}

/// The id of each row: its number in the file, or its value in the id column.
pub(crate) fn ids(data: &Dataset<RowText>) -> Vec<String> {
    data.rows.iter().map(|row| row.id.clone().unwrap_or_else(|| row.row.to_string())).collect()
}

/// Rows of a data set.
pub(crate) fn of_data(data: Dataset<RowText>) -> Rows {
    let ids = ids(&data);
    let labelled = data.rows.iter().any(|row| row.content.label.is_some());
    let (mut texts, mut labels) = (Vec::new(), Vec::new());
    for row in data.rows {
        texts.push(row.content.text);
        labels.push(row.content.label.unwrap_or_default());
    }
    let columns =
        if labelled { vec![Column { name: "label".into(), values: Values::Texts(labels) }] } else { Vec::new() };
    Rows { ids, texts, columns, ..Rows::default() }
}

/// A table of `detect` or `select`: its rows with their scores.
pub(crate) fn of_table(path: &Path) -> Result<(Rows, Vec<f32>), ReportError> {
    let failed = |source| ReportError::Csv { path: path.to_owned(), source };
    let mut reader = csv::Reader::from_path(path).map_err(failed)?;
    let header = reader.headers().map_err(failed)?.clone();
    let mut cells: Vec<Vec<String>> = vec![Vec::new(); header.len()];
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(failed)? {
        cells.iter_mut().zip(&record).for_each(|(column, cell)| column.push(cell.to_owned()));
    }
    let mut columns: Vec<(String, Vec<String>)> = header.iter().map(str::to_owned).zip(cells).collect();
    let mut take = |column: &'static str| {
        let place = columns.iter().position(|(name, _)| name == column);
        let place = place.ok_or_else(|| ReportError::Column { path: path.to_owned(), column })?;
        Ok::<_, ReportError>(columns.remove(place).1)
    };
    // The rank is that of the score.
    take("rank")?;
    let (ids, texts, scores) = (take("id")?, take("text")?, take("score")?);
    let parsed = |(row, value): (usize, &String)| {
        let number = value.parse::<f32>().ok().filter(|number| number.is_finite());
        let (path, column) = (path.to_owned(), "score".to_owned());
        number.ok_or_else(|| ReportError::Number { path, column, row, value: value.clone() })
    };
    let scores = scores.iter().enumerate().map(parsed).collect::<Result<Vec<f32>, _>>()?;
    let columns =
        columns.into_iter().map(|(name, values)| Column { values: typed(&name, values), name: name.replace('_', " ") });
    Ok((Rows { ids, texts, columns: columns.collect(), ..Rows::default() }, scores))
}

/// Values as what they all are. Labels are texts, even if they are digits.
fn typed(name: &str, values: Vec<String>) -> Values {
    if ["label", "predicted"].contains(&name) {
        return Values::Texts(values);
    }
    if let Some(flags) = values.iter().map(|value| value.parse().ok()).collect::<Option<Vec<bool>>>() {
        return Values::Flags(flags);
    }
    match values.iter().map(|value| value.parse().ok()).collect::<Option<Vec<f32>>>() {
        Some(numbers) => Values::Numbers(numbers),
        None => Values::Texts(values),
    }
}

/// The number of pictures that cannot be shown, with the first reason.
pub(crate) type Missing = Option<(usize, String)>;

/// The thumbnails of some rows, PNG files by the rows' places; and the first reason, with their number, of those that
/// cannot be shown.
pub(crate) fn thumbnails(
    data: &Dataset<RowText>,
    rows: impl Iterator<Item = usize>,
) -> (BTreeMap<usize, Vec<u8>>, Missing) {
    let (mut found, mut failed): (_, Missing) = (BTreeMap::new(), None);
    for row in rows {
        let Some(image) = data.rows[row].content.images.first() else { continue };
        let png = image.thumbnail(EDGE).map_err(|reason| reason.to_string());
        match png.and_then(|picture| picture.to_png().map_err(|error| error.to_string())) {
            Ok(png) => {
                found.insert(row, png);
            }
            Err(reason) => failed.get_or_insert((0, reason)).0 += 1,
        }
    }
    (found, failed)
}

/// The rows that a text file names by their ids, one per line; empty lines are ignored.
pub(crate) fn named(path: &Path, ids: &[String]) -> Result<Vec<bool>, ReportError> {
    let failed = |source| ReportError::File { path: path.to_owned(), source };
    let text = String::from_utf8(read_regular(path).map_err(failed)?);
    let text = text.map_err(|error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
    let places: HashMap<&str, usize> = ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    let mut marked = vec![false; ids.len()];
    for (line, id) in text.lines().map(str::trim).enumerate().filter(|(_, id)| !id.is_empty()) {
        let unknown =
            || ReportError::Unknown { path: path.to_owned(), line: line + 1, id: id.chars().take(80).collect() };
        marked[*places.get(id).ok_or_else(unknown)?] = true;
    }
    Ok(marked)
}

/// A line of the scores of tokens.
#[derive(Deserialize)]
struct Line {
    query_id: Value,
    train_id: Value,
    tokens: Vec<String>,
    scores: Vec<f32>,
}

/// The scores of tokens, whose ids must be those of rows and queries.
pub(crate) fn heat(path: &Path, rows: &Rows, queries: &[Query]) -> Result<Vec<Heat>, ReportError> {
    let failed = |source| ReportError::File { path: path.to_owned(), source };
    let unusable = |source| ReportError::Json { path: path.to_owned(), source };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let places: HashMap<&str, usize> = rows.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    // The mean of all queries has the number 0.
    let query_id = |query: &Query| query.id.clone().unwrap_or_else(|| "0".to_owned());
    let asked: HashMap<String, usize> = queries.iter().enumerate().map(|(at, query)| (query_id(query), at)).collect();
    let mut found = Vec::new();
    for (line, bytes) in read_regular(path).map_err(failed)?.split(|&byte| byte == b'\n').enumerate() {
        if bytes.is_empty() {
            continue;
        }
        let Line { query_id, train_id, tokens, scores } = serde_json::from_slice(bytes).map_err(unusable)?;
        let unknown = |id: &Value| ReportError::Unknown { path: path.to_owned(), line: line + 1, id: text(id) };
        let query = *asked.get(&text(&query_id)).ok_or_else(|| unknown(&query_id))?;
        let row = *places.get(text(&train_id).as_str()).ok_or_else(|| unknown(&train_id))?;
        if tokens.len() != scores.len() {
            return Err(ReportError::Count { path: path.to_owned(), found: tokens.len(), expected: scores.len() });
        }
        found.push(Heat { query, row, tokens, scores });
    }
    Ok(found)
}
