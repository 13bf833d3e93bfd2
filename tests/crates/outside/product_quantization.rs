//! Product quantisation (Jégou et al., 2011). A patch's features are split into groups, each with its own codebook. A token
//! combines the codes of all groups, so `groups * k` centres give `k^groups` tokens.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, safetensors};
use serde::Deserialize;
use tessera::schemars::{self, JsonSchema, Schema};
use tessera::{
    BuildContext, Config, Error, Facts, Features, Fingerprint, FitCost, Grid, ImageStream, Plan,
    Result, TargetSpec, Targets, Tokenizer, TokenizerFactory, View,
};

use crate::lloyd;

/// Number of images whose features are computed at a time.
const BATCH: usize = 32;
/// Name of the fitted file and of its tensor `[groups, k, dim / groups]`.
const FILE: &str = "codebook.safetensors";
const CENTERS: &str = "centers";

/// The documentation of the fields is the help text of `bench schema`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// `{kind: ..., ...}`, see `bench list features`.
    #[expect(
        dead_code,
        reason = "parsed separately, with the positions in the suite"
    )]
    features: serde_json::Value,
    /// Number of groups into which the features are split.
    groups: usize,
    /// Number of codes per group.
    k: usize,
    /// Number of passes of Lloyd's algorithm.
    #[serde(default = "ten")]
    epochs: usize,
    /// Maximum number of patches to learn from.
    #[serde(default = "twenty_thousand")]
    patches: usize,
}

fn ten() -> usize {
    10
}

fn twenty_thousand() -> usize {
    20_000
}

/// The stateless factory for the registry.
pub struct Factory;

impl Factory {
    /// Parses and checks the fields and the features. Errors contain file, line and field.
    fn parts(with: &Config, cx: &BuildContext<'_>) -> Result<(Fields, Box<dyn Features>)> {
        let fields: Fields = with.parse()?;
        let features = cx.registry.build_features(&with.nested("features"), cx)?;
        let dim = features.dim();
        if fields.groups == 0 || !dim.is_multiple_of(fields.groups) {
            let message = format!(
                "found {}, expected a divisor of the features' {dim} numbers per patch",
                fields.groups
            );
            return Err(with.error("groups", message).into());
        }
        let codes = u32::try_from(fields.groups)
            .ok()
            .and_then(|groups| fields.k.checked_pow(groups));
        if fields.k == 0 || codes.is_none_or(|codes| codes > 1 << 24) {
            let message = format!("found {}, expected k^groups in 1..={}", fields.k, 1 << 24);
            return Err(with.error("k", message).into());
        }
        Ok((fields, features))
    }
}

impl TokenizerFactory for Factory {
    fn kind(&self) -> &'static str {
        "product-quantization"
    }

    fn summary(&self) -> &'static str {
        "codes of groups of any features, each group with a codebook of its own"
    }

    fn schema(&self) -> Schema {
        schemars::schema_for!(Fields)
    }

    fn learns(&self) -> bool {
        true
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        Self::parts(with, cx).map(drop)
    }

    /// Returns the inputs of `--dry-run`'s estimate: the number of tokens, the sampled images, and their products with the centres.
    fn plan(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Plan> {
        let (fields, features) = Self::parts(with, cx)?;
        let images = num_sampled(features.as_ref(), cx.num_train(), fields.patches);
        let rows = images * features.grid().num_patches();
        let steps = (rows * fields.epochs) as f64;
        Ok(Plan {
            target: Some(target(fields.groups, fields.k)),
            looks_up: false,
            fit: Some(FitCost {
                images: images as f64,
                flops: 2.0 * steps * (fields.k * features.dim()) as f64,
                memory: (4 * rows * features.dim()) as f64,
            }),
        })
    }

    /// Includes the features' fingerprint, so that a changed model file does not reuse the old codebook.
    fn fit_inputs(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Fingerprint> {
        let (fields, features) = Self::parts(with, cx)?;
        let Fields {
            groups,
            k,
            epochs,
            patches,
            ..
        } = fields;
        let about =
            format!("product-quantization 1, {groups} x {k}, {epochs} epochs, {patches} patches");
        Ok(Fingerprint::of(&[
            about.as_bytes(),
            features.fingerprint().0.as_bytes(),
        ]))
    }

    fn fit(
        &self,
        with: &Config,
        images: &dyn ImageStream,
        seed: u64,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let (fields, features) = Self::parts(with, cx)?;
        let rows = sample(features.as_ref(), images, fields.patches, cx)?;
        let width = features.dim() / fields.groups;
        let mut centers = Vec::new();
        for group in 0..fields.groups {
            let of_group = rows
                .chunks_exact(features.dim())
                .flat_map(|row| &row[group * width..][..width]);
            let of_group: Vec<f32> = of_group.copied().collect();
            centers.extend(lloyd::centers(
                &of_group,
                width,
                fields.k,
                fields.epochs,
                seed + group as u64,
            ));
            (cx.progress)(group + 1, fields.groups, "groups");
        }
        Ok(Box::new(ProductQuantization {
            features,
            groups: fields.groups,
            k: fields.k,
            centers,
        }))
    }

    fn load(
        &self,
        with: &Config,
        state: &Path,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        let (fields, features) = Self::parts(with, cx)?;
        let path = state.join(FILE);
        let refuse = |message: String| Error::File {
            path: path.clone(),
            message,
        };
        let found = safetensors::load(&path, &Device::Cpu)?;
        let centers = found
            .get(CENTERS)
            .ok_or_else(|| refuse(format!("lacks `{CENTERS}`")))?;
        let expected = [fields.groups, fields.k, features.dim() / fields.groups];
        if centers.dims() != expected {
            return Err(refuse(format!(
                "holds centres {:?}, expected {expected:?}",
                centers.dims()
            )));
        }
        let centers = centers.flatten_all()?.to_vec1()?;
        Ok(Box::new(ProductQuantization {
            features,
            groups: fields.groups,
            k: fields.k,
            centers,
        }))
    }
}

/// Returns the target of `k^groups` ids.
fn target(groups: usize, k: usize) -> TargetSpec {
    TargetSpec::Ids {
        codebook_size: k.pow(groups as u32),
    }
}

/// Returns the number of images, at most `train`, that contain `patches` patches.
fn num_sampled(features: &dyn Features, train: usize, patches: usize) -> usize {
    patches
        .div_ceil(features.grid().num_patches())
        .clamp(1, train.max(1))
        .min(train)
}

/// Returns the features of about `most` patches, from images evenly spread over the train split.
fn sample(
    features: &dyn Features,
    images: &dyn ImageStream,
    most: usize,
    cx: &BuildContext<'_>,
) -> Result<Vec<f32>> {
    let wanted = num_sampled(features, images.len(), most);
    let chosen: Vec<usize> = (0..wanted).map(|at| at * images.len() / wanted).collect();
    let mut rows = Vec::new();
    for batch in chosen.chunks(BATCH) {
        if (cx.interrupted)() {
            return Err(Error::Interrupted);
        }
        let view = images.view(batch)?;
        rows.extend(
            features
                .extract(&view.as_view())?
                .flatten_all()?
                .to_vec1::<f32>()?,
        );
    }
    if rows.is_empty() {
        return Err(Error::Fit("there are no patches to learn on".into()));
    }
    Ok(rows)
}

struct ProductQuantization {
    features: Box<dyn Features>,
    groups: usize,
    k: usize,
    /// `[groups, k, dim / groups]`.
    centers: Vec<f32>,
}

impl ProductQuantization {
    fn width(&self) -> usize {
        self.features.dim() / self.groups
    }

    /// Returns the codes of all groups as the digits of a number in base `k`.
    fn id(&self, row: &[f32]) -> u32 {
        let codebooks = self.centers.chunks_exact(self.k * self.width());
        let codes = row
            .chunks_exact(self.width())
            .zip(codebooks)
            .map(|(group, codebook)| lloyd::nearest(group, codebook));
        codes.fold(0, |id, code| id * self.k as u32 + code as u32)
    }
}

impl Tokenizer for ProductQuantization {
    fn target(&self) -> TargetSpec {
        target(self.groups, self.k)
    }

    fn grid(&self) -> Grid {
        self.features.grid()
    }

    fn fingerprint(&self) -> Fingerprint {
        let about = format!("product-quantization 1, {} x {}", self.groups, self.k);
        let centers: Vec<u8> = self.centers.iter().flat_map(|v| v.to_le_bytes()).collect();
        Fingerprint::of(&[
            about.as_bytes(),
            self.features.fingerprint().0.as_bytes(),
            &centers,
        ])
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let rows: Vec<f32> = self.features.extract(view)?.flatten_all()?.to_vec1()?;
        let ids: Vec<u32> = rows
            .chunks_exact(self.features.dim())
            .map(|row| self.id(row))
            .collect();
        let shape = (view.batch(), self.grid().num_patches());
        Ok(Targets::Ids(Tensor::from_vec(ids, shape, &Device::Cpu)?))
    }

    fn save(&self, state: &Path) -> Result<()> {
        let centers = Tensor::new(self.centers.as_slice(), &Device::Cpu)?.reshape((
            self.groups,
            self.k,
            self.width(),
        ))?;
        Ok(safetensors::save(
            &HashMap::from([(CENTERS, centers)]),
            state.join(FILE),
        )?)
    }

    /// Returns the features' facts: whether they saw labels, and which engine runs them.
    fn facts(&self) -> Facts {
        self.features.facts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera::Registry;

    #[test]
    fn a_plan_counts_tokens_instead_of_codes_per_group() {
        let registry = Registry::builtin();
        let cx = BuildContext {
            images: Some([1000, 0]),
            ..BuildContext::alone(&registry, 8, Grid { rows: 4, cols: 4 })
        };
        let with = serde_json::json!({"features": {"kind": "pixels"}, "groups": 4, "k": 8, "patches": 320});
        let plan = Factory.plan(&Config::from_value(with), &cx).unwrap();
        assert_eq!(
            plan.target,
            Some(TargetSpec::Ids {
                codebook_size: 4096
            })
        );
        // 20 images of 16 patches; 10 passes over 320 patches, 12 numbers and 8 codes each.
        let expected = FitCost {
            images: 20.0,
            flops: 2.0 * 10.0 * 320.0 * 12.0 * 8.0,
            memory: 4.0 * 320.0 * 48.0,
        };
        assert_eq!(plan.fit, Some(expected));
    }
}
