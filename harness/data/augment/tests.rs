use super::*;
use serde_json::Value;

const SIDE: usize = 14;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/augment/timm.json")).unwrap()
}

/// Returns the image that `tests/fixtures/augment/make.py` generates.
fn pattern(squeezed: bool) -> Vec<u8> {
    let value = |x: usize, y: usize, c: usize| {
        let v = (x * x * (c + 1) + y * 7 * (3 - c) + x * y) % 256;
        (if squeezed { 30 + v * 3 / 4 } else { v }) as u8
    };
    let pixels = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y)));
    pixels
        .flat_map(|(x, y)| (0..3).map(move |c| value(x, y, c)))
        .collect()
}

fn op(case: &Value) -> Op {
    let index = case[0].as_u64().unwrap() as usize;
    Op::at(index, case[1].as_f64().unwrap(), case[2].as_bool().unwrap())
}

#[test]
fn every_operation_equals_timms_with_pillow() {
    let fixture = fixture();
    let (mut wrong, mut all) = (0, 0);
    for case in fixture["images"].as_array().unwrap() {
        let mut found = pattern(case[3].as_bool().unwrap());
        op(case).apply(&mut found, SIDE);
        let hex = case[4].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        let expected: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
        assert_eq!(found.len(), expected.len());
        let differences = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
        let worst = differences.clone().max().unwrap();
        assert!(worst <= 1, "{:?} differs by {worst}", op(case));
        wrong += differences.filter(|d| *d > 0).count();
        all += found.len();
    }
    assert!(wrong * 1000 <= all, "{wrong} of {all} bytes differ");
}

#[test]
fn arguments_equal_timms() {
    for case in fixture()["arguments"].as_array().unwrap() {
        let expected = case[3].get(0).map_or(f64::NAN, |v| v.as_f64().unwrap());
        let found = match op(case) {
            Op::AutoContrast | Op::Equalize | Op::Invert => f64::NAN,
            Op::Posterize(v) | Op::Solarize(v) | Op::SolarizeAdd(v) => f64::from(v),
            Op::Rotate(v)
            | Op::Color(v)
            | Op::Contrast(v)
            | Op::Brightness(v)
            | Op::Sharpness(v)
            | Op::ShearX(v)
            | Op::ShearY(v)
            | Op::TranslateX(v)
            | Op::TranslateY(v) => v,
        };
        let same = found.is_nan() && expected.is_nan() || (found - expected).abs() < 1e-12;
        assert!(same, "{case}: {found}");
    }
}

#[test]
fn boxes_equal_timms() {
    for case in fixture()["erasing"].as_array().unwrap() {
        let side = case[0].as_u64().unwrap() as usize;
        let (area, aspect) = (case[1].as_f64().unwrap(), case[2].as_f64().unwrap());
        let expected: Option<(usize, usize)> = serde_json::from_value(case[3].clone()).unwrap();
        assert_eq!(erase::size(side, area, aspect), expected, "{case}");
    }
}

#[test]
fn erasing_fills_one_box_with_noise() {
    let side = 24;
    let (mut erased, mut pixels, mut sum, mut squares) = (0, 0, 0.0, 0.0);
    for index in 0..2000 {
        let mut values = vec![7.0_f32; 3 * side * side];
        let mut rng = keyed_rng(3, "random-erasing", 0, index);
        erase::erase(&mut values, side, 0.25, &mut rng);
        let noise: Vec<f64> = values
            .iter()
            .filter(|v| **v != 7.0)
            .map(|v| f64::from(*v))
            .collect();
        if noise.is_empty() {
            continue;
        }
        let plane = side * side;
        let hole = |p: usize, at: usize| values[p * plane + at] != 7.0;
        let rows: Vec<usize> = (0..side)
            .filter(|r| (0..side).any(|c| hole(0, r * side + c)))
            .collect();
        let cols: Vec<usize> = (0..side)
            .filter(|c| (0..side).any(|r| hole(0, r * side + c)))
            .collect();
        assert_eq!(noise.len(), 3 * rows.len() * cols.len());
        erased += 1;
        pixels += noise.len();
        sum += noise.iter().sum::<f64>();
        squares += noise.iter().map(|v| v * v).sum::<f64>();
    }
    assert!((430..570).contains(&erased), "{erased} of 2000 at 0.25");
    let (mean, square) = (sum / pixels as f64, squares / pixels as f64);
    assert!(
        mean.abs() < 0.01 && (square - 1.0).abs() < 0.02,
        "{mean} {square}"
    );
}

#[test]
fn timms_policy_syntax_is_parsed() {
    let policy = RandAugment::parse("rand-m9-mstd0.5-inc1").unwrap();
    assert_eq!(
        policy,
        RandAugment {
            magnitude: 9.0,
            magnitude_std: 0.5,
            layers: 2,
            probability: 0.5
        }
    );
    for (text, part) in [
        ("augmix-m5", "rand-m9-mstd0.5-inc1"),
        ("rand-m9", "-inc1"),
        ("rand-mnine-inc1", "mnine"),
        ("rand-x3-inc1", "x3"),
        // They were taken, cut off or ran out of memory.
        ("rand-m11-inc1", "0 to 10"),
        ("rand-m9-mstd101-inc1", "0 to 100"),
        ("rand-m9-mstd1e400-inc1", "0 to 100"),
        ("rand-n1e300-inc1", "a whole number from 1 to 16"),
        ("rand-n2.9-inc1", "a whole number"),
        ("rand-n0-inc1", "a whole number"),
        ("rand-p0-inc1", "above 0"),
        ("rand-p7-inc1", "at most 1"),
        ("rand-inc0.5", "0 or 1"),
        ("rand-m9-inc1-m3", "each part once"),
    ] {
        let message = RandAugment::parse(text).unwrap_err();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn every_operation_is_drawn_and_half_are_applied() {
    let policy = RandAugment::parse("rand-m9-mstd0.5-inc1").unwrap();
    let mut count = 0;
    let mut kinds = std::collections::HashSet::new();
    for index in 0..2000 {
        let mut rng = keyed_rng(1, "rand-augment", 0, index);
        let ops = policy.draw(&mut rng);
        count += ops.len();
        kinds.extend(ops.into_iter().map(|op| std::mem::discriminant(&op)));
    }
    assert_eq!(kinds.len(), OPS);
    assert!((1850..2150).contains(&count), "{count} of 4000 at 0.5");
}
