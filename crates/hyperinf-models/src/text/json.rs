use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Number, Value};

/// A JSON value whose objects keep the order of their keys; an object with a key twice is refused.
///
/// Chat templates print the arguments of tools in the order in which they were written, so that order is part of a
/// row's meaning.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Json {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A whole number beyond 64 bits, by its digits; only [`Json::parse`] keeps them.
    Large(String),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Json>),
    /// Keys with their values, in order.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value that a text holds, with its numbers as Python reads them.
    ///
    /// Through serde, whole numbers beyond 64 bits become floats, the last digit of a float may differ, and `-0` is a
    /// float.
    ///
    /// # Errors
    ///
    /// If it is not JSON.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let mut json: Self = serde_json::from_str(text)?;
        json.restore(&mut numbers(text));
        Ok(json)
    }

    /// Whether serde may read a number of this text, which is JSON, differently from [`Json::parse`].
    pub fn is_delicate(text: &str) -> bool {
        numbers(text).any(|number| number.len() > 15 || number == "-0" || number.contains(['e', 'E']))
    }

    /// Puts the numbers of the text, in order, into the places of those that were parsed.
    fn restore<'a>(&mut self, numbers: &mut impl Iterator<Item = &'a str>) {
        match self {
            Self::Number(_) => {
                if let Some(exact) = numbers.next().and_then(exact) {
                    *self = exact;
                }
            }
            Self::Array(values) => values.iter_mut().for_each(|value| value.restore(numbers)),
            Self::Object(pairs) => pairs.iter_mut().for_each(|(_, value)| value.restore(numbers)),
            Self::Null | Self::Bool(_) | Self::Large(_) | Self::String(_) => {}
        }
    }

    /// The value of a key; `None` without such a key, or if this is not an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(pairs) => pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Its type in words, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Number(number) if number.is_f64() => "a number with a fraction",
            Self::Number(_) | Self::Large(_) => "a number",
            Self::String(_) => "a text",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl From<Json> for Value {
    /// Without the order of keys.
    fn from(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(number) => Self::Number(number),
            Json::Large(digits) => digits.parse::<f64>().map_or(Self::Null, Self::from),
            Json::String(text) => Self::String(text),
            Json::Array(values) => Self::Array(values.into_iter().map(Into::into).collect()),
            Json::Object(pairs) => {
                Self::Object(pairs.into_iter().map(|(key, value)| (key, value.into())).collect::<Map<_, _>>())
            }
        }
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => Self::Number(number),
            Value::String(text) => Self::String(text),
            Value::Array(values) => Self::Array(values.into_iter().map(Into::into).collect()),
            Value::Object(pairs) => Self::Object(pairs.into_iter().map(|(key, value)| (key, value.into())).collect()),
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Large(digits) => match (digits.parse::<i128>(), digits.parse::<f64>()) {
                (Ok(value), _) => serializer.serialize_i128(value),
                (_, value) => serializer.serialize_f64(value.unwrap_or(f64::NAN)),
            },
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(values) => values.serialize(serializer),
            Self::Object(pairs) => {
                let mut map = serializer.serialize_map(Some(pairs.len()))?;
                for (key, value) in pairs {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom(format!("{value} is not a JSON number")))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut pairs: Vec<(String, Json)> = Vec::new();
        while let Some((key, value)) = entries.next_entry()? {
            pairs.push((key, value));
        }
        let mut seen = HashSet::with_capacity(pairs.len());
        match pairs.iter().find(|(key, _)| !seen.insert(key.as_str())) {
            Some((key, _)) => Err(A::Error::custom(format!("it has the key `{key}` twice"))),
            None => Ok(Json::Object(pairs)),
        }
    }
}

/// The numbers in a text that is JSON.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?..];
            if let Some(inside) = rest.strip_prefix('"') {
                rest = &inside[string_length(inside)..];
                continue;
            }
            let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
            let (number, after) = rest.split_at(end);
            rest = after;
            return Some(number);
        }
    })
}

/// The bytes of a string after its first quote, with the one that ends it.
fn string_length(inside: &str) -> usize {
    let mut escaped = false;
    let end = inside.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(inside.len(), |end| end + 1)
}

/// A number by its digits.
fn exact(number: &str) -> Option<Json> {
    if number.contains(['.', 'e', 'E']) {
        return Number::from_f64(number.parse().ok()?).map(Json::Number);
    }
    let whole = number.parse::<i64>().map(Number::from).or_else(|_| number.parse::<u64>().map(Number::from));
    Some(whole.map_or_else(|_| Json::Large(number.to_owned()), Json::Number))
}
