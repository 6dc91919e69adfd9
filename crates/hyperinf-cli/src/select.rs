//! `hyperinf select`: the training rows that help most.

use std::collections::BTreeSet;

use hyperinf::data::{Board, Duplicates, Influence, PerGroup, Ranked, Rows, Select, ShownRow};
use hyperinf::scoring::{Budget, Passed, Picks};
use hyperinf::store::stage_json;
use serde_json::{Map, Value, json};

use crate::args::{QueryModeArg, SelectArgs};
use crate::error::CliError;
use crate::figure::stage_picture_lists;
use crate::influence::{Each, Job, RowsSummary, Summary, details, with_ending_of};
use crate::progress::observer;
use crate::score::{Settings, head};

/// The first selected rows with images and those with the lowest scores, and their numbers.
const SHEET: &str = "selected.png";
const SHEET_ROWS: [usize; 2] = [24, 8];

/// Scores and selects training rows, and writes them and a summary.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind, only hidden files from which the same run resumes.
pub(crate) fn run(args: &SelectArgs) -> Result<(), CliError> {
    let name = with_ending_of("selected", &args.influence.train);
    let outputs = [name.as_str(), "ranking.csv"];
    let (mode, select) = (QueryModeArg::Mean, chosen(args));
    let (query, targets) = args.validation.split_first().expect("the parser requires one");
    let job = Job {
        ensemble: &[],
        command: "select",
        args: &args.influence,
        query,
        targets,
        mode,
        seeds: None,
        positions: None,
        outputs: &outputs,
    };
    job.each(
        |each, before| self::select(args, &select, each, before, &name),
        |each, found| baseline(args, &select, each, &found, &name),
    )
}

/// Selects rows by a method of rows, and writes them.
fn baseline(args: &SelectArgs, select: &Select, each: &Each<'_>, found: &Ranked, name: &str) -> Result<(), CliError> {
    let (folder, mut earlier, train) = (&each.folder, each.earlier(&["selected."]), &found.train);
    let picks = found.select(select, &each.run).map_err(|error| CliError::amount("--keep", error))?;
    let kept: BTreeSet<usize> = picks.order.iter().map(|&sample| train.data.rows[sample].row).collect();
    let mut more = each.outputs();
    more.extend(entries(args, select, train, &picks, 0));
    let lists = pictures(&found.board(), &picks)?;
    if !lists.is_empty() {
        earlier.writes(SHEET, &mut more);
    }
    let summary = RowsSummary::new("select", each, found, more);
    let (path, json, table) = (folder.join(name), folder.join(each.summary_name()), folder.join("ranking.csv"));
    let mut results = vec![train.stage(&kept, &path)?, found.stage_selection(&picks, &table)?];
    let sheet = folder.join(SHEET);
    if !lists.is_empty() {
        let title = format!("{}: training rows by {}", found.files.name, summary.method);
        results.push(stage_picture_lists(&sheet, &title, &lists)?);
    }
    results.push(stage_json(&json, &summary)?);
    earlier.replace(results)?;
    each.tell(&summary, |out| {
        each.headline(out, &summary, found)?;
        let (rows, all, tokens) = (kept.len(), train.data.total, tokens(train, &picks));
        writeln!(out, "selected  {rows} of {all} rows, {tokens} tokens: {}", path.display())?;
        write!(out, "{}", passed(&picks.passed))?;
        if lists.is_empty() { Ok(()) } else { writeln!(out, "pictures  {}", sheet.display()) }
    })
}

/// How rows are selected.
pub(crate) fn chosen(args: &SelectArgs) -> Select {
    let duplicates = args.drop_duplicates.map_or(Duplicates::Keep, |duplicates| duplicates.0);
    let groups = args.per_group.map(|most| PerGroup { most, column: args.group_column.clone() });
    let targets = args.validation.iter().skip(1).cloned().collect();
    let (keep, diverse, pool, over) = (args.keep.0, args.diverse, args.pool, args.targets);
    Select { keep, diverse, duplicates, groups, pool, targets, over }
}

fn select(
    args: &SelectArgs,
    select: &Select,
    each: &Each<'_>,
    before: Option<Influence>,
    name: &str,
) -> Result<Influence, CliError> {
    let (folder, Settings { device, .. }) = (&each.folder, &each.settings);
    let mut earlier = each.earlier(&["selected."]);
    let found = match before {
        None => each.run.select(select, device, &mut observer()),
        Some(before) => each.run.select_again(before, select, device, &mut observer()),
    };
    let mut found = found.map_err(|error| CliError::amount("--keep", error))?;
    each.judge(&mut found.influence)?;
    let train = &found.influence.train;
    let (tokens, passed) = (tokens(train, &found.picks), passed(&found.picks.passed));
    let mut more = each.outputs();
    more.extend(entries(args, select, train, &found.picks, found.pool));
    let lists = pictures(&found.influence.board(), &found.picks)?;
    if !lists.is_empty() {
        earlier.writes(SHEET, &mut more);
    }
    let summary = Summary::new("select", &each.settings, &found.influence, None, more);
    let (path, json, kept) = (folder.join(name), folder.join(each.summary_name()), found.kept());
    let table = folder.join("ranking.csv");
    let mut results = vec![train.stage(&kept, &path)?, found.stage_table(&table)?];
    let sheet = folder.join(SHEET);
    if !lists.is_empty() {
        let title = format!("{}: training rows by {}", found.influence.files.name, each.settings.spec);
        results.push(stage_picture_lists(&sheet, &title, &lists)?);
    }
    results.push(stage_json(&json, &summary)?);
    earlier.replace(results)?;
    each.tell(&summary, |out| {
        head(out, &summary.scoring, summary.blocks(), each.seconds())?;
        details(out, &found.influence)?;
        let (rows, all) = (kept.len(), train.data.total);
        writeln!(out, "selected  {rows} of {all} rows, {tokens} tokens: {}", path.display())?;
        write!(out, "{passed}")?;
        if let (Some(step), Some(last)) = (found.picks.step, found.picks.gains.last()) {
            writeln!(out, "diverse   among {} rows, step {step:.3e}; gain of the last row {last:+.3e}", found.pool)?;
        }
        if !lists.is_empty() {
            writeln!(out, "pictures  {}", sheet.display())?;
        }
        writeln!(out, "scores    of every row: ranking.csv")
    })?;
    Ok(found.influence)
}

/// The first selected rows and those with the lowest scores; empty if no row has an image.
fn pictures(board: &Board<'_>, picks: &Picks) -> Result<Vec<(String, Vec<ShownRow>)>, CliError> {
    let [first, lowest] = SHEET_ROWS;
    let selected = board.shown(&picks.order, first)?;
    if selected.is_empty() {
        return Ok(Vec::new());
    }
    let order: Vec<usize> = board.rank_by.ranking(&board.scores.rows[0]).into_iter().rev().collect();
    let lowest = board.shown(&order, lowest)?;
    let heading = format!("the first {} of {} selected", selected.len(), picks.order.len());
    Ok(vec![(heading, selected), ("the lowest scores, whether selected or not".to_owned(), lowest)])
}

/// The selected rows, and how, for the summary.
fn entries(args: &SelectArgs, select: &Select, train: &Rows, picks: &Picks, pool: usize) -> Map<String, Value> {
    // In the order of the data, as the subset; `ranking.csv` has the places.
    let mut kept = picks.order.clone();
    kept.sort_unstable();
    let selected: Vec<String> = kept.into_iter().map(|sample| train.id(sample).to_string()).collect();
    let most_tokens = match select.keep {
        Budget::Samples(_) => None,
        Budget::Length(tokens) => Some(tokens),
    };
    let queries: Vec<String> = args.validation.iter().map(|path| path.display().to_string()).collect();
    let Passed { copies, near, groups, length } = picks.passed;
    let selection = json!({
        "tokens": tokens(train, picks), "most_tokens": most_tokens,
        "passed_over": { "duplicates": copies, "near_duplicates": near, "full_groups": groups, "too_long": length },
        "diverse": select.diverse, "step": picks.step, "pool": pool, "per_group": args.per_group,
        "group_column": args.group_column, "targets": queries, "over": select.over.name(),
    });
    Map::from_iter([("selected".to_owned(), json!(selected)), ("selection".to_owned(), selection)])
}

/// The tokens of the selected rows.
fn tokens(train: &Rows, picks: &Picks) -> usize {
    picks.order.iter().map(|&sample| train.lengths[sample]).sum()
}

/// A line about rows that were passed over; empty if there are none.
fn passed(&Passed { copies, near, groups, length }: &Passed) -> String {
    let all = [(copies, "duplicates"), (near, "near duplicates"), (groups, "of full groups"), (length, "too long")];
    let words: Vec<String> =
        all.into_iter().filter(|(rows, _)| *rows > 0).map(|(rows, why)| format!("{rows} {why}")).collect();
    if words.is_empty() { String::new() } else { format!("passed    {}\n", words.join(", ")) }
}
