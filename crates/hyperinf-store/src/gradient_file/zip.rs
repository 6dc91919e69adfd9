//! The members of an archive that are stored as they are.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::FileError;

/// The records of an archive begin like this.
const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
/// Lengths without what varies.
const END_LENGTH: usize = 22;
const CENTRAL_LENGTH: usize = 46;
const LOCAL_LENGTH: u64 = 30;
/// The longest comment at the end, and the longest directory that is read.
const COMMENT: u64 = 1 << 16;
const DIRECTORY: u64 = 64 << 20;
/// Stands for a number that is in the extra field.
const ELSEWHERE: u32 = u32::MAX;

/// Bytes that are read as little-endian numbers; none beyond their end.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        self.0.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.0.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }
}

/// The names of all members, and where their contents begin and end.
pub(super) fn members(file: &mut File, length: u64) -> Result<Vec<(String, u64, u64)>, FileError> {
    let wrong = |reason: &str| FileError::Archive { reason: reason.to_owned() };
    let mut read = |start: u64, count: u64| -> Result<Vec<u8>, FileError> {
        if start.checked_add(count).is_none_or(|end| end > length) {
            return Err(wrong("it ends early"));
        }
        let mut bytes = vec![0; count as usize];
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes)).map_err(FileError::Open)?;
        Ok(bytes)
    };
    let tail = length.min(END_LENGTH as u64 + COMMENT);
    let last = read(length - tail, tail)?;
    let signature = |at: &usize| Bytes(&last).u32(*at) == Some(END);
    let at = (0..=last.len().saturating_sub(END_LENGTH)).rev().find(signature);
    let end = Bytes(at.map(|at| &last[at..]).ok_or_else(|| wrong("it is not a zip archive"))?);
    let short = || wrong("its directory is cut off");
    let (mut size, mut start) = (u64::from(end.u32(12).ok_or_else(short)?), u64::from(end.u32(16).ok_or_else(short)?));
    if start == u64::from(ELSEWHERE) || size == u64::from(ELSEWHERE) || end.u16(10) == Some(u16::MAX) {
        // The record of large archives is found by the one before the end.
        let place = (length - tail + at.unwrap_or_default() as u64).checked_sub(20).ok_or_else(short)?;
        let locator = read(place, 20)?;
        let large = read(Bytes(&locator).u64(8).ok_or_else(short)?, 56)?;
        let large = Bytes(&large);
        if large.u32(0) != Some(END_64) {
            return Err(short());
        }
        (size, start) = (large.u64(40).ok_or_else(short)?, large.u64(48).ok_or_else(short)?);
    }
    if size > DIRECTORY {
        return Err(wrong("its directory is longer than 64 MiB"));
    }
    let directory = read(start, size)?;
    let (mut members, mut at) = (Vec::new(), 0);
    while at < directory.len() {
        let entry = Bytes(&directory[at..]);
        if entry.u32(0) != Some(CENTRAL) {
            return Err(short());
        }
        let number = |at| entry.u16(at).map(usize::from).ok_or_else(short);
        let [names, extras, comments] = [number(28)?, number(30)?, number(32)?];
        let begin = CENTRAL_LENGTH;
        let name = entry.0.get(begin..begin + names).ok_or_else(short)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| wrong("a name in it is not UTF-8"))?;
        let extra = Bytes(entry.0.get(begin + names..begin + names + extras).ok_or_else(short)?);
        if number(10)? != 0 {
            return Err(FileError::Compressed { name });
        }
        let field = |at| entry.u32(at).ok_or_else(short);
        let [packed, unpacked, place] = [field(20)?, field(24)?, field(42)?];
        // In this order, and only those that do not fit.
        let mut large = zip64(&extra).into_iter();
        let mut whole = |number: u32| match number {
            ELSEWHERE => large.next().ok_or_else(short),
            number => Ok(u64::from(number)),
        };
        let unpacked = whole(unpacked)?;
        let (_packed, place) = (whole(packed)?, whole(place)?);
        let local = read(place, LOCAL_LENGTH)?;
        let local = Bytes(&local);
        if local.u32(0) != Some(LOCAL) {
            return Err(short());
        }
        let skipped = [26, 28].into_iter().map(|at| local.u16(at).map(u64::from)).sum::<Option<u64>>();
        let begin = place + LOCAL_LENGTH + skipped.ok_or_else(short)?;
        match begin.checked_add(unpacked) {
            Some(end) if end <= length => members.push((name, begin, end)),
            _ => return Err(wrong("it ends early")),
        }
        at += CENTRAL_LENGTH + names + extras + comments;
    }
    Ok(members)
}

/// The numbers of the extra field of large members.
fn zip64(extra: &Bytes<'_>) -> Vec<u64> {
    let mut at = 0;
    while let (Some(kind), Some(length)) = (extra.u16(at), extra.u16(at + 2)) {
        if kind == 1 {
            return (0..usize::from(length) / 8).map_while(|number| extra.u64(at + 4 + 8 * number)).collect();
        }
        at += 4 + usize::from(length);
    }
    Vec::new()
}
