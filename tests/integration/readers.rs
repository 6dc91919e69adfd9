//! A short run of the fuzzer's readers: whatever a file holds, its reader returns.

use std::collections::BTreeSet;
use std::fs;

use hyperinf_tests::devices;
use hyperinf_tests::readers::{READERS, Scratch, reader, seeds_folder};

/// Numbers of no pattern.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound.max(1)
    }
}

/// What readers stumble over: limits of numbers, openings without an end, and bytes that are no text.
const PIECES: [&[u8]; 16] = [
    b"18446744073709551615",
    b"-1",
    b"1e400",
    b"null",
    b"[[[[[[[[[[[[[[[[",
    b"{\"\":",
    b"\"",
    b"\\ud800",
    b"{%",
    b"{{",
    b"\xff\xfe",
    b"\0\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x01\0\0\0\0\0\0\x80",
    b"\r\n",
    b",",
];

/// The file with one to three changes.
fn changed(file: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=draws.below(3) {
        let place = draws.below(bytes.len());
        match draws.below(6) {
            0 => bytes.truncate(place),
            1 if !bytes.is_empty() => bytes[place] ^= 1 << draws.below(8),
            2 if !bytes.is_empty() => bytes[place] = draws.below(256) as u8,
            3 => {
                let end = (place + draws.below(64)).min(bytes.len());
                drop(bytes.drain(place..end));
            }
            4 => {
                let piece = bytes[place..(place + draws.below(64)).min(bytes.len())].to_vec();
                let to = draws.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => {
                let piece = PIECES[draws.below(PIECES.len())];
                let end = (place + draws.below(2) * piece.len()).min(bytes.len());
                bytes.splice(place..end, piece.iter().copied());
            }
        }
    }
    bytes
}

/// The seeds and this many changes of each.
fn check(name: &str, changes: usize) {
    let reader = reader(name).expect("there is such a reader");
    let folder = tempfile::tempdir().expect("there is room for a temporary folder");
    let scratch = Scratch::new(folder.path().to_owned());
    let (_, device) = devices().remove(0);
    let seeds = reader.seeds().expect("the seeds are part of the repository");
    assert!(!seeds.is_empty(), "{name} has no seed");
    let mut draws = Draws(7);
    for seed in seeds {
        let file = fs::read(&seed).expect("the seeds can be read");
        reader.read(&scratch, &file, &device).expect("the scratch folder can be written");
        for _ in 0..changes {
            let bytes = changed(&file, &mut draws);
            reader.read(&scratch, &bytes, &device).expect("the scratch folder can be written");
        }
    }
}

#[test]
fn tables() {
    for name in ["jsonl", "json", "csv", "tsv", "parquet"] {
        check(name, 300);
    }
}

#[test]
fn tokenizers_and_templates() {
    for name in ["tokenizer", "tokenizer-config", "template"] {
        check(name, 60);
    }
}

#[test]
fn models() {
    for name in ["encoder-config", "decoder-config", "weights", "shards", "gguf", "llama2c"] {
        check(name, 60);
    }
}

#[test]
fn adapters() {
    for name in ["adapter-config", "adapter-weights", "adapter-note"] {
        check(name, 60);
    }
}

#[test]
fn stored_gradients() {
    for name in ["npy", "npz", "bergson", "index-list", "index-shard", "index-rows"] {
        check(name, 200);
    }
    for name in ["index-manifest", "index-journal"] {
        check(name, 500);
    }
}

#[test]
fn pictures_and_their_processors() {
    check("picture", 150);
    check("image-processor", 300);
}

#[test]
fn vision_and_diffusion() {
    for name in ["vision-config", "llava-config", "pixart-config", "unet-config", "lora-file"] {
        check(name, 60);
    }
    for name in ["pipeline-index", "scheduler"] {
        check(name, 40);
    }
}

#[test]
fn gradients_journals_and_words() {
    for name in ["gradients", "journal", "checkpoint", "bank", "words"] {
        check(name, 300);
    }
}

#[test]
fn every_folder_of_seeds_has_its_reader() {
    let folders = fs::read_dir(seeds_folder()).expect("the seeds are part of the repository");
    for entry in folders {
        let name = entry.expect("the folder can be read").file_name().into_string().expect("names are UTF-8");
        assert!(reader(&name).is_some(), "{name}");
    }
    let names: BTreeSet<&str> = READERS.iter().map(|reader| reader.name).collect();
    assert_eq!(names.len(), READERS.len(), "a name is used twice");
}
