//! Tests counting on a device.

use super::*;

#[test]
fn a_device_counts_what_the_cpu_counts() {
    let Some(device) = tessera_testing::under_test() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let (codes, classes, patches, images) = (23, 7, 9, 700);
    let mut rng = keyed_rng(3, "counted", 0, 0);
    let ids: Vec<u32> = (0..images * patches)
        .map(|_| rng.random_range(0..codes as u32))
        .collect();
    let labels: Vec<u32> = (0..images).map(|_| rng.random_range(0..classes)).collect();
    let size = (codes, classes as usize);
    let counted = |mut counter: Counter| {
        for (ids, labels) in ids.chunks(100 * patches).zip(labels.chunks(100)) {
            counter.add(ids, labels).unwrap();
        }
        let out = tempfile::tempdir().unwrap();
        counter.finish().unwrap().save(out.path()).unwrap();
        let file = std::fs::read_dir(out.path()).unwrap().next().unwrap();
        std::fs::read(file.unwrap().path()).unwrap()
    };
    let on = |device| Counter::on(device, size.0, size.1, scratch.path()).unwrap();
    let here = || Counter::new(size.0, size.1, scratch.path());
    assert!(counted(on(&device)) == counted(here()));
    // Values out of range are refused with the same message.
    for (ids, labels) in [([1, 23], [0]), ([1, 2], [7])] {
        let refused = |mut counter: Counter| counter.add(&ids, &labels).unwrap_err().to_string();
        assert_eq!(refused(on(&device)), refused(here()));
    }
}
