//! `random-projection`: a random projection of any features and a random codebook of unit vectors, nothing learned (BEST-RQ, Chiu et al.,
//! arXiv 2202.01855).

use std::path::Path;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use rand::Rng;
use rand_distr::StandardNormal;
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_kernels::simd::pairs::dot;
use tessera_models::rng::keyed_rng;
use tessera_models::{TargetSpec, Targets, params};

use crate::config::Config;
use crate::contract::{
    Facts, Features, Fingerprint, FitCost, Grid, ImageStream, MOST_CODES, Plan, Tokenizer,
};
use crate::kmeans::{Nearest, NotFinite, not_finite};
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::View;
use crate::{Error, Result};

/// Factory of `random-projection`. Its fit draws projection and codebook, so that errors include how much another draw moves the metrics.
pub struct RandomProjectionFactory;

/// Largest number of values of the codebook, and of the projection, 1 GiB.
const MOST_VALUES: usize = 1 << 28;
/// The file of a draw, and its tensors: `[dim, features]` and `[codes, dim]`.
const FILE: &str = "codebook.safetensors";
const PROJECTION: &str = "projection";
const CODEBOOK: &str = "codebook";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Features to project: `{kind: ..., ...}`, see `bench list features`. They should have mean 0 and variance 1; nothing is learned that
    /// would normalise them.
    #[expect(dead_code, reason = "parsed separately, with positions in the suite")]
    features: serde_json::Value,
    /// Number of codes.
    #[schemars(range(min = 1, max = MOST_CODES))]
    codebook_size: usize,
    /// Dimensions of the projection and of the codes; 16 in the paper.
    #[schemars(range(min = 1, max = 4096))]
    #[serde(default = "dim")]
    dim: usize,
    /// Seed of the projection and of the codebook, beside the suite's `fit_seeds`, each of which draws others.
    #[serde(default)]
    #[schemars(range(min = 0, max = u64::MAX))]
    seed: u64,
}

fn dim() -> usize {
    16
}

impl Fields {
    /// Parses the fields, and builds the features.
    fn parsed(with: &Config, cx: &BuildContext<'_>) -> Result<(Self, Box<dyn Features>)> {
        let fields: Self = with.parse()?;
        let (codes, dim) = (fields.codebook_size, fields.dim);
        if codes * dim > MOST_VALUES {
            let message = format!(
                "found {codes} codes of {dim} values, expected at most {MOST_VALUES} values; lower codebook_size or dim"
            );
            return Err(with.error("codebook_size", message).into());
        }
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        if features.dim() * dim > MOST_VALUES {
            let message = format!(
                "found a projection of {} features to {dim} values, expected at most {MOST_VALUES} values; lower dim",
                features.dim()
            );
            return Err(with.error("dim", message).into());
        }
        Ok((fields, features))
    }

    fn about(&self) -> String {
        let Self {
            codebook_size,
            dim,
            seed,
            ..
        } = self;
        format!("random-projection 2 {codebook_size} {dim} {seed}")
    }
}

impl TokenizerFactory for RandomProjectionFactory {
    fn kind(&self) -> &'static str {
        "random-projection"
    }

    fn summary(&self) -> &'static str {
        "random projection of any features, and a random codebook of unit vectors (BEST-RQ); drawn, not learned"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn learns(&self) -> bool {
        true
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        Fields::parsed(with, cx).map(drop)
    }

    fn plan(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Plan> {
        let (fields, _) = Fields::parsed(with, cx)?;
        Ok(Plan {
            target: Some(TargetSpec::Ids {
                codebook_size: fields.codebook_size,
            }),
            looks_up: false,
            // It reads no image.
            fit: Some(FitCost {
                images: 0.0,
                flops: 0.0,
                memory: 0.0,
            }),
        })
    }

    fn fit_inputs(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Fingerprint> {
        let (fields, features) = Fields::parsed(with, cx)?;
        Ok(Fingerprint::of(&[
            fields.about().as_bytes(),
            features.fingerprint().0.as_bytes(),
        ]))
    }

    fn fit(
        &self,
        with: &Config,
        _images: &dyn ImageStream,
        seed: u64,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let (fields, features) = Fields::parsed(with, cx)?;
        let seeds = (fields.seed, seed);
        Ok(Box::new(RandomProjection {
            projection: projection(features.dim(), fields.dim, seeds),
            codebook: codebook(fields.codebook_size, fields.dim, seeds),
            features,
            fields,
            nearest: OnceLock::new(),
        }))
    }

    fn load(
        &self,
        with: &Config,
        state: &Path,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let (fields, features) = Fields::parsed(with, cx)?;
        let path = state.join(FILE);
        let refuse = |message: String| Error::File {
            path: path.clone(),
            message,
        };
        let mut tensors = params::read(&path).map_err(|e| refuse(e.to_string()))?;
        let mut taken = |name: &str, expected: [usize; 2]| match tensors.remove(name) {
            Some((shape, values)) if shape == expected => Ok(values),
            found => Err(refuse(format!(
                "found {:?} for `{name}`, expected the shape {expected:?}",
                found.map(|(shape, _)| shape)
            ))),
        };
        Ok(Box::new(RandomProjection {
            projection: taken(PROJECTION, [fields.dim, features.dim()])?,
            codebook: taken(CODEBOOK, [fields.codebook_size, fields.dim])?,
            features,
            fields,
            nearest: OnceLock::new(),
        }))
    }
}

/// Returns `[dim, features]` with Xavier's uniform initialisation.
fn projection(features: usize, dim: usize, (seed, fit_seed): (u64, u64)) -> Vec<f32> {
    let limit = (6.0 / (features + dim) as f32).sqrt();
    let mut rng = keyed_rng(seed, "random projection", fit_seed, 0);
    let values = (0..dim * features).map(|_| rng.random_range(-limit..limit));
    values.collect()
}

/// Returns `[codes, dim]`, normal vectors of length 1.
fn codebook(codes: usize, dim: usize, (seed, fit_seed): (u64, u64)) -> Vec<f32> {
    let mut rng = keyed_rng(seed, "random codebook", fit_seed, 0);
    let values = (0..codes * dim).map(|_| rng.sample(StandardNormal));
    let mut values: Vec<f32> = values.collect();
    for code in values.chunks_exact_mut(dim) {
        let length = dot(code, code).sqrt().max(1e-12);
        code.iter_mut().for_each(|value| *value /= length);
    }
    values
}

struct RandomProjection {
    features: Box<dyn Features>,
    fields: Fields,
    /// `[dim, features.dim()]`.
    projection: Vec<f32>,
    /// `[codes, dim]`.
    codebook: Vec<f32>,
    /// The codebook prepared for assignment, built at the first image.
    nearest: OnceLock<Nearest>,
}

impl RandomProjection {
    /// Returns the code of each row of `values`, `[rows, features.dim()]`: the one nearest to the projected row of length 1, which is
    /// the one with the largest inner product, whatever the length.
    fn ids(&self, values: &[f32]) -> Result<Vec<u32>, NotFinite> {
        let (dim, width) = (self.fields.dim, self.features.dim());
        let rows = values.chunks_exact(width);
        let projected = rows.flat_map(|row| {
            let lines = self.projection.chunks_exact(width);
            lines.map(move |line| dot(line, row))
        });
        let projected: Vec<f32> = projected.collect();
        let bias = || vec![0.0; self.fields.codebook_size];
        let nearest = || Nearest::new(&self.codebook, dim, &bias());
        let nearest = self.nearest.get_or_init(nearest);
        nearest.assign(&projected)
    }
}

impl Tokenizer for RandomProjection {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids {
            codebook_size: self.fields.codebook_size,
        }
    }

    fn grid(&self) -> Grid {
        self.features.grid()
    }

    fn fingerprint(&self) -> Fingerprint {
        let drawn = [&self.projection, &self.codebook].map(|values| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes());
            bytes.collect::<Vec<u8>>()
        });
        let features = self.features.fingerprint();
        Fingerprint::of(&[
            self.fields.about().as_bytes(),
            features.0.as_bytes(),
            &drawn[0],
            &drawn[1],
        ])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let values: Vec<f32> = self.features.extract(view)?.flatten_all()?.to_vec1()?;
        let shape = (view.batch(), self.grid().num_patches());
        let ids = self.ids(&values);
        let ids = ids.map_err(|found| not_finite(found, view, shape.1))?;
        Ok(Targets::Ids(Tensor::from_vec(ids, shape, &Device::Cpu)?))
    }

    fn save(&self, state: &Path) -> Result<()> {
        let Fields {
            codebook_size, dim, ..
        } = self.fields;
        let tensors = vec![
            (
                PROJECTION.to_owned(),
                vec![dim, self.features.dim()],
                self.projection.clone(),
            ),
            (
                CODEBOOK.to_owned(),
                vec![codebook_size, dim],
                self.codebook.clone(),
            ),
        ];
        let path = state.join(FILE);
        params::write(&path, tensors, Default::default()).map_err(|e| Error::File {
            message: e.to_string(),
            path,
        })
    }

    fn facts(&self) -> Facts {
        self.features.facts()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Registry;

    fn tokenizer(fields: serde_json::Value) -> RandomProjection {
        let registry = Registry::builtin();
        let cx = BuildContext::alone(&registry, 8, Grid { rows: 2, cols: 2 });
        let features = Config::from_value(json!({"kind": "pixels"}));
        let features = registry.build_features(&features, &cx).unwrap();
        let fields: Fields = Config::from_value(fields).parse().unwrap();
        RandomProjection {
            projection: projection(features.dim(), fields.dim, (fields.seed, 0)),
            codebook: codebook(fields.codebook_size, fields.dim, (fields.seed, 0)),
            features,
            fields,
            nearest: OnceLock::new(),
        }
    }

    /// Equation 1 of the paper in f64: `argmin_i | c_i / |c_i| - A x / |A x| |`.
    #[test]
    fn a_code_is_the_nearest_to_the_normalised_projection() {
        let (codes, dim) = (50, 7);
        let t = tokenizer(json!({"features": {}, "codebook_size": codes, "dim": dim, "seed": 3}));
        let width = t.features.dim();
        let mut rng = keyed_rng(1, "rows", 0, 0);
        let rows: Vec<f32> = (0..200 * width)
            .map(|_| rng.sample(StandardNormal))
            .collect();
        let codebook = codebook(codes, dim, (3, 0));
        let unit = |v: &[f64]| -> Vec<f64> {
            let length = v.iter().map(|v| v * v).sum::<f64>().sqrt();
            v.iter().map(|v| v / length).collect()
        };
        let nearest = |row: &[f32]| -> u32 {
            let project = |line: &[f32]| -> f64 {
                line.iter()
                    .zip(row)
                    .map(|(a, x)| f64::from(*a) * f64::from(*x))
                    .sum()
            };
            let x: Vec<f64> = t.projection.chunks_exact(width).map(project).collect();
            let x = unit(&x);
            let distance = |code: &[f32]| -> f64 {
                let code: Vec<f64> = code.iter().map(|v| f64::from(*v)).collect();
                unit(&code)
                    .iter()
                    .zip(&x)
                    .map(|(c, x)| (c - x).powi(2))
                    .sum()
            };
            let all: Vec<f64> = codebook.chunks_exact(dim).map(distance).collect();
            (0..codes)
                .min_by(|a, b| all[*a].total_cmp(&all[*b]))
                .unwrap() as u32
        };
        let expected: Vec<u32> = rows.chunks_exact(width).map(nearest).collect();
        assert_eq!(t.ids(&rows).unwrap(), expected);
        // Another length gives the same code, and most codes occur.
        let longer: Vec<f32> = rows.iter().map(|v| v * 8.0).collect();
        assert_eq!(t.ids(&longer).unwrap(), expected);
        let used: std::collections::BTreeSet<&u32> = expected.iter().collect();
        assert!(used.len() > codes / 2, "{}", used.len());
    }

    #[test]
    fn projection_and_codebook_have_the_distributions_of_the_paper() {
        let (features, dim) = (48, 16);
        let all = projection(features, dim, (0, 0));
        let limit = (6.0_f32 / 64.0).sqrt();
        assert!(all.iter().all(|v| v.abs() <= limit));
        // The variance of Xavier's initialisation is 2 / (in + out).
        let variance = all.iter().map(|v| v * v).sum::<f32>() / all.len() as f32;
        assert!((variance - 2.0 / 64.0).abs() < 0.003, "{variance}");
        for code in codebook(100, dim, (0, 0)).chunks_exact(dim) {
            assert!((dot(code, code) - 1.0).abs() < 1e-5);
        }
        for other in [(1, 0), (0, 1)] {
            assert_ne!(codebook(4, dim, (0, 0)), codebook(4, dim, other));
        }
    }

    #[test]
    fn a_codebook_beyond_the_memory_is_refused() {
        let registry = Registry::builtin();
        let cx = BuildContext::alone(&registry, 8, Grid { rows: 2, cols: 2 });
        let with = json!({"features": {"kind": "pixels"}, "codebook_size": 1 << 24, "dim": 4096});
        let error = RandomProjectionFactory.validate(&Config::from_value(with), &cx);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("lower codebook_size or dim"), "{error}");
    }
}
