mod footer;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use ::parquet::arrow::{ArrowWriter, ProjectionMask};
use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use ::parquet::file::properties::WriterProperties;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::filter::filter_record_batch;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use hyperinf_models::{Json, Panicked};

use crate::table::{RawRow, Visit};
use crate::{DataError, SubsetError};
use footer::Page;
use values::{Budget, VALUE, readable, values, viewed, with_bytes};

/// The metadata key of Arrow's own schema, which Arrow's writer adds itself.
const ARROW_SCHEMA: &str = "ARROW:schema";
/// Rows that are unpacked at once, at most.
const BATCH: usize = 1024;
/// Bytes of one batch when rows are copied: so many rows of the longest text of a dictionary are unpacked at once.
const COPIED: u64 = 64 << 20;

/// A Parquet file.
pub(crate) struct Source {
    contents: Bytes,
    /// What the wanted columns may unpack to, in bytes.
    limit: u64,
    metadata: ArrowReaderMetadata,
}

impl Source {
    pub(crate) fn open(contents: Bytes, limit: u64) -> Result<Self, DataError> {
        let plain = load(&contents, ArrowReaderOptions::new().with_skip_arrow_metadata(true))?;
        check_chunks(plain.metadata(), contents.len() as u64)?;
        check_rows(plain.metadata())?;
        // Texts are views: a text that many rows share is unpacked once.
        let fields: Vec<_> = plain.schema().fields().iter().map(viewed).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, plain.schema().metadata().clone()));
        let metadata = load(&contents, ArrowReaderOptions::new().with_schema(schema))?;
        Ok(Self { contents, limit, metadata })
    }

    pub(crate) fn rows(&self) -> usize {
        usize::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    pub(crate) fn columns(&self) -> Vec<String> {
        self.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// Columns of a type that is not read, with that type.
    pub(crate) fn unreadable(&self) -> BTreeMap<String, String> {
        let fields = self.schema().fields().iter().filter(|field| !readable(field.data_type(), false));
        fields.map(|field| (field.name().clone(), field.data_type().to_string())).collect()
    }

    /// Those of them that hold bytes, alone or in structs and lists.
    pub(crate) fn binary(&self) -> HashSet<String> {
        let fields = self.schema().fields().iter();
        fields.filter(|field| with_bytes(field.data_type())).map(|field| field.name().clone()).collect()
    }

    fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// Visits the rows with the cells of some columns; of a struct, fields without a value are absent.
    pub(crate) fn visit(&self, wanted: &[&str], visit: &mut Visit<'_>) -> Result<(), DataError> {
        let fields = self.schema().fields();
        let roots: Vec<Option<usize>> =
            wanted.iter().map(|name| fields.iter().position(|field| field.name() == name)).collect();
        let descriptor = self.metadata.metadata().file_metadata().schema_descr_ptr();
        let mask = ProjectionMask::roots(&descriptor, roots.iter().copied().flatten());
        let mut budget = Budget::new(self.limit, self.contents.len() as u64);
        for (number, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            budget.row_group = number;
            for (_, column) in group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf)) {
                let gzip = matches!(column.compression(), Compression::GZIP(_));
                let mut unpacked: u64 = 0;
                for page in pages(&self.contents, (number, group), column)? {
                    // The library believes what a page claims, and unpacks gzip until it ends.
                    let found = if gzip { inflated(page.packed, self.limit) } else { 0 };
                    let values = page.values.saturating_mul(VALUE);
                    unpacked = unpacked.saturating_add(page.unpacked.max(found).max(values));
                    budget.check_pages(&column.column_path().string(), unpacked)?;
                }
            }
            let mut found = 0;
            let batches =
                ParquetRecordBatchReaderBuilder::new_with_metadata(self.contents.clone(), self.metadata.clone())
                    .with_row_groups(vec![number])
                    .with_projection(mask.clone())
                    .with_batch_size(BATCH);
            for batch in self::batches(batches)? {
                let batch = batch?;
                found += batch.num_rows();
                for cells in rows(&batch, wanted, &mut budget)? {
                    if visit(RawRow { line: None, cells: Ok(cells) }).is_break() {
                        return Ok(());
                    }
                }
            }
            let claimed = group.num_rows();
            if i64::try_from(found) != Ok(claimed) {
                return Err(DataError::RowCount { row_group: number, claimed, found });
            }
        }
        Ok(())
    }
}

/// The cells of each row of a batch, in the order of the wanted columns.
fn rows(batch: &RecordBatch, wanted: &[&str], budget: &mut Budget) -> Result<Vec<Vec<Option<Json>>>, DataError> {
    let mut rows = vec![vec![None; wanted.len()]; batch.num_rows()];
    budget.rows(batch.num_rows())?;
    for (place, name) in wanted.iter().enumerate() {
        let Some(column) = batch.column_by_name(name) else { continue };
        let values = guarded(|| values(column, budget))?;
        for (row, value) in rows.iter_mut().zip(values) {
            row[place] = Some(value);
        }
    }
    Ok(rows)
}

/// Writes the kept rows of a file in its order, with its schema, metadata and compression.
pub(crate) fn write_rows(contents: &Bytes, kept: &BTreeSet<usize>, to: &mut File) -> Result<(), SubsetError> {
    let metadata = load(contents, ArrowReaderOptions::new())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(contents.clone(), metadata);
    let pairs = builder.metadata().file_metadata().key_value_metadata().cloned();
    let pairs = pairs.map(|pairs| pairs.into_iter().filter(|pair| pair.key != ARROW_SCHEMA).collect());
    let mut properties = WriterProperties::builder().set_key_value_metadata(pairs);
    let mut longest = 1;
    for group in builder.metadata().row_groups().iter().enumerate() {
        for column in group.1.columns() {
            properties = properties.set_column_compression(column.column_path().clone(), column.compression());
            let dictionaries = pages(contents, group, column)?.into_iter().filter(|page| page.dictionary);
            longest = dictionaries.map(|page| page.unpacked).fold(longest, u64::max);
        }
    }
    let rows = usize::try_from(COPIED / longest).unwrap_or(BATCH).clamp(1, BATCH);
    let schema = builder.schema().clone();
    let mut writer = ArrowWriter::try_new(to, schema, Some(properties.build())).map_err(SubsetError::Parquet)?;
    let mut row = 0;
    for batch in batches(builder.with_batch_size(rows))? {
        let batch = batch?;
        let kept: BooleanArray = (row..row + batch.num_rows()).map(|row| Some(kept.contains(&row))).collect();
        row += batch.num_rows();
        guarded_write(|| {
            let batch = filter_record_batch(&batch, &kept).map_err(SubsetError::Arrow)?;
            writer.write(&batch).map_err(SubsetError::Parquet)
        })?;
    }
    writer.close().map_err(SubsetError::Parquet)?;
    Ok(())
}

/// The pages of a column; one whose header cannot be read is an error where the library would look at it.
fn pages<'a>(
    contents: &'a [u8],
    (row_group, group): (usize, &RowGroupMetaData),
    column: &ColumnChunkMetaData,
) -> Result<Vec<Page<'a>>, DataError> {
    let (start, length) = range(column).unwrap_or_default();
    let (mut found, mut values): (Vec<Page<'a>>, u64) = (Vec::new(), 0);
    let claimed = u64::try_from(column.num_values().max(group.num_rows())).unwrap_or(0);
    for page in footer::pages(contents, start, length) {
        match page {
            Ok(page) => {
                values = values.saturating_add(if page.dictionary { 0 } else { page.values });
                found.push(page);
            }
            Err(footer::BadHeader) if values < claimed => {
                let column = column.column_path().string();
                return Err(DataError::PageHeader { row_group, column, values, claimed });
            }
            Err(footer::BadHeader) => break,
        }
    }
    Ok(found)
}

/// The metadata of a file, after a look at its footer that the Parquet library would not survive.
fn load(contents: &Bytes, options: ArrowReaderOptions) -> Result<ArrowReaderMetadata, DataError> {
    footer::check_schema(contents)?;
    guarded(|| Ok(ArrowReaderMetadata::load(contents, options)?))
}

/// The columns lie in the file, and are compressed in a way that is read.
fn check_chunks(metadata: &ParquetMetaData, length: u64) -> Result<(), DataError> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        // The Parquet library trusts these numbers.
        let end = range(column).and_then(|(start, size)| start.checked_add(size));
        if end.is_none_or(|end| end > length) {
            return Err(DataError::Chunk { column: column.column_path().string() });
        }
        let codec = match column.compression() {
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) => continue,
            Compression::ZSTD(_) => "ZSTD".to_owned(),
            Compression::BROTLI(_) => "BROTLI".to_owned(),
            other => other.to_string(),
        };
        return Err(DataError::Codec { column: column.column_path().string(), codec });
    }
    Ok(())
}

/// The rows of the groups add up to those of the file.
fn check_rows(metadata: &ParquetMetaData) -> Result<(), DataError> {
    let claimed = metadata.file_metadata().num_rows();
    let groups: Option<i64> = (metadata.row_groups().iter())
        .map(|group| Some(group.num_rows()).filter(|&rows| rows >= 0))
        .try_fold(0, |sum: i64, rows| sum.checked_add(rows?));
    if groups == Some(claimed) { Ok(()) } else { Err(DataError::FileRows { claimed, groups }) }
}

/// The first byte of a column in the file and its length.
fn range(column: &ColumnChunkMetaData) -> Option<(u64, u64)> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok())
}

/// The rows of a file in record batches.
fn batches(
    builder: ParquetRecordBatchReaderBuilder<Bytes>,
) -> Result<impl Iterator<Item = Result<RecordBatch, DataError>>, DataError> {
    let mut reader = guarded(|| Ok(builder.build()?))?;
    let mut over = false;
    Ok(std::iter::from_fn(move || {
        if over {
            return None;
        }
        let batch = guarded(|| Ok(reader.next().transpose()?)).transpose();
        over = !matches!(batch, Some(Ok(_)));
        batch
    }))
}

/// The size of what gzip unpacks to, counted no further than just above a limit; 0 if it is damaged.
fn inflated(packed: &[u8], limit: u64) -> u64 {
    let mut unpacked = MultiGzDecoder::new(packed).take(limit.saturating_add(1));
    io::copy(&mut unpacked, &mut io::sink()).unwrap_or(0)
}

/// Runs code of the Parquet library, which panics at some damaged files.
fn guarded<T>(run: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    hyperinf_models::guarded(run).unwrap_or_else(|panicked| Err(contradiction(&panicked).into()))
}

fn guarded_write<T>(run: impl FnOnce() -> Result<T, SubsetError>) -> Result<T, SubsetError> {
    hyperinf_models::guarded(run).unwrap_or_else(|panicked| Err(SubsetError::Parquet(contradiction(&panicked))))
}

fn contradiction(panicked: &Panicked) -> ParquetError {
    ParquetError::General(format!("its parts contradict each other ({})", panicked.message))
}
