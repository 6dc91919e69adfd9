//! Results get their names together, and what interrupted runs leave is taken away.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;

use hyperinf_store::{OutputFolder, Staged, StoreError, publish};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("writable");
    }
    folder
}

fn contents(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut found: Vec<(String, String)> = entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let kind = entry.file_type().expect("readable");
            let text = if kind.is_symlink() {
                "a link".to_owned()
            } else if kind.is_dir() {
                "a folder".to_owned()
            } else {
                fs::read_to_string(entry.path()).expect("readable")
            };
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .collect();
    found.sort();
    found
}

fn staged<'a>(files: &'a [(PathBuf, &'static str)]) -> Vec<Staged<'a>> {
    let stage = |(path, text): &'a (PathBuf, &'static str)| {
        Staged::new(path, |file| Ok(file.write_all(text.as_bytes())?)).expect("writable")
    };
    files.iter().map(stage).collect()
}

/// Places `new` over `old`, removing `stale`; what is there then.
#[track_caller]
fn check(old: &[(&str, &str)], new: &[(&str, &'static str)], stale: &[&str], expected: &[(&str, &str)]) {
    let folder = folder(old);
    let new: Vec<(PathBuf, &'static str)> = new.iter().map(|(name, text)| (folder.path().join(name), *text)).collect();
    let stale: Vec<PathBuf> = stale.iter().map(|name| folder.path().join(name)).collect();
    publish(staged(&new), &stale).expect("writable");
    let expected: Vec<(String, String)> =
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(contents(folder.path()), expected);
}

#[test]
fn results_replace_those_of_an_earlier_run() {
    let (old, new) = ([("scores", "old"), ("summary", "old")], [("scores", "new"), ("summary", "new")]);
    check(&[], &new, &[], &new);
    check(&old, &new, &[], &new);
    check(&old[..1], &new, &[], &new);
    check(&old, &new[1..], &["scores"], &new[1..]);
    check(&old, &new[1..], &["absent"], &[old[0], new[1]]);
    check(&old, &[], &["scores"], &old);
    check(&[("notes", "mine"), old[0], old[1]], &new, &[], &[("notes", "mine"), new[0], new[1]]);
}

#[test]
#[cfg(unix)]
fn a_result_replaces_a_link_and_not_what_is_behind_it() {
    for target in ["victim", "absent"] {
        let folder = folder(&[("victim", "precious"), ("summary", "old")]);
        std::os::unix::fs::symlink(target, folder.path().join("scores")).expect("linked");
        let new = ["scores", "summary"].map(|name| (folder.path().join(name), "new"));
        publish(staged(&new), &[]).expect("writable");
        let found = contents(folder.path());
        let expected = [("scores", "new"), ("summary", "new"), ("victim", "precious")];
        assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }
}

/// What a run leaves that is killed while it exchanges `old` by `new`: names that are links already lead through
/// `current`.
#[cfg(unix)]
fn exchange(links: &[&str], current: Option<&str>) -> TempDir {
    use std::os::unix::fs::symlink;
    let folder = folder(&[("scores", "old"), ("summary", "old"), ("table", "old")]);
    let name = ".hyperinf-results-Ab1234";
    let path = folder.path().join(name);
    for side in ["old", "new"] {
        fs::create_dir_all(path.join(side)).expect("writable");
    }
    File::create(path.join("lock")).expect("writable");
    for name in ["scores", "summary", "table"] {
        fs::hard_link(folder.path().join(name), path.join("old").join(name)).expect("linked");
    }
    for name in ["scores", "summary", "more"] {
        fs::write(path.join("new").join(name), "new").expect("writable");
    }
    if let Some(current) = current {
        symlink(current, path.join("current")).expect("linked");
    }
    for link in links {
        let _ = fs::remove_file(folder.path().join(link));
        symlink(format!("{name}/current/{link}"), folder.path().join(link)).expect("linked");
    }
    folder
}

#[test]
#[cfg(unix)]
fn an_interrupted_exchange_is_ended() {
    let all = ["scores", "summary", "table", "more"];
    let old = vec![("scores", "old"), ("summary", "old"), ("table", "old")];
    let new = vec![("more", "new"), ("scores", "new"), ("summary", "new")];
    let cases = [
        (exchange(&[], None), &old),
        (exchange(&[], Some("old")), &old),
        (exchange(&all[..1], Some("old")), &old),
        (exchange(&all[..3], Some("old")), &old),
        (exchange(&all, Some("old")), &old),
        (exchange(&all, Some("new")), &new),
    ];
    for (number, (folder, expected)) in cases.into_iter().enumerate() {
        // While its process lives, nobody touches it.
        let lock = File::open(folder.path().join(".hyperinf-results-Ab1234/lock")).expect("it is there");
        lock.lock().expect("nobody has it");
        drop(OutputFolder::new(folder.path(), &[], &[]).expect("writable"));
        assert!(folder.path().join(".hyperinf-results-Ab1234").exists(), "{number}");
        // A reader sees one result all the time.
        let read = |name| fs::read_to_string(folder.path().join(name)).expect("readable");
        assert_eq!(read("scores"), read("summary"), "{number}");
        drop(lock);
        drop(OutputFolder::new(folder.path(), &[], &[]).expect("writable"));
        let expected: Vec<_> = expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(contents(folder.path()), expected, "{number}");
    }
    // Killed before it began, or at the very end.
    let folder = folder(&[("scores", "old")]);
    fs::create_dir(folder.path().join(".hyperinf-results-empty1")).expect("writable");
    drop(OutputFolder::new(folder.path(), &[], &[]).expect("writable"));
    assert_eq!(contents(folder.path()), [("scores".to_owned(), "old".to_owned())]);
    // Killed while it was removed.
    for removed in [&["old"][..], &["old", "new"], &["old", "new", "current"]] {
        let folder = exchange(&[], Some("new"));
        for part in removed {
            let part = folder.path().join(".hyperinf-results-Ab1234").join(part);
            let _ = if part.is_symlink() { fs::remove_file(part) } else { fs::remove_dir_all(part) };
        }
        drop(OutputFolder::new(folder.path(), &[], &[]).expect("writable"));
        let expected: Vec<_> = old.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(contents(folder.path()), expected, "{removed:?}");
    }
    // Ended after some names were files again.
    let folder = exchange(&all, Some("new"));
    fs::rename(folder.path().join(".hyperinf-results-Ab1234/new/scores"), folder.path().join("scores")).expect("moved");
    drop(OutputFolder::new(folder.path(), &[], &[]).expect("writable"));
    let expected: Vec<_> = new.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(contents(folder.path()), expected);
}

#[test]
#[cfg(unix)]
fn an_exchange_takes_no_files_from_elsewhere() {
    use std::os::unix::fs::symlink;
    // Somebody who can write the folder has made an exchange of their own.
    for (part, target) in [("current", "../victim"), ("old", "../victim"), ("new", "../victim")] {
        let folder = exchange(&["scores"], Some("new"));
        let victim = folder.path().join("victim");
        fs::create_dir(&victim).expect("writable");
        fs::write(victim.join("scores"), "precious").expect("writable");
        let part = folder.path().join(".hyperinf-results-Ab1234").join(part);
        let _ = if part.is_symlink() { fs::remove_file(&part) } else { fs::remove_dir_all(&part) };
        symlink(target, part).expect("linked");
        drop(OutputFolder::new(folder.path(), &[], &[]).expect("writable"));
        assert_eq!(fs::read_to_string(victim.join("scores")).expect("it stays"), "precious", "{target}");
    }
}

#[test]
fn results_of_runs_at_one_time_are_not_mixed() {
    const RUNS: usize = 4;
    for round in 0..20 {
        // Without an earlier result, and with one.
        let folder = folder(if round % 2 == 0 { &[] } else { &[("scores", "0"), ("summary", "0")] });
        let ready = Barrier::new(RUNS);
        std::thread::scope(|scope| {
            for text in ["first", "second", "third", "fourth"] {
                let (folder, ready) = (folder.path(), &ready);
                scope.spawn(move || {
                    let new = ["scores", "more", "summary"].map(|name| (folder.join(name), text));
                    let staged = staged(&new);
                    ready.wait();
                    publish(staged, &[]).expect("writable");
                });
            }
        });
        let found = contents(folder.path());
        assert!(found.len() == 3 && found.iter().all(|(_, text)| *text == found[0].1), "{round}: {found:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_result_replaces_that_of_a_run_killed_just_now() {
    let folder = exchange(&["scores", "summary", "table", "more"], Some("new"));
    let lock = File::open(folder.path().join(".hyperinf-results-Ab1234/lock")).expect("it is there");
    lock.lock().expect("nobody has it");
    let new = ["scores", "summary"].map(|name| (folder.path().join(name), "newer"));
    let staged = staged(&new);
    drop(lock);
    publish(staged, &[]).expect("writable");
    let expected = [("more", "new"), ("scores", "newer"), ("summary", "newer")];
    assert_eq!(contents(folder.path()), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn a_failed_write_leaves_nothing() {
    let folder = folder(&[("scores", "old")]);
    let path = folder.path().join("scores");
    let failed = Staged::new(&path, |file| {
        file.write_all(b"half")?;
        Err(std::io::Error::other("no room").into())
    });
    assert!(matches!(failed, Err(StoreError::Output { .. })));
    drop(Staged::new(&path, |file| Ok(file.write_all(b"never placed")?)).expect("writable"));
    assert_eq!(contents(folder.path()), [("scores".to_owned(), "old".to_owned())]);
}

#[test]
fn temporary_files_of_dead_processes_are_removed() {
    let folder = folder(&[
        (".hyperinf-aB3dE6.tmp", "half"),
        (".hyperinf-aB3dE7.tmp.png", "half"),
        (".hyperinf-notes", "mine"),
        (".hyperinfected.tmp", "mine"),
        ("scores.tmp", "mine"),
    ]);
    let path = folder.path().join("scores");
    let alive = Staged::new(&path, |file| Ok(file.write_all(b"in progress")?)).expect("writable");
    drop(OutputFolder::new(folder.path(), &["other"], &[]).expect("writable"));
    let names: Vec<String> = contents(folder.path()).into_iter().map(|(name, _)| name).collect();
    let foreign = [".hyperinf-notes", ".hyperinfected.tmp", "scores.tmp"].map(str::to_owned);
    assert!(names.len() == 4 && foreign.iter().all(|name| names.contains(name)), "{names:?}");
    alive.place().expect("it was left alone");
    assert_eq!(fs::read_to_string(path).expect("placed"), "in progress");
}

#[test]
fn one_run_at_a_time_writes_a_folder() {
    let folder = folder(&[]);
    let path = folder.path().join("new/inner");
    let first = OutputFolder::new(&path, &["scores"], &[]).expect("writable");
    let Err(error) = OutputFolder::new(&path, &["scores"], &[]) else { panic!("two runs") };
    let told = format!("{error}: {}", std::error::Error::source(&error).expect("a reason"));
    for expected in ["another run is writing it", &format!("process {}", std::process::id())] {
        assert!(told.contains(expected), "{told}");
    }
    drop(first);
    // Nothing was written: the folders that were created are gone.
    assert_eq!(contents(folder.path()), []);
    // A lock that a dead run left is nobody's.
    fs::create_dir(folder.path().join("old")).expect("writable");
    fs::write(folder.path().join("old/.hyperinf.lock"), "process 1 on elsewhere\n").expect("writable");
    let second = OutputFolder::new(&folder.path().join("old"), &[], &[]).expect("the lock is nobody's");
    fs::write(second.file("scores"), "s").expect("writable");
    drop(second);
    assert_eq!(contents(&folder.path().join("old")), [("scores".to_owned(), "s".to_owned())]);
}

#[test]
#[cfg(unix)]
fn a_lock_that_is_a_link_is_refused() {
    let folder = folder(&[("victim", "precious")]);
    for target in ["victim", "absent"] {
        let lock = folder.path().join(".hyperinf.lock");
        std::os::unix::fs::symlink(target, &lock).expect("linked");
        assert!(OutputFolder::new(folder.path(), &[], &[]).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("victim")).expect("it is there"), "precious");
        assert!(!folder.path().join("absent").exists());
        fs::remove_file(lock).expect("it is there");
    }
}

#[test]
#[cfg(unix)]
fn a_reader_sees_one_result_at_any_moment() {
    let folder = folder(&[("scores", "0"), ("summary", "0")]);
    // Another process, which reads all the time: both names through one listing of the shell.
    let script = "for i in $(seq 3000); do s=$(cat scores); m=$(cat summary); t=$(cat scores); \
                  [ -n \"$s\" ] && [ \"$s\" = \"$t\" ] && [ \"$s\" != \"$m\" ] && echo \"$s $m\"; [ -e stop ] && break; done";
    let reader = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    for round in 1..60 {
        // Never twice the same: a reader that finds one text before and after has seen one result in between.
        let text: &'static str = format!("result {round}").leak();
        let new = ["scores", "summary"].map(|name| (folder.path().join(name), text));
        publish(staged(&new), &[]).expect("writable");
    }
    fs::write(folder.path().join("stop"), "").expect("writable");
    let mixed = String::from_utf8_lossy(&reader.wait_with_output().expect("it ended").stdout).into_owned();
    assert_eq!(mixed, "");
}
