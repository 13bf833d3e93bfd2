//! How many codes a patch has, in a suite or a manifest: `codebook_size` for ids, `groups` for a code of each of several codebooks.

use std::fmt;

use candle_core::{Device, Tensor};
use tessera_models::{Groups, TargetSpec, Targets};

use crate::config::{Config, ConfigError};

/// Returns the target that the fields set; `None` without both.
///
/// # Errors
/// If both are set, or no head predicts such groups.
pub fn target(
    with: &Config,
    codebook_size: Option<usize>,
    groups: Option<&[usize]>,
) -> Result<Option<TargetSpec>, ConfigError> {
    match (codebook_size, groups) {
        (Some(_), Some(sizes)) => {
            let message = format!(
                "found {sizes:?} beside `codebook_size`, expected one of the two: ids, or a code of every group"
            );
            Err(with.error("groups", message))
        }
        (Some(codebook_size), None) => Ok(Some(TargetSpec::Ids { codebook_size })),
        (None, Some(sizes)) => match Groups::new(sizes) {
            Ok(groups) => Ok(Some(TargetSpec::Codes { groups })),
            Err(message) => Err(with.error("groups", message)),
        },
        (None, None) => Ok(None),
    }
}

/// As [`target`]; one of the fields must be set.
///
/// # Errors
/// As [`target`], and if neither is set.
pub fn required(
    with: &Config,
    codebook_size: Option<usize>,
    groups: Option<&[usize]>,
) -> Result<TargetSpec, ConfigError> {
    target(with, codebook_size, groups)?.ok_or_else(|| {
        let message = "missing; expected the number of different ids, or `groups`, the number of codes of each group";
        with.error("codebook_size", message)
    })
}

/// Returns ids `[images, patches]` or codes `[images, patches, groups]` as targets.
///
/// # Errors
/// If there are more or fewer of them.
pub fn targets(
    target: TargetSpec,
    codes: Vec<u32>,
    (images, patches): (usize, usize),
) -> candle_core::Result<Targets> {
    match target.groups() {
        Some(groups) => {
            let shape = (images, patches, groups.count());
            let codes = Tensor::from_vec(codes, shape, &Device::Cpu)?;
            Ok(Targets::Codes(codes, groups))
        }
        None => {
            let ids = Tensor::from_vec(codes, (images, patches), &Device::Cpu)?;
            Ok(Targets::Ids(ids))
        }
    }
}

/// A code that its codebook does not have. Its text is "the id 9" or "the code 9 of group 1".
#[derive(Debug, PartialEq)]
pub struct Outside {
    /// Index among all codes, `[patches]` or `[patches, groups]`.
    pub at: usize,
    /// The code; `u32::MAX` for every number that is not a u32.
    pub id: u32,
    /// Number of codes of its codebook.
    pub size: usize,
    /// Its group, if there are groups.
    pub group: Option<usize>,
}

impl Outside {
    /// Returns the field that states the number of codes.
    pub fn field(&self) -> &'static str {
        match self.group {
            Some(_) => "groups",
            None => "codebook_size",
        }
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.group.map_or("id", |_| "code");
        match self.id {
            u32::MAX if name == "id" => f.write_str("an id below 0 or above 2^32 - 2")?,
            u32::MAX => write!(f, "a {name} below 0 or above 2^32 - 2")?,
            id => write!(f, "the {name} {id}")?,
        }
        self.group
            .map_or(Ok(()), |group| write!(f, " of group {group}"))
    }
}

/// Returns the first of `ids`, `[patches]` or `[patches, groups]`, that its codebook does not have.
pub fn outside(target: TargetSpec, ids: &[u32]) -> Option<Outside> {
    let (sizes, grouped) = match target {
        TargetSpec::Ids { codebook_size } => (vec![codebook_size], false),
        TargetSpec::Codes { groups } => (
            groups.sizes().iter().map(|size| *size as usize).collect(),
            true,
        ),
        TargetSpec::Values { .. } => return None,
    };
    let beyond = |(at, id): (usize, &u32)| *id as usize >= sizes[at % sizes.len()];
    let at = ids.iter().enumerate().position(beyond)?;
    let group = at % sizes.len();
    Some(Outside {
        at,
        id: ids[at],
        size: sizes[group],
        group: grouped.then_some(group),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_code_is_compared_with_its_own_group() {
        let groups = Groups::new(&[2, 5]).unwrap();
        let target = TargetSpec::Codes { groups };
        assert_eq!(outside(target, &[1, 4, 0, 4]), None);
        let found = outside(target, &[1, 4, 2, 0]).unwrap();
        assert_eq!((found.at, found.size, found.field()), (2, 2, "groups"));
        assert_eq!(found.to_string(), "the code 2 of group 0");
        let found = outside(TargetSpec::Ids { codebook_size: 3 }, &[1, u32::MAX]).unwrap();
        assert_eq!(found.to_string(), "an id below 0 or above 2^32 - 2");
        assert_eq!(found.field(), "codebook_size");
    }

    #[test]
    fn ids_and_groups_exclude_each_other() {
        let with = Config::from_value(json!({}));
        assert_eq!(target(&with, None, None).unwrap(), None);
        let both = target(&with, Some(4), Some(&[2, 2]))
            .unwrap_err()
            .to_string();
        assert!(both.contains("with.groups: found [2, 2] beside"), "{both}");
        let none = target(&with, None, Some(&[])).unwrap_err().to_string();
        assert!(none.contains("expected 1 to 16"), "{none}");
    }
}
