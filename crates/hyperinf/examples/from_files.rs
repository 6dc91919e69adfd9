//! From a model's folder, an adapter and two files of rows to scores, without the program:
//! `cargo run --release -p hyperinf --example from_files -- MODEL ADAPTER TRAIN.jsonl QUERY.jsonl OUT`.

use hyperinf::data::{LengthOptions, Run};
use hyperinf::{compiled_devices, device};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, train, query, out] = &args[..] else { return Err("MODEL ADAPTER TRAIN QUERY OUT".into()) };
    rank([model, adapter, train, query, out])?.iter().for_each(|row| println!("{row}"));
    Ok(())
}

/// The three most helpful and the three most harmful training rows for the first query.
pub fn rank([model, adapter, train, query, out]: [&str; 5]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let (model, adapter, length) = (model.into(), Some(adapter.into()), LengthOptions { max: None, truncate: true });
    let (train, query, out) = (train.into(), query.into(), out.into());
    let run = Run { model, adapter, train, query, out, length, ..Run::default() };
    let found = run.attribute(&device(compiled_devices()[0])?, &mut |event| eprintln!("{event}"))?;
    let rows = found.most_helpful(0, 3).into_iter().chain(found.most_harmful(0, 3));
    let rows = rows.map(|row| row.to_string()).collect();
    found.discard_gradients()?;
    Ok(rows)
}
