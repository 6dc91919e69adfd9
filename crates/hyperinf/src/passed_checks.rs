//! Which devices have passed their check, in this process and in a file.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use hyperinf_store::Staged;

static IN_PROCESS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The record of one device.
pub(crate) struct Passed<'a> {
    device: String,
    /// The file, and the device's line in it.
    file: Option<(&'a Path, String)>,
}

impl<'a> Passed<'a> {
    /// Of a device by its name in this process. The file's line also needs its name across processes and the versions
    /// of its driver; without them nothing is remembered there.
    pub(crate) fn new(
        device: String,
        identity: Option<String>,
        driver: Option<String>,
        file: Option<&'a Path>,
    ) -> Self {
        let line = || Some(one_line(&[env!("CARGO_PKG_VERSION"), &device, &identity?, &driver?]));
        let file = file.and_then(|path| Some((path, line()?)));
        Self { device, file }
    }

    /// Whether the device has passed before.
    pub(crate) fn before(&self) -> bool {
        let listed = |(path, line): &(&Path, String)| lines(path).any(|known| known == *line);
        in_process(|passed| passed.contains(&self.device)) || self.file.as_ref().is_some_and(listed)
    }

    /// Lists the device as passed. A file that cannot be written costs another check next time, and nothing else.
    pub(crate) fn remember(self) {
        in_process(|passed| passed.insert(self.device));
        if let Some((path, line)) = self.file {
            let all: Vec<String> = lines(path).chain([line]).collect();
            let made = path.parent().map(fs::create_dir_all);
            if made.is_some_and(|made| made.is_ok()) {
                let write = |file: &mut fs::File| Ok(writeln!(file, "{}", all.join("\n"))?);
                Staged::new(path, write).and_then(Staged::place).ok();
            }
        }
    }
}

fn in_process<T>(with: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
    with(&mut IN_PROCESS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The lines of a file; none of one that cannot be read, or is too long for a list of devices.
fn lines(path: &Path) -> impl Iterator<Item = String> {
    let regular = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() < 1 << 20);
    let text = if regular { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
    text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn one_line(parts: &[&str]) -> String {
    let clean = |part: &&str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    parts.iter().map(clean).collect::<Vec<_>>().join(" | ")
}

/// The versions of the kernel and of graphics drivers on Linux; `None` elsewhere.
///
/// Drivers of NVIDIA and AMD tell their versions. Vulkan's lie in files that their packages replace, so their dates
/// stand for them.
pub(crate) fn driver() -> Option<String> {
    let mut all = vec![fs::read_to_string("/proc/sys/kernel/osrelease").ok()?];
    let told = ["/proc/driver/nvidia/version", "/sys/module/nvidia/version", "/sys/module/amdgpu/version"];
    all.extend(told.iter().filter_map(|path| fs::read_to_string(path).ok()));
    let folders = ["/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d"].map(PathBuf::from);
    let mut manifests: Vec<PathBuf> = folders.iter().flat_map(entries).collect();
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        manifests.extend(std::env::var_os(variable).iter().flat_map(std::env::split_paths));
    }
    manifests.sort();
    all.extend(manifests.iter().filter_map(|path| dated(path)));
    Some(one_line(&all.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn entries(folder: &PathBuf) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|found| found.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn dated(path: &Path) -> Option<String> {
    let seconds = fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(format!("{} {seconds}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lists_what_passed_with_this_driver_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cache").join("devices");
        let of = |name: &str, identity: Option<&str>, driver: Option<&str>| {
            Passed::new(name.into(), identity.map(Into::into), driver.map(Into::into), Some(&path))
        };
        let forget = || in_process(|passed| passed.retain(|name| !name.starts_with("test")));
        let card = || of("test a", Some("card"), Some("driver\n1"));
        assert!(!card().before());
        card().remember();
        assert!(of("test a", None, None).before(), "in this process");
        forget();
        assert!(card().before(), "the file lists it");
        for other in [
            of("test b", Some("card"), Some("driver\n1")),
            of("test a", Some("card"), Some("driver\n2")),
            of("test a", Some("another card"), Some("driver\n1")),
            of("test a", None, Some("driver\n1")),
            of("test a", Some("card"), None),
        ] {
            assert!(!other.before());
        }
        of("test b", Some("card"), Some("driver\n1")).remember();
        of("test c", Some("card"), None).remember();
        forget();
        assert!(card().before() && of("test b", Some("card"), Some("driver\n1")).before());
        assert_eq!(lines(&path).count(), 2);
    }

    #[test]
    fn a_file_that_is_none_is_not_trusted_or_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let passed = || Passed::new("test d".into(), Some("card".into()), Some("driver".into()), Some(folder.path()));
        assert!(!passed().before());
        passed().remember();
        assert!(folder.path().is_dir());
    }

    #[test]
    fn versions_are_one_line() {
        if let Some(versions) = driver() {
            assert!(!versions.is_empty() && !versions.contains('\n'), "{versions}");
        }
    }
}
