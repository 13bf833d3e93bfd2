//! Memory whose vectors lie in one cache line each.

/// Numbers that start at a cache line, which is as long as the longest vector. A vector in two lines takes two loads: where the
/// allocator put packed factors decided, run by run, whether a training step in bf16 took 1.3 times as long.
#[derive(Debug, Default)]
pub(super) struct Lines {
    memory: Vec<f32>,
    start: usize,
}

impl Lines {
    /// Numbers in a cache line.
    const LINE: usize = 16;

    /// Returns `len` numbers for writing. They are those of before as long as the memory suffices.
    pub(super) fn of(&mut self, len: usize) -> &mut [f32] {
        if self.memory.len() < len + Self::LINE {
            self.memory = vec![0.0; len + Self::LINE];
            self.start = self
                .memory
                .as_ptr()
                .align_offset(4 * Self::LINE)
                .min(Self::LINE);
        }
        &mut self.memory[self.start..][..len]
    }

    /// Returns all numbers, at least as many as were asked for.
    pub(super) fn all(&self) -> &[f32] {
        &self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_at_a_cache_line_and_are_those_of_before() {
        let mut lines = Lines::default();
        assert!(lines.all().is_empty());
        for len in [0, 1, 70, 30, 5000] {
            let numbers = lines.of(len);
            assert_eq!((numbers.len(), numbers.as_ptr().addr() % 64), (len, 0));
            numbers.fill(1.5);
            assert!(lines.all()[..len].iter().all(|n| *n == 1.5));
        }
        let before = lines.all().as_ptr();
        assert_eq!(lines.of(4000).as_ptr(), before);
    }
}
