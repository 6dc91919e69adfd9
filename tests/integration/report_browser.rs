//! Pages of results in headless Chromium. Skipped, and said so, where none is installed; no test needs the network.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hyperinf_report::{Column, Query, Report, Rows, Values};

use crate::report::{HOSTILE, hostile};

/// The browser's usual names.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];
/// A browser that hangs is ended after this.
const PATIENCE: Duration = Duration::from_secs(240);

/// The first browser that runs.
fn browser() -> Option<&'static str> {
    let runs = |name: &&str| {
        let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    let found = NAMES.into_iter().find(runs);
    if found.is_none() {
        eprintln!("skipped: no Chromium ({}) is installed, so no page was opened", NAMES.join(", "));
    }
    found
}

/// The document of a page after its script has run, at an address with this fragment.
fn document(browser: &str, page: &str, fragment: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("page.html"), page).expect("it can be written");
    // A pipe that nobody empties would stop the browser.
    let out = File::create(path("document.html")).expect("it can be written");
    let mut run = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1200,900", "--virtual-time-budget=60000"])
        .arg(format!("--user-data-dir={}", path("profile").display()))
        .args(["--dump-dom".to_owned(), format!("file://{}#{fragment}", path("page.html").display())])
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .expect("it ran before");
    let began = Instant::now();
    while run.try_wait().expect("it is a child").is_none() {
        if began.elapsed() > PATIENCE {
            let _ = run.kill();
            panic!("the browser did not end");
        }
        sleep(Duration::from_millis(50));
    }
    read(&path("document.html"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the document is UTF-8")
}

/// The tag that begins the document, which says how its script fared.
fn html_tag(document: &str) -> &str {
    let start = document.find("<html").expect("a document");
    &document[start..start + document[start..].find('>').expect("its end")]
}

/// What stands between the tags of the element with an id.
fn element<'a>(document: &'a str, id: &str) -> &'a str {
    let rest = document.split_once(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no element {id}")).1;
    let rest = rest.split_once('>').expect("the tag ends").1;
    rest.split_once("</").map_or(rest, |(text, _)| text)
}

/// The ids of the rows in view.
fn rows_in_view(document: &str) -> Vec<usize> {
    let body = document.split_once("id=\"grid-body\"").expect("a table").1.split_once("</section>").expect("its end").0;
    let cell = |row: &str| row.split_once("class=\"cell\">").and_then(|(_, rest)| rest.split_once('<')?.0.parse().ok());
    body.split("role=\"row\"").skip(1).filter_map(cell).collect()
}

fn check_ready(document: &str) {
    let tag = html_tag(document);
    assert!(tag.contains("data-ready=\"yes\"") && !tag.contains("data-failed"), "{tag}: {}", element(document, "wait"));
}

/// Rows whose texts and losses are known; the score of row `i` is `i` less half their number.
fn numbered(n: usize) -> Report {
    let scores: Vec<f32> = (0..n).map(|row| row as f32 - n as f32 / 2.0).collect();
    let text = |row: usize| if row == n / 3 { "a needle in the hay".to_owned() } else { format!("hay number {row}") };
    let losses = (0..n).map(|row| ((row * 7919) % n) as f32).collect();
    Report {
        title: "Numbered".into(),
        rows: Rows {
            ids: (0..n).map(|row| row.to_string()).collect(),
            texts: (0..n).map(text).collect(),
            columns: vec![Column { name: "training loss".into(), values: Values::Numbers(losses) }],
            ..Rows::default()
        },
        queries: vec![Query { text: "which?".into(), scores, ..Query::default() }],
        ..Report::default()
    }
}

#[test]
fn a_page_of_hostile_texts_opens_and_shows_them_as_texts() {
    let Some(browser) = browser() else { return };
    let page = hostile().render();
    let found = document(browser, &page, "query=1&theme=dark&open=1");
    check_ready(&found);
    assert!(html_tag(&found).contains("data-theme=\"dark\""), "{}", html_tag(&found));
    assert!(!found.contains("<title>owned"), "a text was run");
    assert!(!found.contains("<img src=\"x\""), "a text became markup");
    assert_eq!(found.matches("<script").count(), page.matches("<script").count(), "no script was added");
    let asked = found.split_once("id=\"asked\"").expect("a query").1;
    assert!(
        asked.starts_with(" aria-live=\"polite\"><div class=\"words\" dir=\"auto\">&lt;/script&gt;&lt;script&gt;"),
        "{}",
        &asked[..200]
    );
    assert!(found.contains("<span class=\"ctl\">U+202E</span>") && found.contains("<span class=\"ctl\">U+0000</span>"));
    assert_eq!(element(&found, "count"), format!("{} rows", HOSTILE.len()));
    assert!(found.contains("<dialog id=\"row\" aria-labelledby=\"row-title\" open=\"\">"), "a row is open");
}

#[test]
fn the_table_is_searched_and_sorted() {
    let Some(browser) = browser() else { return };
    let page = numbered(1_000).render();
    let found = document(browser, &page, "search=NEEDLE");
    check_ready(&found);
    assert_eq!((element(&found, "count"), rows_in_view(&found)), ("1 of 1,000 rows", vec![333]));
    assert!(found.contains("<mark>needle</mark>"), "what was found is marked");
    let found = document(browser, &page, "sort=training+loss+desc");
    check_ready(&found);
    let expected: Vec<usize> =
        (990..1_000).rev().map(|loss| (0..1_000).find(|row| row * 7919 % 1_000 == loss).expect("a row")).collect();
    assert_eq!(rows_in_view(&found)[..10], expected);
    let head = found.split_once("data-key=\"training loss\"").expect("a column").1;
    assert!(head.split_once('>').expect("its end").0.contains("aria-sort=\"descending\""), "{}", &head[..80]);
    let found = document(browser, &page, "only=harms&sort=id+asc");
    assert_eq!(element(&found, "count"), "500 of 1,000 rows");
}

#[test]
fn of_many_rows_only_those_in_view_are_in_the_document() {
    let Some(browser) = browser() else { return };
    let n = 100_000;
    let found = document(browser, &numbered(n).render(), "sort=id+asc&row=50000");
    check_ready(&found);
    assert_eq!(element(&found, "count"), "100,000 rows");
    let seen = rows_in_view(&found);
    assert!(seen.len() < 60 && seen.contains(&50_000), "{} rows from {:?}", seen.len(), seen.first());
    assert!(found.contains("aria-rowcount=\"100001\"") && found.contains("aria-rowindex=\"50002\""));
}

#[test]
fn the_policy_stops_what_is_put_into_a_page() {
    let Some(browser) = browser() else { return };
    let added = "<script>document.title = 'owned'</script><img src=\"http://localhost/x.png\" alt=\"\"></body>";
    let page = hostile().render().replace("</body>", added);
    let found = document(browser, &page, "");
    assert!(!found.contains("<title>owned"), "a script that is not the page's was run");
    assert!(html_tag(&found).contains("data-failed=\""), "{}", html_tag(&found));
}
