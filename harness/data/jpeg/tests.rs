//! Compares with Pillow's pixels (`tests/fixtures/jpeg/make.py`) and with libjpeg.

use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{decode, decode_at};
use crate::data::decode::libjpeg;

macro_rules! file {
    ($name:literal) => {
        (
            $name,
            &include_bytes!(concat!("../../../tests/fixtures/jpeg/", $name, ".jpg"))[..],
            &include_bytes!(concat!("../../../tests/fixtures/jpeg/", $name, ".rgb"))[..],
        )
    };
}

#[test]
fn common_files_have_pillows_pixels() {
    for (name, bytes, rgb) in [
        file!("420"),
        file!("422"),
        file!("444"),
        file!("grey"),
        file!("restarts"),
        file!("fine"),
    ] {
        let image = decode(bytes).unwrap_or_else(|| panic!("{name} is left to libjpeg"));
        let off = image.rgb.iter().zip(rgb).filter(|(a, b)| a != b).count();
        assert_eq!((image.rgb.len(), off), (rgb.len(), 0), "{name}");
        assert_eq!(image, libjpeg(bytes, 8).unwrap(), "{name}");
    }
}

/// Smaller images have the same size and nearly the same pixels; the rounding differs.
#[test]
fn scaled_images_are_close_to_libjpegs() {
    for (name, bytes, _) in [
        file!("420"),
        file!("422"),
        file!("444"),
        file!("grey"),
        file!("restarts"),
    ] {
        for eighths in [1, 2, 4] {
            let (found, theirs) = (
                decode_at(bytes, eighths.into()).unwrap(),
                libjpeg(bytes, eighths).unwrap(),
            );
            assert_eq!(
                (found.width, found.height),
                (theirs.width, theirs.height),
                "{name}"
            );
            let off = found
                .rgb
                .iter()
                .zip(&theirs.rgb)
                .map(|(a, b)| f64::from(a.abs_diff(*b)));
            let off = off.sum::<f64>() / found.rgb.len() as f64;
            // At one pixel per block, libjpeg repeats colours of half the width instead of smoothing them.
            let allowed = if (name, eighths) == ("422", 1) {
                8.0
            } else {
                3.0
            };
            assert!(off < allowed, "{name} at {eighths}: {off}");
        }
    }
}

#[test]
fn uncommon_files_are_left_to_libjpeg() {
    for (name, bytes, _) in [file!("cmyk"), file!("progressive")] {
        assert!(decode(bytes).is_none(), "{name}");
    }
}

#[test]
fn a_file_cut_anywhere_is_left_to_libjpeg() {
    let (_, bytes, _) = file!("restarts");
    for length in 0..bytes.len() - 1 {
        assert!(
            decode(&bytes[..length]).is_none(),
            "{length} of {}",
            bytes.len()
        );
    }
}

/// For a broken file, the decoder returns `None` or an image of the header's size. It does not panic.
#[test]
fn a_changed_byte_causes_no_panic() {
    for (_, bytes, _) in [file!("restarts"), file!("420"), file!("grey")] {
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut broken = bytes.to_vec();
                broken[at] ^= flip;
                if let Some(image) = decode(&broken) {
                    assert_eq!(image.rgb.len(), image.width * image.height * 3);
                }
            }
        }
    }
}

/// Compares all available photographs; prints a notice if there are none.
#[test]
fn photographs_have_libjpegs_pixels() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/imagenette160");
    let Ok(files) = files(&root) else {
        // The test harness captures `println` of a passing test.
        let _ = writeln!(
            std::io::stderr(),
            "{} not found: photographs not compared",
            root.display()
        );
        return;
    };
    let compared = files.par_iter().map(|path| {
        let bytes = std::fs::read(path).unwrap();
        decode(&bytes).is_some_and(|image| {
            assert!(image == libjpeg(&bytes, 8).unwrap(), "{}", path.display());
            true
        })
    });
    let common = compared.filter(|common| *common).count();
    assert!(
        common * 10 >= files.len() * 9,
        "{common} of {} are common",
        files.len()
    );
}

fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else if path.extension().is_some_and(|e| e == "JPEG" || e == "jpg") {
            all.push(path);
        }
    }
    Ok(all)
}
