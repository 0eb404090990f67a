//! Which changed files are user interface (section 9). So far the defaults; a repository's own rules come with
//! validation.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::changed_paths::Change;

const DEFAULT_UI_GLOBS: [&str; 2] = ["**/*.{tsx,jsx,css,scss,mdx}", "public/**/*"];
const DEFAULT_EXCLUDES: [&str; 2] = ["docs/**/*", ".github/**/*"];

/// Globs that say which paths are user interface.
#[derive(Debug, Clone)]
pub struct UiRules {
    include: GlobSet,
    exclude: GlobSet,
}

impl UiRules {
    /// The rules of a repository that has none of its own.
    pub fn default_rules() -> Self {
        Self { include: set(&DEFAULT_UI_GLOBS), exclude: set(&DEFAULT_EXCLUDES) }
    }

    /// Whether a change touches user interface; either side of a rename or copy counts.
    pub fn matches_any(&self, changes: &[Change]) -> bool {
        changes.iter().flat_map(Change::paths).any(|path| {
            // Globs are about text; a byte that is no UTF-8 cannot be part of a pattern and is replaced.
            let path = String::from_utf8_lossy(path);
            self.include.is_match(path.as_ref()) && !self.exclude.is_match(path.as_ref())
        })
    }
}

/// The constant globs are valid (a test builds them); one that were not would match nothing.
fn set(globs: &[&str]) -> GlobSet {
    let mut builder = GlobSetBuilder::new();
    for glob in globs.iter().filter_map(|glob| GlobBuilder::new(glob).literal_separator(true).build().ok()) {
        builder.add(glob);
    }
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::changed_paths::parse;

    #[test]
    fn the_defaults_know_pages_styles_and_public_files() {
        let rules = UiRules::default_rules();
        assert_eq!((rules.include.len(), rules.exclude.len()), (2, 2));
        for (raw, matches) in [
            (&b"M\0src/App.tsx\0"[..], true),
            (b"M\0styles.css\0", true),
            (b"A\0public/img/logo.png\0", true),
            (b"M\0src/main.rs\0", false),
            (b"M\0docs/page.mdx\0", false),
            (b"M\0.github/x.css\0", false),
            (b"R090\0src/App.tsx\0src/app.rs\0", true),
            (b"C100\0src/app.rs\0web/App.jsx\0", true),
            (b"", false),
        ] {
            assert_eq!(rules.matches_any(&parse(raw).unwrap()), matches, "{}", String::from_utf8_lossy(raw));
        }
    }
}
