//! The extension point for several devices: parts of a batch computed separately.

use super::*;
use crate::gradients::{BatchSums, Gradient, Gradients, Loss, Reduction};
use crate::testing::{lists, of_batch};

/// Computes one part of a batch's shards and accumulates the sums, so the last part returns the total.
struct OneOf {
    part: usize,
    parts: usize,
    before: std::sync::Mutex<Option<(f64, Vec<Vec<f32>>)>>,
}

impl Reduction for OneOf {
    fn mine(&self, shards: usize) -> std::ops::Range<usize> {
        let at = |part| part * shards / self.parts;
        at(self.part)..at(self.part + 1)
    }

    fn sum(&self, sums: &mut BatchSums) -> Result<()> {
        let mut before = self.before.lock().unwrap();
        let (Loss::Number(loss), Gradient::Lists(lists)) = (&mut sums.loss, &mut sums.gradient)
        else {
            panic!("the sums must be on the CPU")
        };
        if let Some((other_loss, other)) = &*before {
            *loss += other_loss;
            let each = lists.iter_mut().flatten().zip(other.iter().flatten());
            each.for_each(|(sum, other)| *sum += other);
        }
        *before = Some((*loss, lists.clone()));
        Ok(())
    }
}

#[test]
fn the_sums_of_parts_equal_the_batch() {
    let vit = tiny();
    let params = vit::encoder(&vit, 3).unwrap();
    let params = vit::decoder(params, &vit, 5, 3).unwrap();
    let objective = MaskedPrediction {
        vit: &vit,
        config: &config(),
        data: &Random { ids: true },
        params: &params,
    };
    let batch: Vec<usize> = (0..40).collect();
    let (loss, expected) = gradients(&params, &objective, &batch);
    // The batch has three shards, so one of four parts is empty.
    for parts in [1, 2, 4] {
        let mut reduction = OneOf {
            part: 0,
            parts,
            before: None.into(),
        };
        for part in 0..parts {
            reduction.part = part;
            let mut found = Gradients::new(&params, &reduction).unwrap();
            let sum = of_batch(&mut found, &params, &objective, &reduction, &batch).unwrap();
            if part + 1 < parts {
                continue;
            }
            assert!((sum - loss).abs() < 1e-6, "{parts}: {sum} {loss}");
            for (found, expected) in lists(found.gradient(), &params).iter().zip(&expected) {
                assert_close("gradient", found, expected, 1e-5, 0..0);
            }
        }
    }
}
