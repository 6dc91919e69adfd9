use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::load::read_json;
use super::open::read_regular;
use super::tokenizer_class::Class;
use crate::LoadError;

/// The file to name in errors, and what a `tokenizer.json` would have.
type Vocabulary = (PathBuf, Map<String, Value>);

/// The vocabulary of a folder without `tokenizer.json`, in the form of that file: `vocab.txt`, or `vocab.json` and
/// `merges.txt`, read as the library tokenizers reads them. `None` if the class has no such files, or they are missing.
pub(super) fn read(folder: &Path, class: Class) -> Result<Option<Vocabulary>, LoadError> {
    let path = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
    let (path, model) = match class {
        Class::Bert | Class::DistilBert => {
            let Some(path) = path("vocab.txt") else { return Ok(None) };
            // Of equal lines the last one counts.
            let text = text(&path)?;
            let vocab: Map<String, Value> =
                text.lines().enumerate().map(|(id, line)| (line.trim_end().to_owned(), json!(id))).collect();
            let model = json!({ "type": "WordPiece", "vocab": vocab });
            (path, model)
        }
        Class::Roberta | Class::Gpt2 | Class::Qwen2 => {
            let (Some(path), Some(merges)) = (path("vocab.json"), path("merges.txt")) else { return Ok(None) };
            let vocab: Map<String, Value> = read_json(&path)?;
            let no_id = |value: &Value| value.as_u64().is_none_or(|id| u32::try_from(id).is_err());
            if let Some((token, value)) = vocab.iter().find(|(_, value)| no_id(value)) {
                return Err(refuse(&path, token.clone(), value.to_string(), "an id"));
            }
            let text = text(&merges)?;
            let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version"));
            let pair = |(at, line): (usize, &str)| match line.split(' ').collect::<Vec<_>>()[..] {
                [first, second] => Ok(json!([first, second])),
                _ => Err(refuse(&merges, format!("line {}", at + 1), format!("{line:?}"), "two tokens")),
            };
            let pairs = lines.map(pair).collect::<Result<Vec<_>, _>>()?;
            let model = json!({ "type": "BPE", "vocab": vocab, "merges": pairs });
            (path, model)
        }
        Class::AsIs | Class::Llama | Class::XlmRoberta | Class::Clip => return Ok(None),
    };
    Ok(Some((path, Map::from_iter([("version".to_owned(), json!("1.0")), ("model".to_owned(), model)]))))
}

fn refuse(path: &Path, field: String, found: String, expected: &str) -> LoadError {
    LoadError::Field { path: path.to_owned(), field, found, expected: expected.to_owned() }
}

fn text(path: &Path) -> Result<String, LoadError> {
    read_regular(path)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)))
        .map_err(|source| LoadError::File { path: path.to_owned(), source })
}
