//! Library code opens files by `tessera_models::files`: a pipe in place of a file would keep `fs::read` and `File::open` waiting for ever.
//! Calls within macros are not seen.

use std::path::Path;

use syn::visit::{self, Visit};

use crate::sources::{Source, is_test, library};

/// Functions that open whatever lies at a path, as the last two parts of their paths.
const BANNED: &[[&str; 2]] = &[
    ["fs", "read"],
    ["fs", "read_to_string"],
    ["File", "open"],
    ["OpenOptions", "new"],
];

/// Files that may call them, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("models/files.rs", "it checks before it opens; /proc"),
    (
        "models/kernels/device/cuda/cache.rs",
        "a file that this program wrote; the crate imports no other",
    ),
    ("harness/cli/process.rs", "/proc"),
    (
        "harness/cli/start.rs",
        "it creates the file and fails if one is there",
    ),
    ("harness/run/environment.rs", "/proc"),
    ("harness/run/live.rs", "/proc"),
    ("harness/store/mount.rs", "/proc"),
    ("tokenizers/memory.rs", "/proc and /sys"),
    (
        "harness/store/lookup.rs",
        "files of an entry that this process has written, to sync them; a folder",
    ),
    ("harness/fetch/folder.rs", "a folder, to sync it"),
    ("harness/folder/held.rs", "a folder, to know it again"),
    (
        "harness/data/kinds/image_folder/examine.rs",
        "a folder, whose files are opened by `files`",
    ),
];

/// Calls of [`BANNED`] outside tests.
#[derive(Default)]
struct Opens(Vec<String>);

impl<'ast> Visit<'ast> for Opens {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if !is_test(&node.attrs) {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_path(&mut self, node: &'ast syn::Path) {
        let parts: Vec<String> = node.segments.iter().map(|s| s.ident.to_string()).collect();
        if let [.., of, name] = &parts[..]
            && BANNED.contains(&[of, name])
        {
            self.0.push(format!("{of}::{name}"));
        }
        visit::visit_path(self, node);
    }
}

#[test]
fn files_of_users_are_opened_by_the_module_that_refuses_pipes() {
    for Source { path, tree, .. } in library() {
        let mut opens = Opens::default();
        opens.visit_file(&tree);
        let allowed = ALLOWED.iter().find(|(file, _)| path == Path::new(file));
        let (found, path) = (opens.0, path.display());
        match allowed {
            None => assert!(
                found.is_empty(),
                "{path} calls {found:?}: use `tessera_models::files`, or give a reason in ALLOWED"
            ),
            Some((_, why)) => {
                assert!(!found.is_empty(), "{path} is in ALLOWED for nothing: {why}");
            }
        }
    }
}
