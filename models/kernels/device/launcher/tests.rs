use super::*;
use crate::device::launch::Float;
use crate::device::ledger::Ledger;
use crate::ops::gather::launch::gather;
use crate::testing::under_test;

#[test]
fn copies_and_parts_preserve_the_numbers() {
    let Some(device) = under_test() else {
        return;
    };
    let values: Vec<u32> = (0..100).collect();
    let all = device.put(&values).unwrap();
    assert_eq!(device.read::<u32>(&all.part(7..20)).unwrap(), values[7..20]);
    device.write(&all.part(1..3), &[8_u32, 9]).unwrap();
    device.copy(&all.part(50..60), &all.part(0..10)).unwrap();
    let after = device.read::<u32>(&all).unwrap();
    assert_eq!(
        (&after[..4], &after[50..54]),
        (&[0, 8, 9, 3][..], &[0, 8, 9, 3][..])
    );
    assert!(all.part(4..8).is_aligned() && !all.part(1..3).is_aligned());
}

#[test]
fn lists_and_pieces_are_copied_together() {
    let ledger = Ledger::default();
    let pieces = [&[1_u8, 2][..], &[], &[7, 8, 9]];
    let packing = Packing::of(&[&[5_u32, 6, 7, 8, 9]]).with_pieces(pieces);
    let packing = packing.with(&[0.5_f32]);
    let lengths = |device: &Device| {
        let (_, lists) = device.put_packed(&packing).unwrap();
        let lengths: Vec<usize> = lists.iter().map(Memory::len).collect();
        assert_eq!(lengths, [5, 5, 1]);
        lists
    };
    lengths(&ledger.device());
    assert_eq!(ledger.lines()["upload"].calls, 1);
    let Some(device) = under_test() else {
        return;
    };
    let lists = lengths(&device);
    assert!(lists.iter().all(Memory::is_aligned));
    assert_eq!(device.read::<u32>(&lists[0]).unwrap(), [5, 6, 7, 8, 9]);
    assert_eq!(device.read::<u8>(&lists[1]).unwrap(), [1, 2, 7, 8, 9]);
    assert_eq!(device.read::<f32>(&lists[2]).unwrap(), [0.5]);
}

#[test]
fn numbers_become_a_tensor_if_no_other_reference_exists() {
    let Some(device) = under_test() else {
        return;
    };
    let memory = device.put(&[1.0_f32, 2.0, 3.0, 4.0]).unwrap();
    let other = memory.clone();
    let error = device.tensor(memory, &[2, 2]).unwrap_err().to_string();
    assert!(error.contains("still used"), "{error}");
    let tensor = device.tensor(other, &[2, 2]).unwrap();
    assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
}

#[test]
fn a_launch_accepts_only_its_declared_buffers() {
    let Some(device) = under_test() else {
        return;
    };
    let launch = gather(Float::F32, 4, 2, 3).unwrap();
    let x = device
        .put(&(0..12).map(|i| i as f32).collect::<Vec<_>>())
        .unwrap();
    let from = device.put(&[3_u32, 1]).unwrap();
    let [out] = device
        .run_all(
            std::slice::from_ref(&launch),
            &[("x", &x), ("from", &from)],
            ["out"],
        )
        .unwrap();
    assert_eq!(
        device.read::<f32>(&out).unwrap(),
        [9.0, 10.0, 11.0, 3.0, 4.0, 5.0]
    );
    let refused =
        |given: &[(&'static str, &Memory)]| device.run(&launch, given).unwrap_err().to_string();
    assert!(refused(&[("x", &x), ("out", &out)]).contains("from: missing"));
    assert!(
        refused(&[("x", &x), ("from", &x), ("out", &out)])
            .contains("from: found (F32, 12), expected (U32, 2)")
    );
    let longer = device.room(Dtype::F32, 20).unwrap();
    let unaligned = longer.part(1..13);
    assert!(
        refused(&[("x", &unaligned), ("from", &from), ("out", &out)]).contains("multiple of 16")
    );
    let (x, out) = (longer.part(0..12), longer.part(8..14));
    assert!(refused(&[("x", &x), ("from", &from), ("out", &out)]).contains("out: overlaps"));
}
