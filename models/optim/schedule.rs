//! The schedule of MAE's `util/lr_sched.py`: linear warm-up per iteration, then half a cosine.

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Rate after warm-up.
    pub lr: f64,
    /// Rate at the end.
    pub min_lr: f64,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// Total number of epochs.
    pub epochs: f64,
}

impl Schedule {
    /// Returns the rate at the fractional epoch `epoch`.
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.lr * epoch / self.warmup_epochs;
        }
        let part = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs);
        self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
    }
}
