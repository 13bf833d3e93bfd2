//! Counts in files.

use super::*;
use crate::npy;

#[test]
fn values_of_a_sparse_file_need_no_dense_table() {
    // With a larger codebook, the table of the same images is sparse. Empty rows do not change the metrics.
    let split = random_images((1 << 13, 20), 300, 40);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let expected = split
        .write(dirs[0].path())
        .table()
        .unwrap()
        .values(0.01)
        .unwrap();
    let large = Split {
        size: (1 << 20, 20),
        ..split
    };
    let mut table = large.write(dirs[1].path()).table().unwrap();
    assert!(table.as_dense().is_none());
    assert_eq!(table.values(0.01).unwrap(), expected);
}

/// Counts without codes or classes, beyond the sizes in the last row, or beyond 2^53 patches in all.
#[test]
fn files_of_impossible_counts_are_refused() {
    for (shape, cells) in [
        ([3, 0], vec![]),
        ([0, 3], vec![]),
        ([2, 2], vec![u64::MAX, 0, 1, 0]),
        ([2, 2], vec![1 << 52, 0, 1 << 52, 1]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        npy::write(&dir.path().join(DENSE_FILE), &shape, cells.clone()).unwrap();
        assert!(Table::load(dir.path()).is_err(), "{shape:?} {cells:?}");
    }
    for rows in [
        [[0, 0, 1], [1, u64::MAX, 0]],
        [[0, 0, 1], [u64::MAX, 1, 0]],
        [[9, 0, 1], [1, 1, 0]],
        [[0, 9, 1], [1, 1, 0]],
        [[0, 0, 1 << 53], [1, 1, 1]],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SPARSE_FILE);
        npy::write(&path, &[2, 3], rows.as_flattened().iter().copied()).unwrap();
        let values = Table::load(dir.path()).and_then(|mut table| table.values(1.0));
        assert!(values.is_err(), "{rows:?}");
    }
}

/// Ranges of few patches are sorted, ranges of many are counted in a table.
#[test]
fn rows_of_a_large_table_equal_a_map_of_its_cells() {
    let (codes, classes) = (5000_u32, 5000_u32);
    let dir = tempfile::tempdir().unwrap();
    let mut counter = Counter::new(codes as usize, classes as usize, dir.path());
    let mut expected = BTreeMap::<(u32, u32), u64>::new();
    for step in 0..200_000_u32 {
        // One in a hundred has any code, the others one of the first ten.
        let id = match step.is_multiple_of(100) {
            true => step.wrapping_mul(2_654_435_761) % codes,
            false => step % 10,
        };
        let class = step.wrapping_mul(40_503) % classes;
        counter.add(&[id], &[class]).unwrap();
        *expected.entry((id, class)).or_default() += 1;
    }
    let mut table = counter.finish().unwrap();
    assert!(table.as_dense().is_none());
    for _ in 0..2 {
        let mut found = BTreeMap::new();
        let mut last = None;
        let rows = table.each_row(|token, row| {
            assert!(last.replace(token) < Some(token) && row.is_sorted());
            found.extend(row.iter().map(|(class, n)| ((token, *class), *n)));
            Ok(())
        });
        rows.unwrap();
        assert!(found == expected);
    }
}
