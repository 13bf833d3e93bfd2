//! What a scan leaves out.

use serde::{Deserialize, Serialize};

/// Names that are kept of a group.
const NAMED: usize = 10;

/// How the reason begins of files that are used, and may lack images.
pub(super) const USED: &str = "used, but ";

/// An image that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its path, relative to the root.
    pub name: String,
    /// Why it is left out.
    pub reason: String,
}

/// Files that are left out for one reason and need no line each: hidden files, files that are no images. With a reason that begins with `used, but `,
/// files that are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Why they are left out.
    pub reason: String,
    /// Number of files.
    pub count: usize,
    /// Paths of the first of them, relative to the root.
    pub names: Vec<String>,
}

/// Everything that a scan leaves out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// Images, one by one.
    pub images: Vec<Skipped>,
    /// Other files, by reason.
    pub others: Vec<LeftOut>,
}

impl Omitted {
    /// Adds an image.
    pub fn image(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.images.push(Skipped {
            name: name.into(),
            reason: reason.into(),
        });
    }

    /// Adds another file.
    pub fn other(&mut self, name: impl Into<String>, reason: &str) {
        let group = self.group(reason);
        group.count += 1;
        if group.names.len() < NAMED {
            group.names.push(name.into());
        }
    }

    /// Adds everything that another scan left out.
    pub fn append(&mut self, more: Self) {
        self.images.extend(more.images);
        for other in more.others {
            let group = self.group(&other.reason);
            group.count += other.count;
            let room = NAMED.saturating_sub(group.names.len());
            group.names.extend(other.names.into_iter().take(room));
        }
    }

    /// Returns the same files with paths below `folder`; an empty path is that of the folder.
    pub fn below(&self, folder: &str) -> Self {
        let mut below = self.clone();
        let images = below.images.iter_mut().map(|image| &mut image.name);
        let others = below.others.iter_mut().flat_map(|group| &mut group.names);
        images
            .chain(others)
            .for_each(|name| *name = format!("{folder}/{name}").trim_end_matches('/').to_owned());
        below
    }

    fn group(&mut self, reason: &str) -> &mut LeftOut {
        let known = self.others.iter().position(|group| group.reason == reason);
        let at = known.unwrap_or_else(|| {
            self.others.push(LeftOut {
                reason: reason.to_owned(),
                count: 0,
                names: Vec::new(),
            });
            self.others.len() - 1
        });
        &mut self.others[at]
    }

    /// Returns lines for users: the first `most` images, their number, and every group of other files.
    pub fn lines(&self, most: usize) -> Vec<String> {
        let one = |image: &Skipped| format!("skipped image {}: {}", image.name, image.reason);
        let mut lines: Vec<String> = self.images.iter().take(most).map(one).collect();
        if self.images.len() > most {
            lines.push(format!("{} images are skipped in all", self.images.len()));
        }
        lines.extend(self.others.iter().map(|group| {
            let shown = group.names.len().min(most);
            let more = if group.count > shown { ", ..." } else { "" };
            let (count, names) = (group.count, group.names[..shown].join(", "));
            match group.reason.strip_prefix(USED) {
                Some(reason) => format!("{count} files may lack images ({reason}): {names}{more}"),
                None => format!("left out {count} files ({}): {names}{more}", group.reason),
            }
        }));
        lines.iter().map(|line| one_line(line)).collect()
    }
}

/// Returns a text without what would end its line or move its rest: a name of a file may have a line break, and look like another message.
pub fn one_line(text: &str) -> String {
    (text.replace('\n', "\\n"))
        .replace('\r', "\\r")
        .replace('\t', "\\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_the_first_are_named() {
        let mut part = Omitted::default();
        (0..8).for_each(|at| part.other(format!(".{at}"), "hidden"));
        let mut all = part.clone();
        all.append(part);
        all.other("notes.txt", "no image");
        (0..3).for_each(|at| all.image(format!("{at}.bmp"), "`.bmp` is not read"));
        let lines = all.lines(2);
        assert_eq!(
            lines,
            [
                "skipped image 0.bmp: `.bmp` is not read",
                "skipped image 1.bmp: `.bmp` is not read",
                "3 images are skipped in all",
                "left out 16 files (hidden): .0, .1, ...",
                "left out 1 files (no image): notes.txt",
            ]
        );
        assert_eq!(all.others[0].names.len(), NAMED);
    }

    #[test]
    fn a_name_with_line_breaks_stays_in_its_line() {
        let mut all = Omitted::default();
        all.image("a\nerror: fake\r.png", "bad\tbytes");
        all.other("b\nerror: fake.txt", "no image");
        assert_eq!(
            all.lines(2),
            [
                r"skipped image a\nerror: fake\r.png: bad\tbytes",
                r"left out 1 files (no image): b\nerror: fake.txt",
            ]
        );
    }
}
