//! Pages of results: what is in them, and that no text gets out of its place.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::ZlibDecoder;
use hyperinf::eval::{auc, detection_rate};
use hyperinf::scoring::Scores;
use hyperinf::store::{IdColumn, Ids, KeptScores, SCORE_FORMATS, ScoreFile, ScoreRows, StoredScores, Unit};
use hyperinf_report::{
    BlockFact, Column, DampingLines, DetectionCurve, Fact, Heat, Limits, Query, Report, Rows, Values,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Texts that would leave their place if they were written as they are.
pub const HOSTILE: [&str; 10] = [
    "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">",
    "</script><script>document.title = 'owned'</script>",
    "</style><!-- ]]> --> <!doctype html>",
    "nul \0 bell \u{7} escape \u{1b}[31m",
    "line \u{2028} paragraph \u{2029} mark \u{feff}",
    "שלום عالم \u{202e}detrevni\u{202c} \u{2066}isolated\u{2069}",
    "👩‍👩‍👧‍👦 🏳️‍🌈 İstanbul ẞ ﬃ",
    "{{script}} {{data}} ${1+1} `\\`",
    "\"quotes\" & 'apostrophes' &lt;escaped&gt;",
    "",
];

/// A page of everything, with texts that are hostile wherever a text can be.
pub fn hostile() -> Report {
    let n = HOSTILE.len();
    let scores = |sign: f32| (0..n).map(|row| sign * (row as f32 - 4.5)).collect::<Vec<f32>>();
    let texts = || HOSTILE.map(str::to_owned).to_vec();
    let bad: Vec<bool> = (0..n).map(|row| row < 3).collect();
    let fact = |at: usize| Fact::new(HOSTILE[at], HOSTILE[at + 1]);
    let query = |at: usize, sign| Query {
        id: Some(HOSTILE[at].into()),
        text: HOSTILE[at].into(),
        label: Some(HOSTILE[at + 1].into()),
        scores: scores(sign),
        ..Query::default()
    };
    Report {
        results: None,
        title: HOSTILE[0].into(),
        subtitle: HOSTILE[1].into(),
        notes: texts(),
        figures: vec![fact(0), fact(2)],
        sign: HOSTILE[2].into(),
        rows: Rows {
            ids: (0..n).map(|row| format!("{}{row}", HOSTILE[1])).collect(),
            texts: texts(),
            columns: vec![
                Column { name: "label".into(), values: Values::Texts(texts()) },
                Column { name: "training loss".into(), values: Values::Numbers(scores(1.0)) },
                Column { name: "known bad".into(), values: Values::Flags(bad.clone()) },
            ],
            ..Rows::default()
        },
        queries: vec![query(0, 1.0), query(1, -1.0)],
        detection: vec![
            DetectionCurve::new("lowest scores", &(0..n).map(|r| -(r as f64)).collect::<Vec<_>>(), &bad)
                .expect("both kinds"),
        ],
        dampings: vec![DampingLines {
            name: HOSTILE[0].into(),
            damping: vec![0.01, 0.1, 1.0],
            lines: vec![(HOSTILE[1].into(), vec![Some(0.5), Some(0.9), None])],
        }],
        blocks: vec![BlockFact {
            name: HOSTILE[1].into(),
            plan: HOSTILE[0].into(),
            share: Some(1.0),
            ..BlockFact::default()
        }],
        heat: vec![Heat { query: 0, row: 9, tokens: texts(), scores: scores(1.0) }],
        facts: (0..n - 1).map(fact).collect(),
        limits: Limits::default(),
    }
}

/// The data blocks of a page, unpacked.
fn blocks(page: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in page.split("<script type=\"application/octet-stream\" id=\"").skip(1) {
        let (id, rest) = part.split_once("\">").expect("an id");
        let packed = BASE64_STANDARD.decode(rest.split_once("</script>").expect("an end").0).expect("base64");
        let mut bytes = Vec::new();
        ZlibDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("zlib");
        assert!(found.insert(id.to_owned(), bytes).is_none(), "two blocks {id}");
    }
    found
}

fn json_of(blocks: &BTreeMap<String, Vec<u8>>, id: &str) -> Value {
    serde_json::from_slice(&blocks[id]).unwrap_or_else(|e| panic!("{id}: {e}"))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The text between two marks.
fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    page.split_once(start).and_then(|(_, rest)| rest.split_once(end)).unwrap_or_else(|| panic!("{start}")).0
}

#[test]
fn a_page_allows_its_own_script_and_style_and_nothing_else() {
    let page = hostile().render();
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text.as_bytes())));
    let (style, script) = (between(&page, "<style>", "</style>"), between(&page, "\n<script>", "</script>"));
    let policy = between(&page, "http-equiv=\"Content-Security-Policy\" content=\"", "\"");
    for part in [
        "default-src 'none'".to_owned(),
        format!("script-src {};", hash(script)),
        format!("style-src {};", hash(style)),
        "img-src data:;".to_owned(),
        "base-uri 'none'".to_owned(),
        "form-action 'none'".to_owned(),
        "require-trusted-types-for 'script'".to_owned(),
    ] {
        assert!(policy.contains(&part), "{part} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    // The policy comes before anything that it is about.
    assert!(page.find("http-equiv") < page.find("<style>") && page.find("<style>") < page.find("<script"));
    // Comments that open a script's text would keep it from ending.
    assert!(!script.contains("<!--") && !style.contains('<'), "the assets have no markup");
    for loads in ["src=\"", "href=\"http", "url(", "@import", "fetch(", "XMLHttpRequest", "innerHTML", "eval("] {
        let place = page.find(loads).map(|at| &page[at..at + 40]);
        assert!(place.is_none(), "{loads}: {place:?}");
    }
}

#[test]
fn texts_stay_in_their_places() {
    let report = hostile();
    let page = report.render();
    let data = blocks(&page);
    let markup: String =
        page.split("<script").map(|part| part.split_once("</script>").map_or(part, |(_, rest)| rest)).collect();
    for bad in ["owned'</", "<img", "onerror=\"", "<!--", "\0", "\u{1b}", "\u{2028}", "\u{202e}", "\u{feff}"] {
        assert!(!markup.contains(bad), "{bad:?} in the markup");
    }
    assert!(markup.contains("&lt;/script&gt;&lt;script&gt;document.title = &#39;owned&#39;"));
    assert!(markup.contains("U+0000") && markup.contains("U+202E"), "control characters are spelled out");
    // Each element begins and ends as often.
    let count = |tag: &str| page.matches(tag).count();
    assert_eq!(count("<script"), data.len() + 1);
    assert_eq!(count("</script"), count("<script"));
    assert_eq!((count("<style"), count("</style"), count("</html>")), (1, 1, 1));

    let page = json_of(&data, "page");
    assert_eq!(json_of(&data, "texts"), json!(HOSTILE));
    assert_eq!(page["count"], HOSTILE.len());
    assert_eq!(page["ids"], json!(report.rows.ids));
    assert_eq!(page["queries"][1]["text"], HOSTILE[1]);
    assert_eq!(page["queries"][0]["helpful"][0], json!([9, 4.5]));
    assert_eq!(page["queries"][0]["harmful"].as_array().map(Vec::len), Some(5), "those below 0");
    assert_eq!(page["queries"][1]["harmful"][0], json!([9, -4.5]));
    assert_eq!(floats(&data["scores-1"]), report.queries[1].scores);
    assert_eq!(floats(&data["column-1"]), report.queries[0].scores);
    assert_eq!(json_of(&data, "heat")["0"]["9"][0], json!(HOSTILE));
    assert_eq!(report.render(), hostile().render(), "equal reports, equal pages");
}

#[test]
fn long_texts_and_many_scores_are_cut_and_said_so() {
    let n = 300;
    let text = |row: usize| "é".repeat(if row == 7 { 1 << 20 } else { row });
    let report = Report {
        rows: Rows {
            ids: (0..n).map(|row| row.to_string()).collect(),
            texts: (0..n).map(text).collect(),
            ..Rows::default()
        },
        queries: (0..3).map(|_| Query { scores: (0..n).map(|row| row as f32).collect(), ..Query::default() }).collect(),
        limits: Limits { top: 2, text: 100, shown: 250, scores: 700, pictures: 0 },
        ..Report::default()
    };
    let data = blocks(&report.render());
    let (page, texts) = (json_of(&data, "page"), json_of(&data, "texts"));
    let length = |row: usize| texts[row].as_str().expect("a text").chars().count();
    assert_eq!(
        [7, 99, 100, 101, 250, 299].map(length),
        [100, 99, 100, 100, 100, 250],
        "299 is at the end of a ranking"
    );
    let cut: Vec<usize> = (101..n).chain([7]).collect();
    assert_eq!(page["lengths"].as_object().map(Map::len), Some(cut.len()));
    assert_eq!((&page["lengths"]["7"], &page["lengths"]["299"]), (&json!(1 << 20), &json!(299)));
    assert_eq!(page["ids"], Value::Null, "rows are numbered");
    // 700 scores are those of two queries.
    assert!(data.contains_key("scores-1") && !data.contains_key("scores-2"));
    assert_eq!(page["queries"][2]["scores"], Value::Null);
    assert_eq!(page["queries"][2]["helpful"], json!([[299, 299.0], [298, 298.0]]));
    let small = Limits::default();
    assert_eq!([1, 20_000, 100_000, 10_000_000].map(|n| small.text_of(n)), [2_000, 2_000, 400, 100]);
}

#[test]
fn a_page_is_little_more_than_its_data() {
    let n = 20_000;
    let report = Report {
        rows: Rows {
            ids: (0..n).map(|row| row.to_string()).collect(),
            texts: (0..n).map(|row| format!("the text of row {row} says little")).collect(),
            ..Rows::default()
        },
        queries: vec![Query { scores: (0..n).map(|row| (row as f32).sin()).collect(), ..Query::default() }],
        ..Report::default()
    };
    let size = report.render().len();
    let empty = Report { queries: vec![Query::default()], ..Report::default() }.render().len();
    // Base64 of four bytes a score, and of texts that zlib makes small.
    assert!(empty < 100_000, "{empty} bytes without rows");
    assert!(size - empty < n * 20, "{size} bytes");
}

#[test]
fn a_detection_curve_is_the_detection_rate_at_every_percent() {
    let suspicion: Vec<f64> = (0..137).map(|row| f64::from((row * 37) % 11)).collect();
    let bad: Vec<bool> = (0..137).map(|row| row % 5 == 0).collect();
    let curve = DetectionCurve::new("ties", &suspicion, &bad).expect("both kinds");
    assert_eq!(curve.auc, auc(&suspicion, &bad).expect("both kinds"));
    assert_eq!(curve.points[0], 0.0);
    for percent in 1..=100 {
        let expected = detection_rate(&suspicion, &bad, f64::from(percent) / 100.0).expect("both kinds");
        let found = curve.points[percent as usize];
        assert!((found - expected).abs() < 1e-12, "{percent} %: {found} for {expected}");
    }
    assert!(DetectionCurve::new("none", &suspicion, &[false; 137]).is_err());
}

#[test]
fn stored_scores_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let scores = Scores { rows: vec![vec![0.5, -1.25e-9, 3.0e7], vec![-0.0, 2.0, 1.0]] };
    let named = Ids {
        queries: IdColumn::Names(vec!["a,\"b\"".into(), "é".into()]),
        train: IdColumn::Names(vec!["x".into(), "y".into(), "z".into()]),
        unit: Unit::Sample,
    };
    for format in &SCORE_FORMATS {
        for (ids, query, train) in [(&named, "é", "z"), (&Ids::numbered(2, 3), "1", "2")] {
            let path = folder.path().join(format!("scores.{}", format.ending));
            let file = ScoreFile::new(&path, &[]).expect("a format");
            file.write(&scores, None, ids, &Map::new()).expect("it can be written");
            let found = StoredScores::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e:?}"));
            let rows: Vec<Vec<f64>> =
                found.rows.iter().map(|row| row.iter().map(|&s| f64::from(s)).collect()).collect();
            let expected: Vec<Vec<f64>> =
                scores.rows.iter().map(|row| row.iter().map(|&s| f64::from(s as f32)).collect()).collect();
            assert_eq!(rows, expected, "{path:?}");
            assert_eq!((found.queries[1].as_str(), found.train[2].as_str()), (query, train), "{path:?}");
            assert_eq!(found.std, None);
        }
    }
}

#[test]
fn spilled_scores_are_written_as_those_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let row = |query: usize| (0..7).map(|i| ((query * 7 + i) as f64 * 0.37).sin() * 1e-3).collect::<Vec<f64>>();
    let scores = Scores { rows: (0..11).map(row).collect() };
    let spilled = |most: usize| {
        let mut kept = KeptScores::new([11, 7], most, folder.path()).expect("a file");
        for rows in scores.rows.chunks(3) {
            kept.push(Scores { rows: rows.to_vec() }).expect("it can be written");
        }
        kept
    };
    let (held, kept) = (spilled(77), spilled(76));
    assert_eq!((held.is_spilled(), kept.is_spilled()), (false, true));
    assert_eq!((kept.queries(), kept.samples()), (11, 7));
    assert_eq!(kept.rows(4..6).expect("it can be read").as_ref(), &scores.rows[4..6]);
    assert_eq!(kept.rows(0..11).expect("it can be read").as_ref(), scores.rows);
    let mut again = spilled(1);
    assert_eq!(again.rows(2..3).expect("it can be read").as_ref(), &scores.rows[2..3]);
    again.push(Scores { rows: scores.rows[..1].to_vec() }).expect("it can be written");
    assert_eq!(again.rows(10..12).expect("it can be read").as_ref(), [&scores.rows[10..], &scores.rows[..1]].concat());
    let names = || fs::read_dir(folder.path()).expect("it is there").count();
    assert_eq!(names(), 0, "the file has no name");
    for format in &SCORE_FORMATS {
        let bytes = |scores: &dyn ScoreRows| {
            let path = folder.path().join(format!("scores.{}", format.ending));
            let file = ScoreFile::new(&path, &[]).expect("a format");
            file.write(scores, None, &Ids::numbered(11, 7), &Map::new()).expect("it can be written");
            fs::read(&path).expect("it was written")
        };
        let expected = bytes(&scores);
        assert_eq!(bytes(&held), expected, "{}", format.ending);
        assert_eq!(bytes(&kept), expected, "{}", format.ending);
    }
}

/// The message of a file of scores that cannot be used.
fn check_refused(name: &str, content: &str, expected: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    fs::write(&path, content).expect("it can be written");
    let error = StoredScores::read(&path).expect_err(name);
    let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    assert!(cause.contains(expected), "{cause}");
}

#[test]
fn scores_that_were_changed_are_refused() {
    let head = "query_id,train_id,score,rank\n";
    let csv = |rows: &str, expected| check_refused("scores.csv", &format!("{head}{rows}"), expected);
    csv("0,a,1,1\n0,b,2,1\n1,b,1,1\n1,a,1,2\n", "pair 2 is of the sample `b`; expected `a`");
    csv("0,a,1,1\n0,b,2,1\n1,a,1,1\n", "the query `1` has 1 scores; the first one has 2");
    csv("0,a,1,1\n1,a,1,1\n1,b,1,1\n", "expected another query");
    csv("0,a,x,1\n", "pair 0 is NaN");
    csv("", "it has no scores");
    check_refused("scores.csv", "query_id,score\n0,1\n", "no column `train_id`");
    check_refused("scores.jsonl", "{\"query_id\":0}\n", "missing field");
    check_refused("scores.parquet", "PAR1 and no more", "Parquet");
    check_refused("scores.safetensors", "{}", "header");
    check_refused("scores.png", "", "must end in");
}
