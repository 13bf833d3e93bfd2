//! Several K-means codebooks over any features, and a code of each per patch: product quantisation (Jégou et al. 2011), where each has
//! an equal slice of the features, and residual quantisation (Chen et al. 2010), where each has what those before it leave.

use std::path::Path;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tessera_models::{Groups, TargetSpec, Targets};

use super::codebook::{Codebook, Inertia};
use super::fields::{Fields, Matching};
use super::nearest::{Nearest, NotFinite};
use super::rows::{Shared, fit_in_cache};
use super::{fit, not_finite};
use crate::config::{Config, ConfigError, expected_one_of};
use crate::contract::{
    Facts, Features, Fingerprint, FitCost, Grid, ImageStream, MOST_GROUPS, Plan, Tokenizer,
};
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::View;
use crate::{Error, Result};

const VERSION: u32 = 1;
const FILE: &str = "codebook.safetensors";

/// Factory of `product-kmeans` and `residual-kmeans`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupedFactory {
    /// `product-kmeans`.
    Product,
    /// `residual-kmeans`.
    Residual,
}

/// The field of `product-kmeans` beside those of `kmeans`.
#[derive(Deserialize, JsonSchema)]
struct Product {
    /// Number of equal slices of the features, each with a codebook of `k` codes.
    #[schemars(range(min = 1, max = MOST_GROUPS))]
    groups: usize,
}

/// The field of `residual-kmeans` beside those of `kmeans`.
#[derive(Deserialize, JsonSchema)]
struct Residual {
    /// Number of codebooks of `k` codes. The first is fitted to the features, each of the others to the differences that remain from the
    /// nearest centres of those before it.
    #[schemars(range(min = 1, max = MOST_GROUPS))]
    levels: usize,
}

/// What a suite sets.
struct Parsed {
    features: Box<dyn Features>,
    fields: Fields,
    groups: Groups,
    /// Length of a centre.
    width: usize,
}

impl GroupedFactory {
    /// The name of the field with the number of codebooks.
    fn field(self) -> &'static str {
        match self {
            Self::Product => "groups",
            Self::Residual => "levels",
        }
    }

    /// Parses the number of codebooks and the fields of `kmeans`.
    fn fields(self, with: &Config) -> Result<(usize, Fields), ConfigError> {
        let own = self.field();
        self.refuse_unknown(with)?;
        let absent = [(String::new(), vec![own.to_owned()])];
        let absent = if with.get(own).is_none() {
            &absent[..]
        } else {
            &[]
        };
        let fields: Fields = with.without(own).parse_with(absent)?;
        let count = match self {
            Self::Product => with.parse::<Product>()?.groups,
            Self::Residual => with.parse::<Residual>()?.levels,
        };
        if self == Self::Residual && fields.matching != Matching::Euclidean {
            let message = "expected euclidean: the difference from another centre than the nearest one is no residual; leave the field out";
            return Err(with.error("matching", message));
        }
        Ok((count, fields))
    }

    /// Refuses a field that the schema does not have: two structs share the fields, so neither knows all names.
    fn refuse_unknown(self, with: &Config) -> Result<(), ConfigError> {
        let schema = self.schema();
        let known = schema.get("properties").and_then(Value::as_object);
        let Some((known, Value::Object(found))) = known.map(|known| (known, with.value())) else {
            return Ok(());
        };
        match found.keys().find(|name| !known.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                let names = expected_one_of(name, known.keys().map(String::as_str));
                Err(with.error(name, format!("unknown field `{name}`, {names}")))
            }
        }
    }

    fn parsed(self, with: &Config, cx: &BuildContext<'_>) -> Result<Parsed> {
        let (count, fields) = self.fields(with)?;
        let groups = Groups::new(&vec![fields.k; count]);
        let groups = groups.map_err(|message| with.error("k", message))?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let dim = features.dim();
        let width = match self {
            Self::Residual => dim,
            Self::Product if dim.is_multiple_of(count) => dim / count,
            Self::Product => {
                let message =
                    format!("found {count}, expected a divisor of the {dim} features of a patch");
                return Err(with.error("groups", message).into());
            }
        };
        Ok(Parsed {
            features,
            fields,
            groups,
            width,
        })
    }

    /// Returns the codes of `rows` `[n, dim]`, group by group. What the codebooks of a residual leave remains in `rows`.
    fn assign(
        self,
        books: &[Book],
        dim: usize,
        rows: &mut [f32],
    ) -> Result<Vec<Vec<u32>>, NotFinite> {
        let each = books.iter().enumerate();
        let codes = each.map(|(group, book)| match self {
            Self::Product => book
                .nearest
                .assign(&slice(rows, dim, group, book.codebook.dim)),
            Self::Residual => {
                let ids = book.nearest.assign(rows)?;
                for (row, id) in rows.chunks_exact_mut(dim).zip(&ids) {
                    let center = &book.codebook.centers[*id as usize * dim..][..dim];
                    row.iter_mut().zip(center).for_each(|(x, c)| *x -= c);
                }
                Ok(ids)
            }
        });
        codes.collect()
    }

    /// Returns the mean squared error of a patch: slices add up, and the last residual is what all levels leave.
    fn inertia(self, codebooks: &[Codebook]) -> Option<Inertia> {
        let each: Option<Vec<Inertia>> = codebooks.iter().map(|one| one.inertia).collect();
        let last = *each.as_ref()?.last()?;
        let per_patch = match self {
            Self::Product => each?.iter().map(|one| one.per_patch).sum(),
            Self::Residual => last.per_patch,
        };
        Some(Inertia { per_patch, ..last })
    }
}

/// Returns the values of one group of each row, `[n, width]`.
fn slice(rows: &[f32], dim: usize, group: usize, width: usize) -> Vec<f32> {
    let rows = rows.chunks_exact(dim);
    rows.flat_map(|row| &row[group * width..][..width])
        .copied()
        .collect()
}

/// A codebook, prepared for assignment.
struct Book {
    codebook: Codebook,
    nearest: Nearest,
}

impl Book {
    fn new(codebook: Codebook, matching: Matching) -> Self {
        let nearest = codebook.nearest(matching);
        Self { codebook, nearest }
    }
}

/// The features of the next codebook of a fit.
struct Part<'a> {
    kind: GroupedFactory,
    features: &'a dyn Features,
    shared: &'a Shared<'a>,
    width: usize,
    /// The codebooks so far.
    books: &'a [Book],
}

impl Features for Part<'_> {
    fn grid(&self) -> Grid {
        self.features.grid()
    }

    fn dim(&self) -> usize {
        self.width
    }

    fn fingerprint(&self) -> Fingerprint {
        self.features.fingerprint()
    }

    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        let (grid, dim) = (self.grid(), self.features.dim());
        let mut rows = self.shared.rows(view)?;
        let rows = match self.kind {
            GroupedFactory::Product => slice(&rows, dim, self.books.len(), self.width),
            GroupedFactory::Residual => {
                let found = self.kind.assign(self.books, dim, &mut rows);
                found.map_err(|found| not_finite(found, view, grid.num_patches()))?;
                rows
            }
        };
        let shape = (view.batch(), grid.num_patches(), self.width);
        Ok(Tensor::from_vec(rows, shape, &Device::Cpu)?)
    }
}

impl TokenizerFactory for GroupedFactory {
    fn kind(&self) -> &'static str {
        match self {
            Self::Product => "product-kmeans",
            Self::Residual => "residual-kmeans",
        }
    }

    fn summary(&self) -> &'static str {
        match self {
            Self::Product => {
                "K-means on each of several slices of any features: a code per group (product quantization)"
            }
            Self::Residual => {
                "K-means on any features, then on what remains: a code per level (residual quantization)"
            }
        }
    }

    /// Returns the schema of `kmeans` with one more field.
    fn schema(&self) -> schemars::Schema {
        let own = match self {
            Self::Product => schemars::schema_for!(Product),
            Self::Residual => schemars::schema_for!(Residual),
        };
        let mut schema = schemars::schema_for!(Fields);
        let field = own.get("properties").and_then(|all| all.get(self.field()));
        if let (Some(Value::Object(all)), Some(field)) = (schema.get_mut("properties"), field) {
            all.insert(self.field().to_owned(), field.clone());
        }
        if let Some(Value::Array(required)) = schema.get_mut("required") {
            required.push(self.field().into());
        }
        schema
    }

    fn learns(&self) -> bool {
        true
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        let parsed = self.parsed(with, cx)?;
        Fields::checked(&with.without(self.field()), cx)?;
        parsed.fields.check_memory(with, cx, parsed.width)
    }

    fn plan(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Plan> {
        let Parsed {
            features,
            fields,
            groups,
            width,
        } = self.parsed(with, cx)?;
        let one = fit::cost(width, &fields, cx);
        let per_image = cx.grid.num_patches() * features.dim();
        let shared = fit_in_cache(cx.num_train(), per_image);
        let count = groups.count() as f64;
        // A level first assigns the rows of every image that it reads to all levels before.
        let before = match self {
            Self::Product => 0.0,
            Self::Residual => one.images * cx.grid.num_patches() as f64 * (count - 1.0) / 2.0,
        };
        Ok(Plan {
            target: Some(TargetSpec::Codes { groups }),
            looks_up: false,
            fit: Some(FitCost {
                images: if shared {
                    one.images
                } else {
                    count * one.images
                },
                flops: count * (one.flops + 2.0 * before * (fields.k * width) as f64),
                ..one
            }),
        })
    }

    fn fit_inputs(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Fingerprint> {
        let parsed = self.parsed(with, cx)?;
        let (kind, count) = (self.kind(), parsed.groups.count());
        let (fields, kmeans) = (parsed.fields.about(), fit::VERSION);
        let about = format!("{kind} {VERSION} {count} kmeans {kmeans} {fields}");
        let features = parsed.features.fingerprint();
        Ok(Fingerprint::of(&[about.as_bytes(), features.0.as_bytes()]))
    }

    /// Fits one codebook after another. All have the same seed, so that the same images are held out.
    fn fit(
        &self,
        with: &Config,
        images: &dyn ImageStream,
        seed: u64,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let counted = BuildContext {
            images: Some([images.len(), 0]),
            ..*cx
        };
        self.validate(with, &counted)?;
        let parsed = self.parsed(with, cx)?;
        let count = parsed.groups.count();
        let shared = Shared::new(parsed.features.as_ref(), images.len());
        let mut books: Vec<Book> = Vec::with_capacity(count);
        for group in 0..count {
            let name = self.field();
            let progress = |done: usize, total: usize, note: &str| {
                let note = format!("{note}, {} of {count} {name}", group + 1);
                (cx.progress)(group * total + done, count * total, &note);
            };
            let part = Part {
                kind: *self,
                features: parsed.features.as_ref(),
                shared: &shared,
                width: parsed.width,
                books: &books,
            };
            let within = BuildContext {
                progress: &progress,
                ..*cx
            };
            let codebook = fit::fit(&part, images, &parsed.fields, seed, &within)?;
            books.push(Book::new(codebook, parsed.fields.matching));
        }
        let codebooks: Vec<Codebook> = books.into_iter().map(|book| book.codebook).collect();
        let all = Codebook {
            k: count * parsed.fields.k,
            dim: parsed.width,
            centers: codebooks
                .iter()
                .flat_map(|one| one.centers.clone())
                .collect(),
            weights: codebooks
                .iter()
                .flat_map(|one| one.weights.clone())
                .collect(),
            inertia: self.inertia(&codebooks),
        };
        Ok(Box::new(Grouped::new(*self, parsed, all)))
    }

    fn load(
        &self,
        with: &Config,
        state: &Path,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let parsed = self.parsed(with, cx)?;
        let path = state.join(FILE);
        let all = Codebook::load(&path)?;
        let expected = (parsed.groups.total(), parsed.width);
        if (all.k, all.dim) != expected {
            let (k, width) = expected;
            return Err(Error::File {
                path,
                message: format!(
                    "has {}x{} centres of all {}, expected {k}x{width}",
                    all.k,
                    all.dim,
                    self.field()
                ),
            });
        }
        Ok(Box::new(Grouped::new(*self, parsed, all)))
    }
}

struct Grouped {
    kind: GroupedFactory,
    parsed: Parsed,
    /// The centres of all codebooks, `[groups * k, width]`.
    all: Codebook,
    /// The codebooks, prepared at the first image.
    books: OnceLock<Vec<Book>>,
}

impl Grouped {
    fn new(kind: GroupedFactory, parsed: Parsed, all: Codebook) -> Self {
        Self {
            kind,
            parsed,
            all,
            books: OnceLock::new(),
        }
    }

    fn books(&self) -> &[Book] {
        self.books.get_or_init(|| {
            let Parsed { fields, width, .. } = &self.parsed;
            let centers = self.all.centers.chunks_exact(fields.k * width);
            let each = centers
                .map(|centers| Book::new(Codebook::new(centers.to_vec(), *width), fields.matching));
            each.collect()
        })
    }

    /// Returns the codes of `rows` `[n, dim]`, `[n, groups]`.
    fn codes(&self, mut rows: Vec<f32>) -> Result<Vec<u32>, NotFinite> {
        let dim = self.parsed.features.dim();
        let groups = self.kind.assign(self.books(), dim, &mut rows)?;
        let patches = 0..rows.len() / dim;
        Ok(patches
            .flat_map(|at| groups.iter().map(move |codes| codes[at]))
            .collect())
    }
}

impl Tokenizer for Grouped {
    fn target(&self) -> TargetSpec {
        let groups = self.parsed.groups;
        TargetSpec::Codes { groups }
    }

    fn grid(&self) -> Grid {
        self.parsed.features.grid()
    }

    fn fingerprint(&self) -> Fingerprint {
        let Parsed {
            features,
            fields,
            groups,
            ..
        } = &self.parsed;
        let (kind, matching) = (self.kind.kind(), fields.matching);
        let about = format!("{kind} {VERSION} {groups:?} {matching:?}");
        let features = features.fingerprint();
        Fingerprint::of(&[about.as_bytes(), features.0.as_bytes(), &self.all.bytes()])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let Parsed {
            features, groups, ..
        } = &self.parsed;
        let rows: Vec<f32> = features.extract(view)?.flatten_all()?.to_vec1()?;
        let patches = self.grid().num_patches();
        let codes = self.codes(rows);
        let codes = codes.map_err(|found| not_finite(found, view, patches))?;
        let shape = (view.batch(), patches, groups.count());
        let codes = Tensor::from_vec(codes, shape, &Device::Cpu)?;
        Ok(Targets::Codes(codes, *groups))
    }

    fn fit_report(&self) -> Option<Value> {
        let inertia = self.all.inertia?;
        Some(serde_json::json!({"inertia": inertia}))
    }

    fn save(&self, state: &Path) -> Result<()> {
        self.all.save(&state.join(FILE))
    }

    fn facts(&self) -> Facts {
        Facts {
            kmeans_epochs: Some(self.parsed.fields.epochs),
            ..self.parsed.features.facts()
        }
    }
}
