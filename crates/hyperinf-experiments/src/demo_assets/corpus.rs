//! The mails of the corpus, split into training, validation and unlabelled parts.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::{Failure, mail};

/// A mail of the demo.
#[derive(serde::Serialize)]
pub struct Mail {
    /// The text that its reader sees, cut to [`LONGEST`] characters.
    pub text: String,
    /// The label in the corpus.
    pub spam: bool,
}

/// Three disjoint parts of the corpus.
pub struct Split {
    /// Labelled mails for fine-tuning.
    pub train: Vec<Mail>,
    /// Labelled mails for validation.
    pub validation: Vec<Mail>,
    /// All other mails, without labels, for pre-training; cut to [`LONGEST_UNLABELLED`] characters.
    pub unlabelled: Vec<String>,
}

const TRAIN: usize = 1500;
const VALIDATION: usize = 400;
/// In both labelled parts, one mail in this many is spam.
const SPAM_EVERY: usize = 3;
const LONGEST: usize = 700;
const LONGEST_UNLABELLED: usize = 2500;
/// Bodies with fewer letters are left out.
const FEWEST_LETTERS: usize = 60;
/// Mails whose first letters agree this far count as duplicates.
const SAME_START: usize = 150;
const FOLDERS: [(&str, bool); 5] =
    [("easy-ham-1", false), ("easy-ham-2", false), ("hard-ham-1", false), ("spam-1", true), ("spam-2", true)];

/// Reads the mails of the package and splits them deterministically.
pub fn read(package: &Path) -> Result<Split, Failure> {
    let mut mails = Vec::new();
    let mut seen = HashSet::new();
    let mut read = 0;
    for (folder, spam) in FOLDERS {
        let mut files: Vec<_> = fs::read_dir(package.join("data").join(folder))?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        files.retain(|path| path.extension().is_some_and(|e| e == "txt"));
        files.sort();
        read += files.len();
        for file in files {
            let text = mail::text(&fs::read(file)?);
            let letters: String = text.chars().filter(char::is_ascii_alphabetic).collect();
            let enough = letters.len() >= FEWEST_LETTERS && letters.len() * 2 >= text.chars().count();
            let start = letters.to_ascii_lowercase().chars().take(SAME_START).collect::<String>();
            if enough && seen.insert(start) {
                mails.push(Mail { text, spam });
            }
        }
    }
    println!(
        "{read} mails, {} with distinct bodies, {} of them spam",
        mails.len(),
        mails.iter().filter(|m| m.spam).count()
    );

    let mut rng = StdRng::seed_from_u64(0);
    mails.shuffle(&mut rng);
    let (spam, ham): (Vec<_>, Vec<_>) = mails.into_iter().partition(|mail| mail.spam);
    let (mut spam, mut ham) = (spam.into_iter(), ham.into_iter());
    let mut take = |count: usize| {
        let of_spam = count / SPAM_EVERY;
        let mut part: Vec<Mail> = spam.by_ref().take(of_spam).chain(ham.by_ref().take(count - of_spam)).collect();
        part.shuffle(&mut rng);
        for mail in &mut part {
            mail.text = cut(&mail.text, LONGEST);
        }
        part
    };
    let (train, validation) = (take(TRAIN), take(VALIDATION));
    let mut unlabelled: Vec<String> = spam.chain(ham).map(|mail| cut(&mail.text, LONGEST_UNLABELLED)).collect();
    unlabelled.shuffle(&mut rng);
    Ok(Split { train, validation, unlabelled })
}

fn cut(text: &str, longest: usize) -> String {
    text.chars().take(longest).collect()
}
