use std::path::{Path, PathBuf};

use crate::LoadError;

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
    /// The hub of the environment variables `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN`, which have the
    /// same meaning as for Hugging Face's programs.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            endpoint: text("HF_ENDPOINT"),
            cache: std::env::var_os("HF_HOME").map(|home| Path::new(&home).join("hub")),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
            token: text("HF_TOKEN"),
        }
    }

    /// The path of a model or adapter: `name` itself if that path exists, otherwise the folder of the model with this
    /// name in the cache, after a download of what is missing there.
    ///
    /// Settings, tokenizer and safetensors weights are downloaded. A model that is complete in the cache needs no
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
    use hf_hub::{Cache, CacheRepo};
    use serde_json::Value;

    use super::Hub;
    use crate::files::shards::is_file_name;

    const ADAPTER: &str = "adapter_model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    /// The files to download besides weights, where they exist.
    const SMALL: [&str; 8] = [
        "config.json",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
    ];

    impl Hub {
        /// The folder of a model in the cache, complete.
        pub(super) fn fetch(&self, name: &str) -> Result<PathBuf, String> {
            let cache = self.cache.clone().map_or_else(Cache::from_env, Cache::new);
            let cached = complete(&cache.model(name.to_owned()));
            // Other programs may have downloaded nothing but the weights.
            let whole = |folder: &PathBuf| ["tokenizer.json", ADAPTER].iter().any(|file| folder.join(file).exists());
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
        let folders = wanted.iter().map(|name| get(name).map(|path| folder_of(&path, name)));
        let mut folders = folders.collect::<Result<Vec<PathBuf>, String>>()?;
        folders.dedup();
        Ok(if folders.len() == 1 { folders.pop() } else { None })
    }

    /// The folder of a model or adapter that is complete in the cache, which the file downloaded last shows.
    fn complete(cache: &CacheRepo) -> Option<PathBuf> {
        let folder = |name: &str| cache.get(name).map(|path| folder_of(&path, name));
        if cache.get("adapter_config.json").is_some() {
            return folder(ADAPTER);
        }
        cache.get("config.json")?;
        if let Some(folder) = folder("model.safetensors") {
            return Some(folder);
        }
        let files = shards(&cache.get(INDEX)?).ok()?;
        files.iter().all(|file| cache.get(file).is_some()).then(|| folder(INDEX)).flatten()
    }

    /// The weight files that an index names.
    fn shards(index: &Path) -> Result<Vec<String>, String> {
        let text = std::fs::read_to_string(index).map_err(|error| format!("{}: {error}", index.display()))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", index.display()))?;
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
