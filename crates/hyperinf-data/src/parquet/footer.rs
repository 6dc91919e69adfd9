//! As much of Parquet's encoding of structs ("compact Thrift") as a look at a footer and at the headers of pages needs.

use crate::DataError;

/// A file ends in the length of its footer and this word.
const MAGIC: &[u8] = b"PAR1";
/// The deepest schema that is read: the Parquet library descends recursively.
const DEPTH: usize = 64;
/// The deepest field that is skipped.
const SKIPPED: usize = 64;

/// The types of fields that are looked at.
const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// A page of a column.
pub(super) struct Page<'a> {
    pub(super) dictionary: bool,
    /// Its size when it is unpacked, as it claims.
    pub(super) unpacked: u64,
    /// Its values, nulls included, as it claims: runs of nulls take no bytes.
    pub(super) values: u64,
    /// What is compressed of it.
    pub(super) packed: &'a [u8],
}

/// Refuses schemas that are deeper, or claim more columns, than the Parquet library survives.
pub(super) fn check_schema(contents: &[u8]) -> Result<(), DataError> {
    // What is not understood here is left to the library's own errors.
    match schema(contents) {
        Some(Schema { depth, .. }) if depth > DEPTH => Err(DataError::Schema { limit: DEPTH }),
        Some(Schema { claims: true, .. }) => Err(DataError::SchemaClaims),
        _ => Ok(()),
    }
}

/// The header of a page cannot be read.
pub(super) struct BadHeader;

/// The pages of a column, up to the first header that cannot be read: the Parquet library may not come to an end there,
/// since it skips what is not in the file.
pub(super) fn pages(contents: &[u8], start: u64, length: u64) -> impl Iterator<Item = Result<Page<'_>, BadHeader>> {
    let range = usize::try_from(start).ok().zip(start.checked_add(length).and_then(|end| usize::try_from(end).ok()));
    let mut rest = range.and_then(|(start, end)| contents.get(start..end)).unwrap_or_default();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut header = Reader(std::mem::take(&mut rest));
        let (mut kind, mut unpacked, mut packed, mut levels, mut values) = (0, 0, 0, 0_i64, 0);
        let read = header.fields(&mut |reader, field, id| match (field, id) {
            // In a page of the second version the levels, of two lengths, come first and are not compressed.
            (5 | 8, STRUCT) => reader.fields(&mut |reader, field, id| match (field, id) {
                (1, I32) => {
                    values = reader.integer()?;
                    Some(())
                }
                (5 | 6, I32) => {
                    levels = levels.saturating_add(reader.integer()?);
                    Some(())
                }
                _ => reader.skip(id, SKIPPED),
            }),
            (1..=3, I32) => {
                let value = reader.integer()?;
                match field {
                    1 => kind = value,
                    2 => unpacked = value,
                    _ => packed = value,
                }
                Some(())
            }
            _ => reader.skip(id, SKIPPED),
        });
        if read.is_none() {
            return Some(Err(BadHeader));
        }
        let page;
        (page, rest) = header.0.split_at_checked(usize::try_from(packed).ok()?)?;
        let packed = page.get(usize::try_from(levels).ok()?..)?;
        let count = |claimed| u64::try_from(claimed).unwrap_or(0);
        Some(Ok(Page { dictionary: kind == 2, unpacked: count(unpacked), values: count(values), packed }))
    })
}

struct Schema {
    depth: usize,
    /// Whether a node claims more children than there are nodes.
    claims: bool,
}

fn schema(contents: &[u8]) -> Option<Schema> {
    let rest = contents.strip_suffix(MAGIC)?;
    let (rest, length) = rest.split_last_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let footer = &rest[rest.len().checked_sub(length)?..];
    let mut found = None;
    Reader(footer).fields(&mut |reader, field, kind| {
        if (field, kind) != (2, LIST) {
            return reader.skip(kind, SKIPPED);
        }
        let (_, count) = reader.list()?;
        let mut schema = Schema { depth: 0, claims: false };
        // The children that are still to come, of every node above.
        let mut open: Vec<i64> = Vec::new();
        for _ in 0..count {
            let mut children = 0;
            reader.fields(&mut |reader, field, kind| match (field, kind) {
                (5, I32) => {
                    children = reader.integer()?;
                    Some(())
                }
                _ => reader.skip(kind, SKIPPED),
            })?;
            schema.claims |= u64::try_from(children).is_ok_and(|children| children > count);
            while open.pop_if(|left| *left <= 0).is_some() {}
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            schema.depth = schema.depth.max(open.len());
        }
        found = Some(schema);
        Some(())
    });
    found
}

/// Reads what is left of some bytes.
struct Reader<'a>(&'a [u8]);

/// Sees a field's number and its type, and must consume its value.
type VisitField<'v> = dyn FnMut(&mut Reader<'_>, i64, u8) -> Option<()> + 'v;

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The type and number of a list's elements.
    fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.unsigned()? } else { u64::from(byte >> 4) };
        Some((byte & 15, count))
    }

    /// Visits the fields of a struct up to its end.
    fn fields(&mut self, visit: &mut VisitField<'_>) -> Option<()> {
        let mut field = 0;
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Some(());
            }
            field = if byte >> 4 == 0 { self.integer()? } else { field + i64::from(byte >> 4) };
            visit(self, field, byte & 15)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            1 | 2 => Some(()),
            3 => self.byte().map(drop),
            4 | I32 | 6 => self.unsigned().map(drop),
            7 => self.advance(8),
            8 => {
                let length = self.unsigned()?;
                self.advance(length)
            }
            LIST | 10 => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.element(kind, depth))
            }
            11 => {
                let count = self.unsigned()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.element(kinds >> 4, depth)?;
                    self.element(kinds & 15, depth)
                })
            }
            STRUCT => self.fields(&mut |reader, _, kind| reader.skip(kind, depth)),
            _ => None,
        }
    }

    /// Inside of lists and maps a truth value takes a byte.
    fn element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if kind <= 2 { self.byte().map(drop) } else { self.skip(kind, depth) }
    }

    fn advance(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }
}
