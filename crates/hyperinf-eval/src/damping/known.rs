use std::path::Path;
use std::{fs, io};

/// Characters of a wrong line that an error repeats.
const SHOWN: usize = 40;

/// Why a list of samples known to be bad cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownError {
    /// The file cannot be read as text.
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    /// A line is not the index of a sample.
    #[error("line {line} is `{found}`, expected the number of one of the {samples} training samples, from 0")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// Its text, shortened.
        found: String,
        /// The number of samples.
        samples: usize,
    },
    /// The list names no sample, or all of them.
    #[error("it names {found} of {samples} training samples: some must be bad, and some not")]
    Count {
        /// Samples named.
        found: usize,
        /// The number of samples.
        samples: usize,
    },
}

/// Reads the indices of bad samples, one per line from 0, and marks them: `[samples]`.
///
/// Empty lines are ignored; an index may repeat.
///
/// # Errors
///
/// If the file cannot be read, a line is not an index below `samples`, or no sample or every sample is named.
pub fn known_bad(path: &Path, samples: usize) -> Result<Vec<bool>, KnownError> {
    if !fs::metadata(path)?.is_file() {
        // Reading a named pipe would wait for its other end.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file").into());
    }
    let text = fs::read_to_string(path)?;
    let mut bad = vec![false; samples];
    for (place, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match line.trim().parse::<usize>() {
            Ok(sample) if sample < samples => bad[sample] = true,
            _ => {
                // The file may be of any kind: a terminal must not see its control characters.
                let found = line.trim().chars().filter(|c| !c.is_control()).take(SHOWN).collect();
                return Err(KnownError::Line { line: place + 1, found, samples });
            }
        }
    }
    let found = bad.iter().filter(|bad| **bad).count();
    if found == 0 || found == samples { Err(KnownError::Count { found, samples }) } else { Ok(bad) }
}
