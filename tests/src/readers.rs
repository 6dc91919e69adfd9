//! Every reader of files that users bring, as a function of arbitrary bytes: for the fuzzer and for a short run of it
//! among the tests.
//!
//! The bytes become one file; the other files that the reader needs are those of a fixture. Whatever the bytes are,
//! the reader returns: a panic, an abort, more than 20 seconds, or more memory than ten times the file's size plus
//! 300 MB is a fault.

use std::fs;
use std::io;
use std::path::PathBuf;

use burn::tensor::Device;
use hyperinf::data::{Captioned, Dataset, Format, Illustrated, LabelledText, ModelFiles, Passage, ReadOptions};
use hyperinf::models::{
    Adapter, ClassifierOptions, Conversation, ImageProcessor, Limit, Message, Picture, PictureLimits, Prediction,
    TextTokenizer, gguf_tokenizer, llama2c_tokenizer, load_causal_lm, load_classifier, load_gguf, load_llama2c,
    load_pipeline, load_pixart, load_unet, load_vision_language,
};
use hyperinf::scoring::{Groups, MethodSpec, Set};
use hyperinf::store::{GradientFile, Precision};

use crate::{fixtures, pipelines, stores};

pub use hyperinf::models::panics_are_errors;

/// A reader of one kind of file.
pub struct Reader {
    /// Its name, and that of its folder in `fuzz/seeds`.
    pub name: &'static str,
    /// Fixtures that are valid files of this kind.
    fixtures: &'static [&'static str],
    read: fn(&Scratch, &[u8], &Device) -> io::Result<()>,
}

/// A folder for the files of one reader, written again for every input.
pub struct Scratch(PathBuf);

/// All readers.
pub const READERS: &[Reader] = &[
    Reader { name: "jsonl", fixtures: &[], read: |s, bytes, _| s.rows("rows.jsonl", bytes) },
    Reader { name: "json", fixtures: &[], read: |s, bytes, _| s.rows("rows.json", bytes) },
    Reader { name: "csv", fixtures: &[], read: |s, bytes, _| s.rows("rows.csv", bytes) },
    Reader { name: "tsv", fixtures: &[], read: |s, bytes, _| s.rows("rows.tsv", bytes) },
    Reader { name: "parquet", fixtures: &[], read: |s, bytes, _| s.rows("rows.parquet", bytes) },
    Reader {
        name: "tokenizer",
        fixtures: &["transformers/bert/tokenizer.json", "transformers/llama3/tokenizer.json"],
        read: |s, bytes, _| s.tokenize("transformers/bert", "tokenizer.json", bytes),
    },
    Reader {
        name: "tokenizer-config",
        fixtures: &["transformers/llama/tokenizer_config.json", "transformers/bert/tokenizer_config.json"],
        read: |s, bytes, _| s.tokenize("transformers/llama", "tokenizer_config.json", bytes),
    },
    Reader {
        name: "template",
        fixtures: &["transformers/llama3/chat_template.jinja", "transformers/qwen2/chat_template.jinja"],
        read: |s, bytes, _| s.tokenize("transformers/llama3", "chat_template.jinja", bytes),
    },
    Reader {
        name: "encoder-config",
        fixtures: &["transformers/bert/config.json", "transformers/roberta/config.json"],
        read: |s, bytes, device| s.load("transformers/bert", "config.json", bytes, device),
    },
    Reader {
        name: "decoder-config",
        fixtures: &["transformers/llama/config.json", "transformers/qwen2/config.json"],
        read: |s, bytes, device| s.load("transformers/llama", "config.json", bytes, device),
    },
    Reader {
        name: "weights",
        fixtures: &["transformers/bert/model.safetensors"],
        read: |s, bytes, device| s.load("transformers/bert", "model.safetensors", bytes, device),
    },
    Reader {
        name: "shards",
        fixtures: &["transformers/llama_bf16/model.safetensors.index.json"],
        read: |s, bytes, device| s.load("transformers/llama_bf16", "model.safetensors.index.json", bytes, device),
    },
    Reader { name: "gguf", fixtures: &[], read: |s, bytes, device| s.gguf(bytes, device) },
    Reader { name: "llama2c", fixtures: &[], read: |s, bytes, device| s.llama2c(bytes, device) },
    Reader {
        name: "adapter-config",
        fixtures: &["transformers/bert/query_value/adapter_config.json"],
        read: |s, bytes, device| s.adapter("adapter_config.json", bytes, device),
    },
    Reader {
        name: "adapter-weights",
        fixtures: &["transformers/bert/query_value/adapter_model.safetensors"],
        read: |s, bytes, device| s.adapter("adapter_model.safetensors", bytes, device),
    },
    Reader { name: "adapter-note", fixtures: &[], read: |s, bytes, device| s.adapter("hyperinf.json", bytes, device) },
    Reader {
        name: "gradients",
        fixtures: &["lora_tiny/train.safetensors", "lora_tiny/query.safetensors"],
        read: |s, bytes, _| s.gradients(bytes),
    },
    Reader { name: "journal", fixtures: &[], read: |s, bytes, _| stores::journal(&s.0, bytes) },
    Reader {
        name: "npy",
        fixtures: &["numpy/a.npy", "numpy/half.npy"],
        read: |s, bytes, _| stores::array(&s.file("a.npy", bytes)?),
    },
    Reader {
        name: "npz",
        fixtures: &["numpy/both.npz"],
        read: |s, bytes, _| stores::array(&s.file("both.npz", bytes)?),
    },
    Reader {
        name: "bergson",
        fixtures: &["numpy/bergson/info.json"],
        read: |s, bytes, _| stores::array(&s.folder("numpy/bergson", "info.json", bytes)?),
    },
    Reader {
        name: "index-manifest",
        fixtures: &["index/manifest.json"],
        read: |s, bytes, _| stores::index(&s.0, "manifest.json", bytes),
    },
    Reader {
        name: "index-journal",
        fixtures: &["index/journal.jsonl"],
        read: |s, bytes, _| stores::index(&s.0, "journal.jsonl", bytes),
    },
    Reader {
        name: "index-shard",
        fixtures: &["index/leaf-00000.safetensors"],
        read: |s, bytes, _| stores::index(&s.0, "leaf-00000.safetensors", bytes),
    },
    Reader {
        name: "index-rows",
        fixtures: &["index/leaf-00001.rows.jsonl"],
        read: |s, bytes, _| stores::index(&s.0, "leaf-00001.rows.jsonl", bytes),
    },
    Reader {
        name: "index-list",
        fixtures: &["index/index.json"],
        read: |s, bytes, _| stores::index(&s.0, "index.json", bytes),
    },
    Reader {
        name: "picture",
        fixtures: &[
            "images/files/palette.png",
            "images/files/rgba-16.png",
            "images/files/turned-6.png",
            "images/files/half.jpg",
            "images/files/progressive.jpg",
            "images/files/cmyk.jpg",
            "images/files/rgba.webp",
            "images/files/lossy.webp",
        ],
        read: |_, bytes, _| {
            shown(Picture::decode(bytes, &PictureLimits { pixels: 1 << 20, ..PictureLimits::default() }));
            Ok(())
        },
    },
    Reader {
        name: "image-processor",
        fixtures: &["images/processors/clip.json", "images/processors/smolvlm.json"],
        read: |s, bytes, _| {
            s.file("preprocessor_config.json", bytes)?;
            shown(ImageProcessor::load(&s.0));
            Ok(())
        },
    },
    Reader {
        name: "vision-config",
        fixtures: &["vision/smolvlm/config.json", "vision/idefics3/config.json"],
        read: |s, bytes, device| s.vision("vision/smolvlm", "config.json", bytes, device),
    },
    Reader {
        name: "llava-config",
        fixtures: &["vision/llava/config.json"],
        read: |s, bytes, device| s.vision("vision/llava", "config.json", bytes, device),
    },
    Reader {
        name: "pixart-config",
        fixtures: &["diffusion/transformer/config.json"],
        read: |s, bytes, device| {
            shown(load_pixart(&s.folder("diffusion/transformer", "config.json", bytes)?, device));
            Ok(())
        },
    },
    Reader {
        name: "unet-config",
        fixtures: &["diffusion/unet/config.json"],
        read: |s, bytes, device| {
            shown(load_unet(&s.folder("diffusion/unet", "config.json", bytes)?, device));
            Ok(())
        },
    },
    Reader {
        name: "pipeline-index",
        fixtures: &[],
        read: |s, bytes, device| s.pipeline("model_index.json", bytes, device),
    },
    Reader {
        name: "scheduler",
        fixtures: &[],
        read: |s, bytes, device| s.pipeline("scheduler/scheduler_config.json", bytes, device),
    },
    Reader {
        name: "lora-file",
        fixtures: &[],
        read: |s, bytes, device| {
            let model = load_pixart(&fixtures::path("diffusion/transformer"), device);
            let path = s.file("lora.safetensors", bytes)?;
            shown(Adapter::read_lora_file(&path, &model.expect("the fixture can be loaded").model));
            Ok(())
        },
    },
    Reader { name: "checkpoint", fixtures: &[], read: |s, bytes, _| stores::checkpoint(&s.0, bytes) },
    Reader { name: "recording", fixtures: &[], read: |s, bytes, _| stores::recording(&s.0, bytes) },
    Reader { name: "bank", fixtures: &[], read: |s, bytes, _| stores::bank(&s.0, bytes) },
    Reader { name: "words", fixtures: &[], read: |_, bytes, _| words(bytes) },
];

/// The reader of this name.
pub fn reader(name: &str) -> Option<&'static Reader> {
    READERS.iter().find(|reader| reader.name == name)
}

/// The folder of the seeds: `fuzz/seeds`.
pub fn seeds_folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fuzz", "seeds"].iter().collect()
}

impl Reader {
    /// Files to begin with: fixtures, and what `fuzz/seeds` keeps (valid files, and inputs that were faults once).
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub fn seeds(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> = self.fixtures.iter().map(|name| fixtures::path(name)).collect();
        let kept = seeds_folder().join(self.name);
        if kept.is_dir() {
            let mut kept = fs::read_dir(kept)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            kept.sort();
            paths.extend(kept);
        }
        Ok(paths)
    }

    /// Reads bytes; what the reader finds does not matter.
    ///
    /// # Errors
    ///
    /// If the scratch folder cannot be written.
    pub fn read(&self, scratch: &Scratch, bytes: &[u8], device: &Device) -> io::Result<()> {
        (self.read)(scratch, bytes, device)
    }
}

impl Scratch {
    /// A scratch folder at this path, which exists.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    /// The files of a fixture with one of them replaced.
    fn folder(&self, fixture: &str, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let folder = self.0.join(fixture.replace('/', "-"));
        if !folder.is_dir() {
            fs::create_dir_all(&folder)?;
            for entry in fs::read_dir(fixtures::path(fixture))? {
                let path = entry?.path();
                if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                    fs::copy(&path, folder.join(name))?;
                }
            }
        }
        fs::write(folder.join(name), bytes)?;
        Ok(folder)
    }

    fn rows(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(name, bytes)?;
        let options = ReadOptions { skip_bad_rows: true, ..ReadOptions::default() };
        shown(Dataset::<LabelledText>::read(Set::Train, &path, &options));
        shown(Dataset::<Illustrated>::read(Set::Train, &path, &options));
        shown(Dataset::<Captioned>::read(Set::Train, &path, &options));
        if let Some(data) = shown(Dataset::<Passage>::read(Set::Train, &path, &options)) {
            assert_eq!(data.rows.len() + data.bad.len(), data.total, "no row is lost");
            assert!(data.format == Format::Parquet || data.total <= bytes.len(), "every row takes a byte");
        }
        Ok(())
    }

    fn tokenize(&self, fixture: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.folder(fixture, name, bytes)?;
        let Some(tokenizer) = shown(TextTokenizer::read(&folder)) else { return Ok(()) };
        let limit = Limit::Cut(512);
        for text in ["", "The small red fox rests under the old tree.", "<|im_start|>Ünï 日本 \u{0}\n\n x1999"] {
            shown(tokenizer.classification(text, None, 0, limit));
            shown(tokenizer.completion(text, text, limit));
        }
        let messages = vec![Message::new("user", "The fox"), Message::new("assistant", "is <b>cold</b>.\n")];
        shown(tokenizer.chat(&Conversation::from(messages), limit));
        Ok(())
    }

    fn load(&self, fixture: &str, name: &str, bytes: &[u8], device: &Device) -> io::Result<()> {
        let folder = self.folder(fixture, name, bytes)?;
        shown(ModelFiles::find(&folder.to_string_lossy(), None, None));
        let options = ClassifierOptions { classes: Some(3), ..ClassifierOptions::default() };
        shown(load_classifier(&folder, &options, device));
        shown(load_causal_lm(&folder, device));
        Ok(())
    }

    fn vision(&self, fixture: &str, name: &str, bytes: &[u8], device: &Device) -> io::Result<()> {
        let folder = self.folder(fixture, name, bytes)?;
        shown(ModelFiles::find(&folder.to_string_lossy(), None, None));
        shown(load_vision_language(&folder, device));
        Ok(())
    }

    /// A pipeline with this as one of its files.
    fn pipeline(&self, name: &str, bytes: &[u8], device: &Device) -> io::Result<()> {
        let folder = self.0.join("pipeline");
        fs::create_dir_all(&folder)?;
        pipelines::write(&folder, Prediction::Epsilon, device);
        fs::write(folder.join(name), bytes)?;
        shown(ModelFiles::find(&folder.to_string_lossy(), None, None));
        shown(load_pipeline(&folder, device));
        Ok(())
    }

    fn gguf(&self, bytes: &[u8], device: &Device) -> io::Result<()> {
        let path = self.file("model.gguf", bytes)?;
        shown(gguf_tokenizer(&path));
        shown(load_gguf(&path, device));
        Ok(())
    }

    fn llama2c(&self, bytes: &[u8], device: &Device) -> io::Result<()> {
        shown(load_llama2c(&self.file("model.bin", bytes)?, device));
        shown(llama2c_tokenizer(&self.file("tokenizer.bin", bytes)?));
        Ok(())
    }

    fn adapter(&self, name: &str, bytes: &[u8], device: &Device) -> io::Result<()> {
        let folder = self.folder("transformers/bert/query_value", name, bytes)?;
        shown(ModelFiles::find(&fixtures::path("transformers/bert").to_string_lossy(), None, Some(&folder)));
        if let Some(adapter) = shown(Adapter::read(&folder)) {
            let options = ClassifierOptions { classes: Some(3), ..ClassifierOptions::default() };
            let model = load_classifier(&fixtures::path("transformers/bert"), &options, device);
            shown(adapter.apply(model.expect("the fixture can be loaded").model));
        }
        Ok(())
    }

    fn gradients(&self, bytes: &[u8]) -> io::Result<()> {
        let path = self.file("gradients.safetensors", bytes)?;
        let Some(file) = shown(GradientFile::open(&path)) else { return Ok(()) };
        for block in 0..file.blocks().len() {
            shown(file.read(block, 0..file.samples().min(16), Precision::Single));
        }
        shown(file.first_non_finite());
        Ok(())
    }
}

/// What is typed on a command line.
fn words(bytes: &[u8]) -> io::Result<()> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(()) };
    if let Some(method) = shown(text.parse::<MethodSpec>()) {
        assert_eq!(shown(method.to_string().parse::<MethodSpec>()), Some(method), "a method is read as it is written");
    }
    shown(Groups::parse(text, 7));
    Ok(())
}

/// The value; an error is written out, for its words are part of the reader.
pub(crate) fn shown<T, E: std::error::Error>(result: Result<T, E>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = source {
        assert!(!error.to_string().is_empty(), "an error says what is wrong");
        source = error.source();
    }
    None
}
