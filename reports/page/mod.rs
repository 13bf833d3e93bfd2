//! `report.html`: the run on one page that needs no network, for readers who do not know the project.
//!
//! All text from users (names of rows, classes and files, errors) is escaped: in HTML as text, in JSON as data that the script
//! turns into text nodes, never into HTML.

mod advice;
mod footer;
mod predictors;
mod ranking;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::columns::{CostRow, Predictor, Record};
use crate::evaluations::{EVALUATIONS, Evaluation};
use crate::figure::{Figure, escaped, html};
use crate::figures::FigureData;
use crate::seeds::names;
use crate::text;

pub use advice::advice;
pub use footer::files;
use footer::{Footer, footer};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Data of a page besides the records.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Data of the figures.
    pub data: FigureData,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Correlations of metrics with accuracies.
    pub predictors: Vec<Predictor>,
    /// `costs.csv`.
    pub costs: Vec<CostRow>,
    /// One per tokenizer with codes.
    pub cards: Vec<Card>,
    /// `environment.json`.
    pub environment: Value,
    /// The resolved suite, as YAML.
    pub suite: String,
    /// Footnotes: settings, recipes, warnings.
    pub notes: Vec<String>,
    /// Files beside the page, of [`files`].
    pub files: Vec<&'static str>,
}

/// The codes of a tokenizer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Card {
    /// The row.
    pub name: String,
    /// Patches of each used code, most used first.
    pub usage: Vec<u64>,
    /// Classes of the most used codes.
    pub heat: Option<Heat>,
    /// `gallery.json`.
    pub gallery: Option<Value>,
    /// `gallery.png`.
    #[serde(skip)]
    pub picture: Vec<u8>,
    /// `maps.png`.
    #[serde(skip)]
    pub maps: Vec<u8>,
    /// PNG of the codebook, if its codes are pixels.
    #[serde(skip)]
    pub codebook: Vec<u8>,
}

/// Distribution of each code's patches over the classes, percent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Heat {
    /// The codes.
    pub codes: Vec<u32>,
    /// The classes.
    pub classes: Vec<u32>,
    /// `[code][class]`.
    pub percent: Vec<Vec<u8>>,
}

/// Maximum base64 characters of all pictures of a page.
const PICTURES: usize = 12_000_000;
/// Maximum bars of the usage histogram. More codes share bars.
const BARS: usize = 64;
/// Maximum codes and classes of the co-occurrence map.
const HEAT: usize = 24;

impl Card {
    /// Builds a card from the rows of the counts `R`. `each_row` passes every used code, in ascending order, with its nonzero
    /// (class, patches). It is called twice, so that the table need not be in memory.
    ///
    /// # Errors
    /// Errors of `each_row`.
    pub fn of_counts<E>(
        name: &str,
        classes: usize,
        mut each_row: impl FnMut(TakeRow<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut codes: Vec<(u64, u32)> = Vec::new();
        let mut shown: Vec<(u64, u32)> = (0..classes as u32).map(|class| (0, class)).collect();
        each_row(&mut |code, row| {
            codes.push((row.iter().map(|(_, n)| n).sum(), code));
            row.iter()
                .for_each(|(class, n)| shown[*class as usize].0 += n);
        })?;
        codes.sort_by_key(|(n, code)| (Reverse(*n), *code));
        shown.sort_by_key(|(n, class)| (Reverse(*n), *class));
        shown.truncate(HEAT);
        shown.sort_by_key(|(_, class)| *class);
        let top = &codes[..codes.len().min(HEAT)];
        let mut percent = vec![Vec::new(); top.len()];
        each_row(&mut |code, row| {
            if let Some(at) = top.iter().position(|(_, of)| *of == code) {
                let of_class = |class: &u32| {
                    let found = row.binary_search_by_key(class, |(of, _)| *of);
                    found.map_or(0, |at| row[at].1)
                };
                let line = shown.iter().map(|(_, class)| {
                    (100.0 * of_class(class) as f64 / top[at].0 as f64).round() as u8
                });
                percent[at] = line.collect();
            }
        })?;
        Ok(Self {
            name: name.to_owned(),
            usage: bars(&codes),
            heat: Some(Heat {
                codes: top.iter().map(|(_, code)| *code).collect(),
                classes: shown.iter().map(|(_, class)| *class).collect(),
                percent,
            }),
            ..Self::default()
        })
    }
}

/// Receives a row of counts: its code and its (class, patches), classes ascending.
pub type TakeRow<'a> = &'a mut dyn FnMut(u32, &[(u32, u64)]);

/// Returns the mean usage of neighbouring codes, in at most [`BARS`] bars.
fn bars(codes: &[(u64, u32)]) -> Vec<u64> {
    let per_bar = codes.len().div_ceil(BARS).max(1);
    let mean = |bar: &[(u64, u32)]| bar.iter().map(|(n, _)| n).sum::<u64>() / bar.len() as u64;
    codes.chunks(per_bar).map(mean).collect()
}

/// Renders the whole document.
pub fn page(records: &[Record], page: &Page) -> String {
    let title = records.first().map_or("Tessera", |r| r.suite.as_str());
    let mut body = String::new();
    let _ = write!(
        body,
        "<header><h1>{}</h1><p class=sub>{}</p></header><main>",
        escaped(title),
        escaped(&about(records))
    );
    section(
        &mut body,
        "advice",
        "Which tokenizer?",
        &paragraphs(&advice(records, &page.data)),
    );
    section(
        &mut body,
        "ranking",
        "Ranking",
        &ranking::ranking(records, &page.data),
    );
    section(
        &mut body,
        "predictors",
        "Does a metric predict accuracy?",
        &predictors::predictors(records, &page.predictors, &page.figures),
    );
    section(&mut body, "figures", "Training and classes", &others(page));
    section(&mut body, "cards", "Tokenizers", &cards(records));
    section(
        &mut body,
        "about",
        "About these numbers",
        &footer(&Footer {
            notes: &page.notes,
            environment: &page.environment,
            costs: &page.costs,
            suite: &page.suite,
            files: &page.files,
        }),
    );
    body.push_str("</main>");
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\
         <title>{} · Tessera</title><style>{STYLE}</style></head><body>{body}\
         <script type=\"application/json\" id=data>{}</script><script>{SCRIPT}</script></body></html>\n",
        escaped(title),
        embedded(data(records, page))
    )
}

fn section(body: &mut String, id: &str, title: &str, inner: &str) {
    if !inner.is_empty() {
        let _ = write!(body, "<section id={id}><h2>{title}</h2>{inner}</section>");
    }
}

fn paragraphs(lines: &[String]) -> String {
    lines.iter().map(|line| format!("<p>{line}</p>")).collect()
}

/// Describes the setting in a line.
fn about(records: &[Record]) -> String {
    let Some(first) = records.first() else {
        return String::new();
    };
    let mut seeds: Vec<u64> = records.iter().map(|r| r.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    format!(
        "{}: {} train and {} validation images, {} classes; {} px, patches of {} px; ViT-{}; {} seed{}.",
        first.dataset,
        first.n_train,
        first.n_val,
        first.n_classes,
        first.image_size,
        first.patch_size,
        first.backbone,
        seeds.len(),
        if seeds.len() == 1 { "" } else { "s" },
    )
}

fn others(page: &Page) -> String {
    let names = page.figures.iter().map(|f| f.name.as_str());
    let names = names.filter(|n| n.starts_with("curves-") || n.starts_with("classes-"));
    names.map(|name| html(&page.figures, name, false)).collect()
}

/// Returns closed cards. The script fills a card when it is opened.
fn cards(records: &[Record]) -> String {
    let card = |(at, name): (usize, &&str)| {
        format!(
            "<details class=card data-card={at} id=card-{at}><summary>{}</summary></details>",
            escaped(name)
        )
    };
    names(records).iter().enumerate().map(card).collect()
}

/// Returns the data of the cards for the script.
fn data(records: &[Record], page: &Page) -> Value {
    let mut rows: Vec<Value> = Vec::new();
    let mut pictures = Pictures::default();
    let first = |name: &str| records.iter().find(|r| r.tokenizer == name);
    for record in names(records).into_iter().filter_map(first) {
        let metrics = page.data.metrics.iter();
        // The number of the row comes first, then those of single fits.
        let mut seen = BTreeSet::new();
        let metrics = metrics
            .filter(|m| {
                m.tokenizer == record.tokenizer && m.seed == record.seed && m.group.is_none()
            })
            .filter(|m| seen.insert(m.metric.as_str()));
        let metrics: Vec<Value> = metrics
            .map(|m| json!([m.metric, m.value, m.se, m.null_mean]))
            .collect();
        let card = page.cards.iter().find(|c| c.name == record.tokenizer);
        rows.push(json!({
            "name": record.tokenizer,
            "facts": facts(page, records, record),
            "codes": card.and_then(|c| pictures.add(&c.codebook)),
            "metrics": metrics,
            "card": card,
            "picture": card.and_then(|c| pictures.add(&c.picture)),
            "maps": card.and_then(|c| pictures.add(&c.maps)),
        }));
    }
    json!({"rows": rows, "classes": page.data.classes, "pictures": pictures.all})
}

/// PNGs in base64, each stored once, because all rows show maps of the same images.
#[derive(Default)]
struct Pictures {
    all: Vec<String>,
    bytes: usize,
}

impl Pictures {
    /// Adds a picture and returns its index; `None` if it is empty or the page is full.
    fn add(&mut self, png: &[u8]) -> Option<usize> {
        let text = STANDARD.encode(png);
        if let Some(at) = self.all.iter().position(|other| *other == text) {
            return Some(at);
        }
        if png.is_empty() || self.bytes + text.len() > PICTURES {
            return None;
        }
        self.bytes += text.len();
        self.all.push(text);
        Some(self.all.len() - 1)
    }
}

/// Returns facts and costs of a row for its card.
fn facts(page: &Page, records: &[Record], first: &Record) -> Vec<(String, String)> {
    let mut facts = vec![("kind".to_owned(), first.kind.clone())];
    let mut say = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| (name.to_owned(), value)));
    };
    let count = |n: Option<usize>| n.map(|n| n.to_string());
    say("codes", count(first.codebook_size));
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    say(
        "codes of the groups",
        text(&first.code_groups.replace(' ', ", ")),
    );
    say("codes used", count(first.codebook_used));
    say("passes of K-means", count(first.kmeans_epochs));
    say("fit seeds", text(&first.fit_seeds.replace(' ', ", ")));
    say("epochs of pretraining", count(first.pretrain_epochs));
    for (what, taken) in first.checkpoints() {
        say(&format!("{what} of"), text(taken));
    }
    say(
        "built with labels",
        first.saw_labels.then(|| "yes".to_owned()),
    );
    say("ONNX engine", text(&first.engine));
    say(
        "device",
        text(&first.device).map(|device| format!("{device}, {}", first.dtype)),
    );
    say("recipe", Some(first.recipe_hash.clone()));
    let own = || records.iter().filter(|r| r.tokenizer == first.tokenizer);
    for evaluation in EVALUATIONS {
        say(evaluation.title, accuracy(evaluation, own(), first.n_val));
    }
    let costs = page.costs.iter();
    let costs: Vec<&CostRow> = costs.filter(|c| c.tokenizer == first.tokenizer).collect();
    for (at, CostRow { stage, .. }) in costs.iter().enumerate() {
        if costs[..at].iter().all(|c| c.stage != *stage) {
            say(&format!("cost of {stage}"), cost(&costs, stage));
        }
    }
    let problems = ranking::problems(own());
    say(
        "status",
        Some(if problems.is_empty() {
            "ok".to_owned()
        } else {
            problems.join("; ")
        }),
    );
    facts
}

/// Returns the mean accuracy over the seeds with its standard deviation; for one seed, Wilson's 95 % interval for `images` validation images.
fn accuracy<'a>(
    evaluation: &Evaluation,
    seeds: impl Iterator<Item = &'a Record>,
    images: usize,
) -> Option<String> {
    const Z: f64 = 1.959964;
    let (mean, sd) = evaluation.over_seeds(seeds)?;
    if let Some(sd) = sd {
        return Some(format!(
            "{mean:.1} % ± {sd:.1} (standard deviation over seeds)"
        ));
    }
    let (p, n) = (mean / 100.0, images as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let [low, high] = [middle - half, middle + half].map(|end| 100.0 * end);
    let trainings = match evaluation.of_encoder {
        true => "; the variation between trainings is unknown (one seed)",
        false => "",
    };
    Some(format!(
        "{mean:.1} %, 95 % interval {low:.1} to {high:.1} over validation images{trainings}"
    ))
}

/// Returns mean seconds over the cells or fits, and peak memory.
fn cost(of_row: &[&CostRow], stage: &str) -> Option<String> {
    let all: Vec<&&CostRow> = of_row.iter().filter(|c| c.stage == stage).collect();
    let seconds = all.iter().map(|c| c.seconds).sum::<f64>() / all.len() as f64;
    let peak = all.iter().filter_map(|c| c.peak_mib).fold(0.0, f64::max);
    let memory = match peak > 0.0 {
        true => format!(", at most {peak:.0} MiB of memory"),
        false => String::new(),
    };
    let key = all.first().map(|c| c.key.as_str())?;
    let (of_each, of_first) = match all.len() {
        1 => (String::new(), ""),
        several => (format!(" on average of {several}"), " of the first"),
    };
    Some(format!(
        "{seconds:.1} s{of_each}{memory}; store key{of_first} {key}"
    ))
}

/// Isolates the texts of a value as [`escaped`] does, so that names equal those of the document.
fn isolated(value: &mut Value) {
    match value {
        Value::String(text) if !text.is_ascii() => *text = text::isolated(text).into_owned(),
        Value::Array(all) => all.iter_mut().for_each(isolated),
        Value::Object(map) => map.values_mut().for_each(isolated),
        _ => (),
    }
}

/// Returns JSON for a script element, escaped so that nothing in it can end the element.
fn embedded(mut value: Value) -> String {
    isolated(&mut value);
    let text = value.to_string();
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

#[cfg(test)]
mod tests;
