use super::*;
use candle_core::{Device, Tensor, Var};

fn numbers(count: usize, offset: f32) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 6.0 + offset)
        .collect()
}

fn var(values: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// The accepting condition, so that a NaN fails.
fn assert_close(found: &[f32], expected: &[f64], atol: f64, rtol: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        let close = (f64::from(*f) - e).abs() <= atol + rtol * e.abs();
        assert!(close, "{what}[{at}]: found {f}, expected {e}");
    }
}

/// The gradient of `sum(y * upstream)`.
fn gradients(y: &Tensor, upstream: &[f32], of: &[&Var]) -> Vec<Vec<f32>> {
    let upstream = Tensor::from_vec(upstream.to_vec(), y.shape(), &Device::Cpu).unwrap();
    let grads = (y * upstream)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    of.iter().map(|v| flat(grads.get(v).unwrap())).collect()
}

#[test]
fn gelu_and_its_gradient() {
    let values: Vec<f32> = (-800..=800)
        .map(|i| i as f32 / 100.0)
        .chain([-40.0, 40.0, 0.0])
        .collect();
    let x = var(&values, &[values.len()]);
    let y = gelu(&x).unwrap();
    let expected: Vec<f64> = wide(&values)
        .iter()
        .map(|v| gelu::reference::gelu(*v))
        .collect();
    assert_close(&flat(&y), &expected, 1e-6, 1e-6, "gelu");
    let upstream = numbers(values.len(), 0.0);
    let expected: Vec<f64> = wide(&values)
        .iter()
        .zip(&upstream)
        .map(|(x, g)| gelu::reference::derivative(*x) * f64::from(*g))
        .collect();
    assert_close(
        &gradients(&y, &upstream, &[&x])[0],
        &expected,
        3e-6,
        1e-6,
        "gradient",
    );
}

#[test]
fn layer_norm_and_its_gradients() {
    for (rows, dim, offset, tolerance) in [
        (1, 1, 0.0, 1e-5),
        (3, 7, 0.0, 1e-5),
        (5, 96, 100.0, 2e-4),
        (2, 1030, -1000.0, 2e-3),
    ] {
        let (xs, ws, bs) = (
            numbers(rows * dim, offset),
            numbers(dim, 1.0),
            numbers(dim + 3, 0.0),
        );
        let (x, w, b) = (
            var(&xs, &[rows, dim]),
            var(&ws, &[dim]),
            var(&bs[3..], &[dim]),
        );
        let y = layer_norm(&x, &w, &b, 1e-6).unwrap();
        let upstream = numbers(rows * dim + 5, 0.0)[5..].to_vec();
        let found = gradients(&y, &upstream, &[&x, &w, &b]);
        let mut expected: [Vec<f64>; 4] = Default::default();
        for row in 0..rows {
            let at = row * dim..(row + 1) * dim;
            let [y, dx, dw, db] = layer_norm::reference::row(
                &wide(&xs[at.clone()]),
                &wide(&ws),
                &wide(&bs[3..]),
                &wide(&upstream[at]),
                1e-6,
            );
            expected[0].extend(y);
            expected[1].extend(dx);
            for (total, part) in [(2, dw), (3, db)] {
                expected[total].resize(dim, 0.0);
                expected[total]
                    .iter_mut()
                    .zip(part)
                    .for_each(|(t, p)| *t += p);
            }
        }
        let what = format!("{rows}x{dim}+{offset}");
        assert_close(&flat(&y), &expected[0], tolerance, tolerance, &what);
        for (found, expected) in found.iter().zip(&expected[1..]) {
            assert_close(found, expected, tolerance * 3.0, tolerance, &what);
        }
    }
}

#[test]
fn softmax_and_its_gradient() {
    for (rows, dim, offset) in [(1, 1, 0.0), (4, 17, 50.0), (3, 65, -20.0), (2, 1100, 0.0)] {
        let xs = numbers(rows * dim, offset);
        let x = var(&xs, &[rows, dim]);
        let y = softmax(&x, 0.25).unwrap();
        let upstream = numbers(rows * dim, 0.3);
        let found = gradients(&y, &upstream, &[&x]);
        let mut expected: [Vec<f64>; 2] = Default::default();
        for row in 0..rows {
            let at = row * dim..(row + 1) * dim;
            let parts = softmax::reference::row(&wide(&xs[at.clone()]), &wide(&upstream[at]), 0.25);
            expected
                .iter_mut()
                .zip(parts)
                .for_each(|(all, part)| all.extend(part));
        }
        assert_close(&flat(&y), &expected[0], 1e-7, 3e-6, "softmax");
        assert_close(&found[0], &expected[1], 1e-6, 1e-5, "gradient");
    }
}

#[test]
fn a_strided_argument_is_taken_as_it_reads() {
    let values = numbers(24, 0.0);
    let x = var(&values, &[4, 6]);
    let strided = gelu(&x.t().unwrap()).unwrap();
    let plain = gelu(&x).unwrap().t().unwrap().contiguous().unwrap();
    assert_eq!(flat(&strided), flat(&plain));
}

#[test]
fn a_nan_is_not_hidden() {
    let x = var(&[1.0, f32::NAN, 2.0], &[1, 3]);
    assert!(flat(&softmax(&x, 1.0).unwrap()).iter().all(|v| v.is_nan()));
    let (w, b) = (var(&[1.0; 3], &[3]), var(&[0.0; 3], &[3]));
    assert!(
        flat(&layer_norm(&x, &w, &b, 1e-6).unwrap())
            .iter()
            .all(|v| v.is_nan())
    );
}
