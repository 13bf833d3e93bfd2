//! Text from users (names of rows and classes, errors) as harmless text of a terminal, of Markdown and of CSV. HTML, SVG and LaTeX have
//! their own functions, which show directions of writing as [`isolated`] and [`ordered`] do.

use std::borrow::Cow;

/// Returns the text without control characters other than line breaks and tabs, and without characters that reverse the order of others;
/// `\u{1b}` stands for such a character. A terminal would obey them.
pub fn printable(text: &str) -> Cow<'_, str> {
    shown(text, |c| {
        reverses(c) || (c.is_control() && c != '\n' && c != '\t')
    })
}

/// Returns the text with `\u{202e}` for each character that reverses the order of others.
pub fn ordered(text: &str) -> Cow<'_, str> {
    shown(text, reverses)
}

/// Whether a character reverses the order of others, or ends that.
fn reverses(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown(text: &str, is_shown: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_shown(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The beginning and the end of an isolated part, whose direction moves nothing around it.
pub const ISOLATES: [char; 2] = ['\u{2068}', '\u{2069}'];

/// Returns the text with every run of words from right to left isolated. A browser would otherwise exchange the numbers after such a name,
/// and show `(−0.008 ± 0.023)` as `(0.023 ± 0.008−)`. Other characters that reverse the order are as in [`ordered`].
pub fn isolated(text: &str) -> Cow<'_, str> {
    // Hebrew, Arabic and others; marks for them are in the same blocks.
    let is_rtl = |c: char| {
        let plane =
            matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefe}');
        plane || matches!(c, '\u{200f}' | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
    };
    let text = ordered(text);
    if !text.contains(is_rtl) {
        return text;
    }
    let [begin, end] = ISOLATES;
    let (mut out, mut is_open, mut between) = (String::new(), false, String::new());
    for c in text.chars() {
        if is_rtl(c) {
            if !is_open {
                out.push(begin);
            }
            is_open = true;
            out.extend(between.drain(..));
            out.push(c);
        } else if is_open && matches!(c, ' ' | '-' | '_' | '\'') {
            between.push(c);
        } else {
            if is_open {
                out.push(end);
            }
            is_open = false;
            out.extend(between.drain(..));
            out.push(c);
        }
    }
    if is_open {
        out.push(end);
    }
    Cow::Owned(out + &between)
}

/// Escapes a name for Markdown.
pub fn markdown(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in without_html(&isolated(&printable(name))).chars() {
        if matches!(c, '\\' | '*' | '_' | '`' | '[' | ']' | '~' | '$') {
            out.push('\\');
        }
        out.push(if c == '\n' { ' ' } else { c });
    }
    out
}

/// Escapes HTML, links and, outside code, formulas and strikes in a sentence in Markdown, and leaves its other marks. A line break, which could begin
/// a heading, a table or the target of links, becomes a space.
pub fn markdown_sentence(text: &str) -> String {
    let line = text.replace(['\n', '\r'], " ");
    let text = without_html(&isolated(&printable(&line))).replace("](", "]\\(");
    let escaped = |(at, part): (usize, &str)| match at % 2 {
        0 => part.replace('$', "\\$").replace("~~", "\\~\\~"),
        _ => part.to_owned(),
    };
    let parts = text.split('`').enumerate().map(escaped);
    parts.collect::<Vec<_>>().join("`")
}

/// Replaces the `<` of every tag and comment by `&lt;`.
fn without_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let opens = |next: &char| next.is_ascii_alphabetic() || "/!?".contains(*next);
        match c == '<' && rest.peek().is_some_and(opens) {
            true => out.push_str("&lt;"),
            false => out.push(c),
        }
    }
    out
}

/// Returns a cell of a CSV file that a spreadsheet does not compute: text that it takes for a formula gets an apostrophe before it.
pub fn to_cell(text: &str) -> Cow<'_, str> {
    match is_formula(text) {
        true => Cow::Owned(format!("'{text}")),
        false => Cow::Borrowed(text),
    }
}

/// Returns the text of a cell that [`to_cell`] returned.
pub fn of_cell(cell: &str) -> &str {
    let bare = cell.strip_prefix('\'').filter(|_| is_formula(cell));
    bare.unwrap_or(cell)
}

/// Whether a spreadsheet takes a cell for a formula, or it has apostrophes before such text.
pub fn is_formula(cell: &str) -> bool {
    let text = cell.trim_start_matches('\'');
    // Spreadsheets of East Asian languages take the wide forms too.
    let begins = [
        '=', '+', '-', '@', '\t', '\r', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
    ];
    text.starts_with(begins) && cell.parse::<f64>().is_err()
}

/// Wraps text at `width` characters. Longer words stay whole. There is at least one line.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_in_a_name() {
        assert_eq!(printable("K-means, é\n\t漢"), "K-means, é\n\t漢");
        assert_eq!(printable("\x1b[2J\r\u{9b}"), "\\u{1b}[2J\\u{d}\\u{9b}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn names_from_right_to_left_are_isolated() {
        let (arabic, hebrew) = ("\u{645}\u{631}", "\u{5e9}\u{5dc}");
        let found = isolated("K-means, K=50 (−0.008 ± 0.023)");
        assert!(matches!(found, Cow::Borrowed(_)), "{found}");
        let text = format!("{arabic} (−0.008); {hebrew} {hebrew} world, K {arabic}");
        let expected = format!(
            "\u{2068}{arabic}\u{2069} (−0.008); \u{2068}{hebrew} {hebrew}\u{2069} world, K \u{2068}{arabic}\u{2069}"
        );
        assert_eq!(isolated(&text), expected);
        assert_eq!(markdown_sentence(&text), expected);
        assert_eq!(
            isolated(&format!("{arabic}- ")),
            format!("\u{2068}{arabic}\u{2069}- ")
        );
        // Its own marks do not end the isolation.
        assert_eq!(isolated("a\u{202e}b\u{2069}"), "a\\u{202e}b\\u{2069}");
    }

    #[test]
    fn markdown_shows_a_name_as_it_is() {
        assert_eq!(markdown("K-means Pixel, K=50"), "K-means Pixel, K=50");
        assert_eq!(markdown("<script>"), "&lt;script>");
        assert_eq!(markdown("a_b *c* `d`"), "a\\_b \\*c\\* \\`d\\`");
        assert_eq!(markdown("[x](y)\n<"), "\\[x\\](y) <");
        assert_eq!(markdown("~~s~~ $a$"), "\\~\\~s\\~\\~ \\$a\\$");
        assert_eq!(
            markdown_sentence("of: ~~s~~; $a$ (~5, `${A}~~`)"),
            "of: \\~\\~s\\~\\~; \\$a\\$ (~5, `${A}~~`)"
        );
        assert_eq!(
            markdown_sentence("p < 0.05 (`a.csv`), <img src=x> [x](y)"),
            "p < 0.05 (`a.csv`), &lt;img src=x> [x]\\(y)"
        );
        assert_eq!(markdown_sentence("K\n\n# No\r|a"), "K  # No |a");
    }

    #[test]
    fn formulas_become_text_and_back() {
        for text in [
            "=1+1",
            "+cmd|' /C calc'!A0",
            "-a",
            "@SUM(1)",
            "\t=1",
            "'=1",
            "''-x",
            "-",
            "\u{ff1d}1+1",
        ] {
            let cell = to_cell(text);
            assert!(cell.starts_with('\''), "{cell}");
            assert_eq!(of_cell(&cell), text);
        }
        for text in ["", "K", "'tis", "a=b", "-0.5", "+1e-3", "-inf", "1"] {
            assert_eq!(to_cell(text), text);
            assert_eq!(of_cell(text), text);
        }
    }
}
