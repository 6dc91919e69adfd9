//! Folders of images, as `datasets` reads them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::DataError;

/// The files with the rows of a folder, and the one whose rows are the folders of classes.
const METADATA: [&str; 3] = ["metadata.jsonl", "metadata.csv", "metadata.parquet"];
const CLASSES: &str = "metadata.csv";
/// The names of images; those that are not decoded become bad rows, with their format.
const ENDINGS: [&str; 9] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif"];
/// Folders inside of each other, at most.
const DEPTH: usize = 16;

/// The file that holds the rows of a data set: the path itself, or the metadata of a folder of images.
///
/// For a folder of classes it is a `metadata.csv` that does not exist; its format is that of a subset.
pub fn rows_file(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let found = METADATA.iter().map(|name| path.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| path.join(CLASSES))
}

/// The rows of a folder of classes as CSV, with the columns `file_name` and `label`.
///
/// The label of an image is the name of the folder that it is in. Rows are in the order of their paths.
pub(crate) fn classes(folder: &Path) -> Result<Vec<u8>, DataError> {
    let mut images = Vec::new();
    collect(folder, Path::new(""), DEPTH, &mut images)?;
    if images.is_empty() {
        return Err(DataError::Folder);
    }
    let mut text = String::from("file_name,label\n");
    for image in images {
        let label = image.parent().and_then(Path::file_name).map(|name| name.to_string_lossy()).unwrap_or_default();
        text += &format!("{},{}\n", field(&image.to_string_lossy()), field(&label));
    }
    Ok(text.into_bytes())
}

fn collect(root: &Path, inner: &Path, depth: usize, images: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(root.join(inner)).map_err(DataError::Open)? {
        entries.push(entry.map_err(DataError::Open)?.file_name());
    }
    entries.sort();
    for name in entries.into_iter().filter(|name| !name.to_string_lossy().starts_with('.')) {
        let path = inner.join(&name);
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        if root.join(&path).is_dir() {
            let inner = depth.checked_sub(1).ok_or_else(|| DataError::Depth { path: path.clone(), limit: DEPTH })?;
            collect(root, &path, inner, images)?;
        } else if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            images.push(path);
        }
    }
    Ok(())
}

/// A field of CSV.
fn field(text: &str) -> String {
    let plain = !text.contains([',', '"', '\n', '\r']);
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}
