use std::fs;
use std::path::{Path, PathBuf};

use crate::error::CliError;

/// Why a file of samples' numbers cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownError {
    /// It cannot be read as text.
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    /// A line is no number of a sample.
    #[error("line {line} is `{found}`, expected the number of one of the {samples} training samples, from 0")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What is there.
        found: String,
        /// The number of samples.
        samples: usize,
    },
    /// There are no bad samples, or no others.
    #[error("it names {found} of {samples} training samples: some must be bad, and some not")]
    Count {
        /// Samples named.
        found: usize,
        /// The number of samples.
        samples: usize,
    },
}

/// Which of the samples the file names.
pub(super) fn read(path: &Path, samples: usize) -> Result<Vec<bool>, CliError> {
    let error = |source: KnownError| {
        let (what, path) = ("samples known to be bad", PathBuf::from(path));
        CliError::Input { what, path, source: Box::new(source) }
    };
    let text = fs::read_to_string(path).map_err(|e| error(e.into()))?;
    let mut bad = vec![false; samples];
    for (place, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match line.trim().parse::<usize>() {
            Ok(sample) if sample < samples => bad[sample] = true,
            _ => {
                // What is no text of ours is not shown whole.
                let found = line.trim().chars().filter(|c| !c.is_control()).take(40).collect();
                return Err(error(KnownError::Line { line: place + 1, found, samples }));
            }
        }
    }
    let found = bad.iter().filter(|bad| **bad).count();
    if found == 0 || found == samples { Err(error(KnownError::Count { found, samples })) } else { Ok(bad) }
}
