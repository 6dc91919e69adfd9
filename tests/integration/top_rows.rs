//! The ends of rankings from sketches: those of all scores, whichever rows are read.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::linalg::{Bounded, ByteGroups, ByteProbe, ByteRows};
use hyperinf::scoring::{Options, Preconditioner, QueryMode, RankBy, Scores};
use hyperinf::store::{
    Ends, FactorOptions, FaultKind, GradientPair, GradientWriter, IndexFolder, IndexWriter, Leaf, Manifest, RunKey,
    Sketches, SourceFile, StoredRow, StoredType, TopRows, score, top_rows, training_factors,
};
use hyperinf_tests::devices;
use proptest::prelude::*;

const SIDES: [(usize, usize); 3] = [(8, 8), (3, 50), (1, 7)];

/// Numbers of no pattern, from -1 to 1.
fn noise(count: usize, seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 30) as f64 - 1.0
    })
}

/// Rows whose norms and numbers are of very different sizes, as those of gradients are.
fn rows(count: usize, width: usize, tail: i32, seed: u64) -> Vec<Vec<f32>> {
    let mut sizes = noise(count, seed ^ 77);
    let row = |row: usize| {
        let size = sizes.next().unwrap_or(1.0).powi(tail);
        noise(width, seed.wrapping_add(row as u64 * 7 + 1)).map(|x| (x.powi(3) * size) as f32).collect()
    };
    (0..count).map(row).collect()
}

fn blocks(sides: &[(usize, usize)]) -> Vec<Block> {
    sides.iter().enumerate().map(|(at, &(rows, cols))| Block::new(format!("block-{at}"), rows, cols)).collect()
}

/// For each block the numbers of some rows.
fn by_block(blocks: &[Block], rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut at = 0;
    let of = |block: &Block| {
        let taken = at..at + block.parameters();
        at = taken.end;
        rows.iter().flat_map(|row| row[taken.clone()].to_vec()).collect()
    };
    blocks.iter().map(of).collect()
}

/// Writes an index, or the leaves that it lacks.
fn write_index(folder: &Path, blocks: &[Block], rows: &[Vec<f32>], leaf: usize, stored: StoredType) -> IndexFolder {
    let key = RunKey::from([("model", "m")]);
    let mut manifest = Manifest::new(key, serde_json::Value::Null, blocks, stored.name(), leaf);
    let (path, xxh3_128) = ("rows.jsonl".to_owned(), "0".repeat(32));
    let n = rows.len();
    manifest.sources = vec![SourceFile { path, bytes: 9, xxh3_128: xxh3_128.clone(), total: n, rows: n }];
    let leaves = (0..n).step_by(leaf);
    manifest.leaves =
        leaves.map(|first| Leaf { source: 0, first, rows: leaf.min(n - first), samples: xxh3_128.clone() }).collect();
    let mut writer = IndexWriter::open(folder).expect("the folder can be written");
    for number in writer.begin(manifest.clone()).expect("the same index").missing {
        let Leaf { first, rows: count, .. } = manifest.leaves[number];
        let mut gradients = writer.gradients(number).expect("the folder can be written");
        let all: Vec<usize> = (0..count).collect();
        let values = by_block(blocks, &rows[first..first + count]);
        gradients.write(&all, &vec![0.5; count], &values).expect("numbers of the type");
        let row = |row: usize| StoredRow {
            row,
            id: None,
            text: format!("row {row}"),
            label: None,
            loss_bits: 0.5_f64.to_bits(),
            guess: None,
        };
        let stored: Vec<StoredRow> = (first..first + count).map(row).collect();
        writer.finish_leaf(number, gradients, &stored).expect("the folder can be written");
    }
    writer.finish().expect("all leaves are there")
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("the system has room for tests")
}

/// Inner products by the definition, block by block.
fn products(blocks: &[Block], x: &[f64], rows: &[Vec<f32>]) -> Vec<f64> {
    let of = |row: &Vec<f32>| {
        let (mut total, mut at) = (0.0, 0);
        for block in blocks {
            let mut sum = 0.0;
            for place in at..at + block.parameters() {
                sum += x[place] * f64::from(row[place]);
            }
            total += sum;
            at += block.parameters();
        }
        total
    };
    rows.iter().map(of).collect()
}

fn ask(index: &IndexFolder, queries: &[Vec<f64>], top: usize, rank_by: RankBy) -> (Option<TopRows>, usize) {
    let sketches = Sketches::new(index, true);
    let gradients = index.gradients().expect("a whole index");
    let found = top_rows(&gradients, &sketches, queries, (top, rank_by)).expect("intact gradients");
    (found, sketches.built())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Bit for bit, ties included, for every size of leaves, groups and numbers.
    #[test]
    fn the_ends_are_those_of_all_products(
        sides in prop::collection::vec((1_usize..9, 1_usize..40), 1..4),
        count in 1_usize..400,
        leaf in 1_usize..130,
        top in 0_usize..12,
        tail in 0_i32..6,
        exponent in -12_i32..12,
        seed in 0_u64..1000,
        magnitude in any::<bool>(),
    ) {
        let (folder, blocks) = (scratch(), blocks(&sides));
        let width = blocks.iter().map(Block::parameters).sum();
        let mut rows = rows(count, width, tail, seed);
        // Copies, and rows of zeros.
        for place in (3..count).step_by(5) {
            rows[place] = if place % 2 == 0 { vec![0.0; width] } else { rows[place - 3].clone() };
        }
        let index = write_index(folder.path(), &blocks, &rows, leaf, StoredType::F32);
        let scale = 10.0_f64.powi(exponent);
        let query: Vec<f64> = noise(width, seed + 5).map(|x| x * scale).collect();
        let rank_by = if magnitude { RankBy::Magnitude } else { RankBy::Score };
        let expected = Ends::of(&products(&blocks, &query, &rows), top, rank_by);
        for pass in 0..2 {
            let (found, built) = ask(&index, std::slice::from_ref(&query), top, rank_by);
            if let Some(found) = found {
                prop_assert_eq!(&found.ends[0], &expected, "pass {}", pass);
            }
            prop_assert_eq!(built, if pass == 0 { index.manifest().leaves.len() } else { 0 });
        }
    }

    /// No product is outside its bound, and bounds are not much larger than what rounding does.
    #[test]
    fn products_are_within_their_bounds(
        width in 1_usize..700,
        tail in 0_i32..8,
        exponents in (-25_i32..25, -200_i32..200),
        seed in 0_u64..10_000,
    ) {
        let groups = ByteGroups::new([width / 3, width - width / 3]);
        let rows: Vec<Vec<f32>> = rows(40, width, tail, seed);
        let scaled: Vec<Vec<f32>> =
            rows.iter().map(|row| row.iter().map(|x| x * 10.0_f32.powi(exponents.0)).collect()).collect();
        let query: Vec<f64> = noise(width, seed + 9).map(|x| x * 10.0_f64.powi(exponents.1)).collect();
        let rounded = ByteRows::new(&groups, &scaled.concat(), seed).expect("finite numbers");
        let probe = ByteProbe::new(&groups, &query).expect("finite numbers");
        let one = [Block::new("all", 1, width)];
        let exact = products(&one, &query, &scaled);
        for (Bounded { value, bound }, exact) in probe.products(&rounded.numbers, &rounded.scales).into_iter().zip(exact) {
            prop_assert!((value - exact).abs() <= bound, "{} is not within {} of {}", value, bound, exact);
        }
    }
}

#[test]
fn bounds_leave_few_rows() {
    let (folder, blocks) = (scratch(), blocks(&SIDES));
    let width = blocks.iter().map(Block::parameters).sum();
    let rows = rows(4000, width, 3, 1);
    let index = write_index(folder.path(), &blocks, &rows, 512, StoredType::F32);
    let query: Vec<f64> = noise(width, 3).collect();
    let (found, built) = ask(&index, std::slice::from_ref(&query), 10, RankBy::Score);
    let found = found.expect("bounds that leave few");
    assert_eq!(found.ends[0], Ends::of(&products(&blocks, &query, &rows), 10, RankBy::Score));
    assert!((20..100).contains(&found.read), "{} rows were read", found.read);
    assert_eq!(built, 8);
}

#[test]
fn numbers_that_cannot_be_rounded_have_no_bounds() {
    let groups = ByteGroups::new([4]);
    for bad in [f32::NAN, f32::INFINITY, 2e30] {
        assert!(ByteRows::new(&groups, &[1.0, bad, 0.0, 1.0], 0).is_none(), "{bad}");
    }
    assert!(ByteProbe::new(&groups, &[1.0, f64::NAN, 0.0, 0.0]).is_none());
    let zeros = ByteRows::new(&groups, &[0.0; 8], 0).expect("zeros are numbers");
    let found = ByteProbe::new(&groups, &[0.0; 4]).expect("finite").products(&zeros.numbers, &zeros.scales);
    assert_eq!(found, [Bounded { value: 0.0, bound: 0.0 }; 2]);
}

/// The scores of a method, from an index in each type of number.
#[track_caller]
fn check_method(device: &Device, method: &str, stored: StoredType) {
    let (folder, blocks) = (scratch(), blocks(&SIDES));
    let width: usize = blocks.iter().map(Block::parameters).sum();
    let index = write_index(&folder.path().join("index"), &blocks, &rows(1500, width, 2, 11), 256, stored);
    let queries = rows(2, width, 1, 12);
    let key = RunKey::from([("model", "m")]);
    let mut writer = GradientWriter::open(folder.path(), "query", &key, 2, &blocks).expect("a folder");
    writer.write(&[0, 1], &[0.5; 2], &by_block(&blocks, &queries)).expect("numbers");
    writer.place(&folder.path().join("query")).expect("a folder");
    let mut pair = GradientPair::open(index.path(), &folder.path().join("query")).expect("the same blocks");
    let options = Options::named(method).expect("a method");
    let how = FactorOptions::default();
    training_factors(&mut pair, &options, None, &how, device).expect("a curvature");
    let own = pair.own_curvature(&options).map(<[_]>::to_vec).unwrap_or_default();
    let gradients = pair.query_gradients(device).expect("they were written");
    assert_eq!(gradients.blocks[1].dims(), [2, 3, 50]);
    let mut preconditioner = Preconditioner::new(own, &options).expect("a damping");
    let all: Scores = score(&pair, None, &options, device).expect("scores").scores;
    // Once more: inverses are prepared once.
    for _ in 0..2 {
        let x = preconditioner.apply(&gradients).expect("an inverse").rows;
        for (query, x) in x.iter().enumerate() {
            let (found, _) = ask(&index, std::slice::from_ref(x), 5, RankBy::Magnitude);
            let found = found.unwrap_or_else(|| panic!("{method}: bounds leave too many rows"));
            assert!(found.read < 150, "{method}, {}: {} rows", stored.name(), found.read);
            let expected = Ends::of(&all.rows[query], 5, RankBy::Magnitude);
            let Ends { helpful, harmful, influential } = &found.ends[0];
            let pairs = [(helpful, &expected.helpful), (harmful, &expected.harmful)];
            for (found, expected) in pairs.into_iter().chain([(influential, &expected.influential)]) {
                let samples = |ends: &[(usize, f64)]| ends.iter().map(|end| end.0).collect::<Vec<_>>();
                assert_eq!(samples(found), samples(expected), "{method}, {}", stored.name());
                // Products without curvature are sums in f32 there.
                for (found, expected) in found.iter().zip(expected) {
                    assert!(
                        (found.1 - expected.1).abs() <= 1e-5 * expected.1.abs(),
                        "{method}: {found:?} {expected:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn methods_answer_as_with_all_rows() {
    for (_, device) in devices() {
        for method in ["identity", "hyperinf", "hyperinf:cols:merged", "exact", "diagonal", "shampoo"] {
            check_method(&device, method, StoredType::F32);
        }
        check_method(&device, "hyperinf", StoredType::Bf16);
        check_method(&device, "hyperinf", StoredType::F16);
    }
}

#[test]
fn mean_of_queries_is_one_row() {
    let (_, device) = devices().swap_remove(0);
    let data = TensorData::new(vec![1.0_f32, 0.0, 0.0, 3.0], [2, 1, 2]);
    let layout = vec![Block::new("a", 1, 2)];
    let gradients = Gradients { layout: layout.into(), blocks: vec![Tensor::from_data(data, &device)] };
    let options = Options { query: QueryMode::Mean, ..Options::named("identity").expect("a method") };
    let found = Preconditioner::new(Vec::new(), &options).expect("a damping").apply(&gradients).expect("queries");
    assert_eq!(found.rows, [[0.5, 1.5]]);
}

#[test]
fn damaged_and_foreign_sketches_are_not_used() {
    let (folder, blocks) = (scratch(), blocks(&SIDES));
    let width = blocks.iter().map(Block::parameters).sum();
    let rows = rows(300, width, 2, 21);
    let index = write_index(folder.path(), &blocks, &rows, 100, StoredType::F32);
    let query: Vec<f64> = noise(width, 4).collect();
    let expected = Ends::of(&products(&blocks, &query, &rows), 3, RankBy::Score);
    let check = |built: usize| {
        let (found, made) = ask(&index, std::slice::from_ref(&query), 3, RankBy::Score);
        assert_eq!(found.expect("few rows").ends[0], expected);
        assert_eq!(made, built);
    };
    check(3);
    check(0);
    let place = folder.path().join("sketch-00001.safetensors");
    let whole = fs::read(&place).expect("it is kept");
    let mut changes: Vec<Vec<u8>> = (0..60)
        .map(|turn| {
            let mut bytes = whole.clone();
            bytes[turn * 5077 % whole.len()] ^= 1 << (turn % 8);
            bytes
        })
        .collect();
    changes.extend([Vec::new(), whole[..whole.len() - 1].to_vec(), [&whole[..], b"x"].concat()]);
    // That of another leaf.
    changes.push(fs::read(folder.path().join("sketch-00000.safetensors")).expect("it is kept"));
    for bytes in changes {
        fs::write(&place, &bytes).expect("it can be written");
        let faults = index.verify(&mut |_| {});
        assert!(
            matches!(&faults[..], [fault] if fault.kind == FaultKind::Sketch && fault.leaf.is_none()),
            "{faults:?}"
        );
        let (found, _) = ask(&index, std::slice::from_ref(&query), 3, RankBy::Score);
        assert_eq!(found.expect("few rows").ends[0], expected);
    }
    fs::write(&place, &whole).expect("it can be written");
    assert_eq!(index.verify(&mut |_| {}), []);
    fs::remove_file(&place).expect("it is there");
    check(1);
    assert!(fs::read(&place).expect("it is kept") == whole, "a sketch depends on its leaf alone");
}

#[test]
fn a_damaged_row_is_an_error() {
    let (folder, blocks) = (scratch(), blocks(&SIDES));
    let width: usize = blocks.iter().map(Block::parameters).sum();
    let rows = rows(300, width, 2, 21);
    let index = write_index(folder.path(), &blocks, &rows, 100, StoredType::F32);
    let query: Vec<f64> = noise(width, 4).collect();
    let best = ask(&index, std::slice::from_ref(&query), 3, RankBy::Score).0.expect("few rows").ends[0].helpful[0].0;
    let shard = folder.path().join(format!("leaf-{:05}.safetensors", best / 100));
    let mut bytes = fs::read(&shard).expect("it is there");
    let numbers = bytes.len() - 100 * width * 4;
    // The first number of the row in the first block.
    bytes[numbers + best % 100 * blocks[0].parameters() * 4 + 2] ^= 4;
    fs::write(&shard, bytes).expect("it can be written");
    let gradients = index.gradients().expect("its length is the same");
    let found = top_rows(&gradients, &Sketches::new(&index, true), &[query], (3, RankBy::Score));
    let error = found.expect_err("the row is damaged");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains(&format!("row {best} is damaged")), "{cause}");
}

#[test]
fn rows_that_are_added_are_sketched_alone() {
    let (folder, blocks) = (scratch(), blocks(&SIDES));
    let width = blocks.iter().map(Block::parameters).sum();
    let all = rows(250, width, 2, 31);
    let index = write_index(folder.path(), &blocks, &all[..200], 100, StoredType::F32);
    let query: Vec<f64> = noise(width, 4).collect();
    assert_eq!(ask(&index, std::slice::from_ref(&query), 3, RankBy::Score).1, 2);
    let index = write_index(folder.path(), &blocks, &all, 100, StoredType::F32);
    let (found, built) = ask(&index, std::slice::from_ref(&query), 3, RankBy::Score);
    assert_eq!(built, 1);
    assert_eq!(found.expect("few rows").ends[0], Ends::of(&products(&blocks, &query, &all), 3, RankBy::Score));
}

#[test]
fn sketches_in_memory_answer_as_those_on_disk() {
    let (folder, blocks) = (scratch(), blocks(&SIDES));
    let width = blocks.iter().map(Block::parameters).sum();
    let index = write_index(folder.path(), &blocks, &rows(300, width, 2, 41), 64, StoredType::F32);
    let gradients = index.gradients().expect("a whole index");
    let mut sketches = Sketches::new(&index, false);
    let queries: Vec<Vec<f64>> = (0..4).map(|seed| noise(width, seed).collect()).collect();
    let ask = |sketches: &Sketches| top_rows(&gradients, sketches, &queries, (2, RankBy::Score)).expect("intact");
    let before = ask(&sketches);
    assert_eq!((sketches.built(), index.sketches().len()), (5, 0), "nothing is kept");
    assert!(sketches.hold(&gradients).expect("intact"));
    assert_eq!(sketches.built(), 10);
    assert_eq!(ask(&sketches), before);
    assert_eq!(sketches.built(), 10);
}
