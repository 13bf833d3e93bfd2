//! MAE's `util/lr_sched.py`: per-iteration linear warm-up, then half a cosine.

/// The learning rate at any point of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Rate after warm-up.
    pub lr: f64,
    /// Rate at the end.
    pub min_lr: f64,
    /// Epochs of warm-up.
    pub warmup_epochs: f64,
    /// All epochs.
    pub epochs: f64,
}

impl Schedule {
    /// The rate at `epoch`, a fraction inside an epoch.
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.lr * epoch / self.warmup_epochs;
        }
        let part = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs);
        self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
    }
}
