use std::path::{Path, PathBuf};

use crate::load::LoadError;

/// Where models are fetched from that are not given by a path.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hub {
    /// The address; `None` is Hugging Face's own.
    pub endpoint: Option<String>,
    /// The folder that keeps what was fetched; `None` is the one shared by Hugging Face's programs.
    pub cache: Option<PathBuf>,
    /// Whether only the cache is looked at.
    pub offline: bool,
    /// The key to models that are not open to all; `None` is the one that a login has left in the cache, if any.
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
    /// The hub of the environment: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN`, as Hugging Face's programs
    /// have them.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            endpoint: text("HF_ENDPOINT"),
            cache: std::env::var_os("HF_HOME").map(|home| Path::new(&home).join("hub")),
            offline: text("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
            token: text("HF_TOKEN"),
        }
    }

    /// The path of a model or adapter: the one given, if there is something, else that of the model of this name in
    /// the cache, after fetching what is missing there.
    ///
    /// Fetched are settings, tokenizer and weights in safetensors. A model that is complete in the cache needs no
    /// network.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoSuchModel`] if it is neither a path nor like a name, [`LoadError::Hub`] if it cannot be fetched.
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

/// [`Hub::resolve`] with the hub of the environment.
///
/// # Errors
///
/// As [`Hub::resolve`].
pub fn resolve(name: &str) -> Result<PathBuf, LoadError> {
    Hub::from_env().resolve(name)
}

/// Whether it is like `organisation/name` or `name`.
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
    use crate::shards::is_file_name;

    const ADAPTER: &str = "adapter_model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    /// What may be there beside weights.
    const SMALL: [&str; 7] = [
        "config.json",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
    ];

    impl Hub {
        /// The folder of a model in the cache, complete.
        pub(super) fn fetch(&self, name: &str) -> Result<PathBuf, String> {
            let cache = self.cache.clone().map_or_else(Cache::from_env, Cache::new);
            let cached = complete(&cache.model(name.to_owned()));
            // Other programs may have fetched the weights alone.
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

        /// The folder of a model, after fetching what the cache lacks.
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
            // Should the model change between two files, they lie in two folders: once more then.
            for _ in 0..2 {
                if let Some(folder) = fetch_all(&repo, &there)? {
                    return Ok(folder);
                }
            }
            Err("it changed while it was being fetched; try again".to_owned())
        }
    }

    /// Fetches what is needed of the files that are there, weights and then an adapter last; `None` if they are of
    /// different versions.
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
            return Err(format!("it has no weights in safetensors, nor an adapter (its files: {files})"));
        }
        let folders = wanted.iter().map(|name| get(name).map(|path| folder_of(&path, name)));
        let mut folders = folders.collect::<Result<Vec<PathBuf>, String>>()?;
        folders.dedup();
        Ok(if folders.len() == 1 { folders.pop() } else { None })
    }

    /// The folder of a model or adapter of which all is in the cache; what is fetched last tells.
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

    /// The files that an index names.
    fn shards(index: &Path) -> Result<Vec<String>, String> {
        let text = std::fs::read_to_string(index).map_err(|error| format!("{}: {error}", index.display()))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", index.display()))?;
        let names = value["weight_map"].as_object().into_iter().flat_map(|map| map.values());
        let mut files: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        files.sort_unstable();
        files.dedup();
        match files.iter().find(|file| !is_file_name(file)) {
            Some(file) => Err(format!("{INDEX} names `{file}`, which is no name of a file in its folder")),
            None if files.is_empty() => Err(format!("{INDEX} names no files")),
            None => Ok(files),
        }
    }

    /// The folder that a file's path within a model is relative to.
    fn folder_of(path: &Path, name: &str) -> PathBuf {
        path.ancestors().nth(name.split('/').count()).unwrap_or(path).to_owned()
    }
}
