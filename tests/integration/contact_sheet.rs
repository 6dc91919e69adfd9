//! Contact sheets.

use hyperinf::models::{Picture, PictureLimits};
use hyperinf_figures::{ContactSheet, PictureList, PictureLists, SheetQuery, Thumbnail};
use hyperinf_figures::{draw_contact_sheet, draw_picture_lists};

use crate::pictures::picture;

fn thumbnail<'a>(picture: &'a Picture, caption: &'a str, score: Option<f64>) -> Thumbnail<'a> {
    Thumbnail { width: picture.width(), height: picture.height(), pixels: picture.pixels(), caption, score }
}

#[test]
fn a_sheet_shows_every_picture() {
    let source = picture("source.png");
    let plain = |colour: [u8; 3], width: usize, height: usize| {
        Picture::new(width, height, colour.repeat(width * height)).expect("a picture")
    };
    let (red, green, blue) = (plain([250, 0, 0], 32, 32), plain([0, 200, 0], 300, 200), plain([0, 0, 240], 1, 1));
    let long = "a caption that is much longer than what fits into two lines of a cell of this sheet, indeed";
    let of = |query: &'static str, helpful: usize| SheetQuery {
        query: thumbnail(&source, query, None),
        helpful: (0..helpful).map(|place| thumbnail(&red, long, Some(0.5 / (place + 1) as f64))).collect(),
        harmful: vec![
            thumbnail(&green, "Unbrechbareswort".repeat(4).leak(), Some(-3e-7)),
            thumbnail(&blue, "", Some(0.0)),
        ],
    };
    let queries = [of("a query", 5), of("another", 0)];
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("sheet.png");
    draw_contact_sheet(&path, &ContactSheet { title: "A sheet", queries: &queries }).expect("drawn");
    let bytes = std::fs::read(&path).expect("a file");
    let sheet = Picture::decode(&bytes, &PictureLimits::default()).expect("a PNG");
    let count = |colour: [u8; 3]| sheet.pixels().chunks_exact(3).filter(|pixel| **pixel == colour).count();
    // 32 × 4 = 128 pixels; 300 × 200 in 128 × 85; a single pixel enlarged.
    assert_eq!(count([250, 0, 0]), 5 * 128 * 128);
    assert_eq!(count([0, 200, 0]), 2 * 128 * 85);
    assert_eq!(count([0, 0, 240]), 2 * 128 * 128);
}

#[test]
fn lists_show_every_picture_in_lines_of_eight() {
    let red = Picture::new(64, 64, [250, 0, 0].repeat(64 * 64)).expect("a picture");
    let of = |heading: &'static str, count: usize| PictureList {
        heading,
        pictures: (0..count).map(|place| thumbnail(&red, "a caption", Some(3.0 - place as f64))).collect(),
    };
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let path = folder.path().join("lists.png");
    for (counts, lines) in [([19, 3], 3 + 1), ([8, 1], 1 + 1), ([1, 0], 1)] {
        let lists = [of("the first", counts[0]), of("the last", counts[1])];
        draw_picture_lists(&path, &PictureLists { title: "Lists", lists: &lists }).expect("drawn");
        let sheet = Picture::decode(&std::fs::read(&path).expect("a file"), &PictureLimits::default()).expect("a PNG");
        let pixels: Vec<&[u8]> = sheet.pixels().chunks_exact(3).collect();
        let shown = pixels.iter().filter(|pixel| ***pixel == [250, 0, 0]).count();
        assert_eq!(shown, counts.iter().sum::<usize>() * 128 * 128, "{counts:?}");
        let red_lines = pixels.chunks(sheet.width()).filter(|line| line.contains(&&[250, 0, 0][..])).count();
        assert_eq!(red_lines, lines * 128, "{counts:?}");
    }
}
