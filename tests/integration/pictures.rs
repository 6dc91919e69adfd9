//! Pictures and image processors, against Pillow and transformers (`tests/fixtures/images/make.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hyperinf::models::{
    Crop, ImageProcessor, Picture, PictureError, PictureLimits, Resampling, TargetSize, read_regular,
};
use hyperinf_tests::fixtures::path;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

const FILTERS: [(&str, Resampling); 6] = [
    ("nearest", Resampling::Nearest),
    ("lanczos", Resampling::Lanczos),
    ("bilinear", Resampling::Bilinear),
    ("bicubic", Resampling::Bicubic),
    ("box", Resampling::Box),
    ("hamming", Resampling::Hamming),
];

fn file(name: &str) -> PathBuf {
    path("images").join("files").join(name)
}

pub(crate) fn bytes(name: &str) -> Vec<u8> {
    fs::read(file(name)).expect("a fixture")
}

pub(crate) fn picture(name: &str) -> Picture {
    decode(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn decode(bytes: &[u8]) -> Result<Picture, PictureError> {
    Picture::decode(bytes, &PictureLimits::default())
}

/// Shapes and bytes of a file of arrays.
fn arrays(name: &str) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = read_regular(&path("images").join(format!("{name}.safetensors"))).expect("a fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    let array = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (tensor.shape().to_vec(), tensor.data().to_vec()))
    };
    tensors.tensors().into_iter().map(array).collect()
}

#[track_caller]
fn near(found: &[u8], expected: &[u8], most: u8, mean: f64, what: &str) {
    let differences: Vec<u8> = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).collect();
    let worst = differences.iter().copied().max().unwrap_or(0);
    let average = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
    assert!(worst <= most && average <= mean, "{what}: off by {worst} at most, {average:.3} on average");
}

#[test]
fn files_are_read_as_transformers_loads_them() {
    let expected = arrays("decoded");
    assert_eq!(expected.len(), fs::read_dir(path("images").join("files")).expect("fixtures").count());
    for (name, (shape, values)) in expected {
        let picture = picture(&name);
        assert_eq!([picture.height(), picture.width(), 3], shape[..], "{name}");
        // Pillow's decoders of JPEG and lossy WebP are other programs; chroma of half size differs most.
        let (most, mean) = match name.as_str() {
            "half.jpg" => (12, 1.5),
            name if name.ends_with(".jpg") || name == "lossy.webp" => (3, 0.5),
            _ => (0, 0.0),
        };
        near(picture.pixels(), &values, most, mean, &name);
    }
}

#[test]
fn resampling_is_pillows() {
    let (source, expected) = (picture("source.png"), arrays("resized"));
    for (name, how) in FILTERS {
        let sizes = expected.iter().filter(|(key, _)| key.split('-').next() == Some(name));
        let mut checked = 0;
        for (key, (shape, values)) in sizes {
            assert_eq!(source.resized(shape[1], shape[0], how).pixels(), values, "{key}");
            checked += 1;
        }
        assert!(checked >= 7, "{name}");
    }
}

#[test]
fn processors_are_those_of_transformers() {
    let expected = arrays("processed");
    let configs = fs::read_dir(path("images").join("processors")).expect("fixtures").count();
    assert_eq!(expected.len(), 4 * configs, "two pictures, each with its grid");
    for name in expected.keys().filter(|name| !name.ends_with("/grid")) {
        let (config, source) = name.split_once('/').expect("a name of two parts");
        let settings = fs::read(path("images").join("processors").join(format!("{config}.json"))).expect("a fixture");
        let processor = load("preprocessor_config.json", &settings).expect("a processor that is followed");
        let found = processor.process(&picture(&format!("{source}.png"))).expect("a usual size");
        let (shape, values) = &expected[name];
        assert_eq!(found.tiles.len(), shape[0], "{name}");
        let grid = &expected[&format!("{name}/grid")].1;
        assert_eq!([found.rows as u8, found.columns as u8], [grid[0], grid[8]], "{name}");
        let mut values = values.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")));
        for tile in &found.tiles {
            assert_eq!(tile.shape[..], shape[1..], "{name}");
            for (&found, expected) in tile.values.iter().zip(&mut values) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: {found}, not {expected}");
            }
        }
        assert_eq!(values.next(), None, "{name}");
    }
}

fn load(file: &str, contents: &[u8]) -> Result<ImageProcessor, String> {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join(file), contents).expect("a writable folder");
    ImageProcessor::load(folder.path()).map_err(|error| error.to_string())
}

#[test]
fn one_tile_and_newer_files() {
    let settings = json!({
        "image_processor_type": "SmolVLMImageProcessorFast", "do_image_splitting": true,
        "size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 16},
    });
    let older = load("preprocessor_config.json", settings.to_string().as_bytes()).expect("settings");
    let newer = json!({"image_processor": settings, "processor_class": "SmolVLMProcessor"});
    assert_eq!(load("processor_config.json", newer.to_string().as_bytes()).as_ref(), Ok(&older));
    let one = older.with_one_tile().process(&picture("source.png")).expect("a usual size");
    assert_eq!((one.tiles.len(), one.rows, one.columns), (1, 0, 0));
    assert_eq!(one.tiles[0].shape, [3, 16, 16]);
}

#[test]
fn settings_are_followed_or_refused_by_name() {
    let check = |settings: Value, expected: &str| {
        let found = load("preprocessor_config.json", settings.to_string().as_bytes()).expect_err(expected);
        assert!(found.contains(expected), "{found}");
    };
    check(
        json!({"image_processor_type": "Qwen2VLImageProcessor"}),
        "`image_processor_type` = \"Qwen2VLImageProcessor\"",
    );
    check(json!({"size": {"shortest_edge": 20, "longest_edge": 40}}), "`size`");
    check(json!({"size": {"max_height": 20, "max_width": 40}}), "`size`");
    check(json!({"size": 0}), "`size` = 0");
    check(json!({"size": {"height": 4000000, "width": 4000000}}), "`size`");
    check(json!({"crop_size": {"height": 4}}), "`crop_size`");
    check(json!({"resample": 6}), "`resample` = 6");
    check(json!({"image_std": [0.5, 0.0, 0.5]}), "`image_std` = 0.0");
    check(json!({"image_mean": [0.5, 0.5]}), "`image_mean`");
    check(json!({"do_pad": true}), "`do_pad` = true");
    check(json!({"do_image_splitting": true}), "`do_image_splitting` = true");
    check(json!({"do_color_quantize": true}), "`do_color_quantize` = true");
    check(json!({"crop_pct": 0.9}), "`crop_pct` = 0.9");
    check(json!({"use_square_size": true}), "`use_square_size` = true");
    check(json!({"image_processor_type": "SiglipImageProcessor", "do_center_crop": true}), "`crop_size`");
    let plain = load("preprocessor_config.json", b"{}").expect("all defaults");
    assert_eq!(plain.size, Some(TargetSize::ShortestEdge(224)));
    assert_eq!(plain.crop, Some(Crop { height: 224, width: 224 }));
    assert!(
        ImageProcessor::load(Path::new("/nowhere")).expect_err("no folder").to_string().contains("image processor")
    );
}

/// A PNG file that declares a size.
fn declared(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = bytes("rgb.png");
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn crc(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

#[test]
fn what_is_no_picture_is_named() {
    let check = |bytes: &[u8], expected: &str| {
        let found = decode(bytes).expect_err(expected).to_string();
        assert!(found.contains(expected), "{found}, not {expected}");
    };
    check(b"", "it is empty");
    check(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer");
    check(b"GIF89a", "a GIF image: PNG, JPEG and WebP are read");
    check(b"\0\0\0\x1cftypavif", "an AVIF image");
    check(b"  <!DOCTYPE html>", "a web page");
    check(b"{\"message\": \"not found\"}", "a JSON text");
    check(b"hello", "it is no image: PNG, JPEG and WebP are read");
    check(&declared(100_000, 100_000), "it declares 100000 × 100000 pixels, more than the limit of 89478485");
    check(&declared(0, 9), "it declares 0 × 9 pixels");
    for name in ["rgb.png", "rgba.webp", "lossy.webp", "full.jpg", "progressive.jpg", "half.jpg"] {
        let whole = bytes(name);
        for length in [whole.len() / 3, whole.len() * 2 / 3, whole.len() - 20] {
            assert!(decode(&whole[..length]).is_err(), "{name} of {length} bytes");
        }
    }
    check(&bytes("full.jpg")[..900], "the JPEG is cut off");
    let mut flipped = bytes("rgb.png");
    let middle = flipped.len() / 2;
    flipped[middle] ^= 255;
    check(&flipped, "the PNG is damaged");
    let limits = PictureLimits { pixels: 116, ..PictureLimits::default() };
    let found = Picture::decode(&bytes("rgb.png"), &limits).expect_err("a limit").to_string();
    assert_eq!(found, "it declares 13 × 9 pixels, more than the limit of 116");
    for name in ["rgb.webp", "full.jpg"] {
        assert!(matches!(Picture::decode(&bytes(name), &limits), Err(PictureError::Pixels { .. })), "{name}");
    }
    let short = PictureLimits { bytes: 10, ..PictureLimits::default() };
    assert!(matches!(Picture::decode(&bytes("rgb.png"), &short), Err(PictureError::Bytes { limit: 10, .. })));
}

#[test]
fn narrow_pictures_are_not_enlarged_beyond_the_limit() {
    let narrow = Picture::new(1, 400_000, vec![7; 1_200_000]).expect("a picture");
    let processor = load("preprocessor_config.json", b"{}").expect("CLIP");
    let found = processor.process(&narrow).expect_err("224 × 89,600,000").to_string();
    assert!(found.contains("224 × 89600000 pixels"), "{found}");
    assert!(matches!(Picture::new(0, 3, Vec::new()), Err(PictureError::NoPixels { .. })));
    assert!(matches!(Picture::new(2, 2, vec![0; 11]), Err(PictureError::Count { found: 11, .. })));
}

/// A JPEG with one more segment at its beginning.
fn with_segment(jpeg: &[u8], data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2).expect("a short segment").to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, data, &jpeg[2..]].concat()
}

/// EXIF data with one entry: the orientation, with a type and a count.
fn exif(kind: u16, count: u32, value: u16) -> Vec<u8> {
    let mut data = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12".to_vec();
    data.extend(kind.to_be_bytes());
    data.extend(count.to_be_bytes());
    let value = if [4, 9].contains(&kind) { u32::from(value) } else { u32::from(value) << 16 };
    data.extend(value.to_be_bytes());
    data.extend([0; 4]);
    data
}

/// As Pillow's `exif_transpose` finds it: any integer alone, or else XMP.
#[test]
fn orientations_are_found_in_exif_and_in_xmp() {
    let plain = bytes("full.jpg");
    let read = |bytes: &[u8]| decode(bytes).expect("a picture");
    let xmp = |text: &str| [b"http://ns.adobe.com/xap/1.0/\0", text.as_bytes()].concat();
    for value in 1..=9_u16 {
        let expected = read(&with_segment(&plain, &exif(3, 1, value)));
        assert_eq!(expected == read(&plain), value == 1 || value == 9, "{value}");
        for kind in [4, 8, 9] {
            assert_eq!(read(&with_segment(&plain, &exif(kind, 1, value))), expected, "{value} of type {kind}");
        }
        for (kind, count) in [(1, 1), (2, 1), (3, 2)] {
            assert_eq!(read(&with_segment(&plain, &exif(kind, count, value))), read(&plain), "{kind} {count}");
        }
        for text in
            [format!("<x tiff:Orientation=\"{value}\"/>"), format!("<tiff:Orientation>{value}</tiff:Orientation>")]
        {
            let turned = with_segment(&plain, &xmp(&text));
            assert_eq!(read(&turned), expected, "{text}");
            // What EXIF data say comes first.
            assert_eq!(read(&with_segment(&turned, &exif(3, 1, 1))), read(&plain), "{text}");
        }
    }
    let (text, png) = ("<x tiff:Orientation=\"6\"/>", bytes("rgba-16.png"));
    let chunk = [b"iTXtXML:com.adobe.xmp\0\0\0\0\0", text.as_bytes()].concat();
    let length = u32::try_from(chunk.len() - 4).expect("short").to_be_bytes();
    let turned = [&png[..33], &length, &chunk, &crc(&chunk).to_be_bytes(), &png[33..]].concat();
    let (upright, turned) = (read(&png), read(&turned));
    assert_eq!((turned.width(), turned.height()), (upright.height(), upright.width()));
    assert_ne!(turned, upright);
    // Damaged data turn nothing and stop nothing.
    for cut in 0..exif(3, 1, 6).len() {
        read(&with_segment(&plain, &exif(3, 1, 6)[..cut]));
    }
    assert_eq!(read(&with_segment(&plain, &xmp("tiff:Orientation tiff:Orientation="))), read(&plain));
}

#[test]
fn sides_and_tiles_have_limits() {
    let error = decode(&declared(1, 80_000_000)).expect_err("a side").to_string();
    assert!(error.contains("1 × 80000000 pixels: no side may have more than 65535"), "{error}");
    assert!(matches!(decode(&declared(65_536, 1)), Err(PictureError::Side { .. })));
    let tall = Picture::new(1, 60_000, vec![7; 180_000]).expect("a picture");
    let exact =
        ImageProcessor { size: Some(TargetSize::Exact { height: 2_000, width: 2_000 }), ..ImageProcessor::default() };
    assert!(matches!(exact.process(&tall), Err(PictureError::Enlarged { width: 2_000, height: 60_000, .. })));
    let settings = json!({
        "image_processor_type": "SmolVLMImageProcessor", "size": { "longest_edge": 2048 },
        "max_image_size": { "longest_edge": 1 }
    });
    let found = load("preprocessor_config.json", settings.to_string().as_bytes()).expect("valid settings");
    let square = Picture::new(40, 40, vec![7; 4_800]).expect("a picture");
    assert!(matches!(found.process(&square), Err(PictureError::Tiles { limit: 1024, .. })));
}

#[test]
fn written_pngs_are_read_again() {
    let source = picture("source.png");
    assert_eq!(decode(&source.to_png().expect("a small picture")), Ok(source));
}
