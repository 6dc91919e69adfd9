//! A series of steps: a line of progress for each, a table at the end.

use std::time::{Duration, Instant};

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Steps that run one after another. After a failure the others still run, and the series fails.
pub struct Steps {
    start: Instant,
    rows: Vec<(String, Outcome, Duration)>,
}

impl Steps {
    pub fn new() -> Self {
        Self { start: Instant::now(), rows: Vec::new() }
    }

    /// Runs a step and records its outcome.
    pub fn run(&mut self, name: &str, work: impl FnOnce() -> Result<(), String>) {
        let start = Instant::now();
        self.log(name, "…");
        let outcome = work().map_or_else(Outcome::Failed, |()| Outcome::Passed);
        self.record(name, outcome, start.elapsed());
    }

    /// Records a step that does not run.
    pub fn skip(&mut self, name: &str, reason: String) {
        self.record(name, Outcome::Skipped(reason), Duration::ZERO);
    }

    /// Prints the table; an error if a step failed.
    pub fn finish(self) -> Result<(), String> {
        let width = self.rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        println!("\n{:width$}  seconds  outcome", "step");
        for (name, outcome, duration) in &self.rows {
            println!("{name:width$}  {:7.1}  {}", duration.as_secs_f64(), outcome.text());
        }
        let failed = self.rows.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_))).count();
        let all = self.rows.len();
        println!("{:width$}  {:7.1}  {failed} of {all} failed", "total", self.start.elapsed().as_secs_f64());
        if failed == 0 { Ok(()) } else { Err(format!("{failed} of {all} steps failed")) }
    }

    fn record(&mut self, name: &str, outcome: Outcome, duration: Duration) {
        self.log(name, &outcome.text());
        self.rows.push((name.to_owned(), outcome, duration));
    }

    fn log(&self, name: &str, text: &str) {
        eprintln!("xtask [{:4.0} s] {name}: {text}", self.start.elapsed().as_secs_f64());
    }
}

impl Outcome {
    fn text(&self) -> String {
        match self {
            Self::Passed => "passed".into(),
            Self::Failed(reason) => format!("FAILED: {reason}"),
            Self::Skipped(reason) => format!("skipped: {reason}"),
        }
    }
}
