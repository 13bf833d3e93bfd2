//! The decoded samples of one component.

/// Samples of one component, in whole blocks.
pub struct Plane {
    /// Number of columns in memory: whole blocks.
    pub stride: usize,
    /// Number of columns of the image.
    pub width: usize,
    /// Number of rows of the image.
    pub height: usize,
    /// Samples row by row, `stride` per row.
    pub samples: Vec<u8>,
}

impl Plane {
    /// Returns the samples of a row, including those beyond the image.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.samples[row * self.stride..][..self.stride]
    }
}
