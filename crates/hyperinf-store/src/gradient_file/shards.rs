//! Folders of shards.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::read::{Contents, Section};
use super::{FileError, GradientFile, Piece, StoredBlock};
use crate::index::{IndexFolder, MANIFEST, Record};

/// The file that lists the shards of a folder.
pub(crate) const LIST: &str = "index.json";
/// The longest list that is read, in bytes.
const LONGEST: u64 = 256 << 20;

/// The list of a folder's shards.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ShardList {
    #[serde(default)]
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
    pub(crate) weight_map: BTreeMap<String, Files>,
}

/// The files of a block: of all samples, or of consecutive parts of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Files {
    One(String),
    Several(Vec<String>),
}

impl Files {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl ShardList {
    fn read(folder: &Path) -> Result<Self, FileError> {
        let path = folder.join(LIST);
        let found = match path.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(FileError::NotRegular),
            found => found.map_err(FileError::NoList)?,
        };
        if !found.is_file() || found.len() > LONGEST {
            return Err(FileError::NotRegular);
        }
        serde_json::from_slice(&std::fs::read(&path).map_err(FileError::NoList)?).map_err(FileError::List)
    }
}

impl GradientFile {
    pub(super) fn open_folder(folder: &Path) -> Result<Self, FileError> {
        if folder.join(MANIFEST).exists() {
            let index = IndexFolder::open(folder).map_err(|error| FileError::Index(Box::new(error)))?;
            return index.gradients().map_err(|error| FileError::Index(Box::new(error)));
        }
        let list = ShardList::read(folder)?;
        let mut names: Vec<&String> = Vec::new();
        for name in list.weight_map.values().flat_map(Files::names) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut shards = Vec::with_capacity(names.len());
        for name in &names {
            // A list of strangers leads to no other place.
            if Path::new(name).components().count() != 1 || name.contains(['/', '\\']) || name.starts_with('.') {
                return Err(FileError::ShardName { name: (*name).clone() });
            }
            let failed = |source| FileError::Shard { name: (*name).clone(), source: Box::new(source) };
            shards.push(Self::open_file(&folder.join(name)).map_err(failed)?);
        }
        // In the order in which they lie in the shards.
        let order = |name: &str| {
            let places = shards.iter().enumerate().find_map(|(file, shard)| Some((file, shard.position(name)?)));
            places.unwrap_or((usize::MAX, 0))
        };
        let mut blocks: Vec<(&String, Vec<usize>)> = Vec::new();
        for (block, files) in &list.weight_map {
            let place = |file: &String| names.iter().position(|name| *name == file);
            blocks.push((block, files.names().iter().filter_map(place).collect()));
        }
        blocks.sort_by_key(|(name, _)| order(name));
        let unlisted = shards.iter().zip(&names).find_map(|(shard, name)| {
            let listed = |block: &&StoredBlock| !list.weight_map.contains_key(&block.block.name);
            shard.blocks.iter().find(listed).map(|block| (block.block.name.clone(), (*name).clone()))
        });
        if let Some((block, name)) = unlisted {
            return Err(FileError::Unlisted { block, name });
        }
        Self::joined(folder, shards, &blocks, Vec::new(), None)
    }

    /// The shards of an index, which its journal vouches for.
    pub(crate) fn of_leaves(folder: &Path, records: &[Record], vouched: String) -> Result<Self, FileError> {
        let mut shards = Vec::with_capacity(records.len());
        let mut sections = Vec::with_capacity(records.len());
        for record in records {
            let name = &record.file;
            let failed = |source| FileError::Shard { name: name.clone(), source: Box::new(source) };
            let shard = Self::open_file(&folder.join(name)).map_err(failed)?;
            if shard.length != record.bytes || shard.blocks.len() != record.blocks.len() {
                return Err(failed(FileError::Truncated { expected: record.bytes, found: shard.length }));
            }
            let section = |(stored, hash): (&StoredBlock, &String)| {
                let (start, end) = stored.bytes();
                let expected = u128::from_str_radix(hash, 16).map_err(|_| failed(FileError::Changed))?;
                Ok(Section::new(start, end, expected))
            };
            sections.push(shard.blocks.iter().zip(&record.blocks).map(section).collect::<Result<_, FileError>>()?);
            shards.push(shard);
        }
        let Some(first) = shards.first() else { return Err(FileError::NoBlocks) };
        let names: Vec<String> = first.blocks.iter().map(|stored| stored.block.name.clone()).collect();
        let all: Vec<usize> = (0..shards.len()).collect();
        let blocks: Vec<(&String, Vec<usize>)> = names.iter().map(|name| (name, all.clone())).collect();
        Self::joined(folder, shards, &blocks, sections, Some(vouched))
    }

    /// Blocks whose samples follow each other in some of the shards.
    fn joined(
        folder: &Path,
        shards: Vec<Self>,
        wanted: &[(&String, Vec<usize>)],
        sections: Vec<Vec<Section>>,
        vouched: Option<String>,
    ) -> Result<Self, FileError> {
        let mut blocks: Vec<StoredBlock> = Vec::with_capacity(wanted.len());
        for (name, files) in wanted {
            let mut joined: Option<StoredBlock> = None;
            for &file in files {
                let shard = &shards[file];
                let name_of = || shard.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let Some(position) = shard.position(name) else {
                    return Err(FileError::NotInShard { block: (*name).clone(), name: name_of() });
                };
                let found = &shard.blocks[position];
                let piece = Piece { file, ..found.pieces[0] };
                match &mut joined {
                    None => joined = Some(StoredBlock { pieces: vec![piece], ..found.clone() }),
                    Some(joined) => {
                        if (&joined.block, joined.dtype, &joined.shape[1..])
                            != (&found.block, found.dtype, &found.shape[1..])
                        {
                            return Err(FileError::ShardsDiffer { block: (*name).clone(), name: name_of() });
                        }
                        joined.shape[0] += piece.samples;
                        joined.pieces.push(piece);
                    }
                }
            }
            let joined = joined.ok_or_else(|| FileError::NotInShard { block: (*name).clone(), name: LIST.into() })?;
            if let Some(first) = blocks.first()
                && first.shape[0] != joined.shape[0]
            {
                let (block, found) = (joined.block.name, joined.shape[0]);
                let (other, expected) = (first.block.name.clone(), first.shape[0]);
                return Err(FileError::SampleCount { block, found, other, expected });
            }
            blocks.push(joined);
        }
        let samples = blocks.first().ok_or(FileError::NoBlocks)?.shape[0];
        let length = shards.iter().map(|shard| shard.length).sum();
        let mut sections = sections.into_iter();
        let contents = shards.into_iter().flat_map(|shard| shard.files).map(|file| {
            let contents: Contents = file.into_inner().unwrap_or_else(PoisonError::into_inner);
            Mutex::new(contents.into_shard(sections.next().unwrap_or_default()))
        });
        let files = contents.collect();
        Ok(Self { path: folder.to_owned(), length, samples, blocks, files, vouched })
    }

    /// The hash of the shards' hashes: of what is read now, or of what the journal vouches for.
    pub(super) fn fingerprint_of_shards(&self) -> Result<String, FileError> {
        if let Some(vouched) = &self.vouched {
            return Ok(vouched.clone());
        }
        let mut all = XxHash3_128::new();
        for file in 0..self.files.len() {
            let mut contents = self.contents(file);
            let hash = contents.hash();
            if !contents.is_unchanged().map_err(FileError::Open)? {
                return Err(FileError::Changed);
            }
            all.write(format!("{:032x}\n", hash.map_err(FileError::Open)?).as_bytes());
        }
        Ok(format!("{:032x}", all.finish_128()))
    }
}

impl StoredBlock {
    /// The bytes of its numbers in a file of its own.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let Piece { start, samples, .. } = self.pieces[0];
        let bytes = samples * self.block.parameters() * (self.dtype.bitsize() / 8);
        (start, start + bytes as u64)
    }
}
