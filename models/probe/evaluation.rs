//! Accuracy of a classifier.

/// Accuracy on the validation split, in percent, and the predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Percentage of images whose class has the highest score.
    pub top1: f64,
    /// Percentage of images whose class is among the five highest scores.
    pub top5: f64,
    /// Classes of each image with the highest scores, best first, `[images, min(5, classes)]`.
    pub predictions: Vec<u32>,
    /// Classes per image in `predictions`.
    pub columns: usize,
}

/// Computes top-1 and top-5 accuracy of scores `[images, classes]`; the lower class wins a tie.
pub fn evaluate(scores: &[f32], classes: usize, labels: &[u32]) -> Evaluation {
    let columns = classes.min(5);
    let mut predictions = Vec::with_capacity(labels.len() * columns);
    let (mut top1, mut top5) = (0, 0);
    for (scores, label) in scores.chunks_exact(classes).zip(labels) {
        let mut best: Vec<u32> = (0..classes as u32).collect();
        best.sort_by(|a, b| {
            scores[*b as usize]
                .total_cmp(&scores[*a as usize])
                .then(a.cmp(b))
        });
        best.truncate(columns);
        top1 += usize::from(best[0] == *label);
        top5 += usize::from(best.contains(label));
        predictions.extend(best);
    }
    let percent = |n: usize| 100.0 * n as f64 / labels.len().max(1) as f64;
    Evaluation {
        top1: percent(top1),
        top5: percent(top5),
        predictions,
        columns,
    }
}
