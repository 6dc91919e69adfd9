//! `preprocessor_config.json`: every setting is followed, without effect, or refused by name.

use std::path::Path;

use serde_json::{Value, json};

use super::processor::{Crop, ImageProcessor, TargetSize};
use super::resize::Resampling;
use super::tiles::Tiling;
use crate::LoadError;
use crate::files::fields::Fields;

const FILE: &str = "preprocessor_config.json";
/// Newer folders have it inside of this one.
const NEWER: &str = "processor_config.json";

/// Settings that change nothing here, and why.
const NO_EFFECT: [(&str, &str); 17] = [
    ("processor_class", "the Python class around it"),
    ("feature_extractor_type", "an older name of `image_processor_type`"),
    ("auto_map", "Python classes"),
    ("_valid_processor_keys", "the names of Python arguments"),
    ("use_fast", "which of two implementations; pictures are resized as by Pillow"),
    ("do_convert_rgb", "pictures are always RGB"),
    ("return_tensors", "a Python type"),
    ("data_format", "the layout of a Python array"),
    ("input_data_format", "the layout of a Python array"),
    ("device", "where Python computes"),
    ("disable_grouping", "how Python computes"),
    ("return_row_col_info", "whether Python returns rows and columns of tiles"),
    ("image_seq_length", "tokens per image, which follow from the model"),
    ("video_sampling", "videos are not read"),
    ("default_to_square", "what a size of one number means; only with one"),
    ("image_processor_type", "decides the kind; see `TYPES`"),
    ("name_or_path", "where it was"),
];
/// Settings that are followed.
const FOLLOWED: [&str; 13] = [
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "do_image_splitting",
    "max_image_size",
];

/// A family of processors: they differ in their defaults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Clip,
    Llava,
    Siglip,
    Vit,
    Idefics3,
}

const TYPES: [(&str, Family); 12] = [
    ("CLIPImageProcessor", Family::Clip),
    ("CLIPFeatureExtractor", Family::Clip),
    ("CLIPImageProcessorFast", Family::Clip),
    ("LlavaImageProcessor", Family::Llava),
    ("LlavaImageProcessorFast", Family::Llava),
    ("SiglipImageProcessor", Family::Siglip),
    ("SiglipImageProcessorFast", Family::Siglip),
    ("ViTImageProcessor", Family::Vit),
    ("ViTFeatureExtractor", Family::Vit),
    ("ViTImageProcessorFast", Family::Vit),
    ("Idefics3ImageProcessor", Family::Idefics3),
    ("SmolVLMImageProcessor", Family::Idefics3),
];
const CLIP: [[f64; 3]; 2] = [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]];
const HALVES: [[f64; 3]; 2] = [[0.5; 3]; 2];

impl ImageProcessor {
    /// The processor of a model's folder: `preprocessor_config.json`, or `image_processor` in a newer folder's
    /// `processor_config.json`, which comes first.
    ///
    /// Followed: the types CLIP, LLaVA, SigLIP, ViT, Idefics3 and SmolVLM (with their older and `Fast` names), which
    /// decide the defaults, and `do_resize`, `size`, `resample`, `do_center_crop`, `crop_size`, `do_rescale`,
    /// `rescale_factor`, `do_normalize`, `image_mean`, `image_std`, `do_pad`, `do_image_splitting`, `max_image_size`.
    /// Any other setting that changes values is refused.
    ///
    /// # Errors
    ///
    /// If there is no such file, or a setting in it cannot be followed.
    pub fn load(folder: &Path) -> Result<Self, LoadError> {
        let newer = folder.join(NEWER);
        if newer.is_file()
            && let Some(fields) = Fields::read(&newer)?.within("image_processor", "image_processor.")?
        {
            return of(&fields);
        }
        let path = folder.join(FILE);
        if !path.exists() {
            let (what, looked_for) = ("image processor", "preprocessor_config.json, processor_config.json");
            return Err(LoadError::Missing { path: folder.to_owned(), what, looked_for });
        }
        of(&Fields::read(&path)?)
    }

    /// The processor that makes one tile of each picture (`--tiles 1`); others are as they are.
    pub fn with_one_tile(mut self) -> Self {
        self.tiling = self.tiling.map(|tiling| Tiling { split: false, ..tiling });
        self
    }
}

fn of(fields: &Fields) -> Result<ImageProcessor, LoadError> {
    let family = family(fields)?;
    for (name, value) in fields.entries() {
        let known = FOLLOWED.contains(&name) || NO_EFFECT.iter().any(|(known, _)| *known == name);
        if !known && ![json!(false), json!([]), json!({})].contains(value) {
            return Err(fields.refuse(name, value, "`null` or false (this setting is not followed)"));
        }
    }
    let tiled = family == Family::Idefics3;
    let crops = matches!(family, Family::Clip | Family::Llava);
    let [mean, deviation] = if crops { CLIP } else { HALVES };
    let mean = colours(fields, "image_mean", mean)?;
    let deviation = colours(fields, "image_std", deviation)?;
    if let Some(zero) = deviation.iter().find(|&&value| !(value > 0.0 && value.is_finite())) {
        return Err(fields.refuse("image_std", &json!(zero), "positive numbers"));
    }
    let pads = fields.flag("do_pad", tiled)?;
    if pads && !tiled && family != Family::Llava {
        return Err(fields.refuse("do_pad", &json!(true), "false for this type of processor"));
    }
    let splits = |default| fields.flag("do_image_splitting", default);
    if !tiled && splits(false)? {
        return Err(fields.refuse("do_image_splitting", &json!(true), "false for this type of processor"));
    }
    let factor = fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0);
    if !factor.is_finite() {
        return Err(fields.refuse("rescale_factor", &json!(factor), "a finite number"));
    }
    let normal = std::array::from_fn(|colour| (mean[colour] as f32, deviation[colour] as f32));
    Ok(ImageProcessor {
        // As LLaVA's: the mean colour, cut to whole numbers.
        square: (pads && !tiled).then(|| mean.map(|value| (value * 255.0) as u8)),
        size: if fields.flag("do_resize", true)? { Some(size(fields, family)?) } else { None },
        resampling: resampling(fields, family)?,
        tiling: if tiled { Some(Tiling { side: side(fields)?, split: splits(true)? }) } else { None },
        crop: if fields.flag("do_center_crop", crops)? { Some(crop(fields, family)?) } else { None },
        factor: fields.flag("do_rescale", true)?.then_some(factor),
        normal: fields.flag("do_normalize", true)?.then_some(normal),
    })
}

/// The family of the processor; files without a type are CLIP's, as older ones of LLaVA.
fn family(fields: &Fields) -> Result<Family, LoadError> {
    let name = match fields.text("image_processor_type")? {
        Some(name) => name,
        None => fields.text("feature_extractor_type")?.unwrap_or_else(|| "CLIPImageProcessor".to_owned()),
    };
    // `Fast` names another implementation of the same.
    let plain = name.strip_suffix("Fast").unwrap_or(&name);
    let known = TYPES.iter().find(|(known, _)| *known == name || *known == plain);
    known.map(|(_, family)| *family).ok_or_else(|| {
        let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).filter(|name| !name.ends_with("Fast")).collect();
        fields.refuse("image_processor_type", &json!(name), &known.join(", "))
    })
}

fn size(fields: &Fields, family: Family) -> Result<TargetSize, LoadError> {
    let square = |side| TargetSize::Exact { height: side, width: side };
    let Some(value) = fields.get("size") else {
        return Ok(match family {
            Family::Clip | Family::Llava => TargetSize::ShortestEdge(224),
            Family::Siglip | Family::Vit => square(224),
            Family::Idefics3 => TargetSize::LongestEdge(4 * 364),
        });
    };
    let expected = match family {
        Family::Idefics3 => "`longest_edge`, or `height` and `width`, from 1",
        _ => "`shortest_edge`, or `height` and `width`, from 1",
    };
    let refused = || fields.refuse("size", value, expected);
    if family != Family::Idefics3
        && let Some(edge) = value.as_u64()
    {
        let edge = positive(edge).ok_or_else(refused)?;
        let to_square = fields.flag("default_to_square", family == Family::Vit)?;
        return Ok(if to_square { square(edge) } else { TargetSize::ShortestEdge(edge) });
    }
    match (edges(value).ok_or_else(refused)?, family) {
        ([None, None, Some(height), Some(width)], _) => Ok(TargetSize::Exact { height, width }),
        ([Some(edge), None, None, None], Family::Clip | Family::Llava | Family::Siglip | Family::Vit) => {
            Ok(TargetSize::ShortestEdge(edge))
        }
        ([None, Some(edge), None, None], Family::Idefics3) => Ok(TargetSize::LongestEdge(edge)),
        _ => Err(refused()),
    }
}

/// `shortest_edge`, `longest_edge`, `height` and `width`; `None` if there is anything else.
fn edges(value: &Value) -> Option<[Option<usize>; 4]> {
    let mut edges = [None; 4];
    for (name, value) in value.as_object()? {
        let place = ["shortest_edge", "longest_edge", "height", "width"].iter().position(|known| known == name)?;
        edges[place] = if value.is_null() { None } else { Some(positive(value.as_u64()?)?) };
    }
    Some(edges)
}

/// The longest side that a file may ask for.
const SIDE: u64 = 16384;

fn positive(number: u64) -> Option<usize> {
    usize::try_from(number).ok().filter(|_| (1..=SIDE).contains(&number))
}

fn crop(fields: &Fields, family: Family) -> Result<Crop, LoadError> {
    let Some(value) = fields.get("crop_size") else {
        return match family {
            Family::Clip | Family::Llava => Ok(Crop { height: 224, width: 224 }),
            _ => Err(fields.absent("crop_size")),
        };
    };
    let found = match value.as_u64() {
        Some(side) => positive(side).map(|side| (side, side)),
        None => match edges(value) {
            Some([None, None, Some(height), Some(width)]) => Some((height, width)),
            _ => None,
        },
    };
    let (height, width) = found.ok_or_else(|| fields.refuse("crop_size", value, "`height` and `width` from 1"))?;
    Ok(Crop { height, width })
}

/// The side of a tile.
fn side(fields: &Fields) -> Result<usize, LoadError> {
    let Some(value) = fields.get("max_image_size") else { return Ok(364) };
    match edges(value) {
        Some([None, Some(edge), None, None]) => Ok(edge),
        _ => Err(fields.refuse("max_image_size", value, "`longest_edge` from 1")),
    }
}

fn resampling(fields: &Fields, family: Family) -> Result<Resampling, LoadError> {
    let Some(value) = fields.get("resample") else {
        return Ok(match family {
            Family::Clip | Family::Llava | Family::Siglip => Resampling::Bicubic,
            Family::Vit => Resampling::Bilinear,
            Family::Idefics3 => Resampling::Lanczos,
        });
    };
    let found = value.as_u64().and_then(Resampling::of_pillow);
    found.ok_or_else(|| fields.refuse("resample", value, "one of Pillow's filters, 0 to 5"))
}

/// A number for each colour, or one for all.
fn colours(fields: &Fields, name: &str, default: [f64; 3]) -> Result<[f64; 3], LoadError> {
    let Some(value) = fields.get(name) else { return Ok(default) };
    let found = match value {
        Value::Array(list) => {
            let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
            numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok())
        }
        other => other.as_f64().map(|number| [number; 3]),
    };
    found.ok_or_else(|| fields.refuse(name, value, "a number, or one for each of three colours"))
}
