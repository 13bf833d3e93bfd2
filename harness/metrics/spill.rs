//! Words grouped into shards: a small tail of each shard in memory, the rest in a temporary file.
//!
//! Appending writes sequentially for any distribution of shards, and each shard is read separately. Counts and images' tokens
//! are thus regrouped in memory that depends on neither their number nor the codebook.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Approximate number of words in all tails together.
const TAILS: usize = 1 << 21;
/// Minimum and maximum words of a tail: writes of 4 to 16 KiB.
const TAIL: (usize, usize) = (1 << 10, 1 << 12);

/// Shards of u32 words, each in the order of its pushes.
pub(super) struct Spill {
    dir: PathBuf,
    file: Option<File>,
    end: u64,
    tail: usize,
    shards: Vec<Shard>,
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct Shard {
    /// (offset in bytes, words) in the order of writing.
    blocks: Vec<(u64, u32)>,
    tail: Vec<u32>,
}

impl Spill {
    /// Creates `shards` empty shards. An unnamed file is created in `dir` when needed.
    pub(super) fn new(dir: &Path, shards: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            file: None,
            end: 0,
            tail: (TAILS / shards.max(1)).clamp(TAIL.0, TAIL.1),
            shards: vec![Shard::default(); shards],
            bytes: Vec::new(),
        }
    }

    /// Returns the number of shards.
    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    /// Returns the number of words in a shard.
    pub(super) fn words(&self, shard: usize) -> usize {
        let shard = &self.shards[shard];
        let blocks = shard.blocks.iter().map(|(_, words)| *words as usize);
        blocks.sum::<usize>() + shard.tail.len()
    }

    /// Appends words to a shard.
    pub(super) fn push(&mut self, shard: usize, words: &[u32]) -> io::Result<()> {
        let shard = &mut self.shards[shard];
        shard.tail.extend_from_slice(words);
        if shard.tail.len() < self.tail {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(tempfile::tempfile_in(&self.dir)?),
        };
        self.bytes.resize(shard.tail.len() * 4, 0);
        let places = self.bytes.as_chunks_mut::<4>().0.iter_mut();
        places
            .zip(&shard.tail)
            .for_each(|(b, w)| *b = w.to_le_bytes());
        file.seek(SeekFrom::Start(self.end))?;
        file.write_all(&self.bytes)?;
        shard.blocks.push((self.end, shard.tail.len() as u32));
        self.end += self.bytes.len() as u64;
        shard.tail.clear();
        Ok(())
    }

    /// Calls `take` with the words of a shard, piece by piece.
    pub(super) fn each(&mut self, shard: usize, mut take: impl FnMut(&[u32])) -> io::Result<()> {
        let shard = &self.shards[shard];
        let mut words = Vec::new();
        for (offset, len) in &shard.blocks {
            let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
            self.bytes.resize(*len as usize * 4, 0);
            file.seek(SeekFrom::Start(*offset))?;
            file.read_exact(&mut self.bytes)?;
            words.clear();
            let bytes = self.bytes.as_chunks::<4>().0.iter();
            words.extend(bytes.map(|b| u32::from_le_bytes(*b)));
            take(&words);
        }
        take(&shard.tail);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_return_the_words_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(dir.path(), 3);
        let mut expected = vec![Vec::new(); 3];
        for step in 0..9000_u32 {
            let shard = (step * 7 % 5 % 3) as usize;
            let words: Vec<u32> = (0..step % 40).map(|i| step * 40 + i).collect();
            spill.push(shard, &words).unwrap();
            expected[shard].extend(words);
        }
        assert!(spill.file.is_some() && expected.iter().any(|e| e.len() > 2 * TAIL.1));
        for _ in 0..2 {
            for (shard, expected) in expected.iter().enumerate() {
                assert_eq!(spill.words(shard), expected.len());
                let mut found = Vec::new();
                spill
                    .each(shard, |words| found.extend_from_slice(words))
                    .unwrap();
                assert_eq!(&found, expected);
            }
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nameless"
        );
    }

    #[test]
    fn few_words_need_no_file() {
        let mut spill = Spill::new(Path::new("/nonexistent"), 1);
        spill.push(0, &[1, 2]).unwrap();
        let mut found = Vec::new();
        spill
            .each(0, |words| found.extend_from_slice(words))
            .unwrap();
        assert_eq!(found, [1, 2]);
    }
}
