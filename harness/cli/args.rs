//! The arguments of the command line.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Benchmarks the visual tokenizers of masked image modeling.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 110)]
pub struct Args {
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Refuses a path that the shell did not expand: `--out=~/runs` would create a folder that is called `~`.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.starts_with("~") {
        true => Err("the shell expands `~` only after a space: write --OPTION ~/PATH, or ./~ for a folder of that name"),
        false => Ok(path),
    })
}

/// A verb with its arguments.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Score, pretrain, probe and fine-tune every row of a suite and write the tables; the same command resumes
    Run(RunOptions),
    /// Compute the training-free metrics only, of a suite, or of a folder of images: scan, fit and count
    Score(ScoreOptions),
    /// Look at a folder of images and write a first suite for it
    Init {
        /// The folder: class folders (alone, or in train and val), .tar shards, or CIFAR's binary files
        folder: PathBuf,
        /// The file to write [default: NAME.yaml, with the folder's name]
        #[arg(long, value_name = "FILE", value_parser = path())]
        out: Option<PathBuf>,
    },
    /// List the stages of a suite as a graph, with what is stored and what the rest costs, for schedulers
    Plan(PlanOptions),
    /// Write the tables, figures and page of a run folder again
    Report {
        /// The run folder
        #[arg(required_unless_present = "paper")]
        run: Option<PathBuf>,
        /// Which tables (default: the suite's)
        #[arg(long, value_delimiter = ',')]
        tables: Vec<u32>,
        /// Add the rows of another run to the tables: another dataset, backbone or training length (repeatable)
        #[arg(long, value_name = "RUN", value_parser = path())]
        with: Vec<PathBuf>,
        /// Draw the paper's Figures 3 and 4 from its Table 7 into this folder
        #[arg(long, value_name = "DIR", conflicts_with = "run", value_parser = path())]
        paper: Option<PathBuf>,
    },
    /// Compare a run with an older one: which metrics changed, by how much, and their standard errors; exit status 1 on a regression
    Compare(CompareOptions),
    /// Check a suite without running it
    Validate {
        /// The suite file
        suite: PathBuf,
        /// Set a field: pretrain.epochs=5
        #[arg(long, value_name = "PATH=VALUE")]
        set: Vec<String>,
        /// Refuse rows that start programs (`kind: command`, `kind: python`); without it they are checked but not started
        #[arg(long)]
        no_programs: bool,
        /// Print the suite with variables, sweeps and defaults filled in
        #[arg(long)]
        resolved: bool,
    },
    /// Print the JSON Schema of suite files
    Schema,
    /// List the available tokenizers, features, datasets, backbones, metrics, columns or tables, one per line
    List {
        /// What to list
        what: What,
    },
    /// Write the ids (or values) that a row gives every image as .npy
    Tokenize(TokenizeOptions),
    /// List the runs in a folder and their state, with the progress of live ones
    Runs {
        /// The folder that holds run folders
        #[arg(default_value = "runs")]
        folder: PathBuf,
    },
    /// Measure one part of a run on this machine; without a case, list the cases
    Speed(SpeedOptions),
    /// Report what this machine offers: ONNX engine, CUDA, threads, instruction sets, free disk
    Doctor,
    /// List or clean up the store of finished stages
    Store {
        /// The store [default: $TESSERA_STORE or runs/.store]
        #[arg(long, global = true, value_parser = path())]
        store: Option<PathBuf>,
        /// The action
        #[command(subcommand)]
        what: StoreVerb,
    },
}

/// Options of `run`, `score` and `plan`: what is computed, and where.
#[derive(Debug, ClapArgs)]
pub struct Setup {
    /// The suite file; `score` also takes a folder of images
    pub suite: PathBuf,
    /// The store of finished stages [default: $TESSERA_STORE or runs/.store]
    #[arg(long, value_parser = path())]
    pub store: Option<PathBuf>,
    /// Set a field: pretrain.epochs=5 (repeatable)
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Only the row of this name (repeatable); the run folder keeps its other rows
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// The device to compute on
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Type of matrix products in training and evaluation [default: the suite's, or bf16 on a GPU and f32 on the CPU]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Threads to use [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Refuse rows that start programs (`kind: command`, `kind: python`), for suites that you do not trust
    #[arg(long)]
    pub no_programs: bool,
    /// The text of the suite, if it is no file
    #[arg(skip)]
    pub generated: Option<String>,
}

/// Options of `score`.
#[derive(Debug, ClapArgs)]
pub struct ScoreOptions {
    /// Those of `run`
    #[command(flatten)]
    pub run: RunOptions,
    /// For a folder of images: K-means of these features [default: pixel,hog]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub kmeans: Vec<FeatureName>,
    /// For a folder of images: numbers of clusters [default: 50,100]
    #[arg(long, value_delimiter = ',')]
    pub k: Vec<usize>,
}

/// Features without fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FeatureName {
    /// Pixels
    #[value(alias = "pixels")]
    Pixel,
    /// Histograms of oriented gradients
    Hog,
}

/// Options of `run` and `score`.
#[derive(Debug, ClapArgs)]
pub struct RunOptions {
    /// What is computed, and where
    #[command(flatten)]
    pub setup: Setup,
    /// The run folder [default: runs/NAME]
    #[arg(long, value_parser = path())]
    pub out: Option<PathBuf>,
    /// Loader threads that decode, augment and tokenize the images of the next training steps, like PyTorch's `num_workers`; with 0
    /// each training thread does this for its own shard [default: 0 on a CPU, the number of threads on a GPU]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Seconds between checkpoints of a training stage
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub checkpoint_every: f64,
    /// Print what is stored and what the rest costs on this machine in time, memory and disk; compute nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Compute only this node of `bench plan`, for a scheduler, and write no run folder; exit status 3 if it waits for another node
    #[arg(long, value_name = "ID", conflicts_with_all = ["dry_run", "out"])]
    pub node: Option<String>,
    /// Compute nothing; write the run folder from the store and its records of failures; exit status 3 if results are missing
    #[arg(long, conflicts_with_all = ["dry_run", "node"])]
    pub collect: bool,
}

/// Options of `plan`.
#[derive(Debug, ClapArgs)]
pub struct PlanOptions {
    /// What is computed, and where
    #[command(flatten)]
    pub setup: Setup,
    /// Print JSON for schedulers
    #[arg(long)]
    pub json: bool,
    /// Print a picture of the graph for Graphviz's `dot`
    #[arg(long, conflicts_with = "json")]
    pub graphviz: bool,
}

/// Options of `compare`.
#[derive(Debug, ClapArgs)]
pub struct CompareOptions {
    /// The older run: its folder, or its results.csv (with metrics.csv beside it)
    pub old: PathBuf,
    /// The newer run
    pub new: PathBuf,
    /// Smallest change that counts, in each metric's unit; or NAME=VALUE for one metric (repeatable)
    #[arg(long, value_name = "[NAME=]VALUE")]
    pub tolerance: Vec<String>,
    /// Let only this metric decide (repeatable; any column of results.csv, also one without a direction)
    #[arg(long, value_name = "NAME")]
    pub gate: Vec<String>,
    /// Write the comparison as Markdown, for a pull request
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub markdown: Option<PathBuf>,
    /// Show also what stayed within its error
    #[arg(long)]
    pub all: bool,
    /// Compare runs of different datasets, class lists or recipes
    #[arg(long)]
    pub force: bool,
}

/// Options of `tokenize`.
#[derive(Debug, ClapArgs)]
pub struct TokenizeOptions {
    /// The suite file
    pub suite: PathBuf,
    /// The row
    #[arg(long, value_name = "NAME")]
    pub only: String,
    /// The split
    #[arg(long, value_enum)]
    pub split: SplitName,
    /// The .npy file to write
    #[arg(long, value_parser = path())]
    pub out: PathBuf,
    /// The store of finished stages [default: $TESSERA_STORE or runs/.store]
    #[arg(long, value_parser = path())]
    pub store: Option<PathBuf>,
    /// Set a field: pretrain.epochs=5 (repeatable)
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Threads to use [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Refuse rows that start programs (`kind: command`, `kind: python`), for suites that you do not trust
    #[arg(long)]
    pub no_programs: bool,
}

/// Options of `speed`.
#[derive(Debug, ClapArgs)]
pub struct SpeedOptions {
    /// pretrain, gemm, kmeans, hog, decode, count or tokenize
    pub case: Option<String>,
    /// The size of the case [default: its first]
    #[arg(long)]
    pub preset: Option<String>,
    /// Images per step
    #[arg(long)]
    pub batch: Option<usize>,
    /// Threads to use [default: all]
    #[arg(long)]
    pub threads: Option<usize>,
    /// The device to compute on, for pretrain, kmeans, hog, count and the gemm of kmeans
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    /// Type of matrix products, for pretrain
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub precision: Precision,
    /// A folder of class folders of images, for decode and tokenize
    #[arg(long, value_parser = path())]
    pub data: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// CUDA if the program has it and finds a GPU, else the CPU
    Auto,
    /// The CPU
    Cpu,
    /// A CUDA device
    Cuda,
}

/// A type of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// bf16 on a GPU, f32 on the CPU
    Auto,
    /// f32
    F32,
    /// bf16; slow on a CPU, for checking
    Bf16,
}

/// A split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitName {
    /// The train split
    Train,
    /// The validation split
    Val,
}

/// What `list` can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Kinds of tokenizers
    Tokenizers,
    /// Kinds of features
    Features,
    /// Kinds of datasets
    Datasets,
    /// Sizes of models
    Backbones,
    /// Training-free metrics
    Metrics,
    /// Columns of results.csv, metrics.csv and the other CSV files of a run
    Columns,
    /// Tables of the report
    Tables,
}

/// Actions on the store.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// List the finished stages
    Ls,
    /// Remove old entries and the leftovers of killed processes
    Gc {
        /// Keep entries younger than this many days
        #[arg(long, default_value_t = 30.0)]
        keep_days: f64,
        /// Print what would be removed; remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}
