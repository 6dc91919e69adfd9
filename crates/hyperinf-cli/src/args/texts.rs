use std::convert::Infallible;
use std::path::PathBuf;

use clap::Args;
use hyperinf::data::{ColumnOptions, LengthOptions, ReadOptions};

use crate::models::model;

/// The model and its tokenizer.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArgs {
    /// The model: a folder, a .gguf or llama2.c .bin file, a name on the hub, or minilm or smollm2.
    #[arg(long, value_name = "MODEL", display_order = 1, value_parser = known)]
    pub model: String,
    /// The tokenizer: a folder with tokenizer.json, or a llama2.c vocabulary (.bin) [default: that in the adapter's
    /// folder, else the model's].
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    pub tokenizer: Option<PathBuf>,
}

/// Columns of the data sets.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ColumnArgs {
    /// The column of the text [default: text, or the first of a usual pair].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub text_column: Option<String>,
    /// Classifiers: the column of the second text [default: text_pair, or the second of a usual pair].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub pair_column: Option<String>,
    /// Classifiers: the column of the label, a name or a whole number [default: label].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub label_column: Option<String>,
    /// Language models: the column of the prompt [default: prompt].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub prompt_column: Option<String>,
    /// Language models: the column of the completion [default: completion, or the rest of the text after the prompt].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub completion_column: Option<String>,
    /// Language models: the column of conversations, lists of role and content [default: messages].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub messages_column: Option<String>,
    /// The column of images: paths, or bytes with paths [default: image, images or file_name].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub image_column: Option<String>,
    /// Where relative paths of images begin [default: the folder of the file].
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub images: Option<std::path::PathBuf>,
    /// Tiles of an image, whatever its size; only 1 [default: as the model's processor splits it].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=1), help_heading = "Data")]
    pub tiles: Option<u8>,
    /// Where features of images are stored; runs may share them [default: with the adapter, or else the output].
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    pub features: Option<std::path::PathBuf>,
    /// The column of the rows' ids [default: rows are numbered from 0].
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub id_column: Option<String>,
    /// Leave out rows that cannot be used, and list them; otherwise they are an error.
    #[arg(long, help_heading = "Data")]
    pub skip_bad_rows: bool,
    /// What the columns in use of a Parquet file may unpack to [default: 0.19 and 10 times its size].
    #[arg(long, value_name = "GIB", value_parser = gib, help_heading = "Data")]
    pub unpack_limit: Option<u64>,
}

/// Bytes of a positive number of GiB.
fn gib(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(gib) if gib > 0.0 && gib.is_finite() => Ok((gib * f64::from(1 << 30)) as u64),
        _ => Err("expected a positive number of GiB".into()),
    }
}

/// Limits on the length of texts.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct LengthArgs {
    /// The most tokens of a row [default: as the adapter was trained, or else what the model accepts, at most 512
    /// for encoders and 2048 for decoders].
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Data")]
    pub max_length: Option<u32>,
    /// Cut longer rows at their end; otherwise they are an error.
    #[arg(long, help_heading = "Data")]
    pub truncate: bool,
}

pub(super) fn known(name: &str) -> Result<String, Infallible> {
    Ok(model(name))
}

impl From<&ColumnArgs> for ReadOptions {
    fn from(args: &ColumnArgs) -> Self {
        let columns = ColumnOptions {
            text: args.text_column.clone(),
            pair: args.pair_column.clone(),
            label: args.label_column.clone(),
            prompt: args.prompt_column.clone(),
            completion: args.completion_column.clone(),
            messages: args.messages_column.clone(),
            image: args.image_column.clone(),
            id: args.id_column.clone(),
        };
        let (skip_bad_rows, unpacked, images) = (args.skip_bad_rows, args.unpack_limit, args.images.clone());
        let (one_tile, features) = (args.tiles.is_some(), args.features.clone());
        Self { columns, skip_bad_rows, unpacked, images, one_tile, features }
    }
}

impl From<LengthArgs> for LengthOptions {
    fn from(args: LengthArgs) -> Self {
        Self { max: args.max_length.map(|length| length as usize), truncate: args.truncate }
    }
}
