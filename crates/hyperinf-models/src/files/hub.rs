use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::LoadError;

/// The values that switch a variable on.
const TRUE: [&str; 4] = ["1", "true", "yes", "on"];

/// A model hub: where models that are given by name are downloaded from, and where they are cached.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hub {
    /// The address; `None` for Hugging Face's.
    pub endpoint: Option<String>,
    /// The cache folder; `None` for the one shared by Hugging Face's programs.
    pub cache: Option<PathBuf>,
    /// Whether to use only the cache.
    pub offline: bool,
    /// The access token for restricted models; `None` for the one that a login left in the cache, if any.
    pub token: Option<String>,
}

/// Shows everything but the token.
impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoint, cache, offline, token } = self;
        let token = token.as_ref().map(|_| "…");
        f.debug_struct("Hub")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("offline", offline)
            .field("token", &token)
            .finish()
    }
}

impl Hub {
    /// The hub of the environment variables that Hugging Face's programs read, with the same meaning.
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in the home | the cache |
    /// | `HF_HOME`, else `huggingface` in `XDG_CACHE_HOME`, else in `~/.cache` | the home |
    /// | `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE`: `1`, `true`, `yes`, `on` | only the cache is used |
    /// | `HF_TOKEN`, else `HUGGING_FACE_HUB_TOKEN`, else the file `HF_TOKEN_PATH`, else `token` in the home | the token |
    /// | `HF_ENDPOINT` | the address |
    ///
    /// An empty variable counts as absent; `~` begins a path in the user's home.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// [`from_env`](Self::from_env) with other variables than those of the environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let present = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| present(name).and_then(|value| value.into_string().ok());
        let user = present("HOME").or_else(|| present("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| present(name).map(|value| expanded(Path::new(&value), user.as_deref()));
        let caches = path("XDG_CACHE_HOME").or_else(|| Some(user.as_ref()?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(caches?.join("huggingface")));
        let within = |name: &str| home.as_ref().map(|home| home.join(name));
        let left = || std::fs::read_to_string(path("HF_TOKEN_PATH").or_else(|| within("token"))?).ok();
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(left);
        let offline = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE"));
        Self {
            endpoint: text("HF_ENDPOINT"),
            cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).or_else(|| within("hub")),
            offline: offline.is_some_and(|value| TRUE.contains(&value.to_ascii_lowercase().as_str())),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
        }
    }

    /// The path of a model or adapter: `name` itself if that path exists, otherwise the folder of the model with this
    /// name in the cache, after a download of what is missing there.
    ///
    /// Settings, tokenizer and safetensors weights are downloaded, of diffusers' folders those of every part. A model that is complete in the cache needs no
    /// network.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoSuchModel`] if `name` is neither a path nor has the form of a name, [`LoadError::Hub`] if the
    /// download fails.
    pub fn resolve(&self, name: &str) -> Result<PathBuf, LoadError> {
        let path = Path::new(name);
        if path.exists() {
            return Ok(path.to_owned());
        }
        if !is_name(name) {
            return Err(LoadError::NoSuchModel { name: name.to_owned() });
        }
        self.fetch(name).map_err(|reason| LoadError::Hub { name: name.to_owned(), reason })
    }

    #[cfg(not(feature = "hub"))]
    fn fetch(&self, _name: &str) -> Result<PathBuf, String> {
        Err("this program was built without the feature `hub`".to_owned())
    }
}

/// A path whose `~` stands for the user's home.
fn expanded(path: &Path, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path.to_owned(),
    }
}

/// Whether it has the form `organisation/name` or `name`.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.starts_with(['.', '-'])
            && !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.split('/').count() <= 2 && name.split('/').all(part)
}

#[cfg(feature = "hub")]
mod fetch {
    use std::path::{Path, PathBuf};

    use hf_hub::api::sync::{ApiBuilder, ApiRepo};
    use hf_hub::{Cache, Repo};
    use serde_json::Value;

    use super::Hub;
    use crate::files::hub_pipeline::{self, PIPELINE};
    use crate::files::open::read_regular;
    use crate::files::shards::is_file_name;

    const ADAPTER: &str = "adapter_model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    /// The files to download besides weights, where they exist.
    const SMALL: [&str; 15] = [
        "config.json",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/default.jinja",
        "additional_chat_templates/tool_use.jinja",
    ];

    impl Hub {
        /// The folder of a model in the cache, complete.
        pub(super) fn fetch(&self, name: &str) -> Result<PathBuf, String> {
            let cache = self.cache.clone().map_or_else(Cache::from_env, Cache::new);
            let cached = snapshot(&cache, name).filter(|folder| complete(folder));
            // Other programs may have downloaded nothing but the weights.
            let whole =
                |folder: &PathBuf| ["tokenizer.json", ADAPTER, PIPELINE].iter().any(|file| folder.join(file).exists());
            match cached {
                Some(folder) if self.offline || whole(&folder) => Ok(folder),
                Some(folder) => Ok(self.download(name, cache).unwrap_or(folder)),
                None if self.offline => {
                    Err("it is not complete in the cache, and HF_HUB_OFFLINE forbids the network".to_owned())
                }
                None => self.download(name, cache),
            }
        }

        /// The folder of a model, after a download of what the cache lacks.
        fn download(&self, name: &str, cache: Cache) -> Result<PathBuf, String> {
            let mut builder = ApiBuilder::from_cache(cache);
            if let Some(endpoint) = &self.endpoint {
                builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
            }
            if self.token.is_some() {
                builder = builder.with_token(self.token.clone());
            }
            let repo = builder.build().map_err(|error| error.to_string())?.model(name.to_owned());
            let there: Vec<String> = repo
                .info()
                .map_err(|error| error.to_string())?
                .siblings
                .into_iter()
                .map(|file| file.rfilename)
                .collect();
            // If the model changes during the download, its files end up in two folders: try again.
            for _ in 0..2 {
                if let Some(folder) = fetch_all(&repo, &there)? {
                    return Ok(folder);
                }
            }
            Err("it changed while it was being fetched; try again".to_owned())
        }
    }

    /// Downloads the needed files, weights and adapter last; `None` if they belong to different versions.
    fn fetch_all(repo: &ApiRepo, there: &[String]) -> Result<Option<PathBuf>, String> {
        let has = |name: &str| there.iter().any(|file| file == name);
        let get = |name: &str| repo.get(name).map_err(|error| format!("{name}: {error}"));
        let all = |wanted: &[String]| {
            let folders = wanted.iter().map(|name| get(name).map(|path| folder_of(&path, name)));
            let mut folders = folders.collect::<Result<Vec<PathBuf>, String>>()?;
            folders.dedup();
            Ok(if folders.len() == 1 { folders.pop() } else { None })
        };
        if has(PIPELINE) {
            return all(&hub_pipeline::wanted(there)?);
        }
        let mut wanted: Vec<String> = SMALL.iter().filter(|name| has(name)).map(|&name| name.to_owned()).collect();
        let small = wanted.len();
        if has("model.safetensors") {
            wanted.push("model.safetensors".to_owned());
        } else if has(INDEX) {
            wanted.extend(shards(&get(INDEX)?)?);
            wanted.push(INDEX.to_owned());
        }
        if has("adapter_config.json") {
            wanted.push(ADAPTER.to_owned());
        }
        if wanted.len() == small {
            let files = there.join(", ");
            return Err(format!("it has neither safetensors weights nor an adapter (its files: {files})"));
        }
        all(&wanted)
    }

    /// The folder of a model's main version in the cache.
    fn snapshot(cache: &Cache, name: &str) -> Option<PathBuf> {
        let model = cache.path().join(Repo::model(name.to_owned()).folder_name());
        let version = String::from_utf8(read_regular(&model.join("refs").join("main")).ok()?).ok()?;
        Some(version.trim())
            .filter(|version| is_file_name(version))
            .map(|version| model.join("snapshots").join(version))
    }

    /// Whether a folder has all files of a model or adapter; a link without its content counts as absent.
    fn complete(folder: &Path) -> bool {
        let has = |name: &str| folder.join(name).exists();
        if has("adapter_config.json") {
            return has(ADAPTER);
        }
        if has(PIPELINE) {
            return hub_pipeline::complete(folder);
        }
        let sharded = || shards(&folder.join(INDEX)).is_ok_and(|files| files.iter().all(|file| has(file)));
        has("config.json") && (has("model.safetensors") || sharded())
    }

    /// The weight files that an index names.
    fn shards(index: &Path) -> Result<Vec<String>, String> {
        let bytes = read_regular(index).map_err(|error| format!("{}: {error}", index.display()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", index.display()))?;
        let names = value["weight_map"].as_object().into_iter().flat_map(|map| map.values());
        let mut files: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        files.sort_unstable();
        files.dedup();
        match files.iter().find(|file| !is_file_name(file)) {
            Some(file) => Err(format!("{INDEX} names `{file}`, which is not the name of a file in its folder")),
            None if files.is_empty() => Err(format!("{INDEX} names no files")),
            None => Ok(files),
        }
    }

    /// The folder of a model, from the path of one of its files.
    fn folder_of(path: &Path, name: &str) -> PathBuf {
        path.ancestors().nth(name.split('/').count()).unwrap_or(path).to_owned()
    }
}
