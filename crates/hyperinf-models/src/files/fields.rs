use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::load::read_json;
use super::sizes::rejected;
use crate::{LoadError, ModelError};

/// The settings in a JSON file, read by name; `null` counts as absent.
pub(crate) struct Fields {
    path: PathBuf,
    /// The prefix of names in errors, such as `rope_scaling.`.
    prefix: &'static str,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        Ok(Self { path: path.to_owned(), prefix: "", map: read_json(path)? })
    }

    /// The settings of a file that does not exist.
    pub(crate) fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), prefix: "", map: Map::new() }
    }

    /// No settings, as if an object were missing.
    pub(crate) fn none(path: &Path, prefix: &'static str) -> Self {
        Self { path: path.to_owned(), prefix, map: Map::new() }
    }

    /// These settings, and the defaults of absent ones.
    #[must_use]
    pub(crate) fn or(mut self, defaults: &[(&str, Value)]) -> Self {
        for (name, value) in defaults {
            if self.get(name).is_none() {
                self.map.insert((*name).to_owned(), value.clone());
            }
        }
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All settings as they are in the file.
    pub(crate) fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// All settings other than `null`.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.as_str(), value))
    }

    /// Whether the setting is present as `null`.
    pub(crate) fn is_null(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_null)
    }

    /// The settings inside a setting.
    pub(crate) fn within(&self, name: &str, prefix: &'static str) -> Result<Option<Self>, LoadError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: self.path.clone(), prefix, map: map.clone() })),
            Some(other) => Err(self.refuse(name, other, "an object")),
        }
    }

    /// A size that must be present, from 1.
    pub(crate) fn size(&self, name: &str) -> Result<usize, LoadError> {
        let size = self.convert(name, "a whole number from 1", |value| {
            value.as_u64().filter(|&size| size > 0).and_then(|size| usize::try_from(size).ok())
        })?;
        size.ok_or_else(|| self.absent(name))
    }

    pub(crate) fn optional_size(&self, name: &str) -> Result<Option<usize>, LoadError> {
        self.convert(name, "a whole number", |value| value.as_u64().and_then(|size| usize::try_from(size).ok()))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, LoadError> {
        self.convert(name, "a number", Value::as_f64)
    }

    pub(crate) fn needed_number(&self, name: &str) -> Result<f64, LoadError> {
        self.number(name)?.ok_or_else(|| self.absent(name))
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, LoadError> {
        Ok(self.optional_flag(name)?.unwrap_or(default))
    }

    pub(crate) fn optional_flag(&self, name: &str) -> Result<Option<bool>, LoadError> {
        self.convert(name, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, LoadError> {
        self.convert(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// Fails unless the setting is absent or one of these values.
    pub(crate) fn only(&self, name: &str, accepted: &[Value], expected: &str) -> Result<(), LoadError> {
        match self.get(name) {
            Some(value) if !accepted.contains(value) => Err(self.refuse(name, value, expected)),
            _ => Ok(()),
        }
    }

    pub(crate) fn refuse(&self, name: &str, value: &Value, expected: &str) -> LoadError {
        LoadError::Field {
            path: self.path.clone(),
            field: format!("{}{name}", self.prefix),
            found: value.to_string(),
            expected: expected.to_owned(),
        }
    }

    /// Names a setting that the model rejected as the file does.
    pub(crate) fn checked(&self, result: Result<(), ModelError>) -> Result<(), LoadError> {
        let Err(error) = result else { return Ok(()) };
        match rejected(&error) {
            Some((field, found, expected)) => {
                Err(LoadError::Field { path: self.path.clone(), field: field.to_owned(), found, expected })
            }
            None => Err(error.into()),
        }
    }

    pub(crate) fn absent(&self, name: &str) -> LoadError {
        LoadError::FieldMissing { path: self.path.clone(), field: format!("{}{name}", self.prefix) }
    }

    fn convert<T>(
        &self,
        name: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => convert(value).map(Some).ok_or_else(|| self.refuse(name, value, expected)),
        }
    }
}
