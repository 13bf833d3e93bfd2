//! Regroups the images' tokens by token in a temporary file.
//!
//! Resampling images or labels needs, for every row of `R`, the images that contain the token. In this order, each row is built
//! in the L1 cache and used immediately. Many draws share one pass over the file, and none needs a full table.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::Counts;
use super::spill::Spill;

/// Approximate number of pairs per bucket of tokens. All pairs of a token are in one bucket.
const BUCKET: usize = 1 << 16;

/// Pairs grouped by buckets of tokens.
pub(super) struct ByToken {
    buckets: Vec<Range<u32>>,
    spill: Spill,
    /// Number of patches of each image.
    pub(super) totals: Vec<u32>,
}

impl ByToken {
    /// Reads the images twice: first to count the images of each token, then to write the file in the folder `scratch`.
    pub(super) fn new(counts: &Counts, scratch: &Path) -> io::Result<Self> {
        let mut images_with = vec![0_u32; counts.codebook_size];
        let mut totals = vec![0_u32; counts.num_images()];
        counts.each_pair(|image, token, patches| {
            images_with[token as usize] += 1;
            totals[image as usize] += patches;
            Ok(())
        })?;
        let buckets = buckets(&images_with);
        let mut bucket_of = vec![0_u32; counts.codebook_size];
        for (at, tokens) in buckets.iter().enumerate() {
            bucket_of[tokens.start as usize..tokens.end as usize].fill(at as u32);
        }
        let mut spill = Spill::new(scratch, buckets.len());
        counts.each_pair(|image, token, patches| {
            spill.push(bucket_of[token as usize] as usize, &[token, image, patches])
        })?;
        Ok(Self {
            buckets,
            spill,
            totals,
        })
    }

    /// Returns the number of buckets.
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Reads bucket `at` into `bucket`.
    pub(super) fn read(&mut self, at: usize, bucket: &mut Bucket) -> io::Result<()> {
        let tokens = self.buckets[at].clone();
        bucket.words.clear();
        self.spill
            .each(at, |words| bucket.words.extend_from_slice(words))?;
        bucket.sort(tokens);
        Ok(())
    }
}

/// Returns ranges of consecutive tokens with at most [`BUCKET`] pairs, or one token each.
fn buckets(images_with: &[u32]) -> Vec<Range<u32>> {
    let (mut buckets, mut start, mut pairs) = (Vec::new(), 0, 0);
    for (token, n) in (0..).zip(images_with) {
        if pairs > 0 && pairs + *n as usize > BUCKET {
            buckets.push(start..token);
            (start, pairs) = (token, 0);
        }
        pairs += *n as usize;
    }
    buckets.push(start..images_with.len() as u32);
    buckets
}

/// The pairs of consecutive tokens.
#[derive(Default)]
pub(super) struct Bucket {
    words: Vec<u32>,
    /// (image, patches), token by token, with ascending images.
    pairs: Vec<(u32, u32)>,
    /// Start of each token's pairs, followed by the end.
    starts: Vec<u32>,
}

impl Bucket {
    /// Iterates over the tokens that occur, in ascending order: (image, patches) with ascending images.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[(u32, u32)]> {
        let ends = self.starts.windows(2);
        let rows = ends.map(|w| &self.pairs[w[0] as usize..w[1] as usize]);
        rows.filter(|row| !row.is_empty())
    }

    fn sort(&mut self, tokens: Range<u32>) {
        let triples = self.words.as_chunks::<3>().0;
        // Every pair advances its token's position by one, so the positions end as the starts.
        let places = &mut self.starts;
        places.clear();
        places.resize(tokens.len() + 2, 0);
        triples
            .iter()
            .for_each(|[token, ..]| places[(token - tokens.start) as usize + 2] += 1);
        (2..places.len()).for_each(|at| places[at] += places[at - 1]);
        self.pairs.resize(triples.len(), (0, 0));
        for [token, image, patches] in triples {
            let place = &mut places[(token - tokens.start) as usize + 1];
            self.pairs[*place as usize] = (*image, *patches);
            *place += 1;
        }
        places.pop();
    }
}
