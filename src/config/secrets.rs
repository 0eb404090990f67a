//! Secrets that are generated where the embedded default runs (section 13): one file each, mode 0600.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use secrecy::SecretString;

use crate::auth::random_secret;

/// Reads the secret from `folder/name`, or makes it. Of several processes that start at once one makes it.
pub(super) fn read_or_generate(folder: &Path, name: &str) -> std::io::Result<SecretString> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => {
            // Somebody may have loosened it since.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            return Ok(SecretString::from(text.trim().to_owned()));
        }
        Ok(_) => return Err(std::io::Error::new(ErrorKind::InvalidData, "the file is empty; remove it")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let text = hex::encode(random_secret());
    // Written aside and linked into place, so that no other process reads half of it.
    let aside = folder.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let linked = fs::hard_link(&aside, &path);
    fs::remove_file(&aside)?;
    match linked {
        Ok(()) => Ok(SecretString::from(text)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Ok(SecretString::from(fs::read_to_string(&path)?.trim().to_owned()))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_generated_secret_stays_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("secrets");
        let first = read_or_generate(&folder, "key").unwrap();
        let second = read_or_generate(&folder, "key").unwrap();
        assert_eq!(first.expose_secret(), second.expose_secret());
        assert_eq!(first.expose_secret().len(), 64);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("key"))), (0o700, 0o600));
    }
}
