use std::collections::HashMap;
use std::fmt;
use std::str;

use hyperinf_models::Json;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use crate::table::{Layout, Place, Scanned};
use crate::{DataError, Reason};

/// Some editors begin a file with it.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One JSON object per line; blank lines at the end are skipped.
pub(crate) fn scan(contents: &[u8]) -> Result<Scanned, DataError> {
    let (mut places, mut spans) = (Vec::new(), Vec::new());
    let mut columns = Names::default();
    let end = contents.trim_ascii_end().len();
    let end = contents[end..].iter().position(|&byte| byte == b'\n').map_or(contents.len(), |at| end + at + 1);
    let mut start = 0;
    for (number, line) in contents[..end].split_inclusive(|&byte| byte == b'\n').enumerate() {
        spans.push(start..start + line.len());
        start += line.len();
        let bad = match collect(line, &mut columns) {
            Ok(()) => None,
            Err(Reason::Blank) if line.len() == end => return Err(DataError::Empty),
            Err(reason) => Some(Box::new(reason)),
        };
        places.push(Place { line: number + 1, bad });
    }
    if places.len() > 1 && places.iter().all(|place| place.bad.is_some()) && is_one_object(contents) {
        return Err(DataError::OneObject);
    }
    let layout = Layout { header: 0..0, spans, footer: end..end };
    Ok(Scanned { columns: columns.in_order(), places, layout })
}

/// The cells of some columns.
pub(crate) fn cells(row: &[u8], wanted: &[&str]) -> Result<Vec<Option<Json>>, Reason> {
    let text = text(row)?;
    let mut repeated = None;
    let mut cells = parse(text, Wanted { names: wanted, repeated: &mut repeated })?;
    if let Some(column) = repeated {
        return Err(Reason::RepeatedKey { column });
    }
    if Json::is_delicate(text) {
        for (name, value) in values(text).unwrap_or_default() {
            if let Some(place) = wanted.iter().position(|wanted| *wanted == name) {
                cells[place] = Json::parse(value).ok();
            }
        }
    }
    Ok(cells)
}

/// The text of each value of an object that is valid.
fn values(object: &str) -> Option<Vec<(String, &str)>> {
    let mut values = Vec::new();
    let mut rest = object.trim_start().strip_prefix('{')?;
    loop {
        let mut key = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        let name = key.next()?.ok()?;
        rest = rest[key.byte_offset()..].trim_start().strip_prefix(':')?;
        let mut value = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        value.next()?.ok()?;
        let (value, after) = rest.split_at(value.byte_offset());
        values.push((name, value));
        match after.trim_start().strip_prefix(',') {
            Some(next) => rest = next,
            None => return Some(values),
        }
    }
}

/// Adds the keys of a row to the names.
pub(crate) fn collect(row: &[u8], columns: &mut Names) -> Result<(), Reason> {
    parse(text(row)?, columns)
}

fn text(row: &[u8]) -> Result<&str, Reason> {
    let row = row.strip_prefix(BYTE_ORDER_MARK).unwrap_or(row);
    let text = str::from_utf8(row).map_err(|error| Reason::utf8(row, &error))?;
    if text.trim().is_empty() { Err(Reason::Blank) } else { Ok(text) }
}

fn parse<'de, T>(text: &'de str, seed: impl DeserializeSeed<'de, Value = T>) -> Result<T, Reason> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = seed.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    parsed.map_err(|error| {
        // Of valid JSON a row that is no object is told apart from one with a faulty object in it.
        let object = text.trim_ascii_start().starts_with('{');
        match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) if !object => Reason::NotObject,
            _ => Reason::json(&error, text),
        }
    })
}

/// Whether the whole file is one object, over several lines.
fn is_one_object(contents: &[u8]) -> bool {
    let contents = contents.strip_prefix(BYTE_ORDER_MARK).unwrap_or(contents);
    contents.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(contents).is_ok()
}

/// Names of columns in the order of their first use.
#[derive(Default)]
pub(crate) struct Names(HashMap<Box<str>, usize>);

impl Names {
    pub(crate) fn in_order(self) -> Vec<String> {
        let mut names: Vec<(Box<str>, usize)> = self.0.into_iter().collect();
        names.sort_unstable_by_key(|&(_, place)| place);
        names.into_iter().map(|(name, _)| name.into()).collect()
    }
}

impl<'de> DeserializeSeed<'de> for &mut Names {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Names {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(()) = entries.next_key_seed(Name(self))? {
            entries.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// A key that is added to the names.
struct Name<'a>(&'a mut Names);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        let names = &mut self.0.0;
        if !names.contains_key(name) {
            names.insert(name.into(), names.len());
        }
        Ok(())
    }
}

/// Takes the values of some keys, and skips the others.
struct Wanted<'a> {
    names: &'a [&'a str],
    /// A key among them that occurs twice.
    repeated: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Vec<Option<Json>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Vec<Option<Json>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut cells = vec![None; self.names.len()];
        while let Some(place) = entries.next_key_seed(Position(self.names))? {
            let Some(place) = place else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            if cells[place].replace(entries.next_value()?).is_some() {
                self.repeated.get_or_insert_with(|| self.names[place].to_owned());
            }
        }
        Ok(cells)
    }
}

/// The place of a key among some names.
struct Position<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Position<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Position<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}
