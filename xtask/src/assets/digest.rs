//! SHA-256 of files and folders.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

/// The digest of a file, or of a folder of files: that of what `sha256sum *` prints in it, sorted by name.
pub fn of(path: &Path) -> io::Result<String> {
    if !path.is_dir() {
        return of_file(path);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        names.push(name.into_string().map_err(|name| io::Error::other(format!("{name:?} is not a plain name")))?);
    }
    names.sort();
    let mut listing = String::new();
    for name in names {
        listing += &format!("{}  {name}\n", of_file(&path.join(&name))?);
    }
    Ok(hex(Sha256::new().chain_update(listing)))
}

fn of_file(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex(hasher)),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first example of FIPS 180-2, appendix B.
    #[test]
    fn a_file_and_a_folder_of_it() {
        let folder = std::env::temp_dir().join(format!("hyperinf-xtask-digest-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        fs::write(folder.join("a"), "abc").expect("the temporary folder is writable");
        let file = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of(&folder.join("a")).expect("the file was written"), file);
        let listing = hex(Sha256::new().chain_update(format!("{file}  a\n")));
        assert_eq!(of(&folder).expect("the folder was written"), listing);
        fs::remove_dir_all(&folder).expect("it was made here");
    }
}
