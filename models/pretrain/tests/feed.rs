//! Data that loaders prepare in advance.

use super::*;
use rand::seq::SliceRandom as _;

/// A source in which one image of the second step cannot be decoded.
struct Broken;

impl PretrainData for Broken {
    fn len(&self) -> usize {
        70
    }

    fn shard(&self, epoch: usize, indices: &[usize]) -> Result<(Tensor, Targets)> {
        let mut order: Vec<usize> = (0..70).collect();
        order.shuffle(&mut keyed_rng(config().seed, "order", 0, 0));
        match indices.contains(&order[40]) {
            true => Err(Error::Data("image 40 of the order is broken".into())),
            false => Random { ids: true }.shard(epoch, indices),
        }
    }
}

#[test]
fn a_broken_image_stops_training_at_its_step_and_is_named() {
    for workers in [0, 2] {
        let steps = AtomicUsize::new(0);
        let cx = RunContext {
            progress: &|at| steps.store(at.step, Ordering::SeqCst),
            workers,
            ..context(None, &|| false)
        };
        let result = pretrain(&tiny(), spec(true), &config(), &Broken, &cx);
        let error = result.map(drop).unwrap_err().to_string();
        assert_eq!(error, "image 40 of the order is broken");
        assert_eq!(steps.load(Ordering::SeqCst), 1, "{workers} workers");
    }
}
