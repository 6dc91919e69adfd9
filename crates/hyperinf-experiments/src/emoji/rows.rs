//! The rows of the experiments: pictures as files, captions as JSON lines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hyperinf::models::Picture;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::pictures::{BASE_STYLES, Emoji, SIDE, STYLES};
use super::{Row, texts};
use crate::Failure;

/// A picture of a file with its caption.
pub struct Drawn {
    pub file: PathBuf,
    pub caption: String,
    /// What makes two rows alike: a style or a subject.
    pub class: usize,
    /// What the caption with the style's word says.
    pub full_caption: String,
    /// The values, `[3, SIDE, SIDE]` in `[−1, 1]`.
    pub values: Vec<f32>,
}

/// Training rows and queries.
pub struct Split {
    pub train: Vec<Drawn>,
    pub query: Vec<Drawn>,
}

/// D1: `train` and `query` pictures of each style that the base model has not seen, every one of another subject.
/// Queries of the styles alternate, so that the first of them are of all styles.
pub fn of_styles(
    emoji: &[Emoji],
    known: &BTreeSet<String>,
    [train, query]: [usize; 2],
    style_word: bool,
    seed: u64,
    folder: &Path,
) -> Result<Split, Failure> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut unused: Vec<usize> = (0..emoji.len()).filter(|&subject| !known.contains(&emoji[subject].name)).collect();
    unused.shuffle(&mut rng);
    let mut split = Split { train: Vec::new(), query: Vec::new() };
    // The set with the fewest pictures chooses first.
    for style in (BASE_STYLES..STYLES.len()).rev() {
        let has = |&subject: &usize| emoji[subject].pictures[style].is_some();
        let (with, without): (Vec<usize>, Vec<usize>) = unused.into_iter().partition(has);
        if with.len() < train + query {
            let (name, count) = (STYLES[style].0, with.len());
            return Err(format!("{name} has {count} pictures of unused subjects, not {}", train + query).into());
        }
        for (place, &subject) in with[..train + query].iter().enumerate() {
            let row = draw(emoji, (subject, style), style_word, style, folder)?;
            if place < train { &mut split.train } else { &mut split.query }.push(row);
        }
        unused = with[train + query..].iter().copied().chain(without).collect();
        unused.shuffle(&mut rng);
    }
    split.train.shuffle(&mut rng);
    let mut queries = std::mem::take(&mut split.query).into_iter();
    let styles: Vec<Vec<Drawn>> = (BASE_STYLES..STYLES.len()).map(|_| queries.by_ref().take(query).collect()).collect();
    let mut styles: Vec<_> = styles.into_iter().map(Vec::into_iter).collect();
    split.query = (0..query).flat_map(|_| styles.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>()).collect();
    Ok(split)
}

/// D2: `subjects` subjects that the base model has not seen and all sets have: two of the styles are queries, the
/// others training rows. No caption has a style.
pub fn of_subjects(
    emoji: &[Emoji],
    known: &BTreeSet<String>,
    subjects: usize,
    seed: u64,
    folder: &Path,
) -> Result<Split, Failure> {
    let mut rng = StdRng::seed_from_u64(seed);
    let complete = |emoji: &Emoji| emoji.pictures.iter().all(Option::is_some);
    let mut chosen: Vec<usize> = (0..emoji.len())
        .filter(|&subject| !known.contains(&emoji[subject].name) && complete(&emoji[subject]))
        .collect();
    chosen.shuffle(&mut rng);
    if chosen.len() < subjects {
        return Err(format!("{} subjects are new and in all sets, not {subjects}", chosen.len()).into());
    }
    let mut split = Split { train: Vec::new(), query: Vec::new() };
    let mut styles: Vec<usize> = (0..STYLES.len()).collect();
    for &subject in &chosen[..subjects] {
        styles.shuffle(&mut rng);
        for (place, &style) in styles.iter().enumerate() {
            let row = draw(emoji, (subject, style), false, subject, folder)?;
            if place < 2 { &mut split.query } else { &mut split.train }.push(row);
        }
    }
    split.train.shuffle(&mut rng);
    Ok(split)
}

fn draw(
    emoji: &[Emoji],
    (subject, style): Row,
    style_word: bool,
    class: usize,
    folder: &Path,
) -> Result<Drawn, Failure> {
    let Emoji { name, pictures } = &emoji[subject];
    let values = pictures[style].clone().ok_or("the set has no such picture")?;
    let file = folder.join(format!("{subject}-{}.png", STYLES[style].0.trim_start_matches("iconify-json-")));
    if !file.exists() {
        let byte = |value: f32| ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        let size = SIDE * SIDE;
        let pixels = (0..size).flat_map(|at| [0, 1, 2].map(|colour| byte(values[colour * size + at]))).collect();
        fs::create_dir_all(folder)?;
        fs::write(&file, Picture::new(SIDE, SIDE, pixels)?.to_png()?)?;
    }
    let caption = texts::caption(name, style_word.then_some(STYLES[style].1));
    let full_caption = texts::caption(name, Some(STYLES[style].1));
    Ok(Drawn { file, caption, class, full_caption, values })
}

/// Writes rows as JSON lines.
pub fn write<'a>(path: &Path, rows: impl IntoIterator<Item = &'a Drawn>) -> Result<(), Failure> {
    let line = |row: &Drawn| serde_json::json!({ "image": row.file, "caption": row.caption }).to_string() + "\n";
    Ok(fs::write(path, rows.into_iter().map(line).collect::<String>())?)
}
