//! Finds the imports between files, from `use` and from paths in the code, through re-exports to the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::sources::{Source, is_test};

/// `use a::b as c;` has the path `[a, b]` and the name `c`; `*` stands for all names.
#[derive(Clone, Debug)]
struct Import {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

/// The imports and definitions of a file.
#[derive(Default)]
struct Mentions {
    imports: Vec<Import>,
    /// Paths in the code and the inline modules that contain them.
    paths: Vec<(Vec<String>, Vec<String>)>,
    /// Names of the items that the file defines.
    defined: BTreeSet<String>,
    inline: Vec<String>,
}

impl Mentions {
    /// Collects the paths `a::b::c` among the arguments of a macro, which `syn` does not parse.
    fn take_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.take_path(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.take_path(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.take_tokens(group.stream());
                    }
                }
            }
        }
        self.take_path(&mut path);
    }

    fn take_path(&mut self, path: &mut Vec<String>) {
        if !path.is_empty() {
            self.paths.push((self.inline.clone(), std::mem::take(path)));
        }
    }
}

impl<'ast> Visit<'ast> for Mentions {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if node.content.is_none() || is_test(&node.attrs) {
            return;
        }
        self.inline.push(node.ident.to_string());
        visit::visit_item_mod(self, node);
        self.inline.pop();
    }

    fn visit_item_use(&mut self, node: &'ast syn::ItemUse) {
        if is_test(&node.attrs) {
            return;
        }
        let is_public = !matches!(node.vis, syn::Visibility::Inherited);
        flatten(&node.tree, &mut Vec::new(), &mut |path, name| {
            self.imports.push(Import {
                path,
                name,
                is_public,
            });
        });
    }

    fn visit_item(&mut self, node: &'ast syn::Item) {
        let name = match node {
            syn::Item::Fn(item) => Some(&item.sig.ident),
            syn::Item::Struct(item) => Some(&item.ident),
            syn::Item::Enum(item) => Some(&item.ident),
            syn::Item::Trait(item) => Some(&item.ident),
            syn::Item::Type(item) => Some(&item.ident),
            syn::Item::Const(item) => Some(&item.ident),
            syn::Item::Static(item) => Some(&item.ident),
            _ => None,
        };
        self.defined.extend(name.map(ToString::to_string));
        if let syn::Item::Fn(item) = node
            && is_test(&item.attrs)
        {
            return;
        }
        visit::visit_item(self, node);
    }

    fn visit_path(&mut self, node: &'ast syn::Path) {
        let path = node.segments.iter().map(|s| s.ident.to_string()).collect();
        self.paths.push((self.inline.clone(), path));
        visit::visit_path(self, node);
    }

    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        self.take_tokens(node.tokens.clone());
        visit::visit_macro(self, node);
    }
}

fn flatten(
    tree: &syn::UseTree,
    prefix: &mut Vec<String>,
    take: &mut impl FnMut(Vec<String>, String),
) {
    match tree {
        syn::UseTree::Path(node) => {
            prefix.push(node.ident.to_string());
            flatten(&node.tree, prefix, take);
            prefix.pop();
        }
        syn::UseTree::Name(node) if node.ident == "self" => {
            take(prefix.clone(), prefix.last().cloned().unwrap_or_default());
        }
        syn::UseTree::Name(node) => take(joined(prefix, &node.ident), node.ident.to_string()),
        syn::UseTree::Rename(node) => take(joined(prefix, &node.ident), node.rename.to_string()),
        syn::UseTree::Glob(_) => take(prefix.clone(), "*".into()),
        syn::UseTree::Group(group) => group
            .items
            .iter()
            .for_each(|item| flatten(item, prefix, take)),
    }
}

fn joined(prefix: &[String], last: &syn::Ident) -> Vec<String> {
    prefix.iter().cloned().chain([last.to_string()]).collect()
}

/// The files of some crates and their imports.
pub struct Graph<'a> {
    sources: &'a [Source],
    files: BTreeMap<&'a [String], usize>,
    mentions: Vec<Mentions>,
}

impl<'a> Graph<'a> {
    /// Collects the imports of parsed files.
    pub fn new(sources: &'a [Source]) -> Self {
        let mentions = sources.iter().map(|source| {
            let mut mentions = Mentions::default();
            mentions.visit_file(&source.tree);
            mentions
        });
        Self {
            sources,
            files: sources
                .iter()
                .enumerate()
                .map(|(at, s)| (&s.module[..], at))
                .collect(),
            mentions: mentions.collect(),
        }
    }

    /// Returns for every file the files from which it imports.
    pub fn edges(&self) -> Vec<BTreeSet<usize>> {
        (0..self.sources.len())
            .map(|at| self.imports_of(at))
            .collect()
    }

    fn imports_of(&self, at: usize) -> BTreeSet<usize> {
        let mentions = &self.mentions[at];
        let used: BTreeSet<&str> = mentions
            .paths
            .iter()
            .filter_map(|(_, path)| path.first().map(String::as_str))
            .collect();
        // A re-export that the file itself does not use is not an import.
        let imports = mentions
            .imports
            .iter()
            .filter(|import| !import.is_public || used.contains(import.name.as_str()));
        let imported = imports.filter_map(|import| self.resolve(at, &[], &import.path, 0));
        let paths = mentions.paths.iter().filter(|(_, path)| path.len() > 1);
        let written = paths.filter_map(|(inline, path)| self.resolve(at, inline, path, 0));
        imported.chain(written).filter(|to| *to != at).collect()
    }

    /// Returns the file that defines the item `path` in a file (in its inline modules `inline`); `None` outside the workspace.
    fn resolve(
        &self,
        at: usize,
        inline: &[String],
        path: &[String],
        depth: usize,
    ) -> Option<usize> {
        let here = &self.sources[at].module;
        let mut module: Vec<String> = here.iter().chain(inline).cloned().collect();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => module.truncate(1),
            "self" => (),
            "super" => {
                while rest.first().is_some_and(|s| s == "super") {
                    module.pop()?;
                    rest = &rest[1..];
                }
                return self.descend(module, rest, depth);
            }
            first if self.files.contains_key(&[first.to_owned()][..]) => module = Vec::new(),
            first => {
                module.push(first.to_owned());
                if !self.files.contains_key(&module[..]) {
                    return self.by_alias(at, path, depth);
                }
                module.pop();
            }
        }
        let skip = usize::from(["crate", "self"].contains(&rest[0].as_str()));
        self.descend(module, &rest[skip..], depth)
    }

    /// Resolves `decode::f` after `use crate::data::decode;`.
    fn by_alias(&self, at: usize, path: &[String], depth: usize) -> Option<usize> {
        let import = self.mentions[at]
            .imports
            .iter()
            .find(|import| import.name == path[0] && import.path[0] != path[0])?;
        let whole: Vec<String> = import.path.iter().chain(&path[1..]).cloned().collect();
        self.resolve(at, &[], &whole, depth + 1)
    }

    /// Follows the modules that are files, then resolves the item in the last module.
    fn descend(&self, mut module: Vec<String>, path: &[String], depth: usize) -> Option<usize> {
        let mut rest = path;
        while let Some(next) = rest.first() {
            module.push(next.clone());
            if !self.files.contains_key(&module[..]) {
                module.pop();
                break;
            }
            rest = &rest[1..];
        }
        // An inline module is part of its file.
        while !self.files.contains_key(&module[..]) {
            module.pop()?;
        }
        let at = self.files[&module[..]];
        match rest.first() {
            Some(item) if depth < 8 && !self.mentions[at].defined.contains(item) => {
                Some(self.re_exported(at, item, depth).unwrap_or(at))
            }
            _ => Some(at),
        }
    }

    fn re_exported(&self, at: usize, item: &str, depth: usize) -> Option<usize> {
        let imports = &self.mentions[at].imports;
        if let Some(import) = imports.iter().find(|import| import.name == item) {
            return self.resolve(at, &[], &import.path, depth + 1);
        }
        let globs = imports.iter().filter(|import| import.name == "*");
        let mut files = globs.filter_map(|import| self.resolve(at, &[], &import.path, depth + 1));
        files.find(|file| self.mentions[*file].defined.contains(item))
    }
}

/// Returns the circles: sets of files that all import each other, directly or indirectly.
pub fn circles(edges: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let reach: Vec<BTreeSet<usize>> = (0..edges.len())
        .map(|from| reachable(edges, from))
        .collect();
    let mut found: BTreeSet<Vec<usize>> = BTreeSet::new();
    for at in 0..edges.len() {
        let circle: Vec<usize> = reach[at]
            .iter()
            .copied()
            .filter(|to| reach[*to].contains(&at))
            .collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn reachable(edges: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        open.extend(edges[at].iter().copied().filter(|to| found.insert(*to)));
    }
    found
}
