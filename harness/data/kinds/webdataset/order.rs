//! The order of the images of shards: class, then name.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;

use super::shard::Shard;
use crate::data::encoded::Assembly;
use crate::data::error::DataError;
use crate::data::hold_out::HoldOut;

/// An image of a chosen class: its label, shard and index in the shard.
type Chosen = (u32, u32, u32);

/// Adds the images of the chosen classes in scan order: class, then name. `number` and `split` are the split of the shards; the images
/// that `held` draws belong to val.
pub(super) fn in_order(
    (number, split): (usize, &str),
    shards: &[Shard],
    label_of: &HashMap<&str, u32>,
    held: Option<HoldOut>,
    assembly: &mut Assembly,
) -> Result<(), DataError> {
    let mut order: Vec<Chosen> = Vec::new();
    for (number, shard) in (0..).zip(shards) {
        let classes = shard.classes.iter();
        let labels = classes.map(|class| label_of.get(class.as_str()).copied());
        let labels: Vec<Option<u32>> = labels.collect();
        let members = (0..).zip(shard.members());
        order.extend(
            members.filter_map(|(at, member)| Some((labels[member.label as usize]?, number, at))),
        );
        let file = shard.path.file_name().unwrap_or_default();
        let omitted = &shard.known.index.omitted;
        (assembly.omitted).append(omitted.below(&file.to_string_lossy()));
        if shard.members().is_empty() {
            let path = shard.path.display().to_string();
            assembly.omitted.other(path, "shards without images");
        }
    }
    each_once(split, shards, &order)?;
    order.par_sort_unstable_by_key(|(label, shard, member)| {
        (*label, name(split, &shards[*shard as usize], *member))
    });
    for class in order.chunk_by(|a, b| a.0 == b.0) {
        let drawn = held.map_or_else(BTreeSet::new, |held| held.draw(class.len(), class[0].0));
        for (at, &(label, shard, member)) in class.iter().enumerate() {
            let of = &shards[shard as usize];
            let about = &of.members()[member as usize];
            // Every image of a chosen class has a digest.
            if let Some(digest) = &about.digest {
                let name = format!("{split}/{}", name(split, of, member));
                let number = if drawn.contains(&at) { 1 } else { number };
                assembly.push(number, &name, label, digest, Some(about.place(shard)));
            }
        }
    }
    Ok(())
}

/// Returns the path of an image without the split's name, which a folder of the same images has too.
fn name<'a>(split: &str, shard: &'a Shard, member: u32) -> &'a str {
    let path = &shard.known.index.paths[member as usize];
    let within = path.strip_prefix(split).and_then(|p| p.strip_prefix('/'));
    within.unwrap_or(path)
}

/// Checks that every image of a split has its own name.
fn each_once(split: &str, shards: &[Shard], order: &[Chosen]) -> Result<(), DataError> {
    let mut shard_of: HashMap<&str, u32> = HashMap::with_capacity(order.len());
    for (_, shard, member) in order {
        let of = &shards[*shard as usize];
        if let Some(other) = shard_of.insert(name(split, of, *member), *shard) {
            let path = &of.known.index.paths[*member as usize];
            return Err(DataError::at(
                &of.path,
                format!(
                    "image `{path}` is in {} too; expected every image of the {split} split once; name each shard once, \
                     and give every sample its own key",
                    shards[other as usize].path.display()
                ),
            ));
        }
    }
    Ok(())
}
