//! A row of steps: a line of progress for each, a table at the end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How a step ended.
pub enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Passed)
    }
}

/// Steps run one after another. A failed step does not stop the others; it makes the whole fail.
pub struct Steps {
    began: Instant,
    rows: Vec<(String, Outcome, Duration)>,
}

impl Steps {
    pub fn new() -> Self {
        Self { began: Instant::now(), rows: Vec::new() }
    }

    /// Runs a step and notes how it ended.
    pub fn run(&mut self, name: &str, work: impl FnOnce() -> Outcome) {
        let start = Instant::now();
        eprintln!("xtask [{:4.0} s] {name} …", self.began.elapsed().as_secs_f64());
        let outcome = work();
        let (word, why) = outcome.words();
        let took = start.elapsed();
        eprintln!("xtask [{:4.0} s] {name}: {word}{why}", self.began.elapsed().as_secs_f64());
        self.rows.push((name.to_owned(), outcome, took));
    }

    /// Prints the table; fails if a step did.
    pub fn finish(self) -> ExitCode {
        let width = self.rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        println!("\n{:width$}  seconds  outcome", "step");
        for (name, outcome, took) in &self.rows {
            let (word, why) = outcome.words();
            println!("{name:width$}  {:7.1}  {word}{why}", took.as_secs_f64());
        }
        let failed = self.rows.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_))).count();
        let all = self.rows.len();
        println!("{:width$}  {:7.1}  {failed} of {all} failed", "total", self.began.elapsed().as_secs_f64());
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Outcome {
    fn words(&self) -> (&'static str, String) {
        match self {
            Self::Passed => ("passed", String::new()),
            Self::Failed(why) => ("FAILED", format!(": {why}")),
            Self::Skipped(why) => ("skipped", format!(": {why}")),
        }
    }
}
