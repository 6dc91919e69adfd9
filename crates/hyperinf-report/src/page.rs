use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use crate::escape::{cut, escape};
use crate::pack::{Blocks, base64, source_hash};
use crate::report::{BlockFact, Fact, Heat, Query, Report, Values};

const TEMPLATE: &str = include_str!("../assets/page.html");
const STYLE: &str = concat!(include_str!("../assets/uplot.css"), "\n", include_str!("../assets/page.css"));
const SCRIPT: &str = concat!(
    include_str!("../assets/uplot.js"),
    "\n(() => {\n\"use strict\";\n",
    include_str!("../assets/data.js"),
    include_str!("../assets/charts.js"),
    include_str!("../assets/table.js"),
    include_str!("../assets/main.js"),
    "})();\n"
);
const LICENCE: &str = include_str!("../assets/uplot-licence.txt");
const GENERATOR: &str = concat!("hyperinf ", env!("CARGO_PKG_VERSION"));

/// What the script reads first.
#[derive(Serialize)]
struct Page<'a> {
    count: usize,
    /// `null` where rows are numbered from 0.
    ids: Option<&'a [String]>,
    columns: Vec<Value>,
    queries: Vec<Value>,
    /// The characters of texts that were cut, by place.
    lengths: BTreeMap<usize, usize>,
    detection: &'a [crate::DetectionCurve],
    dampings: &'a [crate::DampingLines],
    pictures: Option<&'static str>,
    heat: Option<&'static str>,
}

/// The page of a report.
pub(crate) fn render(report: &Report) -> String {
    let Report { title, subtitle, figures, sign, facts, rows, queries, .. } = report;
    let count = rows.ids.len();
    assert!(!queries.is_empty(), "a report has a query");
    assert_eq!(rows.texts.len(), count, "texts of {count} rows");
    for column in &rows.columns {
        assert_eq!(column.values.len(), count, "values of {count} rows in the column {}", column.name);
    }
    for query in queries {
        assert_eq!(query.scores.len(), count, "scores of {count} rows");
    }
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        source_hash(SCRIPT),
        source_hash(STYLE)
    );
    let sections = BTreeMap::from([
        ("policy", policy),
        ("generator", GENERATOR.to_owned()),
        ("results", report.results.as_ref().map(|hash| format!("{RESULTS}{}\">\n", escape(hash))).unwrap_or_default()),
        ("style", STYLE.to_owned()),
        ("script", SCRIPT.to_owned()),
        ("licence", escape(LICENCE)),
        ("title", escape(title)),
        ("subtitle", escape(subtitle)),
        ("count", count.to_string()),
        ("sign", escape(sign)),
        ("several", if queries.len() > 1 { "" } else { " hidden" }.to_owned()),
        ("cards", figures.iter().map(card).collect()),
        ("notes", notes(&report.notes)),
        ("detection", detection(report)),
        ("dampings", dampings(report)),
        ("blocks", blocks(&report.blocks)),
        ("facts", facts.iter().map(fact).collect()),
        ("data", data(report)),
    ]);
    // One pass, so that nothing that is put in is a place for more.
    let mut page = String::with_capacity(sections.values().map(String::len).sum::<usize>() + TEMPLATE.len());
    for (place, part) in TEMPLATE.split("{{").enumerate() {
        match part.split_once("}}").filter(|_| place > 0) {
            Some((name, rest)) => {
                page.push_str(&sections[name]);
                page.push_str(rest);
            }
            None => page.push_str(part),
        }
    }
    page
}

/// The beginning of the tag that names the results of a page.
pub(crate) const RESULTS: &str = "<meta name=\"hyperinf-results\" content=\"";

/// The data blocks.
fn data(report: &Report) -> String {
    let Report { rows, queries, limits, .. } = report;
    let count = rows.ids.len();
    let mut blocks = Blocks::default();
    let ends: Vec<[Vec<usize>; 2]> = queries.iter().map(|query| query.ends(limits.top)).collect();
    let shown: BTreeSet<usize> = ends.iter().flatten().flatten().copied().collect();
    let mut lengths = BTreeMap::new();
    let usual = limits.text_of(count);
    let texts: Vec<&str> = (0..count)
        .map(|row| {
            let limit = if shown.contains(&row) { limits.shown.max(usual) } else { usual };
            let (text, length) = cut(&rows.texts[row], limit);
            lengths.extend(length.map(|length| (row, length)));
            text
        })
        .collect();
    let of_query = |blocks: &mut Blocks, place: usize, query: &Query| {
        let id = format!("scores-{place}");
        let whole = place < limits.queries(count);
        if whole {
            blocks.floats(&id, &query.scores);
        }
        let list = |rows: &[usize]| -> Vec<Value> { rows.iter().map(|&row| json!([row, query.scores[row]])).collect() };
        let (text, length) = cut(&query.text, limits.shown);
        json!({
            "id": query.id, "text": text, "length": length, "label": query.label,
            "picture": query.picture.as_deref().map(base64), "scores": whole.then_some(id),
            "helpful": list(&ends[place][0]), "harmful": list(&ends[place][1]),
        })
    };
    let all = queries.iter().enumerate().map(|(place, query)| of_query(&mut blocks, place, query)).collect();
    let columns = rows.columns.iter().enumerate().map(|(place, column)| {
        let id = format!("column-{place}");
        let kind = match &column.values {
            Values::Numbers(values) => {
                blocks.floats(&id, values);
                "number"
            }
            Values::Texts(values) => {
                blocks.json(&id, values);
                "text"
            }
            Values::Flags(values) => {
                blocks.json(&id, values);
                "flag"
            }
        };
        json!({ "name": column.name, "kind": kind, "block": id })
    });
    let columns = columns.collect();
    let pictures: BTreeMap<usize, String> = rows.pictures.iter().map(|(&row, png)| (row, base64(png))).collect();
    if !pictures.is_empty() {
        blocks.json("pictures", &pictures);
    }
    let mut heat: BTreeMap<usize, BTreeMap<usize, Value>> = BTreeMap::new();
    for Heat { query, row, tokens, scores } in &report.heat {
        heat.entry(*query).or_default().insert(*row, json!([tokens, scores]));
    }
    if !heat.is_empty() {
        blocks.json("heat", &heat);
    }
    let numbered = rows.ids.iter().enumerate().all(|(row, id)| id.parse() == Ok(row));
    blocks.json("texts", &texts);
    let page = Page {
        count,
        ids: (!numbered).then_some(&rows.ids),
        columns,
        queries: all,
        lengths,
        detection: &report.detection,
        dampings: &report.dampings,
        pictures: (!pictures.is_empty()).then_some("pictures"),
        heat: (!heat.is_empty()).then_some("heat"),
    };
    blocks.json("page", &page);
    blocks.html
}

fn card(Fact { name, value }: &Fact) -> String {
    format!("<li><b dir=\"auto\">{}</b><span>{}</span></li>\n", escape(value), escape(name))
}

fn fact(Fact { name, value }: &Fact) -> String {
    format!("<dt>{}</dt><dd dir=\"auto\">{}</dd>\n", escape(name), escape(value))
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items: String = notes.iter().map(|note| format!("<li dir=\"auto\">{}</li>\n", escape(note))).collect();
    format!(
        "<section class=\"notes\" aria-labelledby=\"notes\"><h2 id=\"notes\">Read this first</h2><ul>{items}</ul></section>"
    )
}

fn chart(id: &str, title: &str, about: &str, label: &str, table: &str) -> String {
    let label = escape(label);
    format!(
        "<section aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2><p class=\"quiet\">{about}</p>\n\
         <ul class=\"keys\" id=\"{id}-keys\"></ul>\n<div class=\"chart\" id=\"{id}\" role=\"img\" aria-label=\"{label}\"></div>\n\
         <details><summary>The numbers</summary><div class=\"wide\"><table>{table}</table></div></details></section>"
    )
}

fn heading(names: &[&str]) -> String {
    let cells: String =
        names.iter().map(|name| format!("<th scope=\"col\" class=\"n\">{}</th>", escape(name))).collect();
    format!("<tr>{cells}</tr>\n")
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

fn detection(report: &Report) -> String {
    let curves = &report.detection;
    if curves.is_empty() {
        return String::new();
    }
    let labels: Vec<String> = curves.iter().map(|curve| format!("{}: AUC {:.3}", curve.name, curve.auc)).collect();
    let names: Vec<&str> =
        ["rows looked at"].into_iter().chain(curves.iter().map(|curve| curve.name.as_str())).collect();
    let mut table = heading(&names);
    for percent in [1, 2, 5, 10, 20, 30, 50] {
        let cells: String =
            curves.iter().map(|curve| format!("<td class=\"n\">{:.1} %</td>", 100.0 * curve.points[percent])).collect();
        table.push_str(&format!("<tr><td class=\"n\">{percent} %</td>{cells}</tr>\n"));
    }
    let about = format!(
        "The share of the bad rows that is found when the most suspicious rows are looked at first. {}.",
        labels.join("; ")
    );
    chart("found", "Rows that are known to be bad", &escape(&about), &labels.join("; "), &table)
}

fn dampings(report: &Report) -> String {
    let variants = &report.dampings;
    if variants.is_empty() {
        return String::new();
    }
    let mut table = String::new();
    for variant in variants {
        let names: Vec<&str> =
            ["damping"].into_iter().chain(variant.lines.iter().map(|(name, _)| name.as_str())).collect();
        if !variant.name.is_empty() {
            table.push_str(&format!("<tr><th colspan=\"{}\">{}</th></tr>", names.len(), escape(&variant.name)));
        }
        table.push_str(&heading(&names));
        for (place, damping) in variant.damping.iter().enumerate() {
            let cells: String = variant
                .lines
                .iter()
                .map(|(_, values)| format!("<td class=\"n\">{}</td>", number(values[place], 3)))
                .collect();
            table.push_str(&format!("<tr><td class=\"n\">{damping}</td>{cells}</tr>\n"));
        }
    }
    let about = "Rank correlation of the scores with those at the next larger damping and with the plain dot product. A \
                 ranking that is stable need not be right.";
    chart("stable", "Stability over the damping", about, about, &table)
}

/// Rem of the longest bar of a share.
const BAR: f64 = 8.0;

fn blocks(blocks: &[BlockFact]) -> String {
    if blocks.is_empty() {
        return String::new();
    }
    let shares = blocks.iter().any(|block| block.share.is_some());
    let largest = blocks.iter().filter_map(|block| block.share).fold(f64::MIN_POSITIVE, f64::max);
    let mut table = String::from("<tr><th scope=\"col\">block</th><th scope=\"col\" class=\"n\">shape</th>");
    if shares {
        table.push_str("<th scope=\"col\">share of the scores</th>");
    }
    let inverted = blocks.iter().any(|block| block.residual.is_some());
    if inverted {
        table.push_str("<th scope=\"col\" class=\"n\">λ</th><th scope=\"col\" class=\"n\">residual</th><th scope=\"col\">inverted by</th>");
    }
    table.push_str("</tr>\n");
    let small = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2e}"));
    for BlockFact { name, shape: [rows, cols], lambda, residual, converged, share, plan } in blocks {
        let warning = if *converged { "" } else { " <b class=\"fail\">tolerance missed</b>" };
        table.push_str(&format!("<tr><td class=\"name\">{}</td><td class=\"n\">{rows} × {cols}</td>", escape(name)));
        if shares {
            let width = share.map_or(0.0, |share| BAR * share / largest);
            let text = share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", 100.0 * share));
            table.push_str(&format!("<td><i class=\"share\" data-share=\"{width:.2}\"></i>{text}</td>"));
        }
        if inverted {
            let (lambda, residual, plan) = (small(*lambda), small(*residual), escape(plan));
            table.push_str(&format!(
                "<td class=\"n\">{lambda}</td><td class=\"n\">{residual}{warning}</td><td>{plan}</td>"
            ));
        }
        table.push_str("</tr>\n");
    }
    format!(
        "<section aria-labelledby=\"blocks\"><h2 id=\"blocks\">Blocks</h2><details open><summary>{} blocks of \
         parameters</summary><div class=\"wide\"><table>{table}</table></div></details></section>",
        blocks.len()
    )
}
