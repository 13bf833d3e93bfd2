//! The small models that are part of the program (`../embedded/README.md`).

use super::input::Scale;

/// An embedded model.
pub struct Embedded {
    name: &'static str,
    /// Content of the file.
    pub bytes: &'static [u8],
    /// Whether training used labels. Suites need not repeat it.
    pub saw_labels: bool,
    /// Scaling of the pixels in training.
    pub scale: Scale,
}

macro_rules! embedded {
    ($name:literal, saw_labels: $saw_labels:literal, $scale:ident) => {
        Embedded {
            name: $name,
            bytes: include_bytes!(concat!("../embedded/", $name, ".onnx")),
            saw_labels: $saw_labels,
            scale: Scale::$scale,
        }
    };
}

const EMBEDDED: &[Embedded] = &[
    embedded!("mosaic_deit", saw_labels: true, Imagenet),
    embedded!("mosaic_perceptual", saw_labels: false, ZeroOne),
    embedded!("mosaic_ssl", saw_labels: false, Imagenet),
    embedded!("mosaic_vq", saw_labels: false, ZeroOne),
    embedded!("mosaic_vqgan", saw_labels: false, ZeroOne),
];

/// Returns the embedded model called `name`.
///
/// # Errors
/// If there is none; the message lists all names.
pub fn model(name: &str) -> Result<&'static Embedded, String> {
    let found = EMBEDDED.iter().find(|embedded| embedded.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = EMBEDDED.iter().map(|embedded| embedded.name).collect();
        format!(
            "no embedded model `{name}`, expected one of {}",
            names.join(", ")
        )
    })
}
