//! The parameters of a form, the effective queries that they give, and the gradients of the parameters from those of the queries.

use rand::Rng;
use rand_distr::{Distribution, Normal};
use tessera_kernels::product::{Mat, product};
use tessera_kernels::simd::{add, dot};

use super::form::{Form, Sizes, Sums};
use crate::error::{Error, Result};
use crate::params::ParamStore;
use crate::rng::keyed_rng;
use crate::vit::config::NORM_EPS;

/// Standard deviation of queries and of CAE's matrices at the start.
const SD: f32 = 0.02;

/// Adds a form's parameters: queries normal 0.02; the values' matrix of the multi-query form uniform within `1 / sqrt(width)` (PyTorch's
/// linear layer), as in its code; matrices of the single-query form normal 0.02, norms 1 and 0, as in CAE's code.
pub(super) fn add_parameters(
    params: &mut ParamStore,
    form: Form,
    width: usize,
    seed: u64,
) -> Result<()> {
    let normal = Normal::new(0.0_f32, SD).map_err(|e| Error::Config(e.to_string()))?;
    let mut rng = keyed_rng(seed, "init attentive probe", 0, 0);
    match form {
        Form::MultiQuery { queries } => {
            let values = (0..queries * width)
                .map(|_| normal.sample(&mut rng))
                .collect();
            params.add("queries", &[queries, width], values, true)?;
            let most = 1.0 / (width as f32).sqrt();
            let values = (0..width * width)
                .map(|_| rng.random_range(-most..most))
                .collect();
            params.add("value.weight", &[width, width], values, true)
        }
        Form::SingleQuery { .. } => {
            let values = (0..width).map(|_| normal.sample(&mut rng)).collect();
            params.add("query", &[1, width], values, true)?;
            for (name, value) in NORMS {
                params.add(name, &[width], vec![value; width], true)?;
            }
            for name in ["q.weight", "k.weight", "v.weight", "proj.weight"] {
                let values = (0..width * width)
                    .map(|_| normal.sample(&mut rng))
                    .collect();
                params.add(name, &[width, width], values, true)?;
            }
            Ok(())
        }
    }
}

/// The norms' parameters with their first values.
const NORMS: [(&str, f32); 4] = [
    ("norm_q.weight", 1.0),
    ("norm_q.bias", 0.0),
    ("norm_k.weight", 1.0),
    ("norm_v.weight", 1.0),
];

/// A form's parameters in a step.
pub(super) struct Weights {
    pub readers: usize,
    width: usize,
    /// Effective queries, with the scores' factor, `[readers, width]`.
    pub queries: Vec<f32>,
    /// `[width, width]`; a reader has `width / readers` rows.
    value: Vec<f32>,
    scale: f32,
    single: Option<Single>,
}

/// What only the single-query form has.
struct Single {
    /// The query, normalised without affine parameters, and its standard deviation.
    normal: Vec<f32>,
    deviation: f32,
    /// `norm_q.weight * normal + norm_q.bias`.
    query: Vec<f32>,
    /// `Wq query`.
    projected: Vec<f32>,
    norm_q: Vec<f32>,
    norm_k: Vec<f32>,
    norm_v: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    proj: Vec<f32>,
}

impl Weights {
    /// Reads the parameters.
    pub fn new(params: &ParamStore, form: Form, width: usize) -> Result<Self> {
        let get = |name: &str| -> Result<Vec<f32>> {
            Ok(params.get(name)?.detach().flatten_all()?.to_vec1()?)
        };
        let (readers, scale) = (form.readers(), form.scale(width));
        let (queries, value, single) = match form {
            Form::MultiQuery { .. } => (get("queries")?, get("value.weight")?, None),
            Form::SingleQuery { .. } => {
                let single = Single::new(&get, width)?;
                (single.queries(readers), get("v.weight")?, Some(single))
            }
        };
        Ok(Self {
            readers,
            width,
            queries: queries.into_iter().map(|v| v * scale).collect(),
            value,
            scale,
            single,
        })
    }

    /// Returns the rows of the values' matrix that a reader has.
    pub fn group(&self, reader: usize) -> &[f32] {
        let len = self.value.len() / self.readers;
        &self.value[reader * len..][..len]
    }

    /// Normalises tokens in place, if the form has norms.
    pub fn normalise(&self, tokens: &mut [f32]) {
        if self.single.is_some() {
            let rows = tokens.chunks_exact_mut(self.width);
            rows.for_each(|row| _ = normalise(row));
        }
    }

    /// Applies the values' norm to means of normalised tokens.
    pub fn normed(&self, means: &[f32]) -> Vec<f32> {
        let mut out = means.to_vec();
        if let Some(Single { norm_v, .. }) = &self.single {
            for row in out.chunks_exact_mut(self.width) {
                row.iter_mut().zip(norm_v).for_each(|(v, w)| *v *= w);
            }
        }
        out
    }

    /// Converts the gradient of [`normed`](Self::normed) means into that of the means in place; returns that of the norm.
    pub fn unnorm(&self, means: &[f32], gradient: &mut [f32]) -> Vec<f32> {
        let mut sums = vec![0.0; self.width];
        if let Some(Single { norm_v, .. }) = &self.single {
            let rows = gradient.chunks_exact_mut(self.width);
            for (row, mean) in rows.zip(means.chunks_exact(self.width)) {
                for d in 0..self.width {
                    sums[d] += row[d] * mean[d];
                    row[d] *= norm_v[d];
                }
            }
        }
        sums
    }

    /// Applies the output projection to `[images, width]`, if the form has one.
    pub fn project(&self, read: &[f32]) -> Vec<f32> {
        let Some(Single { proj, .. }) = &self.single else {
            return read.to_vec();
        };
        let (images, width) = (read.len() / self.width, self.width);
        product(
            Mat::new(read, images, width),
            Mat::new(proj, width, width).t(),
        )
    }

    /// Returns the gradients of the projection's input and of its weight.
    pub fn unproject(&self, read: &[f32], out: &[f32]) -> (Vec<f32>, Option<Vec<f32>>) {
        let Some(Single { proj, .. }) = &self.single else {
            return (out.to_vec(), None);
        };
        let (images, width) = (read.len() / self.width, self.width);
        let g = Mat::new(out, images, width);
        let of_weight = product(g.t(), Mat::new(read, images, width));
        let before = product(g, Mat::new(proj, width, width));
        (before, Some(of_weight))
    }

    /// Returns the gradients of the parameters in their order, from the sums of a batch.
    pub fn gradients(&self, sums: Sums, proj: Option<Vec<f32>>) -> Vec<Vec<f32>> {
        let mut queries = sums.queries;
        queries.iter_mut().for_each(|g| *g *= self.scale);
        match (&self.single, proj) {
            (Some(single), Some(proj)) => {
                single.gradients(&queries, self.readers, sums.value, sums.norm, proj)
            }
            _ => vec![queries, sums.value],
        }
    }
}

impl Single {
    fn new(get: &dyn Fn(&str) -> Result<Vec<f32>>, width: usize) -> Result<Self> {
        let mut normal = get("query")?;
        let deviation = normalise(&mut normal);
        let (norm_q, bias) = (get("norm_q.weight")?, get("norm_q.bias")?);
        let affine = norm_q.iter().zip(&bias);
        let query: Vec<f32> = normal
            .iter()
            .zip(affine)
            .map(|(v, (w, b))| w * v + b)
            .collect();
        let q = get("q.weight")?;
        let projected = q.chunks_exact(width).map(|row| dot(row, &query)).collect();
        Ok(Self {
            normal,
            deviation,
            query,
            projected,
            norm_q,
            norm_k: get("norm_k.weight")?,
            norm_v: get("norm_v.weight")?,
            q,
            k: get("k.weight")?,
            proj: get("proj.weight")?,
        })
    }

    /// Computes `Wk' q` of each head, `[heads, width]`.
    fn keys(&self, heads: usize) -> Vec<f32> {
        let width = self.projected.len();
        let group = width / heads;
        let of = |head: usize| {
            let q = Mat::new(&self.projected[head * group..][..group], 1, group);
            product(
                q,
                Mat::new(
                    &self.k[head * group * width..][..group * width],
                    group,
                    width,
                ),
            )
        };
        (0..heads).flat_map(of).collect()
    }

    /// Computes the effective queries without the scores' factor.
    fn queries(&self, heads: usize) -> Vec<f32> {
        let mut queries = self.keys(heads);
        for row in queries.chunks_exact_mut(self.norm_k.len()) {
            row.iter_mut().zip(&self.norm_k).for_each(|(v, w)| *v *= w);
        }
        queries
    }

    fn gradients(
        &self,
        queries: &[f32],
        heads: usize,
        value: Vec<f32>,
        norm_v: Vec<f32>,
        proj: Vec<f32>,
    ) -> Vec<Vec<f32>> {
        let width = self.normal.len();
        let (group, keys) = (width / heads, self.keys(heads));
        let mut norm_k = vec![0.0; width];
        let (mut k, mut projected) = (vec![0.0; width * width], vec![0.0; width]);
        for head in 0..heads {
            let g = &queries[head * width..][..width];
            let of_key: Vec<f32> = g.iter().zip(&self.norm_k).map(|(g, w)| g * w).collect();
            let both = g.iter().zip(&keys[head * width..]);
            norm_k
                .iter_mut()
                .zip(both)
                .for_each(|(sum, (g, key))| *sum += g * key);
            for row in head * group..(head + 1) * group {
                projected[row] = dot(&self.k[row * width..][..width], &of_key);
                let line = &mut k[row * width..][..width];
                line.iter_mut()
                    .zip(&of_key)
                    .for_each(|(to, g)| *to = self.projected[row] * g);
            }
        }
        let q = projected
            .iter()
            .flat_map(|g| self.query.iter().map(move |v| g * v))
            .collect();
        let row = Mat::new(&projected, 1, width);
        let of_query = product(row, Mat::new(&self.q, width, width));
        let norm_q = of_query
            .iter()
            .zip(&self.normal)
            .map(|(g, v)| g * v)
            .collect();
        let inner: Vec<f32> = of_query
            .iter()
            .zip(&self.norm_q)
            .map(|(g, w)| g * w)
            .collect();
        let query = self.unnormalise(&inner);
        vec![query, norm_q, of_query, norm_k, norm_v, q, k, value, proj]
    }

    /// Converts the gradient of the normalised query into that of the query.
    fn unnormalise(&self, gradient: &[f32]) -> Vec<f32> {
        let n = gradient.len() as f32;
        let mean = gradient.iter().sum::<f32>() / n;
        let along = dot(gradient, &self.normal) / n;
        let pairs = gradient.iter().zip(&self.normal);
        pairs
            .map(|(g, v)| (g - mean - v * along) / self.deviation)
            .collect()
    }
}

/// Normalises a vector to mean 0 and variance 1, and returns its standard deviation.
fn normalise(row: &mut [f32]) -> f32 {
    let n = row.len() as f32;
    let mean = row.iter().sum::<f32>() / n;
    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
    let deviation = (variance + NORM_EPS).sqrt();
    row.iter_mut().for_each(|v| *v = (*v - mean) / deviation);
    deviation
}

/// Adds the gradients of one shard to those of earlier ones.
pub(super) fn accumulate(total: &mut Option<Sums>, sums: Sums) {
    let Some(total) = total else {
        *total = Some(sums);
        return;
    };
    add(&mut total.queries, &sums.queries);
    add(&mut total.value, &sums.value);
    add(&mut total.norm, &sums.norm);
}

/// Returns zero gradients.
pub(super) fn nothing(weights: &Weights, sizes: Sizes) -> Sums {
    let width = sizes.width;
    Sums {
        queries: vec![0.0; weights.readers * width],
        value: vec![0.0; width * width],
        norm: vec![0.0; width],
    }
}
