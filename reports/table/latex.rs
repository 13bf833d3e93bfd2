//! Renders tables in LaTeX with booktabs.

use std::fmt::Write;

use super::{Cell, Table};
use crate::number::difference;
use crate::text::ordered;

impl Table {
    /// Returns a `table` environment, which needs `\usepackage{booktabs}` and UTF-8. The notes follow in small type.
    pub fn latex(&self, number: u32, title: &str, notes: &[String]) -> String {
        let shown = self.shown();
        let columns: String = (0..shown.len())
            .map(|c| if c == 0 { 'l' } else { 'r' })
            .collect();
        let header: Vec<String> = shown
            .iter()
            .map(|c| {
                let column = &self.columns[*c];
                escaped(&format!("{}{}", column.title, column.better.arrow()))
            })
            .collect();
        let mut body = String::new();
        let mut setting = self.lines.first().map(|l| l.setting.as_str());
        for line in &self.lines {
            if setting != Some(&line.setting) {
                body.push_str("\\midrule\n");
                setting = Some(&line.setting);
            }
            let cells: Vec<String> = shown
                .iter()
                .map(|c| {
                    let text = cell(&line.cells[*c]);
                    match self.is_best(line, *c) {
                        true => format!(r"\textbf{{{text}}}"),
                        false => text,
                    }
                })
                .collect();
            let _ = writeln!(body, "{} \\\\", cells.join(" & "));
        }
        let notes: Vec<String> = notes.iter().map(|n| escaped(n)).collect();
        format!(
            "% \\usepackage{{booktabs}}\n\\begin{{table}}[t]\n\\centering\n\\caption{{{}}}\n\\label{{tab:tessera-{number}}}\n\
             \\begin{{tabular}}{{{columns}}}\n\\toprule\n{} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n\n\
             \\smallskip\n\\begin{{minipage}}{{\\linewidth}}\\footnotesize\n{}\n\\end{{minipage}}\n\\end{{table}}\n",
            escaped(title),
            header.join(" & "),
            notes.join("\\\\\n"),
        )
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        // A minus sign, not a hyphen.
        Cell::Delta { value, marked } => {
            let mark = if *marked { "^{*}" } else { "" };
            format!("${}{mark}$", difference(*value, 1))
        }
        other => escaped(&other.pretty()),
    }
}

/// Escapes LaTeX's special characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in ordered(text).chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            // After `\\`, LaTeX takes `[` and `*` for its arguments.
            '[' | ']' | '*' => {
                out.push('{');
                out.push(c);
                out.push('}');
            }
            c if c.is_control() => out.push(' '),
            '\\' => out.push_str(r"\textbackslash{}"),
            '~' => out.push_str(r"\textasciitilde{}"),
            '^' => out.push_str(r"\textasciicircum{}"),
            '±' => out.push_str(r"$\pm$"),
            '↑' => out.push_str(r"$\uparrow$"),
            '↓' => out.push_str(r"$\downarrow$"),
            'Δ' => out.push_str(r"$\Delta$"),
            '−' => out.push_str("$-$"),
            '<' => out.push_str("$<$"),
            '>' => out.push_str("$>$"),
            '“' => out.push_str("``"),
            '”' => out.push_str("''"),
            _ => out.push(c),
        }
    }
    out
}
