//! Rows with images: columns, folders, LLaVA's conversations, subsets and errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyperinf::data::{Captioned, Content, Dataset, Illustrated, ImageSource, ReadOptions, rows_file};
use hyperinf::models::PictureLimits;
use hyperinf::scoring::Set;
use tempfile::TempDir;

use crate::pictures::{bytes, picture};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for temporary files")
}

/// A folder with images and a file of rows.
fn rows(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = folder();
    for (image, from) in [("a.png", "rgb.png"), ("b.jpg", "full.jpg"), ("c d.webp", "rgb.webp")] {
        fs::write(folder.path().join(image), bytes(from)).expect("written");
    }
    let path = folder.path().join(name);
    fs::write(&path, text).expect("written");
    (folder, path)
}

fn read<C: Content>(path: &Path) -> Result<Dataset<C>, String> {
    Dataset::read(Set::Train, path, &ReadOptions::default()).map_err(|error| error.to_string())
}

#[track_caller]
fn captioned(name: &str, text: &str, expected: &[(&str, &str)]) {
    let (folder, path) = rows(name, text);
    let data = read::<Captioned>(&path).expect(text);
    let file = |name: &str| ImageSource::File(folder.path().join(name));
    let found: Vec<_> = data.rows.iter().map(|row| (row.content.image.clone(), row.content.caption.clone())).collect();
    let expected: Vec<_> = expected.iter().map(|(image, caption)| (file(image), (*caption).to_owned())).collect();
    assert_eq!(found, expected);
    for row in &data.rows {
        row.content.image.picture(&PictureLimits::default()).expect("a fixture");
    }
}

#[test]
fn a_column_has_paths_next_to_the_file() {
    let expected = [("a.png", "red"), ("b.jpg", "")];
    captioned(
        "rows.jsonl",
        "{\"image\": \"a.png\", \"text\": \"red\"}\n{\"image\": \"b.jpg\", \"text\": \"\"}\n",
        &expected,
    );
    captioned("rows.csv", "image,text\na.png,red\nb.jpg,\n", &expected);
    captioned("rows.tsv", "text\tfile_name\nred\ta.png\n\tb.jpg\n", &expected);
    captioned("rows.json", r#"[{"image": ["a.png"], "caption": "red"}, {"image": "b.jpg", "caption": ""}]"#, &expected);
    captioned("metadata.jsonl", "{\"file_name\": \"c d.webp\", \"prompt\": \"x\"}\n", &[("c d.webp", "x")]);
    captioned(
        "rows.jsonl",
        "{\"image\": {\"bytes\": null, \"path\": \"a.png\"}, \"text\": \"t\"}\n",
        &[("a.png", "t")],
    );
}

#[test]
fn bytes_in_the_data_are_images() {
    let image = bytes("rgb.png");
    let check = |source: &ImageSource, name: Option<&str>| {
        let expected = ImageSource::Bytes { name: name.map(str::to_owned), bytes: Arc::from(&image[..]) };
        assert_eq!(*source, expected);
        assert_eq!(source.picture(&PictureLimits::default()).expect("a fixture"), picture("rgb.png"));
    };
    let text = base64(&image);
    let line = format!(
        "{{\"image\": {{\"bytes\": \"{text}\", \"path\": \"x.png\"}}, \"text\": \"t\"}}\n\
         {{\"image\": \"data:image/png;base64,{text}\", \"text\": \"t\"}}\n"
    );
    let (_folder, path) = rows("rows.jsonl", &line);
    let data = read::<Captioned>(&path).expect("two rows");
    check(&data.rows[0].content.image, Some("x.png"));
    check(&data.rows[1].content.image, Some("image/png"));
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |three: &[u8]| {
        let number = (0..3).fold(0_usize, |number, at| number << 8 | usize::from(*three.get(at).unwrap_or(&0)));
        let digit = |at: usize| match at <= three.len() {
            true => char::from(DIGITS[number >> (18 - 6 * at) & 63]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(three).collect()
}

#[test]
fn parquet_of_datasets_keeps_its_images_in_a_subset() {
    let fixture = hyperinf_tests::fixtures::path("images").join("rows.parquet");
    let data = read::<Captioned>(&fixture).expect("rows of `datasets`");
    let pictures = |data: &Dataset<Captioned>| -> Vec<_> {
        data.rows.iter().map(|row| row.content.image.picture(&PictureLimits::default()).expect("a fixture")).collect()
    };
    assert_eq!(pictures(&data), ["rgb.png", "grey.png", "rgba.png"].map(picture));
    assert_eq!(data.rows[2].content.caption, "clear");
    let folder = folder();
    let part = folder.path().join("part.parquet");
    let mut file = fs::File::create(&part).expect("a new file");
    data.subset([0, 2].into()).expect("unchanged").write(&mut file).expect("written");
    let part = read::<Captioned>(&part).expect("a subset");
    assert_eq!(pictures(&part), ["rgb.png", "rgba.png"].map(picture));
    let several = hyperinf_tests::fixtures::path("images").join("several.parquet");
    let several = read::<Illustrated>(&several).expect("lists of images");
    assert_eq!(several.rows.iter().map(|row| row.content.images.len()).collect::<Vec<_>>(), [2, 0, 1]);
    let found = Dataset::<hyperinf::data::Passage>::read(
        Set::Train,
        &fixture,
        &ReadOptions {
            columns: hyperinf::data::ColumnOptions { text: Some("image".into()), ..Default::default() },
            ..ReadOptions::default()
        },
    );
    assert!(found.expect_err("an image is no text").to_string().contains("column `image` has values of type"));
}

#[test]
fn a_folder_is_its_metadata_or_its_classes() {
    let (folder, path) = rows("metadata.csv", "file_name,text\na.png,red\n");
    let data = read::<Captioned>(folder.path()).expect("an image folder");
    assert_eq!(data.rows[0].content.image, ImageSource::File(folder.path().join("a.png")));
    assert_eq!(rows_file(folder.path()), path);

    let classes = self::folder();
    for (class, image) in [("frog", "z.png"), ("frog", "a.png"), ("a, b", "x.png")] {
        fs::create_dir_all(classes.path().join(class)).expect("created");
        fs::write(classes.path().join(class).join(image), bytes("rgb.png")).expect("written");
    }
    fs::write(classes.path().join("frog/notes.txt"), "none").expect("written");
    let options = ReadOptions {
        columns: hyperinf::data::ColumnOptions { text: Some("label".into()), ..Default::default() },
        ..ReadOptions::default()
    };
    let data = Dataset::<Captioned>::read(Set::Train, classes.path(), &options).expect("folders of classes");
    let captions: Vec<&str> = data.rows.iter().map(|row| row.content.caption.as_str()).collect();
    assert_eq!(captions, ["a, b", "frog", "frog"]);
    data.rows[0].content.image.picture(&PictureLimits::default()).expect("a fixture");

    let out = self::folder();
    let part = out.path().join("part.csv");
    let mut file = fs::File::create(&part).expect("a new file");
    data.subset([0, 2].into()).expect("unchanged").write(&mut file).expect("written");
    assert_eq!(fs::read_to_string(&part).expect("text"), "file_name,label\n\"a, b/x.png\",\"a, b\"\nfrog/z.png,frog\n");
    let elsewhere = ReadOptions { images: Some(classes.path().to_owned()), ..options };
    let part = Dataset::<Captioned>::read(Set::Train, &part, &elsewhere).expect("a subset");
    part.rows[1].content.image.picture(&PictureLimits::default()).expect("the images are where they were");

    fs::write(classes.path().join("frog/b.png"), bytes("rgb.png")).expect("written");
    assert!(data.subset([0].into()).expect_err("another image").to_string().contains("changed"));
    let empty = self::folder();
    assert!(read::<Captioned>(empty.path()).expect_err("no images").contains("`metadata.jsonl`"));
}

/// What a row of a conversation becomes: roles with their parts, where `<>` is an image; and the images' names.
fn told(row: &str) -> Result<String, String> {
    let (folder, path) = rows("rows.jsonl", &format!("{row}\n"));
    let data = read::<Illustrated>(&path)?;
    let content = &data.rows[0].content;
    let message = |message: &hyperinf::models::Message| {
        let Some(hyperinf::models::Json::Array(parts)) = message.get("content") else { panic!("{message:?}") };
        let part = |part: &hyperinf::models::Json| match part.get("text").and_then(|text| text.as_str()) {
            Some(text) => text.to_owned(),
            None => "<>".to_owned(),
        };
        format!("{}:{}", message.role(), parts.iter().map(part).collect::<Vec<_>>().join("|"))
    };
    let messages: Vec<String> = content.conversation.messages.iter().map(message).collect();
    let name = |image: &ImageSource| image.to_string().replace(&format!("{}/", folder.path().display()), "");
    let images: Vec<String> = content.images.iter().map(name).collect();
    Ok(format!("{} / {}", messages.join(" "), images.join(" ")))
}

#[test]
fn conversations_have_their_images_in_order() {
    let check = |row: &str, expected: &str| assert_eq!(told(row).as_deref(), Ok(expected), "{row}");
    check(
        r#"{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]}"#,
        "user:<>|What? assistant:red / a.png",
    );
    check(
        r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}"#,
        "user:Hi assistant:Hello / ",
    );
    check(
        r#"{"images": ["a.png", "b.jpg"], "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "or"}, {"type": "image", "index": null}]}, {"role": "assistant", "content": "b"}]}"#,
        "user:<>|or|<> assistant:b / a.png b.jpg",
    );
    check(
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "path": "a.png"}, {"type": "image_url", "image_url": {"url": "b.jpg"}}]}, {"role": "assistant", "content": "b"}]}"#,
        "user:What?|<>|<> assistant:b / a.png b.jpg",
    );
    // As TRL: without marks, the images come first.
    check(
        r#"{"images": ["a.png"], "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "What?"}, {"role": "assistant", "content": "b"}]}"#,
        "system:s user:<>|What? assistant:b / a.png",
    );
    check(r#"{"image": "a.png", "question": "What?", "answer": "red"}"#, "user:<>|What? assistant:red / a.png");
    check(r#"{"image": null, "prompt": "What?", "completion": "red"}"#, "user:What? assistant:red / ");
    check(
        r#"{"image": "a.png", "prompt": "Look at <image> here", "completion": "red"}"#,
        "user:Look at|<>|here assistant:red / a.png",
    );
}

#[test]
fn rows_that_cannot_be_used_are_named() {
    let check = |row: &str, expected: &str| {
        let found = told(row).expect_err(row);
        assert!(found.contains(expected), "{found}, not {expected}");
    };
    let llava = |image: &str, text: &str| {
        format!(
            r#"{{"image": {image}, "conversations": [{{"from": "human", "value": "{text}"}}, {{"from": "gpt", "value": "x"}}]}}"#
        )
    };
    check(
        &llava(r#"["a.png", "b.jpg"]"#, "<image> and?"),
        "has 1 marks of images (`<image>`, or parts of type `image`) and 2 images",
    );
    check(&llava("null", "<image> and?"), "has 1 marks of images (`<image>`, or parts of type `image`) and 0 images");
    check(&llava("5", "<image>"), "column `image` holds a number");
    check(&llava(r#""https://example.org/a.png""#, "<image>"), "it is on the net");
    check(&llava(r#"{"bytes": "!!", "path": null}"#, "<image>"), "its bytes are not base64");
    check(&llava(r#"{"path": null}"#, "<image>"), "an object with `bytes` or `path`");
    check(&llava(r#""{'bytes': b'', 'path': None}""#, "<image>"), "write Parquet");
    check(
        r#"{"messages": [{"role": "user", "content": [{"type": "video", "video": "v.mp4"}]}]}"#,
        "part 0 of `content` is of type `video`",
    );
    let (_folder, path) = rows("rows.jsonl", "{\"image\": [\"a.png\", \"b.jpg\"], \"text\": \"two\"}\n");
    assert!(read::<Captioned>(&path).expect_err("two").contains("it has 2 images, expected one in column `image`"));
    let (_folder, path) = rows("rows.jsonl", "{\"image\": null, \"text\": \"none\"}\n");
    assert!(read::<Captioned>(&path).expect_err("none").contains("it has 0 images, expected one in column `image`"));
}

#[test]
fn a_name_may_begin_as_a_list_does() {
    let (folder, path) = rows("rows.jsonl", "{\"image\": \"[fox].png\", \"text\": \"x\"}\n");
    let data = read::<Captioned>(&path).expect("a name");
    assert_eq!(data.rows[0].content.image, ImageSource::File(folder.path().join("[fox].png")));
}

#[test]
#[cfg(unix)]
fn a_folder_in_itself_is_an_error() {
    let folder = folder();
    fs::create_dir(folder.path().join("fox")).expect("a folder");
    fs::copy(hyperinf_tests::fixtures::path("images/files/palette.png"), folder.path().join("fox/a.png"))
        .expect("a copy");
    std::os::unix::fs::symlink("..", folder.path().join("fox/again")).expect("a link");
    let error = read::<Captioned>(folder.path()).expect_err("endless");
    assert!(error.contains("more than 16 folders deep"), "{error}");
}

#[test]
fn images_that_cannot_be_used_are_named() {
    let (folder, path) = rows(
        "rows.csv",
        "image,text\nno.png,missing\nlfs.png,pointer\nempty.png,empty\ntext.png,text\ncut.png,cut\n.,folder\na.png,good\n",
    );
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("written");
    write("lfs.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n");
    write("empty.png", b"");
    write("text.png", b"hello");
    write("cut.png", &bytes("rgb.png")[..100]);
    let data = read::<Captioned>(&path).expect("rows are read before images");
    let sample = |row: &hyperinf::data::Row<Captioned>| row.content.image.picture(&PictureLimits::default());
    let at_once = data.clone().convert_at_once(true, sample).expect("bad rows are skipped").0;
    let (good, pictures) = data.convert(true, sample).expect("bad rows are skipped");
    assert_eq!((&at_once.rows, &at_once.bad), (&good.rows, &good.bad));
    assert_eq!((good.rows.len(), pictures.len(), good.rows[0].row), (1, 1, 6));
    let found: Vec<String> = good.bad.iter().map(ToString::to_string).collect();
    let expected =
        ["cannot find|No such file", "Git LFS pointer", "it is empty", "it is no image", "cut off", "a folder, not"];
    for (found, expected) in found.iter().zip(expected) {
        assert!(expected.split('|').any(|text| found.contains(text)), "{found}, not {expected}");
    }
    assert!(found[0].starts_with("line 2 (row 0): image `"), "{}", found[0]);
}
