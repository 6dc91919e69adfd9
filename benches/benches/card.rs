//! A graphics card in a few minutes: what its products and copies can do, and what the library makes of that. Prints
//! tables in Markdown: the median of at least five runs with the shortest and the longest, the error achieved, and the
//! share of what products in f32, or copies, reach on the same card.
//!
//! Arguments choose parts: `ceiling`, `scores`, `lora`, `inverse`; without any, all of them. Shares need `ceiling`.
//! `HYPERINF_BENCH_SIZES` names the sizes of matrices (1024,2048,4096,8192); small ones make the rest of the ceiling
//! small, too.

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use faer::linalg::solvers::{DenseSolveCore, Llt};
use faer::{Mat, MatRef, Side};
use hyperinf::curvature::Storage;
use hyperinf::eval::spearman;
use hyperinf::gradients::{Tape, Target, Task, gradients};
use hyperinf::scoring::{CurvatureFrom, Gfim, Method, Options, QueryMode, attribute};
use hyperinf::solvers::{Exact, Hyperpower, HyperpowerStart, Lissa, Order};
use hyperinf_benches::matrices::{damped, error};
use hyperinf_benches::transformers::{completions, decoder, encoder, sentences, wait};
use hyperinf_benches::{device, random_gradients};

/// Milliseconds.
struct Timing {
    median: f64,
    shortest: f64,
    longest: f64,
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.shortest, self.longest)
    }
}

/// Two runs to choose and compile kernels, then at least five and at most twenty in a second or two. `run` must wait
/// for the device.
fn time(mut run: impl FnMut()) -> Timing {
    run();
    run();
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (times.len() < 20 && begun.elapsed() < Duration::from_millis(1500)) {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Timing { median: times[times.len() / 2], shortest: times[0], longest: times[times.len() - 1] }
}

fn sync(device: &Device) {
    device.sync().expect("the device works");
}

/// Reads all numbers of a tensor on the host.
fn read<const R: usize>(x: Tensor<R>) {
    let sum: f32 = x.into_data().iter::<f32>().sum();
    assert!(sum.is_finite(), "the sum of the numbers is {sum}");
}

/// Waits for a tensor. It is dropped after that: fused operations do not compute what nobody holds.
fn computed<const R: usize>(x: Tensor<R>) {
    sync(&x.device());
    drop(x);
}

fn sizes() -> Vec<usize> {
    let sizes = std::env::var("HYPERINF_BENCH_SIZES").unwrap_or_else(|_| "1024,2048,4096,8192".into());
    sizes.split(',').map(|d| d.parse().expect("HYPERINF_BENCH_SIZES is a list of numbers")).collect()
}

/// `2 d³` in teraflop.
fn teraflop(d: usize) -> f64 {
    2e-12 * (d as f64).powi(3)
}

/// What the card can do.
#[derive(Default)]
struct Ceiling {
    /// Sizes, and TFLOP/s of products in f32.
    products: Vec<(usize, f64)>,
    /// GB/s, read and written.
    bandwidth: Option<f64>,
}

impl Ceiling {
    /// A rate in TFLOP/s, as a share of products of this size, or of the fastest.
    fn of_products(&self, rate: f64, size: Option<usize>) -> String {
        let known = self.products.iter().filter(|(d, _)| size.is_none_or(|size| size == *d)).map(|(_, rate)| *rate);
        share(rate, known.reduce(f64::max))
    }
}

/// In percent.
fn share(rate: f64, of: Option<f64>) -> String {
    of.map_or("–".into(), |most| format!("{:.0} %", 100.0 * rate / most))
}

/// Products of two matrices in every type, with their error, copies, and the wait for one number.
fn ceiling(device: &Device, found: &mut Ceiling) {
    println!("\n## Ceiling\n\n| product | ms | TFLOP/s | error |\n|---|---|---|---|");
    for d in sizes() {
        let random = || Tensor::<2>::random([d, d], Distribution::Normal(0.0, 1.0), device);
        let (a, b) = (random(), random());
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
            if !device.supports_dtype(dtype) || (dtype == DType::F64 && d > 4096) {
                continue;
            }
            let (a, b) = (a.clone().cast(dtype), b.clone().cast(dtype));
            let timing = time(|| computed(a.clone().matmul(b.clone())));
            let rate = teraflop(d) / timing.median * 1e3;
            if dtype == DType::F32 {
                found.products.push((d, rate));
            }
            println!("| {dtype:?}, {d}³ | {timing} | {rate:.1} | {:.1e} |", product_error(&a, &b));
        }
    }
    // A device in software, with small sizes, gets little of the rest, too.
    let most = sizes().into_iter().max().unwrap_or(0);
    let (side, long) = (256.min(most), (16 * most).min(1 << 14));
    let batch = || Tensor::<3>::random([256, side, side], Distribution::Normal(0.0, 1.0), device);
    let (a, b) = (batch(), batch());
    let timing = time(|| computed(a.clone().matmul(b.clone())));
    println!("| F32, 256 × {side}³ | {timing} | {:.1} | |", 256.0 * teraflop(side) / timing.median * 1e3);
    let megabytes = 4e-6 * (long as f64).powi(2);
    let long = Tensor::<2>::random([long, long], Distribution::Default, device);
    let timing = time(|| computed(long.clone().mul_scalar(1.5)));
    let bandwidth = 2.0 * megabytes / timing.median;
    found.bandwidth = Some(bandwidth);
    println!("\nScaling {megabytes:.0} MB: {timing} ms, {bandwidth:.0} GB/s read and written");
    let part = 1024.min(long.dims()[0]);
    let timing = time(|| read(long.clone().slice([0..part, 0..part]).mul_scalar(1.5)));
    println!("{:.1} MB to the host: {timing} ms", 4e-6 * (part as f64).powi(2));
    let one = Tensor::<1>::ones([1], device);
    let timing = time(|| read(one.clone().mul_scalar(1.5)));
    println!("One kernel and one number to the host: {timing} ms");
}

/// The largest difference of the first 16 rows to the product in f64 of the same numbers, over the largest number.
fn product_error(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    let d = a.dims()[0];
    let values = |t: Tensor<2>| t.into_data().convert::<f64>().try_into_vec::<f64>().expect("numbers");
    let (rows, all) = (values(a.clone().slice([0..16, 0..d])), values(b.clone()));
    let found = values(a.clone().matmul(b.clone()).slice([0..16, 0..d]));
    let right = MatRef::from_row_major_slice(&rows, 16, d) * MatRef::from_row_major_slice(&all, d, d);
    let found = MatRef::from_row_major_slice(&found, 16, d);
    (&right - found).norm_max() / right.norm_max()
}

/// The inverse by every order, with first steps in bf16 too, and Cholesky's on the host with both transfers.
fn inverses(device: &Device, ceiling: &mut Ceiling) {
    println!("\n## Inverses, κ = 1e4, to 1e-5\n");
    println!(
        "| d | method | steps, products | ms | TFLOP/s | of f32 | certificate | error |\n|---|---|---|---|---|---|---|---|"
    );
    for d in sizes() {
        let problem = damped(d, 1e4, device);
        for order in Order::ALL {
            for first_steps in [None, Some(DType::BF16)] {
                let scaled = HyperpowerStart::Chebyshev;
                let solver = Hyperpower { order, start: scaled, tolerance: 1e-5, first_steps, ..Hyperpower::default() };
                let invert = || solver.invert(problem.a.clone(), problem.lower, problem.upper);
                let low = if first_steps.is_some() { ", bf16 first" } else { "" };
                let name = format!("order {}{low}", order.power());
                match invert() {
                    Ok(found) => {
                        // The last step reads its error back, which waits for the device.
                        let timing = time(|| drop(invert()));
                        let rate = found.products as f64 * teraflop(d) / timing.median * 1e3;
                        println!(
                            "| {d} | {name} | {}, {} | {timing} | {rate:.1} | {} | {:.1e} | {:.1e} |",
                            found.steps,
                            found.products,
                            ceiling.of_products(rate, Some(d)),
                            found.certificate,
                            error(&problem.a, found.x)
                        );
                    }
                    Err(e) => println!("| {d} | {name} | {e} | | | | | |"),
                }
            }
        }
        let upload = |x: &Mat<f32>| {
            let values: Vec<f32> = x.col_iter().flat_map(|column| column.iter().copied()).collect();
            Tensor::<2>::from_data(TensorData::new(values, [d, d]), device)
        };
        let cholesky = || {
            let values = problem.a.to_data().try_into_vec::<f32>().expect("the matrix is of f32");
            let matrix = MatRef::from_column_major_slice(&values, d, d);
            let x = upload(&Llt::new(matrix, Side::Lower).expect("a positive definite matrix").inverse());
            sync(device);
            x
        };
        let timing = time(|| drop(cholesky()));
        println!("| {d} | Cholesky on the host | | {timing} | | | | {:.1e} |", error(&problem.a, cholesky()));
    }
}

/// 24 blocks × 1000 samples × 8 × 1024 in the device's memory, one mean query.
fn scores(device: &Device, ceiling: &mut Ceiling) {
    device.seed(0);
    let (train, query) = (random_gradients(24, 1000, 8, 1024, device), random_gradients(24, 1, 8, 1024, device));
    let named = |name| (name, Options::named(name).expect("a named method"));
    let own = |method| Options { method, ..Options::default() };
    let cases = [
        named("exact"),
        named("identity"),
        named("cosine"),
        named("datainf"),
        ("lissa, 10 steps", own(Method::inverse(Storage::Samples, Lissa { max_steps: 10, ..Lissa::default() }))),
        named("hyperinf"),
        ("hyperinf by Cholesky", own(Method::inverse(Gfim::default().storage(), Exact))),
        named("hyperinf-authors"),
        named("cg"),
    ];
    println!("\n## Scores, 24 × 1000 × 8 × 1024\n");
    println!(
        "| method | ms | one pass, of bandwidth | residual | steps | Spearman with exact |\n|---|---|---|---|---|---|"
    );
    let mut exact = Vec::new();
    for (name, options) in cases {
        let options = Options { query: QueryMode::Mean, ..options };
        let run = || attribute(&train, &query, CurvatureFrom::Training, &options).expect("good gradients");
        let mut found = run();
        let row = found.scores.rows.swap_remove(0);
        let timing = time(|| drop(run()));
        if exact.is_empty() {
            exact.clone_from(&row);
        }
        let residual = found.residual().map_or("–".into(), |r| format!("{r:.1e}"));
        let steps = found.blocks.iter().map(|b| b.iterations).max().unwrap_or(0);
        let rank = spearman(&row, &exact).expect("scores vary");
        let pass = share(0.786 / timing.median * 1e3, ceiling.bandwidth);
        println!("| {name} | {timing} | {pass} | {residual} | {steps} | {rank:.3} |");
    }
}

/// Per-sample gradients of LoRA adapters, and a step of fine-tuning without the optimizer.
fn lora(device: &Device, ceiling: &mut Ceiling) {
    println!(
        "\n## LoRA gradients\n\n| model | batch | forward, ms | per-sample gradients, ms | fine-tuning, ms | per second | of f32 |"
    );
    println!("|---|---|---|---|---|---|---|");
    // Teraflop of a token, forwards and backwards: four times the frozen weights that it meets. Of 100 tokens of a
    // decoder's text 25 meet the head.
    const ENCODER: f64 = 42e-6;
    const DECODER: f64 = 453e-6;
    let model = encoder(device);
    for samples in [16, 256] {
        let batch = sentences(&model, samples, 64);
        let forward = time(|| drop(model.loss(model.forward(&batch, &mut Tape::off()), &batch).into_data()));
        let backward = time(|| {
            wait(gradients(&model, &batch, Target::Loss).expect("a good model"));
        });
        let rate = samples as f64 / backward.median * 1e3;
        let share = ceiling.of_products(ENCODER * 64.0 * rate, None);
        println!("| encoder | {samples} × 64 | {forward} | {backward} | | {rate:.0} samples | {share} |");
    }
    let model = decoder(device);
    let trained = model.clone().train();
    for samples in [8, 64] {
        let batch = completions(&model, samples, 100, 25);
        let forward = time(|| drop(model.loss(model.forward(&batch, &mut Tape::off()), &batch).into_data()));
        let backward = time(|| {
            wait(gradients(&model, &batch, Target::Loss).expect("a good model"));
        });
        let batch = completions(&trained, samples, 100, 25);
        let tuning = time(|| {
            let loss = trained.loss(trained.forward(&batch, &mut Tape::off()), &batch).mean();
            let _gradients = loss.backward();
            drop(loss.into_data());
        });
        let rate = samples as f64 * 100.0 / backward.median * 1e3;
        let share = ceiling.of_products(DECODER * rate, None);
        println!("| decoder | {samples} × 100 | {forward} | {backward} | {tuning} | {rate:.0} tokens | {share} |");
    }
}

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let (name, device) = device();
    println!("Device `{name}`; milliseconds: median (shortest–longest).");
    let mut found = Ceiling::default();
    let all =
        [("ceiling", ceiling as fn(&Device, &mut Ceiling)), ("scores", scores), ("lora", lora), ("inverse", inverses)];
    for (part, run) in all {
        if parts.is_empty() || parts.iter().any(|wanted| wanted == part) {
            run(&device, &mut found);
        }
    }
}
