//! Images of rows: where they are, and what is in them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyperinf_models::{Json, Picture, PictureError, PictureLimits, Resampling, read_regular};

use crate::Reason;

/// An image of a row, which is read and decoded when the row becomes a sample.
#[derive(Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A file.
    File(PathBuf),
    /// Bytes that are in the data set itself.
    Bytes {
        /// The name that the data set gives it.
        name: Option<String>,
        /// A PNG, JPEG or WebP file.
        bytes: Arc<[u8]>,
    },
}

impl ImageSource {
    /// The bytes of its file.
    ///
    /// # Errors
    ///
    /// [`Reason::Image`] if the file cannot be read, is longer than the limit, or a Git LFS pointer.
    pub fn bytes(&self, limits: &PictureLimits) -> Result<Arc<[u8]>, Reason> {
        match self {
            Self::Bytes { bytes, .. } => Ok(bytes.clone()),
            Self::File(path) => {
                let found = fs::metadata(path).map_or(0, |file| file.len());
                if found > limits.bytes {
                    return Err(self.failed(&PictureError::Bytes { found, limit: limits.bytes }));
                }
                // Some files of the system have no length, and are waited for.
                if found == 0 && path.is_file() {
                    return Err(self.failed(&PictureError::Empty));
                }
                read_regular(path).map(Into::into).map_err(|error| self.failed(&error))
            }
        }
    }

    /// The picture.
    ///
    /// # Errors
    ///
    /// [`Reason::Image`] if it cannot be read or decoded.
    pub fn picture(&self, limits: &PictureLimits) -> Result<Picture, Reason> {
        Picture::decode(&self.bytes(limits)?, limits).map_err(|error| self.failed(&error))
    }

    /// The picture, with edges of at most `edge`.
    ///
    /// # Errors
    ///
    /// As [`ImageSource::picture`].
    pub fn thumbnail(&self, edge: usize) -> Result<Picture, Reason> {
        let picture = self.picture(&PictureLimits::default())?;
        let (width, height) = (picture.width(), picture.height());
        let longer = width.max(height);
        if longer <= edge {
            return Ok(picture);
        }
        let side = |side: usize| (side * edge / longer).max(1);
        Ok(picture.resized(side(width), side(height), Resampling::Bilinear))
    }

    /// The reason of an image that cannot be used.
    pub fn failed(&self, error: &dyn fmt::Display) -> Reason {
        Reason::Image { image: self.to_string(), error: error.to_string() }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Bytes { name: Some(name), .. } => f.write_str(name),
            Self::Bytes { name: None, bytes } => write!(f, "{} bytes", bytes.len()),
        }
    }
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageSource({self})")
    }
}

/// The images of a cell: one, a list, or none if the text is empty, which is how CSV leaves a cell out.
pub(crate) fn sources(column: &str, value: &Json, folder: &Path) -> Result<Vec<ImageSource>, Reason> {
    match value {
        Json::String(text) if text.is_empty() => Ok(Vec::new()),
        // A list in a cell of CSV.
        Json::String(text) if text.starts_with('[') => match serde_json::from_str::<Json>(text) {
            Ok(list) => sources(column, &list, folder),
            // A name may begin so.
            Err(_) if !text.trim_end().ends_with(']') => Ok(vec![of_text(text, folder)?]),
            Err(error) => Err(Reason::NotJson { column: column.to_owned(), error: error.to_string() }),
        },
        Json::Array(list) => list.iter().map(|value| source(column, value, folder)).collect(),
        value => Ok(vec![source(column, value, folder)?]),
    }
}

/// One image: a path, a `data:` address, or an object with `bytes` (base64 in JSON) and `path`, as `datasets` has it.
pub(crate) fn source(column: &str, value: &Json, folder: &Path) -> Result<ImageSource, Reason> {
    let wrong = |value: &Json| Reason::Type {
        column: column.to_owned(),
        found: value.type_name(),
        expected: "an image: a path, or an object with `bytes` or `path`",
    };
    match value {
        Json::String(text) => of_text(text, folder),
        Json::Object(_) => {
            let given = |name: &str| value.get(name).filter(|value| **value != Json::Null);
            let name = given("path").and_then(Json::as_str);
            match (given("bytes"), name) {
                (Some(Json::String(text)), name) => of_base64(text, name.map(str::to_owned)),
                (Some(other), _) => Err(wrong(other)),
                (None, Some(path)) => of_text(path, folder),
                (None, None) => Err(wrong(value)),
            }
        }
        other => Err(wrong(other)),
    }
}

fn of_text(text: &str, folder: &Path) -> Result<ImageSource, Reason> {
    let shown = || text.chars().take(80).collect::<String>();
    let refused = |error: &str| Err(Reason::Image { image: shown(), error: error.to_owned() });
    if let Some(data) = text.strip_prefix("data:") {
        return match data.split_once(";base64,") {
            Some((kind, bytes)) => of_base64(bytes, Some(kind.to_owned())),
            None => refused("a `data:` address without `;base64,`"),
        };
    }
    if ["http://", "https://", "s3://", "hf://"].iter().any(|scheme| text.starts_with(scheme)) {
        return refused("it is on the net, which is not read: download it and give its path");
    }
    if text.starts_with("{'") {
        return refused("Python's text of an image, which `datasets` writes into CSV: write Parquet");
    }
    if text.trim().is_empty() {
        return refused("its path is empty");
    }
    let path = text.strip_prefix("file://").unwrap_or(text);
    Ok(ImageSource::File(folder.join(path)))
}

fn of_base64(text: &str, name: Option<String>) -> Result<ImageSource, Reason> {
    let bytes = BASE64_STANDARD.decode(text.trim_end()).map_err(|error| Reason::Image {
        image: name.clone().unwrap_or_else(|| format!("{} characters", text.len())),
        error: format!("its bytes are not base64: {error}"),
    })?;
    Ok(ImageSource::Bytes { name, bytes: bytes.into() })
}
