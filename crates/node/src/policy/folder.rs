//! Where a run works: canonical folders only, so that no `..` and no symlink leads out of what is allowed.

use std::path::{Path, PathBuf};

/// The longest folder hint that is looked at, in bytes.
const HINT_LEN_MAX: usize = 4096;

/// Chooses the folder of a run, or says why there is none.
///
/// A hint is an absolute path, `~/…` below the owner's home, or a path below the default folder. After every symlink is
/// resolved it must lie inside an allowed folder; the hint is a wish, so one that leads elsewhere is refused, not moved.
pub(super) fn choose(
    allowed: &[PathBuf],
    default_folder: Option<&Path>,
    hint: Option<&str>,
) -> Result<PathBuf, String> {
    if allowed.is_empty() {
        return Err("no folder is allowed on this device yet (allowed_folders in policy.toml)".to_owned());
    }
    let default = default_folder.or(if let [only] = allowed {
        Some(only.as_path())
    } else {
        None
    });
    let wanted = match hint.filter(|hint| !hint.is_empty()) {
        Some(hint) => expand(hint, default)?,
        None => default
            .ok_or("the agent names no folder and policy.toml has no default_folder")?
            .to_owned(),
    };
    let shown: String = wanted
        .display()
        .to_string()
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    // One answer for "is not there" and "is not allowed": an order must not be able to explore the device.
    let refused = || format!("folder {shown} is not an allowed folder of this device");
    let folder = std::fs::canonicalize(&wanted).map_err(|_| refused())?;
    if !folder.is_dir() || !is_inside(allowed, &folder) {
        return Err(refused());
    }
    Ok(folder)
}

/// Tells whether a canonical path lies in one of the folders, or is one.
pub(super) fn is_inside(allowed: &[PathBuf], canonical: &Path) -> bool {
    allowed.iter().any(|folder| canonical.starts_with(folder))
}

fn expand(hint: &str, default: Option<&Path>) -> Result<PathBuf, String> {
    if hint.len() > HINT_LEN_MAX || hint.contains('\0') {
        return Err("the agent's folder is no path".to_owned());
    }
    if hint == "~" || hint.starts_with("~/") {
        let home = std::env::home_dir().ok_or("this device has no home folder")?;
        return Ok(home.join(hint[1..].trim_start_matches('/')));
    }
    let path = Path::new(hint);
    match default {
        _ if path.is_absolute() => Ok(path.to_owned()),
        Some(default) => Ok(default.join(path)),
        None => Err("the agent's folder is relative and policy.toml has no default_folder".to_owned()),
    }
}
