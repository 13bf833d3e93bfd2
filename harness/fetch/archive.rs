//! The official archives: addresses, sizes and checksums.

use crate::data::Fetched;

/// An archive of a dataset.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The dataset.
    pub dataset: Fetched,
    /// Its address, or the path of a file.
    pub from: String,
    /// SHA-256 in hexadecimal digits, lower case.
    pub sha256: String,
    /// Its size in bytes, if it is known before the download.
    pub bytes: Option<u64>,
    /// What its publisher allows.
    pub terms: &'static str,
}

impl Archive {
    /// Returns the official archive. Sizes and checksums of the first three are those of TensorFlow Datasets (`url_checksums/cifar10.txt`,
    /// `cifar100.txt`, `imagenette/checksums.tsv`). That of Tiny ImageNet is the one that several repositories record independently; its
    /// publisher has none.
    pub fn official(dataset: Fetched) -> Self {
        let (from, bytes, sha256) = match dataset {
            Fetched::Cifar10 => (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
            Fetched::Cifar100 => (
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
            Fetched::Imagenette160 => (
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
                99_003_388,
                "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
            ),
            Fetched::TinyImagenet => (
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                248_100_043,
                "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            ),
        };
        let terms = match dataset {
            Fetched::Cifar10 | Fetched::Cifar100 => "none stated; its page asks for a citation",
            Fetched::Imagenette160 | Fetched::TinyImagenet => {
                "ImageNet's: non-commercial research and education"
            }
        };
        Self {
            dataset,
            from: from.into(),
            sha256: sha256.into(),
            bytes: Some(bytes),
            terms,
        }
    }

    /// Returns the archive at another address or path. With a checksum, it may differ from the official one.
    ///
    /// # Errors
    /// A message if `sha256` is not 64 hexadecimal digits.
    #[must_use = "the official archive is unchanged"]
    pub fn at(self, from: Option<&str>, sha256: Option<&str>) -> Result<Self, String> {
        let sha256 = sha256.map(str::to_lowercase);
        let is_digest =
            |text: &String| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(wrong) = sha256.as_ref().filter(|text| !is_digest(text)) {
            return Err(format!(
                "--sha256 {wrong}: expected 64 hexadecimal digits, as `sha256sum` prints them"
            ));
        }
        Ok(Self {
            from: from.map_or(self.from, str::to_owned),
            bytes: self.bytes.filter(|_| sha256.is_none()),
            sha256: sha256.unwrap_or(self.sha256),
            ..self
        })
    }

    /// Returns whether it is on a server.
    pub(super) fn is_remote(&self) -> bool {
        self.from.starts_with("http://") || self.from.starts_with("https://")
    }

    /// Returns the name of its download in the cache, which other archives do not have.
    pub(super) fn file(&self) -> String {
        let kind = match self.dataset {
            Fetched::TinyImagenet => "zip",
            _ => "tgz",
        };
        format!("{}-{}.{kind}", self.dataset.name(), &self.sha256[..8])
    }
}
