//! The kinds `command` and `python`: their fields, and how each is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::{TargetSpec, files};

use super::{Program, Wanted};
use crate::codes;
use crate::config::Config;
use crate::contract::{Fingerprint, MOST_CODES, MOST_GROUPS, Plan, Tokenizer};
use crate::input::{Input, MOST_IMAGES, Scale};
use crate::registry::{BuildContext, Programs, Registry, TokenizerFactory};
use crate::{Error, Result};

/// The program that imports and calls a function of Python.
const DRIVER: &str = include_str!("driver.py");

/// Words of a command; systems take more.
const MOST_WORDS: usize = 1000;
/// Numbers per patch; a patch of 1024 pixels has 3 million.
const MOST_NUMBERS: usize = 1 << 22;
/// Children at a time: more than the cores of any machine.
const MOST_WORKERS: usize = 1024;
/// Seconds of a batch: a week.
const MOST_SECONDS: u64 = 604_800;

/// Defines the fields of a kind: its own, and those that both kinds share.
macro_rules! fields {
    ($name:ident { $($own:tt)* }) => {
        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($own)*
            /// Number of different ids. Either this, `groups` or `dim` is required.
            #[schemars(range(min = 1, max = MOST_CODES))]
            codebook_size: Option<usize>,
            /// Number of codes of each group, if every patch has a code of each of several codebooks: integers `[batch, patches, groups]`.
            #[schemars(length(min = 1, max = MOST_GROUPS), inner(range(min = 1, max = MOST_CODES)))]
            groups: Option<Vec<usize>>,
            /// Numbers per patch, if the targets are values. Either this, `codebook_size` or `groups` is required.
            #[schemars(range(min = 1, max = MOST_NUMBERS))]
            dim: Option<usize>,
            /// Version of the targets: increase it when they change. The targets of a fixed set of drawn images are compared too, but may
            /// miss a small change; for `python` also the file of the module, if it is beside the suite file, but not what it imports.
            #[serde(default = "first")]
            #[schemars(range(min = 0, max = u64::MAX))]
            version: u64,
            /// Size and scaling of the images. Default: the suite's image_size, `zero-one`.
            #[serde(default)]
            input: Input,
            /// Images per request, always so many: a part is filled up. Part of the key, because sums may round otherwise.
            #[serde(default = "batch")]
            #[schemars(range(min = 1, max = MOST_IMAGES))]
            batch: usize,
            /// Processes at a time, each with the program's memory. They change no target.
            #[serde(default = "workers")]
            #[schemars(range(min = 1, max = MOST_WORKERS))]
            workers: usize,
            /// Seconds for the targets of a batch. The first includes the start of the program.
            #[serde(default = "timeout")]
            #[schemars(range(min = 1, max = MOST_SECONDS))]
            timeout: u64,
            /// Whether training used labels (of any dataset); the report then adds a footnote to the row.
            #[serde(default)]
            saw_labels: bool,
        }

        impl $name {
            /// Checks the shared fields.
            fn wanted(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Wanted> {
                let ids = codes::target(with, self.codebook_size, self.groups.as_deref())?;
                let target = match (ids, self.dim) {
                    (Some(target), None) => target,
                    (None, Some(dim)) => TargetSpec::Values { dim },
                    (None, None) => {
                        let message = "missing; expected the number of different ids, `groups` (the number of codes of each group), or `dim` (numbers per patch) for values";
                        return Err(with.error("codebook_size", message).into());
                    }
                    (Some(ids), Some(dim)) => {
                        let other = ids.groups().map_or("codebook_size", |_| "groups");
                        let message = format!("found {dim} beside `{other}`, expected one of the two: ids or values");
                        return Err(with.error("dim", message).into());
                    }
                };
                let scale = self.input.scale.unwrap_or(Scale::ZeroOne);
                scale.check().map_err(|message| with.error("input.scale", message))?;
                Ok(Wanted {
                    target,
                    version: self.version,
                    input: scale.spec(self.input.side.unwrap_or(cx.image_size)),
                    batch: self.batch,
                    workers: self.workers,
                    limit: Duration::from_secs(self.timeout),
                    saw_labels: self.saw_labels,
                })
            }
        }
    };
}

fn first() -> u64 {
    1
}

fn batch() -> usize {
    16
}

fn workers() -> usize {
    1
}

fn timeout() -> u64 {
    300
}

fn python3() -> String {
    "python3".into()
}

fields!(Command {
    /// The program and its arguments. It runs in the folder of the suite file. A program with a `/` is relative to that folder, others are
    /// looked for in PATH.
    #[schemars(length(min = 1, max = MOST_WORDS))]
    command: Vec<String>,
});

fields!(Python {
    /// The function, `package.module:function`. It gets float32 `[batch, 3, height, width]` and returns integers `[batch, patches]` or
    /// `[batch, rows, columns]`, or values `[batch, patches, dim]`, as a NumPy array or a torch tensor. Modules beside the suite file are found.
    callable: String,
    /// The interpreter, which needs NumPy.
    #[serde(default = "python3")]
    python: String,
});

/// A program and what is wanted of it.
struct Parsed {
    /// The field that names the program, for errors.
    field: &'static str,
    words: Vec<OsString>,
    /// What determines the targets besides the shared fields.
    about: String,
    wanted: Wanted,
}

/// Factory of `command` and of `python`.
pub enum ProgramFactory {
    /// Any program.
    Command,
    /// A function, which `driver.py` calls.
    Python,
}

impl ProgramFactory {
    fn parse(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Parsed> {
        match self {
            Self::Command => command(with, cx),
            Self::Python => python(with, cx),
        }
    }
}

fn command(with: &Config, cx: &BuildContext<'_>) -> Result<Parsed> {
    let fields: Command = with.parse()?;
    let wanted = fields.wanted(with, cx)?;
    let mut words: Vec<OsString> = fields.command.iter().map(OsString::from).collect();
    let program = fields.command.first().map_or("", String::as_str);
    words[0] = found(with, "command", program)?.into();
    Ok(Parsed {
        field: "command",
        words,
        about: format!("command {:?}", fields.command),
        wanted,
    })
}

fn python(with: &Config, cx: &BuildContext<'_>) -> Result<Parsed> {
    let fields: Python = with.parse()?;
    let wanted = fields.wanted(with, cx)?;
    let is_path = |path: &str| {
        let mut parts = path.split('.');
        parts.all(|part| {
            let begins = part.starts_with(|c: char| c.is_alphabetic() || c == '_');
            begins && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
    };
    let named = fields.callable.split_once(':');
    let named = named.filter(|(module, function)| is_path(module) && is_path(function));
    let Some((module, _)) = named else {
        let message = format!(
            "found {:?}, expected `package.module:function`",
            fields.callable
        );
        return Err(with.error("callable", message).into());
    };
    let python = found(with, "python", &fields.python)?;
    let row = with.value().to_string();
    let words = [
        python.as_os_str(),
        "-c".as_ref(),
        DRIVER.as_ref(),
        fields.callable.as_ref(),
        row.as_ref(),
    ];
    Ok(Parsed {
        field: "callable",
        words: words.map(OsString::from).to_vec(),
        about: format!("python {}{}", fields.callable, source(with, module)),
        wanted,
    })
}

/// Returns the digest of a module's file beside the suite file, for the key; an empty text if it is elsewhere.
fn source(with: &Config, module: &str) -> String {
    let stem = with.resolve_path(module.replace('.', "/"));
    // As Python does, which takes a package before a module.
    let beside = [stem.join("__init__.py"), stem.with_extension("py")];
    let read = beside.iter().find_map(|file| files::read(file).ok());
    read.map_or_else(String::new, |bytes| {
        format!(" {}", Fingerprint::of(&[&bytes]))
    })
}

impl TokenizerFactory for ProgramFactory {
    fn kind(&self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Python => "python",
        }
    }

    fn summary(&self) -> &'static str {
        match self {
            Self::Command => {
                "a program that gets images and returns ids or values over pipes (tokenizers/program/PROTOCOL.md)"
            }
            Self::Python => {
                "a function of Python that gets images (NumPy) and returns ids or values (NumPy or torch)"
            }
        }
    }

    fn schema(&self) -> schemars::Schema {
        match self {
            Self::Command => schemars::schema_for!(Command),
            Self::Python => schemars::schema_for!(Python),
        }
    }

    fn starts_programs(&self) -> bool {
        true
    }

    fn render_side(&self, with: &Config, _: &Registry) -> Result<Option<usize>> {
        Ok(match self {
            Self::Command => with.parse::<Command>()?.input.side,
            Self::Python => with.parse::<Python>()?.input.side,
        })
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.parse(with, cx).map(drop)
    }

    fn plan(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Plan> {
        Ok(self.parse(with, cx)?.plan())
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        self.parse(with, cx)?.open(self.kind(), with, cx)
    }
}

impl Parsed {
    fn plan(&self) -> Plan {
        Plan {
            target: Some(self.wanted.target),
            looks_up: false,
            fit: None,
        }
    }

    /// Starts the program, unless the context forbids it.
    fn open(
        self,
        kind: &'static str,
        with: &Config,
        cx: &BuildContext<'_>,
    ) -> Result<Box<dyn Tokenizer>> {
        if cx.programs != Programs::Start {
            let message = "the program is not started here, so neither its speed nor whether its results are stored is known";
            return Err(Error::NotStarted {
                at: with.error(self.field, message),
            });
        }
        let base = match with.base_dir() {
            base if base.as_os_str().is_empty() => Path::new("."),
            base => base,
        };
        let at = (with.clone(), self.field);
        let program = Program::open(kind, at, (self.words, base), (self.wanted, &self.about), cx)?;
        Ok(Box::new(program))
    }
}

/// Returns the path of a program: relative to the suite file if it has a `/`, else from PATH. Starts nothing.
///
/// # Errors
/// [`Error::Missing`] if there is none.
fn found(with: &Config, field: &'static str, program: &str) -> Result<PathBuf> {
    let missing = |found: String, remedy: &str| Error::Missing {
        at: with.error(field, found),
        remedy: remedy.to_owned(),
    };
    if program.contains('/') {
        // The program runs in another folder.
        let path = std::path::absolute(with.resolve_path(program)).unwrap_or_default();
        return match path.is_file() {
            true => Ok(path),
            false => Err(missing(
                format!("{} does not exist", path.display()),
                "write its path relative to the suite file",
            )),
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&folders).map(|folder| folder.join(program));
    let named = !program.is_empty();
    all.find(|path| named && path.is_file()).ok_or_else(|| {
        missing(
            format!("found {program:?}, which is in no folder of PATH"),
            "install it, or write its path relative to the suite file (with a `/`)",
        )
    })
}
