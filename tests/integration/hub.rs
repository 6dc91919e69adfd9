//! Models by their names on a hub, from a server of the test's own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use hyperinf::models::{Hub, LoadError, load_pipeline};
use serde_json::json;

use crate::folders::Model;
use crate::loading::causal;

/// A hub with one model, `someone/tiny`, and a list of what it was asked for.
struct Server {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Server {
    /// Serves the files of a folder until the test ends.
    fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        read_all(folder, "", &mut files);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &files, &log);
            }
        });
        Self { endpoint, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test failed while it held this").clone()
    }
}

/// Reads all files of a folder and those in it, by their names with `/`.
fn read_all(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for file in std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file")) {
        let name = format!("{prefix}{}", file.file_name().to_string_lossy());
        if file.path().is_dir() {
            read_all(&file.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(file.path()).expect("a file"));
        }
    }
}

/// Answers one request: a list of files, or a part of one.
fn answer(mut stream: TcpStream, files: &BTreeMap<String, Vec<u8>>, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut from = 0;
    let mut to = usize::MAX;
    for line in lines.take_while(|line| !line.is_empty()) {
        if line.to_ascii_lowercase().starts_with("authorization:") {
            log.lock().expect("no thread failed").push(line.clone());
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            let (first, last) = range.split_once('-').expect("a range");
            from = first.parse().expect("a number");
            to = last.parse().unwrap_or(usize::MAX);
        }
    }
    log.lock().expect("no thread failed").push(path.clone());
    let list = json!({
        "sha": COMMIT,
        "siblings": files.keys().map(|name| json!({ "rfilename": name })).collect::<Vec<_>>(),
    });
    let file = path.strip_prefix("/someone/tiny/resolve/main/").and_then(|name| files.get(name));
    let (status, headers, body) = match file {
        Some(bytes) => {
            let end = to.saturating_add(1).min(bytes.len());
            let tag =
                bytes.iter().fold(bytes.len() as u64, |tag, &byte| tag.wrapping_mul(31).wrapping_add(byte.into()));
            let range = format!("bytes {from}-{}/{}", end.saturating_sub(1), bytes.len());
            let headers = format!("ETag: \"{tag:x}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: {range}\r\n");
            ("206 Partial Content", headers, bytes[from..end].to_vec())
        }
        None if path == "/api/models/someone/tiny/revision/main" => {
            ("200 OK", "Content-Type: application/json\r\n".to_owned(), list.to_string().into_bytes())
        }
        None => ("404 Not Found", String::new(), b"no such thing".to_vec()),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    // The other side may have had enough.
    let _ = stream.write_all(&[head.into_bytes(), body].concat());
}

fn hub(server: &Server, cache: &Path) -> Hub {
    Hub { endpoint: Some(server.endpoint.clone()), cache: Some(cache.to_owned()), ..Hub::default() }
}

#[test]
fn a_name_is_fetched_once_and_then_needs_no_network() {
    for folder in [Model::llama().write(), Model::llama().write_sharded()] {
        std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("a writable folder");
        std::fs::write(folder.path().join("README.md"), "not wanted").expect("a writable folder");
        std::fs::write(folder.path().join("pytorch_model.bin"), "not wanted").expect("a writable folder");
        let server = Server::of(folder.path());
        let cache = tempfile::tempdir().expect("a folder for temporary files");
        let path = hub(&server, cache.path()).resolve("someone/tiny").expect("it is served");
        assert!(path.starts_with(cache.path()), "{}", path.display());
        causal(&path);
        let asked = server.asked();
        assert!(asked.iter().any(|path| path.ends_with("/config.json")), "{asked:?}");
        assert!(!asked.iter().any(|path| path.ends_with(".bin") || path.ends_with(".md")), "{asked:?}");

        let offline = Hub { offline: true, ..hub(&server, cache.path()) };
        assert_eq!(offline.resolve("someone/tiny").expect("it is in the cache"), path);
        assert_eq!(hub(&server, cache.path()).resolve("someone/tiny").expect("it is in the cache"), path);
        assert_eq!(server.asked(), asked, "the network was used for what is in the cache");
    }
}

#[test]
fn a_tokenizer_that_the_cache_lacks_is_fetched_where_there_is_one() {
    let folder = Model::llama().write();
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let without = Server::of(folder.path());
    let path = hub(&without, cache.path()).resolve("someone/tiny").expect("it is served");
    std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("a writable folder");
    let with = Server::of(folder.path());
    let offline = Hub { offline: true, ..hub(&with, cache.path()) };
    assert_eq!(offline.resolve("someone/tiny").expect("it is in the cache"), path);
    assert!(!path.join("tokenizer.json").exists());
    assert_eq!(hub(&with, cache.path()).resolve("someone/tiny").expect("it is served"), path);
    assert!(path.join("tokenizer.json").exists());
}

#[test]
fn a_token_is_sent_and_never_shown() {
    let folder = Model::llama().write();
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let server = Server::of(folder.path());
    let hub = Hub { token: Some("a-secret".into()), ..hub(&server, cache.path()) };
    hub.resolve("someone/tiny").expect("it is served");
    assert!(server.asked().iter().any(|line| line.ends_with("Bearer a-secret")), "{:?}", server.asked());
    assert!(!format!("{hub:?}").contains("a-secret"));
}

#[test]
fn an_adapter_is_fetched_too() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    for name in ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"] {
        std::fs::write(folder.path().join(name), name).expect("a writable folder");
    }
    let server = Server::of(folder.path());
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let path = hub(&server, cache.path()).resolve("someone/tiny").expect("it is served");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        assert_eq!(std::fs::read_to_string(path.join(name)).expect("fetched"), name);
    }
    assert!(!path.join("adapter_model.bin").exists());
}

#[test]
fn a_text_to_image_model_is_fetched_with_its_parts() {
    let (_, device) = hyperinf_tests::devices().remove(0);
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let mut files = BTreeMap::new();
    read_all(&hyperinf_tests::fixtures::path("diffusion/stable"), "", &mut files);
    for other in ["unet/diffusion_pytorch_model.bin", "safety_checker/config.json", "v1-5.safetensors"] {
        files.insert(other.to_owned(), b"not wanted".to_vec());
    }
    // Of half precision alone.
    let weights = files.remove("vae/diffusion_pytorch_model.safetensors").expect("the fixture has it");
    files.insert("vae/diffusion_pytorch_model.fp16.safetensors".to_owned(), weights);
    for (name, bytes) in &files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        std::fs::write(path, bytes).expect("a writable folder");
    }
    let server = Server::of(folder.path());
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let path = hub(&server, cache.path()).resolve("someone/tiny").expect("it is served");
    load_pipeline(&path, &device).expect("it is complete");
    for other in ["unet/diffusion_pytorch_model.bin", "safety_checker", "v1-5.safetensors"] {
        assert!(!path.join(other).exists(), "{other}");
    }
    let asked = server.asked();
    let offline = Hub { offline: true, ..hub(&server, cache.path()) };
    assert_eq!(offline.resolve("someone/tiny").expect("it is in the cache"), path);
    assert_eq!(hub(&server, cache.path()).resolve("someone/tiny").expect("it is in the cache"), path);
    assert_eq!(server.asked(), asked, "the network was used for what is in the cache");
    for part in ["unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "scheduler/scheduler_config.json"]
    {
        std::fs::remove_file(path.join(part)).expect("it was fetched");
        offline.resolve("someone/tiny").expect_err(part);
        assert_eq!(hub(&server, cache.path()).resolve("someone/tiny").expect("it is served"), path, "{part}");
    }
    load_pipeline(&path, &device).expect("it is complete again");
}

#[test]
fn a_download_that_was_broken_off_goes_on() {
    let folder = Model::llama().write_sharded();
    let server = Server::of(folder.path());
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let path = hub(&server, cache.path()).resolve("someone/tiny").expect("it is served");
    std::fs::remove_file(path.join(crate::folders::shard_name(1))).expect("it was fetched");
    let before = server.asked().len();
    assert_eq!(hub(&server, cache.path()).resolve("someone/tiny").expect("it is served"), path);
    causal(&path);
    let again = server.asked().split_off(before);
    assert!(!again.iter().any(|path| path.ends_with("/config.json")), "{again:?}");
}

#[test]
fn what_cannot_be_fetched_says_what_to_put_where() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let server = Server::of(folder.path());
    let check = |hub: Hub, name: &str, expected: &str| {
        let error = hub.resolve(name).expect_err("it is not there");
        assert!(matches!(error, LoadError::Hub { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("put the model's `config.json`, `tokenizer.json` and `model.safetensors`"), "{text}");
    };
    let here = hub(&server, cache.path());
    check(Hub { offline: true, ..here.clone() }, "someone/tiny", "HF_HUB_OFFLINE");
    check(here.clone(), "someone/else", "404");
    check(here.clone(), "someone/tiny", "neither safetensors weights nor an adapter");
    // Nobody listens on a port that was given back.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    check(Hub { endpoint: Some(format!("http://{free}")), ..here }, "someone/tiny", "onnect");
}

#[test]
fn paths_come_first_and_what_is_neither_is_an_error() {
    let folder = Model::llama().write();
    let hub = Hub { offline: true, ..Hub::default() };
    let name = folder.path().to_string_lossy();
    assert_eq!(hub.resolve(&name).expect("it is there"), folder.path());
    for name in ["/no/such/folder", "a/b/c", "../up", "./here", "no such name", ""] {
        let error = hub.resolve(name).expect_err("neither");
        assert!(matches!(error, LoadError::NoSuchModel { .. }), "{name}: {error}");
    }
}

#[test]
fn the_cache_is_where_hugging_faces_programs_have_it() {
    let check = |variables: &[(&str, &str)], expected: &str| {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        let cache = Hub::from_variables(find).cache.map(|path| path.to_string_lossy().into_owned());
        assert_eq!(cache.as_deref(), Some(expected), "{variables:?}");
    };
    let home = ("HOME", "/home/me");
    check(&[home], "/home/me/.cache/huggingface/hub");
    check(&[home, ("XDG_CACHE_HOME", "/cache")], "/cache/huggingface/hub");
    check(&[home, ("XDG_CACHE_HOME", "/cache"), ("HF_HOME", "/hf")], "/hf/hub");
    check(&[home, ("HF_HOME", "~/hf")], "/home/me/hf/hub");
    check(&[home, ("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old");
    check(&[home, ("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/hf")], "/new");
    check(&[home, ("HF_HUB_CACHE", ""), ("HF_HOME", "")], "/home/me/.cache/huggingface/hub");
    check(&[("HF_HUB_CACHE", "relative/cache")], "relative/cache");
}

#[test]
fn only_the_words_for_yes_forbid_the_network() {
    let offline = |variables: &[(&str, &str)]| {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Hub::from_variables(find).offline
    };
    for yes in ["1", "true", "True", "TRUE", "yes", "YES", "on", "On"] {
        assert!(offline(&[("HF_HUB_OFFLINE", yes)]), "{yes}");
        assert!(offline(&[("TRANSFORMERS_OFFLINE", yes)]), "{yes}");
    }
    for no in ["0", "false", "False", "no", "off", "", "2"] {
        assert!(!offline(&[("HF_HUB_OFFLINE", no)]), "{no}");
    }
    assert!(!offline(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]));
    assert!(!offline(&[]));
}

#[test]
fn a_token_comes_from_its_variables_or_the_file_of_a_login() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let home = folder.path().to_string_lossy().into_owned();
    std::fs::write(folder.path().join("token"), "left\n").expect("a writable folder");
    std::fs::write(folder.path().join("other"), "other\n").expect("a writable folder");
    let other = folder.path().join("other").to_string_lossy().into_owned();
    let token = |variables: &[(&str, &str)]| {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Hub::from_variables(find).token
    };
    assert_eq!(token(&[("HF_TOKEN", "given"), ("HF_HOME", &home)]).as_deref(), Some("given"));
    assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_HOME", &home)]).as_deref(), Some("old"));
    assert_eq!(token(&[("HF_TOKEN_PATH", &other), ("HF_HOME", &home)]).as_deref(), Some("other"));
    assert_eq!(token(&[("HF_HUB_CACHE", "/elsewhere"), ("HF_HOME", &home)]).as_deref(), Some("left"));
    assert_eq!(token(&[("HF_HOME", "/no/such/folder")]), None);
}

#[test]
fn a_copy_of_a_cache_without_links_is_a_cache() {
    let folder = Model::llama().write();
    let server = Server::of(folder.path());
    let cache = tempfile::tempdir().expect("a folder for temporary files");
    let path = hub(&server, cache.path()).resolve("someone/tiny").expect("it is served");
    // What a copy leaves of a link: a file with its target.
    for file in std::fs::read_dir(&path).expect("a folder").map(|file| file.expect("a file").path()) {
        let target = std::fs::read_link(&file).expect("a link to the content");
        let name = target.file_name().expect("a file").to_string_lossy().into_owned();
        std::fs::remove_file(&file).expect("a writable folder");
        std::fs::write(&file, format!("../../blobs/{name}")).expect("a writable folder");
    }
    let main = path.ancestors().nth(2).expect("the model's folder").join("refs/main");
    let version = std::fs::read_to_string(&main).expect("the main version");
    std::fs::write(&main, format!("{version}\n")).expect("a writable folder");
    let offline = Hub { offline: true, ..hub(&server, cache.path()) };
    assert_eq!(offline.resolve("someone/tiny").expect("it is in the cache"), path);
    causal(&path);
}
