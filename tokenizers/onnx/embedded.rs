//! The small models that come with the program (`../embedded/README.md`).

use super::input::Scale;

/// A model that comes with the program.
pub struct Embedded {
    name: &'static str,
    /// The file.
    pub bytes: &'static [u8],
    /// Known here, so that no suite can forget to say it.
    pub saw_labels: bool,
    /// How it was taught its pixels.
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

/// The embedded model called `name`.
///
/// # Errors
/// When there is none: what there is.
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
