//! The mails of the corpus and their split.

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
    /// What its reader sees, cut to [`LONGEST`] characters.
    pub text: String,
    /// Whether the corpus calls it spam.
    pub spam: bool,
}

/// The corpus in three parts that share no mail.
pub struct Split {
    /// With labels, to fine-tune on.
    pub train: Vec<Mail>,
    /// With labels, to judge by.
    pub validation: Vec<Mail>,
    /// The rest without labels, to learn the language from, cut to [`LONGEST_UNLABELLED`] characters.
    pub unlabelled: Vec<String>,
}

const TRAIN: usize = 1500;
const VALIDATION: usize = 400;
/// One mail of so many is spam in both labelled parts.
const SPAM_EVERY: usize = 3;
const LONGEST: usize = 700;
const LONGEST_UNLABELLED: usize = 2500;
/// A body with fewer letters says nothing.
const FEWEST_LETTERS: usize = 60;
/// Mails that start with the same letters count as duplicates.
const SAME_START: usize = 150;
const FOLDERS: [(&str, bool); 5] =
    [("easy-ham-1", false), ("easy-ham-2", false), ("hard-ham-1", false), ("spam-1", true), ("spam-2", true)];

/// Reads the package's mails and splits them, always in the same way.
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
        "{read} mails, {} with a body of their own, {} of them spam",
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
