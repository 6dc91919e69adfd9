//! The pictures: SVG files of four sets, rendered.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hyperinf::burn::tensor::{Device, Tensor, TensorData};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};
use serde::Deserialize;

use super::Row;
use crate::Failure;

/// The side of a picture in pixels.
pub const SIDE: usize = 32;

/// The folders of the sets and the word for their style: first those of the base model, then those it never sees.
pub const STYLES: [(&str, &str); 7] = [
    ("iconify-json-noto", "shaded"),
    ("iconify-json-fluent-emoji-flat", "flat"),
    ("iconify-json-fluent-emoji-high-contrast", "line art"),
    ("iconify-json-noto-v1", "blob"),
    ("iconify-json-twemoji", "simple"),
    ("iconify-json-emojione", "glossy"),
    ("iconify-json-emojione-monotone", "stencil"),
];
/// The number of styles that the base model is trained on.
pub const BASE_STYLES: usize = 4;
/// The folder of the names.
const NAMES: &str = "emojibase-data";
/// Animals, food, travel, activities and objects: no people, flags and symbols.
const GROUPS: std::ops::RangeInclusive<u32> = 3..=7;

/// A subject with its pictures.
pub struct Emoji {
    /// Its English name.
    pub name: String,
    /// The picture in each style, `[3, SIDE, SIDE]` in `[−1, 1]`, if the set has it.
    pub pictures: [Option<Vec<f32>>; STYLES.len()],
}

#[derive(Deserialize)]
struct Name {
    label: String,
    group: Option<u32>,
}

#[derive(Deserialize)]
struct Set {
    icons: BTreeMap<String, Icon>,
    #[serde(default)]
    aliases: BTreeMap<String, Alias>,
    width: Option<f32>,
    height: Option<f32>,
}

#[derive(Deserialize)]
struct Icon {
    body: String,
    width: Option<f32>,
    height: Option<f32>,
}

#[derive(Deserialize)]
struct Alias {
    parent: String,
    #[serde(default, rename = "hFlip")]
    mirrored: bool,
}

/// The subjects that are in two of the base model's sets, in the order of Unicode.
pub fn read(folder: &Path) -> Result<Vec<Emoji>, Failure> {
    let names: Vec<Name> = json(&folder.join(NAMES).join("en/data.json"))?;
    let sets = STYLES.map(|(name, _)| json::<Set>(&folder.join(name).join("icons.json")));
    let sets = sets.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut found = Vec::new();
    for Name { label, group } in names {
        if !group.is_some_and(|group| GROUPS.contains(&group)) {
            continue;
        }
        let mut pictures = [const { None }; STYLES.len()];
        for (picture, set) in pictures.iter_mut().zip(&sets) {
            *picture = set.picture(&slug(&label))?;
        }
        if pictures[..BASE_STYLES].iter().flatten().count() >= 2 {
            found.push(Emoji { name: label, pictures });
        }
    }
    Ok(found)
}

/// Every subject and style of the base model with a picture.
pub fn rows(emoji: &[Emoji]) -> Vec<Row> {
    let styles = |(subject, emoji): (usize, &Emoji)| {
        let has = emoji.pictures[..BASE_STYLES].iter().map(Option::is_some).enumerate().filter(|(_, has)| *has);
        has.map(|(style, _)| (subject, style)).collect::<Vec<_>>()
    };
    emoji.iter().enumerate().flat_map(styles).collect()
}

/// The pictures of rows, `[n, 3, SIDE, SIDE]`.
pub fn tensor(rows: &[Row], emoji: &[Emoji], device: &Device) -> Tensor<4> {
    let picture = |&(subject, style): &Row| emoji[subject].pictures[style].iter().flatten().copied();
    let values: Vec<f32> = rows.iter().flat_map(picture).collect();
    Tensor::from_data(TensorData::new(values, [rows.len(), 3, SIDE, SIDE]), device)
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, Failure> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()).into())
}

/// The name in the sets: lower case, hyphens, no apostrophes or accents.
fn slug(label: &str) -> String {
    let plain = label.to_lowercase().replace(['’', '\''], "").replace('ñ', "n").replace(['é', 'ê'], "e");
    let words = plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

impl Set {
    fn picture(&self, name: &str) -> Result<Option<Vec<f32>>, Failure> {
        let alias = self.aliases.get(name);
        let (name, mirrored) = alias.map_or((name, false), |alias| (alias.parent.as_str(), alias.mirrored));
        let Some(icon) = self.icons.get(name) else { return Ok(None) };
        let width = icon.width.or(self.width).unwrap_or(16.0);
        let height = icon.height.or(self.height).unwrap_or(16.0);
        let body = icon.body.replace("currentColor", "#000");
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{body}</svg>"#
        );
        let tree = Tree::from_str(&svg, &Options::default()).map_err(|e| format!("{name}: {e}"))?;
        let mut pixels = Pixmap::new(SIDE as u32, SIDE as u32).ok_or("a picture of no size")?;
        pixels.fill(Color::WHITE);
        let scale = SIDE as f32 / width.max(height);
        let at = Transform::from_scale(scale, scale)
            .post_translate((SIDE as f32 - scale * width) / 2.0, (SIDE as f32 - scale * height) / 2.0);
        let at = if mirrored { at.post_scale(-1.0, 1.0).post_translate(SIDE as f32, 0.0) } else { at };
        resvg::render(&tree, at, &mut pixels.as_mut());
        let pixels = pixels.pixels();
        let channel =
            |index: usize| pixels.iter().map(move |p| f32::from([p.red(), p.green(), p.blue()][index]) / 127.5 - 1.0);
        Ok(Some((0..3).flat_map(channel).collect()))
    }
}
