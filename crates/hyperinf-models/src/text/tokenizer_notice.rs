use std::fmt;
use std::path::PathBuf;

/// What the user of a tokenizer should know about how its files were read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerNotice {
    /// The file asks for tokens that are drawn at random; they are not.
    Dropout {
        /// The file.
        path: PathBuf,
        /// The probability with which merges would be left out.
        dropout: String,
    },
    /// Parts of `tokenizer.json` are replaced by those that the tokenizer's class builds.
    Rebuilt {
        /// The file.
        path: PathBuf,
        /// The class.
        class: &'static str,
        /// The parts.
        parts: Vec<&'static str>,
    },
    /// A setting has no effect, as in transformers.
    Ignored {
        /// The file.
        path: PathBuf,
        /// The setting.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// What decides instead.
        because: &'static str,
    },
    /// Parts of a tokenizer were left aside, because there is no `tokenizer.json` with them.
    LeftAside {
        /// The folder.
        folder: PathBuf,
        /// The files.
        files: Vec<String>,
    },
    /// There is no chat template, and rows are written as LLaVA 1.5 writes them.
    LlavaPrompt,
    /// Special tokens stand around the text of a chat template, as transformers' processors put them.
    Ends {
        /// Those before it.
        before: String,
        /// Those after it.
        after: String,
    },
    /// One of two tokenizers was used, and they differ.
    Chosen {
        /// The one used.
        used: PathBuf,
        /// The one left aside.
        other: PathBuf,
        /// Whether texts become other tokens.
        tokens: bool,
        /// Whether the chat templates differ.
        template: bool,
    },
}

impl fmt::Display for TokenizerNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropout { path, dropout } => write!(
                f,
                "`{}` asks for a dropout of {dropout}, which draws other tokens in every run: it is switched off",
                path.display()
            ),
            Self::Rebuilt { path, class, parts } => write!(
                f,
                "`{}` has another {} than the tokenizer `{class}`, whose own is used, as in transformers 5 \
                 (transformers 4 uses the file's, and both do with \"tokenizer_class\": \"PreTrainedTokenizerFast\")",
                path.display(),
                parts.join(", another ")
            ),
            Self::Ignored { path, field, found, because } => {
                write!(f, "`{field}` = {found} in `{}` has no effect: {because}", path.display())
            }
            Self::LeftAside { folder, files } => write!(
                f,
                "`{}` has {} but no `tokenizer.json`: another tokenizer is used",
                folder.display(),
                files.iter().map(|file| format!("`{file}`")).collect::<Vec<_>>().join(", ")
            ),
            Self::LlavaPrompt => {
                f.write_str("the tokenizer has no chat template: rows become `USER: … ASSISTANT: …`, as of LLaVA 1.5")
            }
            Self::Ends { before, after } => {
                let ends = [("begin", before), ("end", after)].into_iter().filter(|(_, tokens)| !tokens.is_empty());
                let ends: Vec<String> = ends.map(|(verb, tokens)| format!("{verb} with `{tokens}`")).collect();
                write!(
                    f,
                    "the chat template writes no BOS: rows {}, as transformers' processors tokenise them (TRL trains \
                     without)",
                    ends.join(" and ")
                )
            }
            Self::Chosen { used, other, tokens, template } => {
                let what = match (tokens, template) {
                    (true, true) => "other tokens and another chat template",
                    (false, true) => "another chat template",
                    _ => "other tokens",
                };
                write!(f, "the tokenizer in `{}` is used; that in `{}` has {what}", used.display(), other.display())
            }
        }
    }
}
