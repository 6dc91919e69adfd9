//! The weights of a DINOv2 encoder in an ONNX file.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use crate::Failure;

/// A tensor in f32, row by row.
#[derive(Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The named weights of a file. Those of linear layers, which have names only by their biases, are called as the bias is,
/// with `weight`, and are `[inputs, outputs]`.
pub fn weights(path: &Path) -> Result<BTreeMap<String, Array>, Failure> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let graph = fields(&bytes)?.into_iter().find(|(number, _)| *number == 7).ok_or("the file has no graph")?.1;
    let (mut arrays, mut products, mut sums) = (BTreeMap::new(), HashMap::new(), Vec::new());
    for (number, value) in fields(graph.bytes()?)? {
        match number {
            5 => {
                if let Some((name, array)) = tensor(value.bytes()?)? {
                    arrays.insert(name, array);
                }
            }
            1 => {
                let (mut inputs, mut output, mut kind) = (Vec::new(), String::new(), String::new());
                for (number, value) in fields(value.bytes()?)? {
                    match number {
                        1 => inputs.push(value.text()?),
                        2 => output = value.text()?,
                        4 => kind = value.text()?,
                        _ => {}
                    }
                }
                match (&*kind, &inputs[..]) {
                    ("MatMul", [_, weight]) => drop(products.insert(output, weight.clone())),
                    ("Add", [a, b]) => sums.push((a.clone(), b.clone())),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    for (a, b) in sums {
        for (bias, product) in [(&a, &b), (&b, &a)] {
            let name = bias.strip_suffix(".bias").map(|layer| format!("{layer}.weight"));
            if let (Some(name), Some(weight)) = (name, products.get(product))
                && let Some(array) = arrays.get(weight).cloned()
            {
                arrays.insert(name, array);
            }
        }
    }
    Ok(arrays)
}

/// A value of protocol buffers.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn bytes(self) -> Result<&'a [u8], Failure> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(number) => Err(format!("the number {number} is where a message belongs").into()),
        }
    }

    fn text(self) -> Result<String, Failure> {
        Ok(std::str::from_utf8(self.bytes()?)?.to_owned())
    }
}

fn fields(mut rest: &[u8]) -> Result<Vec<(u64, Value<'_>)>, Failure> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = number(&mut rest)?;
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, Value::Number(number(&mut rest)?)));
                continue;
            }
            1 => 8,
            2 => number(&mut rest)? as usize,
            5 => 4,
            other => return Err(format!("the wire type {other} is unknown").into()),
        };
        let (bytes, after) = rest.split_at_checked(length).ok_or("the file ends inside a field")?;
        found.push((key >> 3, Value::Bytes(bytes)));
        rest = after;
    }
    Ok(found)
}

fn number(rest: &mut &[u8]) -> Result<u64, Failure> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or("the file ends inside a number")?;
        *rest = after;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(value);
        }
    }
    Err("a number has more than 64 bits".into())
}

/// A tensor of 32-bit floats with its name; `None` for other types.
fn tensor(bytes: &[u8]) -> Result<Option<(String, Array)>, Failure> {
    let (mut name, mut shape, mut kind, mut raw): (String, Vec<usize>, u64, &[u8]) = Default::default();
    for (number_of, value) in fields(bytes)? {
        match (number_of, value) {
            (1, Value::Number(size)) => shape.push(size as usize),
            (1, Value::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    shape.push(number(&mut packed)? as usize);
                }
            }
            (2, Value::Number(number)) => kind = number,
            (8, value) => name = value.text()?,
            (9, value) => raw = value.bytes()?,
            _ => {}
        }
    }
    let values: Vec<f32> = raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Ok((kind == 1 && shape.iter().product::<usize>() == values.len()).then_some((name, Array { shape, values })))
}
